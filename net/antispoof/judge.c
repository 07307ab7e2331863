/* SPDX-License-Identifier: MIT */
/*
 * judge.c - is a packet what this card may send?
 *
 * Theory of operation: what is permitted is listed, and everything else is a trick. The headers come from
 * dt_headers(), so a contradiction anywhere in them ends the judgement at once. Then each protocol by which a
 * host tells others who it is (Ethernet, ARP, IPv4, IPv6, neighbour discovery) must tell the truth, and
 * those by which it would lead others (DHCP servers, routers, bridges) are not a guest's to speak.
 *
 * Sources: RFC 2827 and 6620 (source addresses), 5227 (ARP probes), 4861, 4862 and 6980 (neighbour discovery, duplicate
 * addresses, no fragments), 6105 (router advertisements), 7610 (DHCPv6 servers), 5095 (routing header 0). A DHCP server is
 * known by either port: clients look at that of the destination alone.
 */
#include "net/antispoof/antispoof.h"

#include "base/bytes.h"
#include <netinet/in.h>

enum { DHCP_SERVER = 67, DHCP_CLIENT = 68, DHCP6_CLIENT = 546, DHCP6_SERVER = 547 };
enum {
    MLD_REPORT = 131,
    MLD_DONE = 132,
    ROUTER_SOLICITATION = 133,
    NEIGHBOUR_SOLICITATION = 135,
    NEIGHBOUR_ADVERTISEMENT = 136,
    MLD2_REPORT = 143,
};
enum { ICMP_REDIRECT = 5, ICMP_ROUTER_ADVERTISEMENT = 9 };
enum { IGMP_REPORT = 0x12, IGMP2_REPORT = 0x16, IGMP2_LEAVE = 0x17, IGMP3_REPORT = 0x22 };

static bool all_zero(const uint8_t *p, unsigned n)
{
    while (n > 0)
        if (p[--n])
            return false;
    return true;
}

/* ---- ARP and RARP ---- */

static enum trick judge_arp(const struct identity *id, const uint8_t *arp)
{
    unsigned operation = load_be16(arp + 6);
    const uint8_t *hardware = arp + 8, *address = arp + 14;

    if (memcmp(hardware, id->mac, 6) != 0)
        return TRICK_ARP;
    if (operation == 1 && all_zero(address, 4)) /* is it taken? */
        return HONEST;
    return (operation == 1 || operation == 2) && prefixes_contain(&id->ip4, address) ? HONEST
                                                                                     : TRICK_ARP;
}

/* "Here I am", as VMMs send it for a guest that has moved. */
static enum trick judge_rarp(const struct identity *id, const uint8_t *arp, uint32_t length)
{
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4, 0, 3};

    return length >= 28 && memcmp(arp, head, sizeof(head)) == 0 &&
                   memcmp(arp + 8, id->mac, 6) == 0 && memcmp(arp + 18, id->mac, 6) == 0
               ? HONEST
               : TRICK_ARP;
}

/* ---- IPv4 ---- */

/* A router that honours a source route would answer for addresses that are not the guest's. */
static bool source_routed(const uint8_t *ip)
{
    unsigned end = (ip[0] & 15u) * 4, at = 20;

    while (at < end && ip[at] != 0) {
        if (ip[at] == 131 || ip[at] == 137)
            return true;
        if (ip[at] == 1) {
            at++;
            continue;
        }
        if (at + 1 >= end || ip[at + 1] < 2)
            return true; /* nobody can tell what follows */
        at += ip[at + 1];
    }
    return false;
}

static bool is_dhcp_request(const struct identity *id, const struct dt_headers *h,
                            const uint8_t *data)
{
    const uint8_t *ip = data + h->l3, *udp = data + h->l4;
    static const uint8_t everybody[4] = {255, 255, 255, 255};

    return id->dhcp && h->flags & DT_HDR_UDP && !(h->flags & DT_HDR_FRAGMENT) &&
           load_be16(udp) == DHCP_CLIENT && load_be16(udp + 2) == DHCP_SERVER &&
           memcmp(ip + 16, everybody, 4) == 0;
}

static bool from_port(const struct dt_headers *h, const uint8_t *data, unsigned port)
{
    return load_be16(data + h->l4) == port;
}

static bool to_port(const struct dt_headers *h, const uint8_t *data, unsigned port)
{
    return load_be16(data + h->l4 + 2) == port;
}

