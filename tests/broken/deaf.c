/* SPDX-License-Identifier: MIT */
/* deaf.c - broken on purpose: holds requests and does not let go when asked to */
#include <devtap/block.h>

struct held {
    struct dt_timer timer;
    struct dt_ctx *c;
    struct dt_req *req;
};

static void fire(struct dt_timer *timer)
{
    struct held *held = (struct held *)timer;

    held->req = (dt_forward_one(held->c, held->req), NULL);
}

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    struct held *held = c->data;

    if (held->req)
        return DT_PASS;
    *held = (struct held){{.fire = fire}, c, req};
    dt_timer_set(c, &held->timer, dt_now(c) + DT_S(6));
    return DT_HELD;
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
}

static const struct dt_block_ext deaf = {
    DT_BLOCK_EXT_HEADER,
    .name = "deaf",
    .summary = "Broken: holds requests and does not let go when asked to",
    .ctx_size = sizeof(struct held),
    .request = request,
    .quiesce = quiesce,
};
DT_BLOCK_EXTENSION(deaf)
