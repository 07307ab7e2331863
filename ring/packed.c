/* SPDX-License-Identifier: MIT */
/*
 * packed.c - the device side of a packed virtqueue (virtio 1.2, 2.8).
 *
 * Theory of operation: one ring of descriptors serves both directions. The driver marks a
 * chain available by the flags of its first descriptor, written last; its buffer id is in
 * its last. So a chain is first copied whole into private memory and then judged there.
 * Length, id and flags share an aligned word, which is read in one load and written in one
 * store.
 *
 * A completion overwrites the ring's next used position, whatever chain lay there, and skips
 * as many positions as its own chain had. Completions wait in a private array and go out so:
 *
 *     log: free list gets the chains' entries (links), used_idx, free_head
 *     ring: used descriptors 2 to n
 *     ring: used descriptor 1          <- from here the driver sees the whole batch
 *     log: in flight = 0
 *     log: old_free_head, old_used_idx
 *
 * The log's free list moves only here and at the end of a take, never between a push and its
 * publish, so a successor can always tell an unfinished batch from an unfinished take. A crash
 * among the ring stores leaves used marks that the driver does not see yet but would take for
 * real as soon as it gets there: packed_unmark() takes them back.
 *
 * Chains of the tail are not in the log, and go out one used descriptor after the other (tail.c).
 */
#include "ring/packed.h"

/* ---- Taking --------------------------------------------------------------------------- */

bool packed_pending(struct virtq *vq)
{
    return word_available(ring_load(desc_word(vq, vq->last_avail)), vq->avail_wrap);
}

/* Copy the chain whose first word is @word; its descriptors, or -EPROTO. */
static int packed_copy(struct virtq *vq, uint64_t word)
{
    const struct vring_packed_desc *ring = vq->desc_area;
    unsigned size = vq->config.size, room = size - vq->descs, at = vq->last_avail, n = 0;

    if (unlikely(room == 0))
        return virtq_fault(vq, "descriptor %u: available again, but all %u are in flight", at,
                           size);
    for (;;) {
        vq->copy[n++] = desc_packed(READ_ONCE(ring[at].addr), word);
        if (!(word >> 48 & VRING_DESC_F_NEXT))
            return (int)n;
        if (unlikely(n == room))
            return virtq_fault(vq, "descriptor %u: the chain is longer than the %u that are free",
                               vq->last_avail, room);
        if (++at == size)
            at = 0;
        word = ring_load(desc_word(vq, at));
    }
}

/* Judge the @n descriptors in vq->copy; @from is where they lie in the ring, for the words. */
static int packed_walk(struct virtq *vq, unsigned n, unsigned from, uint8_t attempts,
                       struct virtq_chain **out)
{
    unsigned size = vq->config.size, at = from;
    uint16_t id = vq->copy[n - 1].next;
    struct virtq_chain *chain;
    struct walk w;
    int r;

    if (unlikely(id >= size))
        return virtq_fault(vq, "descriptor %u: buffer id %u is outside the ring of %u",
                           (from + n - 1) % size, id, size);
    if (unlikely(vq->state[id] != VIRTQ_ID_FREE))
        return virtq_fault(vq, "descriptor %u: buffer id %u is in flight already",
                           (from + n - 1) % size, id);
    *out = chain = virtq_slot(vq, id);
    walk_begin(&w, vq, chain);
    for (unsigned i = 0; i < n; i++) {
        const struct ring_desc *d = &vq->copy[i];

        if (d->flags & VRING_DESC_F_INDIRECT)
            r = walk_indirect(&w, d, at);
        else
            r = walk_add(&w, d, at);
        if (unlikely(r < 0))
            return r;
        if (++at == size)
            at = 0;
    }
    return walk_end(&w, id, n, attempts);
}

/* The next chain, whatever it is. */
static bool packed_take_chain(struct virtq *vq, uint64_t word, struct virtq_chain **out)
{
    int n = packed_copy(vq, word);

    if (n < 0 || packed_walk(vq, (unsigned)n, vq->last_avail, 0, out) < 0)
        return false;
    vq->state[(*out)->id] = VIRTQ_ID_TAKEN;
    if (vq->tail && n == 1) {
        vq->tail[vq->last_avail] = (*out)->id;
        vq->ntail++;
    } else {
        tail_enter(vq);
        packed_log_take(vq, (*out)->id, vq->copy, (unsigned)n);
    }
    vq->descs = (uint16_t)(vq->descs + n);
    ring_advance(&vq->last_avail, &vq->avail_wrap, (unsigned)n, vq->config.size);
    return true;
}

