/* SPDX-License-Identifier: MIT */
/*
 * reclaim.c - giving back what was deleted.
 *
 * Theory of operation: the deleted snapshot S, between P before it and N after it, gives back what
 * is in S, born after P, and not in N; a deleted disk, what was born after P. That is a walk
 * (walk.c) whose cost is in the order of what is freed. It goes on in small steps while the disk is
 * in use. Its cursor is in the record and reaches the store with the next root; after a crash it
 * goes on from there, for nothing that it freed since is used again before a root.
 *
 * N may be the disk itself, which is being written. A block of S that the disk still has when the
 * cursor comes by is left, and from then on it belongs to the disk, which frees it when it replaces
 * it (tree_owned()); one that lies before the cursor still belongs to S. One S at a time: a second
 * one's P or N would be half gone.
 */
#include "parallax/internal.h"

/* @w->arg: what the line's disk is charged for. */
static int give_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    tree_uncharge(w->arg);
    return data_free(w->pool, a);
}

static int give_node(struct walk *w, struct px_ptr a)
{
    node_drop(w->pool, ptr_addr(a));
    return space_free(w->pool, ptr_addr(a));
}

static void end_snapshot(struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);
    uint32_t next = pool->catalog.info[slot].next;
    struct px_record *after = catalog_record(pool, next);

    if (after->kind == PX_DISK)
        after->since = catalog_epoch_before(pool, slot);
    after->prev = r->prev;
    if (r->prev)
        pool->catalog.info[r->prev - 1].next = next;
    catalog_touch(pool, next);
    catalog_release(pool, slot);
}

static void end_disk(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    r->root = (struct px_ptr){0, 0};
    r->cursor = 0;
    catalog_touch(pool, slot);
    if (r->prev == 0 && !r->log) {
        catalog_release(pool, slot);
    } else if (r->flags & PX_HEADLESS) {
        r->flags &= ~(uint32_t)PX_DYING;
        pool->catalog.dying--;
    }
}

static bool is_dying(const struct pool *pool, uint32_t slot)
{
    return catalog_record(pool, slot)->flags & PX_DYING;
}

/* Of a disk that is being deleted it is its turn first, then its newest snapshot's, and the empty disk's at the very
 * end. Snapshots of one that stays come in any order. */
static uint32_t choose(struct pool *pool)
{
    uint32_t slot = catalog_doomed(pool);
    const struct px_record *r, *disk;

    if (slot == NO_SLOT)
        return NO_SLOT;
    r = catalog_record(pool, slot);
    disk = r->kind == PX_SNAPSHOT ? catalog_record(pool, r->parent) : r;
    if (!(disk->flags & PX_DYING))
        return slot;
    if (!ptr_hole(disk->root) || disk->prev == 0 || (disk->flags & PX_HEADLESS))
        return r->kind == PX_SNAPSHOT ? r->parent : slot;
    return is_dying(pool, disk->prev - 1) ? disk->prev - 1 : slot;
}

void reclaim_find(struct pool *pool)
{
    pool->reclaiming = NO_SLOT;
    for (uint32_t slot = 0; slot < pool->catalog.slots; slot++)
        if (is_dying(pool, slot) && catalog_record(pool, slot)->cursor)
            pool->reclaiming = slot;
    pool->reclaim_maybe = pool->catalog.dying > 0 || pool->catalog.logs_n > 0;
}

int reclaim_step(struct pool *pool, uint64_t budget)
{
    const struct px_record *r;
    struct walk w;
    uint32_t disk;
    int ret;

    ret = past_drain(pool, budget);
    if (ret)
        return ret;
    if (pool->catalog.dying == 0)
        return 0;
    if (pool->reclaiming == NO_SLOT)
        pool->reclaiming = choose(pool);
    if (pool->reclaiming == NO_SLOT)
        return -EBADMSG;
    r = catalog_record(pool, pool->reclaiming);
    disk = r->kind == PX_SNAPSHOT ? r->parent : pool->reclaiming;
    catalog_touch(pool, disk);
    walk_against(pool, pool->reclaiming, &w);
    w.arg = &catalog_record(pool, disk)->charged;
    w.cursor = catalog_record(pool, pool->reclaiming)->cursor;
    w.budget = budget;
    w.block = give_block;
    w.node = give_node;
    ret = walk_run(&w);
    if (ret == -EAGAIN) {
        catalog_record(pool, pool->reclaiming)->cursor = w.cursor;
        catalog_touch(pool, pool->reclaiming);
        return 1;
    }
    if (ret < 0)
        return pool_fail(pool, ret, "what was deleted cannot be given back");
    if (catalog_record(pool, pool->reclaiming)->kind == PX_SNAPSHOT)
        end_snapshot(pool, pool->reclaiming);
    else
        end_disk(pool, pool->reclaiming);
    pool->reclaiming = NO_SLOT;
    return pool->catalog.dying > 0;
}

int pool_reclaim_all(struct pool *pool, struct dt_error *err)
{
    int ret;

    while ((ret = reclaim_step(pool, 4096)) > 0)
        ;
    if (ret < 0)
        return dt_fail(err, ret, "%s: what was deleted cannot be given back: %s", pool->store->name,
                       strerror(-ret));
    return 0;
}
