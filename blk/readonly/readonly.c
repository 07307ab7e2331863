/* SPDX-License-Identifier: MIT */
/*
 * readonly.c - the disk cannot be changed. The guest is told, so it mounts accordingly; a request
 * that would change the disk and comes all the same, from the guest or from a layer above,
 * is refused with -EROFS. Flushes pass: they change nothing.
 */
#include "base/base.h"
#include <devtap/block.h>

enum { REFUSED };
static const struct dt_counter counters[] = {
    [REFUSED] = {"refused", "requests", "Requests that would have changed the disk."},
    {NULL},
};

static int readonly_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->read_only = true;
    info->can_discard = info->can_write_zeroes = info->write_zeroes_unmaps = false;
    return 0;
}

static enum dt_verdict readonly_request(struct dt_ctx *c, struct dt_req *req)
{
    if (likely(req->op == DT_OP_READ || req->op == DT_OP_FLUSH))
        return DT_PASS;
    dt_count(c, REFUSED, 1);
    req->error = -EROFS;
    return DT_DONE;
}

const struct dt_block_ext blk_readonly = {
    DT_BLOCK_EXT_HEADER,
    .name = "readonly",
    .summary = "Present the disk as read-only and refuse every change",
    .help = "Reads and flushes pass. Writes, discards and writes of zeroes fail; the guest sees a "
            "read-only disk.",
    .flags = DT_PER_QUEUE,
    .counters = counters,
    .info = readonly_info,
    .request = readonly_request,
};
