/* SPDX-License-Identifier: MIT */
/*
 * spare.c - free blocks that have space in the store, kept for nodes.
 *
 * Theory of operation: a pool's file has holes, and the file system that it is in may be full when one is to be filled. For
 * data that means waiting. But a pool whose root cannot be written can give nothing back, and cannot be opened; so nodes go
 * to *spare* blocks alone. These are free blocks that the store was told to allocate space for, ahead, a piece at a
 * time. Nobody else gets them: they are *busy*, as are blocks under way. Nothing on the store tells of them.
 *
 * Before a write begins, the nodes that it may change are promised to it from the spare blocks, above a *floor* that is kept for
 * what gives space back: deletions, and the free maps and catalogue of each root. When the store has no space for more, the
 * *host is full*: writes that find no spare blocks above the floor wait (io.c); others put their data there, too. What a root
 * drops becomes spare first, and what is more than enough is punched at once. The store is asked again with a growing
 * pause, and what it then allocates ends that state.
 *
 * A process that opens a pool does not know which free blocks its predecessor had allocated. It asks the store before it has
 * any allocated, and where the host is full by then it looks for them, group by group, all over the pool. Whoever closes a pool
 * leaves the floor there.
 *
 * Where all that was of no avail, a node gets a block without space: then the root waits as data does (checkpoint.c).
 */
#include "parallax/internal.h"

#define FLOOR      128u  /* blocks */
#define MARGIN     1024u /* above it, for writes under way */
#define PIECE      1024u
#define SMALL      64u /* a piece where there is little room, or little is known of the host */
#define RETRY      DT_MS(50)
#define RETRY_MOST DT_S(1)
#define CALM       DT_S(5) /* without a shortage: the next one begins with RETRY again */

/* Where all is preallocated there are no holes. */
static bool is_used(const struct pool *pool)
{
    return pool->store->holes && !pool->space.spare.off && !pool->o.read_only &&
           (pool_is_thin(pool) || pool->root.preallocated < pool->space.blocks);
}

/* A root's own nodes are the free maps' pages, of which there may be two roots' at once, and the catalogue's. */
static uint64_t floor_of(const struct pool *pool)
{
    const struct space *s = &pool->space;
    uint64_t forwards = MIN(2 * pool->forwards.nodes, (uint64_t)MARGIN);

    return MIN(FLOOR + 4 * (s->used >> PX_GROUP_SHIFT) + forwards, s->reserve);
}

static uint64_t margin_of(const struct pool *pool)
{
    return MAX(MIN((uint64_t)MARGIN, pool->space.blocks / 64), (uint64_t)SMALL);
}

static uint64_t target_of(const struct pool *pool)
{
    return floor_of(pool) + pool->space.spare.promised + margin_of(pool);
}

bool spare_tight(const struct pool *pool)
{
    return pool->space.spare.host_full && is_used(pool) &&
           pool->space.spare.blocks < floor_of(pool) / 2;
}

/* ---- The blocks: a queue of runs ---- */

void spare_give(struct pool *pool, uint64_t addr, uint64_t count)
{
    struct spare *sp = &pool->space.spare;
    struct spare_run *last = sp->n ? &sp->runs[(sp->first + sp->n - 1) % sp->room] : NULL;

    sp->blocks += count;
    if (last && last->addr + last->count == addr) {
        last->count += count;
        return;
    }
    if (sp->n == sp->room) {
        size_t room = MAX(2 * sp->room, (size_t)64);
        struct spare_run *runs = xcalloc(room, sizeof(*runs));

        for (size_t i = 0; i < sp->n; i++)
            runs[i] = sp->runs[(sp->first + i) % sp->room];
        free(sp->runs);
        sp->runs = runs;
        sp->room = room;
        sp->first = 0;
    }
    sp->runs[(sp->first + sp->n++) % sp->room] = (struct spare_run){addr, count};
}

static int take(struct pool *pool, unsigned want, uint64_t *addr)
{
    struct spare *sp = &pool->space.spare;
    struct spare_run *run = sp->n ? &sp->runs[sp->first] : NULL;
    unsigned n;

    if (!run)
        return 0;
    n = (unsigned)MIN(run->count, (uint64_t)want);
    *addr = run->addr;
    run->addr += n;
    run->count -= n;
    sp->blocks -= n;
    if (run->count == 0) {
        sp->first = (sp->first + 1) % sp->room;
        sp->n--;
    }
    return (int)n;
}

void spare_fini(struct pool *pool)
{
    free(pool->space.spare.runs);
}

/* ---- Having more allocated ---- */

/* What has space already needs no more than to be known. How many blocks from @addr on do not; -EAGAIN: the first ones do. */
static int keep_backed(struct pool *pool, uint64_t addr, unsigned n)
{
    uint64_t end = addr + n, from = end, to = end;
    struct store *store = pool->store;

    if (!store->backed || store->backed(store, addr, end, &from, &to) < 0 || from >= to)
        return (int)n;
    if (from > addr) {
        space_abandon(pool, from, (unsigned)(end - from));
        return (int)(from - addr);
    }
    if (end > to)
        space_abandon(pool, to, (unsigned)(end - to));
    spare_give(pool, addr, to - addr);
    pool->space.node_at = to;
    return -EAGAIN;
}

