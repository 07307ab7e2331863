/* SPDX-License-Identifier: MIT */
/* undeclared.c - broken on purpose: changes what is stored, without DT_CONTENT_BEARING. */
#include <devtap/block.h>

static void flip(uint8_t *bytes, uint32_t sectors)
{
    for (uint32_t i = 0; i < sectors; i++)
        bytes[i * DT_SECTOR_SIZE] ^= 1;
}

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *from;
    unsigned n;

    if (req->op == DT_OP_WRITE_ZEROES) {
        req->error = -EOPNOTSUPP;
        return DT_DONE;
    }
    if (dt_req_has_data(req)) {
        uint8_t *below = dt_req_transform(c, req, &from, &n);

        if (req->op == DT_OP_WRITE) {
            dt_iov_read(from, n, 0, below, dt_req_bytes(req));
            flip(below, req->sectors);
        }
    }
    return DT_PASS;
}

static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *to;
    unsigned n;

    if (dt_req_has_data(req)) {
        uint8_t *below = dt_req_restore(c, req, &to, &n);

        if (req->op == DT_OP_READ) {
            flip(below, req->sectors);
            dt_iov_write(to, n, 0, below, dt_req_bytes(req));
        }
    }
    return DT_PASS;
}

static const struct dt_block_ext undeclared = {
    DT_BLOCK_EXT_HEADER,
    .name = "undeclared",
    .summary = "Broken: changes what is stored, without DT_CONTENT_BEARING",
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .request = request,
    .response = response,
};
DT_BLOCK_EXTENSION(undeclared)
