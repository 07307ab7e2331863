/* SPDX-License-Identifier: MIT */
/*
 * packets.c - the proxy of a card's extension: packets on their way to its process, and back (net/channel/link.h).
 *
 * The life of the process is that of a disk's extension (orders.c). What differs is what a death costs. A network may lose
 * packets, and one of those that the process had may be what it died of: so they are lost, and nothing is sent
 * twice. Those that had not been sent yet wait for the next process, within bounds: what the guest sends, in its own
 * ring.
 */
#include "blk/channel/internal.h"

#include "base/fifo.h"
#include "net/channel/link.h"

#define OWN_PACKETS  64u   /* of the extension's, under way at once */
#define RX_QUEUE     1024u /* packets to the guest that wait */
#define PACKET_BYTES (16u << 20)

FIFO(packet_fifo, dt_packet)

/** struct packets - a link's part for cards. */
struct packets {
    struct packet_link link;
    struct packet_fifo queue[2];
    uint32_t nqueue[2];
};

/* ---- The queue ---- */

static void hand_on(struct link *l, struct dt_packet *p, enum dt_direction way)
{
    if (way == DT_TX)
        dt_transmit_one(l->c, p);
    else
        dt_receive_one(l->c, p);
}

static void enqueue(struct link *l, struct dt_packet *p, enum dt_direction way)
{
    struct packets *k = l->packets;

    if (way == DT_RX && k->nqueue[way] == RX_QUEUE) {
        net_drop(l->c, &p, 1);
        return;
    }
    packet_fifo_add(&k->queue[way], p);
    k->nqueue[way]++;
    set_queued(l, l->queued + 1);
}

static struct dt_packet *dequeue(struct link *l, enum dt_direction way)
{
    struct dt_packet *p = packet_fifo_take(&l->packets->queue[way]);

    if (p) {
        l->packets->nqueue[way]--;
        set_queued(l, l->queued - 1);
    }
    return p;
}

/* There is no process, and none will come by itself. */
static void by_policy(struct link *l, struct dt_packet *p, enum dt_direction way)
{
    if (l->p->on_crash == ON_CRASH_BYPASS)
        hand_on(l, p, way);
    else if (l->p->on_crash == ON_CRASH_FAIL)
        net_drop(l->c, &p, 1);
    else
        enqueue(l, p, way);
}

static void end_queue(struct link *l, bool policy)
{
    for (enum dt_direction way = DT_TX; way <= DT_RX && l->packets; way++) {
        struct dt_packet *p;

        while ((p = dequeue(l, way)) != NULL)
            if (policy)
                by_policy(l, p, way);
            else
                net_drop(l->c, &p, 1);
    }
}

/* ---- Sending ---- */

static void look_at_slots(struct link *l)
{
    l->in_slots = l->packets->link.out[DT_TX] + l->packets->link.out[DT_RX];
}

/* Neither direction takes the slots of the other. */
static bool send(struct link *l, struct dt_packet *p, enum dt_direction way)
{
    struct packet_link *k = &l->packets->link;

    if (k->out[way] >= SLOTS / 2 || !packets_send(k, p, way, dt_now(l->c)))
        return false;
    l->sent++;
    return true;
}

static void send_queue(struct link *l)
{
    struct packets *k = l->packets;

    k->link.c = l->c;
    for (enum dt_direction way = DT_TX; way <= DT_RX; way++)
        while (link_is_up(l) && k->queue[way].head && send(l, k->queue[way].head, way))
            dequeue(l, way);
    packets_publish(&k->link);
    look_at_slots(l);
    link_tick_start(l);
}

