/* SPDX-License-Identifier: MIT */
/*
 * rewrite.c - other addresses and ports in a packet, with checksums that follow.
 *
 * Checksums are not made anew but follow (base/checksum.h). A partial one is whoever's who completes it.
 */
#include "net/nat/internal.h"

#include "base/checksum.h"

void nat_rewrite(struct dt_packet *p, bool source, uint32_t address, uint16_t port)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t *ip = p->data + h->l3, *l4 = p->data + h->l4;
    uint32_t difference = checksum_replace32(ip + (source ? 12 : 16), address);

    checksum_adjust(ip + 10, difference);
    if (h->flags & DT_HDR_ICMP) {
        checksum_adjust(l4 + 2,
                        checksum_replace16(l4 + 4, port)); /* its checksum has no pseudo header */
    } else if (h->flags & (DT_HDR_TCP | DT_HDR_UDP)) {
        difference += checksum_replace16(l4 + (source ? 0 : 2), port);
        if (p->needs & DT_OFFLOAD_CSUM)
            return;
        if (h->flags & DT_HDR_TCP)
            checksum_adjust(l4 + 16, difference);
        else
            checksum_adjust_udp(l4 + 6, difference);
    }
}

void nat_rewrite_id(struct dt_packet *p, uint16_t id)
{
    uint8_t *ip = p->data + dt_headers(p)->l3;

    checksum_adjust(ip + 10, checksum_replace16(ip + 4, id));
}

void nat_age_packet(struct dt_packet *p)
{
    uint8_t *ip = p->data + dt_headers(p)->l3;

    checksum_adjust(ip + 10, checksum_replace16(ip + 8, (uint16_t)(load_be16(ip + 8) - 0x100)));
}

void nat_ether(struct dt_packet *p, const uint8_t to[6], const uint8_t from[6])
{
    memcpy(p->data, to, 6);
    memcpy(p->data + 6, from, 6);
}

/* ---- The head of a packet, within an error ---- */

/* Of the transport at least 8 bytes are there (RFC 792), of TCP seldom the checksum. */
static void rewrite_quoted_port(uint8_t *l4, const uint8_t *end, uint8_t protocol, bool source,
                                uint16_t port, uint32_t difference)
{
    if (protocol == 1) {
        checksum_adjust(l4 + 2, checksum_replace16(l4 + 4, port));
        return;
    }
    difference += checksum_replace16(l4 + (source ? 0 : 2), port);
    if (protocol == 17)
        checksum_adjust_udp(l4 + 6, difference);
    else if (end - l4 >= 18)
        checksum_adjust(l4 + 16, difference);
}

void nat_rewrite_error(struct dt_packet *p, bool source, uint32_t address, uint16_t port)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t *ip = p->data + h->l3, *icmp = p->data + h->l4, *quoted = icmp + 8;
    const uint8_t *end = p->data + h->end;
    uint32_t difference = checksum_replace32(quoted + (source ? 12 : 16), address);

    checksum_adjust(quoted + 10, difference);
    rewrite_quoted_port(quoted + (quoted[0] & 15) * 4, end, quoted[9], source, port, difference);
    store_be16(icmp + 2, 0);
    store_be16(icmp + 2, (uint16_t)~dt_checksum(icmp, (uint32_t)(end - icmp), 0));
    /* An error about a packet from the guest comes to it, one about a packet to it goes from it. */
    checksum_adjust(ip + 10, checksum_replace32(ip + (source ? 16 : 12), address));
}
