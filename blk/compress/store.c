/* SPDX-License-Identifier: MIT */
/*
 * store.c - a unit is packed, goes to free blocks, and its entry changes.
 *
 * Where there is no space, the unit lets go of its writes: they wait without it, so that reads and
 * discards, which may make space, are not stuck behind them. A commit frees what was replaced; only
 * when there is nothing of that kind is the store full, and what waits is held as shortage.h says.
 * Both begin anew, from the unit as it is then.
 */
#include "blk/compress/internal.h"

/* ---- No space ---- */

static bool commit_would_free(const struct compress_ctx *cc)
{
    return cc->replaced.n || cc->recorded.n || cc->retired.n || cc->ending.n;
}

static void starve(struct compress_unit *u, int error)
{
    struct compress_ctx *cc = u->cc;

    const struct compress *w = cc->c->layer_data;

    u->valid = false;
    if (w->failed) {
        compress_batch_done(u, -EIO);
    } else if (commit_would_free(cc)) {
        compress_parts_move(&cc->starved, &u->batch);
        compress_commit_soon(cc);
        compress_unit_next(u);
    } else if (shortage_holds(&cc->shortage)) {
        for (const struct compress_part *p = u->batch.head; p; p = p->next)
            dt_count(cc->c, HELD, 1);
        compress_parts_move(&cc->held, &u->batch);
        compress_unit_next(u);
    } else {
        compress_batch_done(u, shortage_error(&cc->shortage, error));
    }
}

static bool retry(struct compress_ctx *cc, struct compress_parts *list, int error)
{
    struct compress_parts parts;
    bool any = list->head != NULL;

    /* What has to wait again is not in the list that is gone through. */
    compress_parts_init(&parts);
    compress_parts_move(&parts, list);
    for (struct compress_part *p; (p = compress_parts_take(&parts)) != NULL;)
        if (error)
            compress_part_done(cc, p, error);
        else
            compress_unit_enter(cc, p);
    return any;
}

void compress_retry_starved(struct compress_ctx *cc, int error)
{
    retry(cc, &cc->starved, error);
}

bool compress_again(struct shortage_ctx *s, int error)
{
    struct compress_ctx *cc = container_of(s, struct compress_ctx, shortage);
    bool any = compress_record_again(cc, error);

    any |= compress_commit_again(cc, error);
    return retry(cc, &cc->held, error) || any;
}

/* ---- Storing ---- */

static void recorded(struct compress_wait *wait, int error)
{
    compress_batch_done(container_of(wait, struct compress_unit, wait), error);
}

static void record(struct compress_unit *u)
{
    u->wait.ready = recorded;
    compress_record(u->cc, &u->wait);
}

static void begin(struct compress_unit *u);

static void written(struct dt_io *io, int result)
{
    struct compress_unit *u = container_of(io, struct compress_unit, io);
    struct compress *w = u->cc->c->layer_data;
    uint32_t blocks = compress_blocks(&u->entry);

    if (result == (int)u->iov.iov_len) {
        if (u->entry.block + blocks == w->space.end)
            w->space.tight = false; /* it grows again */
        compress_map_change(u->sector, u->index, u->entry, false);
        record(u);
        return;
    }
    if (result == -EINTR || result == -EAGAIN) {
        begin(u);
        return;
    }
    compress_space_free(&w->space, u->entry.block, blocks);
    if (result >= 0)
        result = -ENOSPC; /* what a file system does with the last of its space */
    if (shortage_is(result)) {
        w->space.tight = true;
        starve(u, result);
    } else {
        compress_batch_done(u, result);
    }
}

static void begin(struct compress_unit *u)
{
    const struct compress *w = u->cc->c->layer_data;

    u->io.done = written;
    dt_io_writev(u->cc->c, &u->io, w->file.fd, &u->iov, 1,
                 w->at.data_offset + (u->entry.block << COMPRESS_BLOCK_SHIFT));
}

static bool all_zero(const uint8_t *data)
{
    uint64_t first;

    memcpy(&first, data, sizeof(first));
    return first == 0 && memcmp(data, data + sizeof(first), COMPRESS_UNIT - sizeof(first)) == 0;
}

/* Fills u->entry, but for the block, and u->iov. */
static void pack(struct compress_unit *u)
{
    struct compress_ctx *cc = u->cc;
    const struct compress *w = cc->c->layer_data;
    uint32_t length = compress_pack(cc->packer, u->data, u->packed, (int)w->level), bytes;

    if (length == 0) {
        dt_count(cc->c, RAW, 1);
        u->entry.length = COMPRESS_UNIT;
        u->iov = (struct iovec){u->data, COMPRESS_UNIT};
    } else {
        dt_count(cc->c, PACKED, 1);
        dt_count(cc->c, PACKED_BYTES, length);
        u->entry.length = length;
        bytes = compress_blocks(&u->entry) << COMPRESS_BLOCK_SHIFT;
        memset(u->packed + length, 0, bytes - length);
        u->iov = (struct iovec){u->packed, bytes};
    }
    u->entry.sum = compress_sum(u->index, u->iov.iov_base, u->entry.length);
}

/* A hole is recorded even if it was one before: a range may just have made it. */
static void zero(struct compress_unit *u)
{
    dt_count(u->cc->c, ZEROES, 1);
    if (!compress_is_hole(compress_entry_of(u->sector, u->index)))
        compress_map_change(u->sector, u->index, u->entry, true);
    record(u);
}

void compress_store(struct compress_unit *u)
{
    struct compress *w = u->cc->c->layer_data;

    u->entry = (struct compress_entry){0};
    if (all_zero(u->data)) {
        zero(u);
        return;
    }
    pack(u);
    if (compress_space_alloc(&w->space, compress_blocks(&u->entry), &u->entry.block) < 0)
        starve(u, -ENOSPC);
    else
        begin(u);
}
