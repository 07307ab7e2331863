/* SPDX-License-Identifier: MIT */
/* whitewash.c - broken on purpose: turns errors from below into success */
#include <devtap/block.h>

static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    req->error = 0;
    return DT_PASS;
}

static const struct dt_block_ext whitewash = {
    DT_BLOCK_EXT_HEADER,
    .name = "whitewash",
    .summary = "Broken: turns errors from below into success",
    .response = response,
};
DT_BLOCK_EXTENSION(whitewash)