/* Free blocks that have no space, and are in nobody's way: 0 where there are none; -EAGAIN: there were some with space. */
static int lend(struct pool *pool, unsigned most, uint64_t *addr)
{
    struct space *s = &pool->space;
    int n = 0;

    s->node_at = punch_warm(s, s->node_at, SMALL); /* what was given back lately has space */
    for (uint64_t looks = 0; n == 0 && s->free && looks <= s->n; looks++) {
        *addr = s->node_at < s->blocks ? s->node_at : 0;
        n = space_lend(pool, most, addr);
        if (n < 0)
            return n;
        s->node_at = n ? *addr + (unsigned)n : (*addr | (PX_GROUP_BLOCKS - 1)) + 1;
    }
    return n > 0 ? keep_backed(pool, *addr, (unsigned)n) : n;
}

static int allocate(struct pool *pool, struct store_io *sio, uint64_t addr, uint64_t count)
{
    struct store *store = pool->store;

    return store->allocate(store, sio, addr, count,
                           pool->space.spare.full || !store->finds_unwritten ||
                               pool->root.preallocation == PX_FULL);
}

void spare_shortage(struct pool *pool)
{
    struct spare *sp = &pool->space.spare;
    uint64_t now = dt_clock_ns();

    sp->wait = now - sp->shortage > CALM ? RETRY : MIN(2 * sp->wait, RETRY_MOST);
    sp->shortage = now;
    sp->retry_at = now + sp->wait;
    if (!sp->host_full)
        sp->seek_left = pool->space.n;
    sp->host_full = sp->careful = true;
}

/* What came of it: as -EOPNOTSUPP, it may be possible in another way. */
static void judge(struct pool *pool, uint64_t addr, uint64_t count, int result)
{
    struct spare *sp = &pool->space.spare;

    if (result == 0) {
        spare_give(pool, addr, count);
        sp->careful &= sp->host_full;
        sp->host_full = false;
        return;
    }
    /* Others can use what it got of it. */
    if (store_is_full(result) && pool->store->punch && pool_is_thin(pool))
        pool->store->punch(pool->store, NULL, addr, count);
    space_abandon(pool, addr, (unsigned)count);
    if (store_is_full(result) && count > SMALL)
        sp->careful = true; /* there may still be a little */
    else if (store_is_full(result))
        spare_shortage(pool);
    else if (result == -EOPNOTSUPP && !sp->full)
        sp->full = true;
    else
        sp->off = true; /* this store has no such thing: then nothing is promised */
}

static unsigned piece_of(const struct pool *pool, uint64_t wanted)
{
    return pool->space.spare.careful ? SMALL : (unsigned)MIN(wanted, (uint64_t)PIECE);
}

static bool fill_now(struct pool *pool, uint64_t wanted)
{
    struct spare *sp = &pool->space.spare;

    while (sp->blocks < wanted && is_used(pool) && !sp->host_full) {
        uint64_t addr;
        int n = lend(pool, piece_of(pool, wanted - sp->blocks + SMALL), &addr);

        if (n == -EAGAIN)
            continue;
        if (n <= 0)
            break;
        judge(pool, addr, (unsigned)n, allocate(pool, NULL, addr, (unsigned)n));
    }
    return sp->blocks >= wanted || !is_used(pool);
}

static void allocated(struct store_io *sio, int result)
{
    struct spare *sp = container_of(sio, struct spare, sio);
    struct pool *pool = container_of(sp, struct pool, space.spare);
    uint64_t count = sp->count;

    sp->count = 0;
    judge(pool, sp->addr, count, result);
    pool_kick(pool);
}

/* Promises come first: what is lent is nobody's until the store has answered. */
static void fill_later(struct pool *pool)
{
    struct space *s = &pool->space;
    struct spare *sp = &s->spare;
    uint64_t kept = s->promised + s->reserve;
    uint64_t room = s->free > kept ? s->free - kept : 0;
    int n;

    if (room < SMALL) {
        sp->host_full = false; /* ask */
        fill_now(pool, MIN(target_of(pool), sp->blocks + 1));
        return;
    }
    do
        n = lend(pool, piece_of(pool, MIN(room, target_of(pool) - sp->blocks)), &sp->addr);
    while (n == -EAGAIN && sp->blocks < target_of(pool));
    if (n <= 0)
        return;
    sp->count = (unsigned)n;
    sp->sio.done = allocated;
    allocate(pool, &sp->sio, sp->addr, sp->count);
}

/* ---- Looking for what has space ---- */

static uint64_t most_of(const struct pool *pool)
{
    return target_of(pool) + margin_of(pool);
}

/* The free blocks of a run that has space, within a group. */
static void keep_free(struct pool *pool, uint64_t from, uint64_t to)
{
    while (from < to && pool->space.spare.blocks < most_of(pool)) {
        uint64_t addr = from, end;
        int n = space_lend(pool, (unsigned)(to - from), &addr);

        if (n <= 0)
            return;
        end = addr + (unsigned)n;
        if (end > to)
            space_abandon(pool, MAX(addr, to), (unsigned)(end - MAX(addr, to)));
        if (addr < to)
            spare_give(pool, addr, MIN(end, to) - addr);
        from = end;
    }
}

