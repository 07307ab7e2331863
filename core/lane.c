/* SPDX-License-Identifier: MIT */
/*
 * lane.c - a device on one thread: where requests enter the chain and leave it.
 *
 * Nothing here allocates or locks once the lane has started.
 */
#include "core/internal.h"

#define SAMPLE_EVERY 64u
#define SAMPLE_NS    DT_MS(1)

/* ---- Entering ----------------------------------------------------------------------------- */

unsigned lane_admit(struct lane *lane, unsigned want)
{
    if (unlikely(lane->closed)) {
        lane->refused = true;
        return 0;
    }
    if (unlikely(lane->wait_head || lane->split_head || lane->quiescing))
        return 0;
    for (unsigned i = 0; i < lane->nadmitters && want; i++) {
        struct ctx *c = lane->admitters[i];

        want = MIN(want, c->pub.layer->ext->admit(&c->pub, want));
    }
    return want;
}

#define DONE 1

/* Returns 0 for what may enter; DONE for what the floor promises and the chain need not see; or the
 * error. */
static int judge(const struct lane *lane, struct dt_req *req)
{
    uint64_t sectors = __atomic_load_n(&lane->dev->info.sectors, __ATOMIC_RELAXED);

    if (unlikely(req->op >= DT_OP_COUNT))
        return -EOPNOTSUPP;
    if (unlikely(req->sector > sectors || req->sectors > sectors - req->sector))
        return -EINVAL;
    if (unlikely((req->sector | req->sectors) & lane->block_mask))
        return -EINVAL;
    if (unlikely(lane->dev->info.read_only && req->op != DT_OP_READ && req->op != DT_OP_FLUSH))
        return -EROFS;
    if (unlikely(lane->emulated >> req->op & 1))
        return DONE;
    if (unlikely(lane->make_durable) && (req->op == DT_OP_WRITE || req->op == DT_OP_WRITE_ZEROES))
        req->flags |= DT_REQ_FUA;
    return 0;
}

static void wait_for_memory(struct lane *lane, struct request *r)
{
    r->next = NULL;
    *lane->wait_tail = r;
    lane->wait_tail = &r->next;
}

static bool oversize(const struct lane *lane, const struct request *r)
{
    return dt_req_has_data(&r->pub) &&
           (r->pub.sectors > lane->max_sectors || r->niov > lane->max_segments);
}

void lane_submit(struct lane *lane, struct request **reqs, unsigned n)
{
    uint64_t now = loop_now(lane->loop);
    struct dt_req *enter[64];
    unsigned nenter = 0;

    CHECK(n <= ARRAY_SIZE(enter));
    set_relaxed(&lane->in_flight, lane->in_flight + n);
    for (unsigned i = 0; i < n; i++) {
        struct request *r = reqs[i];

        r->pub.started = now;
        r->pub.error = judge(lane, &r->pub);
        r->holder = lane->front;
        r->own_iov = NULL;
        r->xforms = NULL;
        r->sample = 0;
        if (unlikely(r->pub.error)) {
            r->pub.error = MIN(r->pub.error, 0);
            lane_finish(lane, &r, 1);
        } else if (unlikely(oversize(lane, r)))
            split_queue(lane, r);
        else if (unlikely(lane->needs_data &&
                          (lane->wait_head || !data_attach(lane, lane->front, r))))
            wait_for_memory(lane, r);
        else
            enter[nenter++] = &r->pub;
    }
    if (nenter == 0)
        return;
    lane->since_sample += nenter;
    if (!lane->sampling &&
        (lane->since_sample >= SAMPLE_EVERY || now - lane->last_sample >= SAMPLE_NS))
        sample_start(lane, request_of(enter[0]));
    hold(lane->front, nenter);
    edge_submit(lane->front, lane->top, enter, nenter);
}

