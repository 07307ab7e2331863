/* SPDX-License-Identifier: MIT */
/*
 * internal.h - the back `vhost-user` of a network card: another vhost-user-net back end, the rear, takes the place of
 * the wire.
 *
 * Theory of operation: sessions with the rear are rear/rear.h's. Each of the device's threads is the driver of one
 * pair of rings, in a region of ours; buffers lie there, too, and packets are copied to them and from them. So
 * the rear has nothing of the guest's memory, and cannot change what was judged. (It does get that memory while it has
 * the guest's own rings.)
 *
 * To the rear (tx.c): a packet is done when it is copied; the guest gets its descriptor back. While the ring is full, or
 * the rear gone, packets wait in the guest's own ring, for a second at most (net/port/port.h). What was copied
 * when a session ends is lost: it is not sent twice.
 *
 * From the rear (rx.c): buffers are taken while the guest takes packets, else they stay in the ring, and the
 * rear finds no free ones. Lengths and the number of buffers of a packet are judged, and a lie ends the session; what a
 * virtio header says of a packet is judged as everybody's is, and a packet that contradicts it dropped.
 */
#ifndef NET_REAR_INTERNAL_H
#define NET_REAR_INTERNAL_H

#include "net/port/port.h"
#include "net/virtio/offloads.h"
#include "rear/rear.h"

#define CARD_HEADER  sizeof(struct dt_vnet_header) /* with VERSION_1 always */
#define CARD_BUFFER  2048u
#define CARD_BUFFERS 33u /* that the largest packet takes, with its header */
_Static_assert(CARD_BUFFERS *CARD_BUFFER >= PORT_LARGEST + CARD_HEADER, "");
#define CARD_PENDING 64u
#define CARD_MTU     9216u /* what a rear may choose: buffers are made for it */

enum card_ring { CARD_RX, CARD_TX };
enum card_counter { TX_LOST = REAR_OWN_COUNTERS, TX_FULL, RX_SHORT, RX_HEADER, RX_MEMORY };

/* The rear may lack any of these. */
#define CARD_HOST_SUPER                                                    \
    (REAR_BIT(VIRTIO_NET_F_HOST_TSO4) | REAR_BIT(VIRTIO_NET_F_HOST_TSO6) | \
     REAR_BIT(VIRTIO_NET_F_HOST_USO) | REAR_BIT(VIRTIO_NET_F_HOST_UFO))
#define CARD_GUEST_SUPER                                                     \
    (REAR_BIT(VIRTIO_NET_F_GUEST_TSO4) | REAR_BIT(VIRTIO_NET_F_GUEST_TSO6) | \
     REAR_BIT(VIRTIO_NET_F_GUEST_USO4) | REAR_BIT(VIRTIO_NET_F_GUEST_USO6) | \
     REAR_BIT(VIRTIO_NET_F_GUEST_UFO))
/* These say what its configuration space has. */
#define CARD_TELLING (REAR_BIT(VIRTIO_NET_F_MAC) | REAR_BIT(VIRTIO_NET_F_STATUS))
#define CARD_FEATURES                                                                        \
    (CARD_TELLING | REAR_BIT(VIRTIO_RING_F_EVENT_IDX) | REAR_BIT(VIRTIO_NET_F_MRG_RXBUF) |   \
     REAR_BIT(VIRTIO_NET_F_MQ) | REAR_BIT(VIRTIO_NET_F_MTU) | REAR_BIT(VIRTIO_NET_F_CSUM) |  \
     REAR_BIT(VIRTIO_NET_F_HOST_ECN) | CARD_HOST_SUPER | REAR_BIT(VIRTIO_NET_F_GUEST_CSUM) | \
     REAR_BIT(VIRTIO_NET_F_GUEST_ECN) | CARD_GUEST_SUPER)
/* What offloads=on promises of a rear that connects to us. */
#define CARD_OFFLOADS                                                        \
    (REAR_BIT(VIRTIO_NET_F_MRG_RXBUF) | REAR_BIT(VIRTIO_NET_F_CSUM) |        \
     REAR_BIT(VIRTIO_NET_F_HOST_TSO4) | REAR_BIT(VIRTIO_NET_F_HOST_TSO6) |   \
     REAR_BIT(VIRTIO_NET_F_GUEST_CSUM) | REAR_BIT(VIRTIO_NET_F_GUEST_TSO4) | \
     REAR_BIT(VIRTIO_NET_F_GUEST_TSO6))
/* Permissions that a rear may leave unused, and what concerns the control queue, which stays with the VMM. */
#define CARD_OPTIONAL                                                                          \
    (REAR_BIT(VIRTIO_NET_F_GUEST_CSUM) | REAR_BIT(VIRTIO_NET_F_GUEST_ECN) | CARD_GUEST_SUPER | \
     REAR_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | REAR_BIT(VIRTIO_NET_F_CTRL_VQ) |                  \
     REAR_BIT(VIRTIO_NET_F_CTRL_RX) | REAR_BIT(VIRTIO_NET_F_MQ) | REAR_BIT(VIRTIO_NET_F_MTU) | \
     REAR_BIT(VIRTIO_F_ANY_LAYOUT) | CARD_TELLING)
#define CARD_PROTOCOL                                                                     \
    (REAR_BIT(VHOST_F_MQ) | REAR_BIT(VHOST_F_REPLY_ACK) | REAR_BIT(VHOST_F_BACKEND_REQ) | \
     REAR_BIT(VHOST_F_MTU) | REAR_BIT(VHOST_F_CONFIG) | REAR_BIT(VHOST_F_CONFIGURE_MEM_SLOTS))

