/* SPDX-License-Identifier: MIT */
/*
 * host-chain.c - the chain that a host runs: a front that takes requests out of the channel, the
 * extension, and a back that sends what it forwards back into the channel.
 *
 * So an extension meets the very core that it would meet in the worker, with timers, requests of
 * its own, range locks, counters and all.
 */
#include "blk/channel/host.h"

#include <sys/epoll.h>

#define BURST          HOST_BURST
#define COUNTERS_EVERY 1024u

struct host the_host;

/* ---- The back ---- */

static int back_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    *info = the_host.below;
    /* Requests come split already; splitting is for the worker's chain. */
    info->max_sectors = info->max_segments = 0;
    return 0;
}

static int back_start(struct dt_ctx *c, struct dt_error *err)
{
    the_host.lanes[c->thread].back = c;
    return 0;
}

/* The slot of a request from the channel; NULL for one that the extension made. */
static struct host_slot *slot_of(const struct host_lane *l, struct dt_req *req)
{
    uintptr_t at = (uintptr_t)req, first = (uintptr_t)l->slots;

    if (at < first || at >= first + l->nslots * sizeof(struct host_slot))
        return NULL;
    return &l->slots[(at - first) / sizeof(struct host_slot)];
}

static void submit_sub(struct host_lane *l, struct dt_req *req)
{
    const struct iovec *iov;
    uint32_t size;
    void *data;
    int id = dt_channel_sub_new(l->ch, &data, &size);

    if (id < 0 || (dt_req_has_data(req) && dt_req_bytes(req) > size)) {
        if (id >= 0)
            dt_channel_sub_free(l->ch, (uint32_t)id);
        dt_complete_one(l->back, req, id < 0 ? -EBUSY : -EMSGSIZE);
        return;
    }
    if (req->op == DT_OP_WRITE) {
        unsigned n = dt_req_map(l->back, req, &iov);

        dt_iov_read(iov, n, 0, data, dt_req_bytes(req));
    }
    l->subs[id] = req;
    dt_channel_sub_submit(l->ch, (uint32_t)id, req->op, req->flags & (uint8_t)~DT_REQ_SUB,
                          req->sector, req->sectors);
}

static void back_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct host_lane *l = &the_host.lanes[c->thread];
    bool last = !l->h->ext->complete && !l->h->ext->response;
    unsigned done = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct host_slot *s = slot_of(l, req);
        const struct iovec *iov;

        if (!s) {
            submit_sub(l, req);
            continue;
        }
        if (s->below && req->op == DT_OP_WRITE) {
            unsigned k = dt_req_map(c, req, &iov);

            dt_iov_read(iov, k, 0, s->below, dt_req_bytes(req));
        }
        dt_channel_forward(l->ch, s->id, req->sector, last);
        if (last) {
            s->last = true;
            req->error = 0;
            reqs[done++] = req;
        }
    }
    loop_defer(l->loop, &l->flush);
    dt_complete(c, reqs, done);
}

const struct dt_block_ext host_back = {
    DT_BLOCK_EXT_HEADER,
    .name = BACK_NAME,
    .summary = "The layers below, in another process",
    .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .info = back_info,
    .start = back_start,
    .submit = back_submit,
};

/* ---- The front ---- */

static void front_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct host_lane *l = &the_host.lanes[lane_thread(lane)];

    for (unsigned i = 0; i < n; i++) {
        struct host_slot *s = container_of(reqs[i], struct host_slot, req);

        if (!s->last)
            dt_channel_complete(l->ch, s->id, reqs[i]->pub.error);
    }
    loop_defer(l->loop, &l->flush);
}

static void front_wake(struct lane *lane)
{
    struct host_lane *l = &the_host.lanes[lane_thread(lane)];

    l->woken = true;
    loop_poller_wake(l->loop, &l->poller);
}

static const struct front_ops front_ops = {.complete = front_complete, .wake = front_wake};