static void submit(struct dt_ctx *c, enum dt_direction way, struct dt_packet **packets, unsigned n)
{
    struct link *l = link_of(c);
    struct packets *k = l->packets;

    k->link.c = c;
    for (unsigned i = 0; i < n; i++) {
        struct dt_packet *p = packets[i];

        if (unlikely(l->state == LINK_GIVEN_UP))
            by_policy(l, p, way);
        else if (unlikely(!link_is_up(l) && ctx_of(c)->lane->quiescing))
            net_drop(c, &p, 1); /* a rest does not wait for the next process */
        else if (l->state != LINK_LIVE || k->queue[way].head || !send(l, p, way))
            enqueue(l, p, way);
    }
    if (!link_is_up(l))
        return;
    look_at_slots(l);
    loop_defer(ctx_loop(c), &l->flush);
    link_tick_start(l);
}

static void transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    submit(c, DT_TX, packets, n);
}

static void receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    submit(c, DT_RX, packets, n);
}

static unsigned admit(struct dt_ctx *c, unsigned want)
{
    struct link *l = link_of(c);
    struct packets *k = l->packets;
    uint32_t there;

    if (l->state == LINK_GIVEN_UP && l->p->on_crash != ON_CRASH_HOLD)
        return want;
    if (l->state != LINK_LIVE)
        return 0; /* its life begins with a wake */
    there = k->link.out[DT_TX] + k->nqueue[DT_TX];
    if (there < SLOTS / 2)
        return link_allowed(l, MIN(want, SLOTS / 2 - there));
    l->stopped = true;
    return 0;
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct link *l = link_of(c);

    if (!link_is_up(l)) {
        end_queue(l, false);
        return;
    }
    packets_publish(&l->packets->link);
    proxy_template.quiesce(c, deadline);
}

/* ---- What comes back ---- */

static void on_drop(struct packet_link *k, struct dt_packet *p, enum packet_end why)
{
    net_drop(k->c, &p, 1); /* the extension has counted it */
}

static int take(struct link *l, const char **why)
{
    struct packets *k = l->packets;
    int n;

    k->link.c = l->c;
    n = packets_take(&k->link, why);
    l->pong = k->link.pong;
    if (n >= 0 && (k->queue[DT_TX].head || k->queue[DT_RX].head))
        send_queue(l);
    look_at_slots(l);
    if (l->stopped && n > 0) {
        l->stopped = false;
        dt_wake(l->c);
    }
    return n;
}

static bool arm(struct link *l)
{
    return channel_arm(&l->packets->link.up);
}

static void publish(struct link *l)
{
    packets_publish(&l->packets->link);
}

static void ping(struct link *l, uint64_t now)
{
    packets_ping(&l->packets->link);
    l->ping = l->packets->link.ping;
    l->pinged_at = now;
}

static uint64_t oldest(const struct link *l)
{
    return packets_oldest(&l->packets->link);
}

static unsigned reclaim(struct link *l)
{
    enum dt_direction way;
    struct dt_packet *p;
    unsigned n = 0;

    for (; (p = packets_reclaim(&l->packets->link, &way)) != NULL; n++)
        net_drop(l->c, &p, 1);
    return n;
}

/* ---- The channel of one process ---- */

static uint64_t memory(const struct proxy *p)
{
    const struct channel_shape shape = {SLOTS, OWN_PACKETS, ALIGN_UP(CHANNEL_FRAME_MAX, 4096u),
                                        PACKET_BYTES};

    return channel_size(&shape);
}

static int attach(struct link *l, struct dt_error *err)
{
    struct packets *k = l->packets;
    int memfd;

    if (!k) {
        k = l->packets = xcalloc(1, sizeof(*k));
        packet_fifo_init(&k->queue[DT_TX]);
        packet_fifo_init(&k->queue[DT_RX]);
    }
    k->link = (struct packet_link){.drop = on_drop, .snap = CHANNEL_FRAME_MAX, .turns = true};
    memfd = packets_create(&k->link, SLOTS, OWN_PACKETS, PACKET_BYTES, err);
    if (memfd < 0)
        return memfd;
    l->map = k->link.map; /* for limits and counters */
    l->kick_down = k->link.kick_down;
    l->kick_up = k->link.kick_up;
    l->ping = l->pong = 0;
    l->sent = l->in_slots = 0;
    memset(l->counters_last, 0, sizeof(l->counters_last));
    return memfd;
}

