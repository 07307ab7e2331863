/* SPDX-License-Identifier: MIT */
/*
 * net.c - what is peculiar to network cards among devices: the edges between their layers, and what a card is.
 *
 * As for disks (ctx.c), every crossing checks that only the holder of a packet hands it on, and counts; costs
 * are per batch where they can be. The same crossing does for a layer what it does not take itself.
 */
#include "core/net.h"

#include "base/bytes.h"

#define LEAST_MTU  68u /* RFC 791 */
#define USUAL_RING 256u

void net_violated(const struct ctx *c, const struct packet *p, const char *what)
{
    const char *holder = "nobody";

    if (p->holder && p->holder->magic == CTX_MAGIC)
        holder = p->holder->pub.layer ? p->holder->pub.layer->name : "the front";
    log_error("contract violated: layer %s %s a packet held by %s (%u bytes, needs %#x)",
              c->pub.layer ? c->pub.layer->name : "front", what, holder, p->pub.length,
              p->pub.needs);
    abort();
}

/* ---- Leaving ---- */

static void leave(struct ctx *ctx, struct dt_packet **packets, unsigned n, const char *what)
{
    struct lane *lane = ctx->lane;
    void *slots[NET_BURST];
    unsigned nslots = 0;

    hold(ctx, -n);
    set_relaxed(&lane->in_flight, lane->in_flight - n);
    for (unsigned i = 0; i < n; i++) {
        struct packet *p = packet_of(packets[i]);

        if (unlikely(p->holder != ctx))
            net_violated(ctx, p, what);
        p->holder = NULL;
        if (p->slot)
            slots[nslots++] = p->slot;
        p->slot = NULL;
        net_pool_put(net_pool_of(lane->net, p), p, lane);
        if (nslots == NET_BURST) {
            lane->front_ops->sent(lane, slots, nslots);
            nslots = 0;
        }
    }
    if (nslots)
        lane->front_ops->sent(lane, slots, nslots);
    if (unlikely(lane->quiescing))
        lane_drained(lane);
}

void dt_sent(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    leave(ctx_of(c), packets, n, "sent");
}

void net_drop(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    if (n == 0)
        return;
    bump(&ctx_of(c)->net->dropped[packet_of(packets[0])->way], n);
    leave(ctx_of(c), packets, n, "dropped");
}

void dt_drop(struct dt_ctx *c, struct dt_packet **packets, unsigned n, unsigned counter)
{
    if (n)
        dt_count(c, counter, n);
    net_drop(c, packets, n);
}

struct dt_packet *net_packet_resize(struct dt_ctx *c, struct dt_packet *p, uint32_t length)
{
    struct dt_packet *other = p;

    CHECK(!(p->needs & DT_OFFLOAD_FETCH));
    if (length > packet_of(p)->capacity) {
        other = dt_packet_new(c, length);
        if (!other)
            return NULL;
        other->needs = p->needs;
        other->segment = p->segment;
        other->queue = p->queue;
        other->when = p->when;
        packet_of(other)->way = packet_of(p)->way;
        packet_of(other)->slot = packet_of(p)->slot;
        packet_of(p)->slot = NULL;
        leave(ctx_of(c), &p, 1, "replaced");
    }
    dt_packet_set_length(other, length);
    return other;
}

/* ---- Peeking ---- */

void dt_packet_fetch(struct dt_packet *p)
{
    struct packet *packet = packet_of(p);

    if (!(p->needs & DT_OFFLOAD_FETCH))
        return;
    packet->lane->front_ops->fetch(packet->lane, packet->slot, p);
    p->needs &= (uint8_t)~DT_OFFLOAD_FETCH;
}

unsigned dt_packet_rest(const struct dt_packet *p, struct iovec *iov, unsigned most)
{
    const struct packet *packet = container_of(p, struct packet, pub);
    const struct front_ops *ops = packet->lane->front_ops;

    CHECK(p->needs & DT_OFFLOAD_FETCH);
    return ops->pieces ? ops->pieces(packet->slot, p->length - DT_PEEK_BYTES, iov, most) : 0;
}

