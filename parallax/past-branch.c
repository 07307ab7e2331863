/* SPDX-License-Identifier: MIT */
/*
 * past-branch.c - a disk with a history becomes something else at once: rolled back, or received.
 *
 * Theory of operation: whether a block of a snapshot may go is told by the snapshot after it: what that one has not, no later one
 * has. A disk that returns to snapshot S has again what its hidden snapshots since S have not, so these can stay no longer in its line.
 * But they need not go: with a last one of what the disk was, they become a branch (catalog-line.c) that forks from S, and the disk follows
 * S again. What the branch has of its own was born after S, as if it was of a clone. That takes the same time whatever the disks have written.
 *
 * All in one write with a number of its own. Its entry in the log names no pointer, as the snapshot at the end of the branch has what
 * was there. States before it are found as any other: by the first snapshot, of line or branch, whose number is not less.
 *
 * Branches are hidden snapshots, and go when the oldest entry that is kept is younger than them (past.c); the fork after
 * them. A fork that is deleted meanwhile is hidden, too: it is older than what branches from it.
 */
#include "parallax/change.h"

#include <stdio.h>

static int add_entry(struct pool *pool, uint32_t slot, uint64_t time, const char *by)
{
    struct px_record *r = catalog_record(pool, slot);
    struct tree t = catalog_tree(pool, slot);
    struct past_note note = {.slot = slot};

    pool->past_time = MAX(pool->past_time, time);
    note.time = pool->past_time;
    snprintf(note.owner, sizeof(note.owner), "%s", by);
    t.note = &note;
    r->writes++;
    return past_add(pool, &t, 0, r->levels, (struct px_ptr){0, 0});
}

/* All after @fork leaves the line. */
static void set_aside(struct pool *pool, uint32_t slot, uint32_t fork)
{
    struct slot_info *info = pool->catalog.info;
    struct px_record *r = catalog_record(pool, slot);
    uint32_t last = r->prev - 1, first = info[fork].next;

    info[last].next = NO_SLOT;
    catalog_record(pool, first)->flags |= PX_BRANCH;
    catalog_add_branch(pool, first);
    catalog_touch(pool, first);
    r->prev = fork + 1;
    info[fork].next = slot;
}

int past_branch_possible(struct pool *pool, uint32_t slot, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, slot);

    if (pool->replaying || probe_past(pool, slot) == 0)
        return 0;
    return dt_fail(err, -EIO,
                   "the history of '%s' is damaged, and cannot be gone on with: 'cvd history' "
                   "turns it off",
                   r->name);
}

int past_branch_check(struct pool *pool, uint32_t slot, uint32_t fork, uint32_t last,
                      struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, slot);

    if (!pool->root.branched)
        return dt_fail(err, -EBADMSG, "a history has a branch, and its root does not know");
    if (!change_slot_free(pool, last) || r->epoch >= ((uint64_t)1 << 40) - 2)
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", last);
    if (!change_live(pool, fork, PX_SNAPSHOT) || pool_snapshot_before(pool, slot) != fork)
        return dt_fail(err, -EINVAL, "that is not the newest snapshot of '%s'", r->name);
    return past_branch_possible(pool, slot, err);
}

int past_branch(struct pool *pool, const struct px_change *c, uint32_t slot, uint32_t fork,
                uint32_t last, const char *by)
{
    struct px_change snapshot = {
        .head.slot = slot, .op = PX_SNAP, .slot2 = last, .hidden = 1, .time = c->time};
    struct px_record *r = catalog_record(pool, slot);
    const struct px_record *s = catalog_record(pool, fork);
    bool goes_on = !pool->replaying || (past_goes_on(pool, slot) && r->past_keep);
    int ret;

    memcpy(snapshot.uuid, c->uuid, sizeof(snapshot.uuid));
    snprintf(snapshot.name, sizeof(snapshot.name), "history");
    ret = change_snapshot(pool, &snapshot);
    if (ret == 0 && goes_on)
        ret = add_entry(pool, slot, c->time, by);
    if (ret < 0)
        return pool_fail(pool, ret, "a history cannot be gone on with");
    set_aside(pool, slot, fork);
    r->since = s->epoch;
    r->root = s->root;
    r->levels = s->levels;
    r->size = s->size;
    catalog_touch(pool, slot);
    return 0;
}

int past_allow_branches(struct pool *pool, struct dt_error *err)
{
    int ret;

    if (pool->root.branched)
        return 0;
    pool->root.branched = 1;
    pool->changes++;
    ret = pool_checkpoint(pool, err);
    if (ret < 0)
        pool->root.branched = 0;
    return ret;
}

bool past_replaced(const struct pool *pool, uint32_t disk, uint64_t number, uint32_t *was,
                   uint32_t *fork)
{
    for (struct aside a = {0}; catalog_aside(pool, disk, &a);) {
        const struct px_record *r = catalog_record(pool, a.slot);

        if (r->flags & PX_BRANCH)
            *fork = r->prev - 1;
        *was = a.slot;
        if (pool->catalog.info[a.slot].next == NO_SLOT && r->writes + 1 == number)
            return true;
    }
    return false;
}
