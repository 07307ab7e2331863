/* SPDX-License-Identifier: MIT */
/*
 * receive.c - a snapshot that arrives: receive.h.
 *
 * Theory of operation: three changes of the catalogue. STAGE makes the disk that is written; its
 * UUID is that of the snapshot which arrives, and its record tells how far it got, so a broken
 * stream can be gone on with by whoever comes later. PROGRESS moves that mark. ADOPT gives its tree
 * to the disk that it is for.
 *
 * The staged disk is a clone of the disk's newest snapshot. A clone's first epoch is the one after
 * its snapshot's, and so is the epoch of a disk that wrote nothing since that snapshot. So the
 * births in the tree that changes its owner are right as they are, and nothing below the root is
 * touched.
 */
#include "parallax/receive.h"

#include "parallax/change.h"

#include <stdio.h>

#define MARK '~'

bool change_staging(const struct px_record *r)
{
    size_t n = strnlen(r->name, PX_NAME);

    return r->kind == PX_DISK && n > 0 && r->name[n - 1] == MARK;
}

void pool_receive_name(const char *disk, char *text)
{
    snprintf(text, PX_NAME + 1, "%.*s%c", (int)PX_NAME - 1, disk, MARK);
}

/* ---- Checking: all that a journal may say ---- */

static int check_stage_name(struct pool *pool, const char *name, struct dt_error *err)
{
    size_t n = strlen(name);
    char plain[PX_NAME];

    memcpy(plain, name, n + 1);
    if (n)
        plain[n - 1] = '\0';
    if (n == 0 || name[n - 1] != MARK || !change_good_name(plain))
        return change_refuse_name(plain, err);
    if (catalog_disk(pool, name, n) != NO_SLOT)
        return dt_fail(err, -EEXIST, "there is a disk '%s' already", name);
    return 0;
}

static int check_stage(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *base = c->slot2 ? change_live(pool, c->slot2 - 1, PX_SNAPSHOT) : NULL;

    if (c->slot2 && !base)
        return dt_fail(err, -EBADMSG, "a stream's base is no snapshot");
    if (!change_good_size(c->size))
        return dt_fail(err, -EINVAL, "a disk has 4 KiB to 64 TiB, in steps of 4 KiB");
    if (c->sector != 512 && c->sector != 4096)
        return dt_fail(err, -EINVAL, "sectors have 512 or 4096 bytes");
    if (!change_slot_free(pool, c->head.slot))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->head.slot);
    return check_stage_name(pool, c->name, err);
}

static const struct px_record *staged(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = change_live(pool, slot, PX_DISK);

    return r && change_staging(r) ? r : NULL;
}

static int check_progress(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = staged(pool, c->head.slot);

    if (!r || c->size > r->size || c->size % PX_BLOCK)
        return dt_fail(err, -EINVAL, "nothing is being received there");
    return 0;
}

static int check_adopt(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = staged(pool, c->head.slot), *to;

    if (!r || r->prev || pool_clones(pool, c->head.slot))
        return dt_fail(err, -EINVAL, "nothing is being received there");
    if (!c->slot2)
        return r->parent ? dt_fail(err, -EBADMSG, "what has a base needs a disk")
                         : change_new_name(pool, NO_SLOT, c->name, err);
    to = change_live(pool, c->slot2 - 1, PX_DISK);
    if (to && (!past_kept_then(pool, to, c->count) != !c->count || c->count > NO_SLOT))
        return dt_fail(err, -EBADMSG, "a stream that keeps no history, or one that is not there");
    if (!to || !r->parent || to->sector != r->sector || (!c->count && to->prev != r->parent))
        return dt_fail(err, -EINVAL,
                       "the base of what was received is not the newest snapshot of %s",
                       to ? to->name : "any disk");
    return c->count
               ? past_branch_check(pool, c->slot2 - 1, r->parent - 1, (uint32_t)c->count - 1, err)
               : 0;
}

int receive_check(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    switch (c->op) {
    case PX_STAGE:
        return check_stage(pool, c, err);
    case PX_PROGRESS:
        return check_progress(pool, c, err);
    default:
        return check_adopt(pool, c, err);
    }
}

/* ---- Carrying out ---- */

static int do_stage(struct pool *pool, const struct px_change *c)
{
    struct px_record r = change_new_disk(c);
    struct tree_lost lost = {0};
    struct tree t;
    int ret;

    if (c->slot2) {
        const struct px_record *base = catalog_record(pool, c->slot2 - 1);

        r.parent = c->slot2;
        r.origin_epoch = r.since = base->epoch;
        r.epoch = base->epoch + 1;
        r.root = base->root;
        r.levels = base->levels;
        r.damaged = base->damaged;
    }
    ret = catalog_claim(pool, c->head.slot, &r);
    if (ret < 0 || !c->slot2)
        return ret;
    /* The disk may have got another size since the base. */
    t = catalog_tree(pool, c->head.slot);
    t.lost = &lost;
    ret = tree_grow(pool, &t, c->size >> PX_BLOCK_SHIFT);
    ret = ret ?: tree_zero(pool, &t, c->size >> PX_BLOCK_SHIFT, tree_span(*t.levels));
    if (lost.spoilt) /* then it cannot be written, and whoever sends is told */
        catalog_record(pool, c->head.slot)->damaged = r.damaged ?: lost.spoilt;
    return ret;
}

