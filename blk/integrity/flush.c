/* SPDX-License-Identifier: MIT */
/* flush.c - a flush is one of the disk and one of the checksums, at the same time. */
#include "blk/integrity/internal.h"

static void lost(struct integrity *w, int error)
{
    if (!w->failed)
        dt_layer_event(w->layer, "failed",
                       "%s: a flush failed (%s): no flush succeeds until a restart, and blocks "
                       "written since the last one are taken as they are",
                       w->file.path, strerror(-error));
    w->failed = true;
    integrity_suspect_open(w);
}

static void part_done(struct integrity_io *iio, int error)
{
    struct integrity_ctx *ic = iio->c->data;
    const struct integrity *w = iio->c->layer_data;

    if (error && !iio->error)
        iio->error = (int16_t)error;
    if (--iio->pending > 0)
        return;
    if (w->failed)
        iio->error = -EIO;
    if (!iio->error)
        integrity_settled(ic, iio->era);
    dt_complete_one(iio->c, integrity_req(iio), iio->error);
}

static void synced(struct dt_io *io, int result)
{
    struct integrity_io *iio = container_of(io, struct integrity_io, io);

    if (result < 0)
        lost(iio->c->layer_data, result);
    part_done(iio, result);
}

void integrity_flush_returned(struct integrity_io *iio, int error)
{
    part_done(iio, error);
}

void integrity_flush(struct integrity_io *iio)
{
    struct integrity *w = iio->c->layer_data;

    iio->era = w->era++;
    iio->pending = 2;
    iio->error = 0;
    iio->io.done = synced;
    dt_io_fdatasync(iio->c, &iio->io, w->file.map_fd);
    dt_forward_one(iio->c, integrity_req(iio));
}

/* ---- Our own ---- */

static void own_part(struct integrity_ctx *ic, int error)
{
    if (error)
        ic->own_error = error;
    if (--ic->own_pending > 0)
        return;
    if (!ic->own_error)
        integrity_settled(ic, ic->own_era);
    dt_busy_end(ic->c);
}

static void own_synced(struct dt_io *io, int result)
{
    struct integrity_ctx *ic = container_of(io, struct integrity_ctx, own_sync);

    if (result < 0)
        lost(ic->c->layer_data, result);
    own_part(ic, result);
}

static void own_flushed(struct dt_ctx *c, struct dt_req *sub)
{
    int error = sub->error;

    dt_sub_free(c, sub);
    own_part(c->data, error);
}

void integrity_flush_own(struct integrity_ctx *ic)
{
    struct integrity *w = ic->c->layer_data;
    struct dt_req *sub;

    if (ic->own_pending)
        return;
    sub = dt_sub_new(ic->c, DT_OP_FLUSH, 0, 0, NULL, 0, own_flushed, NULL);
    CHECK(sub);
    dt_busy_begin(ic->c);
    ic->own_era = w->era++;
    ic->own_pending = 2;
    ic->own_error = 0;
    ic->own_sync.done = own_synced;
    dt_io_fdatasync(ic->c, &ic->own_sync, w->file.map_fd);
    dt_sub_submit(ic->c, sub);
}
