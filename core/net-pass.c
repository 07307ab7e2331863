/* SPDX-License-Identifier: MIT */
/*
 * net-pass.c - packets that go from the chain of one card into that of another on the same thread.
 *
 * Theory of operation: nothing is copied, and yet each lane goes on to own what it has. The receiver takes the packet itself,
 * and pays with a free one of the same size: so both pools have as many as before, whoever holds packets holds
 * its own, and neither card can use up the other's or has to wait for it when it ends.
 *
 * The price is that packets of a lane lie in memory that was mapped by another. So lanes that were joined have their
 * mappings in common, and the last of them ends these.
 */
#include "core/net.h"

void net_join(struct dt_ctx *a, struct dt_ctx *b)
{
    struct net_lane *first = ctx_of(a)->lane->net;
    struct net_memory *all = first->memory, *other = ctx_of(b)->lane->net->memory;
    struct iovec *mappings;

    if (all == other)
        return;
    mappings = xcalloc(all->n + other->n, sizeof(*mappings));
    memcpy(mappings, all->mappings, all->n * sizeof(*mappings));
    memcpy(mappings + all->n, other->mappings, other->n * sizeof(*mappings));
    free(all->mappings);
    all->mappings = mappings;
    all->n += other->n;
    for (struct net_lane *net = other->lanes, *next; net; net = next) {
        next = net->kin;
        net->memory = all;
        net->kin = all->lanes;
        all->lanes = net;
    }
    free(other->mappings);
    free(other);
}

/* @p for a free packet of the same size; its slot is left to the caller. */
static inline bool pass_one(struct lane *from, struct lane *to, struct packet *p)
{
    struct packet *other = net_pool_take(net_pool_of(to->net, p), to);

    if (unlikely(!other))
        return false;
    p->slot = NULL;
    p->lane = to;
    p->pub.flags &=
        DT_PACKET_PARSED; /* what a guest says of its checksum means nothing to another */
    p->pub.queue = 0;
    other->lane = from;
    net_pool_put(net_pool_of(from->net, other), other, from);
    return true;
}

unsigned net_pass(struct dt_ctx *c, struct dt_ctx *other, struct dt_packet **packets, unsigned n)
{
    struct ctx *from = ctx_of(c), *to = ctx_of(other);
    struct lane *lane = from->lane, *there = to->lane;
    unsigned passed, nslots = 0;
    void *slots[NET_BURST];

    CHECK(n <= NET_BURST);
    for (passed = 0; passed < n; passed++) {
        struct packet *p = packet_of(packets[passed]);
        void *slot = p->slot;

        if (unlikely(p->holder != from || p->pub.needs & DT_OFFLOAD_FETCH))
            net_violated(from, p, "passed on");
        if (unlikely(!pass_one(lane, there, p)))
            break;
        p->holder = to;
        if (slot)
            slots[nslots++] = slot;
    }
    if (nslots)
        lane->front_ops->sent(lane, slots, nslots);
    hold(from, -passed);
    hold(to, passed);
    set_relaxed(&lane->in_flight, lane->in_flight - passed);
    set_relaxed(&there->in_flight, there->in_flight + passed);
    if (unlikely(lane->quiescing))
        lane_drained(lane);
    return passed;
}

bool net_takes(struct dt_ctx *c)
{
    return ctx_of(c)->lane->net->open;
}