/* The flags of a chain of one ordinary descriptor, and what they are while it is available. */
#define SINGLE_MASK (PACKED_AVAIL | PACKED_USED | VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)
static inline unsigned single_flags(bool wrap)
{
    return wrap ? PACKED_AVAIL : PACKED_USED;
}

/*
 * Up to @max chains of one ordinary descriptor; ends before any other. What the burst has in common is in variables, which
 * stores leave alone.
 */
static inline __attribute__((always_inline)) unsigned take_singles(struct virtq *vq,
                                                                   struct virtq_chain **out,
                                                                   unsigned max, uint16_t *tail)
{
    struct vring_packed_desc *ring = vq->desc_area;
    const unsigned size = vq->config.size;
    const struct vring_packed_desc *at = ring + vq->last_avail, *ring_end = ring + size;
    struct virtq_chain **to = out, **end = out + MIN(max, size - vq->descs);
    const struct nearby near = walk_nearby(vq);
    char *slots = vq->config.slots;
    size_t stride = vq->config.slot_stride;
    unsigned flags = single_flags(vq->avail_wrap);
    uint8_t *state = vq->state;

    for (; to < end; to++) {
        uint64_t word = ring_load_acquire((const uint64_t *)(const void *)&at->len);
        struct ring_desc d = desc_packed(READ_ONCE(at->addr), word);
        struct virtq_chain *chain;

        if ((d.flags & SINGLE_MASK) != flags || unlikely(d.next >= size || state[d.next]))
            break;
        chain = (struct virtq_chain *)(slots + d.next * stride);
        if (unlikely(!walk_single(&near, chain, d, d.next)))
            break;
        state[d.next] = VIRTQ_ID_TAKEN;
        if (tail)
            tail[at - ring] = d.next;
        else
            packed_log_take(vq, d.next, &d, 1);
        *to = chain;
        if (unlikely(++at == ring_end)) {
            at = ring;
            flags ^= PACKED_AVAIL | PACKED_USED;
        }
    }
    vq->last_avail = (uint16_t)(at - ring);
    vq->avail_wrap = flags == single_flags(true);
    vq->descs = (uint16_t)(vq->descs + (to - out));
    return (unsigned)(to - out);
}

/* Each by itself, for the registers of their loops. */
static __attribute__((noinline)) unsigned take_to_log(struct virtq *vq, struct virtq_chain **out,
                                                      unsigned max)
{
    return take_singles(vq, out, max, NULL);
}

static __attribute__((noinline)) unsigned take_to_tail(struct virtq *vq, struct virtq_chain **out,
                                                       unsigned max)
{
    uint16_t *tail = vq->tail;
    unsigned n;

    if (!tail)
        __builtin_unreachable();
    n = take_singles(vq, out, max, tail);
    vq->ntail = (uint16_t)(vq->ntail + n);
    return n;
}

/* Some chains from @word on, which is available; 0 if the next one is at fault, or cannot be reached now. */
static unsigned packed_take_some(struct virtq *vq, uint64_t word, struct virtq_chain **out,
                                 unsigned max)
{
    unsigned n = 0;

    if (!(word >> 48 & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)))
        n = vq->tail ? take_to_tail(vq, out, max) : take_to_log(vq, out, max);
    return n ?: packed_take_chain(vq, word, out);
}

unsigned packed_take(struct virtq *vq, struct virtq_chain **out, unsigned max)
{
    unsigned n = 0, some = 1;

    if (packed_pending(vq))
        packed_prefetch(desc_word(vq, vq->last_avail));
    for (; n < max && some > 0; n += some) {
        uint64_t word = ring_load_acquire(desc_word(vq, vq->last_avail));

        if (!word_available(word, vq->avail_wrap))
            break;
        some = packed_take_some(vq, word, out + n, max - n);
    }
    if (n > 0)
        tail_taken(vq);
    return n;
}

/* A chain of the log, whose links recovery judged; its content is judged like the ring's. */
int packed_retake(struct virtq *vq, uint16_t entry, struct virtq_chain **out)
{
    struct log_packed *log = packed_log(vq);
    uint16_t at = entry;
    unsigned n = 0;
    int r;

    for (;; at = vq->log_next[at]) {
        const struct log_packed_entry *e = &log->desc[at];

        vq->copy[n++] = (struct ring_desc){READ_ONCE(e->addr), READ_ONCE(e->len),
                                           READ_ONCE(e->flags), READ_ONCE(e->id)};
        if (vq->log_next[at] == at)
            break;
    }
    r = packed_walk(vq, n, entry, READ_ONCE(log->desc[entry].word.attempts), out);
    if (r < 0)
        return r;
    vq->state[(*out)->id] = VIRTQ_ID_TAKEN;
    vq->entered[(*out)->id] = (struct virtq_entered){entry, at};
    virtq_charge(vq, *out, &log->desc[entry].word.attempts);
    return 0;
}