/* Its options may lie behind what was peeked at; no client's message is so long that it comes in fragments. */
static enum trick judge_dhcp(const struct identity *id, struct dt_packet *p, unsigned version)
{
    const struct dt_headers *h = dt_headers(p);

    if (p->needs & DT_OFFLOAD_FETCH)
        dt_packet_fetch(p);
    return !(h->flags & DT_HDR_FRAGMENT) &&
                   antispoof_dhcp(id, version, p->data + h->payload, h->end - h->payload)
               ? HONEST
               : TRICK_DHCP;
}

/* Redirects and router advertisements (RFC 792, 1256). */
static bool icmp_leads(uint8_t type)
{
    return type == ICMP_REDIRECT || type == ICMP_ROUTER_ADVERTISEMENT;
}

/* What a host says of groups (RFC 1112, 2236, 3376); who asks is taken for the router that all of them go to (RFC 4541). */
static bool igmp_is_hosts(uint8_t type)
{
    return type == IGMP_REPORT || type == IGMP2_REPORT || type == IGMP2_LEAVE ||
           type == IGMP3_REPORT;
}

static bool leads_others(const struct dt_headers *h, const uint8_t *data)
{
    if (h->flags & DT_HDR_ICMP)
        return icmp_leads(data[h->l4]);
    return h->protocol == IPPROTO_IGMP && !(h->flags & DT_HDR_LATER) &&
           (h->end <= h->l4 || !igmp_is_hosts(data[h->l4]));
}

static enum trick judge_ipv4(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *data = p->data, *ip = data + h->l3;
    bool udp = h->flags & DT_HDR_UDP;

    if (h->flags & DT_HDR_OPTIONS && source_routed(ip))
        return TRICK_OPTIONS;
    if (udp && (from_port(h, data, DHCP_SERVER) || to_port(h, data, DHCP_CLIENT)))
        return TRICK_DHCP_SERVER;
    if (!prefixes_contain(&id->ip4, ip + 12) &&
        !(all_zero(ip + 12, 4) && is_dhcp_request(id, h, data)))
        return TRICK_IP;
    if (leads_others(h, data))
        return TRICK_ROUTER;
    return udp && to_port(h, data, DHCP_SERVER) ? judge_dhcp(id, p, 4) : HONEST;
}

/* ---- IPv6 ---- */

static bool owns6(const struct identity *id, const uint8_t *address)
{
    return memcmp(id->link_local, address, 16) == 0 || prefixes_contain(&id->ip6, address);
}

/* Options that name a link-layer address must name ours; with @none there may be none. */
static bool honest_options(const struct identity *id, const uint8_t *at, const uint8_t *end,
                           bool none)
{
    while (at < end) {
        unsigned n = end - at >= 2 ? at[1] * 8u : 0;

        if (n == 0 || n > (size_t)(end - at))
            return false;
        if (at[0] == 1 || at[0] == 2) /* source, target link-layer address */
            if (none || n != 8 || memcmp(at + 2, id->mac, 6) != 0)
                return false;
        at += n;
    }
    return true;
}

static enum trick judge_neighbour(const struct identity *id, const struct dt_headers *h,
                                  const uint8_t *data)
{
    const uint8_t *ip = data + h->l3, *icmp = data + h->l4, *end = data + h->end;
    uint8_t type = icmp[0];
    unsigned fixed = type == ROUTER_SOLICITATION ? 8 : 24;
    bool nobody = all_zero(ip + 8, 16);

    if (ip[7] != 255 || icmp[1] != 0 || end - icmp < (ptrdiff_t)fixed)
        return TRICK_NEIGHBOUR;
    if (!honest_options(id, icmp + fixed, end, nobody))
        return TRICK_NEIGHBOUR;
    if (type == NEIGHBOUR_ADVERTISEMENT && (nobody || !owns6(id, icmp + 8)))
        return TRICK_NEIGHBOUR;
    return HONEST;
}

static enum trick judge_icmp6(const struct identity *id, const struct dt_headers *h,
                              const uint8_t *data)
{
    uint8_t type = data[h->l4];

    switch (type) {
    case 1:
    case 2:
    case 3:
    case 4: /* errors */
    case 128:
    case 129: /* echo */
    case MLD_REPORT:
    case MLD_DONE:
    case MLD2_REPORT:
        return HONEST;
    case ROUTER_SOLICITATION:
    case NEIGHBOUR_SOLICITATION:
    case NEIGHBOUR_ADVERTISEMENT:
        return judge_neighbour(id, h, data);
    default: /* advertisements and redirects, queries, and what nobody knows */
        return TRICK_ROUTER;
    }
}

