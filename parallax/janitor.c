/* SPDX-License-Identifier: MIT */
/*
 * janitor.c - looks for equal blocks of data, in the background, and has them stored once.
 *
 * Theory of operation: a pointer to data bears the CRC of that data, so a walk of the maps finds
 * candidates without reading any. Of each snapshot and disk it goes through what was born after the
 * snapshot before it: so each block is met once in a round. A map in memory, from CRC to a place
 * where a block with it was seen, knows with what to compare a block. Where the pool has more blocks
 * than the map has room for, a round is made of several walks, each for a part of all CRCs.
 *
 * What the map says is a hint: before two blocks are compared, both places are looked up again.
 * Then both are read, compared byte by byte, and merged (forward.c), all at one moment on the pool's
 * thread. That reading should not block: the store is told some ms before which blocks will be
 * wanted.
 *
 * Where it is on for writes, what was written is looked up in the same map before the walk goes on:
 * the thesis's map from content hashes to addresses, asked between the write and the root.
 *
 * A walk costs what it reads of maps, and a comparison what it reads of data; both are paid from one
 * budget, of so many bytes per second.
 */
#include "parallax/internal.h"

#define WAYS      4u
#define MAP_LEAST 1024u
#define MAP_MOST  (1u << 21) /* places: 48 MiB */
#define WANTED    1024u      /* pairs that wait for being compared, */
#define WANTED_FULL \
    (WANTED - PX_FANOUT)    /* and no more are looked for from here on: a leaf may add so many */
#define WRITTEN    4096u    /* blocks that wait for being looked up */
#define REST_NS    DT_S(60) /* between rounds */
#define TICK_NS    DT_MS(5)
#define TICK_BYTES (64u << 10)
#define LEAF_COST  PX_BLOCK
#define LOOK_COST  64u /* a tree that has nothing to be looked at */
#define PAIR_COST  (2 * PX_BLOCK)

/** struct place - where a block of data was seen. @slot: NO_SLOT: nowhere. */
struct place {
    uint64_t index;
    uint32_t slot, crc;
};

/**
 * struct janitor
 * @map:     2^n sets of WAYS places; @mask of sets.
 * @part, @parts: of all CRCs, this walk is for those of which the rest is @part.
 * @slot, @cursor: how far it got.
 * @wanted:  pairs to be compared, in their order; the store was told.
 * @written: what was written lately; @addr tells whether it still stands there.
 * @budget:  bytes that it may read now; @filled: when it got some last.
 * @seen:    the root when the last round ended.
 */
struct janitor {
    struct place *map;
    uint64_t mask;
    uint32_t part, parts, slot;
    uint64_t cursor;
    struct pair {
        struct place a, b;
    } wanted[WANTED];
    struct written {
        struct place at;
        uint64_t addr;
    } written[WRITTEN];
    uint32_t wanted_at, wanted_n, written_at, written_n;
    uint8_t *bytes; /* of two blocks */
    uint64_t budget, filled, rest_until, seen;
    struct pool_share_counters counters;
};

/* As histories do, it goes by the clock that a test may have given. */
static uint64_t clock_of(const struct pool *pool)
{
    return pool->o.clock ? pool->o.clock(pool->o.arg) : dt_clock_ns();
}

/* ---- The map ---- */

/* Where it has room for all blocks, what it knows is of use to the next walk, and to what is written. */
static void make_map(struct pool *pool, struct janitor *j)
{
    uint64_t sets = MAP_LEAST / WAYS;

    while (sets * WAYS < MIN(2 * pool->space.used, (uint64_t)MAP_MOST))
        sets *= 2;
    if (j->map && sets <= j->mask + 1 && j->parts == 1)
        return;
    if (!j->map || sets > j->mask + 1) {
        free(j->map);
        j->map = xcalloc(sets * WAYS, sizeof(*j->map));
        j->mask = sets - 1;
    }
    for (uint64_t i = 0; i <= j->mask; i++)
        for (unsigned k = 0; k < WAYS; k++)
            j->map[i * WAYS + k].slot = NO_SLOT;
}

