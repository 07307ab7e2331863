/* SPDX-License-Identifier: MIT */
/* lose.c - broken on purpose: never hands on some requests */
#include <devtap/block.h>

static unsigned count;

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    return ++count % 50 == 0 ? DT_HELD : DT_PASS;
}

static const struct dt_block_ext lose = {
    DT_BLOCK_EXT_HEADER,
    .name = "lose",
    .summary = "Broken: never hands on some requests",
    .request = request,
};
DT_BLOCK_EXTENSION(lose)
