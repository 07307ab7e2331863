/* SPDX-License-Identifier: MIT */
/*
 * change.c - changes of the catalogue: create, snapshot, clone, label, rename, resize, delete, roll
 * back.
 *
 * Theory of operation: a change is a small structure that is checked (change-check.c), carried out
 * in memory (here), and added to the journal as it is. Recovery carries out the same structures in
 * the same order on the same state, by the same code. So nothing in it may depend on the time, on
 * chance, or on who has what mounted: the callers (manage.c) decide such things before.
 */
#include "parallax/change.h"

struct px_record change_new_disk(const struct px_change *c)
{
    struct px_record r = {.kind = PX_DISK,
                          .size = c->size,
                          .epoch = 1,
                          .created = c->time,
                          .sector = c->sector,
                          .levels = (uint8_t)tree_levels_for(c->size >> PX_BLOCK_SHIFT)};

    memcpy(r.uuid, c->uuid, sizeof(r.uuid));
    memcpy(r.name, c->name, sizeof(r.name));
    return r;
}

static int do_create(struct pool *pool, const struct px_change *c)
{
    struct px_record r = change_new_disk(c);

    return catalog_claim(pool, c->head.slot, &r);
}

int change_snapshot(struct pool *pool, const struct px_change *c)
{
    struct px_record s = *catalog_record(pool, c->head.slot), *disk;
    int ret;

    s.kind = PX_SNAPSHOT;
    s.flags = (c->hidden ? PX_HIDDEN : 0) | (c->count ? PX_SCHEDULED : 0);
    past_forget(&s);
    s.parent = c->head.slot;
    s.since = s.origin_epoch = s.quota = s.charged = 0;
    s.policy = PX_HOLD;
    s.weight = 0;
    s.every = s.rules = 0;
    memset(s.rule, 0, sizeof(s.rule));
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
        r.writes = 0;
        r.parent = c->head.slot + 1;
        r.prev = 0;
        r.origin_epoch = r.since = snapshot.epoch;
        r.epoch = snapshot.epoch + 1;
        r.created = c->time;
        memcpy(r.uuid, c->uuid, 8);
        memcpy(r.uuid + 8, &low, sizeof(low));
        change_clone_name(c, i, name);
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
    struct tree_lost lost = {0};
    int ret;

    catalog_touch(pool, c->head.slot);
    r->writes += r->past_keep > 0;           /* states before and after it differ */
    t.lost = pool->replaying ? &lost : NULL; /* else the change was judged */
    if (c->size < r->size)
        ret = tree_zero(pool, &t, blocks, tree_span(r->levels));
    else
        ret = tree_grow(pool, &t, blocks);
    if (ret == 0)
        r->size = c->size;
    if (lost.spoilt)
        r->damaged = lost.spoilt;
    return ret;
}

void change_begin_dying(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    catalog_unname(pool, slot);
    if (!(r->flags & PX_DYING))
        catalog_doom(pool, slot);
    r->flags |= PX_DYING;
    r->flags &= ~(uint32_t)PX_HIDDEN;
    catalog_touch(pool, slot);
    pool->reclaim_maybe = true;
}

/* What a history needs stays, and is seen no longer. */
static void do_delete_snapshot(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);

    if (!catalog_record(pool, r->parent)->past_keep) {
        change_begin_dying(pool, slot);
        return;
    }
    catalog_unname(pool, slot);
    r->flags |= PX_HIDDEN;
    catalog_touch(pool, slot);
}

static void do_delete_disk(struct pool *pool, uint32_t slot)
{
    struct px_record *r = catalog_record(pool, slot);
    uint32_t s;

    past_stop(pool, slot);
    for (s = pool_snapshot_before(pool, slot); s != NO_SLOT; s = pool_snapshot_before(pool, s)) {
        if ((catalog_record(pool, s)->flags & PX_LABELLED) || pool_clones(pool, s))
            break;
        change_begin_dying(pool, s);
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
        catalog_doom(pool, slot);
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
    struct tree_lost lost = {0};
    int ret;

    if (c->count) {
        ret = past_branch(pool, c, c->head.slot, c->slot2, (uint32_t)c->count - 1, "cvd rollback");
        r->damaged = s->damaged;
        return ret;
    }
    t.lost = &lost;
    ret = tree_free_all(pool, &t);
    pool_lost(pool, c->head.slot, &lost);
    r->damaged = s->damaged;
    r->root = s->root;
    r->levels = s->levels;
    r->size = s->size;
    catalog_touch(pool, c->head.slot);
    return ret;
}

static void do_quota(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);

    r->quota = c->size >> PX_BLOCK_SHIFT;
    r->policy = (uint8_t)c->count;
    catalog_touch(pool, c->head.slot);
}

static void do_schedule(struct pool *pool, const struct px_change *c)
{
    struct px_record *r = catalog_record(pool, c->head.slot);

    r->every = (uint32_t)c->size;
    r->rules = (uint32_t)c->count;
    memcpy(r->rule, c->name, sizeof(r->rule));
    catalog_touch(pool, c->head.slot);
    pool->schedule.known = false;
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
        ret = change_snapshot(pool, c);
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
            do_delete_snapshot(pool, c->head.slot);
        break;
    case PX_ROLLBACK:
        ret = do_rollback(pool, c);
        break;
    case PX_STAGE:
    case PX_PROGRESS:
    case PX_ADOPT:
        ret = receive_apply(pool, c);
        break;
    case PX_HISTORY:
        ret = past_apply(pool, c);
        break;
    case PX_QUOTA:
        do_quota(pool, c);
        break;
    case PX_SCHEDULE:
        do_schedule(pool, c);
        break;
    case PX_WEIGHT:
        catalog_record(pool, c->head.slot)->weight = (uint16_t)c->count;
        catalog_touch(pool, c->head.slot);
        break;
    default:
        do_name(pool, c);
    }
    return ret < 0 ? dt_fail(err, ret, "%s: %s", pool->store->name, strerror(-ret)) : 0;
}
