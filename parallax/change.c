/* SPDX-License-Identifier: MIT */
/*
 * change.c - changes of the catalogue: create, snapshot, clone, label, rename, resize, delete, roll
 * back.
 *
 * Theory of operation: a change is a small structure that is checked, carried out in memory, and
 * added to the journal as it is. Recovery carries out the same structures in the same order on the
 * same state, by the same code. So nothing in it may depend on the time, on chance, or on who has
 * what mounted: the callers at the end of the file decide such things before.
 */
#include "parallax/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <time.h>

#define MAX_CLONES ((uint64_t)1 << 24)

static int refuse_name(const char *name, struct dt_error *err)
{
    return dt_fail(err, -EINVAL,
                   "'%.80s' is no name: 1 to 63 letters, digits and any of . - _ : + are one",
                   name);
}

static bool good_name(const char *name)
{
    size_t n = strnlen(name, PX_NAME);

    if (n == 0 || n == PX_NAME)
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr(".-_:+", *name))
            return false;
    return true;
}

static bool good_size(uint64_t size)
{
    return size > 0 && size <= PX_MAX_SIZE && size % PX_BLOCK == 0;
}

static const struct px_record *live(const struct pool *pool, uint32_t slot, enum px_kind kind)
{
    const struct px_record *r = pool_record(pool, slot);

    return r && r->kind == kind && !(r->flags & (PX_DYING | PX_HEADLESS)) ? r : NULL;
}

static bool slot_free(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    return slot < NO_SLOT - PX_RECORDS &&
           (!r || (r->kind == PX_FREE && !pool->catalog.info[slot].dead));
}

#define LONG_NAME (PX_NAME + 21)

/* May be too long for a name by the digits of a number: check_new_name() sees. */
static void clone_name(const struct px_change *c, uint64_t i, char *name)
{
    if (c->size)
        snprintf(name, LONG_NAME, "%s%llu", c->name, (unsigned long long)(c->size - 1 + i));
    else
        snprintf(name, LONG_NAME, "%s", c->name);
}

/* ---- Checking ---- */

static int check_new_name(struct pool *pool, uint32_t disk, const char *name, struct dt_error *err)
{
    if (!good_name(name))
        return refuse_name(name, err);
    if (disk == NO_SLOT && catalog_disk(pool, name, strlen(name)) != NO_SLOT)
        return dt_fail(err, -EEXIST, "there is a disk '%s' already", name);
    if (disk != NO_SLOT && catalog_snapshot(pool, disk, name) != NO_SLOT)
        return dt_fail(err, -EEXIST, "disk '%s' has a snapshot '%s' already",
                       catalog_record(pool, disk)->name, name);
    return 0;
}

static int check_create(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (!good_size(c->size))
        return dt_fail(err, -EINVAL, "a disk has 4 KiB to 64 TiB, in steps of 4 KiB");
    if (c->sector != 512 && c->sector != 4096)
        return dt_fail(err, -EINVAL, "sectors have 512 or 4096 bytes");
    if (!slot_free(pool, c->head.slot))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->head.slot);
    return check_new_name(pool, NO_SLOT, c->name, err);
}

static int check_snapshot(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = live(pool, c->head.slot, PX_DISK);

    if (!r || r->epoch >= ((uint64_t)1 << 40) - 2)
        return dt_fail(err, -EINVAL, "only a disk can have a snapshot taken");
    if (!slot_free(pool, c->slot2))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->slot2);
    return check_new_name(pool, c->head.slot, c->name, err);
}

static int check_clone(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = live(pool, c->head.slot, PX_SNAPSHOT);
    char name[LONG_NAME];

    if (!r)
        return dt_fail(err, -EINVAL,
                       "clones are made of snapshots (cvd label makes one of a disk)");
    if (!(r->flags & PX_LABELLED))
        return dt_fail(err, -EINVAL,
                       "snapshot '%s' is not labelled: cvd label keeps it, then it "
                       "can be cloned",
                       r->name);
    if (c->count == 0 || c->count > MAX_CLONES)
        return dt_fail(err, -EINVAL, "1 to %llu clones can be made at once",
                       (unsigned long long)MAX_CLONES);
    for (uint64_t i = 0; i < c->count; i++) {
        int ret;

        if (c->slot2 + i >= NO_SLOT || !slot_free(pool, (uint32_t)(c->slot2 + i)))
            return dt_fail(err, -EBADMSG, "the catalogue has no room there");
        clone_name(c, i, name);
        ret = check_new_name(pool, NO_SLOT, name, err);
        if (ret < 0)
            return ret;
    }
    return c->count > 1 && !c->size ? dt_fail(err, -EINVAL, "clones need different names") : 0;
}