static void run_waiting(struct lane *lane)
{
    bool waited = lane->wait_head;

    while (lane->wait_head) {
        struct request *r = lane->wait_head;
        struct dt_req *req = &r->pub;

        if (!data_attach(lane, lane->front, r))
            return;
        lane->wait_head = r->next;
        if (!lane->wait_head)
            lane->wait_tail = &lane->wait_head;
        hold(lane->front, 1);
        edge_submit(lane->front, lane->top, &req, 1);
    }
    if (waited)
        lane->front_ops->wake(lane);
}

static void run_deferred(struct loop_deferred *deferred)
{
    struct lane *lane = container_of(deferred, struct lane, deferred);

    sub_run_queue(lane);
    split_run_queue(lane);
    run_waiting(lane);
}

/* ---- Leaving --------------------------------------------------------------------------------- */

void lane_finish(struct lane *lane, struct request **reqs, unsigned n)
{
    set_relaxed(&lane->in_flight, lane->in_flight - n);
    lane->front_ops->complete(lane, reqs, n);
    if (unlikely(lane->quiescing))
        lane_drained(lane);
}

static void front_complete(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct ctx *front = ctx_of(c);
    struct lane *lane = front->lane;

    hold(front, -n);
    for (unsigned i = 0; i < n; i++) {
        struct request *r = request_of(reqs[i]);

        r->holder = NULL;
        if (unlikely(r->sample)) {
            r->sample = 0;
            lane->sampling = false;
        }
        if (unlikely(lane->needs_data))
            data_detach(lane, r);
    }
    lane_finish(lane, (struct request **)reqs, n);
}

/* ---- Life ---- */

struct ctx *ctx_new(struct lane *lane, struct dt_layer *layer)
{
    struct ctx *c = xaligned(CACHE_LINE, sizeof(*c));
    unsigned counters = 0;

    c->magic = CTX_MAGIC;
    c->lane = lane;
    c->stats.latency = xcalloc(LATENCY_KINDS, sizeof(struct histogram));
    c->pub.layer = layer;
    c->pub.thread = lane->thread;
    if (!layer)
        return c;
    while (layer->ext->counters && layer->ext->counters[counters].name)
        counters++;
    c->pub.counters = xcalloc(counters + 1, sizeof(uint64_t));
    c->pub.layer_data = layer->data;
    c->pub.data = xaligned(CACHE_LINE, MAX(layer->ext->ctx_size, (size_t)1));
    layer->ctxs[lane->thread] = c;
    return c;
}

void ctx_free(struct ctx *c)
{
    sub_fini(c);
    if (c->pub.layer)
        c->pub.layer->ctxs[c->pub.thread] = NULL;
    free(c->net);
    free(c->stats.latency);
    free(c->pub.counters);
    free(c->pub.data);
    free(c);
}

/* Limits of one request: the disk's, and the largest private piece where copies are made. */
static void set_limits(struct lane *lane)
{
    const struct dt_block_info *info = &lane->dev->chain_info;

    lane->max_sectors = info->max_sectors ? info->max_sectors : UINT32_MAX;
    lane->block_mask = (info->logical_block >> DT_SECTOR_SHIFT) - 1;
    lane->max_segments = info->max_segments ? info->max_segments : UINT32_MAX;
    if (lane->needs_data)
        lane->max_sectors =
            MIN(lane->max_sectors, (uint32_t)(data_max_bytes(lane) >> DT_SECTOR_SHIFT));
}

int lane_link(struct lane *lane)
{
    struct device *dev = lane->dev;
    uint32_t frame_offset = sizeof(struct request);

    CHECK(lane->in_flight == 0 && lane->subs == 0);
    free(lane->ctxs);
    lane->nctxs = dev->nlayers + 1;
    lane->ctxs = xcalloc(lane->nctxs, sizeof(struct ctx *));
    lane->ctxs[0] = lane->front;
    lane->front->complete = front_complete;
    lane->nadmitters = 0;
    for (unsigned i = 1; i < lane->nctxs; i++) {
        struct dt_layer *layer = dev->layers[i];
        struct ctx *c = lane->ctxs[i] = layer->ctxs[lane->thread];

        c->index = i;
        c->pub.frame_offset = frame_offset;
        frame_offset += (uint32_t)ALIGN_UP(layer->ext->frame_size, 16u);
        if (layer->ext->admit)
            lane->admitters[lane->nadmitters++] = c;
    }
    lane->sampling = false;
    ctx_link(lane);
    return lane->dev->class->link(lane);
}

