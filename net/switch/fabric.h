/* SPDX-License-Identifier: MIT */
/*
 * fabric.h - a switch between soft network cards.
 *
 * Theory of operation: a port is a device like any card, with a chain and a back; the switch is the front of
 * all of them, on one loop. What a back receives is judged (forward.c) and queued for the ports where it may
 * go (queue.c); net_transmit() takes it from there.
 *
 * Nothing is learned. A port is a card's, with the addresses it was configured with, or an uplink, where every other
 * address is. So a card can neither take another's address nor make the table forget it, and there is
 * nothing to keep: a switch that was killed and started anew is the same switch.
 *
 * Where does a frame go?
 *
 *     from           to the address of   group, multicast      any other address
 *     a card         its peers           peers and uplink      uplink
 *     an uplink      the card            all cards of the VLAN nowhere
 *
 * Peers of a card are those of the same group= and VLAN; without a group a card has none. What has another's source address
 * is dropped, from an uplink too; so are frames that bridges must not forward (IEEE 802.1Q, 8.6.3).
 *
 * VLANs: a port's frames without a tag are of its vlan=; those with one must be of its trunk=. Each VLAN has one uplink at
 * most, so several make no loop, and nothing goes from one to another. One that names no VLANs has all that the others leave,
 * and VLAN 0 is its alone: there it has no tag.
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

#define FABRIC_PORTS   256u
#define FABRIC_MACS    16u /* of a port */
#define FABRIC_WINDOW  64u
#define FABRIC_QUANTUM (16u << 10) /* bytes of a turn */
#define FABRIC_QUEUE   256u        /* packets that wait from one port to another, */
#define FABRIC_BYTES   (1u << 20)  /* and bytes */
#define FABRIC_VLANS   4096u

/**
 * struct fabric_config - a port.
 * @chain: ends with a back that leads to the card, or out; NULL once it is open.
 * @uplink: it has no @macs and @group; without @vlan and @trunk it has all VLANs that no other uplink has.
 * @trunk: a bit for each VLAN whose frames have their tag.
 * @broadcast: frames to a group a second that it may send; 0 = any number.
 * @away: an uplink whose @chain cannot be opened now: it leads nowhere.
 */
struct fabric_config {
    const char *name, *chain;
    bool uplink, away;
    uint8_t macs[FABRIC_MACS][6];
    unsigned nmacs;
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

/** struct fabric_set - ports by their index. */
struct fabric_set {
    uint64_t words[FABRIC_PORTS / 64];
};
/** fabric_set_next() - the first from @at on; FABRIC_PORTS = there is none. */
static inline unsigned fabric_set_next(const struct fabric_set *set, unsigned at)
{
    for (uint64_t mask = ~0ull << at % 64; at < FABRIC_PORTS; at = (at | 63) + 1, mask = ~0ull)
        if (set->words[at / 64] & mask)
            return (at & ~63u) + (unsigned)__builtin_ctzll(set->words[at / 64] & mask);
    return FABRIC_PORTS;
}
static inline void fabric_set_change(struct fabric_set *set, unsigned at, bool in)
{
    uint64_t bit = 1ull << at % 64;

    set->words[at / 64] = in ? set->words[at / 64] | bit : set->words[at / 64] & ~bit;
}

/**
 * struct fabric_port - @waiting: ports with something in @from, @nwaiting of them. @turn: whose turn it is; @begun: it
 * has its quantum already. @leaving: it was removed, and rests soon.
 */
struct fabric_port {
    struct fabric *fabric;
    unsigned index;
    struct fabric_config config;
    struct device *dev;
    struct lane *lane;
    bool started, leaving;
    struct bucket broadcast;
    uint64_t counters[FABRIC_COUNTERS];
    struct fabric_set waiting;
    unsigned nwaiting, turn, outstanding;
    bool begun;
    struct loop_deferred drain, gone;
    struct fabric_from from[FABRIC_PORTS];
};

/** struct fabric_address - whose it is; NULL = an empty place. */
struct fabric_address {
    struct fabric_port *port;
    uint8_t mac[6];
};

#define FABRIC_HASH (2 * FABRIC_PORTS * FABRIC_MACS)
/** struct fabric - @ports: NULL where there is none, below @top. @leaving: ports that do not rest yet. */
struct fabric {
    struct loop *loop;
    unsigned top, leaving;
    struct fabric_port *ports[FABRIC_PORTS];
    struct fabric_port *uplink_of[FABRIC_VLANS];
    struct fabric_address addresses[FABRIC_HASH];
};

/** fabric_new() - judge the ports and open their chains. */
int fabric_new(struct fabric **fabric, struct loop *loop, const struct fabric_config *configs,
               unsigned count, struct dt_error *err);
/** fabric_start() - from here on frames are forwarded. */
int fabric_start(struct fabric *fabric, struct dt_error *err);
/** fabric_add() - one more port, on the running switch's loop. */
int fabric_add(struct fabric *fabric, const struct fabric_config *config, struct dt_error *err);
/** fabric_remove() - nothing comes from @port any more, or goes to it; it is gone when its back rests. */
void fabric_remove(struct fabric_port *port);
/** fabric_find() - by name, or NULL. */
struct fabric_port *fabric_find(const struct fabric *fabric, const char *name);
/** fabric_free() - turns the loop until all ports rest. */
void fabric_free(struct fabric *fabric);
/** fabric_show() - a port for people, as `devtap show` has devices. New reference. */
json_t *fabric_show(const struct fabric_port *port);

/* tables.c */
/** fabric_know() - make the tables anew, from all ports but those that leave. -EEXIST if two say that they have the same. */
int fabric_know(struct fabric *fabric, struct dt_error *err);
/** fabric_owner() - whose address @mac is; NULL = no card's. */
struct fabric_port *fabric_owner(const struct fabric *fabric, const uint8_t *mac);

/* forward.c */
/** fabric_judge() - a frame from @port: queue it where it may go, or drop it. */
void fabric_judge(struct fabric_port *port, struct dt_packet *p);

/* queue.c */
/** fabric_queue_to() - @p of @from, with the tag @tci (0 = none), waits for @to; or is dropped. */
void fabric_queue_to(struct fabric_port *to, struct fabric_port *from, struct dt_packet *p);
/** fabric_drain() - hand over what @to takes now. */
void fabric_drain(struct fabric_port *to);
/** fabric_queues_free() - drop all that waits for @port, and all of its own that waits for others. */
void fabric_queues_free(struct fabric_port *port);

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
    if (port->config.uplink)
        return port->fabric->uplink_of[vid] == port;
    return vid == port->config.vlan || port->config.trunk[vid / 8] >> vid % 8 & 1;
}

#endif
