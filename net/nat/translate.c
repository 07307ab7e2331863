/* SPDX-License-Identifier: MIT */
/*
 * translate.c - each packet, from the guests to the wire and back.
 *
 * Theory of operation: this is a router with a network of guests on one side, and one address on the other. Only what is
 * addressed to it as a frame is its business. It judges before it translates, and looks for the next hop before it makes a
 * mapping, so a packet that goes nowhere leaves nothing behind. What is not translated is dropped and counted: nothing leaves
 * under an inner address.
 *
 * A mapping's age is that of the guest's last packet, or of the first answer (RFC 4787, 4.3): who is outside cannot keep
 * one alive. TCP is followed by its flags (RFC 5382, 5): answered when the guest acknowledged an answer, closing after a reset or both FINs;
 * payload from the guest after that says that it is open all the same (another connection, or a forged reset).
 */
#include "net/nat/internal.h"

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
enum { ECHO_REPLY = 0, ECHO_REQUEST = 8 };
#define REFUSE(why) dt_drop_as(p, why)

/** struct port - of one end of a packet; found by port_of(). */
struct port {
    enum protocol protocol;
    uint16_t number;
};

/* The port of the source, or the destination. False: it has none. */
static bool port_of(struct dt_packet *p, bool source, struct port *port)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *l4 = p->data + h->l4;

    if (h->flags & (DT_HDR_TCP | DT_HDR_UDP)) {
        *port = (struct port){h->flags & DT_HDR_TCP ? TCP : UDP, load_be16(l4 + (source ? 0 : 2))};
        return true;
    }
    if (!(h->flags & DT_HDR_ICMP) || h->end - h->l4 < 8)
        return false;
    *port = (struct port){ICMP, load_be16(l4 + 4)};
    return l4[0] == (source ? ECHO_REQUEST : ECHO_REPLY);
}

static bool is_unicast(uint32_t address)
{
    uint32_t first = address >> 24;

    return first != 0 && first != 127 && first < 224;
}

static void prepare(struct nat *n)
{
    n->now = (uint32_t)(dt_now(n->c) / DT_S(1));
    nat_expire(n);
}

/* ---- The state of a mapping ---- */

static void follow_tcp(struct nat *n, struct mapping *m, struct dt_packet *p, bool out)
{
    const struct dt_headers *h = dt_headers(p);
    uint8_t flags = p->data[h->l4 + 13];

    if (out && flags & SYN)
        m->flags &= (uint8_t) ~(FIN_OUT | FIN_IN);
    if (flags & FIN)
        m->flags |= out ? FIN_OUT : FIN_IN;
    if (!out && flags & ACK && !(flags & RST))
        m->flags |= REPLIED;
    if (flags & RST || (flags & FIN && m->flags & FIN_OUT && m->flags & FIN_IN)) {
        nat_set_class(n, m, CLOSING);
    } else if (!out || flags & SYN) {
        return; /* the guest alone opens */
    } else if (m->class == FRESH && m->flags & REPLIED && flags & ACK) {
        nat_set_class(n, m, ANSWERED);
    } else if (m->class == CLOSING && h->end > h->payload) {
        m->flags &= (uint8_t) ~(FIN_OUT | FIN_IN);
        nat_set_class(n, m, ANSWERED);
    }
}

static void follow(struct nat *n, struct mapping *m, struct dt_packet *p, bool out)
{
    if (out)
        nat_use(n, m);
    if (m->protocol == TCP)
        follow_tcp(n, m, p, out);
    else if (!out)
        nat_set_class(n, m, ANSWERED);
}

/* ---- To a guest: from the wire, or from another guest ---- */

static enum dt_net_verdict to_guest(struct nat *n, struct dt_packet *p, uint32_t inner,
                                    uint16_t port)
{
    const uint8_t *mac = nat_resolve(n, &n->inner, inner);

    if (!mac)
        return REFUSE(UNRESOLVED);
    nat_rewrite(p, false, inner, port);
    nat_ether(p, mac, n->inner.mac);
    return DT_ACCEPT;
}

static enum dt_net_verdict error_in(struct nat *n, struct dt_packet *p)
{
    const struct mapping *m;
    const uint8_t *mac;
    struct quoted q;