/**
 * struct card_rings - one thread's part of a session.
 * @tx_buffers, @rx_buffers: shared; of CARD_BUFFER and @rx_size bytes.
 * @tx_free: a stack of free buffers. @tx_next: the next of a packet's. @tx_first: by the ring's id, the first.
 * @rx_buffer: by the ring's id.
 */
struct card_rings {
    struct rear_part part;
    uint8_t *tx_buffers, *rx_buffers;
    uint32_t rx_size;
    uint16_t size, ntx_free, tx_packets;
    uint16_t *tx_free, *tx_next, *tx_first, *rx_buffer;
};

/** struct card_frame - the packet that is on its way from the rear, from its first buffer on. @buffers: 0 = none is. */
struct card_frame {
    struct dt_vnet_header header;
    unsigned buffers;
};

/** struct card_call - a ring's call eventfd, watched. */
struct card_call {
    struct dt_watch watch;
    struct card_ctx *cc;
    enum card_ring ring;
};

/** struct card_ctx - the back on one thread. @pending: what the rear returned and nobody looked at, from @at to @n. */
struct card_ctx {
    struct rear_lane lane;
    struct dt_ctx *c;
    struct card_rear *rear;
    struct card_rings *rings; /* NULL = no session, or the rear has the guest's rings */
    bool broken;              /* the rear lied: nothing is taken from its rings any more */
    bool starved;             /* there is no memory for packets now */
    bool compares;            /* the next packet's source with the address that the rear says */
    struct port_out out;
    struct loop_poller poller;
    struct loop_deferred publish;
    struct card_call calls[REAR_MAX_RINGS];
    struct dt_timer again;
    struct card_frame frame;
    struct {
        uint16_t buffer;
        uint32_t length;
    } pending[CARD_PENDING];
    unsigned at, n;
};

/** struct card_told - what the rear's configuration space says. @mtu 0, @mac zero: nothing. */
struct card_told {
    uint16_t mtu;
    uint8_t mac[6];
    enum dt_link link;
};

/**
 * struct card_rear - the layer's data.
 * @wanted_mtu: the parameter; 0 = what the rear says. @mtu: what the chain can have, and from start() on what the guest was promised.
 * @takes: what may be left to the rear; @gives: what it may leave to us.
 * @told: under rear.lock.
 */
struct card_rear {
    struct rear rear;
    uint64_t wanted_mtu;
    uint16_t mtu;
    struct card_told told;
    bool offloads;
    uint32_t takes, gives;
    bool mergeable, ecn;
};
static inline struct card_rear *card_rear(const struct rear *rear)
{
    return container_of((struct rear *)(uintptr_t)rear, struct card_rear, rear);
}

/* features.c: what is agreed with the rear. */
/** card_rear_promised() - of one that connects to us: what to want, and what it must have. */
void card_rear_promised(const struct rear *rear, uint64_t *wanted, uint64_t *needed);
/** card_rear_promise() - before one is there: describe it. */
void card_rear_promise(struct card_rear *cr);
int card_rear_agreed(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err);

/* config.c: what the rear says of the card. */
/** card_rear_learn() - read the configuration space, and judge it; @again as in rear_class.agreed. */
int card_rear_learn(struct card_rear *cr, struct rear_session *s, bool again, struct dt_error *err);
/** card_rear_mtu() - what it is with a rear that says @says, 0 = nothing. */
static inline uint16_t card_rear_mtu(const struct card_rear *cr, uint16_t says)
{
    return cr->wanted_mtu ? (uint16_t)cr->wanted_mtu : says ? MIN(says, CARD_MTU) : 1500;
}
/** card_rear_told() - what it said last; while it is gone, that the link is down. From any thread. */
struct card_told card_rear_told(struct card_rear *cr);
/** card_rear_compare() - a packet of the guest's: does it come from the address that the rear says? */
void card_rear_compare(struct card_ctx *cc, const struct dt_packet *p);

/* rings.c: a thread's part of the session's region. */
size_t card_rings_bytes(const struct rear *rear);
int card_rings_init(struct rear *rear, uint64_t features, struct rear_part *part,
                    struct dt_error *err);
void card_rings_fini(struct rear_part *part);

/* tx.c */
/** card_rear_write() - port_out.write: copy packets to the rear. */
unsigned card_rear_write(struct port_out *out, struct dt_packet **packets, unsigned n);
/** card_rear_reap() - what the rear has sent is free; returns how many packets that were. */
unsigned card_rear_reap(struct card_ctx *cc);

/* rx.c */
/** card_rear_receive() - from the rear to the guest; returns how many packets. */
unsigned card_rear_receive(struct card_ctx *cc);
/** card_rear_skip() - what the rear returned and nobody looked at is lost; it has the buffers again. */
void card_rear_skip(struct card_ctx *cc);
/** card_rear_offer() - give the rear all receive buffers, which it does not have yet. */
void card_rear_offer(struct card_rings *q);

/* queue.c: the rings on the device's threads. */
void card_ctx_init(struct card_ctx *cc, struct dt_ctx *c);
void card_rear_obey(struct rear_lane *lane, enum rear_order order, struct rear_part *part,
                    const struct rear_map *map);
/** card_rear_show() - rings have something new for the rear. */
void card_rear_show(struct card_ctx *cc);
/** card_rear_lied() - the session ends, and nothing more is taken from it. */
void card_rear_lied(struct card_ctx *cc);

#endif
