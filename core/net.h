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
/* Of IPv6 (RFC 8200, 4.5). */
#define NET_FRAGMENT_HEADER 8u
/* Bytes of an ordinary packet, with its struct packet: an odd number of cache lines, or a burst would have all its packets in the
 * same few sets of the cache, and each step would fetch them anew. */
#define NET_SMALL (33u * CACHE_LINE)

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
static inline struct packet *net_packet_new(struct lane *lane, uint32_t length);
/** net_packet_free() - its descriptor goes back with it. */
static inline void net_packet_free(struct lane *lane, struct packet *p);
/** net_peeks() - should long packets have their headers alone now? Those of which net_peekable() is true may have
 *  DT_OFFLOAD_FETCH then, and front_ops.fetch copies the rest, from DT_PEEK_BYTES on. */
static inline bool net_peeks(const struct lane *lane);
/** net_peekable() - @p, of which only the first DT_PEEK_BYTES are there, and @v, which came with it. */
bool net_peekable(struct dt_packet *p, const struct dt_vnet_header *v);
/** net_transmit() - @n packets, at most NET_BURST, enter the chain. */
void net_transmit(struct lane *lane, struct dt_packet **packets, unsigned n);
/** net_take_back() - front_ops.sent() now, for those packets under way of whose slots @wanted is true. Whoever holds
 *  them has them still, and whole: nothing of them is the guest's any more. */
void net_take_back(struct lane *lane, bool (*wanted)(const void *slot));
/** net_set_room() - the guest takes packets (@open), and @room of them now. */
void net_set_room(struct lane *lane, bool open, unsigned room);
/** net_set_ring() - the smallest of the rings that packets come from has @size descriptors; 0 = there is none. */
void net_set_ring(struct lane *lane, unsigned size);
/** net_resume() - if there is room again, tell the back that was told there is none. */
void net_resume(struct lane *lane);
/** net_guest_takes() - what may be left to do on packets that reach this front: enum dt_offload. */
void net_guest_takes(struct lane *lane, uint32_t takes);
const struct dt_net_info *device_net_info(const struct device *dev);
/** net_promised_mtu() - the largest packet that the guest of the layer's card knows of; from start() on. */
uint16_t net_promised_mtu(const struct dt_layer *layer);

/* ---- For backs that lead to another card of the same thread (net-pass.c) ---- */

/** net_join() - the lanes of these two are going to pass packets to one another. */
void net_join(struct dt_ctx *a, struct dt_ctx *b);
/**
 * net_pass() - @n packets that @from holds leave its chain, and enter the other card's as if @to had made them; to be handed up
 * with dt_receive(). Nothing is copied; the guest that sent them has its descriptors back.
 * Return: how many of them, the first ones; for the others @to has no memory, and they are still @from's.
 */
unsigned net_pass(struct dt_ctx *from, struct dt_ctx *to, struct dt_packet **packets, unsigned n);
/** net_takes() - has the card of @c a guest that takes packets? */
bool net_takes(struct dt_ctx *c);

/* ---- For core ---- */