/* From nobody in particular: is the address taken, and what do I listen to? */
static bool may_be_nameless(const struct dt_headers *h, const uint8_t *data)
{
    uint8_t type = h->flags & DT_HDR_ICMP6 ? data[h->l4] : 0;

    return type == NEIGHBOUR_SOLICITATION || type == MLD2_REPORT || type == MLD_REPORT ||
           type == ROUTER_SOLICITATION;
}

static bool has_routing_header(const struct dt_headers *h, const uint8_t *data)
{
    const uint8_t *at = data + h->l3 + 40;
    uint8_t next = data[h->l3 + 6];
    const uint8_t *end = data + (h->l4 ? h->l4 : h->payload);

    while (at < end) { /* dt_headers() has seen that all are whole */
        unsigned n = next == IPPROTO_FRAGMENT ? 8
                     : next == IPPROTO_AH     ? (at[1] + 2u) * 4
                                              : (at[1] + 1u) * 8;

        if (next == IPPROTO_ROUTING)
            return true;
        next = at[0];
        at += n;
    }
    return false;
}

static enum trick judge_ipv6(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *data = p->data, *ip = data + h->l3;
    bool udp = h->flags & DT_HDR_UDP;

    if (h->flags & DT_HDR_OPTIONS && has_routing_header(h, data))
        return TRICK_OPTIONS;
    if (h->protocol == IPPROTO_ICMPV6 && h->flags & DT_HDR_FRAGMENT)
        return TRICK_FRAGMENT;
    if (udp && (from_port(h, data, DHCP6_SERVER) || to_port(h, data, DHCP6_CLIENT)))
        return TRICK_DHCP_SERVER;
    if (!owns6(id, ip + 8) && !(all_zero(ip + 8, 16) && may_be_nameless(h, data)))
        return TRICK_IP;
    if (udp && to_port(h, data, DHCP6_SERVER))
        return judge_dhcp(id, p, 6);
    return h->flags & DT_HDR_ICMP6 ? judge_icmp6(id, h, data) : HONEST;
}

/* ---- Ethernet ---- */

/* Bridges, PAUSE, LLDP: addresses that no bridge forwards (IEEE 802.1Q, table 8-1). */
static bool for_bridges(const uint8_t *to)
{
    static const uint8_t reserved[5] = {0x01, 0x80, 0xc2, 0, 0};

    return memcmp(to, reserved, 5) == 0;
}

enum trick antispoof_judge_all(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    if (memcmp(p->data + 6, id->mac, 6) != 0)
        return TRICK_MAC;
    if (h->vlans)
        return TRICK_VLAN;
    if (h->flags & DT_HDR_LLC || for_bridges(p->data))
        return TRICK_TYPE;
    if (h->flags & DT_HDR_BROKEN)
        return TRICK_MALFORMED;
    switch (h->type) {
    case 0x0800:
        return judge_ipv4(id, p);
    case 0x86dd:
        return judge_ipv6(id, p);
    case 0x0806:
        return judge_arp(id, p->data + h->l3);
    case 0x8035:
        return judge_rarp(id, p->data + h->l3, p->length - h->l3);
    default:
        return TRICK_TYPE;
    }
}

/* DHCP's, of either side? */
static bool is_dhcp_port(const uint8_t *port)
{
    unsigned number = load_be16(port);

    return number == DHCP_SERVER || number == DHCP_CLIENT;
}

/*
 * Nearly all packets are whole TCP, UDP or ICMP over IPv4, without tags or options and not of DHCP: of those no more has to be true than
 * whose they are. All others are judged at length.
 */
static inline bool plainly_honest(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *data = p->data;
    unsigned transport = h->flags & (DT_HDR_TCP | DT_HDR_UDP | DT_HDR_ICMP);

    if (h->flags != (DT_HDR_IPV4 | transport) || !transport ||
        memcmp(data + 6, id->mac_ipv4, sizeof(id->mac_ipv4)) != 0 || for_bridges(data))
        return false;
    if (transport == DT_HDR_UDP && (is_dhcp_port(data + h->l4) || is_dhcp_port(data + h->l4 + 2)))
        return false;
    if (transport == DT_HDR_ICMP && icmp_leads(data[h->l4]))
        return false;
    return prefixes_contain(&id->ip4, data + h->l3 + 12);
}

enum trick antispoof_judge(const struct identity *id, struct dt_packet *p)
{
    return likely(plainly_honest(id, p)) ? HONEST : antispoof_judge_all(id, p);
}