/* The place of a block with this CRC, or one to be used for it: a free one, or one of four by chance. */
static struct place *place_for(const struct janitor *j, uint32_t crc)
{
    struct place *set = &j->map[(crc * 0x9e3779b97f4a7c15u >> 32 & j->mask) * WAYS], *at = NULL;

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].slot != NO_SLOT && set[i].crc == crc)
            return &set[i];
        if (set[i].slot == NO_SLOT && !at)
            at = &set[i];
    }
    return at ?: &set[crc % WAYS];
}

/* What is at a place now, if it is what was seen there. Nothing of what is being deleted counts: it may
 * be gone. */
static bool look_up(struct pool *pool, const struct place *at, struct px_ptr *ptr)
{
    const struct px_record *r = pool_record(pool, at->slot);
    struct tree t;

    if (!r || r->kind == PX_LOG || (r->flags & (PX_DYING | PX_HEADLESS)))
        return false;
    t = catalog_tree(pool, at->slot);
    return tree_lookup(pool, &t, at->index, 1, ptr) == 0 && !ptr_hole(*ptr) &&
           ptr_crc(*ptr) == at->crc;
}

static void tell_store(struct pool *pool, struct px_ptr ptr)
{
    if (pool->store->prefetch && forward_follow(pool, 1, &ptr) == 0)
        pool->store->prefetch(pool->store, ptr_addr(ptr), 1);
}

/* A block is met: is there one that it might be equal to? */
static void meet(struct pool *pool, struct janitor *j, struct place at, struct px_ptr ptr)
{
    struct place *known = place_for(j, at.crc);
    struct px_ptr other;

    if (known->slot == NO_SLOT || known->crc != at.crc || !look_up(pool, known, &other)) {
        *known = at;
        return;
    }
    if (j->wanted_n == WANTED || forward_mergeable(pool, ptr, other) <= 0)
        return;
    j->wanted[(j->wanted_at + j->wanted_n++) % WANTED] = (struct pair){at, *known};
    tell_store(pool, ptr);
    tell_store(pool, other);
}

/* ---- Comparing ---- */

/* 1: they are equal, and the first is what its checksum says; 0: not; -errno. */
static int compare(struct pool *pool, struct janitor *j, struct px_ptr a, struct px_ptr b)
{
    struct px_ptr at[] = {a, b};
    int ret = forward_follow(pool, 2, at);

    if (!j->bytes)
        j->bytes = xaligned(PX_BLOCK, PAIR_COST);
    for (unsigned i = 0; i < 2 && ret == 0; i++)
        ret = pool->store->get(pool->store, j->bytes + i * PX_BLOCK, ptr_addr(at[i]), 1);
    if (ret < 0)
        return ret;
    if (memcmp(j->bytes, j->bytes + PX_BLOCK, PX_BLOCK))
        return 0;
    return crc32c(0, j->bytes, PX_BLOCK) == ptr_crc(a);
}

static void compare_next(struct pool *pool, struct janitor *j)
{
    struct pair pair = j->wanted[j->wanted_at];
    struct px_ptr a, b;
    int ret;

    j->wanted_at = (j->wanted_at + 1) % WANTED;
    j->wanted_n--;
    if (!look_up(pool, &pair.a, &a) || !look_up(pool, &pair.b, &b) ||
        forward_mergeable(pool, a, b) <= 0)
        return;
    j->counters.compared++;
    ret = compare(pool, j, a, b);
    if (ret <= 0) { /* what cannot be read is told to whoever reads it */
        j->counters.different++;
        return;
    }
    ret = forward_merge(pool, a, b);
    if (ret == -EBADMSG || ret == -EIO) /* of the table, and nothing was changed */
        j->counters.different++;
    else if (ret < 0)
        pool_fail(pool, ret, "equal blocks cannot be shared");
    else
        j->counters.merged += (unsigned)ret;
}

/* ---- Writes ---- */