/** struct net_ctx - a layer on one thread; by direction. @next: with a callback; its own is @handle. */
struct net_ctx {
    void (*handle[2])(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
    struct ctx *next[2];
    uint32_t takes[2];
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

/** struct net_memory - the mappings that packets lie in: those of a lane, or of all that have passed packets to one another. */
struct net_memory {
    struct net_lane *lanes;
    struct iovec *mappings;
    unsigned n;
};

struct net_lane {
    struct net_pool small, big;
    struct net_memory *memory;
    struct net_lane *kin; /* the next one with the same memory */
    bool starved;         /* net_admit() said 0 for want of packets */
    bool stopped;         /* dt_room() said 0 */
    bool peeks;           /* net_peeks() */
    uint64_t fragmented;  /* datagrams that were, and a secret */
    bool open;            /* the guest takes packets, and this many now */
    unsigned room;
    unsigned ring;       /* descriptors of the smallest transmit ring; 0 = none runs */
    uint64_t closed;     /* packets for a guest that takes none */
    uint64_t pool_empty; /* a layer found no packet */
};

static inline bool net_peeks(const struct lane *lane)
{
    return lane->net->peeks;
}

static inline struct net_pool *net_pool_of(struct net_lane *net, const struct packet *p)
{
    return p->capacity <= NET_SMALL ? &net->small : &net->big;
}
/** net_pool_take() - a packet of @lane, of undefined content; NULL = there is none. */
static inline struct packet *net_pool_take(struct net_pool *pool, struct lane *lane)
{
    struct packet *p = pool->free;

    if (likely(p)) {
        pool->free = p->free_next;
    } else {
        if (pool->fresh == 0)
            return NULL;
        p = (void *)(pool->memory + (size_t)(pool->count - pool->fresh--) * pool->stride);
        p->pub.data = (uint8_t *)(p + 1);
        p->capacity = (uint32_t)(pool->stride - sizeof(*p));
        p->lane = lane;
    }
    pool->used++;
    return p;
}
/** net_pool_put() - @p is free. */
static inline void net_pool_put(struct net_pool *pool, struct packet *p, struct lane *lane)
{
    p->free_next = pool->free;
    pool->free = p;
    pool->used--;
    if (unlikely(lane->net->starved)) {
        lane->net->starved = false;
        lane->front_ops->wake(lane);
    }
}

static inline void net_give_back(struct lane *lane, struct packet *p)
{
    void *slot = p->slot;

    p->slot = NULL;
    lane->front_ops->sent(lane, &slot, 1);
}

static inline struct packet *net_packet_new(struct lane *lane, uint32_t length)
{
    struct net_lane *net = lane->net;
    bool small = length <= NET_SMALL - sizeof(struct packet);
    struct packet *p =
        length <= NET_MAX_FRAME ? net_pool_take(small ? &net->small : &net->big, lane) : NULL;

    if (unlikely(!p))
        return NULL;
    p->pub.length = length;
    p->pub.needs = p->pub.flags = 0;
    p->pub.next = NULL;
    p->slot = NULL;
    p->holder = NULL;
    return p;
}

static inline void net_packet_free(struct lane *lane, struct packet *p)
{
    /* Also of one that a layer turned around, and that ends with the guest that sent it. */
    if (p->slot)
        net_give_back(lane, p);
    net_pool_put(net_pool_of(lane->net, p), p, lane);
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

/** net_cut_from() - where what the frames of super-frame @p share out begins: fragments have one transport header for all. */
static inline uint32_t net_cut_from(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);

    return p->needs & DT_OFFLOAD_UFO ? h->l4 : h->payload;
}
/** net_cut_header() - and the bytes that each of them has before that: IPv6 has a header that says of fragments. */
static inline uint32_t net_cut_header(struct dt_packet *p)
{
    return net_cut_from(p) + (p->needs & DT_OFFLOAD_UFO6 ? NET_FRAGMENT_HEADER : 0);
}

/** net_pseudo_sum() - of a TCP or UDP packet, not complemented: what a partial checksum begins with. */
uint16_t net_pseudo_sum(const struct dt_headers *h, const uint8_t *data);

/** net_parse_walk() - as dt_parse(), without its short cut for the usual packets. */
void net_parse_walk(struct dt_headers *h, const uint8_t *data, uint32_t length);

/** net_drop() - as dt_drop(), counted elsewhere. */
void net_drop(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
/** net_packet_resize() - @p, or another in its place with its descriptor, of @length undefined bytes. NULL: there is no memory,
 *  and @p is as it was. */
struct dt_packet *net_packet_resize(struct dt_ctx *c, struct dt_packet *p, uint32_t length);

/** net_violated() - tell who handed on a packet that was not its own, and end the process. */
_Noreturn void net_violated(const struct ctx *c, const struct packet *p, const char *what);

int net_pools_init(struct net_lane *net);
void net_pools_fini(struct net_lane *net);
/** net_pool_room() - how many packets, of whatever length, there are. */
uint32_t net_pool_room(const struct net_lane *net);

#endif
