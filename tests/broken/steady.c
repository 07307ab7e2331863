/* SPDX-License-Identifier: MIT */
/*
 * steady.c - an extension that uses all there is to promise: it holds requests, cancels, sums up
 * data that must not change meanwhile, keeps state, and has a live parameter. With flaw= it breaks
 * one of these promises.
 */
#include <devtap/block.h>
#include <string.h>

enum flaw { NONE, CANCEL, VERSION, EMPTY, OVERRUN, SET, MAP };
static const char *const flaws[] = {"none",    "cancel", "version", "empty",
                                    "overrun", "set",    "map",     NULL};

#define HELD_MAX 64

struct steady {
    uint64_t every, seen;
    unsigned flaw;
};

/* What is held on one thread, until the timer or a quiesce. */
struct holder {
    struct dt_timer timer;
    struct dt_ctx *c;
    struct dt_req *held[HELD_MAX];
    unsigned n;
};

struct frame {
    uint64_t sum;
};

static const struct dt_param params[] = {
    {.name = "every",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .initial = "7",
     .min = 1,
     .max = 1000,
     .offset = offsetof(struct steady, every),
     .help = "Hold every n-th request for a millisecond."},
    {.name = "flaw",
     .type = DT_PARAM_ENUM,
     .initial = "none",
     .choices = flaws,
     .offset = offsetof(struct steady, flaw),
     .help = "The promise to break."},
    {NULL},
};

static uint64_t sum_up(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        for (size_t k = 0; k < iov[i].iov_len; k++)
            sum = sum * 31 + ((const uint8_t *)iov[i].iov_base)[k];
    return sum;
}

static void release(struct holder *h)
{
    unsigned n = h->n;

    h->n = 0;
    dt_timer_cancel(h->c, &h->timer);
    dt_forward(h->c, h->held, n);
}

static void fire(struct dt_timer *timer)
{
    release((struct holder *)timer);
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct holder *h = c->data;

    h->timer.fire = fire;
    h->c = c;
    return 0;
}

static enum dt_verdict request(struct dt_ctx *c, struct dt_req *req)
{
    struct steady *s = c->layer_data;
    struct frame *frame = dt_frame(c, req);
    struct holder *h = c->data;

    if (req->op == DT_OP_WRITE)
        frame->sum = sum_up(c, req);
    if (++s->seen % s->every || h->n == HELD_MAX)
        return DT_PASS;
    if (h->n == 0)
        dt_timer_set(c, &h->timer, dt_now(c) + DT_MS(1));
    h->held[h->n++] = req;
    return DT_HELD;
}

static enum dt_verdict response(struct dt_ctx *c, struct dt_req *req)
{
    const struct frame *frame = dt_frame(c, req);

    if (req->op == DT_OP_WRITE && sum_up(c, req) != frame->sum)
        req->error = 999; /* not an errno: the harness reports it */
    return DT_PASS;
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
    release(c->data);
}

static int cancel(struct dt_ctx *c, struct dt_req *req)
{
    const struct steady *s = c->layer_data;
    struct holder *h = c->data;

    for (unsigned i = 0; i < h->n; i++) {
        if (h->held[i] != req)
            continue;
        if (s->flaw == CANCEL)
            return 0;
        h->held[i] = h->held[--h->n];
        if (h->n == 0)
            dt_timer_cancel(c, &h->timer);
        dt_complete_one(c, req, -ECANCELED);
        return 0;
    }
    return -EBUSY;
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct steady *s = dt_layer_data(layer);

    if (s->flaw == SET && s->every > 500)
        return -EINVAL; /* without a reason */
    if (s->every > 900)
        return dt_fail(err, -EINVAL, "more than 900 is too rare");
    return 0;
}

static int64_t save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct steady *s = dt_layer_data(layer);

    if (size < sizeof(s->seen) && s->flaw != OVERRUN)
        return -ENOSPC;
    memcpy(buf, &s->seen, sizeof(s->seen));
    return sizeof(s->seen);
}

static int load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    struct steady *s = dt_layer_data(layer);

    if (size == 0 && s->flaw == EMPTY)
        return 0;
    if (version != 3 && s->flaw != VERSION)
        return dt_fail(err, -EINVAL, "its state is of version %u", version);
    if (size != sizeof(s->seen))
        return dt_fail(err, -EINVAL, "its state has %zu bytes", size);
    memcpy(&s->seen, buf, sizeof(s->seen));
    return 0;
}

static void status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct steady *s = dt_layer_data(layer);

    dt_status_below(layer, extent);
    if (s->flaw == MAP)
        extent->status = DT_STATUS_HOLE;
}

static const struct dt_block_ext steady = {
    DT_BLOCK_EXT_HEADER,
    .name = "steady",
    .summary = "Uses all there is to promise, and can break each promise",
    .read_data = DT_DATA_STABLE,
    .write_data = DT_DATA_STABLE,
    .params = params,
    .layer_size = sizeof(struct steady),
    .ctx_size = sizeof(struct holder),
    .frame_size = sizeof(struct frame),
    .state_version = 3,
    .start = start,
    .request = request,
    .response = response,
    .quiesce = quiesce,
    .cancel = cancel,
    .set = set,
    .save = save,
    .load = load,
    .status = status,
};
DT_BLOCK_EXTENSION(steady)
