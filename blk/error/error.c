/* SPDX-License-Identifier: MIT */
/*
 * error.c - faults on purpose: chosen requests fail, are written in part, or are lost.
 *
 * Which ones is blk/match's. All of it runs on one thread from one seeded generator, so the same requests in the
 * same order give the same faults, also over a restart.
 */
#include "base/base.h"
#include "blk/match/match.h"
#include <devtap/block.h>

#define TORN_AT_ONCE 16u
#define TORN_IOVS    64u

enum mode { FAIL, TORN, LOST };
static const char *const modes[] = {[FAIL] = "fail", [TORN] = "torn", [LOST] = "lost", NULL};

static const char *const errno_names[] = {"EIO",     "ENOSPC", "EOPNOTSUPP", "EROFS",
                                          "ENOMEM",  "EINVAL", "EAGAIN",     "ETIMEDOUT",
                                          "ENOLINK", "EILSEQ", NULL};
static const int errno_values[] = {EIO,    ENOSPC, EOPNOTSUPP, EROFS,   ENOMEM,
                                   EINVAL, EAGAIN, ETIMEDOUT,  ENOLINK, EILSEQ};

struct error {
    struct match match;
    unsigned mode, error;
    uint64_t seed;
    struct match_sequence sequence;
};

/* A write of which a part is on its way. */
struct torn {
    struct torn *next;
    struct dt_req *req;
    struct iovec iov[TORN_IOVS];
};
struct error_ctx {
    struct torn torn[TORN_AT_ONCE];
    struct torn *free;
};

enum params {
    P_MATCH,
    P_ERRNO = P_MATCH + MATCH_PARAM_COUNT,
    P_MODE,
    P_SEED,
};
#define LIVE(field) .flags = DT_PARAM_LIVE, .offset = offsetof(struct error, field)
static const struct dt_param params[] = {
    MATCH_PARAMS(P_MATCH, offsetof(struct error, match), "Operations that may be hit."),
    [P_ERRNO] = {.name = "errno",
                 .type = DT_PARAM_ENUM,
                 LIVE(error),
                 .initial = "EIO",
                 .choices = errno_names,
                 .help = "What the request fails with."},
    [P_MODE] = {.name = "mode",
                .type = DT_PARAM_ENUM,
                LIVE(mode),
                .initial = "fail",
                .choices = modes,
                .help = "fail: not executed; torn: a write fails after a random part of it was "
                        "written; lost: a change is acknowledged and never made."},
    [P_SEED] = {.name = "seed",
                .type = DT_PARAM_UINT,
                LIVE(seed),
                .initial = "1",
                .help = "Same seed, same requests: same faults."},
    {NULL},
};

enum { FAILED, TORN_WRITES, LOST_CHANGES };
static const struct dt_counter counters[] = {
    [FAILED] = {"failed", "requests", "Requests that failed without being executed."},
    [TORN_WRITES] = {"torn", "requests", "Writes that failed after a part of them was written."},
    [LOST_CHANGES] = {"lost", "requests", "Changes that were acknowledged and not made."},
    {NULL},
};

static void restart(struct error *e)
{
    match_restart(&e->sequence, 1, e->seed);
}

static bool matches(const struct error *e, const struct dt_req *req)
{
    if (e->mode == TORN && req->op != DT_OP_WRITE)
        return false;
    if (e->mode == LOST && req->op == DT_OP_READ)
        return false;
    return match_fits(&e->match, req);
}

static void torn_done(struct dt_ctx *c, struct dt_req *sub)
{
    const struct error *e = c->layer_data;
    struct error_ctx *ec = c->data;
    struct torn *torn = dt_sub_arg(sub);
    struct dt_req *req = torn->req;

    dt_sub_free(c, sub);
    torn->next = ec->free;
    ec->free = torn;
    dt_complete_one(c, req, -errno_values[e->error]);
}

/* As many bytes of @iov as @out can describe, at most @bytes; whole blocks. */
static uint64_t describe_prefix(const struct iovec *iov, unsigned n, uint64_t bytes, uint32_t block,
                                struct iovec *out, int *out_n)
{
    for (; bytes; bytes -= block) {
        *out_n = dt_iov_slice(iov, n, 0, bytes, out, TORN_IOVS);
        if (*out_n > 0)
            break;
    }
    return bytes;
}