/* ---- Publishing ----------------------------------------------------------------------- */

static inline uint64_t used_word(const struct virtq_done *done, bool wrap)
{
    uint64_t flags =
        (wrap ? PACKED_AVAIL | PACKED_USED : 0) | (done->len > 0 ? VRING_DESC_F_WRITE : 0);

    return done->len | (uint64_t)done->id << 32 | flags << 48;
}

/* The batch's entries become the head of the log's free list. */
static void packed_log_batch(struct virtq *vq, uint16_t used, bool used_wrap)
{
    struct log_packed *log = packed_log(vq);
    uint16_t old = vq->log_free, head = old, *next = vq->log_next;
    const struct virtq_done *done = vq->done, *end = done + vq->done_count;

    for (; done < end; done++) {
        struct virtq_entered e = vq->entered[done->id];

        WRITE_ONCE(log->desc[e.last].word.next, head);
        next[e.last] = head;
        head = e.first;
    }
    vq->log_free = head;
    RING_STEP();
    /* The index before the list: a list that moved alone would mean a chain half entered. */
    log_set_used(vq, used, used_wrap, vq->used, vq->used_wrap);
    log_set_lists(vq, head, old);
}

static void packed_log_done(struct virtq *vq, uint16_t used, bool used_wrap)
{
    const struct virtq_done *done = vq->done, *end = done + vq->done_count;
    struct log_packed *log = packed_log(vq);
    uint8_t *state = vq->state;

    for (; done < end; done++) {
        WRITE_ONCE(log->desc[vq->entered[done->id].first].word.inflight, 0);
        state[done->id] = VIRTQ_ID_FREE;
        RING_STEP();
    }
    log_set_lists(vq, vq->log_free, vq->log_free);
    log_set_used(vq, used, used_wrap, used, used_wrap);
}

/* Write the used descriptors, the first of them last; moves @at and @wrap behind them. */
static void packed_write_used(struct virtq *vq, uint16_t *at, bool *wrap)
{
    const struct virtq_done *done = vq->done;
    unsigned n = vq->done_count;
    uint16_t size = vq->config.size, to = *at;
    bool turn = *wrap;

    for (unsigned i = 0; i < n; i++) {
        if (i > 0)
            ring_store(desc_word(vq, to), used_word(&done[i], turn));
        ring_advance(&to, &turn, done[i].ndesc, size);
        RING_STEP();
    }
    *at = to;
    *wrap = turn;
    ring_store_release(desc_word(vq, vq->used), used_word(&done[0], vq->used_wrap));
    RING_STEP();
}

static bool packed_wants_call(struct virtq *vq)
{
    uint16_t old = vq->signalled;
    bool valid = vq->signalled_valid;

    /* Our descriptors must be visible before we look whether the driver waits for them. */
    ring_full_fence();
    vq->signalled = vq->used;
    vq->signalled_valid = true;
    return packed_event_wanted(ring_load((uint32_t *)vq->driver_area), vq->config.event_idx, valid,
                               vq->used, old, vq->used_wrap, vq->config.size);
}

static void packed_dirty(struct virtq *vq, const void *host, uint64_t len)
{
    uint64_t gpa;

    if (vq->config.dirty && memmap_host_to_gpa(vq->config.map, host, &gpa))
        dirtylog_mark(vq->config.dirty, gpa, len);
}

/* The tail's first chains: the ring itself says how far this went. */
static void packed_write_tail(struct virtq *vq, uint16_t *at, bool *wrap)
{
    const struct virtq_done *done = vq->done, *end = done + vq->done_count;
    struct vring_packed_desc *ring = vq->desc_area, *to = ring + *at;
    const struct vring_packed_desc *ring_end = ring + vq->config.size;
    uint8_t *state = vq->state;
    bool turn = *wrap;

    vq->ntail = (uint16_t)(vq->ntail - vq->done_count);
    for (; done < end; done++) {
        state[done->id] = VIRTQ_ID_FREE;
        ring_store_release((uint64_t *)(void *)&to->len, used_word(done, turn));
        if (unlikely(++to == ring_end)) {
            to = ring;
            turn = !turn;
        }
        RING_STEP();
    }
    *at = (uint16_t)(to - ring);
    *wrap = turn;
    log_set_used(vq, *at, turn, *at, turn);
}