/* In one group. */
static void seek(struct pool *pool, uint64_t index)
{
    uint64_t addr = index << PX_GROUP_SHIFT, from, to;
    uint64_t end = MIN(addr + PX_GROUP_BLOCKS, pool->space.blocks);

    for (addr = MAX(addr, pool->space.first); addr < end; addr = to) {
        if (pool->store->backed(pool->store, addr, end, &from, &to) < 0 || from >= to)
            return;
        keep_free(pool, from, to);
    }
}

/* The next group. False: all were looked at since the host became full. */
static bool seek_on(struct pool *pool)
{
    struct space *s = &pool->space;
    struct spare *sp = &s->spare;

    if (sp->seek_left == 0 || !pool->store->backed)
        return false;
    sp->seek_left--;
    if (sp->seek_at >= s->n)
        sp->seek_at = s->node_at >> PX_GROUP_SHIFT;
    seek(pool, sp->seek_at % s->n);
    sp->seek_at = (sp->seek_at + 1) % s->n;
    return true;
}

/* Of a write that found no space the store may have kept a part. */
void spare_seek_at(struct pool *pool, uint64_t addr)
{
    pool->space.spare.seek_at = addr >> PX_GROUP_SHIFT;
    pool->space.spare.seek_left = pool->space.n;
}

bool spare_ensure(struct pool *pool, uint64_t wanted)
{
    struct spare *sp = &pool->space.spare;

    if (!is_used(pool))
        return true;
    if (sp->blocks < wanted && sp->host_full && dt_clock_ns() >= sp->retry_at)
        sp->host_full = false; /* ask */
    while (!fill_now(pool, wanted))
        if (!sp->host_full || !seek_on(pool))
            return sp->blocks >= wanted;
    return true;
}

/* ---- Giving them out ---- */

int spare_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr)
{
    const struct spare *sp = &pool->space.spare;

    if (!is_used(pool) || (data && !sp->host_full))
        return 0;
    if (sp->blocks == 0)
        spare_ensure(pool, 1);
    return take(pool, want, addr);
}

int spare_last(struct pool *pool, unsigned want, uint64_t *addr)
{
    return take(pool, want, addr) ?: -ENOSPC;
}

bool spare_allows(struct pool *pool, uint64_t blocks, bool data)
{
    const struct spare *sp = &pool->space.spare;
    uint64_t wanted = blocks + sp->promised + (data ? floor_of(pool) : 0);

    if (!is_used(pool))
        return !(data && sp->host_full);
    return sp->blocks >= wanted || (!sp->host_full && spare_ensure(pool, wanted));
}

void spare_keep(struct pool *pool)
{
    spare_ensure(pool, floor_of(pool));
}

int spare_verb(struct pool *pool, uint64_t blocks, struct dt_error *err)
{
    uint64_t wanted = pool->space.spare.promised + floor_of(pool) / 2 + blocks;

    return spare_ensure(pool, wanted)
               ? 0
               : dt_fail(err, -ENOSPC,
                         "the file system of %s is full: delete something in the pool, or make "
                         "space beside it",
                         pool->store->name);
}

void spare_absorb(struct pool *pool, uint64_t base, uint64_t *bits)
{
    const struct spare *sp = &pool->space.spare;

    if (likely(!sp->host_full) || !is_used(pool))
        return;
    for (unsigned word = 0; word < PX_GROUP_WORDS; word++)
        while (bits[word] && sp->blocks < most_of(pool)) {
            unsigned i = (unsigned)__builtin_ctzll(bits[word]);

            bits[word] &= bits[word] - 1;
            spare_give(pool, base + word * 64 + i, 1);
            pool->space.pending--;
        }
}

/* ---- Turns ---- */

bool spare_turn(struct pool *pool)
{
    struct spare *sp = &pool->space.spare;
    bool was_full = sp->host_full;

    if (pool->failed || pool->o.read_only || sp->count)
        return false;
    if (!is_used(pool)) {
        if (likely(!was_full) || dt_clock_ns() < sp->retry_at)
            return false;
        sp->host_full = false;
        return true; /* what waits tries */
    }
    if (likely(sp->blocks + (sp->host_full ? 0 : margin_of(pool) / 2) >= target_of(pool)))
        return false;
    if (sp->host_full && seek_on(pool))
        return true;
    if (was_full && dt_clock_ns() < sp->retry_at)
        return false;
    fill_later(pool);
    return was_full && !sp->host_full; /* what waits tries */
}

uint64_t spare_wait(const struct pool *pool)
{
    const struct spare *sp = &pool->space.spare;
    uint64_t now;

    if (likely(!sp->host_full) || sp->count || pool->failed ||
        (is_used(pool) && sp->blocks >= target_of(pool)))
        return UINT64_MAX;
    now = dt_clock_ns();
    return sp->retry_at > now ? sp->retry_at - now : RETRY;
}
