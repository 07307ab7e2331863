/* SPDX-License-Identifier: MIT */
/*
 * net-segment.c - super-frames, cut into what fits on a wire: segments of TCP, datagrams of UDP, fragments of a datagram.
 *
 * Segments are made as RFC 9293 and Linux do: each has the headers of the whole, with its own
 * lengths, identification, sequence number and checksums; FIN and PSH are the last one's alone, CWR is the first's
 * (RFC 3168).
 *
 * Fragments (RFC 791, 8200) share out the datagram with its UDP header, whose checksum is that of the whole and is
 * completed before. Those of IPv4 have the identification that the sender gave the datagram, unless that is none (0, as RFC 6864 lets
 * datagrams have that are not to be fragmented). IPv6 has none until a datagram is fragmented, and the card
 * chooses: numbers that nobody can guess from others (RFC 7739).
 */
#include "core/net.h"

#include "base/bytes.h"
#include <netinet/in.h>
#include <sys/random.h>

/* ---- Segments ---- */

enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 128 };

static void fix_network(const struct dt_headers *h, uint8_t *data, unsigned index)
{
    uint8_t *ip = data + h->l3;

    if (h->flags & DT_HDR_IPV6) {
        store_be16(ip + 4, (uint16_t)(h->end - h->l3 - 40));
        return;
    }
    store_be16(ip + 2, (uint16_t)(h->end - h->l3));
    store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + index));
    store_be16(ip + 10, 0);
    store_be16(ip + 10, (uint16_t)~dt_checksum(ip, (ip[0] & 15u) * 4, 0));
}

static void fix_transport(const struct dt_headers *h, uint8_t *data, uint32_t offset, bool last)
{
    uint8_t *l4 = data + h->l4;

    if (h->protocol == IPPROTO_UDP) {
        store_be16(l4 + 4, (uint16_t)(h->end - h->l4));
    } else {
        store_be32(l4 + 4, load_be32(l4 + 4) + offset);
        if (!last)
            l4[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (offset)
            l4[13] &= (uint8_t)~TCP_CWR;
    }
}

static void fill_segment(struct packet *to, const struct packet *from, unsigned index,
                         uint32_t offset, uint32_t bytes)
{
    const struct dt_headers *whole = &from->pub.headers_;
    struct dt_packet *p = &to->pub;

    memcpy(p->data, from->pub.data, whole->payload);
    memcpy(p->data + whole->payload, from->pub.data + whole->payload + offset, bytes);
    p->queue = from->pub.queue;
    p->when = from->pub.when;
    p->headers_ = *whole;
    p->headers_.end = p->length;
    p->flags = DT_PACKET_PARSED;
    fix_network(&p->headers_, p->data, index);
    fix_transport(&p->headers_, p->data, offset, whole->payload + offset + bytes == whole->end);
    net_complete_checksum(p);
}

/* ---- Fragments ---- */

enum { MORE_FRAGMENTS = 0x2000 };

static uint64_t scatter(uint64_t n)
{
    n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9u;
    n = (n ^ n >> 27) * 0x94d049bb133111ebu;
    return n ^ n >> 31;
}

/* Lanes and processes begin at places of their own. */
static uint32_t next_identification(struct net_lane *net)
{
    if (net->fragmented == 0 &&
        getrandom(&net->fragmented, sizeof(net->fragmented), 0) != sizeof(net->fragmented))
        net->fragmented = dt_clock_ns();
    return (uint32_t)(scatter(net->fragmented++) >> 32);
}

static void fragment_ipv4(uint8_t *ip, uint32_t id, uint32_t offset, uint32_t bytes, bool last)
{
    uint32_t header = (ip[0] & 15u) * 4;

    store_be16(ip + 2, (uint16_t)(header + bytes));
    if (load_be16(ip + 4) == 0)
        store_be16(ip + 4, (uint16_t)(id | 1));
    store_be16(ip + 6, (uint16_t)(offset / 8 | (last ? 0 : MORE_FRAGMENTS)));
    store_be16(ip + 10, 0);
    store_be16(ip + 10, (uint16_t)~dt_checksum(ip, header, 0));
}

static void fragment_ipv6(uint8_t *ip, uint32_t id, uint32_t offset, uint32_t bytes, bool last)
{
    uint8_t *header = ip + 40;

    store_be16(ip + 4, (uint16_t)(NET_FRAGMENT_HEADER + bytes));
    header[0] = ip[6];
    header[1] = 0;
    store_be16(header + 2, (uint16_t)(offset | !last));
    store_be32(header + 4, id);
    ip[6] = IPPROTO_FRAGMENT;
}

static void fill_fragment(struct packet *to, const struct packet *from, uint32_t id,
                          uint32_t offset, uint32_t bytes)
{
    const struct dt_headers *whole = &from->pub.headers_;
    bool last = whole->l4 + offset + bytes == whole->end;
    struct dt_packet *p = &to->pub;

    memcpy(p->data, from->pub.data, whole->l4);
    memcpy(p->data + p->length - bytes, from->pub.data + whole->l4 + offset, bytes);
    p->queue = from->pub.queue;
    p->when = from->pub.when;
    if (whole->flags & DT_HDR_IPV4)
        fragment_ipv4(p->data + whole->l3, id, offset, bytes, last);
    else
        fragment_ipv6(p->data + whole->l3, id, offset, bytes, last);
}

/* ---- Both ---- */

unsigned net_segment(struct lane *lane, struct packet *p,
                     void (*emit)(void *arg, struct dt_packet **segments, unsigned n), void *arg)
{
    const bool fragments = p->pub.needs & DT_OFFLOAD_UFO;
    const uint32_t header = net_cut_header(&p->pub);
    uint32_t total = dt_headers(&p->pub)->end - net_cut_from(&p->pub), offset = 0, id = 0;
    unsigned index = 0, missing = 0, n = 0;
    struct dt_packet *burst[NET_BURST];

    if (fragments) {
        net_complete_checksum(&p->pub);
        id = next_identification(lane->net);
    }
    for (; offset < total; index++) {
        uint32_t bytes = MIN(total - offset, (uint32_t)p->pub.segment);
        struct packet *s = net_packet_new(lane, header + bytes);

        if (s && fragments)
            fill_fragment(s, p, id, offset, bytes);
        else if (s)
            fill_segment(s, p, index, offset, bytes);
        if (s)
            burst[n++] = &s->pub;
        missing += !s;
        offset += bytes;
        if (s && offset == total) {
            s->slot =
                p->slot; /* the guest's descriptor stays outstanding until the last one is gone */
            p->slot = NULL;
        }
        if (n == NET_BURST || (offset == total && n)) {
            emit(arg, burst, n);
            n = 0;
        }
    }
    return missing;
}