void janitor_written(struct pool *pool, uint32_t slot, uint64_t index, uint64_t addr,
                     unsigned count, const uint32_t *crc)
{
    struct janitor *j = pool->janitor;

    for (unsigned i = 0; j && i < count; i++) {
        if (j->written_n == WRITTEN) {
            j->counters.missed += count - i;
            return;
        }
        j->written[(j->written_at + j->written_n++) % WRITTEN] =
            (struct written){{index + i, slot, crc[i]}, addr + i};
    }
}

static void meet_written(struct pool *pool, struct janitor *j)
{
    struct written w = j->written[j->written_at];
    struct px_ptr ptr;

    j->written_at = (j->written_at + 1) % WRITTEN;
    j->written_n--;
    if (!look_up(pool, &w.at, &ptr) || ptr_addr(ptr) != w.addr)
        return; /* written again */
    j->counters.looked++;
    meet(pool, j, w.at, ptr);
}

/* ---- Rounds ---- */

static int walked(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    struct janitor *j = w->arg;

    if (ptr_crc(a) % j->parts != j->part)
        return 0;
    j->counters.looked++;
    meet(w->pool, j, (struct place){index, j->slot, ptr_crc(a)}, a);
    return 0;
}

static void next_part(struct pool *pool, struct janitor *j)
{
    j->slot = 0;
    j->cursor = 0;
    if (++j->part >= j->parts) {
        j->part = 0;
        j->parts = (uint32_t)(1 + 2 * pool->space.used / MAP_MOST);
        j->counters.rounds++;
        j->rest_until = clock_of(pool) + REST_NS;
        j->seen = pool->root.seq;
    }
    make_map(pool, j);
}

/* One leaf of a tree, or a tree that has none to be looked at. What it costs. */
static uint64_t walk_on(struct pool *pool, struct janitor *j)
{
    const struct px_record *r = pool_record(pool, j->slot);
    struct walk w;
    int ret;

    if (!r || r->kind == PX_LOG || (r->flags & (PX_DYING | PX_HEADLESS))) {
        j->slot++;
        j->cursor = 0;
        return LOOK_COST;
    }
    walk_against(pool, j->slot, &w);
    w.b = (struct px_ptr){0, 0};
    w.b_levels = w.a_levels;
    w.cursor = j->cursor;
    w.budget = 1;
    w.block = walked;
    w.arg = j;
    ret = walk_run(&w);
    if (ret == -EAGAIN) {
        j->cursor = w.cursor;
        return LEAF_COST;
    }
    /* Of what cannot be read, whoever reads it is told. */
    j->slot++;
    j->cursor = 0;
    return w.budget ? LOOK_COST : LEAF_COST;
}

/* Changes take nodes: not the last ones, which deleting needs. */
static bool has_room(const struct pool *pool)
{
    const struct space *s = &pool->space;

    return space_free_now(s) > s->promised + pool->forwards.nodes + s->reserve / 2;
}

/* True: there is more to do. */
static bool work(struct pool *pool, struct janitor *j, bool rests)
{
    uint64_t cost = 0;

    if (!has_room(pool))
        j->wanted_n = 0; /* they are met again in another round */
    /* What was found in this turn waits for the next one, so that it is there when it is read. */
    for (uint32_t ripe = j->wanted_n; ripe && j->budget >= PAIR_COST; ripe--) {
        compare_next(pool, j);
        j->budget -= PAIR_COST;
        if (pool->failed)
            return false;
    }
    while (j->written_n && j->wanted_n < WANTED_FULL && j->budget >= LOOK_COST) {
        meet_written(pool, j);
        j->budget -= LOOK_COST;
    }
    while (!rests && j->wanted_n < WANTED_FULL && j->budget >= LEAF_COST) {
        if (j->slot >= pool->catalog.slots) {
            if (j->wanted_n) /* a round ends when what it found was compared */
                break;
            next_part(pool, j);
            if (j->part == 0)
                return false;
        }
        cost = walk_on(pool, j);
        j->budget -= MIN(j->budget, cost);
    }
    return j->wanted_n || j->written_n || !rests;
}

