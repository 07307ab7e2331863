/* SPDX-License-Identifier: MIT */
/*
 * catalog-line.c - lines of descent: what comes before and after a snapshot.
 *
 * Theory of operation: a record names the snapshot before it, so a disk has a line of them, from it back to its origin. Where a disk
 * with a history returned to a snapshot (past-branch.c), what it was since then is a *branch*: hidden snapshots, the first of which
 * (PX_BRANCH) has before it that same snapshot, the *fork*, while what follows the fork in the line is something else. Nothing
 * follows the last one. A branch may have branches, since its snapshots were the line once.
 *
 * What follows a snapshot is known in memory alone (struct slot_info), and so are the beginnings of branches.
 */
#include "parallax/internal.h"

uint32_t pool_snapshot_before(const struct pool *pool, uint32_t slot)
{
    uint32_t prev = catalog_record(pool, slot)->prev;

    while (prev && (catalog_record(pool, prev - 1)->flags & (PX_DYING | PX_HIDDEN)))
        prev = catalog_record(pool, prev - 1)->prev;
    return prev ? prev - 1 : NO_SLOT;
}

uint32_t pool_clones(const struct pool *pool, uint32_t slot)
{
    return pool->catalog.info[slot].clones;
}

bool pool_mounted(const struct pool *pool, uint32_t slot)
{
    return pool->catalog.info[slot].writer || pool->catalog.info[slot].readers;
}

uint64_t catalog_epoch_before(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    if (r->prev)
        return catalog_record(pool, r->prev - 1)->epoch;
    if (r->kind == PX_SNAPSHOT)
        r = catalog_record(pool, r->parent);
    return r->origin_epoch;
}

/* ---- Branches ---- */

void catalog_add_branch(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;

    if (c->branches_n == c->branches_room) {
        c->branches_room = MAX(2 * c->branches_room, 16u);
        c->branches = realloc(c->branches, c->branches_room * sizeof(*c->branches));
        CHECK(c->branches);
    }
    c->branches[c->branches_n++] = slot;
    c->info[catalog_record(pool, slot)->prev - 1].branches++;
}

static void remove_branch(struct pool *pool, uint32_t slot)
{
    struct catalog *c = &pool->catalog;
    uint32_t i = 0;

    while (c->branches[i] != slot)
        i++;
    c->branches[i] = c->branches[--c->branches_n];
    c->info[catalog_record(pool, slot)->prev - 1].branches--;
}

void catalog_unlink(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot), *after;
    uint32_t next = pool->catalog.info[slot].next;
    bool begins = r->flags & PX_BRANCH;

    if (begins)
        remove_branch(pool, slot);
    else if (r->prev)
        pool->catalog.info[r->prev - 1].next = next;
    if (next == NO_SLOT)
        return;
    after = catalog_record(pool, next);
    if (after->kind == PX_DISK)
        after->since = catalog_epoch_before(pool, slot);
    after->prev = r->prev;
    if (begins) {
        after->flags |= PX_BRANCH;
        catalog_add_branch(pool, next);
    }
    catalog_touch(pool, next);
}

uint32_t catalog_first_above(const struct pool *pool, uint32_t slot)
{
    const struct catalog *c = &pool->catalog;

    for (uint32_t i = 0; i < c->branches_n && c->info[slot].branches; i++)
        if (catalog_record(pool, c->branches[i])->prev == slot + 1) {
            slot = c->branches[i];
            i = UINT32_MAX; /* and what forks from that one */
        }
    return slot;
}

bool catalog_aside(const struct pool *pool, uint32_t disk, struct aside *a)
{
    const struct catalog *c = &pool->catalog;
    uint32_t next = a->begun ? c->info[a->slot].next : NO_SLOT;

    a->begun = true;
    while (next == NO_SLOT && a->branch < c->branches_n) {
        uint32_t first = c->branches[a->branch++];

        if (catalog_record(pool, first)->parent == disk)
            next = first;
    }
    a->slot = next;
    return next != NO_SLOT;
}