static const struct px_record *any_clone(const struct pool *pool, uint32_t snapshot)
{
    for (uint32_t slot = 0; slot < pool->catalog.slots; slot++) {
        const struct px_record *r = catalog_record(pool, slot);

        if (r->kind == PX_DISK && r->parent == snapshot + 1)
            return r;
    }
    return NULL;
}

static int check_label(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = live(pool, c->head.slot, PX_SNAPSHOT), *clone;

    if (!r)
        return dt_fail(err, -EINVAL, "only snapshots have labels");
    clone = c->op == PX_UNLABEL ? any_clone(pool, c->head.slot) : NULL;
    if (clone)
        return dt_fail(err, -EBUSY, "%u disks stand on snapshot '%s': '%s' is one",
                       pool->catalog.info[c->head.slot].clones, r->name, clone->name);
    if (c->op == PX_UNLABEL || strcmp(c->name, r->name) == 0)
        return 0;
    return check_new_name(pool, r->parent, c->name, err);
}

static int check_rename(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, c->head.slot);

    if (!r || ((r->flags & PX_DYING) && !(r->flags & PX_HEADLESS)))
        return dt_fail(err, -EINVAL, "there is nothing to rename");
    return check_new_name(pool, r->kind == PX_SNAPSHOT ? r->parent : NO_SLOT, c->name, err);
}

static int check_resize(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (!live(pool, c->head.slot, PX_DISK))
        return dt_fail(err, -EINVAL, "only a disk can be resized");
    return good_size(c->size)
               ? 0
               : dt_fail(err, -EINVAL, "a disk has 4 KiB to 64 TiB, in steps of 4 KiB");
}

static int check_delete(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, c->head.slot);

    if (!r || (r->flags & (PX_DYING | PX_HEADLESS)) == PX_DYING)
        return dt_fail(err, -EINVAL, "there is nothing to delete");
    if (r->kind == PX_SNAPSHOT && (r->flags & PX_LABELLED))
        return dt_fail(err, -EBUSY, "snapshot '%s' is labelled: cvd unlabel lets it go", r->name);
    return 0;
}

static int check_rollback(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = live(pool, c->head.slot, PX_DISK);

    if (!r)
        return dt_fail(err, -EINVAL, "only a disk can be rolled back");
    if (r->prev != c->slot2 + 1 || !live(pool, c->slot2, PX_SNAPSHOT))
        return dt_fail(err, -EINVAL, "that is not the newest snapshot of '%s'", r->name);
    return 0;
}

int change_check(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (c->op != PX_UNLABEL && c->op < PX_RESIZE && !memchr(c->name, 0, sizeof(c->name)))
        return dt_fail(err, -EBADMSG, "a name without an end");
    switch (c->op) {
    case PX_CREATE:
        return check_create(pool, c, err);
    case PX_SNAP:
        return check_snapshot(pool, c, err);
    case PX_CLONE:
        return check_clone(pool, c, err);
    case PX_LABEL:
    case PX_UNLABEL:
        return check_label(pool, c, err);
    case PX_RENAME:
        return check_rename(pool, c, err);
    case PX_RESIZE:
        return check_resize(pool, c, err);
    case PX_DELETE:
        return check_delete(pool, c, err);
    case PX_ROLLBACK:
        return check_rollback(pool, c, err);
    default:
        return dt_fail(err, -EBADMSG, "an unknown change (%u)", c->op);
    }
}

/* ---- Carrying out ---- */

static int do_create(struct pool *pool, const struct px_change *c)
{
    struct px_record r = {.kind = PX_DISK,
                          .size = c->size,
                          .epoch = 1,
                          .created = c->time,
                          .sector = c->sector,
                          .levels = (uint8_t)tree_levels_for(c->size >> PX_BLOCK_SHIFT)};

    memcpy(r.uuid, c->uuid, sizeof(r.uuid));
    memcpy(r.name, c->name, sizeof(r.name));
    return catalog_claim(pool, c->head.slot, &r);
}

