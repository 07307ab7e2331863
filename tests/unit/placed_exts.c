/* SPDX-License-Identifier: MIT */
/* placed_exts.c - extensions for the tests of placement, each of another kind. */
#include "tests/unit/placed_common.h"
#include "tests/unit/plus.h"

#include <signal.h>
#include <sys/mman.h>

/* ---- Headers only, down; and both ways ---- */

enum { SEEN, REPLAYED };
static const struct dt_counter counters[] = {
    [SEEN] = {"seen", "requests", "Requests that came by."},
    [REPLAYED] = {"replayed", "requests", "Requests that came by again."},
    {NULL},
};

static enum dt_verdict count_request(struct dt_ctx *c, struct dt_req *req)
{
    dt_count(c, SEEN, 1);
    if (req->flags & DT_REQ_REPLAYED)
        dt_count(c, REPLAYED, 1);
    return DT_PASS;
}

static enum dt_verdict pass_response(struct dt_ctx *c, struct dt_req *req)
{
    return DT_PASS;
}

static const struct dt_block_ext down_ext = {
    DT_BLOCK_EXT_HEADER,   .name = "down",       .summary = "requests only",
    .flags = DT_PER_QUEUE, .counters = counters, .request = count_request,
};

static const struct dt_block_ext both_ext = {
    DT_BLOCK_EXT_HEADER,       .name = "both",       .summary = "both ways",
    .flags = DT_PER_QUEUE,     .counters = counters, .request = count_request,
    .response = pass_response,
};

static const struct dt_block_ext up_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "up",
    .summary = "responses only",
    .response = pass_response,
};

/* ---- Data ---- */

static const struct dt_block_ext plus_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "plus",
    .summary = "transforms",
    .flags = DT_PER_QUEUE | DT_CONTENT_BEARING,
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .submit = plus_submit,
    .complete = plus_complete,
};

/* Looks at every byte; ends the process if a block's 8-byte words are not those of one pattern. */
static _Thread_local uint64_t sum;
static const struct dt_counter look_counters[] = {
    {"vectors", "vectors", "In which the data came."},
    {NULL},
};

static enum dt_verdict look(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n;

    if (!dt_req_has_data(req))
        return DT_PASS;
    n = dt_req_map(c, req, &iov);
    CHECK(dt_iov_length(iov, n) == dt_req_bytes(req));
    dt_count(c, 0, n);
    for (unsigned i = 0; i < n; i++)
        for (size_t k = 0; k < iov[i].iov_len; k += 64)
            sum += ((const uint8_t *)iov[i].iov_base)[k];
    return DT_PASS;
}

static const struct dt_block_ext peek_ext = {
    DT_BLOCK_EXT_HEADER,       .name = "peek",
    .summary = "looks",        .flags = DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK, .write_data = DT_DATA_PEEK,
    .counters = look_counters, .request = look,
    .response = look,
};

/* Writes where it said that it only reads. */
static enum dt_verdict scribble_request(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;

    if (req->op == DT_OP_WRITE) {
        dt_req_map(c, req, &iov);
        *(volatile uint8_t *)iov->iov_base = 1;
    }
    return DT_PASS;
}

static const struct dt_block_ext scribble_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "scribble",
    .summary = "writes into what is written",
    .write_data = DT_DATA_PEEK,
    .request = scribble_request,
};

static const struct dt_block_ext stable_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "stable",
    .summary = "looks at copies",
    .flags = DT_PER_QUEUE,
    .read_data = DT_DATA_STABLE,
    .write_data = DT_DATA_STABLE,
    .counters = look_counters,
    .request = look,
    .response = look,
};

/* ---- Holding, and requests of its own ---- */

struct held {
    struct dt_timer timer;
    struct dt_ctx *c;
    struct dt_req *reqs[2048];
    unsigned n;
};

static void let_go(struct held *h)
{
    struct dt_req *reqs[2048];
    unsigned n = h->n;

    memcpy(reqs, h->reqs, n * sizeof(reqs[0]));
    h->n = 0;
    dt_forward(h->c, reqs, n);
}

static void hold_fire(struct dt_timer *timer)
{
    let_go(container_of(timer, struct held, timer));
}

static enum dt_verdict hold_request(struct dt_ctx *c, struct dt_req *req)
{
    struct held *h = c->data;

    h->c = c;
    h->reqs[h->n++] = req;
    h->timer.fire = hold_fire;
    if (h->n == 1)
        dt_timer_set(c, &h->timer, dt_now(c) + DT_US(300));
    return DT_HELD;
}

static void hold_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct held *h = c->data;

    dt_timer_cancel(c, &h->timer);
    if (h->n)
        let_go(h);
}

static void hold_stop(struct dt_ctx *c)
{
    dt_timer_cancel(c, &((struct held *)c->data)->timer);
}

static const struct dt_block_ext hold_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "hold",
    .summary = "holds for a while",
    .flags = DT_PER_QUEUE,
    .ctx_size = sizeof(struct held),
    .request = hold_request,
    .response = pass_response,
    .quiesce = hold_quiesce,
    .stop = hold_stop,
};

/* Reads what a write is about to replace, and writes it back, under a lock of the range. */
struct guarded {
    struct dt_range range;
    struct dt_req *req;
    struct iovec *iov;
};

static void rewrite_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct guarded *g = dt_sub_arg(sub);

    CHECK(sub->error == 0);
    dt_sub_free(c, sub);
    dt_forward_one(c, g->req);
}

