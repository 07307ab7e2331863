/* SPDX-License-Identifier: MIT */
/*
 * stamp.c - the card's own addresses in what it sends.
 *
 * Theory of operation: only what names a sender is written, and only where there is one truth: a card with a prefix, or several
 * addresses of a version of IP, has none, so those are judged as they came. An address that says that there is none yet
 * (0.0.0.0 and ::, of DHCP, probes and duplicate address detection) stays, for another would say something else. All of it is judged
 * afterwards by judge.c, which so needs to know nothing of this.
 */
#include "net/antispoof/antispoof.h"

#include "base/checksum.h"
#include <netinet/in.h>

enum { ROUTER_SOLICITATION = 133, NEIGHBOUR_SOLICITATION = 135, NEIGHBOUR_ADVERTISEMENT = 136 };

/* The one address of @n bytes, or NULL. */
static const uint8_t *sole(const struct prefixes *list, unsigned n)
{
    return list->n == 1 && list->list[0].bits == n * 8 ? list->list[0].bytes : NULL;
}

static bool write_bytes(uint8_t *at, const uint8_t *bytes, unsigned n)
{
    bool other = memcmp(at, bytes, n) != 0;

    memcpy(at, bytes, n);
    return other;
}

/* The transport's checksum covers the addresses, too; a partial one is made by who completes it. */
static void follow(struct dt_packet *p, uint32_t difference)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t *l4 = p->data + h->l4;

    if (p->needs & DT_OFFLOAD_CSUM)
        return;
    if (h->flags & DT_HDR_TCP)
        checksum_adjust(l4 + 16, difference);
    else if (h->flags & DT_HDR_UDP)
        checksum_adjust_udp(l4 + 6, difference);
    else if (h->flags & DT_HDR_ICMP6)
        checksum_adjust(l4 + 2, difference);
}

static bool stamp_arp(const struct identity *id, uint8_t *arp)
{
    static const uint8_t nobody[4];
    const uint8_t *own = sole(&id->ip4, 4);
    bool changed = write_bytes(arp + 8, id->mac, 6);

    if (own && memcmp(arp + 14, nobody, 4) != 0)
        changed |= write_bytes(arp + 14, own, 4);
    return changed;
}

static bool stamp_ipv4(const struct identity *id, struct dt_packet *p)
{
    uint8_t *ip = p->data + dt_headers(p)->l3, *source = ip + 12;
    const uint8_t *own = sole(&id->ip4, 4);
    uint32_t difference;

    if (!own || load_be32(source) == 0 || memcmp(source, own, 4) == 0)
        return false;
    difference = checksum_replace(source, own, 4);
    checksum_adjust(ip + 10, difference);
    follow(p, difference);
    return true;
}

/* Options of neighbour discovery that name the sender's link-layer address; malformed ones are the judge's. */
static bool stamp_neighbour(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t *icmp = p->data + h->l4, *end = p->data + h->end;
    bool changed = false;

    if (icmp[0] != ROUTER_SOLICITATION && icmp[0] != NEIGHBOUR_SOLICITATION &&
        icmp[0] != NEIGHBOUR_ADVERTISEMENT)
        return false;
    for (uint8_t *at = icmp + (icmp[0] == ROUTER_SOLICITATION ? 8 : 24);
         end - at >= 8 && at[1] && at[1] * 8 <= end - at; at += at[1] * 8) {
        if ((at[0] != 1 && at[0] != 2) || at[1] != 1 || memcmp(at + 2, id->mac, 6) == 0)
            continue;
        follow(p, checksum_replace(at + 2, id->mac, 6));
        changed = true;
    }
    return changed;
}

static const uint8_t *own_ipv6(const struct identity *id, const uint8_t *source)
{
    static const uint8_t nobody[16];

    if (memcmp(source, nobody, 16) == 0)
        return NULL;
    return source[0] == 0xfe && (source[1] & 0xc0) == 0x80 ? id->link_local : sole(&id->ip6, 16);
}

static bool stamp_ipv6(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t *source = p->data + h->l3 + 8;
    const uint8_t *own = prefixes_contain(&id->ip6, source) ? NULL : own_ipv6(id, source);
    bool changed = own && memcmp(source, own, 16) != 0;

    if (changed)
        follow(p, checksum_replace(source, own, 16));
    if (h->flags & DT_HDR_ICMP6 && !(h->flags & DT_HDR_FRAGMENT))
        changed |= stamp_neighbour(id, p);
    return changed;
}

bool antispoof_stamp(const struct identity *id, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    bool changed = write_bytes(p->data + 6, id->mac, 6);

    if (h->flags & DT_HDR_BROKEN || h->vlans)
        return changed;
    if (h->flags & DT_HDR_ARP)
        changed |= stamp_arp(id, p->data + h->l3);
    else if (h->flags & DT_HDR_IPV4)
        changed |= stamp_ipv4(id, p);
    else if (h->flags & DT_HDR_IPV6)
        changed |= stamp_ipv6(id, p);
    return changed;
}