static int do_snapshot(struct pool *pool, const struct px_change *c)
{
    struct px_record s = *catalog_record(pool, c->head.slot), *disk;
    int ret;

    s.kind = PX_SNAPSHOT;
    s.flags = 0;
    s.parent = c->head.slot;
    s.since = s.origin_epoch = 0;
    s.created = c->time;
    memcpy(s.uuid, c->uuid, sizeof(s.uuid));
    memcpy(s.name, c->name, sizeof(s.name));
    ret = catalog_claim(pool, c->slot2, &s);
    if (ret < 0)
        return ret;
    disk = catalog_record(pool, c->head.slot);
    pool->catalog.info[c->slot2].next = c->head.slot;
    disk->prev = c->slot2 + 1;
    disk->since = disk->epoch;
    disk->epoch++;
    catalog_touch(pool, c->head.slot);
    return 0;
}

static int do_clone(struct pool *pool, const struct px_change *c)
{
    const struct px_record snapshot = *catalog_record(pool, c->head.slot);
    char name[LONG_NAME];
    uint64_t low;

    memcpy(&low, c->uuid + 8, sizeof(low));
    for (uint64_t i = 0; i < c->count; i++, low++) {
        struct px_record r = snapshot;
        int ret;

        r.kind = PX_DISK;
        r.flags = 0;
        r.parent = c->head.slot + 1;
        r.prev = 0;
        r.origin_epoch = r.since = snapshot.epoch;
        r.epoch = snapshot.epoch + 1;
        r.created = c->time;
        memcpy(r.uuid, c->uuid, 8);
        memcpy(r.uuid + 8, &low, sizeof(low));
        clone_name(c, i, name);
        memset(r.name, 0, sizeof(r.name));
        memcpy(r.name, name, strlen(name));
        ret = catalog_claim(pool, (uint32_t)(c->slot2 + i), &r);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static void do_name(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);

    catalog_unname(pool, c->head.slot);
    if (c->op == PX_UNLABEL)
        r->flags &= ~(uint32_t)PX_LABELLED;
    else
        memcpy(r->name, c->name, sizeof(r->name));
    if (c->op == PX_LABEL)
        r->flags |= PX_LABELLED;
    catalog_name(pool, c->head.slot);
    catalog_touch(pool, c->head.slot);
}

static int do_resize(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);
    struct tree t = catalog_tree(pool, c->head.slot);
    uint64_t blocks = c->size >> PX_BLOCK_SHIFT;
    int ret;

    catalog_touch(pool, c->head.slot);
    if (c->size < r->size)
        ret = tree_zero(pool, &t, blocks, tree_span(r->levels));
    else
        ret = tree_grow(pool, &t, blocks);
    if (ret == 0)
        r->size = c->size;
    return ret;
}

static void begin_dying(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    catalog_unname(pool, slot);
    if (!(r->flags & PX_DYING))
        pool->catalog.dying++;
    r->flags |= PX_DYING;
    catalog_touch(pool, slot);
    pool->reclaim_maybe = true;
}

static void do_delete_disk(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);
    uint32_t s;

    for (s = pool_snapshot_before(pool, slot); s != NO_SLOT; s = pool_snapshot_before(pool, slot)) {
        if (catalog_record(pool, s)->flags & PX_LABELLED)
            break;
        begin_dying(pool, s);
    }
    catalog_unname(pool, slot);
    if (s != NO_SLOT) {
        r->flags |= PX_HEADLESS;
    } else {
        r->flags &= ~(uint32_t)PX_HEADLESS;
        /* It owns nothing that its origin has, so it keeps the origin no longer. */
        if (r->parent)
            pool->catalog.info[r->parent - 1].clones--;
        r->parent = 0;
    }
    if (!(r->flags & PX_DYING))
        pool->catalog.dying++;
    r->flags |= PX_DYING;
    catalog_name(pool, slot); /* a headless one keeps it */
    catalog_touch(pool, slot);
    pool->reclaim_maybe = true;
}

static int do_rollback(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);
    const struct px_record *s = catalog_record(pool, c->slot2);
    struct tree t = catalog_tree(pool, c->head.slot);
    int ret = tree_free_all(pool, &t);

    r->root = s->root;
    r->levels = s->levels;
    r->size = s->size;
    catalog_touch(pool, c->head.slot);
    return ret;
}

