/* SPDX-License-Identifier: MIT */
/*
 * data-cache.c - blocks of data in memory, for disks that have them in common.
 *
 * Theory of operation: all memory is mapped when the cache is made: places for blocks, an entry for each, a hash table by
 * address. Who asks for a block that is not there gets an entry to fill, which is found by others who ask
 * meanwhile: they wait in it, and the block is read once however many they are. An entry that is being filled is
 * in no queue, so it cannot be evicted.
 *
 * Eviction is S3-FIFO [Yang, Zhang, Qiu, Yue and Vinayak: FIFO queues are all you need for cache eviction, SOSP 2023]:
 * new blocks enter a small queue of a tenth of the places. Who is not asked for again while it passes through
 * leaves, so a scan goes through that tenth alone; all others go on to the main queue, where being asked for
 * (counted up to 3) is another round each. Of those that left the small queue a fingerprint is remembered: one that comes back soon
 * enters the main queue at once. A hit moves nothing: it counts.
 *
 * A block in use never changes, as writes go to free ones. So an entry is right until its block is given back
 * (data_cache_drop()), which is long before that may be written again. If it is being filled at that time, those who wait still get what they asked
 * for, checksum and all, but nobody else finds it. An entry with another checksum than is asked for would be a damaged pool's:
 * the asker reads for itself, and finds out.
 */
#include "parallax/data-cache.h"

#include <sys/mman.h>

#define NONE       0u /* no entry: the first is 1, so that fresh memory needs no setting up */
#define SMALL_PART 10u
#define HITS_MOST  3u
#define HITS_STAY  2u /* in the small queue, to go on to the main one */
#define LEAST      8u
#define GHOSTS     2u /* to each place, so that few are forgotten too soon */
#define WAYS       4u /* of them, where a fingerprint may be */
/* Of each block, with its entry, and its part of both tables, whose sizes are powers of two. */
#define BLOCK_COST (PX_BLOCK + 80u)

enum place { FREE, FILLING, GONE /* given back while it is being filled */, SMALL, MAIN };

/**
 * struct entry - a place for a block.
 * @waiting: the last of those who wait for it, whose next is the first.
 * @newer, @older: in its queue; of a free one, @older is the next free one.
 */
struct entry {
    uint64_t addr;
    struct store_io *waiting;
    uint32_t crc, hash_next, newer, older;
    uint8_t place, hits;
};
_Static_assert(sizeof(struct entry) <= 40, "BLOCK_COST counts on it");

/** struct ghost - the fingerprint of a block that left, and when. */
struct ghost {
    uint32_t crc, when;
};

struct queue {
    uint32_t newest, oldest, n;
};

struct data_cache {
    struct list all;
    uint8_t *blocks;
    struct entry *entries;
    uint32_t *heads;
    struct ghost *ghosts;
    struct queue small, main;
    struct pool_cache_counters *counters;
    uint64_t bytes;
    uint32_t n, mask;
    uint32_t used;  /* entries up to this one were used already */
    uint32_t freed; /* the first of those that are free again */
    uint32_t held, filling, left;
    bool retired;
};

/* ---- The table ---- */

static uint32_t hash_of(const struct data_cache *c, uint64_t addr)
{
    return (uint32_t)(addr * 0x9e3779b97f4a7c15u >> 32) & c->mask;
}

static uint8_t *bytes_of(const struct data_cache *c, uint32_t i)
{
    return c->blocks + (size_t)(i - 1) * PX_BLOCK;
}

static uint32_t find(const struct data_cache *c, uint64_t addr)
{
    uint32_t i = c->heads[hash_of(c, addr)];

    while (i != NONE && c->entries[i].addr != addr)
        i = c->entries[i].hash_next;
    return i;
}

static void link_entry(struct data_cache *c, uint32_t i)
{
    uint32_t *head = &c->heads[hash_of(c, c->entries[i].addr)];

    c->entries[i].hash_next = *head;
    *head = i;
}

static void unlink_entry(struct data_cache *c, uint32_t i)
{
    uint32_t *at = &c->heads[hash_of(c, c->entries[i].addr)];

    while (*at != i)
        at = &c->entries[*at].hash_next;
    *at = c->entries[i].hash_next;
}

/* ---- Queues ---- */

