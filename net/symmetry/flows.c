/* SPDX-License-Identifier: MIT */
/*
 * flows.c - whose packet it is.
 *
 * A flow is addresses, protocol and ports; a pair is the guest's address and the other host's. Both are known
 * by a keyed hash of these, the same in both directions. Fragments have no ports, the first one either, so that
 * all of a packet are one flow. An ARP packet speaks for the IPv4 addresses within, so a reply answers a request.
 *
 * Every packet counts for its flow, its pair and the card at once. So when a flow is forgotten its pair has its
 * counts already; what remains to be handed up is how far the penalty had grown.
 */
#include "net/symmetry/internal.h"

#include "base/bytes.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- Identity ---- */

/** struct ends - where both addresses are in a packet as it stands. */
struct ends {
    const uint8_t *from, *to;
    uint32_t bytes;
};

static struct ends ends_of(const struct dt_packet *p, const struct dt_headers *h)
{
    const uint8_t *l3 = p->data + h->l3;

    if (h->flags & DT_HDR_IPV4)
        return (struct ends){l3 + 12, l3 + 16, 4};
    if (h->flags & DT_HDR_IPV6)
        return (struct ends){l3 + 8, l3 + 24, 16};
    if (h->flags & DT_HDR_ARP)
        return (struct ends){l3 + 14, l3 + 24, 4};
    return (struct ends){p->data + 6, p->data, 6};
}

/* Of a length that is known: no call. */
static inline void copy_address(uint8_t to[16], const uint8_t *from, uint32_t bytes)
{
    if (bytes == 4)
        memcpy(to, from, 4);
    else if (bytes == 16)
        memcpy(to, from, 16);
    else
        memcpy(to, from, 6);
}

static void identify(const struct symmetry *s, const struct dt_packet *p,
                     const struct dt_headers *h, enum dt_direction way, struct ident *id)
{
    struct ends ends = ends_of(p, h);
    const uint8_t *local = way == DT_TX ? ends.from : ends.to;
    const uint8_t *remote = way == DT_TX ? ends.to : ends.from;
    uint64_t seed = s->seed ^ (uint64_t)(h->vlan[0] & 0xfff) << 48 ^ (uint64_t)ends.bytes << 40;
    uint8_t both[32] = {0};
    struct {
        uint64_t pair;
        uint8_t ports[4];
        uint32_t protocol;
    } flow = {.protocol = (uint32_t)h->type << 16 | h->protocol};

    copy_address(both, local, ends.bytes);
    copy_address(both + 16, remote, ends.bytes);
    flow.pair = id->pair = XXH3_64bits_withSeed(both, sizeof(both), seed);
    if (h->flags & (DT_HDR_TCP | DT_HDR_UDP) && !(h->flags & DT_HDR_FRAGMENT)) {
        const uint8_t *ports = p->data + h->l4;

        memcpy(flow.ports, way == DT_TX ? ports : ports + 2, 2);
        memcpy(flow.ports + 2, way == DT_TX ? ports + 2 : ports, 2);
    }
    id->flow = XXH3_64bits_withSeed(&flow, sizeof(flow), s->seed);
    id->remote = h->flags & (DT_HDR_IP | DT_HDR_ARP) ? remote : NULL;
    id->v6 = h->flags & DT_HDR_IPV6;
}

/* Of the kind that has all its ends in a row: TCP or UDP over IPv4, and nothing in between. */
static inline bool in_a_row(const struct dt_headers *h)
{
    const unsigned kinds = DT_HDR_IPV4 | DT_HDR_TCP | DT_HDR_UDP | DT_HDR_FRAGMENT | DT_HDR_OPTIONS;
    unsigned kind = h->flags & kinds;

    return (kind == (DT_HDR_IPV4 | DT_HDR_TCP) || kind == (DT_HDR_IPV4 | DT_HDR_UDP)) && !h->vlans;
}

/* Packets come in trains: one with the same ends as that before it is the same flow's. */
void sym_identify(struct symmetry *s, struct dt_packet *p, enum dt_direction way, struct ident *id)
{
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *ends = p->data + h->l3 + 12;
    struct train *t = &s->trains[way];

    if (!in_a_row(h)) {
        identify(s, p, h, way, id);
        return;
    }
    if (likely(t->protocol == h->protocol && memcmp(t->ends, ends, sizeof(t->ends)) == 0)) {
        *id = (struct ident){t->flow, t->pair, way == DT_TX ? ends + 4 : ends, false};
        return;
    }
    identify(s, p, h, way, id);
    memcpy(t->ends, ends, sizeof(t->ends));
    t->protocol = h->protocol;
    t->flow = id->flow;
    t->pair = id->pair;
}

bool sym_exempt(const struct symmetry *s, const struct ident *id)
{
    const struct prefixes *list = id->v6 ? &s->exempt6 : &s->exempt4;

    return id->remote && list->n && prefixes_contain(list, id->remote);
}

/* ---- Entities ---- */

/* The oldest of which nothing waits; those that wait are few, and are not old for that. */
static uint32_t oldest_free(struct table *t)
{
    for (;;) {
        const struct entity *e = table_at(t, t->oldest);

        if (!e->wait)
            return t->oldest;
        table_touch(t, t->oldest);
    }
}