int disk_link(struct lane *lane)
{
    int ret = data_init(lane);

    set_limits(lane);
    floor_fill(lane);
    split_init(lane);
    return ret;
}

void disk_unlink(struct lane *lane)
{
    split_fini(lane);
    data_fini(lane);
}

int lane_new(struct lane **out, struct device *dev, unsigned thread, struct dt_error *err)
{
    struct lane *lane = xaligned(CACHE_LINE, sizeof(*lane));
    int ret;

    lane->magic = LANE_MAGIC;
    lane->thread = thread;
    lane->loop = dev->loops[thread];
    lane->dev = dev;
    lane->front_ops = dev->front_ops;
    lane->deferred.run = run_deferred;
    lane->sub_tail = &lane->sub_head;
    lane->wait_tail = &lane->wait_head;
    lane->split_tail = &lane->split_head;
    lane->front = ctx_new(lane, NULL);
    for (unsigned i = 1; i <= dev->nlayers; i++)
        ctx_new(lane, dev->layers[i]);
    ret = lane_link(lane);
    if (ret < 0) {
        lane_free(lane);
        return dt_fail(err, ret, "%s: no memory for private copies (%zu bytes)", dev->name,
                       dev->copy_bytes);
    }
    *out = lane;
    return 0;
}

void lane_free(struct lane *lane)
{
    if (!lane)
        return;
    CHECK(lane->in_flight == 0 && lane->subs == 0);
    loop_defer_cancel(lane->loop, &lane->deferred);
    lane->dev->class->unlink(lane);
    for (unsigned i = 0; i < lane->nctxs; i++)
        ctx_free(lane->ctxs[i]);
    free(lane->ctxs);
    free(lane);
}

void ctx_stop(struct ctx *c)
{
    if (c->started && c->pub.layer->ext->stop)
        c->pub.layer->ext->stop(&c->pub);
    c->started = false;
}

int lane_start(struct lane *lane, struct dt_error *err)
{
    struct ctx *mine[CHAIN_MAX_LAYERS];
    unsigned n = 0;

    for (unsigned i = lane->nctxs - 1; i > 0; i--) {
        struct ctx *c = lane->ctxs[i];
        int ret =
            !c->started && c->pub.layer->ext->start ? c->pub.layer->ext->start(&c->pub, err) : 0;

        if (ret < 0) {
            dt_fail_prefix(err, "%s: %s", lane->dev->name, c->pub.layer->name);
            while (n > 0)
                ctx_stop(mine[--n]);
            return ret;
        }
        if (!c->started)
            mine[n++] = c;
        c->started = true;
    }
    deadline_start(lane);
    return 0;
}

void lane_stop(struct lane *lane)
{
    CHECK(lane->in_flight == 0 && lane->subs == 0);
    for (unsigned i = 1; i < lane->nctxs; i++)
        ctx_stop(lane->ctxs[i]);
    loop_timer_cancel(lane->loop, &lane->quiesce_timer);
    deadline_stop(lane);
    loop_defer_cancel(lane->loop, &lane->deferred);
}

struct loop *lane_loop(const struct lane *lane)
{
    return lane->loop;
}

struct device *lane_device(const struct lane *lane)
{
    return lane->dev;
}

unsigned lane_thread(const struct lane *lane)
{
    return lane->thread;
}

unsigned lane_in_flight(const struct lane *lane)
{
    return lane->in_flight;
}

void lane_set_front(struct lane *lane, void *arg)
{
    lane->front_arg = arg;
}

void *lane_front(const struct lane *lane)
{
    return lane->front_arg;
}
