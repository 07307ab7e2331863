/* SPDX-License-Identifier: MIT */
/*
 * zero.c - writes of zeroes become write-zeroes, which take no space and move no data.
 *
 * Theory of operation: a WRITE whose every byte is zero is sent down as a WRITE_ZEROES of the same range and
 * becomes a WRITE again on the way up. The guest's buffer is looked at in place: a guest that
 * changes it meanwhile gets what a disk might have fetched, each byte once. What was judged is not
 * fetched again: a write of zeroes carries no data. A write that is not of zeroes shows that early, mostly in its
 * first bytes. A disk below that cannot write zeroes is noticed at once, or when it says so: then the
 * request goes down again as the write that it was, and the thread tries no more.
 */
#include "base/base.h"
#include <devtap/block.h>

enum { TURNED, TURNED_BYTES, REFUSED };
static const struct dt_counter counters[] = {
    [TURNED] = {"turned", "requests", "Writes that went down as writes of zeroes."},
    [TURNED_BYTES] = {"turned-bytes", "bytes", "Their bytes."},
    [REFUSED] = {"refused", "requests",
                 "Those that the disk below did not take, and that went down again as writes."},
    {NULL},
};

struct zero {
    bool unmap;
};
static const struct dt_param params[] = {
    {"unmap", DT_PARAM_BOOL, DT_PARAM_LIVE, offsetof(struct zero, unmap), "on",
     .help = "Let the disk below give the space back."},
    {NULL},
};

struct zero_ctx {
    bool refused; /* the disk below cannot after all */
};

/* Kept in each request. */
struct zero_frame {
    bool turned;
    uint8_t flags; /* as they were */
};

/* ---- Looking ---------------------------------------------------------------------------------- */

#define STEP 128u

/* A step at a time without a branch inside: compilers make vectors of it. */
static bool step_is_zero(const uint8_t *p)
{
    uint64_t words[STEP / 8], all = 0;

    memcpy(words, p, STEP);
    for (unsigned i = 0; i < STEP / 8; i++)
        all |= words[i];
    return all == 0;
}

static bool bytes_are_zero(const uint8_t *p, size_t n)
{
    uint8_t all = 0;

    for (; n >= STEP; p += STEP, n -= STEP)
        if (!step_is_zero(p))
            return false;
    while (n--)
        all |= *p++;
    return all == 0;
}

static bool data_is_zero(const struct iovec *iov, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!bytes_are_zero(iov[i].iov_base, iov[i].iov_len))
            return false;
    return true;
}

/* ---- Requests --------------------------------------------------------------------------------- */

static bool wanted(struct dt_ctx *c, struct dt_req *req)
{
    const struct dt_block_info *below = dt_layer_info(c->layer);
    const struct zero_ctx *zc = c->data;
    const struct iovec *iov;
    unsigned n;

    if (req->op != DT_OP_WRITE || zc->refused || !below->can_write_zeroes ||
        (below->max_write_zeroes && req->sectors > below->max_write_zeroes))
        return false;
    n = dt_req_map(c, req, &iov);
    return data_is_zero(iov, n);
}

static enum dt_verdict zero_request(struct dt_ctx *c, struct dt_req *req)
{
    const struct zero *zero = c->layer_data;
    struct zero_frame *frame = dt_frame(c, req);

    *frame = (struct zero_frame){.turned = wanted(c, req), .flags = req->flags};
    if (!frame->turned)
        return DT_PASS;
    req->op = DT_OP_WRITE_ZEROES;
    if (zero->unmap && dt_layer_info(c->layer)->write_zeroes_unmaps)
        req->flags |= DT_REQ_UNMAP;
    return DT_PASS;
}

static enum dt_verdict zero_response(struct dt_ctx *c, struct dt_req *req)
{
    struct zero_frame *frame = dt_frame(c, req);
    struct zero_ctx *zc = c->data;

    if (!frame->turned)
        return DT_PASS;
    frame->turned = false;
    req->op = DT_OP_WRITE;
    req->flags = frame->flags;
    if (unlikely(req->error == -EOPNOTSUPP)) {
        zc->refused = true;
        dt_count(c, REFUSED, 1);
        req->error = 0;
        dt_forward_one(c, req);
        return DT_HELD;
    }
    dt_count(c, TURNED, 1);
    dt_count(c, TURNED_BYTES, dt_req_bytes(req));
    return DT_PASS;
}

const struct dt_block_ext blk_zero = {
    DT_BLOCK_EXT_HEADER,
    .name = "zero",
    .summary = "Turn writes of zeroes into write-zeroes, which take no space",
    .help = "Guests write zeroes when they wipe, format or copy images. Below this layer such a "
            "write is "
            "a write-zeroes, so that a sparse file stays sparse and no data moves. The guest's "
            "buffer is looked at in place, and only as far as its first byte that is not zero.",
    .flags = DT_PER_QUEUE,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct zero),
    .ctx_size = sizeof(struct zero_ctx),
    .frame_size = sizeof(struct zero_frame),
    .request = zero_request,
    .response = zero_response,
    .status = dt_status_below,
};