static void detach(struct link *l)
{
    if (!l->map.header)
        return;
    packets_destroy(&l->packets->link);
    l->map = (struct channel_map){0};
    l->kick_down = l->kick_up = -1;
}

/* ---- What the card is ---- */

json_t *net_info_to_json(const struct dt_net_info *info)
{
    return json_pack("{si sI}", "mtu", (int)info->mtu, "offloads", (json_int_t)info->offloads);
}

int net_info_from_json(struct dt_net_info *info, const json_t *json)
{
    json_int_t mtu = json_integer_value(json_object_get(json, "mtu"));
    json_int_t offloads = json_integer_value(json_object_get(json, "offloads"));

    if (mtu < 0 || mtu > UINT16_MAX || offloads < 0 || offloads & ~DT_OFFLOAD_ALL)
        return -EINVAL;
    *info = (struct dt_net_info){.mtu = (uint16_t)mtu, .offloads = (uint32_t)offloads};
    return 0;
}

static void look_below(struct proxy *p)
{
    p->net_below = *dt_layer_net_info(p->layer);
}

static json_t *below(const struct proxy *p)
{
    return net_info_to_json(&p->net_below);
}

static int take_info(struct proxy *p, const json_t *answer)
{
    if (net_info_from_json(&p->net_info, json_object_get(answer, "info")) < 0)
        return -EPROTO;
    p->have_info = true;
    return 0;
}

static int info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);
    json_t *answer = NULL;
    int ret;

    if (!p->have_info || p->net_below.mtu != info->mtu || p->net_below.offloads != info->offloads) {
        p->net_below = *info;
        ret = proxy_call(p, CONTROL_INFO, json_pack("{so}", "below", below(p)), &answer, err);
        if (ret == 0 && take_info(p, answer) < 0)
            ret = dt_fail(err, -EPROTO, "it described the card wrongly");
        json_decref(answer);
        if (ret < 0)
            return ret;
    }
    info->mtu = p->net_info.mtu; /* the link is the back's */
    info->offloads = p->net_info.offloads;
    return 0;
}

/* ---- The class ---- */

const struct link_class packet_class = {
    .noun = "packets",
    .lost = "lost",
    .attach = attach,
    .detach = detach,
    .memory = memory,
    .take = take,
    .arm = arm,
    .publish = publish,
    .ping = ping,
    .oldest = oldest,
    .reclaim = reclaim,
    .send = send_queue,
    .end_queue = end_queue,
    .look_below = look_below,
    .below = below,
    .take_info = take_info,
};

/* What the extension does not look at does not go to its process. */
const struct dt_block_ext *wrap_net(struct wrapped *w, const struct dt_net_ext *real)
{
    const struct dt_block_ext *e = &w->ext;

    w->net = (struct dt_net_ext){
        DT_NET_EXT_HEADER,
        .name = e->name,
        .summary = e->summary,
        .help = e->help,
        .flags = real->flags & ~(uint32_t)(DT_SELF_CONTAINED | DT_PER_QUEUE),
        .takes = real->takes & DT_OFFLOAD_ALL, /* it has copies */
        .params = e->params,
        .counters = e->counters,
        .verbs = e->verbs,
        .layer_size = e->layer_size,
        .state_version = e->state_version,
        .open = e->open,
        .close = e->close,
        .start = e->start,
        .stop = e->stop,
        .info = info,
        .transmit = real->transmit || real->tx ? transmit : NULL,
        .receive = real->receive || real->rx ? receive : NULL,
        .admit = admit,
        .quiesce = quiesce,
        .set = e->set,
        .save = e->save,
        .load = e->load,
    };
    return registry_net_view(&w->net, w);
}