static void rename_adopted(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);

    catalog_unname(pool, c->head.slot);
    memcpy(r->name, c->name, sizeof(r->name));
    memcpy(r->uuid, c->uuid, sizeof(r->uuid));
    r->created = c->time;
    r->writes = 0;
    catalog_name(pool, c->head.slot);
    catalog_touch(pool, c->head.slot);
}

static int do_adopt(struct pool *pool, const struct px_change *c)
{
    struct tree_lost lost = {0};
    struct px_record *r, *to;
    struct tree t;
    int ret = 0;

    if (!c->slot2) {
        rename_adopted(pool, c);
        return 0;
    }
    r = catalog_record(pool, c->head.slot);
    to = catalog_record(pool, c->slot2 - 1);
    t = catalog_tree(pool, c->slot2 - 1);
    /* A disk with a history returns to the base first. */
    if (c->count) {
        ret = past_branch(pool, c, c->slot2 - 1, r->parent - 1, (uint32_t)c->count - 1,
                          "cvd receive");
    } else {
        t.lost = &lost;
        ret = tree_free_all(pool, &t);
        pool_lost(pool, c->slot2 - 1, &lost);
    }
    if (ret < 0)
        return ret;
    to->damaged = r->damaged;
    to->charged += r->charged; /* what was received is its own from now on */
    to->root = r->root;
    to->levels = r->levels;
    to->size = r->size;
    to->epoch = MAX(to->epoch, r->epoch);
    catalog_touch(pool, c->slot2 - 1);
    catalog_release(pool, c->head.slot);
    return ret;
}

int receive_apply(struct pool *pool, const struct px_change *c)
{
    if (c->op == PX_STAGE)
        return do_stage(pool, c);
    if (c->op == PX_ADOPT)
        return do_adopt(pool, c);
    catalog_record(pool, c->head.slot)->writes = c->size;
    catalog_touch(pool, c->head.slot);
    return 0;
}

/* ---- What is asked for ---- */

static bool same(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, 16) == 0;
}

static bool no_base(const struct pool_received *what)
{
    static const uint8_t none[16];

    return same(what->base, none);
}

static uint32_t find_staged(struct pool *pool, const char *disk)
{
    char name[PX_NAME + 1];

    pool_receive_name(disk, name);
    return catalog_disk(pool, name, strlen(name));
}

static int refuse_base(const struct pool *pool, const char *disk, const struct pool_received *what,
                       uint32_t newest, struct dt_error *err)
{
    if (newest == NO_SLOT)
        return dt_fail(err, -ESTALE, "the stream is based on snapshot '%s', and '%s' has none",
                       what->base_name, disk);
    return dt_fail(err, -ESTALE,
                   "the stream is based on snapshot '%s', and the newest of '%s' is '%s', with "
                   "other contents",
                   what->base_name, disk, catalog_record(pool, newest)->name);
}

/* The disk must be what the base was: what was written to it since would be lost. */
static int find_base(struct pool *pool, const char *name, const struct pool_received *what,
                     uint32_t *disk, uint32_t *base, struct dt_error *err)
{
    const struct px_record *r, *b;

    *disk = catalog_disk(pool, name, strlen(name));
    *base = NO_SLOT;
    if (no_base(what))
        return *disk == NO_SLOT ? 0
                                : dt_fail(err, -EEXIST,
                                          "there is a disk '%s', and the stream holds all of one: "
                                          "receive it under another name",
                                          name);
    if (*disk == NO_SLOT)
        return dt_fail(
            err, -ENOENT,
            "the stream is based on snapshot '%s', and there is no disk '%s' that has it",
            what->base_name, name);
    *base = pool_snapshot_before(pool, *disk);
    if (*base == NO_SLOT || !same(catalog_record(pool, *base)->uuid, what->base))
        return refuse_base(pool, name, what, *base, err);
    r = catalog_record(pool, *disk);
    b = catalog_record(pool, *base);
    if (!ptr_same(r->root, b->root) || r->size != b->size)
        return dt_fail(err, -ESTALE,
                       "'%s' was changed since its snapshot '%s', on which the stream is based: "
                       "cvd rollback it, or receive into another disk",
                       name, b->name);
    return 0;
}

static int go_on(struct pool *pool, const char *disk, const struct pool_received *what,
                 uint32_t base, uint64_t *position, struct dt_error *err)
{
    uint32_t slot = find_staged(pool, disk);
    const struct px_record *r = slot == NO_SLOT ? NULL : catalog_record(pool, slot);

    if (!r)
        return dt_fail(err, -ENOENT, "nothing was being received into '%s'", disk);
    if (!same(r->uuid, what->snapshot) || r->size != what->size ||
        r->parent != (base == NO_SLOT ? 0 : base + 1))
        return dt_fail(err, -ESTALE,
                       "what was being received into '%s' is another snapshot than '%s', or has "
                       "another base: 'cvd delete' %s forgets it",
                       disk, what->name, r->name);
    *position = r->writes;
    return 0;
}

