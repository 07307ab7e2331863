/* SPDX-License-Identifier: MIT */
/* keep.h - a layer that keeps requests until it is asked to let go of them, or for good, and admits so many. */
#ifndef KEEP_H
#define KEEP_H

#include "base/base.h"
#include <devtap/block.h>

/* @holding: else they pass. @for_good: also when it is asked to let go. @admits: at a time. */
static struct {
    struct dt_req *reqs[64];
    unsigned n, admits;
    bool holding, for_good;
} keep;

static enum dt_verdict keep_request(struct dt_ctx *c, struct dt_req *req)
{
    if (!keep.holding)
        return DT_PASS;
    CHECK(keep.n < ARRAY_SIZE(keep.reqs));
    keep.reqs[keep.n++] = req;
    return DT_HELD;
}

static unsigned keep_admit(struct dt_ctx *c, unsigned want)
{
    return MIN(want, keep.admits);
}

static void keep_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    unsigned n = keep.n;

    if (keep.for_good)
        return;
    keep.n = 0;
    dt_forward(c, keep.reqs, n);
}

static const struct dt_block_ext keep_ext = {
    DT_BLOCK_EXT_HEADER,     .name = "keep",      .summary = "holds",
    .request = keep_request, .admit = keep_admit, .quiesce = keep_quiesce,
};

#endif