static void enter(struct data_cache *c, uint32_t i, enum place place)
{
    struct queue *q = place == SMALL ? &c->small : &c->main;
    struct entry *e = &c->entries[i];

    e->place = (uint8_t)place;
    e->newer = NONE;
    e->older = q->newest;
    if (q->newest != NONE)
        c->entries[q->newest].newer = i;
    else
        q->oldest = i;
    q->newest = i;
    q->n++;
}

static void leave(struct data_cache *c, uint32_t i)
{
    const struct entry *e = &c->entries[i];
    struct queue *q = e->place == SMALL ? &c->small : &c->main;

    *(e->newer != NONE ? &c->entries[e->newer].older : &q->newest) = e->older;
    *(e->older != NONE ? &c->entries[e->older].newer : &q->oldest) = e->newer;
    q->n--;
}

static void set_free(struct data_cache *c, uint32_t i)
{
    c->entries[i].place = FREE;
    c->entries[i].older = c->freed;
    c->freed = i;
}

/* ---- Eviction ---- */

/* The first of its ways. */
static struct ghost *ghosts_of(const struct data_cache *c, uint64_t addr)
{
    return &c->ghosts[hash_of(c, addr) * GHOSTS & ~(WAYS - 1)];
}

/* Did it leave so lately that the main queue could have it still? */
static bool left_lately(const struct data_cache *c, const struct entry *e)
{
    const struct ghost *g = ghosts_of(c, e->addr);

    for (unsigned i = 0; i < WAYS; i++)
        if (g[i].when && g[i].crc == e->crc && c->left - g[i].when < c->n - c->n / SMALL_PART)
            return true;
    return false;
}

/* In place of the one that left longest ago. */
static void remember(struct data_cache *c, const struct entry *e)
{
    struct ghost *g = ghosts_of(c, e->addr), *to = g;

    for (unsigned i = 1; i < WAYS; i++)
        if (g[i].when == 0 || (to->when && c->left - g[i].when > c->left - to->when))
            to = &g[i];
    c->left += c->left == UINT32_MAX ? 2 : 1; /* 0 is no time */
    *to = (struct ghost){e->crc, c->left};
}

static void evict(struct data_cache *c, uint32_t i)
{
    unlink_entry(c, i);
    set_free(c, i);
    c->held--;
    c->counters->evicted++;
}

static bool evict_main(struct data_cache *c)
{
    while (c->main.n) {
        uint32_t i = c->main.oldest;

        leave(c, i);
        if (c->entries[i].hits == 0) {
            evict(c, i);
            return true;
        }
        c->entries[i].hits--;
        enter(c, i, MAIN);
    }
    return false;
}

static bool evict_small(struct data_cache *c)
{
    while (c->small.n) {
        uint32_t i = c->small.oldest;

        leave(c, i);
        if (c->entries[i].hits < HITS_STAY) {
            remember(c, &c->entries[i]);
            evict(c, i);
            return true;
        }
        c->entries[i].hits = 0;
        enter(c, i, MAIN);
    }
    return false;
}

/* An entry for a new block; NONE while all are being filled. */
static uint32_t take(struct data_cache *c)
{
    uint32_t i;

    if (c->freed == NONE && c->used < c->n)
        return ++c->used;
    if (c->freed == NONE && c->small.n >= c->n / SMALL_PART)
        evict_small(c);
    if (c->freed == NONE && !evict_main(c))
        evict_small(c);
    i = c->freed;
    if (i != NONE)
        c->freed = c->entries[i].older;
    return i;
}

/* ---- Asking ---- */

static void wait_in(struct entry *e, struct store_io *sio)
{
    sio->next = e->waiting ? e->waiting->next : sio;
    if (e->waiting)
        e->waiting->next = sio;
    e->waiting = sio;
}

static enum cached look(struct data_cache *c, uint32_t i, uint32_t crc, struct store_io *sio)
{
    struct entry *e = &c->entries[i];

    if (unlikely(e->crc != crc)) {
        c->counters->passed++;
        return CACHE_PASS;
    }
    e->hits = (uint8_t)MIN(e->hits + 1u, HITS_MOST);
    if (e->place == FILLING) {
        wait_in(e, sio);
        c->counters->waits++;
        return CACHE_WAIT;
    }
    memcpy(sio->iov.iov_base, bytes_of(c, i), PX_BLOCK);
    c->counters->hits++;
    return CACHE_HIT;
}

