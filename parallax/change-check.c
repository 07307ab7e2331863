/* SPDX-License-Identifier: MIT */
/* change-check.c - could a change of the catalogue be carried out? All is checked that a journal
 * may say. */
#include "parallax/change.h"

#include <ctype.h>
#include <stdio.h>

#define MAX_CLONES ((uint64_t)1 << 24)

int change_refuse_name(const char *name, struct dt_error *err)
{
    return dt_fail(err, -EINVAL,
                   "'%.80s' is no name: 1 to 63 letters, digits and any of . - _ : + are one",
                   name);
}

bool change_good_name(const char *name)
{
    size_t n = strnlen(name, PX_NAME);

    if (n == 0 || n == PX_NAME)
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr(".-_:+", *name))
            return false;
    return true;
}

bool change_good_size(uint64_t size)
{
    return size > 0 && size <= PX_MAX_SIZE && size % PX_BLOCK == 0;
}

const struct px_record *change_live(const struct pool *pool, uint32_t slot, enum px_kind kind)
{
    const struct px_record *r = pool_record(pool, slot);

    return r && r->kind == kind && !(r->flags & (PX_DYING | PX_HEADLESS | PX_HIDDEN)) ? r : NULL;
}

bool change_slot_free(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    return slot < NO_SLOT - PX_RECORDS &&
           (!r || (r->kind == PX_FREE && !pool->catalog.info[slot].dead));
}

void change_clone_name(const struct px_change *c, uint64_t i, char *name)
{
    if (c->size)
        snprintf(name, LONG_NAME, "%s%llu", c->name, (unsigned long long)(c->size - 1 + i));
    else
        snprintf(name, LONG_NAME, "%s", c->name);
}

/* ---- Checking ---- */

int change_new_name(struct pool *pool, uint32_t disk, const char *name, struct dt_error *err)
{
    uint32_t other;

    if (!change_good_name(name))
        return change_refuse_name(name, err);
    other = disk == NO_SLOT ? catalog_disk(pool, name, strlen(name)) : NO_SLOT;
    if (other != NO_SLOT && (catalog_record(pool, other)->flags & PX_HEADLESS))
        return dt_fail(err, -EEXIST,
                       "'%s' is the name of labelled snapshots whose disk was deleted: rename it, "
                       "or unlabel and delete them",
                       name);
    if (other != NO_SLOT)
        return dt_fail(err, -EEXIST, "there is a disk '%s' already", name);
    if (disk != NO_SLOT && catalog_snapshot(pool, disk, name) != NO_SLOT)
        return dt_fail(err, -EEXIST, "disk '%s' has a snapshot '%s' already",
                       catalog_record(pool, disk)->name, name);
    return 0;
}

static int check_create(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (!change_good_size(c->size))
        return dt_fail(err, -EINVAL, "a disk has 4 KiB to 64 TiB, in steps of 4 KiB");
    if (c->sector != 512 && c->sector != 4096)
        return dt_fail(err, -EINVAL, "sectors have 512 or 4096 bytes");
    if (!change_slot_free(pool, c->head.slot))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->head.slot);
    return change_new_name(pool, NO_SLOT, c->name, err);
}

static int check_snapshot(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_DISK);

    if (!r || r->epoch >= ((uint64_t)1 << 40) - 2)
        return dt_fail(err, -EINVAL, "only a disk can have a snapshot taken");
    if (!change_slot_free(pool, c->slot2))
        return dt_fail(err, -EBADMSG, "catalogue slot %u is in use", c->slot2);
    return c->hidden ? 0 : change_new_name(pool, c->head.slot, c->name, err);
}

static int check_clone(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_SNAPSHOT);
    char name[LONG_NAME];

    if (!r)
        return dt_fail(err, -EINVAL,
                       "clones are made of snapshots (cvd snap takes one, cvd label keeps it)");
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

        if (c->slot2 + i >= NO_SLOT || !change_slot_free(pool, (uint32_t)(c->slot2 + i)))
            return dt_fail(err, -EBADMSG, "the catalogue has no room there");
        change_clone_name(c, i, name);
        ret = change_new_name(pool, NO_SLOT, name, err);
        if (ret < 0)
            return ret;
    }
    return c->count > 1 && !c->size ? dt_fail(err, -EINVAL, "clones need different names") : 0;
}

#define NAMED 4u

/* "'a', 'b' and 7 more": who stands on @snapshot; empty if nobody does. */
static void name_clones(const struct pool *pool, uint32_t snapshot, char *text, size_t size)
{
    unsigned all = pool->catalog.info[snapshot].clones, n = 0;
    size_t at = 0;

    *text = '\0';
    for (uint32_t slot = 0; slot < pool->catalog.slots && n < NAMED; slot++) {
        const struct px_record *r = catalog_record(pool, slot);

        if (r->kind != PX_DISK || r->parent != snapshot + 1)
            continue;
        at += (size_t)snprintf(text + at, size - at, "%s'%s'", n ? ", " : "", r->name);
        n++;
    }
    if (n && all > n)
        snprintf(text + at, size - at, " and %u more", all - n);
}