    if (!nat_quoted(p, true, &q) || q.address != n->outer.address)
        return REFUSE(UNKNOWN);
    m = nat_find_outer(n, q.protocol, q.port);
    if (!m)
        return REFUSE(q.port < n->low || q.port > n->high ? OTHERS : UNSOLICITED);
    mac = nat_resolve(n, &n->inner, m->inner);
    if (!mac)
        return REFUSE(UNRESOLVED);
    nat_rewrite_error(p, true, m->inner, m->port);
    nat_ether(p, mac, n->inner.mac);
    dt_count(n->c, ERRORS, 1);
    return DT_ACCEPT;
}

static enum dt_net_verdict later_in(struct nat *n, struct dt_packet *p)
{
    const struct fragment *f = nat_fragment_later(n, p, DT_RX);

    return f ? to_guest(n, p, f->inner, 0) : REFUSE(EARLY);
}

static enum dt_net_verdict translate_in(struct nat *n, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    struct mapping *m;
    struct port port;

    if (h->flags & DT_HDR_LATER)
        return later_in(n, p);
    if (!port_of(p, false, &port))
        return h->flags & DT_HDR_ICMP ? error_in(n, p) : REFUSE(UNKNOWN);
    m = nat_find_outer(n, port.protocol, port.number);
    if (!m)
        return REFUSE(port.number < n->low || port.number > n->high ? OTHERS : UNSOLICITED);
    follow(n, m, p, false);
    if (h->flags & DT_HDR_FRAGMENT)
        nat_fragment_first(n, p, DT_RX, m->inner);
    return to_guest(n, p, m->inner, m->port);
}

/* ---- From a guest ---- */

static enum dt_net_verdict error_out(struct nat *n, struct dt_packet *p, const uint8_t *hop)
{
    const uint8_t *ip = p->data + dt_headers(p)->l3;
    const struct mapping *m;
    struct quoted q;

    if (!nat_quoted(p, false, &q) || q.address != load_be32(ip + 12))
        return REFUSE(UNKNOWN);
    m = nat_find(n, q.protocol, q.address, q.port);
    if (!m)
        return REFUSE(UNKNOWN);
    nat_rewrite_error(p, false, n->outer.address, m->outer);
    nat_ether(p, hop, n->outer.mac);
    dt_count(n->c, ERRORS, 1);
    return DT_ACCEPT;
}

static enum dt_net_verdict later_out(struct nat *n, struct dt_packet *p, const uint8_t *hop)
{
    const struct fragment *f = nat_fragment_later(n, p, DT_TX);

    if (!f)
        return REFUSE(EARLY);
    nat_rewrite(p, true, n->outer.address, 0);
    nat_rewrite_id(p, f->new_id);
    nat_ether(p, hop, n->outer.mac);
    return DT_ACCEPT;
}

/* To our own outer address: to another guest of ours, who sees the sender as the wire would (RFC 4787, 6). The packet is
 * copied, for the guest's descriptor belongs to the one that it sent. */
static enum dt_net_verdict hairpin(struct nat *n, struct dt_packet *p, const struct mapping *from)
{
    struct dt_packet *copy = dt_packet_copy(n->c, p);
    enum dt_net_verdict verdict;

    if (!copy)
        return REFUSE(MEMORY);
    nat_rewrite(copy, true, n->outer.address, from->outer);
    verdict = translate_in(n, copy);
    if (verdict == DT_ACCEPT)
        dt_receive_one(n->c, copy);
    else
        dt_drop_one(n->c, copy, copy->reason);
    return REFUSE(HAIRPIN);
}

static enum dt_net_verdict first_out(struct nat *n, struct dt_packet *p, const uint8_t *hop)
{
    const struct dt_headers *h = dt_headers(p);
    uint32_t inner = load_be32(p->data + h->l3 + 12);
    const struct fragment *f;
    struct mapping *m;
    struct port port;

