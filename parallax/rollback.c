/* SPDX-License-Identifier: MIT */
/*
 * rollback.c - a disk becomes one of its snapshots again.
 *
 * Theory of operation: the disk's tree becomes that of the snapshot, which must be the newest one in its line. Later ones are deleted
 * before, if that is wanted, the newest first, some of them in each block of the journal. A crash leaves fewer of them, and either the old
 * contents or the new ones.
 *
 * Later ones that are being deleted are still in the line. That they are gone is in no journal, so a root has to tell it before the journal
 * can say that the snapshot is the newest. Where there is a history they are hidden, and become a branch.
 */
#include "parallax/change.h"

#include <stdio.h>

#define AT_ONCE (sizeof(((struct px_journal *)0)->records) / sizeof(struct px_change))
#define NAMED   4u

/* "'c', 'b' and 3 more": the snapshots after @snapshot. */
static void name_later(const struct pool *pool, uint32_t disk, uint32_t snapshot, char *text,
                       size_t size)
{
    unsigned n = 0;
    size_t at = 0;

    for (uint32_t s = pool_snapshot_before(pool, disk); s != NO_SLOT && s != snapshot;
         s = pool_snapshot_before(pool, s))
        if (n++ < NAMED)
            at += (size_t)snprintf(text + at, size - at, "%s'%s'", at ? ", " : "",
                                   catalog_record(pool, s)->name);
    if (n > NAMED)
        snprintf(text + at, size - at, " and %u more", n - NAMED);
}

static bool in_line(const struct pool *pool, uint32_t disk, uint32_t snapshot)
{
    do
        disk = pool_snapshot_before(pool, disk);
    while (disk != NO_SLOT && disk != snapshot);
    return disk != NO_SLOT;
}

/* All that could refuse any of it, before anything is done. */
static int judge(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, disk, PX_DISK);
    int ret;

    if (!r)
        return dt_fail(err, -EINVAL, "only a disk can be rolled back");
    if (!in_line(pool, disk, snapshot))
        return dt_fail(err, -EINVAL, "that is no snapshot of '%s'", r->name);
    ret = change_not_mounted(pool, disk, err);
    for (uint32_t s = pool_snapshot_before(pool, disk); ret == 0 && s != snapshot;
         s = pool_snapshot_before(pool, s)) {
        const struct px_change c = {.head.slot = s, .op = PX_DELETE};

        ret = change_not_mounted(pool, s, err) ?: change_check(pool, &c, err);
    }
    if (ret == 0 && r->past_keep)
        ret = past_branch_possible(pool, disk, err);
    return ret;
}

static unsigned add_later(const struct pool *pool, uint32_t disk, uint32_t snapshot,
                          struct px_change *c, unsigned most)
{
    unsigned n = 0;

    for (uint32_t s = pool_snapshot_before(pool, disk); s != snapshot && n < most;
         s = pool_snapshot_before(pool, s))
        change_begin(&c[n++], PX_DELETE, s);
    return n;
}

/* The last of @c: the disk is @snapshot again. */
static void add_return(struct pool *pool, uint32_t disk, uint32_t snapshot, struct px_change *c)
{
    change_begin(c, PX_ROLLBACK, disk);
    c->slot2 = snapshot;
    if (!catalog_record(pool, disk)->past_keep)
        return;
    c->time = change_clock(pool);
    c->count = catalog_free_run(pool, 1) + 1ull;
}

int pool_rollback_past(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err)
{
    struct px_change c[AT_ONCE];
    int ret = judge(pool, disk, snapshot, err);
    unsigned n;

    while (ret == 0 && (n = add_later(pool, disk, snapshot, c, AT_ONCE)) > 0)
        ret = change_commit(pool, c, n, err);
    if (ret == 0)
        ret = catalog_record(pool, disk)->past_keep
                  ? past_allow_branches(pool, err)
                  : pool_reclaim_all(pool, err) ?: pool_checkpoint(pool, err);
    if (ret < 0)
        return ret;
    add_return(pool, disk, snapshot, c);
    return change_commit(pool, c, 1, err);
}

int pool_rollback(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err)
{
    char later[NAMED * (PX_NAME + 4) + 24] = "";

    if (change_live(pool, disk, PX_DISK) && in_line(pool, disk, snapshot))
        name_later(pool, disk, snapshot, later, sizeof(later));
    if (*later)
        return dt_fail(
            err, -EBUSY, "'%s' has snapshots newer than '%s': %s ('cvd rollback -r' deletes them)",
            catalog_record(pool, disk)->name, catalog_record(pool, snapshot)->name, later);
    return pool_rollback_past(pool, disk, snapshot, err);
}
