/* SPDX-License-Identifier: MIT */
/*
 * quota.c - what a disk may occupy.
 *
 * Theory of operation: a disk's record counts the blocks of data that its line owns, that is those
 * which it and its snapshots have and its origin has not (devtap-pool(5)). The count changes where
 * such a block is mapped or given back, in memory, and goes to the store with the maps that it
 * counts: replaying the journal counts again.
 *
 * A write is let in if the disk may be charged for all of it, whatever the others that are under
 * way add. It needs nothing for blocks that the disk owns already, so a disk that has reached its
 * quota may be written where it was written since its last snapshot. (A snapshot taken while
 * writes are under way may let these few exceed it.) What is not let in waits in a list of the
 * disk, so that others go on, or fails.
 *
 * Snapshots are dropped one at a time: what that gives back is known when it is given back. A turn
 * is where this is safe: a write may begin within a change of the catalogue.
 */
#include "parallax/io.h"

#define LOOK_EVERY DT_S(1)
#define FAIL_QUIET DT_S(60) /* where writes fail, it is said so often at most */

uint32_t quota_need(const struct op *op)
{
    const struct disk *disk = op->disk;
    const struct px_record *r = disk->record;
    struct px_ptr ptrs[SPAN];
    uint32_t need = 0;
    struct tree t;

    /* Most are far below: then it does not matter what is replaced. Where there is a history, what is replaced stays. */
    if (likely(!r->quota || r->past_keep || r->charged + disk->promised + op->count <= r->quota))
        return r->quota ? op->count : 0;
    t = catalog_tree(disk->pool, disk->slot);
    if (tree_lookup(disk->pool, &t, op->index, op->count, ptrs) < 0)
        return op->count;
    for (uint32_t i = 0; i < op->count; i++)
        need += ptr_hole(ptrs[i]) || !tree_owned(&t, ptr_birth(ptrs[i]), op->index + i + 1);
    return need;
}

bool quota_allows(const struct op *op, uint32_t blocks)
{
    const struct disk *disk = op->disk;
    const struct px_record *r = disk->record;

    if (likely(!r->quota || blocks == 0))
        return true;
    return !disk->over.head && r->charged + disk->promised + blocks <= r->quota;
}

static void say_reached(struct disk *disk)
{
    static const char *const then[] = {"writes wait", "writes fail",
                                       "writes wait, for no snapshot can be dropped"};
    const struct px_record *r = disk->record;

    if (disk->over_told)
        return;
    disk->over_told = r->policy != PX_FAIL;
    pool_say_of(disk->pool, disk->slot, "quota",
                "%s has reached its quota of %llu KiB: %s (delete snapshots, or cvd quota)",
                r->name, (unsigned long long)(r->quota << (PX_BLOCK_SHIFT - 10)), then[r->policy]);
}

void quota_refuse(struct op *op)
{
    struct disk *disk = op->disk;

    if (disk->record->policy == PX_FAIL) {
        uint64_t now = dt_clock_ns();

        disk->counters.over_failed++;
        if (now >= disk->over_look)
            say_reached(disk);
        disk->over_look = now + FAIL_QUIET;
        op_fail(op, -ENOSPC);
        return;
    }
    disk->counters.over_held++;
    disk->pool->over++;
    op_list_add(&disk->over, op);
    share_stalled(op);
    share_next(disk->pool);
    pool_kick(disk->pool);
}

/* ---- Turns ---- */

/* In their order, up to the first that still may not. */
static void retry(struct disk *disk)
{
    struct op *op = op_list_take_all(&disk->over), *next;

    for (; op; op = next) {
        next = op->next;
        if (!disk->pool->failed && disk->record->policy != PX_FAIL &&
            !quota_allows(op, quota_need(op)))
            break;
        disk->pool->over--;
        if (disk->pool->failed)
            op_fail(op, -EIO);
        else
            op_write(op);
    }
    for (; op; op = next) {
        next = op->next;
        op_list_add(&disk->over, op);
    }
}

static uint32_t oldest_droppable(const struct disk *disk)
{
    uint32_t oldest = NO_SLOT;

    for (uint32_t at = pool_snapshot_before(disk->pool, disk->slot); at != NO_SLOT;
         at = pool_snapshot_before(disk->pool, at))
        if (!(catalog_record(disk->pool, at)->flags & PX_LABELLED) &&
            !pool_mounted(disk->pool, at) && !pool_clones(disk->pool, at))
            oldest = at;
    return oldest;
}

/* False: there is none. */
static bool drop_oldest(struct disk *disk)
{
    struct pool *pool = disk->pool;
    char name[2 * PX_NAME];
    struct dt_error err;
    uint32_t oldest;

    if (pool->catalog.dying)
        return true; /* who knows what that will give back */
    oldest = oldest_droppable(disk);
    if (oldest == NO_SLOT)
        return false;
    pool_full_name(pool, oldest, name);
    if (pool_delete_snapshot(pool, oldest, &err) == 0) /* else the journal is busy: next turn */
        pool_say_of(pool, disk->slot, "dropped", "%s was deleted: its disk has reached its quota",
                    name);
    return true;
}

static void attend(struct disk *disk)
{
    const struct px_record *r = disk->record;
    uint64_t now;

    retry(disk);
    if (!disk->over.head) {
        if (disk->over_told)
            pool_say_of(disk->pool, disk->slot, "resumed",
                        "%s is below its quota again: the writes that waited went on", r->name);
        disk->over_told = false;
        return;
    }
    if (past_yield(disk->pool, disk->slot))
        return;
    now = dt_clock_ns();
    if (r->policy == PX_DROP_OLDEST && now >= disk->over_look) {
        if (drop_oldest(disk))
            return;
        disk->over_look = now + LOOK_EVERY; /* the line may be long */
    }
    say_reached(disk);
}

void quota_turn(struct pool *pool)
{
    if (likely(pool->over == 0))
        return;
    list_for_each_safe (it, &pool->disks) {
        struct disk *disk = list_entry(it, struct disk, list);

        if (disk->over.head)
            attend(disk);
    }
}
