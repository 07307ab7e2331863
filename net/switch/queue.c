/* SPDX-License-Identifier: MIT */
/* queue.c - packets that wait for a port, and whose turn it is: see fabric.h. */
#include "net/switch/fabric.h"

#include "base/bytes.h"

#define TAG_BYTES 4u

void fabric_queue_to(struct fabric_port *to, struct fabric_port *from, struct dt_packet *p)
{
    struct fabric_from *q = &to->from[from->index];

    if (q->packets >= FABRIC_QUEUE || q->bytes >= FABRIC_BYTES) {
        from->counters[FABRIC_FULL]++;
        net_packet_free(from->lane, packet_of(p));
        return;
    }
    if (!q->queue.head) {
        fabric_set_change(&to->waiting, from->index, true);
        to->nwaiting++;
    }
    fabric_queue_add(&q->queue, p);
    q->packets++;
    q->bytes += p->length;
    loop_defer(to->fabric->loop, &to->drain);
}

static struct dt_packet *take(struct fabric_port *to, unsigned from)
{
    struct fabric_from *q = &to->from[from];
    struct dt_packet *p = fabric_queue_take(&q->queue);

    q->packets--;
    q->bytes -= p->length;
    if (!q->queue.head) {
        fabric_set_change(&to->waiting, from, false);
        to->nwaiting--;
    }
    return p;
}

/* @p as @to is to get it, in @to's own memory; NULL if there is none. */
static struct dt_packet *carry_over(struct fabric_port *to, const struct dt_packet *p)
{
    uint16_t vid = fabric_vid(p);
    bool tag = vid != to->config.vlan;
    uint32_t skip = p->reason ? 12 + TAG_BYTES : 12, at = tag ? 12 + TAG_BYTES : 12;
    struct packet *new = net_packet_new(to->lane, p->length - skip + at);
    struct dt_packet *q;

    if (!new)
        return NULL;
    q = &new->pub;
    memcpy(q->data, p->data, 12);
    if (tag) {
        store_be16(q->data + 12, 0x8100);
        store_be16(q->data + 14, p->queue);
    }
    memcpy(q->data + at, p->data + skip, p->length - skip);
    q->needs = p->needs;
    q->flags = p->flags & DT_PACKET_CSUM_VALID;
    q->segment = p->segment;
    q->queue = 0;
    new->slot = to;
    return q;
}

/* The next port whose turn it is; there is one. */
static unsigned whose_turn(struct fabric_port *to)
{
    unsigned turn = fabric_set_next(&to->waiting, to->turn);

    if (turn == FABRIC_PORTS)
        turn = fabric_set_next(&to->waiting, 0);
    if (turn != to->turn || !to->begun)
        to->from[turn].deficit += FABRIC_QUANTUM;
    to->turn = turn;
    to->begun = true;
    return turn;
}

static void end_turn(struct fabric_port *to)
{
    to->turn = (to->turn + 1) % FABRIC_PORTS;
    to->begun = false;
}

/* The next packet by deficit round robin; something waits. */
static struct dt_packet *next(struct fabric_port *to, unsigned *from)
{
    for (;;) {
        unsigned turn = whose_turn(to);
        struct fabric_from *q = &to->from[turn];
        struct dt_packet *p = q->queue.head;

        if (p->length > q->deficit) {
            end_turn(to);
            continue;
        }
        q->deficit -= p->length;
        take(to, turn);
        if (!q->queue.head) {
            q->deficit = 0;
            end_turn(to);
        }
        *from = turn;
        return p;
    }
}

void fabric_drain(struct fabric_port *to)
{
    struct fabric *f = to->fabric;

    while (to->nwaiting && to->outstanding < FABRIC_WINDOW) {
        unsigned room = net_admit(to->lane, MIN(NET_BURST, FABRIC_WINDOW - to->outstanding)), n = 0;
        struct dt_packet *batch[NET_BURST];

        if (room == 0)
            return; /* wake() tells when that changes */
        while (n < room && to->nwaiting) {
            unsigned from;
            struct dt_packet *p = next(to, &from), *copy = carry_over(to, p);

            if (copy)
                batch[n++] = copy;
            else
                f->ports[from]->counters[FABRIC_FULL]++;
            net_packet_free(f->ports[from]->lane, packet_of(p));
        }
        to->outstanding += n;
        to->counters[FABRIC_SENT] += n;
        if (n)
            net_transmit(to->lane, batch, n);
    }
}

static void drop_all(struct fabric_port *to, unsigned from)
{
    while (to->from[from].queue.head)
        net_packet_free(to->fabric->ports[from]->lane, packet_of(take(to, from)));
}

void fabric_queues_free(struct fabric_port *port)
{
    struct fabric *f = port->fabric;

    for (unsigned from; (from = fabric_set_next(&port->waiting, 0)) < FABRIC_PORTS;)
        drop_all(port, from);
    for (unsigned i = 0; i < f->top; i++)
        if (f->ports[i])
            drop_all(f->ports[i], port->index);
}