/* Of use only if all between the front and who wants it leave them so. */
static void look_for_peek(struct lane *lane)
{
    const struct ctx *c = lane->front->net->next[DT_TX];

    while (c && c->net->takes[DT_TX] & DT_OFFLOAD_FETCH && !c->net->peek)
        c = c->net->next[DT_TX];
    lane->net->peeks = c && c->net->takes[DT_TX] & DT_OFFLOAD_FETCH && lane->front_ops->fetch;
}

void dt_peek(struct dt_ctx *c, bool on)
{
    ctx_of(c)->net->peek = on;
    look_for_peek(ctx_of(c)->lane);
}

/* ---- Edges ---- */

static void arrive(struct ctx *to, enum dt_direction way, struct dt_packet **packets, unsigned n,
                   uint64_t bytes)
{
    bump(&to->net->packets[way], n);
    bump(&to->net->bytes[way], bytes);
    hold(to, n);
    to->net->handle[way](&to->pub, packets, n);
}

static void enter(struct ctx *to, enum dt_direction way, struct dt_packet **packets, unsigned n)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        packet_of(packets[i])->holder = to;
        packet_of(packets[i])->way = way;
        bytes += packets[i]->length;
    }
    arrive(to, way, packets, n, bytes);
}

struct crossing {
    struct ctx *from, *to;
    enum dt_direction way;
};

static void enter_segments(void *arg, struct dt_packet **segments, unsigned n)
{
    struct crossing *x = arg;
    struct lane *lane = x->from->lane;

    set_relaxed(&lane->in_flight, lane->in_flight + n);
    enter(x->to, x->way, segments, n);
}

static void cut(struct crossing *x, struct dt_packet *p)
{
    struct lane *lane = x->from->lane;

    bump(&lane->net->pool_empty, net_segment(lane, packet_of(p), enter_segments, x));
    leave(x->from, &p, 1, "forwarded");
}

/* The same packets in the same order, with nothing left to do that @to does not take. */
static void cross_finished(struct crossing *x, struct dt_packet **packets, unsigned n)
{
    uint32_t takes = x->to->net->takes[x->way];
    unsigned first = 0;

    for (unsigned i = 0; i < n; i++) {
        uint32_t left = packets[i]->needs & ~takes;

        if (left) /* also what @to would fetch itself: it gets something else */
            dt_packet_fetch(packets[i]);
        if (left & DT_OFFLOAD_SUPER) {
            hold(x->from, first - i);
            if (i > first)
                enter(x->to, x->way, packets + first, i - first);
            cut(x, packets[i]);
            first = i + 1;
        } else if (left & DT_OFFLOAD_CSUM) {
            net_complete_checksum(packets[i]);
        }
    }
    hold(x->from, first - n);
    if (n > first)
        enter(x->to, x->way, packets + first, n - first);
}

/* Some of them have something left to do that @to does not take. */
static __attribute__((noinline)) void edge_finishing(struct ctx *from, struct ctx *to,
                                                     enum dt_direction way,
                                                     struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        packet_of(packets[i])->holder = from;
    cross_finished(&(struct crossing){from, to, way}, packets, n);
}

/* One look at each packet: what it costs here it costs at every edge. */
static void edge(struct ctx *from, enum dt_direction way, struct dt_packet **packets, unsigned n)
{
    struct ctx *to = from->net->next[way];
    uint64_t bytes = 0;
    uint32_t needs = 0;

    if (n == 0)
        return;
    for (unsigned i = 0; i < n; i++) {
        struct packet *p = packet_of(packets[i]);

        if (unlikely(p->holder != from || !to))
            net_violated(from, p, "forwarded");
        p->holder = to;
        p->way = way;
        needs |= p->pub.needs;
        bytes += p->pub.length;
    }
    if (unlikely(needs & ~to->net->takes[way])) {
        edge_finishing(from, to, way, packets, n);
        return;
    }
    hold(from, -n);
    arrive(to, way, packets, n, bytes);
}

void dt_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    edge(ctx_of(c), DT_TX, packets, n);
}

void dt_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    edge(ctx_of(c), DT_RX, packets, n);
}

