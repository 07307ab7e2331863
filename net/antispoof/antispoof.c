/* SPDX-License-Identifier: MIT */
/* antispoof.c - a card sends as itself, or not at all: parameters, counters, and what is told of a liar. */
#include "net/antispoof/antispoof.h"

#include <stdio.h>

#define TELL_EVERY DT_S(10)

enum { STAMPED = TRICKS };

struct antispoof {
    const char *mac, *ip4, *ip6;
    bool dhcp, stamp;
    struct identity identity;
};

struct antispoof_ctx {
    uint64_t told;
};

static const struct dt_param params[] = {
    {.name = "mac",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED | DT_PARAM_LIVE,
     .offset = offsetof(struct antispoof, mac),
     .unit = "address",
     .help = "The card's MAC address."},
    {.name = "ip4",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct antispoof, ip4),
     .initial = "",
     .unit = "addresses",
     .help = "IPv4 addresses or prefixes that it may use, separated by commas."},
    {.name = "ip6",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct antispoof, ip6),
     .initial = "",
     .unit = "addresses",
     .help = "IPv6 addresses or prefixes that it may use beside the link-local one of its MAC "
             "address."},
    {.name = "dhcp",
     .type = DT_PARAM_BOOL,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct antispoof, dhcp),
     .initial = "on",
     .help = "It may ask for an IPv4 address by DHCP."},
    {.name = "stamp",
     .type = DT_PARAM_BOOL,
     .offset = offsetof(struct antispoof, stamp),
     .initial = "off",
     .help = "Write the card's addresses into what it sends, instead of dropping what has others."},
    {NULL},
};

#define COUNTER(name, help)               \
    {                                     \
        name, "packets", "Dropped: " help \
    }
static const struct dt_counter counters[] = {
    [TRICK_MALFORMED] = COUNTER("malformed", "headers that contradict each other or end too soon."),
    [TRICK_MAC] = COUNTER("mac", "another source MAC address."),
    [TRICK_VLAN] = COUNTER("vlan", "VLAN tags."),
    [TRICK_TYPE] = COUNTER("type", "neither IP nor ARP; to bridges; or LLC and SNAP."),
    [TRICK_ARP] = COUNTER("arp", "ARP or RARP for another address."),
    [TRICK_IP] = COUNTER("ip", "another source IP address."),
    [TRICK_OPTIONS] = COUNTER("options", "source routes, and routing headers."),
    [TRICK_FRAGMENT] = COUNTER("fragment", "ICMPv6 in fragments."),
    [TRICK_DHCP_SERVER] = COUNTER("dhcp-server", "sent as a DHCP or DHCPv6 server."),
    [TRICK_DHCP] = COUNTER("dhcp", "to DHCP servers in another's name, or as a relay."),
    [TRICK_ROUTER] =
        COUNTER("router", "router advertisements, redirects, queries for groups, unknown ICMPv6."),
    [TRICK_NEIGHBOUR] = COUNTER("neighbour", "neighbour discovery that names others."),
    [STAMPED] = {"stamped", "packets", "Had another address, and were given the card's (stamp)."},
    {NULL},
};

/* ---- What it may call itself ---- */

int identity_mac(const char *text, uint8_t mac[6], struct dt_error *err)
{
    unsigned b[6];
    int end = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) !=
            6 ||
        text[end])
        return dt_fail(err, -EINVAL, "mac '%.40s' is no address such as 52:54:00:12:34:56", text);
    if (b[0] & 1)
        return dt_fail(err, -EINVAL, "mac %.40s is a group's address, which no card has", text);
    for (unsigned i = 0; i < 6; i++)
        mac[i] = (uint8_t)b[i];
    return 0;
}

/* The link-local address is fe80:: and the interface identifier of the MAC address (RFC 4291, appendix A). */
void identity_derive(struct identity *id)
{
    const uint8_t *m = id->mac;
    const uint8_t own[16] = {0xfe,     0x80, 0,    0,    0,    0,    0,    0,
                             m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]};

    memcpy(id->link_local, own, 16);
    memcpy(id->mac_ipv4, m, 6);
    id->mac_ipv4[6] = 0x08;
    id->mac_ipv4[7] = 0x00;
}

static int apply(struct dt_layer *layer, struct dt_error *err)
{
    struct antispoof *a = dt_layer_data(layer);
    struct identity id = {.dhcp = a->dhcp};
    int ret = identity_mac(a->mac, id.mac, err);

    ret = ret ?: prefixes_parse(a->ip4, &id.ip4, NULL, err);
    ret = ret ?: prefixes_parse(a->ip6, NULL, &id.ip6, err);
    identity_derive(&id);
    if (ret == 0)
        a->identity = id;
    return ret;
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    const struct antispoof *a = dt_layer_data(layer);

    if (a->stamp)
        dt_layer_takes(layer, DT_OFFLOAD_ALL); /* what it writes to must be here */
    return apply(layer, err);
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    return apply(layer, err);
}

/* ---- Packets ---- */

static void tell(struct dt_ctx *c, enum trick trick)
{
    struct antispoof_ctx *ac = c->data;
    uint64_t now = dt_now(c);

    if (ac->told && now - ac->told < TELL_EVERY)
        return;
    ac->told = now;
    dt_layer_event(c->layer, "spoofed", "%s", counters[trick].help);
}

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    const struct antispoof *a = c->layer_data;
    enum trick trick;

    if (unlikely(a->stamp) && antispoof_stamp(&a->identity, p))
        dt_count(c, STAMPED, 1);
    trick = antispoof_judge(&a->identity, p);
    if (likely(trick == HONEST))
        return DT_ACCEPT;
    tell(c, trick);
    return dt_drop_as(p, trick);
}

const struct dt_net_ext net_antispoof = {
    DT_NET_EXT_HEADER,
    .name = "antispoof",
    .summary =
        "The guest sends under its own addresses, and neither as a router nor as a DHCP server",
    .help =
        "What a guest may send is listed, and everything else is dropped and counted by its kind: "
        "other MAC and IP addresses, VLAN tags, ARP and neighbour discovery for others, DHCP "
        "servers, router advertisements, source routes, bridge protocols, and what is malformed.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct antispoof),
    .ctx_size = sizeof(struct antispoof_ctx),
    .open = open_layer,
    .set = set,
    .tx = tx,
};
