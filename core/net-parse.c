/* SPDX-License-Identifier: MIT */
/*
 * net-parse.c - where the headers of a packet are.
 *
 * Theory of operation: one pass, from the outside in, over bytes that may be anything. An offset is noted
 * only when the header there is whole and agrees with the one around it; at the first contradiction
 * the walk ends, DT_HDR_BROKEN is set, and what lies below stays unknown. So nobody who reads a header
 * that was found has to check its length again, and a filter that drops what it does not know drops it.
 *
 * Sources: IEEE 802.1Q (tags), RFC 826 (ARP), 791 (IPv4), 8200 (IPv6 and its extension headers), 9293
 * (TCP), 768 (UDP), 792 and 4443 (ICMP).
 */
#include "core/net.h"

#include "base/bytes.h"
#include <netinet/in.h>

#define MAX_TAGS       4u
#define MAX_EXTENSIONS 8u

struct walk {
    struct dt_headers *h;
    const uint8_t *data;
    uint32_t length;
    uint32_t at;
};

static bool has(const struct walk *w, uint32_t n)
{
    return w->length - w->at >= n;
}

static void broken(struct walk *w)
{
    w->h->flags |= DT_HDR_BROKEN;
}

static void found(struct walk *w, uint16_t kind, uint32_t bytes)
{
    w->h->flags |= kind;
    w->h->payload = (uint16_t)(w->at + bytes);
}

/* From here on @length is where the IP packet ends. */
static void parse_transport(struct walk *w, uint8_t protocol)
{
    const uint8_t *p = w->data + w->at;
    struct dt_headers *h = w->h;

    h->protocol = protocol;
    if (h->flags & DT_HDR_LATER) {
        h->payload = (uint16_t)w->at;
        return;
    }
    switch (protocol) {
    case IPPROTO_TCP:
        if (!has(w, 20) || p[12] >> 4 < 5 || !has(w, (uint32_t)(p[12] >> 4) * 4))
            return broken(w);
        found(w, DT_HDR_TCP, (uint32_t)(p[12] >> 4) * 4);
        break;
    case IPPROTO_UDP:
        if (!has(w, 8) || load_be16(p + 4) < 8 ||
            (!(h->flags & DT_HDR_FRAGMENT) && !has(w, load_be16(p + 4))))
            return broken(w);
        found(w, DT_HDR_UDP, 8);
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        if (!has(w, 4))
            return broken(w);
        found(w, protocol == IPPROTO_ICMP ? DT_HDR_ICMP : DT_HDR_ICMP6, 4);
        break;
    default:
        break;
    }
    h->l4 = (uint16_t)w->at;
}

static void parse_ipv4(struct walk *w)
{
    const uint8_t *p = w->data + w->at;
    struct dt_headers *h = w->h;
    uint32_t header, total;
    uint16_t fragment;

    if (!has(w, 20))
        return broken(w);
    header = (p[0] & 15u) * 4;
    total = load_be16(p + 2);
    if (p[0] >> 4 != 4 || header < 20 || total < header || !has(w, total))
        return broken(w);
    fragment = load_be16(p + 6);
    h->flags |= DT_HDR_IPV4 | (header > 20 ? DT_HDR_OPTIONS : 0) |
                (fragment & 0x3fff ? DT_HDR_FRAGMENT : 0) | (fragment & 0x1fff ? DT_HDR_LATER : 0);
    h->end = w->length = w->at + total;
    w->at += header;
    parse_transport(w, p[9]);
}

static bool is_extension(uint8_t next)
{
    return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
           next == IPPROTO_FRAGMENT || next == IPPROTO_AH || next == IPPROTO_MH || next == 139 ||
           next == 140; /* HIP, Shim6 */
}

/* Returns the length of the extension header there, 0 if it is not whole. */
static uint32_t extension_length(const struct walk *w, uint8_t kind)
{
    const uint8_t *p = w->data + w->at;
    uint32_t n;

    if (!has(w, 8))
        return 0;
    n = kind == IPPROTO_FRAGMENT ? 8 : kind == IPPROTO_AH ? (p[1] + 2u) * 4 : (p[1] + 1u) * 8;
    return has(w, n) ? n : 0;
}

static void parse_ipv6(struct walk *w)
{
    const uint8_t *p = w->data + w->at;
    struct dt_headers *h = w->h;
    uint8_t next;

    if (!has(w, 40) || p[0] >> 4 != 6)
        return broken(w);
    w->at += 40;
    if (!has(w, load_be16(p + 4)))
        return broken(w);
    h->flags |= DT_HDR_IPV6;
    h->end = w->length = w->at + load_be16(p + 4);
    next = p[6];
    for (unsigned i = 0; is_extension(next); i++) {
        uint32_t n = extension_length(w, next);

        if (n == 0 || i == MAX_EXTENSIONS)
            return broken(w);
        p = w->data + w->at;
        h->flags |= DT_HDR_OPTIONS;
        if (next == IPPROTO_FRAGMENT)
            h->flags |= DT_HDR_FRAGMENT | (load_be16(p + 2) & 0xfff8 ? DT_HDR_LATER : 0);
        next = p[0];
        w->at += n;
        if (h->flags & DT_HDR_LATER)
            break; /* what follows is the middle of something */
    }
    parse_transport(w, next);
}

