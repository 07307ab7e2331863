/* SPDX-License-Identifier: MIT */
/*
 * prealloc.c - space in the file for what is not written yet.
 *
 * Theory of operation: where a file was never written, a write makes its file system allocate, and the next flush commit
 * that, too. A pool with preallocation pays for this once and ahead. Nothing of it is punched, so all that was ever in
 * use has space; what is free gets it piece by piece, up to a mark in the root that goes from the pool's beginning to its end.
 * When the pool grows, the mark goes on. When preallocation is turned off, the mark goes back, and what is free behind it is
 * stale (punch.c).
 *
 * As where holes are punched, blocks on which the store works are busy meanwhile, so that nobody gets them, and promises to
 * writes come first. Neither root nor journal tells of a free block, so no order of these zeroes and anything else has to be right:
 * a crash costs what was done since the last root.
 */
#include "parallax/internal.h"

#define PIECE     1024u  /* blocks, 4 MiB: roots wait for the same thread */
#define ALL_PIECE 16384u /* where nobody waits */
#define REST      3u     /* times as long as it took */
#define LOOKS     16u    /* groups without a free block, or to be given back, at once */

static bool is_done(const struct pool *pool)
{
    return pool->root.preallocated == (pool_is_thin(pool) ? 0 : pool->space.blocks);
}

/* ---- The mark goes on ---- */

static void moved(struct pool *pool, uint64_t mark)
{
    pool->root.preallocated = MIN(mark, pool->space.blocks);
    pool->changes++; /* a root makes it durable */
}

/* A run of free blocks from the mark on, or 0 when LOOKS groups had none. */
static int lend(struct pool *pool, unsigned most, uint64_t *addr)
{
    int n = 0;

    for (unsigned looks = 0; n == 0 && looks < LOOKS && !is_done(pool); looks++) {
        *addr = pool->root.preallocated;
        n = space_lend(pool, most, addr);
        if (n == 0)
            moved(pool, ALIGN_DOWN(*addr, (uint64_t)PX_GROUP_BLOCKS) + PX_GROUP_BLOCKS);
    }
    return n;
}

static int work_on(struct pool *pool, struct store_io *sio, uint64_t addr, uint64_t count)
{
    return pool->store->allocate(pool->store, sio, addr, count,
                                 pool->root.preallocation == PX_FULL);
}

/* ---- The mark goes back ---- */

static int look_back(struct pool *pool)
{
    for (unsigned looks = 0; looks < LOOKS && !is_done(pool); looks++) {
        uint64_t index = (pool->root.preallocated - 1) >> PX_GROUP_SHIFT;
        int ret = space_found(pool, index);

        if (ret < 0)
            return ret;
        moved(pool, index << PX_GROUP_SHIFT);
    }
    return 0;
}

/* ---- In turns ---- */

static void give_up(struct pool *pool, int error)
{
    pool->space.prealloc.error = error;
    pool_say(pool, "preallocation", "%s: its preallocation does not go on: %s", pool->store->name,
             strerror(-error));
}

static void allocated(struct store_io *sio, int result)
{
    struct prealloc *p = container_of(sio, struct prealloc, sio);
    struct pool *pool = container_of(p, struct pool, space.prealloc);
    uint64_t now = dt_clock_ns();

    space_abandon(pool, p->addr, (unsigned)p->count);
    if (result < 0)
        give_up(pool, result);
    else if (!p->forgotten)
        moved(pool, p->addr + p->count);
    p->forgotten = false;
    p->count = 0;
    p->next = now + REST * (now - p->begun);
    pool_kick(pool);
}

/* What is being punched, or is to become spare, may have no space when the mark passes it. */
static bool is_under_way(const struct pool *pool)
{
    return pool->space.prealloc.count || pool->space.punch.count || pool->space.spare.count;
}

/* For how many blocks is there something to do? */
static uint64_t room_for(const struct pool *pool)
{
    const struct space *s = &pool->space;

    if (likely(is_done(pool)) || s->prealloc.error || is_under_way(pool) || pool->failed ||
        pool->o.read_only || !pool->store->allocate || io_stalled(pool) ||
        s->free <= s->reserve + s->promised)
        return 0;
    return s->free - s->reserve - s->promised;
}

