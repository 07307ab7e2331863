/* SPDX-License-Identifier: MIT */
/*
 * icmp.c - ICMP errors, which quote the packet that they are about (RFC 5508, 4), and what the gateway itself has to say.
 *
 * The quoted packet is what was seen on the side that the error comes from, so its headers are translated back too.
 * It may be cut after 8 bytes of its transport, and is judged as any bytes from outside are.
 */
#include "net/nat/internal.h"

#define QUOTE_MOST  548u /* RFC 1812, 4.3.2.3: no error is longer than 576 bytes */
#define ERRORS_MOST 100u /* a second (RFC 1812, 4.3.2.8) */

enum { UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12, ECHO_REQUEST = 8 };

static bool is_error(uint8_t type)
{
    return type == UNREACHABLE || type == TIME_EXCEEDED || type == PARAMETER_PROBLEM;
}

/* Of echoes only requests, and only by who sent them: nothing answers a reply with an error. */
static bool quote_ports(const uint8_t *l4, uint8_t protocol, bool source, struct quoted *q)
{
    switch (protocol) {
    case 6:
    case 17:
        q->protocol = protocol == 6 ? TCP : UDP;
        q->port = load_be16(l4 + (source ? 0 : 2));
        return true;
    case 1:
        q->protocol = ICMP;
        q->port = load_be16(l4 + 4);
        return source && l4[0] == ECHO_REQUEST;
    default:
        return false;
    }
}

bool nat_quoted(struct dt_packet *p, bool source, struct quoted *q)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *icmp = p->data + h->l4, *quoted = icmp + 8;
    uint32_t length = h->end - h->l4, header;

    if (h->flags & DT_HDR_FRAGMENT || length < 8 + 20 || !is_error(icmp[0]) || quoted[0] >> 4 != 4)
        return false;
    header = (quoted[0] & 15u) * 4;
    if (header < 20 || length < 8 + header + 8 || load_be16(quoted + 6) & 0x1fff)
        return false;
    if (dt_checksum(icmp, length, 0) != 0xffff)
        return false;
    q->address = load_be32(quoted + (source ? 12 : 16));
    return quote_ports(quoted + header, quoted[9], source, q);
}

bool nat_answer_echo(struct nat *n, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    struct dt_packet *reply;
    uint8_t *ip, *icmp, to[4], mac[6];

    if (!(h->flags & DT_HDR_ICMP) || h->flags & (DT_HDR_FRAGMENT | DT_HDR_OPTIONS) ||
        p->data[h->l4] != ECHO_REQUEST || h->end - h->l4 < 8)
        return false;
    reply = dt_packet_copy(n->c, p);
    if (!reply)
        return false;
    ip = reply->data + h->l3;
    icmp = reply->data + h->l4;
    memcpy(to, ip + 12, 4); /* source and destination change places: their sum stays */
    memcpy(ip + 12, ip + 16, 4);
    memcpy(ip + 16, to, 4);
    memcpy(mac, reply->data + 6, 6);
    nat_ether(reply, mac, n->inner.mac);
    icmp[0] = 0;
    store_be16(icmp + 2, 0);
    store_be16(icmp + 2, (uint16_t)~dt_checksum(icmp, h->end - h->l4, 0));
    dt_packet_changed(reply);
    dt_receive_one(n->c, reply);
    return true;
}

/* About an error, or a fragment that is not the first, there is none (RFC 1122, 3.2.2). */
static bool may_be_told(struct nat *n, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    if (h->flags & DT_HDR_LATER || (h->flags & DT_HDR_ICMP && is_error(p->data[h->l4])))
        return false;
    if (n->told_second != n->now) {
        n->told_second = n->now;
        n->told = 0;
    }
    return n->told++ < ERRORS_MOST;
}

void nat_tell_expired(struct nat *n, struct dt_packet *p)
{
    static const uint8_t head[] = {8, 0, 0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, 1};
    const struct dt_headers *h = dt_headers(p);
    uint32_t quote = MIN(h->end - h->l3, QUOTE_MOST);
    struct dt_packet *error;
    uint8_t *ip, *icmp;

    if (!may_be_told(n, p) || !(error = dt_packet_new(n->c, 14 + 28 + quote)))
        return;
    ip = error->data + 14;
    icmp = ip + 20;
    memset(error->data, 0, 14 + 28);
    nat_ether(error, p->data + 6, n->inner.mac);
    memcpy(error->data + 12, head, sizeof(head));
    store_be16(ip + 2, (uint16_t)(28 + quote));
    store_be32(ip + 12, n->inner.address);
    memcpy(ip + 16, p->data + h->l3 + 12, 4);
    store_be16(ip + 10, (uint16_t)~dt_checksum(ip, 20, 0));
    icmp[0] = TIME_EXCEEDED;
    memcpy(icmp + 8, p->data + h->l3, quote);
    store_be16(icmp + 2, (uint16_t)~dt_checksum(icmp, 8 + quote, 0));
    dt_receive_one(n->c, error);
}
