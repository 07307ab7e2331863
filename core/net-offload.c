/* SPDX-License-Identifier: MIT */
/*
 * net-offload.c - what guests leave to their card: checksums, and super-frames cut into segments.
 *
 * Checksums are computed from nothing but the packet (RFC 1071); what the sender had put into the field is
 * not used. Segments are made as RFC 9293 and Linux do: each has the headers of the whole, with its own
 * lengths, identification, sequence number and checksums; FIN and PSH are the last one's alone, CWR is the first's
 * (RFC 3168).
 */
#include "core/net.h"

#include "base/bytes.h"
#include <netinet/in.h>

/* Sums of 32-bit words in a 64-bit accumulator cannot overflow within a packet; ones' complement does
 * not mind the byte order (RFC 1071, 2.B), so words are summed as they lie in memory. */
uint16_t dt_checksum(const void *data, uint32_t length, uint16_t sum)
{
    const uint8_t *p = data;
    uint64_t acc = __builtin_bswap16(sum);
    uint32_t w[4];

    for (; length >= 16; length -= 16, p += 16) {
        memcpy(w, p, 16);
        acc += (uint64_t)w[0] + w[1] + w[2] + w[3];
    }
    for (; length >= 2; length -= 2, p += 2) {
        uint16_t half;

        memcpy(&half, p, 2);
        acc += half;
    }
    if (length)
        acc += *p;
    acc = (acc & 0xffffffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    return __builtin_bswap16((uint16_t)acc);
}

static uint16_t add16(uint16_t a, uint16_t b)
{
    uint32_t sum = (uint32_t)a + b;

    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

uint16_t net_pseudo_sum(const struct dt_headers *h, const uint8_t *data)
{
    const uint8_t *ip = data + h->l3;
    uint16_t sum = h->flags & DT_HDR_IPV4 ? dt_checksum(ip + 12, 8, 0) : dt_checksum(ip + 8, 32, 0);

    sum = add16(sum, h->protocol);
    return add16(sum, (uint16_t)(h->end - h->l4));
}

static uint8_t *checksum_field(const struct dt_headers *h, uint8_t *data)
{
    return data + h->l4 + (h->protocol == IPPROTO_TCP ? 16 : 6);
}

/* The field counts as zero: its complement takes it out of the sum again. */
static uint16_t transport_checksum(const struct dt_headers *h, uint8_t *data)
{
    uint16_t there = load_be16(checksum_field(h, data)), sum;

    sum = dt_checksum(data + h->l4, h->end - h->l4, net_pseudo_sum(h, data));
    sum = (uint16_t)~add16(sum, (uint16_t)~there);
    return sum == 0 && h->protocol == IPPROTO_UDP ? 0xffff : sum;
}

uint16_t dt_transport_checksum(struct dt_packet *p)
{
    return transport_checksum(dt_headers(p), p->data);
}

static void set_transport_checksum(const struct dt_headers *h, uint8_t *data)
{
    store_be16(checksum_field(h, data), transport_checksum(h, data));
}

void net_complete_checksum(struct dt_packet *p)
{
    set_transport_checksum(dt_headers(p), p->data);
    p->needs &= (uint8_t)~DT_OFFLOAD_CSUM;
}

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
    set_transport_checksum(h, data);
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
}

unsigned net_segment(struct lane *lane, struct packet *p,
                     void (*emit)(void *arg, struct dt_packet **segments, unsigned n), void *arg)
{
    const struct dt_headers *h = dt_headers(&p->pub);
    uint32_t total = h->end - h->payload, offset = 0;
    unsigned index = 0, missing = 0, n = 0;
    struct dt_packet *burst[NET_BURST];

    for (; offset < total; index++) {
        uint32_t bytes = MIN(total - offset, (uint32_t)p->pub.segment);
        struct packet *s = net_packet_new(lane, h->payload + bytes);

        if (s) {
            fill_segment(s, p, index, offset, bytes);
            burst[n++] = &s->pub;
        }
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
