/* SPDX-License-Identifier: MIT */
/* fetch.c - a unit is read, compared with its checksum, and unpacked. */
#include "blk/compress/internal.h"

static void damaged(struct compress_unit *u)
{
    const struct compress *w = u->cc->c->layer_data;

    dt_count(u->cc->c, DAMAGED, 1);
    dt_layer_event(
        w->layer, "damaged",
        "%s: the unit at byte %llu of the disk, which is stored at byte %llu, is not "
        "what was stored: reads of it fail until all of it is written",
        w->file.path, (unsigned long long)(u->index << COMPRESS_UNIT_SHIFT),
        (unsigned long long)(w->at.data_offset + (u->entry.block << COMPRESS_BLOCK_SHIFT)));
}

static bool unpack(struct compress_unit *u)
{
    const struct compress_entry *e = &u->entry;
    bool raw = e->length == COMPRESS_UNIT;

    dt_count(u->cc->c, UNPACKED, 1);
    return compress_sum(u->index, raw ? u->data : u->packed, e->length) == e->sum &&
           (raw || compress_unpack(u->cc->packer, u->packed, e->length, u->data));
}

static void begin(struct compress_unit *u);

static void fetched(struct dt_io *io, int result)
{
    struct compress_unit *u = container_of(io, struct compress_unit, io);

    if (result == -EINTR || result == -EAGAIN) {
        begin(u);
    } else if (result != (int)u->iov.iov_len) {
        compress_fetched(u, result < 0 ? result : -EIO);
    } else if (!unpack(u)) {
        damaged(u);
        compress_fetched(u, -EIO);
    } else {
        compress_fetched(u, 0);
    }
}

static void begin(struct compress_unit *u)
{
    const struct compress *w = u->cc->c->layer_data;
    const struct compress_entry *e = &u->entry;

    u->iov = (struct iovec){e->length == COMPRESS_UNIT ? u->data : u->packed,
                            (size_t)compress_blocks(e) << COMPRESS_BLOCK_SHIFT};
    u->io.done = fetched;
    dt_io_readv(u->cc->c, &u->io, w->file.fd, &u->iov, 1,
                w->at.data_offset + (e->block << COMPRESS_BLOCK_SHIFT));
}

bool compress_fetch(struct compress_unit *u)
{
    u->entry = *compress_entry_of(u->sector, u->index);
    if (compress_is_hole(&u->entry)) {
        memset(u->data, 0, COMPRESS_UNIT);
        u->valid = u->fetched = true;
        return true;
    }
    begin(u);
    return false;
}
