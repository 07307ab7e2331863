/* SPDX-License-Identifier: MIT */
/* twice.c - broken on purpose: completes some requests twice */
#include <devtap/block.h>

static unsigned count;

static void complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct dt_req *first = reqs[0];

    dt_complete(c, reqs, n);
    if (++count % 10 == 0)
        dt_complete_one(c, first, 0);
}

static const struct dt_block_ext twice = {
    DT_BLOCK_EXT_HEADER,
    .name = "twice",
    .summary = "Broken: completes some requests twice",
    .complete = complete,
};
DT_BLOCK_EXTENSION(twice)
