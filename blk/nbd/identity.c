/* SPDX-License-Identifier: MIT */
/*
 * identity.c - what the disk is, kept for the next process of the run.
 *
 * A worker that begins while the server is away knows from its predecessor what to offer the guest, and holds requests
 * as that one would have done. Whether the server still has that disk is judged when it is back (remote_same).
 */
#include "blk/nbd/internal.h"

enum {
    CAN_FLUSH = 1,
    CAN_DISCARD = 2,
    CAN_ZERO = 4,
    CAN_FUA = 8,
    CAN_MULTI = 16,
    CAN_MAP = 32,
    READ_ONLY = 64,
    ROTATES = 128
};

/** struct identity - before the text of the URI, which says whose it is. */
struct identity {
    uint64_t sectors;
    uint32_t logical_block, physical_block, optimal_io, max_sectors, flags, unused;
};

static uint32_t pack_flags(const struct remote *r)
{
    const struct dt_block_info *info = &r->info;

    return (info->can_flush ? CAN_FLUSH : 0) | (info->can_discard ? CAN_DISCARD : 0) |
           (info->can_write_zeroes ? CAN_ZERO : 0) | (r->fua ? CAN_FUA : 0) |
           (r->multi ? CAN_MULTI : 0) | (r->maps ? CAN_MAP : 0) |
           (info->read_only ? READ_ONLY : 0) | (info->rotational ? ROTATES : 0);
}

int64_t remote_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct remote *r = dt_layer_data(layer);
    const struct dt_block_info *info = &r->info;
    const struct identity id = {.sectors = info->sectors,
                                .logical_block = info->logical_block,
                                .physical_block = info->physical_block,
                                .optimal_io = info->optimal_io,
                                .max_sectors = info->max_sectors,
                                .flags = pack_flags(r)};
    size_t length = strlen(r->text);

    if (size < sizeof(id) + length)
        return -ENOSPC;
    memcpy(buf, &id, sizeof(id));
    memcpy((uint8_t *)buf + sizeof(id), r->text, length);
    return (int64_t)(sizeof(id) + length);
}

/* Core judges it, as it does what a server says. */
static void unpack(struct remote *r, const struct identity *id)
{
    r->info = (struct dt_block_info){.sectors = id->sectors,
                                     .logical_block = id->logical_block,
                                     .physical_block = id->physical_block,
                                     .optimal_io = id->optimal_io,
                                     .max_sectors = id->max_sectors,
                                     .read_only = r->read_only || id->flags & READ_ONLY,
                                     .rotational = id->flags & ROTATES,
                                     .can_flush = id->flags & CAN_FLUSH,
                                     .can_discard = id->flags & CAN_DISCARD,
                                     .can_write_zeroes = id->flags & CAN_ZERO};
    remote_limits(&r->info);
    r->fua = id->flags & CAN_FUA;
    r->multi = id->flags & CAN_MULTI;
    r->maps = id->flags & CAN_MAP;
    if (!r->multi)
        r->connections = 1;
}

int remote_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    struct remote *r = dt_layer_data(layer);
    size_t length = strlen(r->text);
    struct identity id;

    if (version != 1 || size < sizeof(id))
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of nbd", size, version);
    if (r->known || size != sizeof(id) + length ||
        memcmp((const uint8_t *)buf + sizeof(id), r->text, length) != 0)
        return 0; /* the server has said itself what it has, or it is another one */
    memcpy(&id, buf, sizeof(id));
    unpack(r, &id);
    r->known = true;
    dt_layer_event(layer, "disconnected",
                   "no connection at the start (%.250s): requests are held and it is tried again",
                   r->away.text);
    return 0;
}