static void reread_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct guarded *g = dt_sub_arg(sub);
    uint64_t sector = sub->sector;
    uint32_t sectors = sub->sectors;

    CHECK(sub->error == 0);
    dt_sub_free(c, sub);
    sub = dt_sub_new(c, DT_OP_WRITE, sector, sectors, g->iov, 1, rewrite_done, g);
    CHECK(sub);
    dt_sub_submit(c, sub);
}

static void guard_granted(struct dt_ctx *c, struct dt_range *range)
{
    struct guarded *g = container_of(range, struct guarded, range);
    struct dt_req *sub;

    g->iov = xcalloc(1, sizeof(*g->iov));
    *g->iov = (struct iovec){xcalloc(1, dt_req_bytes(g->req)), dt_req_bytes(g->req)};
    sub = dt_sub_new(c, DT_OP_READ, g->req->sector, g->req->sectors, g->iov, 1, reread_done, g);
    CHECK(sub);
    dt_sub_submit(c, sub);
}

static enum dt_verdict guard_request(struct dt_ctx *c, struct dt_req *req)
{
    struct guarded *g = dt_frame(c, req);

    if (req->op != DT_OP_WRITE)
        return DT_PASS;
    *g = (struct guarded){.range.granted = guard_granted, .req = req};
    if (dt_range_lock(c, &g->range, req->sector, req->sectors))
        guard_granted(c, &g->range);
    return DT_HELD;
}

static enum dt_verdict guard_response(struct dt_ctx *c, struct dt_req *req)
{
    struct guarded *g = dt_frame(c, req);

    if (req->op == DT_OP_WRITE) {
        free(g->iov->iov_base);
        free(g->iov);
        dt_range_unlock(c, &g->range);
    }
    return DT_PASS;
}

static const struct dt_block_ext guard_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "guard",
    .summary = "locks and rewrites",
    .flags = DT_PER_QUEUE,
    .sub_requests = 64,
    .frame_size = sizeof(struct guarded),
    .request = guard_request,
    .response = guard_response,
};

/* ---- Failing, in every way ---- */

struct bad {
    unsigned how;
    uint64_t sector, marks;
    char *label;
};
static const char *const ways[] = {"segv", "abort", "exit", "hang", "leak", "lose", "kill", NULL};
static const struct dt_param bad_params[] = {
    {.name = "how",
     .type = DT_PARAM_ENUM,
     .flags = DT_PARAM_LIVE,
     .initial = "segv",
     .choices = ways,
     .offset = offsetof(struct bad, how),
     .help = "What goes wrong."},
    {.name = "sector",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .initial = "1000000",
     .offset = offsetof(struct bad, sector),
     .help = "Which sector does it."},
    {.name = "label",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE | DT_PARAM_SECRET,
     .initial = "none",
     .offset = offsetof(struct bad, label),
     .help = "A text."},
    {NULL},
};

static void go_wrong(unsigned how)
{
    switch (how) {
    case 0:
        raise(SIGSEGV);
        break;
    case 1:
        raise(SIGABRT);
        break;
    case 2:
        _exit(3);
    case 3:
        for (;;)
            pause();
    case 4:
        for (;;)
            memset(xcalloc(1, 1 << 20), 1, 1 << 20);
    case 6:
        raise(SIGKILL);
    default:
        break;
    }
}

static enum dt_verdict bad_request(struct dt_ctx *c, struct dt_req *req)
{
    struct bad *b = c->layer_data;

    if (req->sector != b->sector || req->op == DT_OP_FLUSH)
        return DT_PASS;
    go_wrong(b->how);
    return DT_HELD; /* "lose": never seen again */
}

static int bad_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct bad *b = dt_layer_data(layer);

    return b->sector == 13 ? dt_fail(err, -EINVAL, "13 brings bad luck") : 0;
}

static int64_t bad_save(struct dt_layer *layer, void *buf, size_t size)
{
    struct bad *b = dt_layer_data(layer);

    memcpy(buf, &b->marks, sizeof(b->marks));
    return sizeof(b->marks);
}

static int bad_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                    struct dt_error *err)
{
    struct bad *b = dt_layer_data(layer);

    if (size != sizeof(b->marks))
        return dt_fail(err, -EINVAL, "a state of %zu bytes is none", size);
    memcpy(&b->marks, buf, sizeof(b->marks));
    return 0;
}

static int bad_mark(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    struct bad *b = dt_layer_data(layer);

    if (argc != 1)
        return dt_fail(err, -EINVAL, "one argument, please");
    b->marks += (uint64_t)atoi(argv[0]);
    dt_reply_u64(reply, "marks", b->marks);
    dt_reply(reply, "label", "%s", b->label);
    dt_reply_u64(reply, "pid", (uint64_t)getpid());
    return 0;
}

static const struct dt_verb bad_verbs[] = {
    {"mark", "N", "Add to the marks.", bad_mark},
    {NULL},
};

static const struct dt_block_ext bad_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "bad",
    .summary = "fails",
    .flags = DT_PER_QUEUE,
    .params = bad_params,
    .verbs = bad_verbs,
    .layer_size = sizeof(struct bad),
    .state_version = 1,
    .request = bad_request,
    .set = bad_set,
    .save = bad_save,
    .load = bad_load,
};

const struct dt_block_ext *const placed_test_exts[] = {
    &down_ext, &both_ext,  &up_ext,  &plus_ext,     &peek_ext, &stable_ext,
    &hold_ext, &guard_ext, &bad_ext, &scribble_ext, NULL,
};
