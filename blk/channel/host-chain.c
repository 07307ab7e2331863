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

#define BURST          32u
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
    the_host.back = c;
    return 0;
}

/* The slot of a request from the channel; NULL for one that the extension made. */
static struct host_slot *slot_of(struct host *h, struct dt_req *req)
{
    uintptr_t at = (uintptr_t)req, first = (uintptr_t)h->slots;

    if (at < first || at >= first + h->nslots * sizeof(struct host_slot))
        return NULL;
    return &h->slots[(at - first) / sizeof(struct host_slot)];
}

static void submit_sub(struct host *h, struct dt_req *req)
{
    const struct iovec *iov;
    uint32_t size;
    void *data;
    int id = dt_channel_sub_new(h->ch, &data, &size);

    if (id < 0 || (dt_req_has_data(req) && dt_req_bytes(req) > size)) {
        if (id >= 0)
            dt_channel_sub_free(h->ch, (uint32_t)id);
        dt_complete_one(h->back, req, id < 0 ? -EBUSY : -EMSGSIZE);
        return;
    }
    if (req->op == DT_OP_WRITE) {
        unsigned n = dt_req_map(h->back, req, &iov);

        dt_iov_read(iov, n, 0, data, dt_req_bytes(req));
    }
    h->subs[id] = req;
    dt_channel_sub_submit(h->ch, (uint32_t)id, req->op, req->flags & (uint8_t)~DT_REQ_SUB,
                          req->sector, req->sectors);
}

static void back_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct host *h = &the_host;
    bool last = !h->ext->complete && !h->ext->response;
    unsigned done = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_req *req = reqs[i];
        struct host_slot *s = slot_of(h, req);
        const struct iovec *iov;

        if (!s) {
            submit_sub(h, req);
            continue;
        }
        if (s->below && req->op == DT_OP_WRITE) {
            unsigned k = dt_req_map(c, req, &iov);

            dt_iov_read(iov, k, 0, s->below, dt_req_bytes(req));
        }
        dt_channel_forward(h->ch, s->id, req->sector, last);
        if (last) {
            s->last = true;
            req->error = 0;
            reqs[done++] = req;
        }
    }
    loop_defer(h->loop, &h->flush);
    dt_complete(c, reqs, done);
}

const struct dt_block_ext host_back = {
    DT_BLOCK_EXT_HEADER,
    .name = BACK_NAME,
    .summary = "The layers below, in another process",
    .flags = DT_BACK,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .info = back_info,
    .start = back_start,
    .submit = back_submit,
};

/* ---- The front ---- */

static void front_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct host *h = &the_host;

    for (unsigned i = 0; i < n; i++) {
        struct host_slot *s = container_of(reqs[i], struct host_slot, req);

        if (!s->last)
            dt_channel_complete(h->ch, s->id, reqs[i]->pub.error);
    }
    loop_defer(h->loop, &h->flush);
}

static void front_wake(struct lane *lane)
{
    the_host.woken = true;
    loop_poller_wake(the_host.loop, &the_host.poller);
}

static const struct front_ops front_ops = {.complete = front_complete, .wake = front_wake};

static struct request *take_request(struct host *h, const struct dt_channel_event *e)
{
    struct host_slot *s = &h->slots[e->id];

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
    s->req.iov = &s->iov;
    s->req.niov = e->data != NULL;
    return &s->req;
}

/*
 * Requests are admitted before they are taken from the guest's ring, so it is the worker that must
 * know how many: those that it sent all enter the chain, as if taken from a ring here.
 */
void host_allow(struct host *h)
{
    if (h->served && h->ext->admit)
        dt_channel_allow(h->ch, lane_admit(h->lane, BURST));
}

/* What was read below is in the channel; it belongs where the extension looks for it. */
static struct dt_req *take_response(struct host *h, const struct dt_channel_event *e)
{
    struct host_slot *s = &h->slots[e->id];
    const void *from = s->below ?: s->data;
    struct dt_req *req = &s->req.pub;
    const struct iovec *iov;

    req->error = e->error;
    if (from && req->op == DT_OP_READ && e->error == 0) {
        unsigned n = dt_req_map(h->back, req, &iov);

        if (iov->iov_base != from)
            dt_iov_write(iov, n, 0, from, dt_req_bytes(req));
    }
    return req;
}

static void take_sub(struct host *h, const struct dt_channel_event *e)
{
    struct dt_req *req = h->subs[e->id];
    const struct iovec *iov;

    if (req->op == DT_OP_READ && e->error == 0) {
        unsigned n = dt_req_map(h->back, req, &iov);

        dt_iov_write(iov, n, 0, e->data, dt_req_bytes(req));
    }
    dt_channel_sub_free(h->ch, e->id);
    dt_complete_one(h->back, req, e->error);
}

static void submit(struct host *h, struct request **down, unsigned *n)
{
    if (*n == 0)
        return;
    lane_submit(h->lane, down, *n);
    h->woken = true; /* the worker is to hear how many more may come */
    *n = 0;
}