int change_apply(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    int ret = change_check(pool, c, err);

    if (ret < 0)
        return ret;
    switch (c->op) {
    case PX_CREATE:
        ret = do_create(pool, c);
        break;
    case PX_SNAP:
        ret = do_snapshot(pool, c);
        break;
    case PX_CLONE:
        ret = do_clone(pool, c);
        break;
    case PX_RESIZE:
        ret = do_resize(pool, c);
        break;
    case PX_DELETE:
        if (catalog_record(pool, c->head.slot)->kind == PX_DISK)
            do_delete_disk(pool, c->head.slot);
        else
            begin_dying(pool, c->head.slot);
        break;
    case PX_ROLLBACK:
        ret = do_rollback(pool, c);
        break;
    default:
        do_name(pool, c);
    }
    return ret < 0 ? dt_fail(err, ret, "%s: %s", pool->store->name, strerror(-ret)) : 0;
}

/* ---- What callers ask for ---- */

static uint64_t wall_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
}

static void fill(struct px_change *c, enum px_change_op op, uint32_t slot)
{
    uint64_t id[2] = {pool_random(), pool_random()};

    *c = (struct px_change){.head.slot = slot, .op = op, .time = wall_clock()};
    memcpy(c->uuid, id, sizeof(c->uuid));
    c->uuid[6] = (uint8_t)((c->uuid[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
    c->uuid[8] = (uint8_t)((c->uuid[8] & 0x3f) | 0x80);
}

static int set_name(struct px_change *c, const char *name, struct dt_error *err)
{
    if (!good_name(name))
        return refuse_name(name, err);
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

/* Carries out @n changes at once: all of their records are in one block of the journal. */
static int commit(struct pool *pool, struct px_change *changes, unsigned n, struct dt_error *err)
{
    size_t bytes = n * sizeof(*changes);
    uint64_t seq;
    int ret = writable(pool, err);

    for (unsigned i = 0; ret == 0 && i < n; i++)
        ret = change_check(pool, &changes[i], err);
    if (ret == 0 && !journal_has_room(pool, bytes, 1) && pool->ckpt == CKPT_IDLE)
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

    fill(&c, PX_CREATE, catalog_free_run(pool, 1));
    c.size = size;
    c.sector = sector;
    ret = set_name(&c, name, err);
    return ret ?: commit(pool, &c, 1, err);
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
        fill(&c[i], PX_SNAP, disks[i]);
        c[i].slot2 = first + i;
        c[i].time = c[0].time;
        ret = names ? set_name(&c[i], names[i], err) : time_name(pool, &c[i]);
        if (slots)
            slots[i] = c[i].slot2;
    }
    return ret ?: commit(pool, c, n, err);
}

int pool_clone(struct pool *pool, uint32_t snapshot, const char *name, uint64_t count,
               bool numbered, uint64_t first, struct dt_error *err)
{
    struct px_change c;
    int ret;

    fill(&c, PX_CLONE, snapshot);
    c.count = count;
    c.size = numbered ? first + 1 : 0;
    c.slot2 = catalog_free_run(pool, count);
    /* Its records need blocks of the catalogue when the next root is made. */
    if (pool->space.free <
        pool->space.reserve + pool->space.promised + count / PX_RECORDS * 17 / 16)
        return dt_fail(err, -ENOSPC, "%s has no space for the records of %llu disks",
                       pool->store->name, (unsigned long long)count);
    ret = set_name(&c, name, err);
    return ret ?: commit(pool, &c, 1, err);
}

int pool_label(struct pool *pool, uint32_t snapshot, const char *name, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, snapshot);
    struct px_change c;
    int ret;

    fill(&c, PX_LABEL, snapshot);
    ret = set_name(&c, name ?: r ? r->name : "", err);
    return ret ?: commit(pool, &c, 1, err);
}

int pool_unlabel(struct pool *pool, uint32_t snapshot, struct dt_error *err)
{
    struct px_change c;

    fill(&c, PX_UNLABEL, snapshot);
    return commit(pool, &c, 1, err);
}

int pool_rename(struct pool *pool, uint32_t slot, const char *name, struct dt_error *err)
{
    struct px_change c;
    int ret;

    fill(&c, PX_RENAME, slot);
    ret = set_name(&c, name, err);
    return ret ?: commit(pool, &c, 1, err);
}

int pool_resize(struct pool *pool, uint32_t disk, uint64_t size, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_change c;

    fill(&c, PX_RESIZE, disk);
    c.size = size;
    /* Writes may be under way behind what would be the end. */
    if (r && size < r->size && pool_mounted(pool, disk))
        return dt_fail(err, -EBUSY, "'%s' cannot get smaller while it is in use", r->name);
    return commit(pool, &c, 1, err);
}

static int not_mounted(const struct pool *pool, uint32_t slot, struct dt_error *err)
{
    const struct slot_info *info = &pool->catalog.info[slot];
    char name[2 * PX_NAME];

    if (!pool_mounted(pool, slot))
        return 0;
    pool_full_name(pool, slot, name);
    return dt_fail(err, -EBUSY, "%s is in use%s%s", name, info->writer ? " by " : " by a reader",
                   info->writer ? info->writer->owner : "");
}

int pool_delete_snapshot(struct pool *pool, uint32_t snapshot, struct dt_error *err)
{
    const struct px_record *r = live(pool, snapshot, PX_SNAPSHOT);
    struct px_change c;
    int ret;

    if (!r)
        return dt_fail(err, -EINVAL, "that is no snapshot");
    ret = not_mounted(pool, snapshot, err);
    fill(&c, PX_DELETE, snapshot);
    return ret ?: commit(pool, &c, 1, err);
}

int pool_collapse(struct pool *pool, uint32_t parent, uint32_t child, struct dt_error *err)
{
    uint32_t slot;
    int ret = 0;

    /* Both are looked at first: all or nothing. */
    for (slot = pool_snapshot_before(pool, child); slot != NO_SLOT && ret == 0;
         slot = pool_snapshot_before(pool, slot)) {
        struct px_change c = {.head.slot = slot, .op = PX_DELETE};

        ret = not_mounted(pool, slot, err);
        ret = ret ?: change_check(pool, &c, err);
        if (slot == parent)
            break;
    }
    if (ret < 0)
        return ret;
    if (slot == NO_SLOT)
        return dt_fail(err, -EINVAL, "the second is not a later snapshot in the line of the first");
    while (ret == 0 && (slot = pool_snapshot_before(pool, child)) != NO_SLOT) {
        ret = pool_delete_snapshot(pool, slot, err);
        if (slot == parent)
            break;
    }
    return ret;
}

int pool_delete_disk(struct pool *pool, uint32_t disk, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, disk);
    struct px_change c;
    int ret;

    if (!r || r->kind != PX_DISK)
        return dt_fail(err, -EINVAL, "that is no disk");
    ret = not_mounted(pool, disk, err);
    for (uint32_t s = pool_snapshot_before(pool, disk); ret == 0 && s != NO_SLOT;
         s = pool_snapshot_before(pool, s)) {
        if (catalog_record(pool, s)->flags & PX_LABELLED) {
            if ((r->flags & PX_HEADLESS) && pool_snapshot_before(pool, disk) == s)
                return dt_fail(err, -EBUSY,
                               "'%s' is deleted already and stands for its labelled "
                               "snapshots: '%s' is one (cvd unlabel lets it go)",
                               r->name, catalog_record(pool, s)->name);
            break;
        }
        ret = not_mounted(pool, s, err);
    }
    fill(&c, PX_DELETE, disk);
    return ret ?: commit(pool, &c, 1, err);
}

int pool_rollback(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err)
{
    uint32_t newest;
    struct px_change c;
    int ret = not_mounted(pool, disk, err);

    if (ret < 0)
        return ret;
    newest = pool_snapshot_before(pool, disk);
    if (newest != snapshot && newest != NO_SLOT)
        return dt_fail(err, -EBUSY,
                       "'%s' has later snapshots, '%s' is the newest: delete or "
                       "collapse them first",
                       catalog_record(pool, disk)->name, catalog_record(pool, newest)->name);
    /* Later ones that are being deleted are still in the line. That they are gone is in no journal,
     * so a root has to tell it before the journal can say that this is the newest. */
    ret = pool_reclaim_all(pool, err);
    ret = ret ?: pool_checkpoint(pool, err);
    if (ret < 0)
        return ret;
    fill(&c, PX_ROLLBACK, disk);
    c.slot2 = snapshot;
    return commit(pool, &c, 1, err);
}
