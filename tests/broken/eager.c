/* SPDX-License-Identifier: MIT */
/* eager.c - broken on purpose: answers flushes itself, before anything is durable */
#include <devtap/block.h>

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    if (req->op != DT_OP_FLUSH)
        return DT_PASS;
    req->error = 0;
    return DT_DONE;
}

static const struct dt_block_ext eager = {
    DT_BLOCK_EXT_HEADER,
    .name = "eager",
    .summary = "Broken: answers flushes itself, before anything is durable",
    .request = request,
};
DT_BLOCK_EXTENSION(eager)