void prealloc_turn(struct pool *pool)
{
    uint64_t room = room_for(pool);
    struct prealloc *p = &pool->space.prealloc;
    uint64_t now;
    int n;

    if (likely(room == 0))
        return;
    now = dt_clock_ns();
    if (now < p->next)
        return;
    p->begun = now;
    if (pool_is_thin(pool))
        n = look_back(pool);
    else
        n = lend(pool, (unsigned)MIN(room, (uint64_t)PIECE), &p->addr);
    if (n < 0)
        give_up(pool, n);
    if (n <= 0)
        return;
    p->count = (uint64_t)n;
    p->sio.done = allocated;
    work_on(pool, &p->sio, p->addr, p->count);
}

uint64_t prealloc_wait(const struct pool *pool)
{
    const struct prealloc *p = &pool->space.prealloc;
    uint64_t now;

    if (room_for(pool) == 0) /* whatever makes room is a turn of its own */
        return UINT64_MAX;
    now = dt_clock_ns();
    return p->next > now ? p->next - now : 0;
}

/* ---- What is asked for ---- */

int prealloc_judge(const struct store *store, enum px_preallocation how, struct dt_error *err)
{
    if (how >= PX_PREALLOCATIONS)
        return dt_fail(err, -EINVAL, "a pool's preallocation is off, falloc or full");
    if (how != PX_THIN && !store->allocate)
        return dt_fail(err, -ENOTSUP, "%s cannot have its space allocated ahead", store->name);
    return 0;
}

int pool_set_preallocation(struct pool *pool, enum px_preallocation how, struct dt_error *err)
{
    struct prealloc *p = &pool->space.prealloc;
    struct px_root *root = &pool->root;
    uint64_t mark = root->preallocated;
    uint8_t was = root->preallocation;
    int ret = prealloc_judge(pool->store, how, err);

    if (ret < 0)
        return ret;
    if (pool->o.read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    p->error = 0;
    pool_kick(pool);
    if (how == was)
        return 0;
    /* What was written has been allocated. What is given back is behind the mark. */
    if (how != PX_THIN && was != PX_FULL)
        root->preallocated = 0;
    root->preallocation = (uint8_t)how;
    pool->changes++;
    ret = pool_checkpoint(pool, err);
    if (ret < 0) { /* or who tries again would be told that it is done, and no root tells it */
        root->preallocation = was;
        root->preallocated = mark;
        pool->changes++; /* where a root with it waits for space, another one follows */
        return ret;
    }
    p->forgotten = p->count > 0;
    if (how != PX_THIN)
        punch_never(&pool->space);
    return 0;
}

/* A device or a file system that is full, or cannot, is the most likely reason. */
static int refuse(const struct pool *pool, int error, struct dt_error *err)
{
    if (error == -EOPNOTSUPP)
        return dt_fail(err, error,
                       "%s: its file system allocates no space ahead (full writes it instead)",
                       pool->store->name);
    return dt_fail(err, error, "%s: its space cannot be preallocated: %s", pool->store->name,
                   strerror(-error));
}

int pool_preallocate(struct pool *pool, struct dt_error *err)
{
    uint64_t addr;
    int n, ret = prealloc_judge(pool->store, pool->root.preallocation, err);

    CHECK(!is_under_way(pool));
    if (ret < 0)
        return ret;
    if (pool->o.read_only || pool->failed)
        return dt_fail(err, pool->failed ?: -EROFS, "%s is not written to", pool->store->name);
    if (pool_is_thin(pool)) {
        n = look_back(pool);
    } else {
        n = lend(pool, ALL_PIECE, &addr);
        if (n > 0) {
            ret = work_on(pool, NULL, addr, (uint64_t)n);
            space_abandon(pool, addr, (unsigned)n);
            if (ret == 0)
                moved(pool, addr + (uint64_t)n);
        }
    }
    ret = n < 0 ? n : ret;
    return ret < 0 ? refuse(pool, ret, err) : !is_done(pool);
}
