/* SPDX-License-Identifier: MIT */
/*
 * route.c - the back `route`: no Ethernet between the guest and the host, but the host's own routing: thesis 3.2.6.
 *
 * Theory of operation: the card leads to a TUN interface, which carries IP packets and nothing else. The host's tables have a route
 * to each of the guest's addresses over it; all that the host does with packets (forwarding, filters, policy) is done with
 * the guest's. On the guest's side an Ethernet is kept up of which the guest is the only member: whoever it asks for is at the
 * gateway's MAC address (answer.c). So neither side can send the other a frame, and what is not IP under
 * the guest's own addresses goes nowhere (RFC 2827).
 *
 * The interface is made at the start and ends with the process, however that ends, and its routes with it. A successor makes
 * another one.
 *
 * The kernel tells and is told of offloads as with a TAP, with offsets from the network header on.
 */
#include "net/route/internal.h"

#include <fcntl.h>
#include <stdio.h>

#define ETHER        14u
#define LEAST_PACKET 20u

#define FIELD(field) .offset = offsetof(struct route, field)
static const struct dt_param params[] = {
    {.name = "address",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED,
     FIELD(address_text),
     .unit = "addresses",
     .help = "The guest's addresses and networks, IPv4 and IPv6, separated by commas."},
    {.name = "ifname",
     .type = DT_PARAM_STRING,
     FIELD(ifname),
     .initial = "route%d",
     .unit = "name",
     .help = "The interface to make; %d is a number that the kernel chooses."},
    {.name = "mac",
     .type = DT_PARAM_STRING,
     FIELD(mac_text),
     .initial = "",
     .unit = "address",
     .help = "The guest's MAC address; else it is learned when the guest first speaks."},
    {.name = "mtu",
     .type = DT_PARAM_UINT,
     FIELD(mtu),
     .initial = "1500",
     .min = 1280,
     .max = 65521,
     .unit = "bytes",
     .help = "Largest IP packet."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [TX_FULL] = {"tx-full", "packets",
                 "Dropped because the kernel could not take them, or the interface is gone."},
    [FOREIGN] = {"foreign", "packets", "From the guest, dropped: not under an address of its own."},
    [GROUP] = {"group", "packets", "From the guest, dropped: to a group or to all."},
    [UNKNOWN] =
        {"unknown", "packets",
         "From the guest, dropped: not IP, tagged, or their headers contradict themselves."},
    [ANSWERED] = {"answered", "packets",
                  "ARP and neighbour discovery of the guest's; it ends here."},
    [RX_SHORT] = {"rx-short", "packets", "To the guest, dropped: they were no whole IP packet."},
    [RX_HEADER] = {"rx-header", "packets",
                   "Dropped because what the kernel said of them contradicts them."},
    [RX_FOREIGN] = {"rx-foreign", "packets", "From the host, dropped: not for the guest."},
    [RX_NOBODY] = {"rx-nobody", "packets",
                   "To the guest, dropped: its MAC address is not known yet."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    {NULL},
};

/* ---- Opening ---- */

static int read_mac(struct route *r, struct dt_error *err)
{
    unsigned b[6];
    uint8_t mac[6];
    int end = 0;

    if (!*r->mac_text)
        return 0;
    if (sscanf(r->mac_text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &end) != 6 ||
        r->mac_text[end] || b[0] & 1)
        return dt_fail(err, -EINVAL, "mac '%.40s' is no card's address such as 52:54:00:12:34:56",
                       r->mac_text);
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    r->guest = mac_pack(mac);
    return 0;
}

static int read_params(struct route *r, struct dt_error *err)
{
    int ret = prefixes_parse(r->address_text, &r->own4, &r->own6, err);

    if (ret == 0 && r->own4.n + r->own6.n == 0)
        ret = dt_fail(err, -EINVAL, "address is empty: which is the guest's?");
    for (unsigned i = 0; ret == 0 && i < r->own4.n + r->own6.n; i++)
        if ((i < r->own4.n ? &r->own4.list[i] : &r->own6.list[i - r->own4.n])->bits == 0)
            ret = dt_fail(err, -EINVAL, "address '%.60s': a guest cannot have all addresses",
                          r->address_text);
    ret = ret ?: read_mac(r, err);
    return ret ?: port_tun_name(r->name, r->ifname, err);
}

static void close_all(struct dt_layer *layer)
{
    struct route *r = dt_layer_data(layer);

    for (unsigned i = 0; i < r->nfds; i++)
        close(r->fds[i]);
}

/* Another setting than most hosts': say so before somebody looks for it. */
static void advise(const struct route *r, bool v6)
{
    const char *path =
        v6 ? "/proc/sys/net/ipv6/conf/all/forwarding" : "/proc/sys/net/ipv4/ip_forward";
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char on = '1';

    if (fd >= 0 && read(fd, &on, 1) == 1 && on == '0')
        dt_log(DT_LOG_WARNING,
               "%s: this host does not forward IPv%d, so the guest reaches it alone "
               "(sysctl net.ipv%s=1)",
               r->name, v6 ? 6 : 4, v6 ? "6.conf.all.forwarding" : "4.ip_forward");
}

static int route_open(struct dt_layer *layer, struct dt_error *err)
{
    struct route *r = dt_layer_data(layer);
    unsigned threads = dt_layer_threads(layer);
    int ret = read_params(r, err);

    r->layer = layer;
    for (unsigned i = 0; ret == 0 && i < threads; i++) {
        int fd = port_tun_open(layer, r->name, IFF_TUN, threads > 1, err);

        if (fd >= 0)
            r->fds[r->nfds++] = fd;
        ret = MIN(fd, 0);
    }
    ret = ret ?: route_install(r, err);
    if (ret < 0) {
        close_all(layer);
        return ret;
    }
    if (r->own4.n)
        advise(r, false);
    if (r->own6.n)
        advise(r, true);
    return 0;
}

static int route_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct route *r = dt_layer_data(layer);

    info->mtu = (uint16_t)r->mtu;
    return 0;
}

/* ---- From the guest ---- */

static void learn(struct route *r, const uint8_t mac[6])
{
    uint64_t packed = mac_pack(mac);

    if (likely(__atomic_load_n(&r->guest, __ATOMIC_RELAXED) == packed) || mac[0] & 1)
        return;
    __atomic_store_n(&r->guest, packed, __ATOMIC_RELAXED);
    dt_layer_state_changed(r->layer);
}

static void answer(struct dt_ctx *c, struct dt_packet *p)
{
    uint8_t bytes[ROUTE_ANSWER_MAX];
    uint32_t n = route_answer(c->layer_data, p, bytes);
    struct dt_packet *reply = n ? dt_packet_new(c, n) : NULL;

    learn(c->layer_data, p->data + 6);
    dt_count(c, ANSWERED, 1);
    dt_sent(c, &p, 1);
    if (!reply)
        return; /* without memory, as if it had been lost: the guest asks again */
    memcpy(reply->data, bytes, n);
    dt_receive_one(c, reply);
}

/* 0 = it may go. */
static int judge(const struct route *r, const struct dt_headers *h, const uint8_t *data,
                 enum route_counter *why)
{
    const uint8_t *ip = data + h->l3;
    bool v4 = h->flags & DT_HDR_IPV4, group = v4 ? ip[16] >= 224 : ip[24] == 0xff;

    *why = group ? GROUP : FOREIGN;
    if (group)
        return -1;
    return prefixes_contain(v4 ? &r->own4 : &r->own6, ip + (v4 ? 12 : 8)) ? 0 : -1;
}

static void transmit_one(struct dt_ctx *c, struct dt_packet *p)
{
    struct route *r = c->layer_data;
    const struct dt_headers *h = dt_headers(p);
    enum route_counter why = UNKNOWN;

    if (h->flags & DT_HDR_BROKEN || h->vlans || !(h->flags & (DT_HDR_IP | DT_HDR_ARP)))
        dt_drop_one(c, p, UNKNOWN);
    else if (unlikely(route_is_question(p)))
        answer(c, p);
    else if (judge(r, h, p->data, &why) < 0)
        dt_drop_one(c, p, why);
    else if (learn(r, p->data + 6), likely(port_tun_write(r->fds[c->thread], p, ETHER, h->end)))
        dt_sent(c, &p, 1);
    else
        dt_drop_one(c, p, TX_FULL);
}

static void route_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        transmit_one(c, packets[i]);
}

