/* SPDX-License-Identifier: MIT */
/*
 * commit.c - flushes.
 *
 * One round at a time serves all that wait: flush the data; write the sectors of the stored map that
 * have changed, as they were when that flush began, for only those granules' data are durable; flush those. Without changes of
 * the map the first flush is all. A flush that fails leaves unknown what is on the disk: from then on nothing is
 * written, and a successor believes the stored map alone.
 */
#include "blk/cow/internal.h"

static void round_begin(struct cow_ctx *cc);

void cow_commit_start(struct cow_ctx *cc)
{
    cow_list_init(&cc->commit_wait);
    cow_list_init(&cc->commit_round);
}

static void round_end(struct cow_ctx *cc, int error)
{
    struct cow_list round = cc->commit_round;
    struct cow_io *cio = round.head, *next;

    cow_list_init(&cc->commit_round);
    cc->committing = false;
    for (; cio; cio = next) {
        next = cio->next;
        cow_finish(cio, error);
    }
    if (!cc->committing)
        round_begin(cc);
}

static void fail(struct cow_ctx *cc, int error)
{
    struct cow *w = cc->c->layer_data;

    if (!w->failed)
        dt_layer_event(w->layer, "failed",
                       "%s: a flush failed (%s): no more writes; a restart goes on from the last "
                       "flush that succeeded",
                       w->file.path, strerror(-error));
    w->failed = true;
    cow_distrust(w);
    round_end(cc, -EIO);
}

/* ---- The map ---- */

static void map_synced(struct dt_io *io, int result)
{
    struct cow_ctx *cc = container_of(io, struct cow_ctx, sync);

    if (result < 0) {
        fail(cc, result);
        return;
    }
    dt_count(cc->c, COMMITS, 1);
    round_end(cc, 0);
}

/* Not all is written: it stays to be done. */
static void map_refused(struct cow_ctx *cc)
{
    struct cow *w = cc->c->layer_data;

    for (uint32_t i = 0; i < w->ncommit; i++)
        cow_map_dirty(w, w->commit_list[i]);
    round_end(cc, cc->commit_error);
}

static void sector_written(struct dt_io *io, int result);

static void write_sector(struct cow_map_io *mio)
{
    struct cow_ctx *cc = mio->cc;
    struct cow *w = cc->c->layer_data;
    uint64_t sector = w->commit_list[cc->commit_next++];

    mio->iov = (struct iovec){&w->stored[sector], sizeof(w->stored[sector])};
    mio->io.done = sector_written;
    cc->commit_pending++;
    dt_io_writev(cc->c, &mio->io, w->file.map_fd, &mio->iov, 1,
                 w->at.map_offset + sector * sizeof(w->stored[sector]));
}

static void sector_written(struct dt_io *io, int result)
{
    struct cow_map_io *mio = container_of(io, struct cow_map_io, io);
    struct cow_ctx *cc = mio->cc;
    const struct cow *w = cc->c->layer_data;

    if (result != (int)sizeof(struct cow_map_sector))
        cc->commit_error = result < 0 ? result : -ENOSPC;
    cc->commit_pending--;
    if (cc->commit_next < w->ncommit && !cc->commit_error) {
        write_sector(mio);
    } else if (cc->commit_pending > 0) {
        return;
    } else if (cc->commit_error) {
        map_refused(cc);
    } else {
        cc->sync.done = map_synced;
        dt_io_fdatasync(cc->c, &cc->sync, w->file.map_fd);
    }
}

/* ---- The data ---- */

static void data_synced(struct dt_io *io, int result)
{
    struct cow_ctx *cc = container_of(io, struct cow_ctx, sync);
    const struct cow *w = cc->c->layer_data;

    if (result < 0) {
        fail(cc, result);
        return;
    }
    if (w->ncommit == 0) {
        round_end(cc, 0);
        return;
    }
    cc->commit_next = 0;
    cc->commit_error = 0;
    for (unsigned i = 0; i < COW_MAP_IOS && cc->commit_next < w->ncommit; i++) {
        cc->commit_ios[i].cc = cc;
        write_sector(&cc->commit_ios[i]);
    }
}

static void snapshot(struct cow *w)
{
    uint32_t *list = w->commit_list;

    w->commit_list = w->dirty_list;
    w->ncommit = w->ndirty;
    w->dirty_list = list;
    w->ndirty = 0;
    for (uint32_t i = 0; i < w->ncommit; i++) {
        uint32_t sector = w->commit_list[i];

        w->flags[sector] &= (uint8_t)~COW_DIRTY;
        w->stored[sector] = w->now[sector];
        cow_map_seal(&w->stored[sector], sector);
    }
}

static void round_begin(struct cow_ctx *cc)
{
    struct cow *w = cc->c->layer_data;

    if (!cc->commit_wait.head)
        return;
    cc->committing = true;
    cc->commit_round.head = cc->commit_wait.head;
    cow_list_init(&cc->commit_wait);
    if (w->failed) {
        round_end(cc, -EIO);
        return;
    }
    snapshot(w);
    cc->sync.done = data_synced;
    dt_io_fdatasync(cc->c, &cc->sync, w->file.fd);
}

void cow_commit(struct cow_io *cio)
{
    struct cow_ctx *cc = cio->c->data;

    cow_list_add(&cc->commit_wait, cio);
    if (!cc->committing)
        round_begin(cc);
}
