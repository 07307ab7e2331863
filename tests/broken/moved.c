/* SPDX-License-Identifier: MIT */
/* moved.c - broken on purpose: moves flushes and does not move them back */
#include <devtap/block.h>

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    if (req->op == DT_OP_FLUSH)
        req->sector = 8;
    return DT_PASS;
}

static const struct dt_block_ext moved = {
    DT_BLOCK_EXT_HEADER,
    .name = "moved",
    .summary = "Broken: moves flushes and does not move them back",
    .request = request,
};
DT_BLOCK_EXTENSION(moved)