static int check_label(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_SNAPSHOT);
    char clones[NAMED * (PX_NAME + 4) + 24] = "";

    if (!r)
        return dt_fail(err, -EINVAL, "only snapshots have labels");
    if (c->op == PX_UNLABEL)
        name_clones(pool, c->head.slot, clones, sizeof(clones));
    if (*clones)
        return dt_fail(err, -EBUSY, "snapshot '%s' has clones: %s", r->name, clones);
    if (c->op == PX_UNLABEL || strcmp(c->name, r->name) == 0)
        return 0;
    return change_new_name(pool, r->parent, c->name, err);
}

static int check_rename(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, c->head.slot);

    if (!r || (r->flags & PX_HIDDEN) || ((r->flags & PX_DYING) && !(r->flags & PX_HEADLESS)))
        return dt_fail(err, -EINVAL, "there is nothing to rename");
    if (change_staging(r))
        return dt_fail(err, -EBUSY, "'%s' is being received", r->name);
    return change_new_name(pool, r->kind == PX_SNAPSHOT ? r->parent : NO_SLOT, c->name, err);
}

static int check_resize(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_DISK);

    if (!r)
        return dt_fail(err, -EINVAL, "only a disk can be resized");
    if (!change_good_size(c->size))
        return dt_fail(err, -EINVAL, "a disk has 4 KiB to 64 TiB, in steps of 4 KiB");
    if (pool->replaying || c->size >= r->size)
        return 0;
    if (r->damaged ||
        probe_zero(pool, c->head.slot, c->size >> PX_BLOCK_SHIFT, tree_span(r->levels)) < 0)
        return dt_fail(err, -EIO,
                       "the map of '%s' is damaged (cvd pool check): it cannot get smaller",
                       r->name);
    return 0;
}

static int check_delete(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = pool_record(pool, c->head.slot);
    char clones[NAMED * (PX_NAME + 4) + 24];

    if (!r || (r->flags & (PX_DYING | PX_HEADLESS)) == PX_DYING || (r->flags & PX_HIDDEN))
        return dt_fail(err, -EINVAL, "there is nothing to delete");
    if (r->kind == PX_SNAPSHOT && (r->flags & PX_LABELLED))
        return dt_fail(err, -EBUSY, "snapshot '%s' is labelled: cvd unlabel lets it go", r->name);
    if (r->kind != PX_SNAPSHOT || !pool_clones(pool, c->head.slot))
        return 0;
    name_clones(pool, c->head.slot, clones, sizeof(clones));
    return dt_fail(err, -EBUSY, "on snapshot '%s' stand %s", r->name, clones);
}

static int check_rollback(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    const struct px_record *r = change_live(pool, c->head.slot, PX_DISK);

    if (!r)
        return dt_fail(err, -EINVAL, "only a disk can be rolled back");
    if (!past_kept_then(pool, r, c->count) != !c->count || c->count > NO_SLOT)
        return dt_fail(err, -EBADMSG, "a rollback that keeps no history, or one that is not there");
    if (c->count)
        return past_branch_check(pool, c->head.slot, c->slot2, (uint32_t)c->count - 1, err);
    if (r->prev != c->slot2 + 1 || !change_live(pool, c->slot2, PX_SNAPSHOT))
        return dt_fail(err, -EINVAL, "that is not the newest snapshot of '%s'", r->name);
    return 0;
}

static int check_quota(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (!change_live(pool, c->head.slot, PX_DISK))
        return dt_fail(err, -EINVAL, "only a disk has a quota");
    if (c->size % PX_BLOCK || c->size >> PX_BLOCK_SHIFT > PX_MAX_BLOCKS || c->count >= PX_POLICIES)
        return dt_fail(err, -EINVAL, "a quota is a multiple of 4 KiB, up to 4 PiB");
    return 0;
}

static int check_weight(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    if (!change_live(pool, c->head.slot, PX_DISK))
        return dt_fail(err, -EINVAL, "only a disk has a weight");
    if (c->count == 0 || c->count > DISK_MAX_WEIGHT)
        return dt_fail(err, -EINVAL, "a weight is 1 to %u", DISK_MAX_WEIGHT);
    return 0;
}

static int check_schedule(struct pool *pool, const struct px_change *c, struct dt_error *err)
{
    struct px_rule rule[PX_RULES];

    memcpy(rule, c->name, sizeof(rule));
    if (!change_live(pool, c->head.slot, PX_DISK))
        return dt_fail(err, -EINVAL, "only a disk has a schedule");
    if (c->size > UINT32_MAX || c->count > PX_RULES)
        return dt_fail(err, -EINVAL, "a schedule has at most %u rules", PX_RULES);
    if (!schedule_rules_good(rule, (unsigned)c->count))
        return dt_fail(err, -EINVAL, "the ages of what is kept do not rise");
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
    case PX_STAGE:
    case PX_PROGRESS:
    case PX_ADOPT:
        return receive_check(pool, c, err);
    case PX_HISTORY:
        return past_check(pool, c, err);
    case PX_QUOTA:
        return check_quota(pool, c, err);
    case PX_SCHEDULE:
        return check_schedule(pool, c, err);
    case PX_WEIGHT:
        return check_weight(pool, c, err);
    default:
        return dt_fail(err, -EBADMSG, "an unknown change (%u)", c->op);
    }
}