/* Any chains that were taken: in the log first. */
static void packed_write_batch(struct virtq *vq, uint16_t *at, bool *wrap)
{
    unsigned descs = 0;

    tail_enter(vq);
    for (unsigned i = 0; i < vq->done_count; i++)
        descs += vq->done[i].ndesc;
    ring_advance(at, wrap, descs, vq->config.size);
    packed_log_batch(vq, *at, *wrap);
    *at = vq->used;
    *wrap = vq->used_wrap;
    packed_write_used(vq, at, wrap);
    packed_log_done(vq, *at, *wrap);
}

bool packed_publish(struct virtq *vq)
{
    struct vring_packed_desc *ring = vq->desc_area;
    uint16_t at = vq->used;
    bool wrap = vq->used_wrap;
    unsigned descs;

    if (vq->tail && tail_is_done(vq))
        packed_write_tail(vq, &at, &wrap);
    else
        packed_write_batch(vq, &at, &wrap);
    descs = at - vq->used + (wrap != vq->used_wrap ? vq->config.size : 0u);
    if (unlikely(vq->config.dirty != NULL)) {
        unsigned run = MIN(descs, vq->config.size - (unsigned)vq->used);

        packed_dirty(vq, &ring[vq->used], 16 * (uint64_t)run);
        packed_dirty(vq, ring, 16 * (uint64_t)(descs - run));
    }
    vq->used = at;
    vq->used_wrap = wrap;
    vq->descs = (uint16_t)(vq->descs - descs);
    return packed_wants_call(vq);
}

/* ---- Putting back --------------------------------------------------------------------- */

/* Write a chain of the log at @at as the driver would: its first descriptor last. */
static void packed_offer_again(struct virtq *vq, const struct virtq_chain *chain, uint16_t *at,
                               bool *wrap)
{
    struct vring_packed_desc *ring = vq->desc_area;
    const struct log_packed *log = packed_log(vq);
    uint16_t entry = vq->entered[chain->id].first, first = *at;
    uint64_t first_word = 0;

    for (unsigned i = 0; i < chain->ndesc; i++, entry = vq->log_next[entry]) {
        const struct log_packed_entry *e = &log->desc[entry];
        uint64_t flags = (READ_ONCE(e->flags) & ~(PACKED_AVAIL | PACKED_USED)) |
                         (*wrap ? PACKED_AVAIL : PACKED_USED);
        uint64_t word = READ_ONCE(e->len) | (uint64_t)READ_ONCE(e->id) << 32 | flags << 48;

        WRITE_ONCE(ring[*at].addr, READ_ONCE(e->addr));
        if (i == 0)
            first_word = word;
        else
            ring_store(desc_word(vq, *at), word);
        ring_advance(at, wrap, 1, vq->config.size);
        RING_STEP();
    }
    ring_store_release(desc_word(vq, first), first_word);
    RING_STEP();
}

/*
 * The returned chains have exactly the positions from the next used one to the next available one, whatever lay
 * there. The newest leaves the log first: so a death in between leaves the oldest to the log, and
 * the rest where a successor looks for what is available.
 */
void packed_put_back(struct virtq *vq)
{
    struct log_packed *log = packed_log(vq);
    uint16_t at = vq->used;
    bool wrap = vq->used_wrap;

    for (unsigned i = 0; i < vq->returned_count; i++)
        packed_offer_again(vq, virtq_slot(vq, vq->returned[i]), &at, &wrap);
    CHECK(at == vq->last_avail && wrap == vq->avail_wrap);
    packed_dirty(vq, vq->desc_area, 16 * (uint64_t)vq->config.size);
    for (unsigned i = vq->returned_count; i-- > 0;) {
        struct virtq_entered e = vq->entered[vq->returned[i]];

        WRITE_ONCE(log->desc[e.last].word.next, vq->log_free);
        vq->log_next[e.last] = vq->log_free;
        vq->log_free = e.first;
        ring_store_release(&log->desc[e.first].word.inflight, 0);
        vq->state[vq->returned[i]] = VIRTQ_ID_FREE;
        RING_STEP();
    }
    log_set_lists(vq, vq->log_free, vq->log_free);
    vq->last_avail = vq->used;
    vq->avail_wrap = vq->used_wrap;
    vq->descs = 0;
}

/* ---- Notifications -------------------------------------------------------------------- */

/* Ask for a kick, or not; virtq_arm() fences and looks again. */
void packed_notify(struct virtq *vq, bool want)
{
    struct vring_packed_desc_event *event = vq->device_area;
    uint16_t flags = VRING_PACKED_EVENT_FLAG_DISABLE;

    if (want)
        flags =
            vq->config.event_idx ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE;
    if (want && vq->config.event_idx)
        ring_store(&event->off_wrap, vq->armed_at);
    ring_store_release(&event->flags, flags);
    packed_dirty(vq, event, sizeof(*event));
}