enum cached data_cache_get(struct data_cache *c, uint64_t addr, uint32_t crc, struct store_io *sio,
                           uint32_t *fill)
{
    uint32_t i = find(c, addr);

    if (i != NONE)
        return look(c, i, crc, sio);
    i = take(c);
    if (i == NONE) {
        c->counters->passed++;
        return CACHE_PASS;
    }
    c->entries[i] = (struct entry){.addr = addr, .crc = crc, .place = FILLING};
    link_entry(c, i);
    c->filling++;
    c->counters->misses++;
    *fill = i;
    return CACHE_FILL;
}

/* ---- Filling ---- */

static void settle(struct data_cache *c, uint32_t i, const void *bytes)
{
    struct entry *e = &c->entries[i];

    e->waiting = NULL;
    if (e->place == FILLING && !bytes)
        unlink_entry(c, i);
    if (e->place == GONE || !bytes) {
        set_free(c, i);
        return;
    }
    memcpy(bytes_of(c, i), bytes, PX_BLOCK);
    c->held++;
    enter(c, i, left_lately(c, e) ? MAIN : SMALL);
}

static void free_cache(struct data_cache *c)
{
    list_del(&c->all);
    munmap(c->blocks, c->bytes);
    free(c);
}

/* They are told last: one of them may ask for another block, and even end what this was about. */
void data_cache_filled(struct data_cache *c, uint32_t fill, const void *bytes)
{
    struct store_io *last = c->entries[fill].waiting, *sio = last ? last->next : NULL;

    if (last)
        last->next = NULL;
    if (!bytes)
        c->counters->failed++;
    settle(c, fill, bytes);
    for (struct store_io *next; sio; sio = next) {
        next = sio->next;
        if (bytes)
            memcpy(sio->iov.iov_base, bytes, PX_BLOCK);
        sio->done(sio, bytes ? 0 : -EAGAIN);
    }
    if (--c->filling == 0 && c->retired)
        free_cache(c);
}

void data_cache_drop(struct data_cache *c, uint64_t addr)
{
    uint32_t i = find(c, addr);

    if (likely(i == NONE))
        return;
    unlink_entry(c, i);
    c->counters->dropped++;
    if (c->entries[i].place == FILLING) {
        c->entries[i].place = GONE;
        return;
    }
    leave(c, i);
    set_free(c, i);
    c->held--;
}

/* ---- Life ---- */

static uint32_t power_of_two(uint32_t n)
{
    return n < 2 ? 1 : 1u << (32 - (unsigned)__builtin_clz(n - 1));
}

int data_cache_new(struct data_cache **cache, uint64_t bytes, struct pool_cache_counters *counters,
                   struct list *all)
{
    uint64_t n = bytes / BLOCK_COST;
    struct data_cache *c;
    uint32_t buckets;
    uint8_t *at;

    if (n < LEAST || n > UINT32_MAX / 2)
        return -EINVAL;
    at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return -errno;
    c = xcalloc(1, sizeof(*c));
    buckets = power_of_two((uint32_t)n);
    c->n = (uint32_t)n - 1; /* one entry is NONE */
    c->mask = buckets - 1;
    c->bytes = bytes;
    c->counters = counters;
    c->blocks = at;
    at += (size_t)c->n * PX_BLOCK;
    c->ghosts = (struct ghost *)at;
    at += GHOSTS * buckets * sizeof(struct ghost);
    c->entries = (struct entry *)at;
    at += n * sizeof(struct entry);
    c->heads = (uint32_t *)at;
    list_add_tail(all, &c->all);
    *cache = c;
    return 0;
}

void data_cache_free_all(struct list *all)
{
    while (!list_empty(all))
        free_cache(list_entry(all->next, struct data_cache, all));
}

void data_cache_retire(struct data_cache *c)
{
    if (!c)
        return;
    c->retired = true;
    if (c->filling == 0)
        free_cache(c);
}

uint32_t data_cache_held(const struct data_cache *c)
{
    return c->held;
}

uint32_t data_cache_most(const struct data_cache *c)
{
    return c->n;
}