int pool_receive_begin(struct pool *pool, const char *disk, const struct pool_received *what,
                       bool resume, uint64_t *position, struct dt_error *err)
{
    uint32_t target, base;
    struct px_change c;
    int ret = 0;

    *position = 0;
    if (!change_good_name(disk) || strlen(disk) + 2 > PX_NAME)
        return dt_fail(err, -EINVAL,
                       "'%.80s' is no name for what is received: it has at most %u "
                       "letters, digits and any of . - _ : +",
                       disk, PX_NAME - 2);
    ret = find_base(pool, disk, what, &target, &base, err);
    if (ret < 0)
        return ret;
    if (resume)
        return go_on(pool, disk, what, base, position, err);
    if (find_staged(pool, disk) != NO_SLOT)
        return dt_fail(err, -EEXIST,
                       "an earlier stream into '%s' broke off: --resume goes on with it, 'cvd "
                       "delete' %s%c forgets it",
                       disk, disk, MARK);
    change_begin(&c, PX_STAGE, catalog_free_run(pool, 1));
    c.slot2 = base == NO_SLOT ? 0 : base + 1;
    c.size = what->size;
    c.sector = what->sector;
    memcpy(c.uuid, what->snapshot, sizeof(c.uuid));
    pool_receive_name(disk, c.name);
    return change_commit(pool, &c, 1, err);
}

/* Until it is adopted it is charged to nobody. @to: the disk, or NO_SLOT where that is a new one, which has no quota. */
static int within_quota(const struct pool *pool, uint32_t to, uint32_t slot, struct dt_error *err)
{
    const struct px_record *disk = pool_record(pool, to), *r = pool_record(pool, slot);
    uint64_t blocks = disk && r ? disk->charged + r->charged : 0;

    if (!disk || !disk->quota || blocks <= disk->quota)
        return 0;
    return dt_fail(err, -EDQUOT,
                   "'%s' would exceed its quota of %llu KiB by %llu KiB: raise it, or delete "
                   "snapshots, and go on with --resume",
                   disk->name, (unsigned long long)disk->quota << 2,
                   (unsigned long long)(blocks - disk->quota) << 2);
}

int pool_receive_progress(struct pool *pool, const char *disk, uint64_t position,
                          struct dt_error *err)
{
    struct px_change c;
    int ret =
        within_quota(pool, catalog_disk(pool, disk, strlen(disk)), find_staged(pool, disk), err);

    if (ret < 0)
        return ret;
    change_begin(&c, PX_PROGRESS, find_staged(pool, disk));
    c.size = position;
    return change_commit(pool, &c, 1, err);
}

/* Like a rollback, it depends on the newest snapshot being that in the record, too, as the root has it: the end of a deletion is
 * in no journal. Or in a history, on branches. */
static int settle_line(struct pool *pool, uint32_t disk, uint32_t base, struct dt_error *err)
{
    int ret;

    if (disk != NO_SLOT && catalog_record(pool, disk)->past_keep)
        return past_allow_branches(pool, err);
    if (disk == NO_SLOT)
        return 0;
    ret = catalog_record(pool, disk)->prev == base + 1 ? 0 : pool_reclaim_all(pool, err);
    return ret ?: pool_checkpoint(pool, err);
}

int pool_receive_end(struct pool *pool, const char *disk, const struct pool_received *what,
                     struct dt_error *err)
{
    uint32_t slot = find_staged(pool, disk), target, base, free_slot;
    struct px_change c[2];
    int ret = find_base(pool, disk, what, &target, &base, err);

    if (ret == 0 && slot == NO_SLOT)
        ret = dt_fail(err, -ENOENT, "nothing is being received into '%s'", disk);
    if (ret == 0 && pool_mounted(pool, slot)) /* by whoever wrote it, whose session is ending */
        ret = dt_fail(err, -EAGAIN, "%s%c is still in use", disk, MARK);
    if (ret == 0 && target != NO_SLOT)
        ret = within_quota(pool, target, slot, err)
                  ?: change_not_mounted(pool, target, err)
                  ?: settle_line(pool, target, base, err);
    if (ret < 0)
        return ret;
    change_begin(&c[0], PX_ADOPT, slot);
    c[0].slot2 = target == NO_SLOT ? 0 : target + 1;
    snprintf(c[0].name, sizeof(c[0].name), "%s", disk);
    free_slot = catalog_free_run(pool, 2);
    if (target != NO_SLOT && catalog_record(pool, target)->past_keep) {
        c[0].time = change_clock(pool);
        c[0].count = free_slot++ + 1ull;
    }
    change_begin(&c[1], PX_SNAP, target == NO_SLOT ? slot : target);
    c[1].slot2 = free_slot;
    c[1].time = what->created;
    memcpy(c[1].uuid, what->snapshot, sizeof(c[1].uuid));
    snprintf(c[1].name, sizeof(c[1].name), "%s", what->name);
    return change_commit(pool, c, 2, err);
}