static void hand_up(struct entity *to, const struct entity *from)
{
    to->n = MAX(to->n, from->n);
}

static void forget_flow(struct symmetry *s)
{
    uint32_t oldest = oldest_free(&s->flows);
    const struct flow *f = table_at(&s->flows, oldest);

    if (f->pair && s->tick - f->e.tick < WINDOW_PARTS) {
        struct entity *pair = table_at(&s->pairs, f->pair);

        if ((uint16_t)pair->node.key == f->pair_tag)
            hand_up(pair, &f->e);
    }
    table_remove(&s->flows, oldest);
    dt_count(s->c, FLOWS_FORGOTTEN, 1);
}

static void forget_pair(struct symmetry *s)
{
    uint32_t oldest = oldest_free(&s->pairs);
    const struct entity *pair = table_at(&s->pairs, oldest);

    if (s->tick - pair->tick < WINDOW_PARTS)
        hand_up(&s->card, pair);
    table_remove(&s->pairs, oldest);
    dt_count(s->c, PAIRS_FORGOTTEN, 1);
}

static struct entity *come(struct symmetry *s, struct table *t, uint32_t entry)
{
    struct entity *e = table_at(t, entry);

    if (e->tick != s->tick) { /* ages are told apart in ticks: most packets move nothing */
        sym_advance(s, e);
        table_touch(t, entry);
    }
    return e;
}

static uint32_t find_pair(struct symmetry *s, uint64_t hash)
{
    uint32_t entry = table_find(&s->pairs, hash);

    if (!entry) {
        if (table_full(&s->pairs))
            forget_pair(s);
        entry = table_add(&s->pairs, hash);
    }
    return entry;
}

void sym_find(struct symmetry *s, const struct ident *id, struct levels *levels)
{
    struct flow *f;

    /* Nothing was forgotten since: only what follows does that. */
    if (s->last.flow && id->flow == s->last_flow && id->pair == s->last_pair &&
        s->tick == s->last_tick) {
        *levels = s->last;
        return;
    }
    levels->flow = table_find(&s->flows, id->flow);
    if (!levels->flow) {
        if (table_full(&s->flows))
            forget_flow(s);
        levels->flow = table_add(&s->flows, id->flow);
    }
    levels->pair = find_pair(s, id->pair);
    f = table_at(&s->flows, levels->flow);
    f->pair = levels->pair;
    f->pair_tag = (uint16_t)(id->pair >> 32);
    levels->e[FLOW] = come(s, &s->flows, levels->flow);
    levels->e[PAIR] = come(s, &s->pairs, levels->pair);
    levels->e[CARD] = &s->card;
    sym_advance(s, &s->card);
    s->last = *levels;
    s->last_flow = id->flow;
    s->last_pair = id->pair;
    s->last_tick = s->tick;
}

void sym_flow_levels(struct symmetry *s, const struct wait *w, struct levels *levels)
{
    levels->flow = w->flow;
    levels->pair = w->pair;
    levels->e[FLOW] = come(s, &s->flows, w->flow);
    levels->e[PAIR] = come(s, &s->pairs, w->pair);
    levels->e[CARD] = &s->card;
    sym_advance(s, &s->card);
}

/* ---- TCP: one acknowledgement speaks for many segments ------------------------------------------------- */

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static const uint8_t *tcp_of(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    return h->flags & DT_HDR_TCP && !(h->flags & DT_HDR_FRAGMENT) ? p->data + h->l4 : NULL;
}

/* Only what was not sent before is waited for: who repeats himself earns nothing by it. */
uint32_t sym_sent(struct flow *flow, struct dt_packet *p)
{
    uint32_t segments = dt_packet_segments(p), first, end;
    const struct dt_headers *h = dt_headers(p);
    const uint8_t *tcp = tcp_of(p);

    if (!tcp)
        return segments;
    first = load_be32(tcp + 4);
    end = first + (h->end - h->payload) + !!(tcp[13] & SYN) + !!(tcp[13] & FIN);
    if (!flow->unacked)
        flow->una = flow->nxt = first;
    if ((int32_t)(end - flow->nxt) > 0) {
        flow->nxt = end;
        flow->unacked = (uint16_t)MIN(flow->unacked + segments, (uint32_t)UINT16_MAX);
    }
    return segments;
}

uint32_t sym_received(struct flow *flow, struct dt_packet *p)
{
    uint32_t segments = dt_packet_segments(p), outstanding = flow->nxt - flow->una, acked, credit;
    const uint8_t *tcp = tcp_of(p);

    if (!tcp || !flow->unacked || (tcp[13] & (ACK | RST)) != ACK)
        return segments;
    acked = load_be32(tcp + 8) - flow->una;
    if (acked == 0 || acked > outstanding)
        return segments;
    credit = (uint32_t)(((uint64_t)flow->unacked * acked + outstanding - 1) / outstanding);
    flow->una += acked;
    flow->unacked = (uint16_t)(flow->unacked - credit);
    return MAX(segments, credit);
}
