/* SPDX-License-Identifier: MIT */
/*
 * ctx.c - the edges between layers.
 *
 * Every crossing, down or up, passes edge_submit() or dt_complete(): there the contract is checked
 * (only the holder of a request may hand it on, and so only once), the crossing is counted, and
 * a sampled request leaves a time stamp. Costs are per burst where they can be.
 */
#include "core/internal.h"

#define BURST 32u

_Noreturn static void contract_violated(const struct ctx *c, const struct request *r,
                                        const char *what)
{
    const char *holder = "nobody";

    if (r->holder && r->holder->magic == CTX_MAGIC)
        holder = r->holder->pub.layer ? r->holder->pub.layer->name : "the front";
    log_error("contract violated: layer %s %s a request held by %s (op %u, sector %llu, queue %u)",
              c->pub.layer ? c->pub.layer->name : "front", what, holder, r->pub.op,
              (unsigned long long)r->pub.sector, r->pub.queue);
    abort();
}

static enum latency_kind latency_kind(const struct request *r)
{
    return r->pub.op == DT_OP_READ    ? LATENCY_READ
           : r->pub.op == DT_OP_WRITE ? LATENCY_WRITE
                                      : LATENCY_OTHER;
}

/* Most requests are not sampled: one at a time, about every 64th, at least one a millisecond. */
void sample_start(struct lane *lane, struct request *r)
{
    memset(lane->stamps, 0, lane->nctxs * sizeof(lane->stamps[0]));
    lane->sampling = true;
    lane->since_sample = 0;
    lane->last_sample = loop_now(lane->loop);
    r->sample = 1;
}

static void sample_up(const struct ctx *from, const struct ctx *to, const struct request *r)
{
    struct lane *lane = from->lane;
    uint64_t now = dt_clock_ns();

    for (unsigned i = from->index; i > to->index; i--)
        if (lane->stamps[i])
            histogram_add(&lane->ctxs[i]->stats.latency[latency_kind(r)], now - lane->stamps[i]);
}

static void count_run(struct ctx *c, unsigned op, uint64_t requests, uint64_t sectors)
{
    bump(&c->stats.ops[op].requests, requests);
    bump(&c->stats.ops[op].sectors, sectors);
}

void edge_submit(struct ctx *from, struct ctx *to, struct dt_req **reqs, unsigned n)
{
    unsigned op = reqs[0]->op, run = 0; /* bursts are runs of one operation, mostly */
    uint64_t sectors = 0;

    for (unsigned i = 0; i < n; i++) {
        struct request *r = request_of(reqs[i]);

        if (unlikely(r->holder != from || r->pub.op >= DT_OP_COUNT))
            contract_violated(from, r, "forwarded");
        r->holder = to;
        if (unlikely(r->pub.op != op)) {
            count_run(to, op, run, sectors);
            op = r->pub.op;
            run = 0;
            sectors = 0;
        }
        run++;
        sectors += r->pub.sectors;
        if (unlikely(r->sample))
            from->lane->stamps[to->index] = dt_clock_ns();
    }
    count_run(to, op, run, sectors);
    hold(from, -n);
    hold(to, n);
    to->submit(&to->pub, reqs, n);
}

void dt_forward(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct ctx *ctx = ctx_of(c);

    if (n == 0)
        return;
    if (unlikely(!ctx->down))
        contract_violated(ctx, request_of(reqs[0]), "forwarded from the end of the chain");
    edge_submit(ctx, ctx->down, reqs, n);
}

void dt_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct ctx *from = ctx_of(c), *to = from->up;

    if (n == 0)
        return;
    for (unsigned i = 0; i < n; i++) {
        struct request *r = request_of(reqs[i]);

        if (unlikely(r->holder != from || r->pub.op >= DT_OP_COUNT))
            contract_violated(from, r, "completed");
        r->holder = to;
        if (unlikely(r->pub.error))
            bump(&from->stats.ops[r->pub.op].errors, 1);
        if (unlikely(r->sample))
            sample_up(from, to, r);
    }
    hold(from, -n);
    hold(to, n);
    to->complete(&to->pub, reqs, n);
}