    if (!port_of(p, true, &port))
        return h->flags & DT_HDR_ICMP && hop ? error_out(n, p, hop) : REFUSE(UNKNOWN);
    m = nat_find(n, port.protocol, inner, port.number)
            ?: nat_make(n, port.protocol, inner, port.number);
    if (!m)
        return REFUSE(REFUSED);
    follow(n, m, p, true);
    if (!hop)
        return h->flags & DT_HDR_FRAGMENT ? REFUSE(UNKNOWN) : hairpin(n, p, m);
    f = h->flags & DT_HDR_FRAGMENT ? nat_fragment_first(n, p, DT_TX, inner) : NULL;
    nat_rewrite(p, true, n->outer.address, m->outer);
    if (f)
        nat_rewrite_id(p, f->new_id);
    else if (p->needs & DT_OFFLOAD_UFO) /* its fragments are made of it below */
        nat_rewrite_id(p, n->next_id++);
    nat_ether(p, hop, n->outer.mac);
    return DT_ACCEPT;
}

static enum dt_net_verdict translate_out(struct nat *n, struct dt_packet *p, uint32_t to)
{
    const uint8_t *hop = NULL;

    if (to != n->outer.address) {
        hop = nat_next_hop(n, to);
        if (!hop)
            return REFUSE(UNRESOLVED);
    }
    if (!(dt_headers(p)->flags & DT_HDR_LATER))
        return first_out(n, p, hop);
    return hop ? later_out(n, p, hop) : REFUSE(UNKNOWN);
}

/* ---- What comes ---- */

/* What is no IPv4 packet for this router: DT_HOLD = it is one. */
static enum dt_net_verdict judge(struct nat *n, struct side *from, struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    if (h->flags & DT_HDR_BROKEN)
        return REFUSE(MALFORMED);
    if (h->vlans)
        return REFUSE(FOREIGN);
    if (h->type == 0x86dd) {
        if (n->ipv6 == IPV6_PASS)
            return DT_ACCEPT;
        return REFUSE(DROPPED_IPV6);
    }
    if (h->flags & DT_HDR_ARP) {
        nat_arp(n, from, p);
        return REFUSE(ARP);
    }
    if (!(h->flags & DT_HDR_IPV4))
        return REFUSE(UNKNOWN);
    if (memcmp(p->data, from->mac, 6) != 0 && memcmp(p->data, from->told, 6) != 0)
        return REFUSE(FOREIGN);
    return DT_HOLD;
}

enum dt_net_verdict nat_tx(struct dt_ctx *c, struct dt_packet *p)
{
    struct nat *n = c->layer_data;
    enum dt_net_verdict verdict;
    uint32_t from, to;
    uint8_t *ip;

    prepare(n);
    verdict = judge(n, &n->inner, p);
    if (verdict != DT_HOLD)
        return verdict;
    ip = p->data + dt_headers(p)->l3;
    from = load_be32(ip + 12);
    to = load_be32(ip + 16);
    if (!nat_within(&n->inner, from) || from == n->inner.address || !is_unicast(from))
        return REFUSE(FOREIGN);
    if (to == n->inner.address)
        return REFUSE(nat_answer_echo(n, p) ? ECHO : UNKNOWN);
    if (nat_within(&n->inner, to) || !is_unicast(to))
        return REFUSE(FOREIGN);
    if (ip[8] <= 1) {
        nat_tell_expired(n, p);
        return REFUSE(TTL);
    }
    verdict = translate_out(n, p, to);
    if (verdict == DT_ACCEPT)
        nat_age_packet(p);
    return verdict;
}

enum dt_net_verdict nat_rx(struct dt_ctx *c, struct dt_packet *p)
{
    struct nat *n = c->layer_data;
    enum dt_net_verdict verdict;
    uint32_t from;
    uint8_t *ip;

    prepare(n);
    verdict = judge(n, &n->outer, p);
    if (verdict != DT_HOLD)
        return verdict;
    ip = p->data + dt_headers(p)->l3;
    from = load_be32(ip + 12);
    if (load_be32(ip + 16) != n->outer.address || from == n->outer.address ||
        nat_within(&n->inner, from) || !is_unicast(from))
        return REFUSE(FOREIGN);
    if (ip[8] <= 1)
        return REFUSE(TTL);
    verdict = translate_in(n, p);
    if (verdict == DT_ACCEPT)
        nat_age_packet(p);
    return verdict;
}
