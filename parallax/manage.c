/* SPDX-License-Identifier: MIT */
/*
 * manage.c - what an administrator asks of the catalogue: each call becomes one change or several,
 * which are committed to the journal at once. change.c tells how.
 *
 * What depends on the time, on chance, or on who has what mounted is decided here, and is written
 * into the change.
 */
#include "parallax/change.h"

#include <stdio.h>
#include <time.h>

static uint64_t wall_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
}

uint64_t change_clock(const struct pool *pool)
{
    return pool->o.clock ? pool->o.clock(pool->o.arg) : wall_clock();
}

void change_begin(struct px_change *c, enum px_change_op op, uint32_t slot)
{
    uint64_t id[2] = {pool_random(), pool_random()};

    *c = (struct px_change){.head.slot = slot, .op = op, .time = wall_clock()};
    memcpy(c->uuid, id, sizeof(c->uuid));
    c->uuid[6] = (uint8_t)((c->uuid[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
    c->uuid[8] = (uint8_t)((c->uuid[8] & 0x3f) | 0x80);
}

static int set_name(struct px_change *c, const char *name, struct dt_error *err)
{
    if (!change_good_name(name))
        return change_refuse_name(name, err);
    memcpy(c->name, name, strlen(name));
    return 0;
}

static int writable(const struct pool *pool, struct dt_error *err)
{
    if (pool->o.read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    if (pool->failed)
        return dt_fail(err, -EIO, "%s has failed and must be opened again", pool->store->name);
    return 0;
}

/* Records that are new need blocks of the catalogue when the next root is made; others only move. */
static int has_spare(struct pool *pool, const struct px_change *c, unsigned n, struct dt_error *err)
{
    switch (c->op) {
    case PX_CREATE:
    case PX_SNAP:
    case PX_STAGE:
    case PX_HISTORY:
    case PX_RESIZE:
        return spare_verb(pool, n, err);
    case PX_CLONE:
        return spare_verb(pool, c->count / PX_RECORDS * 17 / 16 + 1, err);
    default:
        return 0;
    }
}

/* Carries out @n changes at once: all of their records are in one block of the journal. */
int change_commit(struct pool *pool, struct px_change *changes, unsigned n, struct dt_error *err)
{
    size_t bytes = n * sizeof(*changes);
    uint64_t seq;
    int ret = writable(pool, err);

    for (unsigned i = 0; ret == 0 && i < n; i++)
        ret = change_check(pool, &changes[i], err) ?: has_spare(pool, &changes[i], n, err);
    if (ret == 0 && !journal_has_room(pool, bytes, 1) && !checkpoint_under_way(pool))
        ret = pool_checkpoint(pool, err);
    if (ret < 0)
        return ret;
    if (!journal_has_room(pool, bytes, 0))
        return dt_fail(err, -EAGAIN, "%s is busy writing its root: try again", pool->store->name);
    if (pool->journal.block->used + bytes > sizeof(pool->journal.block->records))
        ret = journal_seal(pool, &seq);
    for (unsigned i = 0; ret == 0 && i < n; i++) {
        ret = change_apply(pool, &changes[i], err);
        if (ret == 0) {
            struct px_change *to =
                journal_add(pool, PX_CHANGE, changes[i].head.slot, sizeof(*changes));

            changes[i].head = to->head;
            *to = changes[i];
        }
    }
    pool_kick(pool);
    return ret;
}

int pool_create_disk(struct pool *pool, const char *name, uint64_t size, uint32_t sector,
                     struct dt_error *err)
{
    struct px_change c;
    int ret;

    change_begin(&c, PX_CREATE, catalog_free_run(pool, 1));
    c.size = size;
    c.sector = sector;
    ret = set_name(&c, name, err);
    return ret ?: change_commit(pool, &c, 1, err);
}

#define MAX_CUT 30u

/* A name that tells the time; a number follows where two are taken within a microsecond. */
static int time_name(struct pool *pool, struct px_change *c)
{
    time_t seconds = (time_t)(c->time / DT_S(1));
    struct tm tm;

    gmtime_r(&seconds, &tm);
    for (unsigned i = 0;; i++) {
        int n = snprintf(c->name, sizeof(c->name), "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ",
                         tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
                         tm.tm_sec, (unsigned)(c->time % DT_S(1) / 1000));

        if (i)
            snprintf(c->name + n, sizeof(c->name) - (size_t)n, "-%u", i);
        if (catalog_snapshot(pool, c->head.slot, c->name) == NO_SLOT)
            return 0;
    }
}

int pool_snapshot(struct pool *pool, const uint32_t *disks, unsigned n, const char *const *names,
                  uint32_t *slots, struct dt_error *err)
{
    struct px_change c[MAX_CUT];
    uint32_t first = catalog_free_run(pool, n);
    int ret = 0;

    if (n == 0 || n > MAX_CUT)
        return dt_fail(err, -EINVAL, "1 to %u disks can be taken at one cut", MAX_CUT);
    for (unsigned i = 0; i < n && ret == 0; i++) {
        for (unsigned j = 0; j < i; j++)
            if (disks[j] == disks[i])
                return dt_fail(err, -EINVAL, "a disk is named twice");
        if (pool_record(pool, disks[i]) && change_staging(pool_record(pool, disks[i])))
            return dt_fail(err, -EBUSY, "'%s' is being received",
                           pool_record(pool, disks[i])->name);
        change_begin(&c[i], PX_SNAP, disks[i]);
        c[i].slot2 = first + i;
        c[i].time = c[0].time;
        ret = names ? set_name(&c[i], names[i], err) : time_name(pool, &c[i]);
        if (slots)
            slots[i] = c[i].slot2;
    }
    return ret ?: change_commit(pool, c, n, err);
}

/* Records of new disks need blocks of the catalogue when the next root is made. */
static bool has_space(const struct pool *pool, uint64_t disks)
{
    return space_free_now(&pool->space) >=
           pool->space.reserve + pool->space.promised + disks / PX_RECORDS * 17 / 16;
}

int pool_clone(struct pool *pool, uint32_t snapshot, const char *name, uint64_t count,
               bool numbered, uint64_t first, struct dt_error *err)
{
    struct px_change c;
    int ret;

    change_begin(&c, PX_CLONE, snapshot);
    c.count = count;
    c.size = numbered ? first + 1 : 0;
    c.slot2 = catalog_free_run(pool, count);
    if (!has_space(pool, count) && !(pin_yield(pool) && has_space(pool, count)))
        return dt_fail(err, -ENOSPC, "%s has no space for the records of %llu disks",
                       pool->store->name, (unsigned long long)count);
    ret = set_name(&c, name, err);
    return ret ?: change_commit(pool, &c, 1, err);
}

int pool_label(struct pool *pool, uint32_t snapshot, const char *name, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, snapshot);
    struct px_change c;
    int ret;

    change_begin(&c, PX_LABEL, snapshot);
    ret = set_name(&c, name ?: r ? r->name : "", err);
    ret = ret ?: change_commit(pool, &c, 1, err);
    if (ret == 0)
        common_labelled(pool, snapshot);
    return ret;
}

int pool_unlabel(struct pool *pool, uint32_t snapshot, struct dt_error *err)
{
    struct px_change c;

    change_begin(&c, PX_UNLABEL, snapshot);
    return change_commit(pool, &c, 1, err);
}

int pool_resize(struct pool *pool, uint32_t disk, uint64_t size, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_change c;

    change_begin(&c, PX_RESIZE, disk);
    c.size = size;
    /* Writes may be under way behind what would be the end. */
    if (r && size < r->size && pool_mounted(pool, disk))
        return dt_fail(err, -EBUSY, "'%s' cannot get smaller while it is in use", r->name);
    /* What is cut off is not in the history: a snapshot has it. */
    if (r && r->past_keep && past_anchor(pool, disk, NULL, err) < 0)
        return -EIO;
    return change_commit(pool, &c, 1, err);
}

int pool_set_quota(struct pool *pool, uint32_t disk, uint64_t bytes, enum px_policy policy,
                   struct dt_error *err)
{
    struct px_change c;

    change_begin(&c, PX_QUOTA, disk);
    c.size = ALIGN_UP(bytes, (uint64_t)PX_BLOCK);
    c.count = policy;
    return change_commit(pool, &c, 1, err);
}

int pool_set_weight(struct pool *pool, uint32_t disk, unsigned weight, struct dt_error *err)
{
    struct px_change c;

    change_begin(&c, PX_WEIGHT, disk);
    c.count = weight;
    return change_commit(pool, &c, 1, err);
}

int pool_set_schedule(struct pool *pool, uint32_t disk, uint32_t every, const struct px_rule *rules,
                      unsigned n, struct dt_error *err)
{
    struct px_change c;

    change_begin(&c, PX_SCHEDULE, disk);
    c.size = every;
    c.count = n;
    if (n > PX_RULES)
        return dt_fail(err, -EINVAL, "a schedule has at most %u rules", PX_RULES);
    if (n)
        memcpy(c.name, rules, n * sizeof(*rules));
    return change_commit(pool, &c, 1, err);
}

int schedule_snapshot(struct pool *pool, uint32_t disk, uint64_t now, struct dt_error *err)
{
    struct px_change c;
    int ret;

    change_begin(&c, PX_SNAP, disk);
    c.slot2 = catalog_free_run(pool, 1);
    c.time = now;
    c.count = 1;
    ret = time_name(pool, &c);
    return ret ?: change_commit(pool, &c, 1, err);
}

int change_not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err)
{
    const struct slot_info *info = &pool->catalog.info[slot];
    char name[2 * PX_NAME];

    if (!pool_mounted(pool, slot))
        return 0;
    pool_full_name(pool, slot, name);
    return dt_fail(err, -EBUSY, "%s is in use%s%s", name, info->writer ? " by " : " by a reader",
                   info->writer ? info->writer->owner : "");
}

/* Whoever has it open would look for the old name after a crash. */
int pool_rename(struct pool *pool, uint32_t slot, const char *name, struct dt_error *err)
{
    struct px_change c;
    int ret = change_not_mounted(pool, slot, err);

    change_begin(&c, PX_RENAME, slot);
    ret = ret ?: set_name(&c, name, err);
    return ret ?: change_commit(pool, &c, 1, err);
}

int pool_delete_snapshot(struct pool *pool, uint32_t snapshot, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, snapshot, PX_SNAPSHOT);
    struct px_change c;
    int ret;

    if (!r)
        return dt_fail(err, -EINVAL, "that is no snapshot");
    ret = change_not_mounted(pool, snapshot, err);
    change_begin(&c, PX_DELETE, snapshot);
    return ret ?: change_commit(pool, &c, 1, err);
}

static bool comes_before(const struct pool *pool, uint32_t parent, uint32_t child)
{
    do
        child = pool_snapshot_before(pool, child);
    while (child != NO_SLOT && child != parent);
    return child != NO_SLOT;
}

int pool_delete_range(struct pool *pool, uint32_t first, uint32_t last, struct dt_error *err)
{
    struct px_change c[2];
    uint32_t slot;
    unsigned n = 0;
    int ret = 0;

    if (first != last && !comes_before(pool, first, last))
        return dt_fail(err, -EINVAL, "the second is not a later snapshot in the line of the first");
    /* All are looked at first: all or nothing. */
    for (slot = last; slot != NO_SLOT && ret == 0; slot = pool_snapshot_before(pool, slot)) {
        c[0] = (struct px_change){.head.slot = slot, .op = PX_DELETE};
        ret = change_not_mounted(pool, slot, err);
        ret = ret ?: change_check(pool, &c[0], err);
        if (slot == first)
            break;
    }
    /* Both ends last and at once: who is told to try again names them once more. */
    while (ret == 0 && first != last && (slot = pool_snapshot_before(pool, last)) != first)
        ret = pool_delete_snapshot(pool, slot, err);
    change_begin(&c[n++], PX_DELETE, last);
    if (first != last)
        change_begin(&c[n++], PX_DELETE, first);
    return ret ?: change_commit(pool, c, n, err);
}

int pool_collapse(struct pool *pool, uint32_t parent, uint32_t child, struct dt_error *err)
{
    if (!comes_before(pool, parent, child))
        return dt_fail(err, -EINVAL, "the second is not a later snapshot in the line of the first");
    return pool_delete_range(pool, parent, pool_snapshot_before(pool, child), err);
}

int pool_delete_disk(struct pool *pool, uint32_t disk, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_change c;
    int ret;

    if (!r || r->kind != PX_DISK)
        return dt_fail(err, -EINVAL, "that is no disk");
    ret = change_not_mounted(pool, disk, err) ?: past_not_mounted(pool, disk, err);
    for (uint32_t s = pool_snapshot_before(pool, disk); ret == 0 && s != NO_SLOT;
         s = pool_snapshot_before(pool, s)) {
        if ((catalog_record(pool, s)->flags & PX_LABELLED) || pool_clones(pool, s)) {
            if ((r->flags & PX_HEADLESS) && pool_snapshot_before(pool, disk) == s)
                return dt_fail(err, -EBUSY,
                               "'%s' is deleted already and stands for its labelled "
                               "snapshots: '%s' is one (cvd unlabel lets it go)",
                               r->name, catalog_record(pool, s)->name);
            break;
        }
        ret = change_not_mounted(pool, s, err);
    }
    change_begin(&c, PX_DELETE, disk);
    return ret ?: change_commit(pool, &c, 1, err);
}