/* The per-request forms, made into bursts again. */
static void submit_each(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    const struct dt_block_ext *ext = c->layer->ext;

    for (unsigned at = 0; at < n; at += BURST) {
        struct dt_req *pass[BURST], *done[BURST];
        unsigned npass = 0, ndone = 0, end = MIN(n, at + BURST);

        for (unsigned i = at; i < end; i++) {
            switch (ext->request(c, reqs[i])) {
            case DT_PASS:
                pass[npass++] = reqs[i];
                break;
            case DT_DONE:
                done[ndone++] = reqs[i];
                break;
            case DT_HELD:
                break;
            }
        }
        dt_complete(c, done, ndone);
        dt_forward(c, pass, npass);
    }
}

static void complete_each(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    const struct dt_block_ext *ext = c->layer->ext;

    for (unsigned at = 0; at < n; at += BURST) {
        struct dt_req *pass[BURST];
        unsigned npass = 0, end = MIN(n, at + BURST);

        for (unsigned i = at; i < end; i++)
            if (ext->response(c, reqs[i]) != DT_HELD)
                pass[npass++] = reqs[i];
        dt_complete(c, pass, npass);
    }
}

static void choose_callbacks(struct ctx *c)
{
    const struct dt_block_ext *ext = c->pub.layer->ext;

    c->submit = ext->submit ? ext->submit : ext->request ? submit_each : NULL;
    c->complete = ext->complete ? ext->complete : ext->response ? complete_each : NULL;
}

/**
 * ctx_link() - join a lane's contexts: down to the next that takes requests, up to the next that wants
 * to see completions. Layers without the callback are left out, so they cost nothing.
 */
void ctx_link(struct lane *lane)
{
    struct ctx *next = NULL, *prev;

    for (unsigned i = 1; i < lane->nctxs; i++) {
        choose_callbacks(lane->ctxs[i]);
        sub_init(lane->ctxs[i], lane->ctxs[i]->pub.layer->ext->sub_requests);
    }
    for (unsigned i = lane->nctxs; i-- > 0;) {
        lane->ctxs[i]->down = next;
        if (lane->ctxs[i]->submit)
            next = lane->ctxs[i];
    }
    prev = lane->front;
    for (unsigned i = 1; i < lane->nctxs; i++) {
        lane->ctxs[i]->up = prev;
        if (lane->ctxs[i]->complete)
            prev = lane->ctxs[i];
    }
    lane->top = lane->front->down;
}

struct loop *ctx_loop(struct dt_ctx *c)
{
    return ctx_of(c)->lane->loop;
}

struct loop *layer_loop(const struct dt_layer *layer, unsigned thread)
{
    CHECK(thread < layer->dev->threads);
    return layer->dev->loops[thread];
}

void ctx_busy(struct dt_ctx *c, int change)
{
    struct ctx *ctx = ctx_of(c);

    ctx->lane->subs += (unsigned)change;
    hold(ctx, (uint32_t)change);
    if (change < 0 && unlikely(ctx->lane->quiescing))
        lane_drained(ctx->lane);
}

uint64_t dt_now(struct dt_ctx *c)
{
    return loop_now(ctx_of(c)->lane->loop);
}

void dt_wake(struct dt_ctx *c)
{
    struct lane *lane = ctx_of(c)->lane;

    lane->front_ops->wake(lane);
}

/* I/O, timers and watches of a layer are its loop's. */
void dt_io_readv(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                 uint64_t offset)
{
    loop_readv(ctx_of(c)->lane->loop, io, fd, iov, n, offset);
}

void dt_io_writev(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                  uint64_t offset)
{
    loop_writev(ctx_of(c)->lane->loop, io, fd, iov, n, offset);
}

void dt_io_fdatasync(struct dt_ctx *c, struct dt_io *io, int fd)
{
    loop_fdatasync(ctx_of(c)->lane->loop, io, fd);
}

void dt_io_fallocate(struct dt_ctx *c, struct dt_io *io, int fd, int mode, uint64_t offset,
                     uint64_t length)
{
    loop_fallocate(ctx_of(c)->lane->loop, io, fd, mode, offset, length);
}

void dt_timer_set(struct dt_ctx *c, struct dt_timer *timer, uint64_t deadline)
{
    loop_timer_set(ctx_of(c)->lane->loop, timer, deadline);
}

void dt_timer_cancel(struct dt_ctx *c, struct dt_timer *timer)
{
    loop_timer_cancel(ctx_of(c)->lane->loop, timer);
}

int dt_watch_add(struct dt_ctx *c, struct dt_watch *watch)
{
    return loop_watch_add(ctx_of(c)->lane->loop, watch);
}

void dt_watch_remove(struct dt_ctx *c, struct dt_watch *watch)
{
    loop_watch_remove(ctx_of(c)->lane->loop, watch);
}
