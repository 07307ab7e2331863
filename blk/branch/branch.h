/* SPDX-License-Identifier: MIT */
/*
 * branch.h - a layer that has a chain of its own beside the one it stands in: a leg of a mirror,
 * the disk that is copied to, a shadow.
 *
 * Such a chain is a whole device on the layer's own loop, and the layer is its front. So anything
 * that can be a disk can be a branch, and core needs to know nothing of forks.
 */
#ifndef BRANCH_H
#define BRANCH_H

#include "core/core.h"

/**
 * branch_open() - from the layer's open(): the chain written @text, on one thread of @layer's
 * device. Return: 0; -EINVAL for what can never be opened (a mistake in @text, an unknown name);
 * else why it cannot be opened now.
 */
int branch_open(struct device **dev, struct dt_layer *layer, const char *text,
                struct dt_error *err);

/**
 * struct rest - what the layer does of its own accord pauses: from quiesce() until the guest's requests come again, or
 * until the deadline. Zero: it does not.
 */
struct rest {
    uint64_t until;
};
static inline void rest_begin(struct rest *rest, uint64_t deadline)
{
    rest->until = deadline;
}
/** rest_ended_by() - does this request end it? Not one that a layer above had held, and lets go of for the same rest. */
static inline bool rest_ended_by(struct rest *rest, struct dt_ctx *c, const struct dt_req *req)
{
    if (likely(!rest->until) || (req->flags & DT_REQ_SUB) || ctx_resting(c))
        return false;
    rest->until = 0;
    return true;
}
static inline bool rests(const struct rest *rest, struct dt_ctx *c)
{
    return ctx_resting(c) || (rest->until && dt_now(c) < rest->until);
}

/** branch_start() - from the layer's start(). Return: the lane to submit to, with @front as its
 * front's pointer; NULL with @err and @ret. */
struct lane *branch_start(struct device *dev, const struct front_ops *ops, void *front, int *ret,
                          struct dt_error *err);

#endif
