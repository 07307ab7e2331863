/* SPDX-License-Identifier: MIT */
/*
 * nat.c - network address translation: guests with addresses of their own, behind one of the wire's.
 *
 * Theory of operation: the layer is a router with a network of guests on the one side and one address on the other
 * (translate.c). It answers ARP for the guests' gateway and for the outer address (arp.c), so it needs nobody beside it.
 * On one card it serves that guest; on the uplink of a switch all that are in it. Cards that share an outer address each have a
 * range of its ports (`ports`): who has which port then follows from the configuration alone, so nothing has to be
 * agreed on, nor can be lost by a crash.
 *
 * Behaviour is that which RFC 4787 (UDP), 5382 (TCP) and 5508 (ICMP) ask for; devtap-net-nat(7) lists it.
 * All queues of a card are seen by one thread, for a flow's two directions may be on two.
 */
#include "net/nat/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

static const char *const ipv6_choices[] = {[IPV6_DROP] = "drop", [IPV6_PASS] = "pass", NULL};

#define TEXT(n, field) .name = n, .type = DT_PARAM_STRING, .offset = offsetof(struct nat, field)
#define TIME(n, field)                                            \
    .name = n, .type = DT_PARAM_DURATION, .flags = DT_PARAM_LIVE, \
    .offset = offsetof(struct nat, field), .min = DT_S(1), .max = DT_S(7 * 86400)
static const struct dt_param params[] = {
    {TEXT("outer", outer_text), .flags = DT_PARAM_REQUIRED, .unit = "address",
     .help = "The address that the wire sees, with the length of its network: 192.0.2.10/24."},
    {TEXT("inner", inner_text), .flags = DT_PARAM_REQUIRED, .unit = "address",
     .help = "The guests' gateway, with the length of their network: 10.0.2.1/24."},
    {TEXT("router", router_text), .flags = DT_PARAM_LIVE, .initial = "", .unit = "address",
     .help = "Who forwards what is not for the outer network; without, nothing else is reached."},
    {TEXT("ports", ports_text), .initial = "1024-65535", .unit = "range",
     .help = "The outer ports to use; cards that share an address have different ones."},
    {TEXT("forward", forward_text), .flags = DT_PARAM_LIVE, .initial = "", .unit = "list",
     .help = "Ports that lead to a guest: tcp:8080:80,udp:5000-5009:10.0.2.15:5000."},
    {TEXT("guest", guest_text), .flags = DT_PARAM_LIVE, .initial = "", .unit = "address",
     .help = "The guest that forwards without an address lead to."},
    {TEXT("mac", mac_text), .initial = "", .unit = "address",
     .help = "Under which MAC address packets leave; else one is made of the outer address."},
    {TEXT("shared-mac", shared_text), .initial = "", .unit = "address",
     .help = "The group address to which the wire is told to send, where cards share the address."},
    {.name = "ipv6",
     .type = DT_PARAM_ENUM,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct nat, ipv6),
     .initial = "drop",
     .choices = ipv6_choices,
     .help = "What becomes of IPv6: dropped, or passed as it is."},
    {TIME("tcp-timeout", tcp_timeout), .initial = "7440s",
     .help =
         "An open TCP connection in which the guest sends nothing is forgotten after this time."},
    {TIME("tcp-transitory", transitory_timeout), .initial = "240s",
     .help = "And so is one that is not open yet, or no more."},
    {TIME("udp-timeout", udp_timeout), .initial = "300s", .help = "And UDP."},
    {TIME("icmp-timeout", icmp_timeout), .initial = "60s", .help = "And ICMP echo."},
    {.name = "mappings",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct nat, mappings_max),
     .initial = "64k",
     .min = 64,
     .max = 196605,
     .unit = "mappings",
     .help = "Ports in use at a time, of all protocols together; 72 bytes each as they come."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [CREATED] = {"created", "mappings", "Mappings that were made."},
    [EXPIRED] = {"expired", "mappings", "Mappings that came to their timeout."},
    [FORGOTTEN] = {"forgotten", "mappings",
                   "The oldest that were not answered or were closing, for want of room."},
    [REFUSED] = {"refused", "packets",
                 "Dropped because all mappings or ports were in use, and answered."},
    [UNSOLICITED] = {"unsolicited", "packets", "Dropped, from the wire: nobody uses their port."},
    [OTHERS] = {"others", "packets", "Dropped, from the wire: their port is not of this card's."},
    [FOREIGN] = {"foreign", "packets",
                 "Dropped: not for this router, tagged, or from where no such address can be."},
    [UNKNOWN] = {"unknown", "packets",
                 "Dropped: neither TCP, UDP, ICMP echo nor an ICMP error about these."},
    [MALFORMED] = {"malformed", "packets", "Dropped: their headers contradict themselves."},
    [TTL] = {"ttl", "packets", "Dropped: their time to live was over."},
    [EARLY] = {"fragments-early", "packets",
               "Dropped: fragments whose first one has not been seen."},
    [FRAGMENTS_FORGOTTEN] = {"fragments-forgotten", "datagrams",
                             "The oldest fragmented datagrams, for want of room."},
    [UNRESOLVED] = {"unresolved", "packets",
                    "Dropped: the next hop's MAC address is not known; it is asked for."},
    [ERRORS] = {"icmp-errors", "packets", "ICMP errors that were translated."},
    [HAIRPIN] = {"hairpin", "packets", "From a guest to the outer address."},
    [ARP] = {"arp", "packets", "ARP; it ends here."},
    [CONFLICT] = {"conflicts", "packets", "ARP by which somebody else has one of our addresses."},
    [ECHO] = {"gateway", "packets", "Echo requests for the gateway, which were answered."},
    [DROPPED_IPV6] = {"ipv6", "packets", "IPv6, dropped."},
    [MEMORY] = {"memory", "packets", "Could not be made: no memory for packets."},
    {NULL},
};