static struct request *take_request(struct host_lane *l, const struct dt_channel_event *e)
{
    struct host_slot *s = &l->slots[e->id];
    const struct iovec *vectors;
    unsigned n = dt_channel_vectors(l->ch, e->id, &vectors);

    s->id = e->id;
    s->last = false;
    s->data = e->data;
    s->below = e->below;
    s->iov = (struct iovec){e->data, e->bytes};
    s->req.pub = (struct dt_req){.sector = e->sector,
                                 .sectors = e->sectors,
                                 .op = e->op,
                                 .flags = e->flags,
                                 .queue = e->queue};
    s->req.iov = n ? (struct iovec *)(uintptr_t)vectors : &s->iov;
    s->req.niov = n ? n : e->data != NULL;
    return &s->req;
}

/*
 * Requests are admitted before they are taken from the guest's ring, so it is the worker that must
 * know how many: those that it sent all enter the chain, as if taken from a ring here.
 */
static void allow(void *arg)
{
    struct host_lane *l = arg;

    if (l->served && l->h->ext->admit)
        dt_channel_allow(l->ch, lane_admit(l->lane, BURST));
}

/* What was read below is in the channel; it belongs where the extension looks for it. */
static struct dt_req *take_response(struct host_lane *l, const struct dt_channel_event *e)
{
    struct host_slot *s = &l->slots[e->id];
    const void *from = s->below ?: s->data;
    struct dt_req *req = &s->req.pub;
    const struct iovec *iov;

    req->error = e->error;
    if (from && req->op == DT_OP_READ && e->error == 0) {
        unsigned n = dt_req_map(l->back, req, &iov);

        if (iov->iov_base != from)
            dt_iov_write(iov, n, 0, from, dt_req_bytes(req));
    }
    return req;
}

static void take_sub(struct host_lane *l, const struct dt_channel_event *e)
{
    struct dt_req *req = l->h->net ? NULL : l->subs[e->id];
    const struct iovec *iov;

    if (req && req->op == DT_OP_READ && e->error == 0) {
        unsigned n = dt_req_map(l->back, req, &iov);

        dt_iov_write(iov, n, 0, e->data, dt_req_bytes(req));
    }
    dt_channel_sub_free(l->ch, e->id);
    if (req)
        dt_complete_one(l->back, req, e->error);
}

static void submit(struct host_lane *l, struct request **down, unsigned *n)
{
    if (*n == 0)
        return;
    lane_submit(l->lane, down, *n);
    l->woken = true; /* the worker is to hear how many more may come */
    *n = 0;
}

static void count(void *arg)
{
    struct host_lane *l = arg;
    struct dt_ctx *c = l->served ? dt_layer_ctx(device_layer(l->h->dev, 1), l->index) : NULL;

    for (unsigned i = 0; c && l->h->ext->counters && l->h->ext->counters[i].name; i++)
        dt_channel_counter(l->ch, i, c->counters[i]);
}

/* Is this the end? The threads of several have rings alone: what they hear of is a worker that broke the protocol. */
static bool take_control(struct host_lane *l, const struct dt_channel_event *e)
{
    struct host *h = l->h;

    host_control(h, e);
    if (!h->stopping)
        return false;
    if (h->nlanes > 1)
        _exit(h->status);
    loop_stop(l->loop);
    return true;
}

/* A worker that sends requests to a card, or packets to a disk, is not one. */
static bool of_class(const struct host *h, const struct dt_channel_event *e)
{
    if (e->type == DT_CHANNEL_PACKET)
        return h->net;
    return !h->net || (e->type != DT_CHANNEL_REQUEST && e->type != DT_CHANNEL_RESPONSE &&
                       e->type != DT_CHANNEL_CANCEL);
}