/* ---- To the guest ---- */

/* @p has an IP packet behind room for an Ethernet header, of which nothing but its length is known. */
static struct dt_packet *finish(struct dt_ctx *c, struct dt_packet *p, struct dt_vnet_header *v)
{
    const struct route *r = c->layer_data;
    uint64_t guest = __atomic_load_n(&r->guest, __ATOMIC_RELAXED);
    bool v4 = p->data[ETHER] >> 4 == 4;
    const struct dt_headers *h;
    const uint8_t *ip;

    memcpy(p->data, &guest, 6);
    memcpy(p->data + 6, route_gateway, 6);
    memcpy(p->data + 12, v4 ? "\x08\x00" : "\x86\xdd", 2);
    h = dt_headers(p);
    ip = p->data + ETHER;
    if (h->flags & DT_HDR_BROKEN || !(h->flags & DT_HDR_IP))
        return port_drop(c, p, RX_SHORT);
    if (!prefixes_contain(v4 ? &r->own4 : &r->own6, ip + (v4 ? 16 : 24)))
        return port_drop(c, p, RX_FOREIGN);
    if (!guest)
        return port_drop(c, p, RX_NOBODY);
    v->csum_start = (uint16_t)(v->csum_start + ETHER);
    return port_offloads(c, p, v, RX_HEADER);
}

