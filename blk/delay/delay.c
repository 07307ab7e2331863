/* SPDX-License-Identifier: MIT */
/*
 * delay.c - chosen requests wait before they go on.
 *
 * A waiting request is a node of its thread's heap, kept in its own frame; one timer per thread
 * stands for the earliest. Each thread counts and draws from a generator of its own (blk/match), so a
 * device's sequence depends on nothing but the requests of each thread.
 */
#include "base/base.h"
#include "blk/delay/heap.h"
#include "blk/match/match.h"
#include <devtap/block.h>

#define BURST 32u

struct delay {
    struct match match;
    uint64_t time, jitter, seed;
    unsigned threads;
    struct match_sequence *sequences; /* by thread; they outlive the contexts, to be saved */
};

struct delay_ctx {
    struct heap_node *heap;
    struct dt_timer timer;
    struct dt_ctx *c;
};

enum params { P_MATCH, P_TIME = P_MATCH + MATCH_PARAM_COUNT, P_JITTER, P_SEED };
#define LIVE(field) .flags = DT_PARAM_LIVE, .offset = offsetof(struct delay, field)
static const struct dt_param params[] = {
    MATCH_PARAMS(P_MATCH, offsetof(struct delay, match), "Operations that are delayed."),
    [P_TIME] = {.name = "time",
                .type = DT_PARAM_DURATION,
                LIVE(time),
                .initial = "1ms",
                .help = "How long each waits.",
                .max = DT_S(3600)},
    [P_JITTER] = {.name = "jitter",
                  .type = DT_PARAM_DURATION,
                  LIVE(jitter),
                  .initial = "0s",
                  .help = "Up to so much more, uniformly distributed.",
                  .max = DT_S(3600)},
    [P_SEED] = {.name = "seed",
                .type = DT_PARAM_UINT,
                LIVE(seed),
                .initial = "1",
                .help = "Same seed, same requests: same delays."},
    {NULL},
};

enum { DELAYED, DELAYED_NS };
static const struct dt_counter counters[] = {
    [DELAYED] = {"delayed", "requests", "Requests that were made to wait."},
    [DELAYED_NS] = {"delayed-ns", "ns", "The sum of the delays that were imposed."},
    {NULL},
};

static void restart(struct delay *d)
{
    match_restart(d->sequences, d->threads, d->seed);
}

static void arm(struct delay_ctx *dc)
{
    if (!dc->heap)
        dt_timer_cancel(dc->c, &dc->timer);
    else if (!dc->timer.heap_index || dc->timer.deadline != dc->heap->due)
        dt_timer_set(dc->c, &dc->timer, dc->heap->due);
}

static enum dt_verdict delay_request(struct dt_ctx *c, struct dt_req *req)
{
    struct delay *d = c->layer_data;
    struct delay_ctx *dc = c->data;
    struct match_sequence *sequence = &d->sequences[c->thread];
    uint64_t wait;

    if (!match_fits(&d->match, req) || !match_hits(&d->match, sequence))
        return DT_PASS;
    wait = d->time + (d->jitter ? dt_rng_below(&sequence->rng, d->jitter + 1) : 0);
    if (wait == 0)
        return DT_PASS;
    dt_count(c, DELAYED, 1);
    dt_count(c, DELAYED_NS, wait);
    heap_push(&dc->heap, dt_frame(c, req), dt_now(c) + wait);
    arm(dc);
    return DT_HELD;
}

/* Forward what is due by @until. Forwarding may bring new requests, even into this heap. */
static void release(struct delay_ctx *dc, struct heap_node **heap, uint64_t until)
{
    while (*heap && (*heap)->due <= until) {
        struct dt_req *reqs[BURST];
        unsigned n = 0;

        while (n < BURST && *heap && (*heap)->due <= until)
            reqs[n++] = dt_frame_req(dc->c, heap_pop(heap));
        dt_forward(dc->c, reqs, n);
    }
}

static void fire(struct dt_timer *timer)
{
    struct delay_ctx *dc = container_of(timer, struct delay_ctx, timer);

    release(dc, &dc->heap, dt_now(dc->c));
    arm(dc);
}

static void delay_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct delay_ctx *dc = c->data;
    struct heap_node *heap = TAKE_PTR(dc->heap);

    release(dc, &heap, UINT64_MAX);
    arm(dc);
}

static int delay_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct delay_ctx *dc = c->data;

    heap_remove(&dc->heap, dt_frame(c, req));
    arm(dc);
    dt_complete_one(c, req, -ECANCELED);
    return 0;
}

static int delay_open(struct dt_layer *layer, struct dt_error *err)
{
    struct delay *d = dt_layer_data(layer);

    d->threads = dt_layer_threads(layer);
    d->sequences = xaligned(CACHE_LINE, d->threads * sizeof(*d->sequences));
    restart(d);
    return 0;
}

static void delay_close(struct dt_layer *layer)
{
    struct delay *d = dt_layer_data(layer);

    free(d->sequences);
}

static int delay_start(struct dt_ctx *c, struct dt_error *err)
{
    struct delay_ctx *dc = c->data;

    dc->c = c;
    dc->timer.fire = fire;
    return 0;
}

static void delay_stop(struct dt_ctx *c)
{
    struct delay_ctx *dc = c->data;

    CHECK(dc->heap == NULL);
    dt_timer_cancel(c, &dc->timer);
}

static int delay_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    if (index == P_SEED || index == MATCH_AFTER(P_MATCH) || index == MATCH_TIMES(P_MATCH))
        restart(dt_layer_data(layer));
    return 0;
}

static int64_t delay_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct delay *d = dt_layer_data(layer);

    return match_save(d->sequences, d->threads, d->seed, buf, size);
}

static int delay_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                      struct dt_error *err)
{
    struct delay *d = dt_layer_data(layer);

    return match_load(d->sequences, d->threads, d->seed, buf, size, version, err);
}

const struct dt_block_ext blk_delay = {
    DT_BLOCK_EXT_HEADER,
    .name = "delay",
    .summary = "Make requests wait: by operation, range, count and chance, with jitter",
    .help = "A request waits before it goes down; the time it takes below comes on top. Requests "
            "that wait keep their place in the guest's queue. When the device stops or changes, "
            "all go on at once.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct delay),
    .ctx_size = sizeof(struct delay_ctx),
    .frame_size = sizeof(struct heap_node),
    .state_version = MATCH_STATE,
    .open = delay_open,
    .close = delay_close,
    .start = delay_start,
    .stop = delay_stop,
    .request = delay_request,
    .quiesce = delay_quiesce,
    .cancel = delay_cancel,
    .set = delay_set,
    .save = delay_save,
    .load = delay_load,
};
