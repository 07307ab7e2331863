/* SPDX-License-Identifier: MIT */
/*
 * announce.c - tell the network where a card's addresses are now: after a start, a migration, or on demand.
 *
 * Theory of operation: switches learn a MAC address's port from any frame that comes from it, and neighbours learn an IP
 * address's MAC address from what ARP and neighbour discovery say unasked. So an announcement is a reverse ARP (what VMMs
 * send, too), an ARP request for each own IPv4 address (RFC 5227, 3), and a neighbour advertisement to all nodes for
 * each IPv6 address (RFC 4861, 7.2.6). Frames get lost, and switches take time: it is made several times.
 *
 * The front turns a VMM's request (VHOST_USER_SEND_RARP) into a reverse ARP from the guest's side. Whoever sends
 * one announces only a MAC address: here the rest is added. The guest's own announcements (VIRTIO_NET_F_GUEST_ANNOUNCE)
 * need nothing of this.
 */
#include "base/base.h"
#include "base/bytes.h"
#include "base/prefix.h"
#include <devtap/net.h>

#include <stdio.h>

struct announce {
    const char *mac_text, *ip4_text, *ip6_text;
    uint64_t times, interval;
    bool at_start;
    uint8_t mac[6];
    struct prefixes ip4, ip6;
};

struct announce_ctx {
    struct dt_ctx *c;
    struct dt_timer timer;
    uint64_t left;
};

static const struct dt_param params[] = {
    {.name = "mac",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED | DT_PARAM_LIVE,
     .offset = offsetof(struct announce, mac_text),
     .unit = "address",
     .help = "The card's MAC address."},
    {.name = "ip4",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct announce, ip4_text),
     .initial = "",
     .unit = "addresses",
     .help = "Its IPv4 addresses, separated by commas."},
    {.name = "ip6",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct announce, ip6_text),
     .initial = "",
     .unit = "addresses",
     .help = "Its IPv6 addresses."},
    {.name = "times",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct announce, times),
     .initial = "3",
     .min = 1,
     .max = 100,
     .unit = "times",
     .help = "How often it is announced."},
    {.name = "interval",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct announce, interval),
     .initial = "250ms",
     .min = DT_MS(1),
     .max = DT_S(60),
     .help = "Time between two announcements."},
    {.name = "at-start",
     .type = DT_PARAM_BOOL,
     .offset = offsetof(struct announce, at_start),
     .initial = "on",
     .help = "Announce when the card begins to be served, by a new worker too."},
    {NULL},
};

enum { ANNOUNCED, REQUESTED, MISSED };
static const struct dt_counter counters[] = {
    [ANNOUNCED] = {"announced", "packets", "Announcements that were sent."},
    [REQUESTED] = {"requested", "times",
                   "Reverse ARPs of the VMM's or the guest's that were followed."},
    [MISSED] = {"missed", "packets", "Announcements for which there was no memory."},
    {NULL},
};

/* ---- Frames ---- */