static void parse_arp(struct walk *w)
{
    static const uint8_t ipv4_over_ethernet[] = {0, 1, 8, 0, 6, 4};

    if (!has(w, 28) || memcmp(w->data + w->at, ipv4_over_ethernet, sizeof(ipv4_over_ethernet)))
        return broken(w);
    w->h->flags |= DT_HDR_ARP;
    w->h->end = w->at + 28;
}

static bool is_tag(uint16_t type)
{
    return type == 0x8100 || type == 0x88a8 || type == 0x9100;
}

void net_parse_walk(struct dt_headers *h, const uint8_t *data, uint32_t length)
{
    struct walk w = {.h = h, .data = data, .length = length, .at = 14};
    uint16_t type;

    *h = (struct dt_headers){0};
    if (length < 14)
        return broken(&w);
    type = load_be16(data + 12);
    while (is_tag(type)) {
        if (!has(&w, 4) || h->vlans == MAX_TAGS)
            return broken(&w);
        if (h->vlans < 2)
            h->vlan[h->vlans] = load_be16(data + w.at);
        h->vlans++;
        type = load_be16(data + w.at + 2);
        w.at += 4;
    }
    h->l3 = (uint16_t)w.at;
    if (type < 0x600) {
        h->flags |= DT_HDR_LLC;
        return;
    }
    h->type = type;
    if (type == 0x0800)
        parse_ipv4(&w);
    else if (type == 0x86dd)
        parse_ipv6(&w);
    else if (type == 0x0806)
        parse_arp(&w);
}

/*
 * Nearly all packets are whole TCP or UDP over IPv4 without tags and options: their headers are where they always are. Of all
 * others, and of what contradicts itself, the walk has to tell.
 */
static inline bool parse_plain(struct dt_headers *h, const uint8_t *data, uint32_t length)
{
    enum { L3 = 14, L4 = L3 + 20 };
    const uint8_t *ip = data + L3, *l4 = data + L4;
    uint32_t total, header;

    if (length < L4 + 8 || load_be16(data + 12) != 0x0800 || ip[0] != 0x45 ||
        load_be16(ip + 6) & 0x3fff)
        return false;
    total = load_be16(ip + 2);
    if (total > length - L3 || total < 20 + 8)
        return false;
    if (ip[9] == IPPROTO_UDP) {
        header = load_be16(l4 + 4);
        if (header < 8 || header > total - 20)
            return false;
        header = 8;
    } else {
        if (ip[9] != IPPROTO_TCP || total < 20 + 20)
            return false;
        header = (uint32_t)(l4[12] >> 4) * 4;
        if (header < 20 || header > total - 20)
            return false;
    }
    *h = (struct dt_headers){
        .flags = (uint16_t)(DT_HDR_IPV4 | (ip[9] == IPPROTO_UDP ? DT_HDR_UDP : DT_HDR_TCP)),
        .type = 0x0800,
        .protocol = ip[9],
        .l3 = L3,
        .l4 = L4,
        .payload = (uint16_t)(L4 + header),
        .end = L3 + total};
    return true;
}

void dt_parse(struct dt_headers *h, const uint8_t *data, uint32_t length)
{
    if (unlikely(!parse_plain(h, data, length)))
        net_parse_walk(h, data, length);
}

/* ---- What follows from the headers ---- */

unsigned dt_packet_segments(struct dt_packet *p)
{
    if (!(p->needs & DT_OFFLOAD_SUPER))
        return 1;
    return (dt_headers(p)->end - net_cut_from(p) + p->segment - 1) / p->segment;
}

uint64_t dt_packet_wire_bytes(struct dt_packet *p)
{
    if (!(p->needs & DT_OFFLOAD_SUPER))
        return p->length;
    return dt_headers(p)->end - net_cut_from(p) +
           (uint64_t)dt_packet_segments(p) * net_cut_header(p);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Sum and difference of both ends: the same whichever of them sends. */
static uint64_t mix_pair(uint64_t h, uint64_t a, uint64_t b)
{
    return mix(mix(h, a + b), a ^ b);
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

uint32_t dt_packet_flow(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *ip = p->data + h->l3, *l4 = p->data + h->l4;
    uint64_t hash = h->protocol;

    if (h->flags & DT_HDR_IPV4) {
        hash = mix_pair(hash, load_be32(ip + 12), load_be32(ip + 16));
    } else if (h->flags & DT_HDR_IPV6) {
        hash = mix_pair(hash, load64(ip + 8), load64(ip + 24));
        hash = mix_pair(hash, load64(ip + 16), load64(ip + 32));
    } else {
        hash = mix_pair(hash, load64(p->data) << 16, load64(p->data + 4) >> 16 << 16);
    }
    if (dt_packet_has_ports(p, h))
        hash = mix_pair(hash, load_be16(l4), load_be16(l4 + 2));
    return (uint32_t)(hash ^ hash >> 32);
}