static unsigned poll_channel(struct loop_poller *poller)
{
    struct host *h = container_of(poller, struct host, poller);
    struct dt_channel_event events[BURST];
    struct request *down[BURST];
    struct dt_req *back[BURST];
    unsigned n = dt_channel_poll(h->ch, events, BURST), nback = 0, ndown = 0;

    for (unsigned i = 0; i < n; i++) {
        switch (events[i].type) {
        case DT_CHANNEL_REQUEST:
            down[ndown++] = take_request(h, &events[i]);
            break;
        case DT_CHANNEL_RESPONSE:
            back[nback++] = take_response(h, &events[i]);
            break;
        case DT_CHANNEL_SUB:
            take_sub(h, &events[i]);
            break;
        case DT_CHANNEL_CANCEL:
            submit(h, down, &ndown); /* it may be among them */
            request_cancel(&h->slots[events[i].id].req);
            loop_defer(h->loop, &h->flush);
            break;
        default:
            host_control(h, &events[i]);
            break;
        }
    }
    if (h->stopping)
        return n;
    dt_complete(h->back, back, nback);
    submit(h, down, &ndown);
    if (h->woken)
        host_allow(h);
    h->woken = false;
    dt_channel_flush(h->ch);
    if (h->polls++ % COUNTERS_EVERY == 0)
        host_counters(h);
    return n;
}

static bool arm_channel(struct loop_poller *poller)
{
    struct host *h = container_of(poller, struct host, poller);

    host_counters(h);
    return dt_channel_arm(h->ch);
}

static void on_kick(struct dt_watch *watch, uint32_t events)
{
    struct host *h = container_of(watch, struct host, kick_watch);
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
        log_error("the channel's eventfd cannot be read: %s", strerror(errno));
    loop_poller_wake(h->loop, &h->poller);
}

static void run_flush(struct loop_deferred *deferred)
{
    dt_channel_flush(container_of(deferred, struct host, flush)->ch);
}

void host_counters(struct host *h)
{
    struct dt_ctx *c = dt_layer_ctx(device_layer(h->dev, 1), 0);

    for (unsigned i = 0; c && h->ext->counters && h->ext->counters[i].name; i++)
        dt_channel_counter(h->ch, i, c->counters[i]);
}

void host_release(struct host *h, uint64_t deadline)
{
    lane_release(h->lane, deadline);
    loop_defer(h->loop, &h->flush);
}

/* ---- Life ---- */

int host_chain_new(struct host *h, json_t *init, struct dt_error *err)
{
    json_t *settings = json_object_get(init, "parameters"), *value;
    struct loop_config config = {.spin_ns =
                                     (uint64_t)json_integer_value(json_object_get(init, "spin"))};
    static char back_name[] = BACK_NAME;
    struct layer_spec layers[2] = {{.name = (char *)(uintptr_t)h->name}, {.name = back_name}};
    struct chain_spec chain = {layers, 2};
    const char *key;
    int ret;

    ret = loop_new(&h->loop, &config, err);
    if (ret < 0)
        return ret;
    layers[0].settings = xcalloc(json_object_size(settings) + 1, sizeof(struct setting));
    json_object_foreach(settings, key, value)
    {
        layers[0].settings[layers[0].count++] =
            (struct setting){(char *)(uintptr_t)key, (char *)(uintptr_t)json_string_value(value)};
    }
    ret = device_new(&h->dev,
                     &(struct device_config){
                         .name = json_string_value(json_object_get(init, "device")) ?: "device",
                         .chain = &chain,
                         .loops = &h->loop,
                         .threads = 1},
                     err);
    free(layers[0].settings);
    return ret;
}

int host_chain_start(struct host *h, struct dt_error *err)
{
    int ret;

    h->nslots = dt_channel_slots(h->ch);
    h->slots = xaligned(CACHE_LINE, h->nslots * sizeof(*h->slots));
    h->subs = xcalloc(h->ext->sub_requests + 1, sizeof(*h->subs));
    h->flush.run = run_flush;
    h->poller = (struct loop_poller){.poll = poll_channel, .arm = arm_channel};
    list_init(&h->poller.node);
    ret = device_start(h->dev, &front_ops, h, err);
    if (ret < 0)
        return ret;
    h->lane = device_lane(h->dev, 0);
    h->served = true;
    host_allow(h);
    h->kick_watch =
        (struct dt_watch){.ready = on_kick, .fd = dt_channel_kick_fd(h->ch), .events = EPOLLIN};
    ret = loop_watch_add(h->loop, &h->kick_watch);
    if (ret < 0)
        return dt_fail(err, ret, "cannot watch the channel: %s", strerror(-ret));
    loop_poller_wake(h->loop, &h->poller);
    return 0;
}

void host_chain_stop(struct host *h)
{
    if (h->served) {
        loop_poller_remove(h->loop, &h->poller);
        loop_watch_remove(h->loop, &h->kick_watch);
        device_stop(h->dev);
        loop_defer_cancel(h->loop, &h->flush);
    }
    device_free(h->dev);
    free(h->slots);
    free(h->subs);
}
