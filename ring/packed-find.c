/* SPDX-License-Identifier: MIT */
/*
 * packed-find.c - where a packed ring stands, when whoever served it is gone and kept no log.
 *
 * Theory of operation: a split ring's used index is in the guest's memory; of a packed one only the flags of its
 * descriptors are. They are read whole, and twice, until nothing changed in between; the AVAIL bits of one lap end where the
 * driver writes next, and the oldest descriptor lies there. From that one on, in the order of offering, there are first
 * chains that were used, whose first descriptor is marked, and then those that were not. Between them the ring stands. This takes it that
 * chains were used in the order in which they were offered, as the same does of split rings.
 *
 * What the flags do not say is how long a used chain was: its first descriptor has lost its own. What follows is the
 * rest of that chain, or the next one. The buffer id in the last descriptor tells them apart, unless the driver
 * gave the next chain the same id. Neither can be told where the oldest descriptor is not marked: its chain may
 * have begun before it. Then the descriptor is marked as if a chain began there:
 *
 *     if one did     it is used now, with nothing written: a lost packet, which is why this is for rings of
 *                    packets alone
 *     if not         the driver never looks there before it has written the descriptor again
 *
 * and in both cases the ring stands behind it. The same helps where the rear died amid a batch: descriptors were marked, or
 * filled in as used ones, and those before them not yet. All up to the last of them are taken as used.
 *
 * The driver may write a descriptor at the same moment. A mark goes in only in place of the word that was read, and
 * changes nothing but its flags where that can be; flags are what a driver writes last.
 *
 * A guest that writes what no driver does ends its session, or loses its own packets.
 */
#include "ring/internal.h"

#include <sched.h>

/* A driver that was stopped amid a chain goes on before that; more patience is for nobody's good. */
#define PATIENCE_NS DT_MS(200)

/**
 * struct view - a ring in the order of offering. @words: length, id and flags of each descriptor. @oldest: where the first lies.
 */
struct view {
    struct vring_packed_desc *ring;
    uint16_t size, oldest;
    uint64_t *words;
};

static inline unsigned flags_of(uint64_t word)
{
    return (unsigned)(word >> 48);
}

static inline uint16_t id_of(uint64_t word)
{
    return (uint16_t)(word >> 32);
}

static inline bool lap_of(uint64_t word)
{
    return flags_of(word) & PACKED_AVAIL;
}

static inline bool is_used(uint64_t word)
{
    return lap_of(word) == !!(flags_of(word) & PACKED_USED);
}

/* An available table of a length that tables do not have: it was about to be marked. */
static inline bool is_overwritten(uint64_t word)
{
    return !is_used(word) && flags_of(word) & VRING_DESC_F_INDIRECT &&
           ((uint32_t)word == 0 || (uint32_t)word % sizeof(struct vring_packed_desc) != 0);
}

static uint64_t *ring_word_at(const struct view *v, unsigned at)
{
    return (uint64_t *)(void *)&v->ring[at % v->size].len;
}

/* ---- Looking --------------------------------------------------------------------------- */

/* Where the driver writes next, or -EAGAIN: it is writing a chain, whose first descriptor comes last. */
static int driver_position(const uint64_t *words, uint16_t size)
{
    unsigned at = 1;

    while (at < size && lap_of(words[at]) == lap_of(words[0]))
        at++;
    for (unsigned i = at; i < size; i++)
        if (lap_of(words[i]) == lap_of(words[0]))
            return -EAGAIN;
    return (int)(at % size);
}

static int look(struct view *v, uint64_t *first, uint64_t *second)
{
    int at;

    for (unsigned i = 0; i < v->size; i++)
        first[i] = ring_load_acquire(ring_word_at(v, i));
    for (unsigned i = 0; i < v->size; i++)
        second[i] = ring_load_acquire(ring_word_at(v, i));
    if (memcmp(first, second, v->size * sizeof(*first)) != 0)
        return -EAGAIN;
    at = driver_position(first, v->size);
    if (at < 0)
        return at;
    v->oldest = (uint16_t)at;
    for (unsigned i = 0; i < v->size; i++)
        v->words[i] = first[((unsigned)at + i) % v->size];
    return 0;
}

/* ---- Judging --------------------------------------------------------------------------- */

/* Behind the chain that is at @at; 0 = it has no end. */
static unsigned chain_end(const struct view *v, unsigned at)
{
    for (; at < v->size && !is_used(v->words[at]); at++)
        if (!(flags_of(v->words[at]) & VRING_DESC_F_NEXT))
            return at + 1;
    return 0;
}

/* @filled: by the rear, so its length is of what it wrote. false: the driver was here. */
static bool mark(const struct view *v, unsigned at, uint16_t id, bool filled)
{
    uint64_t old = v->words[at];
    unsigned flags = flags_of(old) & VRING_DESC_F_WRITE;
    bool empty = !filled && flags_of(old) & (VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT);

    flags |= lap_of(old) ? PACKED_AVAIL | PACKED_USED : 0;
    return __atomic_compare_exchange_n(ring_word_at(v, v->oldest + at), &old,
                                       (empty ? 0 : (uint32_t)old) | (uint64_t)id << 32 |
                                           (uint64_t)flags << 48,
                                       false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* Returns how many of the descriptors belong to used chains; 0 to the ring's size. */
static int judge(const struct view *v, struct dt_error *err)
{
    unsigned at = 0, reached = 0, end;
    int used_id = -1;

    for (unsigned i = 0; i < v->size; i++)
        if (is_used(v->words[i]) || is_overwritten(v->words[i]))
            reached = i + 1;
    for (; at < v->size; at = end) {
        bool filled = at < reached;
        uint16_t id;

        if (is_used(v->words[at])) {
            used_id = id_of(v->words[at]);
            end = at + 1;
            continue;
        }
        end = chain_end(v, at);
        if (end == 0)
            return dt_fail(
                err, -EBADMSG,
                "descriptor %u: the chain has no end; whoever served the ring kept no log, and did "
                "not return buffers in their order",
                (v->oldest + at) % v->size);
        id = id_of(v->words[end - 1]);
        if (!filled && used_id >= 0 && id != used_id)
            break;
        if (!mark(v, at, id, filled))
            return -EAGAIN;
        used_id = id;
        if (!filled)
            return (int)end;
    }
    return (int)at;
}

static uint32_t base_of(const struct view *v, unsigned used)
{
    uint32_t at = (v->oldest + used) % v->size;
    bool wrap = used < v->size ? lap_of(v->words[used]) : !lap_of(v->words[0]);

    at |= (uint32_t)wrap << 15;
    return at | at << 16;
}

int packed_find(struct virtq *vq, uint32_t *base, struct dt_error *err)
{
    uint16_t size = vq->config.size;
    _cleanup_free_ uint64_t *words = xcalloc(3 * (size_t)size, sizeof(*words));
    struct view v = {.ring = vq->desc_area, .size = size, .words = words};
    uint64_t end = dt_clock_ns() + PATIENCE_NS;
    int n;

    while ((n = look(&v, words + size, words + 2 * (size_t)size) ?: judge(&v, err)) == -EAGAIN) {
        if (dt_clock_ns() >= end)
            return dt_fail(err, -EBADMSG,
                           "the driver does not write the ring in order, so where it stands cannot "
                           "be found");
        sched_yield();
    }
    if (n >= 0)
        *base = base_of(&v, (unsigned)n);
    return MIN(n, 0);
}