/* The callbacks for each packet, made into batches again. */
static void judge_each(struct dt_ctx *c, enum dt_direction way, struct dt_packet **packets,
                       unsigned n)
{
    const struct dt_net_ext *ext = registry_net(c->layer->ext);
    enum dt_net_verdict (*judge)(struct dt_ctx *, struct dt_packet *) =
        way == DT_TX ? ext->tx : ext->rx;

    for (unsigned at = 0; at < n; at += NET_BURST) {
        struct dt_packet *pass[NET_BURST];
        unsigned npass = 0, end = MIN(n, at + NET_BURST);

        for (unsigned i = at; i < end; i++) {
            switch (judge(c, packets[i])) {
            case DT_ACCEPT:
                pass[npass++] = packets[i];
                break;
            case DT_DROP:
                dt_drop(c, &packets[i], 1, packets[i]->reason);
                break;
            case DT_HOLD:
                break;
            }
        }
        edge(ctx_of(c), way, pass, npass);
    }
}

static void transmit_each(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    judge_each(c, DT_TX, packets, n);
}

static void receive_each(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    judge_each(c, DT_RX, packets, n);
}

/* ---- Between front and chain ---- */

void net_transmit(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    uint64_t now = loop_now(lane->loop);

    for (unsigned i = 0; i < n; i++) {
        packet_of(packets[i])->holder = lane->front;
        packets[i]->when = now;
    }
    set_relaxed(&lane->in_flight, lane->in_flight + n);
    hold(lane->front, n);
    edge(lane->front, DT_TX, packets, n);
}

static void front_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct ctx *front = ctx_of(c);
    struct lane *lane = front->lane;

    hold(front, -n);
    set_relaxed(&lane->in_flight, lane->in_flight - n);
    if (likely(lane->net->open)) {
        lane->front_ops->receive(lane, packets, n);
    } else {
        bump(&lane->net->closed, n);
        for (unsigned i = 0; i < n; i++)
            net_packet_free(lane, packet_of(packets[i]));
    }
    if (unlikely(lane->quiescing))
        lane_drained(lane);
}

unsigned dt_room(struct dt_ctx *c)
{
    struct lane *lane = ctx_of(c)->lane;
    unsigned room = lane->closed || lane->quiescing ? 0 : lane->net->room;

    if (room == 0) {
        lane->refused |= lane->closed;
        lane->net->stopped = true;
    }
    return room;
}

void net_set_room(struct lane *lane, bool open, unsigned room)
{
    lane->net->open = open;
    lane->net->room = open ? room : 0;
}

void net_set_ring(struct lane *lane, unsigned size)
{
    lane->net->ring = size;
}

unsigned dt_ring_size(struct dt_ctx *c)
{
    return ctx_of(c)->lane->net->ring ?: USUAL_RING;
}

void net_resume(struct lane *lane)
{
    struct ctx *back = lane->ctxs[lane->nctxs - 1];
    const struct dt_net_ext *ext = registry_net(back->pub.layer->ext);

    if (!lane->net->stopped || !lane->net->room || lane->closed)
        return;
    lane->net->stopped = false;
    if (back->started && ext->resume)
        ext->resume(&back->pub);
}

void net_guest_takes(struct lane *lane, uint32_t takes)
{
    lane->front->net->takes[DT_RX] = takes;
}

/* ---- The class ---- */

static void choose_callbacks(struct ctx *c)
{
    const struct dt_net_ext *ext = registry_net(c->pub.layer->ext);

    c->net->handle[DT_TX] = ext->transmit ? ext->transmit : ext->tx ? transmit_each : NULL;
    c->net->handle[DT_RX] = ext->receive ? ext->receive : ext->rx ? receive_each : NULL;
    memcpy(c->net->takes, c->pub.layer->takes, sizeof(c->net->takes));
}

