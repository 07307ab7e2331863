/* SPDX-License-Identifier: MIT */
/*
 * fabric.h - a switch between soft network cards.
 *
 * Theory of operation: a port is a device like any card, with a chain and a back; the switch is the front of
 * all of them, on one loop. What a back receives is judged (forward.c) and queued for the ports where it may
 * go (queue.c); net_transmit() takes it from there.
 *
 * Nothing is learned. A port is a card's, with the address it was configured with, or the uplink, where every other
 * address is. So a card can neither take another's address nor make the table forget it, and there is
 * nothing to keep: a switch that was killed and started anew is the same switch.
 *
 * Where does a frame go?
 *
 *     from           to the address of   group, multicast      any other address
 *     a card         its peers           peers and uplink      uplink
 *     the uplink     the card            all cards of the VLAN nowhere
 *
 * Peers of a card are those of the same group= and VLAN; without a group a card has none. What has another's source address
 * is dropped, from the uplink too; so are frames that bridges must not forward (IEEE 802.1Q, 8.6.3).
 *
 * VLANs: a card's frames without a tag are of its vlan=; those with one must be of its trunk=. On the uplink VLAN 0
 * has no tag, and all others have theirs.
 *
 * Fairness: each port has a queue for each port that sends to it, served by deficit round robin (Shreedhar and Varghese,
 * 1995). A packet that waits is in the memory of the port it came from until it is handed over, so a flood fills the flooder's
 * own queue and memory, and nobody else's. At most FABRIC_WINDOW packets are within a port's back at a time: the others wait
 * here, where the order is fair.
 */
#ifndef NET_SWITCH_FABRIC_H
#define NET_SWITCH_FABRIC_H

#include "base/bucket.h"
#include "base/fifo.h"
#include "core/net.h"

#define FABRIC_PORTS   64u
#define FABRIC_WINDOW  64u
#define FABRIC_QUANTUM (16u << 10) /* bytes of a turn */
#define FABRIC_QUEUE   256u        /* packets that wait from one port to another, */
#define FABRIC_BYTES   (1u << 20)  /* and bytes */
#define FABRIC_VLANS   4096u

/**
 * struct fabric_config - a port.
 * @chain: ends with a back that leads to the card, or out.
 * @uplink: there is at most one. It has no @mac, @vlan, @trunk and @group.
 * @trunk: a bit for each VLAN whose frames have their tag.
 * @broadcast: frames to a group a second that it may send; 0 = any number.
 */
struct fabric_config {
    const char *name, *chain;
    bool uplink;
    uint8_t mac[6];
    uint16_t vlan;
    uint8_t trunk[FABRIC_VLANS / 8];
    const char *group;
    uint64_t broadcast;
};

/** enum fabric_counter - what became of the frames that a port received; and FABRIC_SENT to it. */
enum fabric_counter {
    FABRIC_RECEIVED,
    FABRIC_SENT,
    FABRIC_SPOOFED,   /* under an address that is not the port's */
    FABRIC_VLAN,      /* with a tag that the port may not use */
    FABRIC_RESERVED,  /* for bridges alone */
    FABRIC_PRIVATE,   /* to a card that is no peer */
    FABRIC_UNKNOWN,   /* to nobody */
    FABRIC_BROADCAST, /* beyond the limit */
    FABRIC_FULL,      /* the receiver was too slow */
    FABRIC_COUNTERS,
};

FIFO(fabric_queue, dt_packet)

/** struct fabric_from - what waits at a port from one that sends to it. */
struct fabric_from {
    struct fabric_queue queue;
    unsigned packets;
    uint64_t bytes, deficit;
};

/**
 * struct fabric_port - @waiting: a bit for each port with something in @from. @turn: whose turn it is; @begun: it
 * has its quantum already.
 */
struct fabric_port {
    struct fabric *fabric;
    unsigned index;
    struct fabric_config config;
    struct device *dev;
    struct lane *lane;
    bool started;
    struct bucket broadcast;
    uint64_t counters[FABRIC_COUNTERS];
    uint64_t waiting;
    unsigned turn, outstanding;
    bool begun;
    struct loop_deferred drain;
    struct fabric_from from[FABRIC_PORTS];
};

#define FABRIC_HASH 256u /* more than twice as many as ports */
struct fabric {
    struct loop *loop;
    unsigned count;
    struct fabric_port *ports[FABRIC_PORTS], *uplink;
    struct fabric_port *by_mac[FABRIC_HASH];
};

/** fabric_new() - judge the ports and open their chains. What @configs points at must stay. */
int fabric_new(struct fabric **fabric, struct loop *loop, const struct fabric_config *configs,
               unsigned count, struct dt_error *err);
/** fabric_start() - from here on frames are forwarded. */
int fabric_start(struct fabric *fabric, struct dt_error *err);
/** fabric_free() - turns the loop until all ports rest. */
void fabric_free(struct fabric *fabric);
/** fabric_show() - a port for people, as `devtap show` has devices. New reference. */
json_t *fabric_show(const struct fabric_port *port);

/* forward.c */
/** fabric_enter_mac() - -EEXIST if another port has the address. */
int fabric_enter_mac(struct fabric *fabric, struct fabric_port *port);
/** fabric_judge() - a frame from @port: queue it where it may go, or drop it. */
void fabric_judge(struct fabric_port *port, struct dt_packet *p);

/* queue.c */
/** fabric_queue_to() - @p of @from, with the tag @tci (0 = none), waits for @to; or is dropped. */
void fabric_queue_to(struct fabric_port *to, struct fabric_port *from, struct dt_packet *p);
/** fabric_drain() - hand over what @to takes now. */
void fabric_drain(struct fabric_port *to);
/** fabric_queues_free() - drop all that waits. */
void fabric_queues_free(struct fabric_port *to);

/*
 * Between the judgement and the hand-over a packet tells its VLAN in fields that mean something else in a chain: the
 * tag's content, priority and number, in @queue; whether it is in the frame in @reason.
 */
static inline uint16_t fabric_vid(const struct dt_packet *p)
{
    return p->queue & 0xfff;
}
/** fabric_is_member() - of a VLAN. */
static inline bool fabric_is_member(const struct fabric_port *port, uint16_t vid)
{
    return port->config.uplink || vid == port->config.vlan ||
           port->config.trunk[vid / 8] >> vid % 8 & 1;
}

#endif
