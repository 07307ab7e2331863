/* SPDX-License-Identifier: MIT */
/*
 * host-net.c - the ends of the chain that a host runs for a card's extension.
 *
 * A packet of the worker's enters at the front or at the back, as it was going. Its place in the worker's table is what
 * the chain takes for the guest's descriptor: whatever becomes of the packet, it is told exactly once. What comes
 * out of the chain without one, the extension has made itself.
 */
#include "blk/channel/host.h"

#define ROOM 1024u /* nobody here is slow: the worker knows how many the guest takes */

/** struct host_packet - a packet of the worker's, as it came. */
struct host_packet {
    struct host_lane *l;
    uint32_t id, length;
    uint16_t segment;
    uint8_t needs;
};

static void say(struct host_lane *l, const struct dt_channel_verdict *v)
{
    CHECK(dt_channel_verdict(l->ch, v) == 0);
    loop_defer(l->loop, &l->flush);
}

/* ---- Out of the chain ---- */

static void inject(struct host_lane *l, struct dt_packet *p, enum dt_direction way)
{
    struct dt_channel_verdict v = {
        .way = (uint8_t)way, .needs = p->needs, .segment = p->segment, .length = p->length};
    uint32_t size;
    void *data;
    int id = dt_channel_sub_new(l->ch, &data, &size);

    if (id < 0)
        return; /* more than may be under way: lost, as in any queue that is full */
    v.id = (uint32_t)id;
    if (p->length <= size)
        memcpy(data, p->data, p->length);
    if (p->length > size || dt_channel_inject(l->ch, &v, p->queue) < 0)
        dt_channel_sub_free(l->ch, v.id);
    loop_defer(l->loop, &l->flush);
}

/* Only we write where the worker put it, so a packet that is the same as there is unchanged. */
static bool unchanged(const struct host_packet *h, const struct dt_packet *p, const void *data)
{
    return p->length == h->length && p->needs == h->needs &&
           (!(p->needs & DT_OFFLOAD_SUPER) || p->segment == h->segment) &&
           memcmp(p->data, data, p->length) == 0;
}

static void pass(struct host_lane *l, struct dt_packet *p, enum dt_direction way)
{
    struct host_packet *h = TAKE_PTR(packet_of(p)->slot);
    struct dt_channel_verdict v = {.way = (uint8_t)way,
                                   .decision = DT_CHANNEL_PASS,
                                   .needs = p->needs,
                                   .segment = p->segment,
                                   .length = p->length};
    uint32_t room;
    void *data;

    if (!h) {
        inject(l, p, way);
        return;
    }
    v.id = h->id;
    data = dt_channel_packet(l->ch, h->id, &room);
    if (!unchanged(h, p, data)) {
        v.decision = p->length <= room ? DT_CHANNEL_CHANGED : DT_CHANNEL_DROP;
        if (p->length <= room)
            memcpy(data, p->data, p->length);
        else
            inject(l, p, way); /* it has outgrown its pages */
    }
    say(l, &v);
}

static void front_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    struct host_lane *l = &the_host.lanes[lane_thread(lane)];

    for (unsigned i = 0; i < n; i++) {
        pass(l, packets[i], DT_RX);
        net_packet_free(lane, packet_of(packets[i]));
    }
}

static void back_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct host_lane *l = &the_host.lanes[c->thread];

    for (unsigned i = 0; i < n; i++)
        pass(l, packets[i], DT_TX);
    dt_sent(c, packets, n);
}

/* They ended on their way: the extension dropped them. */
static void front_sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct host_packet *h = slots[i];

        say(h->l, &(struct dt_channel_verdict){.id = h->id, .decision = DT_CHANNEL_DROP});
    }
}

static void front_wake(struct lane *lane)
{
    struct host_lane *l = &the_host.lanes[lane_thread(lane)];

    l->woken = true;
    loop_poller_wake(l->loop, &l->poller);
}

const struct front_ops host_net_ops = {
    .receive = front_receive, .sent = front_sent, .wake = front_wake};

static int back_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    *info = the_host.net_below;
    return 0;
}

static int back_start(struct dt_ctx *c, struct dt_error *err)
{
    the_host.lanes[c->thread].back = c;
    return 0;
}

const struct dt_net_ext host_net_back = {
    DT_NET_EXT_HEADER,
    .name = BACK_NAME,
    .summary = "The layers below, in another process",
    .flags = DT_BACK | DT_PER_QUEUE,
    .takes = DT_OFFLOAD_ALL,
    .info = back_info,
    .start = back_start,
    .transmit = back_transmit,
};

/* ---- Into the chain ---- */

void host_net_begin(struct host_lane *l)
{
    l->packets = xcalloc(l->nslots, sizeof(*l->packets));
    net_set_room(l->lane, true, ROOM);
    net_guest_takes(l->lane, DT_OFFLOAD_ALL);
}

/* What comes from the wire is the back's, as if it had read it. */
static struct packet *new_packet(struct host_lane *l, const struct dt_channel_event *e)
{
    struct dt_packet *p;

    if (e->op == DT_TX)
        return net_packet_new(l->lane, e->length);
    p = dt_packet_new(l->back, e->length);
    return p ? packet_of(p) : NULL;
}

void host_net_take(struct host_lane *l, const struct dt_channel_event *e, struct host_packets *b)
{
    struct packet *p = e->bytes == e->length ? new_packet(l, e) : NULL;
    struct host_packet *h = &l->packets[e->id];

    if (!p) {
        say(l, &(struct dt_channel_verdict){.id = e->id, .decision = DT_CHANNEL_DROP});
        return;
    }
    *h = (struct host_packet){
        .l = l, .id = e->id, .length = e->length, .segment = e->segment, .needs = e->flags};
    memcpy(p->pub.data, e->data, e->length);
    p->pub.needs = e->flags;
    p->pub.segment = e->segment;
    p->pub.queue = e->queue;
    p->slot = h;
    b->packets[e->op][b->n[e->op]++] = &p->pub;
}

void host_net_submit(struct host_lane *l, struct host_packets *b)
{
    if (b->n[DT_TX])
        net_transmit(l->lane, b->packets[DT_TX], b->n[DT_TX]);
    if (b->n[DT_RX])
        dt_receive(l->back, b->packets[DT_RX], b->n[DT_RX]);
    l->woken |= b->n[DT_TX] || b->n[DT_RX]; /* the worker is to hear how many more may come */
    b->n[DT_TX] = b->n[DT_RX] = 0;
}
