/* SPDX-License-Identifier: MIT */
/*
 * map.c - sectors of the map in memory: read when they are needed, evicted when nobody does.
 *
 * A sector that may be evicted is in the stored map as it is, so that is where it is read from
 * again; the live map is never read while the disk is served. What is dirty stays; so that not all
 * of the memory becomes dirty, a commit begins when half of it is.
 */
#include "blk/compress/internal.h"

/* Blocks that wait for a commit to be free, at most, before one begins for their sake: 64 MiB. */
#define RETIRED_BLOCKS 16384u

void compress_map_start(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;

    cc->nsectors = w->map_cache / sizeof(*cc->sectors);
    for (cc->sector_mask = 1; cc->sector_mask < cc->nsectors; cc->sector_mask *= 2)
        ;
    cc->sector_hash = xcalloc(cc->sector_mask, sizeof(*cc->sector_hash));
    cc->sector_mask--;
    cc->sectors = xcalloc(cc->nsectors, sizeof(*cc->sectors));
    list_init(&cc->sector_lru);
    compress_waits_init(&cc->sector_wait);
}

void compress_map_stop(struct compress_ctx *cc)
{
    free(cc->sectors);
    free(cc->sector_hash);
}

static struct compress_sector **bucket(struct compress_ctx *cc, uint64_t index)
{
    return &cc->sector_hash[(index * 0x9e3779b97f4a7c15u >> 32) & cc->sector_mask];
}

static struct compress_sector *find(struct compress_ctx *cc, uint64_t index)
{
    struct compress_sector *s = *bucket(cc, index);

    while (s && s->index != index)
        s = s->hash_next;
    return s;
}

static void unhash(struct compress_sector *s)
{
    struct compress_sector **link = bucket(s->cc, s->index);

    while (*link != s)
        link = &(*link)->hash_next;
    *link = s->hash_next;
    s->index = UINT64_MAX;
}

static void pin(struct compress_sector *s)
{
    if (s->pins++ == 0)
        list_del(&s->lru);
}

void compress_map_give_up(struct compress_ctx *cc, int error)
{
    struct compress_waits waits;

    compress_waits_init(&waits);
    compress_waits_move(&waits, &cc->sector_wait);
    for (struct compress_wait *wait; (wait = compress_waits_take(&waits)) != NULL;)
        wait->ready(wait, error);
}

/* Memory for a sector has become free. */
static void serve_waiting(struct compress_ctx *cc)
{
    struct compress_wait *wait = compress_waits_take(&cc->sector_wait);
    int ret = wait ? compress_map_get(cc, wait->index, wait) : 0;

    if (ret)
        wait->ready(wait, MIN(ret, 0));
}

void compress_map_put(struct compress_sector *s)
{
    CHECK(s->pins > 0);
    if (--s->pins > 0)
        return;
    list_add_tail(&s->cc->sector_lru, &s->lru);
    serve_waiting(s->cc);
}

/* ---- Reading ---- */

static void loaded(struct compress_sector *s, int error)
{
    struct compress_waits waits;

    compress_waits_init(&waits);
    compress_waits_move(&waits, &s->waiting);
    s->loading = false;
    if (error)
        unhash(s);
    for (struct compress_wait *wait; (wait = compress_waits_take(&waits)) != NULL;) {
        if (!error) {
            pin(s);
            wait->sector = s;
        }
        wait->ready(wait, error);
    }
    compress_map_put(s);
}

static void begin(struct compress_sector *s);

static void sector_read(struct dt_io *io, int result)
{
    struct compress_sector *s = container_of(io, struct compress_sector, io);
    const struct compress *w = s->cc->c->layer_data;
    struct dt_error err;

    if (result == -EINTR || result == -EAGAIN) {
        begin(s);
    } else if (result != (int)sizeof(s->now)) {
        loaded(s, result < 0 ? result : -EIO);
    } else if (compress_map_check(&s->now, s->index, 0, &w->at, w->space.limit, w->file.path,
                                  &err) < 0) {
        dt_layer_event(w->layer, "damaged", "%s", err.text);
        loaded(s, -EIO);
    } else {
        loaded(s, 0);
    }
}

