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
 *
 * What cannot be read of S or N is left out: it stays marked as in use, and nothing has it any more. So whatever is damaged can
 * be deleted.
 */
#include "parallax/internal.h"

#define PIECE 4096u /* nodes */

/* What is marked free already was said to be, and is left. */
static int gone(int ret)
{
    return ret == -EBADMSG ? 0 : ret;
}

/* @w->arg: what the line's disk is charged for. */
static int give_block(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b)
{
    tree_uncharge(w->arg);
    return gone(data_free(w->pool, a));
}

static int give_node(struct walk *w, struct px_ptr a)
{
    node_drop(w->pool, ptr_addr(a));
    return gone(space_free(w->pool, ptr_addr(a)));
}

void pool_lost(struct pool *pool, uint32_t slot, const struct tree_lost *lost)
{
    char name[2 * PX_NAME];

    if (lost->nodes == 0)
        return;
    pool->lost += lost->nodes;
    pool_full_name(pool, slot, name);
    pool_say_of(pool, slot, "damage",
                "%s: of what %s had, %llu nodes of maps cannot be read: what they lead to is given "
                "back by 'cvd pool check --repair'",
                pool->store->name, name, (unsigned long long)lost->nodes);
}

static void end_snapshot(struct pool *pool, uint32_t slot)
{
    catalog_unlink(pool, slot);
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
static uint32_t choose_one(struct pool *pool)
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

/* What branches that fork from it have in common with it is its own, so they go first. */
static uint32_t choose(struct pool *pool)
{
    uint32_t slot = choose_one(pool);

    if (slot != NO_SLOT)
        slot = catalog_first_above(pool, slot);
    return slot != NO_SLOT && is_dying(pool, slot) ? slot : NO_SLOT;
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
    struct tree_lost lost = {0};
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
    w.lost = &lost;
    ret = walk_run(&w);
    pool_lost(pool, pool->reclaiming, &lost);
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

int pool_reclaim(struct pool *pool, struct dt_error *err)
{
    int ret = reclaim_step(pool, PIECE), made = 0;

    if (ret > 0 && spare_tight(pool) && !checkpoint_under_way(pool))
        made = pool_checkpoint(pool, err);
    if (made < 0)
        return made;
    return ret < 0 ? dt_fail(err, ret, "%s: what was deleted cannot be given back: %s",
                             pool->store->name, strerror(-ret))
                   : ret;
}

int pool_reclaim_all(struct pool *pool, struct dt_error *err)
{
    int ret;

    while ((ret = pool_reclaim(pool, err)) > 0)
        ;
    return ret;
}