/* ---- Life ---- */

static void close_layer(struct dt_layer *layer)
{
    struct nat *n = dt_layer_data(layer);

    nat_mappings_fini(n);
    table_fini(&n->fragments);
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct nat *n = dt_layer_data(layer);
    int ret;

    n->layer = layer;
    n->now = (uint32_t)(dt_clock_ns() / DT_S(1));
    if (getrandom(&n->seed, sizeof(n->seed), 0) != sizeof(n->seed))
        return dt_fail(err, -EIO, "no random numbers: %s", strerror(errno));
    ret = nat_mappings_init(n) ?: nat_fragments_init(n);
    if (ret < 0)
        dt_fail(err, ret, "no memory for %" PRIu64 " mappings", n->mappings_max);
    else
        ret = nat_apply(n, true, err);
    if (ret < 0)
        close_layer(layer);
    return ret;
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct nat *n = dt_layer_data(layer);
    int ret = nat_apply(n, false, err);

    n->looked = 0; /* timeouts may be shorter now */
    if (ret == 0 && n->c)
        dt_timer_set(n->c, &n->timer, dt_clock_ns()); /* there may be another router */
    return ret;
}

static void fire(struct dt_timer *timer)
{
    struct nat *n = container_of(timer, struct nat, timer);

    n->now = (uint32_t)(dt_now(n->c) / DT_S(1));
    nat_announce(n);
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct nat *n = c->layer_data;

    n->c = c;
    n->timer.fire = fire;
    dt_timer_set(c, &n->timer, dt_clock_ns());
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct nat *n = c->layer_data;

    dt_timer_cancel(c, &n->timer);
    n->c = NULL;
}

/* ---- Verbs ---- */

static const char *const protocols[] = {[TCP] = "tcp", [UDP] = "udp", [ICMP] = "icmp"};

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    struct nat *n = dt_layer_data(layer);
    uint64_t open = 0;

    n->now = (uint32_t)(dt_clock_ns() / DT_S(1));
    nat_expire(n);
    for (enum protocol p = TCP; p < PROTOCOLS; p++)
        dt_reply_u64(reply, protocols[p], n->used[p]);
    list_for_each (l, &n->ages[TCP][ANSWERED])
        open++;
    dt_reply_u64(reply, "tcp-open", open);
    dt_reply_u64(reply, "ports", n->high - n->low + 1u);
    dt_reply(reply, "router", "%s",
             !n->router_address ? "none"
             : n->router.known  ? "known"
                                : "does not answer");
    return 0;
}

static int run_owner(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    const struct nat *n = dt_layer_data(layer);
    const struct mapping *m = NULL;
    unsigned port;
    char end;

    if (argc != 2 || sscanf(argv[1], "%5u%c", &port, &end) != 1 || port > 65535)
        return dt_fail(err, -EINVAL, "write owner tcp|udp|icmp PORT");
    for (enum protocol p = TCP; p < PROTOCOLS; p++)
        if (strcmp(argv[0], protocols[p]) == 0)
            m = nat_find_outer(n, p, (uint16_t)port);
    if (!m)
        return dt_fail(err, -ENOENT, "nobody has %.10s port %u", argv[0], port);
    dt_reply(reply, "guest", "%u.%u.%u.%u", m->inner >> 24, m->inner >> 16 & 255,
             m->inner >> 8 & 255, m->inner & 255);
    dt_reply_u64(reply, "port", m->port);
    dt_reply_u64(reply, "idle-s",
                 m->class == FORWARD ? 0 : (uint32_t)(dt_clock_ns() / DT_S(1)) - m->seen);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "Ports in use by protocol, open TCP, and whether the router is known.",
     run_status},
    {"owner", "tcp|udp|icmp PORT", "Whose port of the outer address it is.", run_owner},
    {NULL},
};

const struct dt_net_ext net_nat = {
    DT_NET_EXT_HEADER,
    .name = "nat",
    .summary = "Guests behind one address of the wire's: TCP, UDP, ICMP, forwarded ports, IPv4",
    .help = "A router for the guests of one card, or of a switch on its uplink: their addresses "
            "stay inside, "
            "and the wire sees one. It answers ARP on both sides. Connections survive the worker's "
            "death.",
    .flags = DT_SELF_CONTAINED | DT_STATE_OF_RUN,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct nat),
    .state_version = 1,
    .open = open_layer,
    .close = close_layer,
    .start = start,
    .stop = stop,
    .set = set,
    .tx = nat_tx,
    .rx = nat_rx,
    .save = nat_save,
    .load = nat_load,
};
