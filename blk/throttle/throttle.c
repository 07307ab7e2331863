/* SPDX-License-Identifier: MIT */
/*
 * throttle.c - limits on requests and bytes per second.
 *
 * Theory of operation: the limit stands before the rings. admit() tells core how many requests may
 * be taken; the others stay in the guest's memory, so this layer never holds one and a stop never
 * waits for it. What a request costs in bytes is known only once it was taken: submit() charges the
 * true cost, and a bucket that went into debt by it admits nothing until that is paid. The debt is
 * at most what one burst of each thread carried.
 *
 * All threads of the device share the buckets, under a lock that is taken once per burst (and
 * not at all by a device on one thread, or when no limit is set).
 */
#include "base/base.h"
#include "base/bucket.h"
#include <devtap/block.h>

#include <pthread.h>

/* A shorter wait would cost more in timers than it gains: tokens accumulate meanwhile. */
#define LEAST_PAUSE DT_US(20)

enum limit {
    IOPS,
    READ_IOPS,
    WRITE_IOPS,
    BPS,
    READ_BPS,
    WRITE_BPS,
    LIMITS,
};
#define IS_BYTES(limit) ((limit) >= BPS)

struct throttle {
    uint64_t rates[LIMITS];
    uint64_t burst;
    bool limited, shared;
    uint64_t typical[LIMITS]; /* bytes of a request, averaged */
    struct bucket buckets[LIMITS];
    pthread_mutex_t lock;
};

struct throttle_ctx {
    struct dt_timer timer;
    struct dt_ctx *c;
    uint64_t stopped_at; /* 0 = intake is open */
};

#define RATE(limit) \
    .flags = DT_PARAM_LIVE, .offset = offsetof(struct throttle, rates[limit]), .initial = "0"
static const struct dt_param params[] = {
    {.name = "iops",
     .type = DT_PARAM_UINT,
     RATE(IOPS),
     .unit = "requests/s",
     .help = "Most requests per second, flushes aside; 0 = no limit."},
    {.name = "bps",
     .type = DT_PARAM_SIZE,
     RATE(BPS),
     .unit = "bytes/s",
     .help = "Most bytes read and written per second; 0 = no limit."},
    {.name = "read-iops",
     .type = DT_PARAM_UINT,
     RATE(READ_IOPS),
     .unit = "requests/s",
     .help = "Most reads per second; 0 = no limit."},
    {.name = "write-iops",
     .type = DT_PARAM_UINT,
     RATE(WRITE_IOPS),
     .unit = "requests/s",
     .help = "Most writes, discards and writes of zeroes per second; 0 = no limit."},
    {.name = "read-bps",
     .type = DT_PARAM_SIZE,
     RATE(READ_BPS),
     .unit = "bytes/s",
     .help = "Most bytes read per second; 0 = no limit."},
    {.name = "write-bps",
     .type = DT_PARAM_SIZE,
     RATE(WRITE_BPS),
     .unit = "bytes/s",
     .help = "Most bytes written per second; 0 = no limit."},
    {.name = "burst",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct throttle, burst),
     .initial = "100ms",
     .max = DT_S(3600),
     .help = "What was not used in this time may be caught up with at once."},
    {NULL},
};

enum { STOPS, THROTTLED_NS };
static const struct dt_counter counters[] = {
    [STOPS] = {"stops", "times", "How often the limit closed the intake."},
    [THROTTLED_NS] = {"throttled-ns", "ns", "Time during which the intake was closed."},
    {NULL},
};

/* The bytes for which a closed intake waits: a typical request, unless it can never be there. */
static uint64_t awaited(const struct throttle *t, enum limit limit)
{
    if (!IS_BYTES(limit))
        return 1;
    return MAX(1u, MIN(t->typical[limit], bucket_capacity(&t->buckets[limit]) / 2));
}

static void lock(struct throttle *t)
{
    if (t->shared)
        pthread_mutex_lock(&t->lock);
}

static void unlock(struct throttle *t)
{
    if (t->shared)
        pthread_mutex_unlock(&t->lock);
}

/* How many of @want may come now; if none, *@when says when to ask again. */
static unsigned grant(struct throttle *t, uint64_t now, unsigned want, uint64_t *when)
{
    *when = 0;
    for (unsigned i = 0; i < LIMITS; i++) {
        struct bucket *b = &t->buckets[i];
        uint64_t tokens, least;

        if (!b->rate)
            continue;
        bucket_refill(b, now);
        tokens = bucket_tokens(b);
        least = awaited(t, i);
        if (tokens < least) {
            *when = MAX(*when, bucket_when(b, least));
            want = 0;
        } else if (IS_BYTES(i)) {
            want = (unsigned)MIN(want, MAX(1u, tokens / MAX(1u, t->typical[i])));
        } else {
            want = (unsigned)MIN(want, tokens);
        }
    }
    return want;
}

