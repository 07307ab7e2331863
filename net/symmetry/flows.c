/* SPDX-License-Identifier: MIT */
/*
 * flows.c - whose packet it is.
 *
 * A flow is addresses, protocol and ports; a pair is the guest's address and the other host's. Both are known
 * by a keyed hash of these, the same in both directions. Fragments have no ports, the first one either, so that
 * all of a packet are one flow. An ARP packet speaks for the IPv4 addresses within, so a reply answers a request.
 *
 * Packets come in trains: one with the same ends as that before it is the same flow's, and nothing is looked up for it. Where a burst
 * is of several, all are hashed first and the memory of their flows and pairs is asked for, so that it comes while others are looked up.
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
                     const struct dt_headers *h, enum dt_direction way, struct run *run)
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
    flow.pair = run->pair = XXH3_64bits_withSeed(both, sizeof(both), seed);
    if (dt_packet_has_ports(p, h)) {
        const uint8_t *ports = p->data + h->l4;

        memcpy(flow.ports, way == DT_TX ? ports : ports + 2, 2);
        memcpy(flow.ports + 2, way == DT_TX ? ports + 2 : ports, 2);
    }
    run->flow = XXH3_64bits_withSeed(&flow, sizeof(flow), s->seed);
}

unsigned sym_other(struct dt_packet *p, enum dt_direction way, const uint8_t **address)
{
    const struct dt_headers *h = dt_headers(p);
    struct ends ends = ends_of(p, h);

    *address = way == DT_TX ? ends.to : ends.from;
    return h->flags & (DT_HDR_IP | DT_HDR_ARP) ? ends.bytes : 0;
}

static bool is_exempt(const struct symmetry *s, struct dt_packet *p, enum dt_direction way)
{
    const uint8_t *other;
    unsigned bytes;

    if (likely(s->exempt4.n == 0 && s->exempt6.n == 0))
        return false;
    bytes = sym_other(p, way, &other);
    return bytes && prefixes_contain(bytes == 16 ? &s->exempt6 : &s->exempt4, other);
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

/* That @to is symmetric ends the penalty, too: it is to be looked at again. */
static void hand_up(struct entity *to, const struct entity *from)
{
    to->n = MAX(to->n, from->n);
    to->slack = 0;
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
    s->forgotten++;
    dt_count(s->c, FLOWS_FORGOTTEN, 1);
}

static void forget_pair(struct symmetry *s)
{
    uint32_t oldest = oldest_free(&s->pairs);
    const struct entity *pair = table_at(&s->pairs, oldest);

    if (s->tick - pair->tick < WINDOW_PARTS)
        hand_up(&s->card, pair);
    table_remove(&s->pairs, oldest);
    s->forgotten++;
    dt_count(s->c, PAIRS_FORGOTTEN, 1);
}

static struct entity *come(struct symmetry *s, struct table *t, uint32_t entry)
{
    struct entity *e = table_at(t, entry);

    if (e->tick != s->tick) { /* ages are told apart in ticks: most packets move nothing */
        sym_advance(s, e);
        table_touch(t, entry);
    } else if (unlikely(s->tick == s->changed)) {
        e->slack = 0; /* it may be that of another threshold */
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

static void find(struct symmetry *s, struct train *t)
{
    struct levels *levels = &t->levels;
    struct flow *f;

    levels->flow = table_find(&s->flows, t->flow);
    if (!levels->flow) {
        if (table_full(&s->flows))
            forget_flow(s);
        levels->flow = table_add(&s->flows, t->flow);
    }
    f = table_at(&s->flows, levels->flow);
    levels->pair =
        f->pair && table_is(&s->pairs, f->pair, t->pair) ? f->pair : find_pair(s, t->pair);
    f->pair = levels->pair;
    f->pair_tag = (uint16_t)(t->pair >> 32);
    levels->e[FLOW] = come(s, &s->flows, levels->flow);
    levels->e[PAIR] = come(s, &s->pairs, levels->pair);
    levels->e[CARD] = &s->card;
    t->tick = s->tick;
    t->forgotten = s->forgotten;
}

void sym_flow_levels(struct symmetry *s, const struct wait *w, struct levels *levels)
{
    levels->flow = w->flow;
    levels->pair = w->pair;
    levels->e[FLOW] = come(s, &s->flows, w->flow);
    levels->e[PAIR] = come(s, &s->pairs, w->pair);
    levels->e[CARD] = &s->card;
}

/* ---- Trains ---- */

/* Bytes of addresses and ports, and where they are in the network header. */
enum { IN_A_ROW4 = 12, ENDS4 = 12, IN_A_ROW6 = 36, ENDS6 = 8 };

/* Of the kind that has its addresses and ports in a row, with nothing in between: how many bytes. Else 0. */
static inline unsigned in_a_row(const struct dt_packet *p, const struct dt_headers *h)
{
    unsigned below = h->flags & ~(unsigned)(DT_HDR_TCP | DT_HDR_UDP);

    if (unlikely(below == h->flags || h->vlans || p->needs & DT_OFFLOAD_UFO))
        return 0;
    return below == DT_HDR_IPV4 ? IN_A_ROW4 : below == DT_HDR_IPV6 ? IN_A_ROW6 : 0;
}

/** struct row - what has the same ends has the same @bytes at @ends. */
struct row {
    const uint8_t *ends;
    unsigned bytes, protocol;
};

static inline struct row row_of(const struct dt_packet *p, const struct dt_headers *h)
{
    unsigned bytes = in_a_row(p, h);

    return (struct row){p->data + h->l3 + (bytes == IN_A_ROW6 ? ENDS6 : ENDS4), bytes, h->protocol};
}

static inline bool same_ends(const struct row *a, const struct row *b)
{
    if (unlikely(a->bytes != b->bytes || a->protocol != b->protocol))
        return false;
    if (likely(a->bytes == IN_A_ROW4))
        return memcmp(a->ends, b->ends, IN_A_ROW4) == 0;
    return a->bytes && memcmp(a->ends, b->ends, IN_A_ROW6) == 0;
}

/* The lines of entries are known when those of the heads are there, and those that hang on an entry when that is. */
static void ask_for(const struct symmetry *s, const struct run *runs, unsigned n)
{
    uint32_t flows[SYM_BATCH];

    for (unsigned i = 0; i < n; i++) {
        flows[i] = 0;
        if (runs[i].goes_on)
            continue;
        flows[i] = table_ask_entry(&s->flows, runs[i].flow);
        table_ask_entry(&s->pairs, runs[i].pair);
    }
    for (unsigned i = 0; i < n; i++)
        if (flows[i])
            table_ask_neighbours(&s->flows, flows[i]);
}

unsigned sym_runs(struct symmetry *s, struct dt_packet **packets, unsigned n, enum dt_direction way,
                  struct run *runs)
{
    const struct train *t = &s->trains[way];
    struct row last = {t->ends, t->bytes, t->protocol};
    unsigned count = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct dt_headers *h = dt_headers(packets[i]);
        struct row row = row_of(packets[i], h);
        bool same = same_ends(&last, &row);
        struct run *run = &runs[count];

        if (same && count) {
            runs[count - 1].n++;
            continue;
        }
        last = row;
        run->n = 1;
        run->goes_on = same;
        if (!same) {
            identify(s, packets[i], h, way, run);
            table_ask(&s->flows, run->flow);
            table_ask(&s->pairs, run->pair);
        }
        count++;
    }
    if (count > 1)
        ask_for(s, runs, count);
    return count;
}

static void begin_train(struct symmetry *s, struct train *t, const struct run *run,
                        struct dt_packet *p, enum dt_direction way)
{
    struct row row = row_of(p, dt_headers(p));