static unsigned poll_channel(struct loop_poller *poller)
{
    struct host_lane *l = container_of(poller, struct host_lane, poller);
    struct dt_channel_event events[BURST];
    struct request *down[BURST];
    struct dt_req *back[BURST];
    struct host_packets packets = {.n = {0}};
    unsigned n = dt_channel_poll(l->ch, events, BURST), nback = 0, ndown = 0;

    for (unsigned i = 0; i < n; i++) {
        if (!of_class(l->h, &events[i])) {
            host_lost(l->h, EPROTO);
            loop_stop(l->loop);
            return n;
        }
        switch (events[i].type) {
        case DT_CHANNEL_PACKET:
            host_net_take(l, &events[i], &packets);
            break;
        case DT_CHANNEL_REQUEST:
            down[ndown++] = take_request(l, &events[i]);
            break;
        case DT_CHANNEL_RESPONSE:
            back[nback++] = take_response(l, &events[i]);
            break;
        case DT_CHANNEL_SUB:
            take_sub(l, &events[i]);
            break;
        case DT_CHANNEL_CANCEL:
            submit(l, down, &ndown); /* it may be among them */
            request_cancel(&l->slots[events[i].id].req);
            loop_defer(l->loop, &l->flush);
            break;
        default:
            if (take_control(l, &events[i]))
                return n;
            break;
        }
    }
    dt_complete(l->back, back, nback);
    submit(l, down, &ndown);
    host_net_submit(l, &packets);
    if (l->woken)
        allow(l);
    l->woken = false;
    dt_channel_flush(l->ch);
    if (l->polls++ % COUNTERS_EVERY == 0)
        count(l);
    return n;
}

static bool arm_channel(struct loop_poller *poller)
{
    struct host_lane *l = container_of(poller, struct host_lane, poller);

    count(l);
    return dt_channel_arm(l->ch);
}

static void on_kick(struct dt_watch *watch, uint32_t events)
{
    struct host_lane *l = container_of(watch, struct host_lane, kick_watch);
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
        log_error("the channel's eventfd cannot be read: %s", strerror(errno));
    loop_poller_wake(l->loop, &l->poller);
}

static void run_flush(struct loop_deferred *deferred)
{
    dt_channel_flush(container_of(deferred, struct host_lane, flush)->ch);
}

/* ---- Asked of all threads ---- */

static void on_all(struct host *h, void (*fn)(void *lane))
{
    for (unsigned i = 0; i < h->served; i++)
        loop_call(h->lanes[i].loop, fn, &h->lanes[i]);
}

void host_allow(struct host *h)
{
    on_all(h, allow);
}

void host_counters(struct host *h)
{
    on_all(h, count);
}

struct release_call {
    struct host_lane *l;
    uint64_t deadline;
};

static void release(void *arg)
{
    struct release_call *call = arg;

    /* Packets that were sent before the order are in the ring, which it has overtaken; nobody asks again. */
    while (call->l->h->net && !call->l->h->stopping && poll_channel(&call->l->poller) > 0)
        ;
    lane_release(call->l->lane, call->deadline);
    loop_defer(call->l->loop, &call->l->flush);
}

void host_release(struct host *h, int thread, uint64_t deadline)
{
    for (unsigned i = 0; i < h->served; i++) {
        struct release_call call = {&h->lanes[i], deadline};

        if (thread < 0 || (unsigned)thread == i)
            loop_call(h->lanes[i].loop, release, &call);
    }
}

struct flight_call {
    struct host_lane *l;
    unsigned n;
};

static void look_in_flight(void *arg)
{
    struct flight_call *call = arg;

    call->n = lane_in_flight(call->l->lane);
}

unsigned host_in_flight(struct host *h)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < h->served; i++) {
        struct flight_call call = {.l = &h->lanes[i]};

        loop_call(h->lanes[i].loop, look_in_flight, &call);
        sum += call.n;
    }
    return sum;
}

/* ---- Life ---- */

static int new_device(struct host *h, const struct chain_spec *chain, const char *name,
                      struct dt_error *err)
{
    struct loop *loops[DEVICE_MAX_THREADS];

    for (unsigned i = 0; i < h->nlanes; i++)
        loops[i] = h->lanes[i].loop;
    return device_new(&h->dev,
                      &(struct device_config){.kind = h->net ? DEVICE_NET : DEVICE_DISK,
                                              .name = name ?: "device",
                                              .chain = chain,
                                              .loops = loops,
                                              .threads = h->nlanes},
                      err);
}

