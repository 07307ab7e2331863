/* SPDX-License-Identifier: MIT */
/*
 * record.c - the extension trace: what happened to each request, in a file.
 *
 * Theory of operation: `submit` stamps a burst, `complete` turns each request into a record in
 * its thread's ring. A thread of the layer's own moves the rings' contents to the file. The
 * request path never waits for that: what finds a full ring is counted and forgotten. The
 * producer wakes the writer when a ring was empty and the writer sleeps, and when a ring
 * becomes half full; between those, the writer looks by itself every few milliseconds.
 */
#include "blk/trace/internal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

struct trace_ctx {
    struct trace_ring *ring;
    uint32_t depth;
};

/* A request's frame. */
struct stamp {
    uint64_t time;
    uint32_t depth;
    uint32_t hash; /* of a write's data */
};

static const char *const hashes[] = {[TRACE_HASH_NONE] = "none", [TRACE_HASH_XXH3] = "xxh3", NULL};

static const struct dt_param params[] = {
    {.name = "out",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct trace, out),
     .help = "File to write; an existing trace is continued by another segment."},
    {.name = "buffer",
     .type = DT_PARAM_SIZE,
     .offset = offsetof(struct trace, buffer),
     .initial = "1M",
     .help = "Memory per thread for records not yet written (40 bytes each).",
     .min = 64 << 10,
     .max = 1 << 30},
    {.name = "limit",
     .type = DT_PARAM_SIZE,
     .offset = offsetof(struct trace, limit),
     .initial = "0",
     .help = "Stop recording when the file has reached this size; 0 = no limit."},
    {.name = "hash",
     .type = DT_PARAM_ENUM,
     .offset = offsetof(struct trace, hash),
     .initial = "none",
     .choices = hashes,
     .help = "Record a hash of what is read and written, too: none or xxh3."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [WRITTEN] = {"written", "requests", "Records that are in the file."},
    [DROPPED] = {"dropped", "requests", "Requests not recorded because the buffer was full."},
    [UNWRITTEN] = {"unwritten", "requests",
                   "Records lost because the file could not grow: limit reached or write failed."},
    {NULL},
};

/* What passed through here. A guest that changes a buffer while it is being written gets the hash
 * of what we saw, as it gets on the disk what that saw. */
static uint32_t hash_data(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);
    XXH3_state_t state;

    if (n == 1)
        return (uint32_t)XXH3_64bits(iov->iov_base, iov->iov_len);
    XXH3_64bits_reset(&state);
    for (unsigned i = 0; i < n; i++)
        XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
    return (uint32_t)XXH3_64bits_digest(&state);
}

static void trace_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    const struct trace *t = c->layer_data;
    struct trace_ctx *tc = c->data;
    uint64_t now = dt_clock_ns();

    for (unsigned i = 0; i < n; i++) {
        struct stamp *s = dt_frame(c, reqs[i]);

        s->time = now;
        s->depth = ++tc->depth;
        if (unlikely(t->hash) && reqs[i]->op == DT_OP_WRITE)
            s->hash = hash_data(c, reqs[i]);
    }
    dt_forward(c, reqs, n);
}

/* How many records the ring can take; looks at the writer's progress only when it must. */
static uint64_t ring_room(struct trace_ring *ring, unsigned want)
{
    uint64_t room = ring->size - (ring->head - ring->tail_seen);

    if (room < want) {
        ring->tail_seen = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
        room = ring->size - (ring->head - ring->tail_seen);
    }
    return room;
}

static void fill(const struct trace *t, struct dt_ctx *c, struct trace_record *r,
                 struct dt_req *req, uint64_t now)
{
    const struct stamp *s = dt_frame(c, req);

    *r = (struct trace_record){
        .time = s->time - t->start,
        .latency = now - s->time,
        .sector = req->sector,
        .sectors = req->sectors,
        .queue = req->queue,
        .error = (uint16_t)-req->error,
        .depth = (uint16_t)MIN(s->depth, UINT16_MAX),
        .op = req->op,
        .flags = req->flags,
    };
    if (unlikely(t->hash) && dt_req_has_data(req) && req->error == 0)
        r->data_hash = req->op == DT_OP_WRITE ? s->hash : hash_data(c, req);
}

static void publish(struct trace *t, struct trace_ring *ring, unsigned n)
{
    uint64_t before = ring->head - ring->tail_seen;

    __atomic_store_n(&ring->head, ring->head + n, __ATOMIC_RELEASE);
    writer_published(&t->writer, before, before + n, ring->size);
}

static void trace_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct trace *t = c->layer_data;
    struct trace_ctx *tc = c->data;
    struct trace_ring *ring = tc->ring;
    uint64_t now = dt_clock_ns();
    uint64_t room = ring_room(ring, n); /* once: the writer makes more at any moment */
    unsigned fit = (unsigned)MIN(room, n);

    tc->depth -= n;
    for (unsigned i = 0; i < fit; i++) {
        fill(t, c, &ring->records[ring->position], reqs[i], now);
        if (++ring->position == ring->size)
            ring->position = 0;
    }
    if (fit)
        publish(t, ring, fit);
    if (unlikely(fit < n)) {
        __atomic_store_n(&ring->dropped, ring->dropped + (n - fit), __ATOMIC_RELAXED);
        dt_count(c, DROPPED, n - fit);
    }
    dt_complete(c, reqs, n);
}

static int trace_open(struct dt_layer *layer, struct dt_error *err)
{
    struct trace *t = dt_layer_data(layer);

    t->layer = layer;
    return trace_file_open(t, err);
}

static void trace_close(struct dt_layer *layer)
{
    trace_file_close(dt_layer_data(layer));
}

static int trace_start(struct dt_ctx *c, struct dt_error *err)
{
    struct trace *t = c->layer_data;
    struct trace_ctx *tc = c->data;
    struct trace_ring *ring = xaligned(CACHE_LINE, sizeof(*ring));

    ring->size = (uint32_t)(t->buffer / sizeof(struct trace_record));
    ring->records = xaligned(PAGE_SIZE_4K, ring->size * sizeof(struct trace_record));
    ring->c = c;
    tc->ring = ring;
    writer_add(&t->writer, c->thread, ring);
    return 0;
}

/* The ring's counters belong to the context, which ends: nothing of it may be left. */
static void trace_stop(struct dt_ctx *c)
{
    struct trace *t = c->layer_data;
    struct trace_ctx *tc = c->data;

    writer_remove(&t->writer, c->thread, trace_ring_end);
    free(tc->ring->records);
    free(tc->ring);
}

const struct dt_block_ext blk_trace = {
    DT_BLOCK_EXT_HEADER,
    .name = "trace",
    .summary = "Record every request: when, where, how long, with what result",
    .help = "Writes the binary format of devtap-trace(5); 'devtap trace print' and 'devtap trace "
            "summary' read it. Recording never slows requests down for the sake of the file: what "
            "the file cannot take is counted instead. Put it first to see what the guest sees, or "
            "further down to see what the layers above made of it.",
    .flags = DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct trace),
    .ctx_size = sizeof(struct trace_ctx),
    .frame_size = sizeof(struct stamp),
    .open = trace_open,
    .close = trace_close,
    .start = trace_start,
    .stop = trace_stop,
    .submit = trace_submit,
    .complete = trace_complete,
};
