/* SPDX-License-Identifier: MIT */
/*
 * turn.c - what a pool does by and by while it is open: its turns, growing, and what it tells of itself.
 */
#include "parallax/internal.h"

#define RECLAIM_NODES 16u /* a turn: some 100 us */

/* ---- Turns ---- */

/* Writes wait, and nothing is on its way that would give space back. @making: a root was, when this turn began: what
 * others can do about it they do in the next. */
static void judge_full(struct pool *pool, bool making)
{
    bool host_full = pool->space.spare.host_full, root = checkpoint_waits(pool) != 0;
    bool waits = root || io_stalled(pool);
    bool full = !making && io_stalled(pool) && pool->ckpt.state == CKPT_IDLE &&
                !pool->space.pending && !pool->space.punch.count && !pool->space.prealloc.count &&
                !pool->reclaim_maybe && pool->space.promised == 0;

    full |= root;
    if (full && !pool->full)
        pool_say(pool, "full",
                 host_full ? "the file system of %s is full: %s for space (make some, or delete "
                             "something in the pool)"
                           : "%s is full: %s for space (delete something, or grow it)",
                 pool->store->name, root ? "its next root waits" : "writes wait");
    if (!waits && pool->full)
        pool_say(pool, "resumed", "%s has space again: the writes that waited went on",
                 pool->store->name);
    pool->full = full || (pool->full && waits);
}

bool pool_turn(struct pool *pool)
{
    bool more, making = pool->ckpt.state != CKPT_IDLE, rest = spare_tight(pool) && pool->changes;
    bool reclaims = !pool->failed && !pool->o.read_only && !rest;

    CHECK_MAGIC(pool, POOL_MAGIC);
    pool->kicked = false;
    io_turn(pool);
    quota_turn(pool);
    pin_turn(pool);
    if (pool->reclaim_maybe && reclaims)
        pool->reclaim_maybe = reclaim_step(pool, RECLAIM_NODES) > 0;
    if (pool->over && !pool->reclaim_maybe)
        quota_turn(pool); /* what was given back may be what they wait for */
    if (io_stalled(pool))
        io_resume(pool);
    more = past_turn(pool);
    more |= janitor_turn(pool);
    more |= checkpoint_turn(pool, io_stalled(pool) && !pool->reclaim_maybe);
    punch_turn(pool);
    prealloc_turn(pool);
    more |= spare_turn(pool);
    judge_full(pool, making);
    node_trim(pool);
    return (pool->reclaim_maybe && reclaims) || more;
}

uint64_t pool_wait(const struct pool *pool)
{
    uint64_t waits = checkpoint_waits(pool);

    waits = MIN(waits ?: UINT64_MAX, spare_wait(pool));
    waits = MIN(waits, prealloc_wait(pool));
    return MIN(waits, MIN(janitor_wait(pool), punch_wait(pool)));
}

bool pool_is_full(const struct pool *pool)
{
    return pool->full;
}

/* A root that waits for space may be left, once the store has nothing of it any more. */
bool pool_idle(const struct pool *pool)
{
    return pool->in_flight == 0 && !io_flushing(pool) && !pool->wait_next &&
           (pool->ckpt.state == CKPT_IDLE || checkpoint_waits(pool)) &&
           !checkpoint_under_way(pool) && pool->space.punch.count == 0 &&
           pool->space.prealloc.count == 0 && pool->space.spare.count == 0;
}

int pool_sync(struct pool *pool, struct dt_error *err)
{
    uint64_t seq;
    int ret = pool->failed ?: journal_seal(pool, &seq);

    if (ret == 0) {
        ret = pool->store->sync(pool->store);
        if (ret < 0)
            pool_fail(pool, ret, "a flush failed");
    }
    if (ret < 0)
        return dt_fail(err, ret, "%s cannot be made durable: %s", pool->store->name,
                       strerror(-ret));
    pool->journal.flushed = MAX(pool->journal.flushed, seq);
    return 0;
}

int pool_grow(struct pool *pool, struct dt_error *err)
{
    int ret;

    if (pool->store->blocks <= pool->space.blocks)
        return dt_fail(err, -EINVAL, "%s has not grown: it has %llu MiB as it had",
                       pool->store->name, (unsigned long long)(pool->space.blocks >> 8));
    ret = pool_checkpoint(pool, err);
    if (ret < 0)
        return ret;
    ret = space_grow(pool, MIN(pool->store->blocks, PX_MAX_BLOCKS));
    ret = ret ?: forward_grow(pool);
    if (ret < 0)
        return dt_fail(err, ret, "%s cannot grow: %s", pool->store->name, strerror(-ret));
    return pool_checkpoint(pool, err);
}

struct store *pool_store(struct pool *pool)
{
    return pool->store;
}

void pool_info(const struct pool *pool, struct pool_info *info)
{
    *info = (struct pool_info){.created = pool->created,
                               .blocks = pool->space.blocks,
                               .used = pool->space.used,
                               .free = space_free_now(&pool->space),
                               .reserve = pool->space.reserve,
                               .dying = pool->catalog.dying,
                               .journal = pool->journal.blocks,
                               .journal_used = pool->journal.seq - pool->journal.start,
                               .root_seq = pool->root.seq,
                               .dirty_nodes = pool->nodes.dirty_count,
                               .cached_nodes = pool->nodes.count,
                               .stale = pool->space.stale * 64,
                               .punched = pool->space.punch.total,
                               .lost = pool->lost,
                               .lost_maps = pool->space.lost,
                               .preallocation = pool->root.preallocation,
                               .preallocated = pool->root.preallocated,
                               .times = pool->times,
                               .recovered = pool->recovered,
                               .again = pool->recovery.again,
                               .rootless = pool->recovery.rootless};
    memcpy(info->uuid, pool->uuid, sizeof(info->uuid));
    for (uint32_t slot = 0; slot < pool->catalog.slots; slot++) {
        const struct px_record *r = catalog_record(pool, slot);

        if (r->kind == PX_FREE || r->kind == PX_LOG ||
            (r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN)))
            continue;
        info->damaged += r->kind == PX_DISK && r->damaged;
        if (r->kind == PX_DISK)
            info->disks++;
        else
            info->snapshots++;
    }
}
