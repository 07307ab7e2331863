/* SPDX-License-Identifier: MIT */
/*
 * net-offload.c - what guests leave to their card: checksums. For super-frames see net-segment.c.
 *
 * Checksums are computed from nothing but the packet (RFC 1071); what the sender had put into the field is
 * not used.
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

void net_complete_checksum(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    store_be16(checksum_field(h, p->data), transport_checksum(h, p->data));
    p->needs &= (uint8_t)~DT_OFFLOAD_CSUM;
}
