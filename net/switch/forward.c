/* SPDX-License-Identifier: MIT */
/* forward.c - where a frame may go: see fabric.h. */
#include "net/switch/fabric.h"

#include "base/bytes.h"

#define TPID 0x8100u

/* ---- Judgement ---- */

static void drop(struct fabric_port *port, struct dt_packet *p, enum fabric_counter why)
{
    port->counters[why]++;
    net_packet_free(port->lane, packet_of(p));
}

/* 01:80:c2:00:00:00 to 0f: spanning tree, PAUSE, LACP, 802.1X, LLDP. */
static bool is_reserved(const uint8_t *to)
{
    static const uint8_t prefix[] = {0x01, 0x80, 0xc2, 0, 0};

    return memcmp(to, prefix, 5) == 0 && to[5] < 16;
}

static bool is_tag(uint16_t type)
{
    return type == TPID || type == 0x88a8 || type == 0x9100 || type == 0x9200;
}

/* Finds the frame's VLAN; false: it may be in none. */
static bool classify(const struct fabric_port *port, struct dt_packet *p)
{
    const uint8_t *data = p->data;
    uint16_t vid;

    p->reason = false;
    p->queue = port->config.vlan;
    if (!is_tag(load_be16(data + 12)))
        return fabric_is_member(port, port->config.vlan);
    if (load_be16(data + 12) != TPID || p->length < 18 || is_tag(load_be16(data + 16)))
        return false;
    p->reason = true;
    p->queue = load_be16(data + 14);
    vid = fabric_vid(p);
    if (vid == 0 || vid == FABRIC_VLANS - 1)
        return false;
    return port->config.uplink ? fabric_is_member(port, vid)
                               : port->config.trunk[vid / 8] >> vid % 8 & 1;
}

static bool are_peers(const struct fabric_port *a, const struct fabric_port *b)
{
    return a->config.uplink || b->config.uplink ||
           (a->config.group && b->config.group && strcmp(a->config.group, b->config.group) == 0);
}

/* Another one with the same content, in the memory of the same port. */
static struct dt_packet *duplicate(struct fabric_port *port, const struct dt_packet *p)
{
    struct packet *copy = net_packet_new(port->lane, p->length);

    if (!copy)
        return NULL;
    memcpy(copy->pub.data, p->data, p->length);
    copy->pub.needs = p->needs;
    copy->pub.flags = p->flags & DT_PACKET_CSUM_VALID;
    copy->pub.segment = p->segment;
    copy->pub.queue = p->queue;
    copy->pub.reason = p->reason;
    return &copy->pub;
}

static void flood(struct fabric_port *port, struct dt_packet *p)
{
    const struct fabric *f = port->fabric;
    struct fabric_port *last = NULL;

    bucket_refill(&port->broadcast, loop_now(f->loop));
    if (bucket_empty(&port->broadcast)) {
        drop(port, p, FABRIC_BROADCAST);
        return;
    }
    bucket_take(&port->broadcast, dt_packet_segments(p));
    for (unsigned i = 0; i < f->top; i++) {
        struct fabric_port *to = f->ports[i];
        struct dt_packet *copy;

        if (!to || to == port || to->leaving || !are_peers(port, to) ||
            !fabric_is_member(to, fabric_vid(p)))
            continue;
        if (last && (copy = duplicate(port, p)) != NULL)
            fabric_queue_to(last, port, copy);
        else if (last)
            port->counters[FABRIC_FULL]++;
        last = to;
    }
    if (last)
        fabric_queue_to(last, port, p);
    else
        drop(port, p, FABRIC_UNKNOWN);
}

/* Cards that leave are nobody's; what is no card's is behind the VLAN's uplink. */
static struct fabric_port *destination(const struct fabric_port *port, const struct dt_packet *p)
{
    struct fabric_port *card = fabric_owner(port->fabric, p->data);

    if (card || port->config.uplink)
        return card;
    return port->fabric->uplink_of[fabric_vid(p)];
}

void fabric_judge(struct fabric_port *port, struct dt_packet *p)
{
    struct fabric *f = port->fabric;
    const uint8_t *to_mac = p->data, *from_mac = p->data + 6;
    struct fabric_port *to;

    port->counters[FABRIC_RECEIVED]++;
    if (is_reserved(to_mac))
        drop(port, p, FABRIC_RESERVED);
    else if (from_mac[0] & 1 || fabric_owner(f, from_mac) != (port->config.uplink ? NULL : port))
        drop(port, p, FABRIC_SPOOFED);
    else if (!classify(port, p))
        drop(port, p, FABRIC_VLAN);
    else if (to_mac[0] & 1)
        flood(port, p);
    else if ((to = destination(port, p)) == NULL || to == port)
        drop(port, p, FABRIC_UNKNOWN);
    else if (!are_peers(port, to) || !fabric_is_member(to, fabric_vid(p)))
        drop(port, p, FABRIC_PRIVATE);
    else
        fabric_queue_to(to, port, p);
}
