/* SPDX-License-Identifier: MIT */
/*
 * record.c - the live map: what has changed is written there before the requests that changed it
 * are acknowledged. It is not flushed.
 *
 * One round at a time takes all that has changed, and serves all who wait. A sector is copied when
 * it is written, so that it may change meanwhile; it is in the next round then. Blocks that were
 * replaced before a round are in no live map after it.
 */
#include "blk/compress/internal.h"

static void round_begin(struct compress_ctx *cc);

void compress_record_start(struct compress_ctx *cc)
{
    compress_waits_init(&cc->record_wait);
    compress_waits_init(&cc->record_round);
    cc->record_ios = xcalloc(COMPRESS_RECORD_IOS, sizeof(*cc->record_ios));
}

void compress_record_stop(struct compress_ctx *cc)
{
    CHECK(!cc->recording);
    compress_extents_fini(&cc->replaced);
    compress_extents_fini(&cc->recorded);
    free(cc->record_ios);
}

static void tell(struct compress_waits *round, int error)
{
    for (struct compress_wait *wait; (wait = compress_waits_take(round)) != NULL;)
        wait->ready(wait, error);
}

static void fail_waiting(struct compress_ctx *cc)
{
    struct compress_waits waits;

    compress_waits_init(&waits);
    compress_waits_move(&waits, &cc->record_wait);
    tell(&waits, -EIO);
}

/* What was not written waits for another round; its blocks stay where they are. */
static void round_short(struct compress_ctx *cc, int error)
{
    struct compress_waits round;

    compress_waits_init(&round);
    compress_waits_move(&round, &cc->record_round);
    compress_extents_move(&cc->replaced, &cc->recorded);
    cc->recording = false;
    cc->record_stalled = shortage_holds(&cc->shortage);
    if (cc->record_stalled)
        compress_waits_move(&cc->record_wait, &round);
    else
        tell(&round, shortage_error(&cc->shortage, error));
}

static void round_end(struct compress_ctx *cc)
{
    struct compress_waits round;
    const struct compress *w = cc->c->layer_data;
    int error = cc->record_error;

    for (struct compress_sector *s = cc->record_next; s; s = cc->record_next) {
        cc->record_next = s->record_next; /* not written after an error */
        s->record_next = cc->record_list;
        cc->record_list = s;
    }
    if (shortage_is(error)) {
        round_short(cc, error);
        return;
    }
    compress_waits_init(&round);
    compress_waits_move(&round, &cc->record_round);
    if (error)
        compress_fail(cc, "writing the map", error);
    else
        compress_extents_move(&cc->retired, &cc->recorded);
    cc->recording = false;
    round_begin(cc);
    tell(&round, w->failed ? -EIO : 0); /* a successor would not believe it */
}

static void sector_written(struct dt_io *io, int result);

static void write_sector(struct compress_map_io *mio)
{
    struct compress_ctx *cc = mio->cc;
    const struct compress *w = cc->c->layer_data;
    struct compress_sector *s = cc->record_next;

    cc->record_next = s->record_next;
    s->recording = false;
    mio->sector = s;
    mio->copy = s->now;
    compress_map_seal(&mio->copy, s->index, w->header.generation);
    mio->iov = (struct iovec){&mio->copy, sizeof(mio->copy)};
    mio->io.done = sector_written;
    cc->record_pending++;
    dt_io_writev(cc->c, &mio->io, w->file.map_fd, &mio->iov, 1,
                 w->at.live_offset + s->index * sizeof(mio->copy));
}

/* To be written once more, and pinned as before. */
static void record_anew(struct compress_sector *s)
{
    struct compress_ctx *cc = s->cc;

    if (s->recording) {
        compress_map_put(s);
        return;
    }
    s->recording = true;
    s->record_next = cc->record_list;
    cc->record_list = s;
}

static void sector_written(struct dt_io *io, int result)
{
    struct compress_map_io *mio = container_of(io, struct compress_map_io, io);
    struct compress_ctx *cc = mio->cc;

    cc->record_pending--;
    if (result == (int)sizeof(mio->copy)) {
        compress_map_put(mio->sector);
    } else {
        cc->record_error = result < 0 ? result : -ENOSPC;
        record_anew(mio->sector);
    }
    if (cc->record_next && !cc->record_error)
        write_sector(mio);
    else if (cc->record_pending == 0)
        round_end(cc);
}

static void round_begin(struct compress_ctx *cc)
{
    const struct compress *w = cc->c->layer_data;

    if (cc->recording || cc->record_stalled || !cc->record_wait.head)
        return;
    if (w->failed) {
        fail_waiting(cc);
        return;
    }
    cc->recording = true;
    cc->record_error = 0;
    cc->record_next = cc->record_list;
    cc->record_list = NULL;
    compress_waits_move(&cc->record_round, &cc->record_wait);
    compress_extents_move(&cc->recorded, &cc->replaced);
    for (unsigned i = 0; i < COMPRESS_RECORD_IOS && cc->record_next; i++) {
        cc->record_ios[i].cc = cc;
        write_sector(&cc->record_ios[i]);
    }
    if (cc->record_pending == 0)
        round_end(cc);
}

void compress_record(struct compress_ctx *cc, struct compress_wait *wait)
{
    compress_waits_add(&cc->record_wait, wait);
    round_begin(cc);
}

bool compress_record_again(struct compress_ctx *cc, int error)
{
    struct compress_waits waits;

    if (!cc->record_stalled)
        return false;
    cc->record_stalled = false;
    compress_waits_init(&waits);
    if (error)
        compress_waits_move(&waits, &cc->record_wait);
    round_begin(cc);
    tell(&waits, error);
    return true;
}
