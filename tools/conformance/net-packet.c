/* SPDX-License-Identifier: MIT */
/* net-packet.c - random packets: what guests send, what they should not, and super-frames. */
#include "tools/conformance/net.h"

#include "base/bytes.h"
#include <netinet/in.h>

enum { ETHER = 14, TCP_BYTES = 20, UDP_BYTES = 8 };

static void fill(struct dt_rng *rng, uint8_t *to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        to[i] = (uint8_t)dt_rng_next(rng);
}

static void put_addresses(struct dt_rng *rng, uint8_t *p, uint16_t type)
{
    static const uint8_t guest[] = {0x52, 0x54, 0, 0, 0, 1}, peer[] = {0x52, 0x54, 0, 0, 0, 2};

    memcpy(p, peer, 6);
    memcpy(p + 6, guest, 6);
    if (dt_rng_below(rng, 8) == 0)
        memset(p, 0xff, 6);
    store_be16(p + 12, type);
}

/* A network header of either version for @bytes behind it; its length. Few hosts, so that flows go on. */
static uint32_t put_network(struct dt_rng *rng, uint8_t *p, bool v6, uint8_t protocol,
                            uint32_t bytes)
{
    uint8_t host = (uint8_t)dt_rng_below(rng, 4);

    memset(p, 0, 40);
    if (v6) {
        p[0] = 0x60;
        store_be16(p + 4, (uint16_t)bytes);
        p[6] = protocol;
        p[7] = 64;
        p[8] = p[24] = 0xfd;
        p[23] = 1;
        p[39] = (uint8_t)(2 + host);
        return 40;
    }
    p[0] = 0x45;
    store_be16(p + 2, (uint16_t)(20 + bytes));
    p[8] = 64;
    p[9] = protocol;
    p[12] = p[16] = 10;
    p[15] = 1;
    p[19] = (uint8_t)(2 + host);
    store_be16(p + 10, (uint16_t)~dt_checksum(p, 20, 0));
    return 20;
}

static void complete(uint8_t *frame, uint32_t length)
{
    struct dt_packet p = {.data = frame, .length = length, .needs = DT_OFFLOAD_CSUM};

    net_complete_checksum(&p);
}

static uint8_t super_kind(bool v6, bool tcp, bool fragments)
{
    if (tcp)
        return v6 ? DT_OFFLOAD_TSO6 : DT_OFFLOAD_TSO4;
    if (fragments)
        return v6 ? DT_OFFLOAD_UFO6 : DT_OFFLOAD_UFO4;
    return v6 ? DT_OFFLOAD_USO6 : DT_OFFLOAD_USO4;
}

/* TCP or UDP, with or without what may be left to the card. */
static uint32_t transport(struct dt_rng *rng, uint8_t *to, uint8_t *needs, uint16_t *segment)
{
    bool v6 = dt_rng_below(rng, 2), tcp = dt_rng_below(rng, 2), super = dt_rng_below(rng, 4) == 0;
    uint32_t header = tcp ? TCP_BYTES : UDP_BYTES;
    uint32_t payload =
        super ? 3000 + (uint32_t)dt_rng_below(rng, 5000) : (uint32_t)dt_rng_below(rng, 1400);
    uint32_t at = ETHER;

    put_addresses(rng, to, v6 ? 0x86dd : 0x0800);
    at += put_network(rng, to + at, v6, tcp ? IPPROTO_TCP : IPPROTO_UDP, header + payload);
    fill(rng, to + at, header + payload);
    to[at] = to[at + 2] = 4; /* ports of a few flows */
    to[at + 1] = to[at + 3] = (uint8_t)dt_rng_below(rng, 4);
    if (tcp) {
        to[at + 12] = 0x50;
        to[at + 13] = 0x10;
    } else {
        store_be16(to + at + 4, (uint16_t)(header + payload));
    }
    at += header + payload;
    complete(to, at);
    if (super) {
        *segment = 1000;
        *needs = DT_OFFLOAD_CSUM | super_kind(v6, tcp, dt_rng_below(rng, 2));
    } else if (dt_rng_below(rng, 2)) {
        *needs = DT_OFFLOAD_CSUM;
    }
    return at;
}

static uint32_t arp(struct dt_rng *rng, uint8_t *to)
{
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4, 0, 1};

    put_addresses(rng, to, 0x0806);
    memcpy(to + ETHER, head, sizeof(head));
    fill(rng, to + ETHER + sizeof(head), 20);
    return 60;
}

uint32_t random_packet(struct dt_rng *rng, uint8_t *to, uint8_t *needs, uint16_t *segment)
{
    uint32_t n;

    *needs = 0;
    *segment = 0;
    switch (dt_rng_below(rng, 8)) {
    case 0:
        memset(to, 0, 60);
        return arp(rng, to);
    case 1: /* whatever it is */
        n = ETHER + (uint32_t)dt_rng_below(rng, 1500);
        fill(rng, to, n);
        return n;
    case 2: /* cut off within its headers */
        n = transport(rng, to, needs, segment);
        *needs = 0;
        return MIN(n, ETHER + (uint32_t)dt_rng_below(rng, 60));
    default:
        return transport(rng, to, needs, segment);
    }
}

bool packet_is_right(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    if (h->flags & DT_HDR_IPV4 && !(h->flags & DT_HDR_BROKEN) &&
        dt_checksum(p->data + h->l3, (p->data[h->l3] & 15u) * 4, 0) != 0xffff)
        return false;
    if (!(h->flags & (DT_HDR_TCP | DT_HDR_UDP)) ||
        h->flags & (DT_HDR_FRAGMENT | DT_HDR_OPTIONS | DT_HDR_BROKEN))
        return true;
    return load_be16(p->data + h->l4 + (h->flags & DT_HDR_TCP ? 16 : 6)) ==
           dt_transport_checksum(p);
}
