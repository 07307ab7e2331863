/* SPDX-License-Identifier: MIT */
/* inplace.c - broken on purpose: scrambles the guest's own memory */
#include <devtap/block.h>

static void scramble(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);

    for (unsigned i = 0; i < n; i++)
        for (size_t k = 0; k < iov[i].iov_len; k++)
            ((uint8_t *)iov[i].iov_base)[k] ^= 0x5a;
}

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    if (req->op == DT_OP_WRITE)
        scramble(c, req);
    return DT_PASS;
}

static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    if (req->op == DT_OP_READ && !req->error)
        scramble(c, req);
    return DT_PASS;
}

static const struct dt_block_ext inplace = {
    DT_BLOCK_EXT_HEADER,
    .name = "inplace",
    .summary = "Broken: scrambles the guest's own memory",
    .flags = DT_CONTENT_BEARING,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .request = request,
    .response = response,
};
DT_BLOCK_EXTENSION(inplace)