/* Write a random number of whole blocks, less than all; then fail. */
static enum dt_verdict tear(struct dt_ctx *c, struct dt_req *req)
{
    struct error *e = c->layer_data;
    struct error_ctx *ec = c->data;
    uint32_t block = dt_layer_info(c->layer)->logical_block;
    uint64_t bytes = dt_rng_below(&e->sequence.rng, MAX(1u, dt_req_bytes(req) / block)) * block;
    struct torn *torn = ec->free;
    const struct iovec *iov;
    struct dt_req *sub;
    int out_n = 0;

    dt_count(c, TORN_WRITES, 1);
    req->error = -errno_values[e->error];
    if (!torn || bytes == 0)
        return DT_DONE;
    unsigned n = dt_req_map(c, req, &iov);
    bytes = describe_prefix(iov, n, bytes, block, torn->iov, &out_n);
    if (bytes == 0)
        return DT_DONE;
    sub = dt_sub_new(c, DT_OP_WRITE, req->sector, (uint32_t)(bytes >> DT_SECTOR_SHIFT), torn->iov,
                     (unsigned)out_n, torn_done, torn);
    CHECK(sub != NULL); /* there are as many as struct torn */
    ec->free = torn->next;
    torn->req = req;
    dt_sub_submit(c, sub);
    return DT_HELD;
}

static enum dt_verdict error_request(struct dt_ctx *c, struct dt_req *req)
{
    struct error *e = c->layer_data;

    if (likely(!matches(e, req) || !match_hits(&e->match, &e->sequence)))
        return DT_PASS;
    switch (e->mode) {
    case TORN:
        return tear(c, req);
    case LOST:
        dt_count(c, LOST_CHANGES, 1);
        req->error = 0;
        return DT_DONE;
    default:
        dt_count(c, FAILED, 1);
        req->error = -errno_values[e->error];
        return DT_DONE;
    }
}

static int error_open(struct dt_layer *layer, struct dt_error *err)
{
    restart(dt_layer_data(layer));
    return 0;
}

static int error_start(struct dt_ctx *c, struct dt_error *err)
{
    struct error_ctx *ec = c->data;

    for (unsigned i = 0; i < TORN_AT_ONCE; i++) {
        ec->torn[i].next = ec->free;
        ec->free = &ec->torn[i];
    }
    return 0;
}

static int error_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    if (index == P_SEED || index == MATCH_AFTER(P_MATCH) || index == MATCH_TIMES(P_MATCH))
        restart(dt_layer_data(layer));
    return 0;
}

/* ---- Over a restart, and by hand ---- */

static int64_t error_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct error *e = dt_layer_data(layer);

    return match_save(&e->sequence, 1, e->seed, buf, size);
}

static int error_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                      struct dt_error *err)
{
    struct error *e = dt_layer_data(layer);

    return match_load(&e->sequence, 1, e->seed, buf, size, version, err);
}

static int verb_reset(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    struct error *e = dt_layer_data(layer);

    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    dt_reply_u64(reply, "matched", e->sequence.matched);
    dt_reply_u64(reply, "injected", e->sequence.hits);
    restart(e);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"reset", "", "Begin the sequence again from the seed; tells how far it had come.", verb_reset},
    {NULL},
};

const struct dt_block_ext blk_error = {
    DT_BLOCK_EXT_HEADER,
    .name = "error",
    .summary = "Make requests fail, tear writes or lose them, reproducibly",
    .help = "For tests of what stands above: guests, file systems, other extensions. Give at least "
            "a range, a probability or a count, or every request fails.",
    .flags = DT_SELF_CONTAINED,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct error),
    .ctx_size = sizeof(struct error_ctx),
    .sub_requests = TORN_AT_ONCE,
    .state_version = MATCH_STATE,
    .open = error_open,
    .start = error_start,
    .request = error_request,
    .set = error_set,
    .save = error_save,
    .load = error_load,
    .status = dt_status_below,
};