/* Each context knows the next with a callback, down and up; the front's is for all that comes up. */
static int link_lane(struct lane *lane)
{
    struct ctx *next = NULL;

    for (unsigned i = 0; i < lane->nctxs; i++) {
        if (!lane->ctxs[i]->net)
            lane->ctxs[i]->net = xcalloc(1, sizeof(struct net_ctx));
        if (i > 0)
            choose_callbacks(lane->ctxs[i]);
    }
    lane->front->net->handle[DT_RX] = front_receive;
    for (unsigned i = lane->nctxs; i-- > 0;) {
        lane->ctxs[i]->net->next[DT_TX] = next;
        if (lane->ctxs[i]->net->handle[DT_TX])
            next = lane->ctxs[i];
    }
    next = NULL;
    for (unsigned i = 0; i < lane->nctxs; i++) {
        lane->ctxs[i]->net->next[DT_RX] = next;
        if (lane->ctxs[i]->net->handle[DT_RX])
            next = lane->ctxs[i];
    }
    if (lane->net) {
        look_for_peek(lane);
        return 0;
    }
    lane->net = xcalloc(1, sizeof(*lane->net));
    return net_pools_init(lane->net);
}

static void unlink_lane(struct lane *lane)
{
    if (lane->net)
        net_pools_fini(lane->net);
    free(lane->net);
}

/* What the card is as @layer shows it, if it is @info below. */
static int ask(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct dt_net_ext *ext = registry_net(layer->ext);
    int ret = ext->info ? ext->info(layer, info, err) : 0;

    if (ret == 0 && info->mtu < LEAST_MTU)
        ret = dt_fail(err, -EINVAL, "a largest packet of %u bytes is not possible", info->mtu);
    if (ret == 0 && info->link > DT_LINK_DOWN)
        ret = dt_fail(err, -EINVAL, "%s: %u is no state of a link", layer->name, info->link);
    return ret;
}

static const struct dt_net_info nothing = {.mtu = 1500, .offloads = DT_OFFLOAD_ALL};

static int layer_info(struct dt_layer *layer, struct dt_error *err)
{
    layer->net_info = layer->below ? layer->below->net_info : nothing;
    return ask(layer, &layer->net_info, err);
}

static void tell_link(struct device *dev)
{
    struct dt_layer *back = dev->layers[dev->nlayers];

    if (dev->net_info.link == DT_LINK_DOWN)
        dt_layer_event(back, "link-down", "the link is down");
    else
        dt_layer_event(back, "link-up", "%s",
                       dev->net_info.link == DT_LINK_UP ? "the link is up"
                                                        : "nobody knows of the link being down");
}

/* The link, and the address that goes with it: what guests are not promised, and may change. */
static void set_link(struct device *dev, const struct dt_net_info *now)
{
    uint8_t before = dev->net_info.link;

    memcpy(dev->net_info.mac, now->mac, sizeof(now->mac));
    __atomic_store_n(&dev->net_info.link, now->link, __ATOMIC_RELAXED);
    if (now->link != before)
        tell_link(dev);
}

/* The process before may have told otherwise, and what happened to the link since then nobody was told. */
static int opened(struct device *dev, struct dt_error *err)
{
    int ret;

    dev->net_info = dev->layers[1]->net_info;
    ret = net_floor_settle(dev, err);
    if (ret > 0 || (ret == 0 && dev->net_info.link != DT_LINK_UNKNOWN))
        tell_link(dev);
    return MIN(ret, 0);
}

/* Other threads read what is not the link, unless all of it may have changed. */
static void set_info(struct dt_net_info *to, const struct dt_net_info *from, bool all)
{
    if (all)
        *to = *from;
    else
        __atomic_store_n(&to->link, from->link, __ATOMIC_RELAXED);
}

static int gather(struct device *dev, bool all, struct dt_error *err)
{
    struct dt_net_info infos[CHAIN_MAX_LAYERS], info = nothing;

    for (unsigned i = dev->nlayers; i > 0; i--) {
        int ret = ask(dev->layers[i], &info, err);

        if (ret < 0)
            return ret;
        infos[i - 1] = info;
    }
    for (unsigned i = dev->nlayers; i > 0; i--)
        set_info(&dev->layers[i]->net_info, &infos[i - 1], all);
    if (all &&
        infos[0].link != dev->net_info.link) /* of another chain: nobody tells the front yet */
        dt_layer_info_changed(dev->layers[1]);
    set_link(dev, &infos[0]);
    return 0;
}

/* The guest was told what it may send. Offloads need no judgement: core does what the new chain does not. */
static int judge(const struct device *dev, struct dt_layer *const *layers, unsigned n,
                 struct dt_error *err)
{
    struct dt_net_info info = nothing;

