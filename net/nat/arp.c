/* SPDX-License-Identifier: MIT */
/*
 * arp.c - who is where, on both sides: RFC 826 of an end that answers for one address.
 *
 * Theory of operation: towards the guests we are the gateway, towards the wire we are the outer address; for each we answer
 * ourselves, since nobody else has it. Only those are learned who were asked for, or who ask for us. A packet to
 * somebody unknown is dropped and he is asked for: its sender repeats what matters. The router is kept apart, and asked for at
 * the start; so are guests known, because they asked for us. What is known is used until something else
 * is said, and asked for again after a minute.
 *
 * Several cards may have the same outer address, each with ports of its own. Then all say the same group address, which a
 * bridge floods: each card takes what is for its ports (as clusters with one address do).
 */
#include "net/nat/internal.h"

#define PROBES      4u /* places where an address may be */
#define ASK_AGAIN_S 60u
#define ASKS_MOST   64u /* a second, on each side: a guest may go through a whole network */

enum { REQUEST = 1, REPLY = 2 };
static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t nobody[6];

/* ---- Saying ---- */

static void say(struct nat *n, struct side *side, uint16_t operation, uint32_t to,
                const uint8_t mac[6])
{
    static const uint8_t head[] = {8, 6, 0, 1, 8, 0, 6, 4};
    struct dt_packet *p = dt_packet_new(n->c, 60);

    if (!p) {
        dt_count(n->c, MEMORY, 1);
        return;
    }
    memset(p->data, 0, p->length);
    nat_ether(p, operation == REQUEST ? everybody : mac, side->mac);
    memcpy(p->data + 12, head, sizeof(head));
    store_be16(p->data + 20, operation);
    memcpy(p->data + 22, side->told, 6);
    store_be32(p->data + 28, side->address);
    memcpy(p->data + 32, operation == REQUEST ? nobody : mac, 6);
    store_be32(p->data + 38, to);
    if (side->way == DT_TX)
        dt_transmit_one(n->c, p);
    else
        dt_receive_one(n->c, p);
}

static void ask(struct nat *n, struct side *side, struct neighbour *b)
{
    if (side->second != n->now) {
        side->second = n->now;
        side->asks = 0;
    }
    if (b->asked == n->now || side->asks == ASKS_MOST)
        return;
    b->asked = n->now;
    side->asks++;
    say(n, side, REQUEST, b->address, nobody);
}

void nat_announce(struct nat *n)
{
    say(n, &n->outer, REQUEST, n->outer.address, nobody); /* RFC 5227, 3 */
    if (n->router_address)
        ask(n, &n->outer, &n->router);
}

/* ---- Knowing ---- */

static unsigned place(uint32_t address, unsigned probe)
{
    return (address * 0x9e3779b1u + probe * 0x10000000u) >> 24;
}

static bool better_to_lose(const struct neighbour *a, const struct neighbour *b)
{
    if (a->known != b->known)
        return !a->known;
    return a->seen < b->seen;
}

static struct neighbour *find(struct nat *n, struct side *side, uint32_t address, bool make)
{
    struct neighbour *worst = &side->list[place(address, 0)];

    if (side == &n->outer && address == n->router_address)
        return &n->router;
    for (unsigned i = 0; i < PROBES; i++) {
        struct neighbour *b = &side->list[place(address, i)];

        if (b->address == address)
            return b;
        if (better_to_lose(b, worst))
            worst = b;
    }
    if (!make)
        return NULL;
    *worst = (struct neighbour){.address = address};
    return worst;
}

void nat_learn(struct nat *n, struct side *side, uint32_t address, const uint8_t mac[6])
{
    struct neighbour *b = find(n, side, address, true);

    if (!b->known || memcmp(b->mac, mac, 6) != 0)
        dt_layer_state_changed(n->layer);
    b->known = true;
    b->seen = n->now;
    memcpy(b->mac, mac, 6);
}

static const uint8_t *use(struct nat *n, struct side *side, struct neighbour *b)
{
    if (!b->known || n->now - b->seen > ASK_AGAIN_S)
        ask(n, side, b);
    return b->known ? b->mac : NULL;
}

const uint8_t *nat_resolve(struct nat *n, struct side *side, uint32_t address)
{
    return use(n, side, find(n, side, address, true));
}

const uint8_t *nat_next_hop(struct nat *n, uint32_t address)
{
    if (nat_within(&n->outer, address) && address != n->outer.address)
        return nat_resolve(n, &n->outer, address);
    return n->router_address ? use(n, &n->outer, &n->router) : NULL;
}

/* ---- Hearing ---- */

void nat_arp(struct nat *n, struct side *side, struct dt_packet *p)
{
    const uint8_t *arp = p->data + dt_headers(p)->l3, *mac = arp + 8;
    uint32_t sender = load_be32(arp + 14), target = load_be32(arp + 24);
    bool neighbour = nat_within(side, sender) ||
                     (side == &n->outer && sender == n->router_address && sender != 0);
    const struct neighbour *b;

    if (sender == side->address) {
        if (memcmp(mac, side->told, 6) != 0) {
            dt_count(n->c, CONFLICT, 1);
            dt_layer_event(n->layer, "address-conflict",
                           "%02x:%02x:%02x:%02x:%02x:%02x says that %u.%u.%u.%u is its address",
                           mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], arp[14], arp[15],
                           arp[16], arp[17]);
        }
        return;
    }
    b = neighbour ? find(n, side, sender, false) : NULL;
    if (neighbour && !(mac[0] & 1) && (target == side->address || (b && b->address)))
        nat_learn(n, side, sender, mac);
    if (load_be16(arp + 6) == REQUEST && target == side->address)
        say(n, side, REPLY, sender, mac);
}