static struct janitor *of(struct pool *pool)
{
    struct janitor *j = pool->janitor;

    if (j)
        return j;
    j = pool->janitor = xcalloc(1, sizeof(*j));
    j->parts = (uint32_t)(1 + 2 * pool->space.used / MAP_MOST);
    j->filled = clock_of(pool);
    make_map(pool, j);
    return j;
}

/* Where nothing has changed since the last round, the next one would find nothing. */
static bool is_resting(const struct pool *pool, struct janitor *j, uint64_t now)
{
    if (now >= j->rest_until && j->seen == pool->root.seq && j->part == 0 && j->slot == 0 &&
        j->cursor == 0)
        j->rest_until = now + REST_NS;
    return now < j->rest_until;
}

bool janitor_turn(struct pool *pool)
{
    struct janitor *j;
    uint64_t now, most = MAX(pool->root.share_rate / 64, (uint64_t)TICK_BYTES);

    if (likely(pool->root.share == PX_SHARE_OFF) || pool->failed || pool->o.read_only)
        return false;
    j = of(pool);
    now = clock_of(pool);
    if (now - j->filled < TICK_NS)
        return false;
    j->budget += MIN(now - j->filled, DT_S(1)) / 1000 * pool->root.share_rate / 1000000;
    j->budget = MIN(j->budget, most);
    j->filled = now;
    return work(pool, j, is_resting(pool, j, now)) && j->budget >= TICK_BYTES;
}

int pool_share_now(struct pool *pool, uint64_t bytes)
{
    struct janitor *j = of(pool);
    uint64_t rounds = j->counters.rounds;
    bool more;

    if (pool->failed || pool->o.read_only || !pool->root.features)
        return pool->failed ?: -EROFS;
    j->budget = bytes;
    more = work(pool, j, false);
    j->budget = 0;
    node_trim(pool);
    return pool->failed ?: more || (j->counters.rounds == rounds);
}

void janitor_fini(struct pool *pool)
{
    if (!pool->janitor)
        return;
    free(pool->janitor->map);
    free(pool->janitor->bytes);
    free(pool->janitor);
}

/* ---- What is asked for ---- */

int share_judge(enum px_share share, uint64_t rate, struct dt_error *err)
{
    if (share >= PX_SHARES)
        return dt_fail(err, -EINVAL, "blocks are shared off, on or with writes");
    if (share != PX_SHARE_OFF && (rate < SHARE_LEAST_RATE || rate > SHARE_MOST_RATE))
        return dt_fail(err, -EINVAL, "the janitor reads 64K to 1T per second");
    return 0;
}

int pool_set_share(struct pool *pool, enum px_share share, uint64_t rate, struct dt_error *err)
{
    struct px_root *root = &pool->root;
    int ret = share_judge(share, rate, err);

    if (ret < 0)
        return ret;
    if (pool->o.read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    if (share == PX_SHARE_OFF && !root->features)
        return 0;
    if (!root->features) {
        root->features |= PX_SHARED;
        forward_begin(pool);
    }
    root->share = (uint8_t)share;
    root->share_rate = MIN(rate, SHARE_MOST_RATE);
    pool->changes++;
    pool_kick(pool);
    /* There is no record of it in the journal: a root tells it. */
    return pool_checkpoint(pool, err);
}

void pool_share(const struct pool *pool, struct pool_share *share)
{
    *share = (struct pool_share){
        .share = pool->root.share, .rate = pool->root.share_rate, .shared = pool->forwards.shared};
    if (pool->janitor)
        share->counters = pool->janitor->counters;
}

uint64_t janitor_wait(const struct pool *pool)
{
    const struct janitor *j = pool->janitor;
    uint64_t now;

    if (pool->root.share == PX_SHARE_OFF || pool->failed)
        return UINT64_MAX;
    if (j && !j->wanted_n && !j->written_n && (now = clock_of(pool)) < j->rest_until)
        return j->rest_until - now;
    return MAX(TICK_NS, DT_S(1) / MAX(pool->root.share_rate / TICK_BYTES, (uint64_t)1));
}