    for (unsigned i = n; i > 0; i--) {
        int ret = ask(layers[i], &info, err);

        if (ret < 0) {
            dt_fail_prefix(err, "%s", layers[i]->name);
            return ret;
        }
    }
    return net_floor_judge(dev, &info, err);
}

static void show(const struct device *dev, json_t *show)
{
    static const char *const links[] = {
        [DT_LINK_UNKNOWN] = "unknown", [DT_LINK_UP] = "up", [DT_LINK_DOWN] = "down"};
    const struct dt_net_info *i = &dev->net_info;
    char mac[MAC_TEXT];

    json_object_set_new(
        show, "card",
        json_pack("{si ss sb sb sb sb sb}", "mtu", i->mtu, "link", links[i->link], "checksum",
                  !!(i->offloads & DT_OFFLOAD_CSUM), "tso4", !!(i->offloads & DT_OFFLOAD_TSO4),
                  "tso6", !!(i->offloads & DT_OFFLOAD_TSO6), "uso",
                  !!(i->offloads & DT_OFFLOAD_USO4), "ufo", !!(i->offloads & DT_OFFLOAD_UFO4)));
    if (!mac_is_zero(i->mac))
        json_object_set_new(json_object_get(show, "card"), "mac",
                            json_string(mac_text(mac, i->mac)));
}

/* A layer that packets pass without stopping was crossed by what the next one counted. */
static const struct net_ctx *counted_at(const struct ctx *c, enum dt_direction way)
{
    while (!c->net->handle[way])
        c = c->lane->ctxs[way == DT_TX ? c->index + 1 : c->index - 1];
    return c->net;
}

static json_t *way_json(const struct dt_layer *layer, enum dt_direction way)
{
    bool from_back = way == DT_RX && layer->ext->flags & DT_BACK;
    uint64_t packets = 0, bytes = 0, dropped = 0;

    for (unsigned t = 0; t < layer->dev->threads; t++) {
        const struct ctx *c = layer->ctxs[t];
        const struct net_ctx *n = counted_at(from_back ? c->net->next[DT_RX] : c, way);

        packets += __atomic_load_n(&n->packets[way], __ATOMIC_RELAXED);
        bytes += __atomic_load_n(&n->bytes[way], __ATOMIC_RELAXED);
        dropped += __atomic_load_n(&c->net->dropped[way], __ATOMIC_RELAXED);
    }
    return json_pack("{sI sI sI}", "requests", (json_int_t)packets, "bytes", (json_int_t)bytes,
                     "errors", (json_int_t)dropped);
}

/* In the shape that disks have: packets are requests, and those dropped are errors. */
static void layer_stats(const struct dt_layer *layer, json_t *stats)
{
    json_object_set_new(stats, "ops",
                        json_pack("{so so}", "transmit", way_json(layer, DT_TX), "receive",
                                  way_json(layer, DT_RX)));
    json_object_set_new(stats, "latency", json_object());
}

const struct device_class net_class = {
    .kind = DEVICE_NET,
    .layer_info = layer_info,
    .opened = opened,
    .gather = gather,
    .judge = judge,
    .keep = net_floor_keep,
    .link = link_lane,
    .unlink = unlink_lane,
    .show = show,
    .layer_stats = layer_stats,
};

/* ---- What a layer may ask ---- */

const struct dt_net_info *device_net_info(const struct device *dev)
{
    return &dev->net_info;
}

const struct dt_net_info *dt_layer_net_info(const struct dt_layer *layer)
{
    return layer->below ? &layer->below->net_info : &layer->net_info;
}

void dt_layer_takes(struct dt_layer *layer, uint32_t takes)
{
    layer->may_take &= takes;
    layer->takes[DT_TX] &= takes;
    layer->takes[DT_RX] &= takes;
}

void dt_layer_takes_now(struct dt_layer *layer, enum dt_direction way, uint32_t takes)
{
    layer->takes[way] = layer->may_take & takes;
    for (unsigned t = 0; t < layer->dev->threads; t++) {
        struct ctx *c = layer->ctxs[t];

        if (!c || !c->net)
            continue; /* it is not linked yet */
        c->net->takes[way] = layer->takes[way];
        look_for_peek(c->lane);
    }
}