static unsigned throttle_admit(struct dt_ctx *c, unsigned want)
{
    struct throttle *t = c->layer_data;
    struct throttle_ctx *tc = c->data;
    uint64_t now, when;

    if (!t->limited && !tc->stopped_at)
        return want;
    now = dt_now(c);
    lock(t);
    want = grant(t, now, want, &when);
    unlock(t);
    if (want == 0) {
        if (!tc->stopped_at) {
            tc->stopped_at = now;
            dt_count(c, STOPS, 1);
        }
        if (!tc->timer.heap_index)
            dt_timer_set(c, &tc->timer, MAX(when, now + LEAST_PAUSE));
    } else if (tc->stopped_at) {
        dt_count(c, THROTTLED_NS, now - tc->stopped_at);
        tc->stopped_at = 0;
    }
    return want;
}

static void fire(struct dt_timer *timer)
{
    struct throttle_ctx *tc = container_of(timer, struct throttle_ctx, timer);

    dt_wake(tc->c);
}

struct cost {
    uint64_t requests, bytes;
};

static void charge(struct throttle *t, enum limit requests, enum limit bytes,
                   const struct cost *cost)
{
    bucket_take(&t->buckets[requests], cost->requests);
    bucket_take(&t->buckets[bytes], cost->bytes);
    if (cost->requests)
        t->typical[bytes] = (t->typical[bytes] * 7 + cost->bytes / cost->requests) / 8;
}

static void throttle_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct throttle *t = c->layer_data;
    struct cost reads = {0}, writes = {0}, all;

    if (!t->limited) {
        dt_forward(c, reqs, n);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        struct cost *cost = reqs[i]->op == DT_OP_READ ? &reads : &writes;

        if (reqs[i]->op == DT_OP_FLUSH)
            continue;
        cost->requests++;
        if (dt_req_has_data(reqs[i]))
            cost->bytes += dt_req_bytes(reqs[i]);
    }
    all = (struct cost){reads.requests + writes.requests, reads.bytes + writes.bytes};
    lock(t);
    charge(t, IOPS, BPS, &all);
    charge(t, READ_IOPS, READ_BPS, &reads);
    charge(t, WRITE_IOPS, WRITE_BPS, &writes);
    unlock(t);
    dt_forward(c, reqs, n);
}

static void apply(struct throttle *t)
{
    uint64_t now = dt_clock_ns();

    t->limited = false;
    for (unsigned i = 0; i < LIMITS; i++) {
        bucket_set(&t->buckets[i], t->rates[i], t->burst, now);
        t->limited |= t->rates[i] != 0;
    }
}

static int throttle_open(struct dt_layer *layer, struct dt_error *err)
{
    struct throttle *t = dt_layer_data(layer);

    pthread_mutex_init(&t->lock, NULL);
    t->shared = dt_layer_threads(layer) > 1;
    apply(t);
    return 0;
}

static void throttle_close(struct dt_layer *layer)
{
    struct throttle *t = dt_layer_data(layer);

    pthread_mutex_destroy(&t->lock);
}

/* A closed intake must not sleep until a time that the old limit gave: every thread looks again. No
 * thread is inside the layer now, so its timers may be set from here. */
static int throttle_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    apply(dt_layer_data(layer));
    for (unsigned i = 0; i < dt_layer_threads(layer); i++) {
        struct dt_ctx *c = dt_layer_ctx(layer, i);
        struct throttle_ctx *tc = c ? c->data : NULL;

        if (tc && tc->stopped_at)
            dt_timer_set(c, &tc->timer, dt_clock_ns());
    }
    return 0;
}

static int throttle_start(struct dt_ctx *c, struct dt_error *err)
{
    struct throttle_ctx *tc = c->data;

    tc->c = c;
    tc->timer.fire = fire;
    return 0;
}

static void throttle_stop(struct dt_ctx *c)
{
    struct throttle_ctx *tc = c->data;

    dt_timer_cancel(c, &tc->timer);
}

const struct dt_block_ext blk_throttle = {
    DT_BLOCK_EXT_HEADER,
    .name = "throttle",
    .summary = "Limit requests and bytes per second, exactly, changeable while the VM runs",
    .help =
        "Limits stop requests before they are taken from the guest's ring: nothing is held here, "
        "and a stop never waits for a limit. Flushes are not limited. Several limits hold at once. "
        "What a request cost beyond what was left is paid before the next one comes, so the "
        "average "
        "is exact whatever the size of the requests.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct throttle),
    .ctx_size = sizeof(struct throttle_ctx),
    .open = throttle_open,
    .close = throttle_close,
    .start = throttle_start,
    .stop = throttle_stop,
    .submit = throttle_submit,
    .admit = throttle_admit,
    .set = throttle_set,
};
