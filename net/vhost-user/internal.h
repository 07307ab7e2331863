/* SPDX-License-Identifier: MIT */
/* internal.h - the front of a network card: rings of packets. */
#ifndef NET_VHOST_USER_INTERNAL_H
#define NET_VHOST_USER_INTERNAL_H

#include "core/net.h"
#include "front/served.h"
#include "net/vhost-user/front.h"

/* Even rings are the guest's receive queues, odd ones its transmit queues (virtio 1.2, 5.1.2). */
#define IS_RX(q) (!((q)->index & 1))

#define CARD_BURST   NET_BURST
#define CARD_BACKLOG 256u  /* packets that wait for the guest's buffers, of each lane */
#define CARD_CHAINS  64u   /* buffers that one packet may be spread over */
#define CARD_FLOWS   1024u /* flows, by hash, of which the queue is remembered */

/** struct card_slot - a chain. Of a packet that the guest sends @owner is the ring, and @copied says that all of it was: its memory is
 *  not looked at again. What a chain of one descriptor needs is in the first cache line. */
struct card_slot {
    struct virtq_chain chain;
} CACHE_ALIGNED;
_Static_assert(offsetof(struct virtq_chain, inline_iov[1]) <= CACHE_LINE, "a slot's first line");

/**
 * struct card_ring - what a receive ring has beyond what all have.
 * @stash: buffers taken from the ring and not yet filled, from @at on.
 */
struct card_ring {
    struct virtq_chain *stash[CARD_CHAINS];
    unsigned nstash, at;
};

enum card_drops { DROP_BACKLOG, DROP_TOO_BIG, DROP_HEADER, DROP_LENGTH, CARD_DROPS };

/**
 * struct card_lane - of each lane.
 * @flow_queue: by hash of a flow, one more than the pair that sent last; 0 = none did.
 * @backlog: packets from the wire for which the guest had no buffer.
 */
struct card_lane {
    struct dt_packet *backlog, **backlog_tail;
    unsigned nbacklog;
    unsigned pairs; /* those of this lane whose receive ring runs; */
    unsigned first; /* the first of them */
    uint64_t drops[CARD_DROPS];
    uint8_t flow_queue[CARD_FLOWS];
};

struct card_front {
    struct front front;
    uint32_t allowed; /* enum dt_offload that the driver may leave to us */
    uint32_t takes;   /* and we to it */
    bool mergeable, ecn;
    bool config_space; /* offered to the VMM */
    uint16_t header;   /* bytes of the virtio header */
    struct card_ring *rings;
    struct card_lane *lanes;
};
#define CARD(f) container_of(f, struct card_front, front)

/*
 * Between a packet and a guest's buffer. Most packets are small, and a call is what would cost most of their copy: for 32 to 128 bytes two
 * pieces that may overlap are as many moves for all lengths from one piece to two. What both have is read twice, and nobody looks at
 * it in between.
 */
static inline void card_copy(uint8_t *restrict to, const uint8_t *restrict from, uint32_t n)
{
    if (n - 32 <= 64 - 32) {
        memcpy(to, from, 32);
        memcpy(to + n - 32, from + n - 32, 32);
    } else if (n - 64 <= 128 - 64) {
        memcpy(to, from, 64);
        memcpy(to + n - 64, from + n - 64, 64);
    } else {
        memcpy(to, from, n);
    }
}

static inline struct card_lane *card_lane(struct front_lane *fl)
{
    return &CARD(fl->front)->lanes[lane_thread(fl->lane)];
}

/** card_serves() - is the ring of @q in use? It may be that the guest's IOMMU does not let us reach it for a moment. */
static inline bool card_serves(const struct front_queue *q)
{
    return q->state == QUEUE_RUNNING || (q->state == QUEUE_UNMAPPED && q->vq.started);
}

/* tx.c: from the guest. */
unsigned card_tx_poll(struct front_queue *q);
void card_sent(struct lane *lane, void *const *slots, unsigned n);
/** card_uses(), card_let_go() - see front_class. */
bool card_uses(const struct virtq_chain *chain);
void card_let_go(struct front_lane *fl);
void card_fetch(struct lane *lane, void *slot, struct dt_packet *p);
unsigned card_pieces(void *slot, uint32_t length, struct iovec *iov, unsigned most);
/** card_announce() - send @mac's reverse ARP, as after a migration. */
void card_announce(struct front *front, const uint8_t mac[6]);

/* rx.c: to the guest. */
void card_receive(struct lane *lane, struct dt_packet **packets, unsigned n);
/** card_set_room() - tell core whether the guest takes packets now. */
void card_set_room(struct front_lane *fl);
/** card_rx_poll() - deliver what waits; returns how many packets. */
unsigned card_rx_poll(struct front_queue *q);
/** card_rx_wanted() - does a packet wait for buffers of @q? */
bool card_rx_wanted(const struct front_queue *q);
/** card_rx_release() - give back what is kept of a ring that ends or pauses. */
void card_rx_release(struct front_queue *q);
void card_lane_init(struct card_lane *cl);
void card_lane_drop_backlog(struct card_lane *cl, struct lane *lane);

#endif