static void send(struct announce_ctx *ac, const uint8_t to[6], uint16_t type, const void *body,
                 uint32_t length)
{
    const struct announce *a = ac->c->layer_data;
    struct dt_packet *p = dt_packet_new(ac->c, MAX(14 + length, 60u));

    if (!p) {
        dt_count(ac->c, MISSED, 1);
        return;
    }
    memset(p->data, 0, p->length);
    memcpy(p->data, to, 6);
    memcpy(p->data + 6, a->mac, 6);
    store_be16(p->data + 12, type);
    memcpy(p->data + 14, body, length);
    dt_count(ac->c, ANNOUNCED, 1);
    dt_transmit_one(ac->c, p);
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

/* ARP: @operation 1, by whom @address is; reverse ARP: 3, with no address. */
static void send_arp(struct announce_ctx *ac, uint16_t type, uint8_t operation,
                     const uint8_t address[4])
{
    const struct announce *a = ac->c->layer_data;
    uint8_t arp[28] = {0, 1, 8, 0, 6, 4, 0, operation};

    memcpy(arp + 8, a->mac, 6);
    memcpy(arp + 14, address, 4);
    if (operation == 3)
        memcpy(arp + 18, a->mac, 6);
    memcpy(arp + 24, address, 4);
    send(ac, everybody, type, arp, sizeof(arp));
}

static void send_advertisement(struct announce_ctx *ac, const uint8_t address[16])
{
    static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    const struct announce *a = ac->c->layer_data;
    uint8_t ip[40 + 32] = {0x60, [5] = 32, [6] = 58, [7] = 255}, *na = ip + 40;
    const uint8_t pseudo[8] = {[3] = 32, [7] = 58};
    uint16_t sum;

    memcpy(ip + 8, address, 16);
    memcpy(ip + 24, all_nodes, 16);
    na[0] = 136;
    na[4] = 0x20; /* override; unsolicited */
    memcpy(na + 8, address, 16);
    na[24] = 2; /* option: the target's link-layer address */
    na[25] = 1;
    memcpy(na + 26, a->mac, 6);
    sum = dt_checksum(ip + 8, 32, 0);
    sum = dt_checksum(pseudo, sizeof(pseudo), sum);
    store_be16(na + 2, (uint16_t)~dt_checksum(na, 32, sum));
    send(ac, all_nodes_mac, 0x86dd, ip, sizeof(ip));
}

static void announce(struct announce_ctx *ac)
{
    const struct announce *a = ac->c->layer_data;
    static const uint8_t none[4];

    send_arp(ac, 0x8035, 3, none);
    for (unsigned i = 0; i < a->ip4.n; i++)
        send_arp(ac, 0x0806, 1, a->ip4.list[i].bytes);
    for (unsigned i = 0; i < a->ip6.n; i++)
        send_advertisement(ac, a->ip6.list[i].bytes);
}

/* ---- When ---- */

static void fire(struct dt_timer *timer)
{
    struct announce_ctx *ac = container_of(timer, struct announce_ctx, timer);
    const struct announce *a = ac->c->layer_data;

    announce(ac);
    if (--ac->left > 0)
        dt_timer_set(ac->c, timer, dt_now(ac->c) + a->interval);
}

static void begin(struct dt_ctx *c)
{
    const struct announce *a = c->layer_data;
    struct announce_ctx *ac = c->data;

    ac->left = a->times;
    dt_timer_set(c, &ac->timer, dt_clock_ns());
}

/* Announcements of our own do not come here: they go on from this layer. */
static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    const struct announce *a = c->layer_data;
    const struct announce_ctx *ac = c->data;

    if (unlikely(p->length >= 42 && p->data[12] == 0x80 && p->data[13] == 0x35) && ac->left == 0 &&
        memcmp(p->data + 6, a->mac, 6) == 0) {
        dt_count(c, REQUESTED, 1);
        begin(c);
    }
    return DT_ACCEPT;
}

/* ---- Life ---- */

static int read_addresses(const char *text, bool v6, struct prefixes *to, struct dt_error *err)
{
    int ret = prefixes_parse(text, v6 ? NULL : to, v6 ? to : NULL, err);

    for (unsigned i = 0; ret == 0 && i < to->n; i++)
        if (to->list[i].bits != (v6 ? 128 : 32))
            ret = dt_fail(err, -EINVAL, "'%.60s': a prefix cannot be announced, only addresses",
                          text);
    return ret;
}

static int apply(struct dt_layer *layer, struct dt_error *err)
{
    struct announce *a = dt_layer_data(layer);
    struct prefixes ip4, ip6;
    unsigned b[6];
    int end = 0, ret;

    if (sscanf(a->mac_text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &end) != 6 ||
        a->mac_text[end] || b[0] & 1)
        return dt_fail(err, -EINVAL, "mac '%.40s' is no card's address such as 52:54:00:12:34:56",
                       a->mac_text);
    ret = read_addresses(a->ip4_text, false, &ip4, err);
    ret = ret ?: read_addresses(a->ip6_text, true, &ip6, err);
    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < 6; i++)
        a->mac[i] = (uint8_t)b[i];
    a->ip4 = ip4;
    a->ip6 = ip6;
    return 0;
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    return apply(layer, err);
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    const struct announce *a = c->layer_data;
    struct announce_ctx *ac = c->data;

    ac->c = c;
    ac->timer.fire = fire;
    if (a->at_start && c->thread == 0)
        begin(c);
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct announce_ctx *ac = c->data;

    dt_timer_cancel(c, &ac->timer);
}

static int run_announce(struct dt_layer *layer, int argc, const char *const *argv,
                        struct dt_reply *reply, struct dt_error *err)
{
    begin(dt_layer_ctx(layer, 0));
    return 0;
}

static const struct dt_verb verbs[] = {
    {"announce", "", "Announce the card's addresses now.", run_announce},
    {NULL},
};

const struct dt_net_ext net_announce = {
    DT_NET_EXT_HEADER,
    .name = "announce",
    .summary = "Tell the network where the card's addresses are: at the start, after a migration, "
               "on demand",
    .help =
        "Sends a reverse ARP, a gratuitous ARP for each IPv4 address, and an unsolicited neighbour "
        "advertisement for each IPv6 address, several times; also when the VMM asks for it after a "
        "migration.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct announce),
    .ctx_size = sizeof(struct announce_ctx),
    .open = apply,
    .start = start,
    .stop = stop,
    .set = set,
    .tx = tx,
};
