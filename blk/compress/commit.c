/* SPDX-License-Identifier: MIT */
/*
 * commit.c - flushes.
 *
 * One round at a time serves all that wait: flush the blocks; write the sectors of the stored map
 * that have changed, as they were when that flush began, for only those blocks are durable; flush
 * those. Then the blocks that were in no live map any more when it began are free, and those of
 * discards are given back to the file system. Without changes of the map the first flush is all. A
 * flush that fails leaves unknown what is on the disk: from then on nothing is written, and a
 * successor believes the stored map alone.
 */
#include "blk/compress/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>

static void round_begin(struct compress_ctx *cc);

void compress_commit_start(struct compress_ctx *cc)
{
    compress_ios_init(&cc->commit_wait);
    compress_ios_init(&cc->commit_round);
    cc->commit_ios = xcalloc(COMPRESS_COMMIT_IOS, sizeof(*cc->commit_ios));
}

void compress_commit_stop(struct compress_ctx *cc)
{
    CHECK(!cc->committing);
    compress_extents_fini(&cc->retired);
    compress_extents_fini(&cc->ending);
    free(cc->commit_ios);
}

static void tell(struct compress_ctx *cc, int error)
{
    struct compress_ios round;

    compress_ios_init(&round);
    compress_ios_move(&round, &cc->commit_round);
    for (struct compress_io *cio; (cio = compress_ios_take(&round)) != NULL;)
        compress_finish(cio, error);
}

static void round_over(struct compress_ctx *cc)
{
    cc->committing = false;
    dt_busy_end(cc->c);
    compress_retry_starved(cc, 0);
    round_begin(cc);
}

/* What is dirty stays in memory: the stored map may not have it. */
static void fail(struct compress_ctx *cc, int error)
{
    compress_fail(cc, "a flush", error);
    tell(cc, -EIO);
    round_over(cc);
}

/* ---- Blocks that were replaced ---- */

static void punch(struct compress_ctx *cc);

static void free_blocks(struct compress_ctx *cc)
{
    struct compress *w = cc->c->layer_data;

    for (uint64_t i = 0; i < cc->ending.n; i++)
        compress_space_free(&w->space, cc->ending.at[i].block, cc->ending.at[i].count);
    cc->ending.n = cc->ending.blocks = 0;
    round_over(cc);
}

static void punched(struct dt_io *io, int result)
{
    struct compress_ctx *cc = container_of(io, struct compress_ctx, sync);
    struct compress *w = cc->c->layer_data;

    if (result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV)
        w->no_punch = true;
    cc->punch_next++;
    punch(cc);
}

/* They are not free before: the hole would take what is written there. */
static void punch(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;
    const struct compress_extent *e;

    while (cc->punch_next < cc->ending.n && !cc->ending.at[cc->punch_next].discarded)
        cc->punch_next++;
    if (cc->punch_next == cc->ending.n || w->no_punch) {
        free_blocks(cc);
        return;
    }
    e = &cc->ending.at[cc->punch_next];
    cc->sync.done = punched;
    dt_io_fallocate(cc->c, &cc->sync, w->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    w->at.data_offset + (e->block << COMPRESS_BLOCK_SHIFT),
                    (uint64_t)e->count << COMPRESS_BLOCK_SHIFT);
}

static void durable(struct compress_ctx *cc)
{
    tell(cc, 0);
    cc->punch_next = 0;
    punch(cc);
}

/* ---- The map ---- */

static void map_synced(struct dt_io *io, int result)
{
    struct compress_ctx *cc = container_of(io, struct compress_ctx, sync);
    struct compress_sector *s = cc->commit_list, *next;

    if (result < 0) {
        fail(cc, result);
        return;
    }
    dt_count(cc->c, COMMITS, 1);
    cc->commit_list = NULL;
    for (; s; s = next) {
        next = s->commit_next;
        compress_map_put(s);
    }
    durable(cc);
}

/* To be written once more, and pinned as before. */
static void dirty_anew(struct compress_sector *s)
{
    struct compress_ctx *cc = s->cc;

    if (s->dirty) {
        compress_map_put(s);
        return;
    }
    s->dirty = true;
    s->dirty_next = cc->dirty;
    cc->dirty = s;
    cc->ndirty++;
}