static struct dt_packet *route_read(struct port_in *in)
{
    struct dt_vnet_header v;
    struct dt_packet *p = port_tun_read(in, ETHER, LEAST_PACKET, RX_SHORT, &v);

    return p ? finish(in->c, p, &v) : NULL;
}

static void route_ended(struct port_in *in, int error)
{
    const struct route *r = in->c->layer_data;

    dt_layer_event(in->c->layer, "interface-gone", "%s: %s: the guest reaches nobody any more",
                   r->name, strerror(error));
}

static void route_resume(struct dt_ctx *c)
{
    struct route_ctx *rc = c->data;

    port_in_resume(&rc->in);
}

/* ---- Life ---- */

static int route_start(struct dt_ctx *c, struct dt_error *err)
{
    const struct route *r = c->layer_data;
    struct route_ctx *rc = c->data;

    rc->in = (struct port_in){
        .read = route_read, .ended = route_ended, .c = c, .memory = RX_MEMORY, .interface = true};
    return port_in_open(&rc->in, r->fds[c->thread]) == 0
               ? 0
               : dt_fail(err, -EIO, "cannot watch %s", r->name);
}

static void route_stop(struct dt_ctx *c)
{
    struct route_ctx *rc = c->data;

    port_in_close(&rc->in);
}

/* State: where the guest is, so that it is heard of before it speaks again. */
static int64_t route_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct route *r = dt_layer_data(layer);
    uint64_t guest = __atomic_load_n(&r->guest, __ATOMIC_RELAXED);

    if (size < 6)
        return -ENOSPC;
    memcpy(buf, &guest, 6);
    return 6;
}

static int route_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                      struct dt_error *err)
{
    struct route *r = dt_layer_data(layer);

    if (size != 6 || version != 1 || *(const uint8_t *)buf & 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of route", size,
                       version);
    if (!*r->mac_text)
        r->guest = mac_pack(buf);
    return 0;
}

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    const struct route *r = dt_layer_data(layer);
    uint8_t mac[6];

    memcpy(mac, &r->guest, 6);
    dt_reply(reply, "interface", "%s", r->name);
    if (r->guest)
        dt_reply(reply, "guest", "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
                 mac[4], mac[5]);
    else
        dt_reply(reply, "guest", "not heard of yet");
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "The interface, and the guest's MAC address.", run_status},
    {NULL},
};

const struct dt_net_ext net_route = {
    DT_NET_EXT_HEADER,
    .name = "route",
    .summary =
        "The host's own routing: the guest's addresses are routes, and no Ethernet is shared",
    .help = "A TUN interface with a route to each of the guest's addresses; whoever the guest asks "
            "for, by ARP or "
            "neighbour discovery, is at the gateway. The host forwards, filters and accounts as "
            "for any "
            "traffic; what is not IP under the guest's own addresses goes nowhere.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_STATE_OF_RUN,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct route),
    .ctx_size = sizeof(struct route_ctx),
    .state_version = 1,
    .open = route_open,
    .close = close_all,
    .start = route_start,
    .stop = route_stop,
    .info = route_info,
    .transmit = route_transmit,
    .resume = route_resume,
    .save = route_save,
    .load = route_load,
};
