/* SPDX-License-Identifier: MIT */
/*
 * range.c - whole units become zeroes: discards, and the middle of writes of zeroes.
 *
 * One request at a time goes through its units. It takes no space, no data and no unit in memory:
 * entries become holes, one sector of the map after the other. Only a unit that is busy is waited
 * for, in its line as other parts are, because it may be reading the blocks that would be free
 * afterwards.
 */
#include "blk/compress/internal.h"

static void run(struct compress_ctx *cc);

void compress_range_start(struct compress_ctx *cc)
{
    compress_ios_init(&cc->range.queue);
}

static void done(struct compress_ctx *cc, int error)
{
    struct compress_io *cio = cc->range.now;

    cc->range.now = NULL;
    compress_done(cio, error);
}

static void recorded(struct compress_wait *wait, int error)
{
    struct compress_ctx *cc = container_of(wait, struct compress_ctx, range.wait);

    cc->range.waiting = false;
    done(cc, error);
    run(cc);
}

static void mapped(struct compress_wait *wait, int error)
{
    struct compress_ctx *cc = container_of(wait, struct compress_ctx, range.wait);

    cc->range.waiting = false;
    if (error)
        done(cc, error);
    else
        cc->range.sector = wait->sector;
    run(cc);
}

static void put_sector(struct compress_range *r)
{
    if (r->sector)
        compress_map_put(r->sector);
    r->sector = NULL;
}

static void clear(struct compress_ctx *cc)
{
    struct compress_range *r = &cc->range;

    if (!compress_is_hole(compress_entry_of(r->sector, r->unit))) {
        dt_count(cc->c, ZEROES, 1);
        compress_map_change(r->sector, r->unit, (struct compress_entry){0}, true);
        r->changed = true;
    }
    if (++r->unit % COMPRESS_ENTRIES == 0)
        put_sector(r);
}

static void get_sector(struct compress_ctx *cc)
{
    struct compress_range *r = &cc->range;
    int ret;

    r->wait.ready = mapped;
    ret = compress_map_get(cc, r->unit / COMPRESS_ENTRIES, &r->wait);
    if (ret > 0)
        r->sector = r->wait.sector;
    else if (ret < 0)
        done(cc, ret);
    else
        r->waiting = true;
}

static void step(struct compress_ctx *cc)
{
    struct compress_range *r = &cc->range;
    struct compress_unit *u;

    if (!r->sector) {
        get_sector(cc);
        return;
    }
    u = compress_unit_find(cc, r->unit);
    if (u && u->busy) {
        r->part.unit = r->unit;
        compress_parts_add(&u->waiting, &r->part);
        r->waiting = true;
        return;
    }
    if (u)
        u->valid = false;
    clear(cc);
}

static bool begin(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;
    struct compress_range *r = &cc->range;
    const struct dt_req *req;

    r->now = compress_ios_take(&r->queue);
    if (!r->now)
        return false;
    req = compress_req(r->now);
    r->unit = (compress_start(req) + COMPRESS_UNIT - 1) >> COMPRESS_UNIT_SHIFT;
    r->end = compress_end(req) == w->header.size ? w->at.units
                                                 : compress_end(req) >> COMPRESS_UNIT_SHIFT;
    r->changed = false;
    return true;
}

static void end(struct compress_ctx *cc)
{
    struct compress_range *r = &cc->range;

    put_sector(r);
    if (!r->changed) {
        done(cc, 0);
        return;
    }
    r->waiting = true;
    r->wait.ready = recorded;
    compress_record(cc, &r->wait);
}

static void run(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;
    struct compress_range *r = &cc->range;

    /* What is done calls the guest, which may ask for more. */
    if (r->running)
        return;
    r->running = true;
    while (!r->waiting && (r->now || begin(cc))) {
        if (w->failed) {
            put_sector(r);
            done(cc, -EIO);
        } else if (r->unit < r->end) {
            step(cc);
        } else {
            end(cc);
        }
    }
    r->running = false;
}

void compress_range_turn(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;

    cc->range.waiting = false;
    if (!w->failed)
        clear(cc);
    run(cc);
}

void compress_range_add(struct compress_ctx *cc, struct compress_io *cio)
{
    compress_ios_add(&cc->range.queue, cio);
    run(cc);
}