/* Not all is written: all of it stays to be done. */
static void round_short(struct compress_ctx *cc)
{
    struct compress_sector *s = cc->commit_list, *next;
    int error = shortage_error(&cc->shortage, cc->commit_error);

    cc->commit_list = NULL;
    for (; s; s = next) {
        next = s->commit_next;
        dirty_anew(s);
    }
    compress_extents_move(&cc->retired, &cc->ending);
    cc->committing = false;
    dt_busy_end(cc->c);
    cc->commit_stalled = shortage_holds(&cc->shortage);
    if (cc->commit_stalled) {
        compress_ios_move(&cc->commit_wait, &cc->commit_round);
    } else {
        tell(cc, error);
        compress_retry_starved(cc, error);
    }
}

static void sector_written(struct dt_io *io, int result);

static void write_sector(struct compress_map_io *mio)
{
    struct compress_ctx *cc = mio->cc;
    const struct compress *w = cc->c->layer_data;
    struct compress_sector *s = cc->commit_next;

    cc->commit_next = s->commit_next;
    mio->iov = (struct iovec){&s->stored, sizeof(s->stored)};
    mio->io.done = sector_written;
    cc->commit_pending++;
    dt_io_writev(cc->c, &mio->io, w->file.map_fd, &mio->iov, 1,
                 w->at.map_offset + s->index * sizeof(s->stored));
}

static void sector_written(struct dt_io *io, int result)
{
    struct compress_map_io *mio = container_of(io, struct compress_map_io, io);
    struct compress_ctx *cc = mio->cc;
    const struct compress *w = cc->c->layer_data;

    if (result != (int)sizeof(struct compress_map_sector))
        cc->commit_error = result < 0 ? result : -ENOSPC;
    cc->commit_pending--;
    if (cc->commit_next && !cc->commit_error) {
        write_sector(mio);
    } else if (cc->commit_pending > 0) {
        return;
    } else if (shortage_is(cc->commit_error)) {
        round_short(cc);
    } else if (cc->commit_error) {
        fail(cc, cc->commit_error);
    } else {
        cc->sync.done = map_synced;
        dt_io_fdatasync(cc->c, &cc->sync, w->file.map_fd);
    }
}

/* ---- The blocks ---- */

static void blocks_synced(struct dt_io *io, int result)
{
    struct compress_ctx *cc = container_of(io, struct compress_ctx, sync);

    if (result < 0) {
        fail(cc, result);
        return;
    }
    if (!cc->commit_list) {
        durable(cc);
        return;
    }
    cc->commit_next = cc->commit_list;
    cc->commit_error = 0;
    for (unsigned i = 0; i < COMPRESS_COMMIT_IOS && cc->commit_next; i++) {
        cc->commit_ios[i].cc = cc;
        write_sector(&cc->commit_ios[i]);
    }
}

static void snapshot(struct compress_ctx *cc)
{
    for (struct compress_sector *s = cc->dirty; s; s = s->dirty_next) {
        s->dirty = false;
        s->stored = s->now;
        compress_map_seal(&s->stored, s->index, 0);
        s->commit_next = cc->commit_list;
        cc->commit_list = s;
    }
    cc->dirty = NULL;
    cc->ndirty = 0;
    compress_extents_move(&cc->ending, &cc->retired);
}

static void round_begin(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;

    if (cc->committing || cc->commit_stalled || (!cc->commit_wait.head && !cc->commit_wanted))
        return;
    cc->commit_wanted = false;
    compress_ios_move(&cc->commit_round, &cc->commit_wait);
    if (w->failed) {
        tell(cc, -EIO);
        compress_retry_starved(cc, -EIO);
        return;
    }
    cc->committing = true;
    dt_busy_begin(cc->c);
    snapshot(cc);
    cc->sync.done = blocks_synced;
    dt_io_fdatasync(cc->c, &cc->sync, w->file.fd);
}

void compress_commit(struct compress_io *cio)
{
    struct compress_ctx *cc = cio->c->data;

    compress_ios_add(&cc->commit_wait, cio);
    round_begin(cc);
}

void compress_commit_soon(struct compress_ctx *cc)
{
    cc->commit_wanted = true;
    round_begin(cc);
}

bool compress_commit_again(struct compress_ctx *cc, int error)
{
    if (!cc->commit_stalled)
        return false;
    cc->commit_stalled = false;
    if (error) {
        compress_ios_move(&cc->commit_round, &cc->commit_wait);
        tell(cc, error);
        compress_retry_starved(cc, error);
    }
    round_begin(cc);
    return true;
}
