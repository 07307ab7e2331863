/* SPDX-License-Identifier: MIT */
/* corrupt.c - broken on purpose: flips a bit of what is read, now and then */
#include <devtap/block.h>

static unsigned count;

static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;

    if (req->op == DT_OP_READ && !req->error && ++count % 10 == 0) {
        unsigned n = dt_req_map(c, req, &iov);
        uint8_t *last = (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len - 1;

        *last ^= 0x10;
    }
    return DT_PASS;
}

static const struct dt_block_ext corrupt = {
    DT_BLOCK_EXT_HEADER,
    .name = "corrupt",
    .summary = "Broken: flips a bit of what is read, now and then",
    .read_data = DT_DATA_PEEK,
    .response = response,
};
DT_BLOCK_EXTENSION(corrupt)
