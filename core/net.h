/* SPDX-License-Identifier: MIT */
/*
 * net.h - packets on their way through the chain of a network card; what a front of cards sees of core, and
 * what core's own files share.
 *
 * Theory of operation: each lane has a pool of packets, contiguous and private. A front takes one, copies a frame into
 * it, and gives it to net_transmit(); it goes from layer to layer by dt_transmit() and ends with dt_sent() or
 * dt_drop(), which gives the front its descriptor back. In the other direction a back takes a packet with
 * dt_packet_new() and hands it up with dt_receive(), until front_ops.receive() has it.
 *
 * A layer that does not take super-frames or partial checksums never sees one: the edge before it cuts
 * and completes, and an edge that need not costs one comparison for each packet.
 */
#ifndef CORE_NET_H
#define CORE_NET_H

#include "core/internal.h"

/* The largest frame: an IP packet of 65,535 bytes, Ethernet, and four tags. */
#define NET_MAX_FRAME 65600u
#define NET_BURST     32u

/**
 * struct packet - a dt_packet with what only core may see.
 * @slot: the front's: what it has outstanding for this packet; NULL = nothing.
 */
struct packet {
    struct dt_packet pub;
    struct packet *free_next;
    struct ctx *holder; /* the contract check */
    void *slot;
    struct lane *lane;
    uint32_t capacity;
    enum dt_direction way; /* as it crossed the last edge */
} CACHE_ALIGNED;

static inline struct packet *packet_of(struct dt_packet *p)
{
    return container_of(p, struct packet, pub);
}

/* ---- For fronts; on the lane's thread ---- */

/** net_admit() - how many of @want frames may be taken from the rings now. */
unsigned net_admit(struct lane *lane, unsigned want);
/** net_packet_new() - one that is in no chain; NULL if there is none. After net_admit() there are as many as it said. */
struct packet *net_packet_new(struct lane *lane, uint32_t length);
/** net_packet_free() - its descriptor goes back with it. */
void net_packet_free(struct lane *lane, struct packet *p);
/** net_peeks() - should long packets have their headers alone now? Those of which net_peekable() is true may have
 *  DT_OFFLOAD_FETCH then, and front_ops.fetch copies the rest, from DT_PEEK_BYTES on. */
static inline bool net_peeks(const struct lane *lane);
/** net_peekable() - @p, of which only the first DT_PEEK_BYTES are there, and @v, which came with it. */
bool net_peekable(struct dt_packet *p, const struct dt_vnet_header *v);
/** net_transmit() - @n packets, at most NET_BURST, enter the chain. */
void net_transmit(struct lane *lane, struct dt_packet **packets, unsigned n);
/** net_set_room() - the guest takes packets (@open), and @room of them now. */
void net_set_room(struct lane *lane, bool open, unsigned room);
/** net_set_ring() - the smallest of the rings that packets come from has @size descriptors; 0 = there is none. */
void net_set_ring(struct lane *lane, unsigned size);
/** net_resume() - if there is room again, tell the back that was told there is none. */
void net_resume(struct lane *lane);
/** net_guest_takes() - what may be left to do on packets that reach this front: enum dt_offload. */
void net_guest_takes(struct lane *lane, uint32_t takes);
const struct dt_net_info *device_net_info(const struct device *dev);

/* ---- For core ---- */

/** struct net_ctx - a layer on one thread; by direction. @next: with a callback; its own is @handle. */
struct net_ctx {
    void (*handle[2])(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
    struct ctx *next[2];
    uint32_t takes;
    bool peek; /* dt_peek() */
    uint64_t packets[2], bytes[2], dropped[2];
};

/** struct net_pool - packets of one size. @fresh: how many were never used, and whose pages are untouched. */
struct net_pool {
    uint8_t *memory;
    size_t stride;
    uint32_t count, fresh, used;
    struct packet *free;
};

struct net_lane {
    struct net_pool small, big;
    bool starved; /* net_admit() said 0 for want of packets */
    bool stopped; /* dt_room() said 0 */
    bool peeks;   /* net_peeks() */
    bool open;    /* the guest takes packets, and this many now */
    unsigned room;
    unsigned ring;       /* descriptors of the smallest transmit ring; 0 = none runs */
    uint64_t closed;     /* packets for a guest that takes none */
    uint64_t pool_empty; /* a layer found no packet */
};

static inline bool net_peeks(const struct lane *lane)
{
    return lane->net->peeks;
}

/** net_segment() - cut super-frame @p: @emit gets bursts of segments, which lane's pool has room for or which are missing.
 *  @p stays the caller's. Return: how many could not be made. */
unsigned net_segment(struct lane *lane, struct packet *p,
                     void (*emit)(void *arg, struct dt_packet **segments, unsigned n), void *arg);
/** net_needs_fit() - is what @p says is left to do something that its headers allow? For packets whose bytes come from
 *  another process. */
bool net_needs_fit(struct dt_packet *p);
/** net_complete_checksum() - what DT_OFFLOAD_CSUM says is left to do. */
void net_complete_checksum(struct dt_packet *p);

/** net_pseudo_sum() - of a TCP or UDP packet, not complemented: what a partial checksum begins with. */
uint16_t net_pseudo_sum(const struct dt_headers *h, const uint8_t *data);

/** net_drop() - as dt_drop(), counted elsewhere. */
void net_drop(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
/** net_packet_resize() - @p, or another in its place with its descriptor, of @length undefined bytes. NULL: there is no memory,
 *  and @p is as it was. */
struct dt_packet *net_packet_resize(struct dt_ctx *c, struct dt_packet *p, uint32_t length);

int net_pools_init(struct net_lane *net, struct lane *lane);
void net_pools_fini(struct net_lane *net);
/** net_pool_room() - how many packets, of whatever length, there are. */
uint32_t net_pool_room(const struct net_lane *net);

#endif
