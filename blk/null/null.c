/* SPDX-License-Identifier: MIT */
/*
 * null.c - a back that does nothing: every request is complete before submit returns, and no buffer
 * is touched. What it measures is everything above it.
 */
#include "base/base.h"
#include <devtap/block.h>

struct null {
    uint64_t size;
};

static const struct dt_param params[] = {
    {.name = "size",
     .type = DT_PARAM_SIZE,
     .offset = offsetof(struct null, size),
     .initial = "1G",
     .help = "Size of the disk; a multiple of 512.",
     .min = DT_SECTOR_SIZE,
     .max = (uint64_t)INT64_MAX},
    {NULL},
};

static int null_open(struct dt_layer *layer, struct dt_error *err)
{
    const struct null *null = dt_layer_data(layer);

    if (null->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "size=%llu is not a multiple of 512",
                       (unsigned long long)null->size);
    return 0;
}

static int null_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct null *null = dt_layer_data(layer);

    info->sectors = null->size >> DT_SECTOR_SHIFT;
    info->can_flush = info->can_discard = info->can_write_zeroes = true;
    info->write_zeroes_unmaps = true;
    info->discard_align = 1;
    return 0;
}

static void null_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        reqs[i]->error = 0;
    dt_complete(c, reqs, n);
}

const struct dt_block_ext blk_null = {
    DT_BLOCK_EXT_HEADER,
    .name = "null",
    .summary = "A disk that does nothing, as fast as possible (for measurements)",
    .help =
        "Every request succeeds at once. Writes are forgotten. Reads leave the guest's buffer as "
        "it was, so what a guest reads is whatever that memory held: no file system lives here.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = params,
    .layer_size = sizeof(struct null),
    .open = null_open,
    .info = null_info,
    .submit = null_submit,
};