    t->flow = run->flow;
    t->pair = run->pair;
    t->exempt = is_exempt(s, p, way);
    t->bytes = (uint8_t)row.bytes;
    t->protocol = (uint8_t)row.protocol;
    if (likely(row.bytes == IN_A_ROW4))
        memcpy(t->ends, row.ends, IN_A_ROW4);
    else if (row.bytes)
        memcpy(t->ends, row.ends, IN_A_ROW6);
}

const struct train *sym_whose(struct symmetry *s, const struct run *run, struct dt_packet *p,
                              enum dt_direction way)
{
    struct train *t = &s->trains[way];

    if (!run->goes_on)
        begin_train(s, t, run, p, way);
    if ((!run->goes_on || t->tick != s->tick || t->forgotten != s->forgotten) && !t->exempt)
        find(s, t);
    return t;
}

/* ---- TCP: one acknowledgement speaks for many segments ------------------------------------------------- */

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

static const uint8_t *tcp_of(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    return h->flags & DT_HDR_TCP && !(h->flags & DT_HDR_FRAGMENT) ? p->data + h->l4 : NULL;
}

static inline uint32_t segments_of(struct dt_packet *p)
{
    return p->needs & DT_OFFLOAD_SUPER ? dt_packet_segments(p) : 1;
}

uint32_t sym_segments(struct dt_packet **packets, unsigned n)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += segments_of(packets[i]);
    return sum;
}

/* Only what was not sent before is waited for: who repeats himself earns nothing by it. */
static void note_sent(struct flow *flow, struct dt_packet *p, const uint8_t *tcp)
{
    const struct dt_headers *h = dt_headers(p);
    uint32_t first = load_be32(tcp + 4);
    uint32_t end = first + (h->end - h->payload) + !!(tcp[13] & SYN) + !!(tcp[13] & FIN);

    if (!flow->unacked)
        flow->una = flow->nxt = first;
    if ((int32_t)(end - flow->nxt) > 0) {
        flow->nxt = end;
        flow->unacked = (uint16_t)MIN(flow->unacked + segments_of(p), (uint32_t)UINT16_MAX);
    }
}

void sym_sent(struct flow *flow, struct dt_packet **packets, unsigned n)
{
    const uint8_t *tcp = tcp_of(packets[0]);

    for (unsigned i = 0; tcp && i < n; i++)
        note_sent(flow, packets[i], tcp_of(packets[i]));
}

/* How many segments does it acknowledge that were not before? */
static uint32_t acknowledged(struct flow *flow, const uint8_t *tcp)
{
    uint32_t outstanding = flow->nxt - flow->una, acked, credit;

    if (!flow->unacked || (tcp[13] & (ACK | RST)) != ACK)
        return 0;
    acked = load_be32(tcp + 8) - flow->una;
    if (acked == 0 || acked > outstanding)
        return 0;
    credit = (uint32_t)(((uint64_t)flow->unacked * acked + outstanding - 1) / outstanding);
    flow->una += acked;
    flow->unacked = (uint16_t)(flow->unacked - credit);
    return credit;
}

uint32_t sym_received(struct flow *flow, struct dt_packet **packets, unsigned n)
{
    uint32_t sum = 0;

    if (!tcp_of(packets[0]))
        return sym_segments(packets, n);
    for (unsigned i = 0; i < n; i++)
        sum += MAX(segments_of(packets[i]), acknowledged(flow, tcp_of(packets[i])));
    return sum;
}