static void begin(struct compress_sector *s)
{
    const struct compress *w = s->cc->c->layer_data;

    s->iov = (struct iovec){&s->now, sizeof(s->now)};
    s->io.done = sector_read;
    dt_io_readv(s->cc->c, &s->io, w->file.map_fd, &s->iov, 1,
                w->at.map_offset + s->index * sizeof(s->now));
}

/* Memory for one more, that was never used or is of a sector which nobody needs; or NULL. */
static struct compress_sector *claim(struct compress_ctx *cc)
{
    struct compress_sector *s;

    if (cc->sectors_used < cc->nsectors) {
        s = &cc->sectors[cc->sectors_used++];
        s->cc = cc;
        s->index = UINT64_MAX;
        list_init(&s->lru);
        compress_waits_init(&s->waiting);
        return s;
    }
    if (list_empty(&cc->sector_lru))
        return NULL;
    s = list_entry(cc->sector_lru.next, struct compress_sector, lru);
    if (s->index != UINT64_MAX)
        unhash(s);
    return s;
}

static void load(struct compress_sector *s, struct compress_wait *wait)
{
    struct compress_ctx *cc = s->cc;
    struct compress_sector **link = bucket(cc, wait->index);

    pin(s);
    s->index = wait->index;
    s->hash_next = *link;
    *link = s;
    s->loading = true;
    compress_waits_add(&s->waiting, wait);
    dt_count(cc->c, MAP_MISSES, 1);
    begin(s);
}

int compress_map_get(struct compress_ctx *cc, uint64_t index, struct compress_wait *wait)
{
    const struct compress *w = cc->c->layer_data;
    struct compress_sector *s = find(cc, index);

    wait->index = index;
    if (s && !s->loading) {
        pin(s);
        wait->sector = s;
        return 1;
    }
    if (s) {
        compress_waits_add(&s->waiting, wait);
    } else if ((s = claim(cc)) != NULL) {
        load(s, wait);
    } else if (w->failed) {
        return -EIO; /* what is dirty stays so */
    } else {
        compress_waits_add(&cc->sector_wait, wait);
        compress_commit_soon(cc);
    }
    return 0;
}

bool compress_map_peek(struct compress_ctx *cc, uint64_t index, struct compress_map_sector *copy)
{
    const struct compress_sector *s = find(cc, index);

    if (!s || s->loading)
        return false;
    *copy = s->now;
    return true;
}

/* ---- Changing ---- */

static void account(struct compress *w, const struct compress_entry *e, uint64_t sign)
{
    if (compress_is_hole(e))
        return;
    w->mapped += sign;
    w->stored += sign * e->length;
}

void compress_map_change(struct compress_sector *s, uint64_t unit, struct compress_entry to,
                         bool discarded)
{
    struct compress_ctx *cc = s->cc;
    struct compress *w = cc->c->layer_data;
    struct compress_entry *e = compress_entry_of(s, unit);

    account(w, e, (uint64_t)-1);
    account(w, &to, 1);
    if (!compress_is_hole(e))
        compress_extents_add(&cc->replaced,
                             (struct compress_extent){e->block, compress_blocks(e), discarded});
    *e = to;
    if (!s->dirty) {
        s->dirty = true;
        pin(s);
        s->dirty_next = cc->dirty;
        cc->dirty = s;
        cc->ndirty++;
    }
    if (!s->recording) {
        s->recording = true;
        pin(s);
        s->record_next = cc->record_list;
        cc->record_list = s;
    }
    if (cc->ndirty > cc->nsectors / 2 || cc->retired.blocks > RETIRED_BLOCKS)
        compress_commit_soon(cc);
}