/* A worker that does not say has one thread. */
static unsigned threads_of(json_t *init)
{
    json_int_t n = json_integer_value(json_object_get(init, "threads"));

    return n >= 1 && n <= (json_int_t)DEVICE_MAX_THREADS ? (unsigned)n : 1;
}

int host_chain_new(struct host *h, json_t *init, struct dt_error *err)
{
    json_t *settings = json_object_get(init, "parameters"), *value;
    uint64_t spin = (uint64_t)json_integer_value(json_object_get(init, "spin"));
    static char back_name[] = BACK_NAME;
    struct layer_spec layers[2] = {{.name = (char *)(uintptr_t)h->name}, {.name = back_name}};
    struct chain_spec chain = {layers, 2};
    const char *key;
    int ret;

    ret = host_loops_new(h, threads_of(init), spin, err);
    if (ret < 0)
        return ret;
    layers[0].settings = xcalloc(json_object_size(settings) + 1, sizeof(struct setting));
    json_object_foreach(settings, key, value)
    {
        layers[0].settings[layers[0].count++] =
            (struct setting){(char *)(uintptr_t)key, (char *)(uintptr_t)json_string_value(value)};
    }
    ret = new_device(h, &chain, json_string_value(json_object_get(init, "device")), err);
    free(layers[0].settings);
    return ret;
}

struct begin_call {
    struct host_lane *l;
    struct dt_error *err;
    int ret;
};

static void begin_on_thread(void *arg)
{
    struct begin_call *call = arg;
    struct host_lane *l = call->l;

    l->nslots = dt_channel_slots(l->ch);
    if (!l->h->net) {
        l->slots = xaligned(CACHE_LINE, l->nslots * sizeof(*l->slots));
        l->subs = xcalloc(l->h->ext->sub_requests + 1, sizeof(*l->subs));
    }
    l->flush.run = run_flush;
    l->poller = (struct loop_poller){.poll = poll_channel, .arm = arm_channel};
    list_init(&l->poller.node);
    l->lane = device_lane(l->h->dev, l->index);
    if (l->h->net)
        host_net_begin(l);
    l->served = true;
    allow(l);
    l->kick_watch =
        (struct dt_watch){.ready = on_kick, .fd = dt_channel_kick_fd(l->ch), .events = EPOLLIN};
    call->ret = loop_watch_add(l->loop, &l->kick_watch);
    if (call->ret < 0)
        dt_fail(call->err, call->ret, "cannot watch the channel: %s", strerror(-call->ret));
    loop_poller_wake(l->loop, &l->poller);
}

int host_lane_start(struct host *h, struct dt_error *err)
{
    struct begin_call call = {.err = err};
    int ret = 0;

    if (h->served == h->nlanes)
        return dt_fail(err, -EPROTO, "there are no more than %u threads", h->nlanes);
    if (h->served == 0)
        ret = device_start(h->dev, h->net ? &host_net_ops : &front_ops, h, err);
    if (ret < 0)
        return ret;
    call.l = &h->lanes[h->served++];
    call.l->ch = h->nlanes > 1 ? dt_channel_take_rings(h->ch) : h->ch;
    loop_call(call.l->loop, begin_on_thread, &call);
    return call.ret;
}

static void end_on_thread(void *arg)
{
    struct host_lane *l = arg;

    loop_poller_remove(l->loop, &l->poller);
    loop_watch_remove(l->loop, &l->kick_watch);
    loop_defer_cancel(l->loop, &l->flush);
}

void host_chain_stop(struct host *h)
{
    on_all(h, end_on_thread);
    if (h->served)
        device_stop(h->dev);
    device_free(h->dev);
    for (unsigned i = 0; i < h->served; i++) {
        if (h->lanes[i].ch != h->ch)
            dt_channel_free(h->lanes[i].ch);
        free(h->lanes[i].slots);
        free(h->lanes[i].packets);
        free(h->lanes[i].subs);
    }
}
