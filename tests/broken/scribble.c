/* SPDX-License-Identifier: MIT */
/* scribble.c - broken on purpose: writes behind the frame that it asked for */
#include <devtap/block.h>

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    uint64_t *frame = dt_frame(c, req);

    frame[0] = req->sector;
    frame[1] = req->sectors; /* it asked for 8 bytes */
    return DT_PASS;
}

static const struct dt_block_ext scribble = {
    DT_BLOCK_EXT_HEADER,
    .name = "scribble",
    .summary = "Broken: writes behind the frame that it asked for",
    .frame_size = sizeof(uint64_t),
    .request = request,
};
DT_BLOCK_EXTENSION(scribble)
