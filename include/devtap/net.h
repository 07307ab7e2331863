/* SPDX-License-Identifier: MIT */
/*
 * devtap/net.h - the network extension API: put your own code between a virtual machine's network card and
 * the wire.
 *
 * A soft network card is a front (where the VM attaches), a chain of extensions, and a back (what leads to
 * the wire). Extensions and backs are layers: one static struct dt_net_ext of a name and callbacks,
 * where NULL means "pass through". A layer without a callback is left out of that direction when the
 * chain is built, and costs nothing.
 *
 *     guest -> front -> [transmit ->] layer 1 -> layer 2 -> ... -> back -> wire
 *     guest <- front <- [<- receive] layer 1 <- layer 2 <- ... <- back <- wire
 *
 * A minimal extension is `tx` (or `rx`) and a struct of about ten lines. Callbacks come in two forms:
 * for batches (`transmit`, `receive`) and for each packet (`tx`, `rx`; core makes the loop).
 *
 * Packets are private: the front takes one copy out of the guest's memory, and what a layer judged cannot
 * change afterwards. The packet that a layer was given is its own until it hands it on, exactly once:
 * with dt_transmit() toward the wire, dt_receive() toward the guest, or dt_drop(). Core checks this at
 * every crossing, and a violation ends the process. The guest's descriptor of a packet that it sent
 * stays outstanding until the packet has left the chain: who holds such a packet lets the VM bear the queue.
 *
 * Threads, contexts, parameters, counters, verbs, timers, state: as for disks, <devtap/layer.h>.
 */
#ifndef DEVTAP_NET_H
#define DEVTAP_NET_H

#include <devtap/layer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Packets ---------------------------------------------------------------------------- */

enum dt_direction {
    DT_TX, /* from the guest to the wire */
    DT_RX, /* from the wire to the guest */
};

/** enum dt_offload - what is left to do on a packet; and what somebody is able to do. */
enum dt_offload {
    DT_OFFLOAD_CSUM = 1,  /* partial checksum: that of TCP or UDP covers the pseudo header alone */
    DT_OFFLOAD_TSO4 = 2,  /* super-frame: TCP over IPv4, to be cut into segments */
    DT_OFFLOAD_TSO6 = 4,  /* the same over IPv6 */
    DT_OFFLOAD_USO4 = 8,  /* super-frame of UDP datagrams over IPv4 */
    DT_OFFLOAD_USO6 = 16, /* the same over IPv6 */
    DT_OFFLOAD_FETCH =
        32, /* peeked: all but its first DT_PEEK_BYTES is still the guest's: dt_peek() */
    DT_OFFLOAD_UFO4 = 64,  /* super-frame: one UDP datagram, to be cut into fragments of IPv4 */
    DT_OFFLOAD_UFO6 = 128, /* the same of IPv6 */
};
#define DT_OFFLOAD_UFO (DT_OFFLOAD_UFO4 | DT_OFFLOAD_UFO6)
#define DT_OFFLOAD_SUPER \
    (DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6 | DT_OFFLOAD_USO4 | DT_OFFLOAD_USO6 | DT_OFFLOAD_UFO)
/* Does not contain DT_OFFLOAD_FETCH, which only those take who say so. */
#define DT_OFFLOAD_ALL (DT_OFFLOAD_CSUM | DT_OFFLOAD_SUPER)

/** enum dt_header_flags - what was found in a packet. */
enum dt_header_flags {
    DT_HDR_IPV4 = 1,
    DT_HDR_IPV6 = 2,
    DT_HDR_ARP = 4, /* for IPv4 over Ethernet, whole */
    DT_HDR_TCP = 8, /* its header, and those below, are whole */
    DT_HDR_UDP = 16,
    DT_HDR_ICMP = 32,
    DT_HDR_ICMP6 = 64,
    DT_HDR_FRAGMENT = 128, /* of an IP packet, the first one too */
    DT_HDR_LATER = 256,    /* a fragment that is not the first: what follows is payload */
    DT_HDR_OPTIONS = 512,  /* IPv4 with options, or IPv6 with extension headers */
    DT_HDR_BROKEN =
        1024, /* it contradicts itself, or ends too soon: the fields below the fault are 0 */
    DT_HDR_LLC = 2048, /* IEEE 802.3 with a length instead of a type */
};
#define DT_HDR_IP (DT_HDR_IPV4 | DT_HDR_IPV6)

/**
 * struct dt_headers - where the headers of a packet are. Offsets are from the first byte of the frame;
 * 0 = not there.
 * @flags:    enum dt_header_flags.
 * @type:     EtherType after all VLAN tags; 0 with DT_HDR_LLC.
 * @vlans:    how many tags there are; @vlan has the outer two, as on the wire: priority and number.
 * @l3, @l4, @payload: network header, transport header, and what that carries.
 * @end:      where the network header says that the packet ends; what follows it is padding.
 * @protocol: of the transport, after the extension headers.
 */
struct dt_headers {
    uint16_t flags;
    uint16_t type;
    uint16_t vlan[2];
    uint8_t vlans;
    uint8_t protocol;
    uint16_t l3;
    uint16_t l4;
    uint16_t payload;
    uint32_t end;
};

enum dt_packet_flags {
    DT_PACKET_PARSED = 1,     /* headers_ are right; private to dt_headers() */
    DT_PACKET_CSUM_VALID = 2, /* whoever gave us the packet has verified its checksum */
    DT_PACKET_MARK = 4,       /* its holder's, who clears it before it hands the packet on */
};

/**
 * struct dt_packet - one Ethernet frame, without its frame check sequence; contiguous, in private memory.
 * @data, @length: the frame; at least 14 bytes.
 * @needs:   enum dt_offload bits: what is left to do. A layer sees only what it declared to take.
 *           With DT_OFFLOAD_CSUM the checksum is that of the TCP or UDP header in dt_headers().l4.
 * @segment: of a super-frame: payload bytes of each segment but the last; of fragments those of IP, which the UDP header
 *           is among.
 * @queue:   the guest's queue pair that it came from; where it will go is the front's to choose.
 * @flags:   enum dt_packet_flags.
 * @when:    ns of dt_clock_ns(): when it was taken. Its holder may use it for a time of its own.
 * @next:    for lists of its holder.
 * @reason:  of a drop: see dt_drop_as().
 */
struct dt_packet {
    uint8_t *data;
    uint32_t length;
    uint8_t needs;
    uint8_t flags;
    uint16_t segment;
    uint16_t queue;
    uint16_t reason;
    struct dt_headers headers_; /* by dt_headers() */
    uint64_t when;
    struct dt_packet *next;
};

/** dt_parse() - find the headers of the @length bytes at @data, which may be anything. */
DT_PUBLIC void dt_parse(struct dt_headers *h, const uint8_t *data, uint32_t length);
/** dt_headers() - of this packet; looked for once. */
static inline const struct dt_headers *dt_headers(struct dt_packet *p)
{
    if (!(p->flags & DT_PACKET_PARSED)) {
        dt_parse(&p->headers_, p->data, p->length);
        p->flags |= DT_PACKET_PARSED;
    }
    return &p->headers_;
}
/** dt_packet_changed() - the bytes of its headers are other ones: look again. */
static inline void dt_packet_changed(struct dt_packet *p)
{
    p->flags &= (uint8_t)~DT_PACKET_PARSED;
}
/** dt_packet_segments() - how many frames it is on the wire. */
DT_PUBLIC unsigned dt_packet_segments(struct dt_packet *p);
/** dt_packet_wire_bytes() - the bytes of all these frames, each with its headers. */
DT_PUBLIC uint64_t dt_packet_wire_bytes(struct dt_packet *p);
/**
 * dt_packet_has_ports() - is its flow told by ports? Fragments have none, the first one either, so that all of a packet are one flow;
 * and so has a datagram that is to be cut into fragments: what answers it may come as such.
 * @p: with these headers.
 */
static inline bool dt_packet_has_ports(const struct dt_packet *p, const struct dt_headers *h)
{
    return h->flags & (DT_HDR_TCP | DT_HDR_UDP) && !(h->flags & DT_HDR_FRAGMENT) &&
           !(p->needs & DT_OFFLOAD_UFO);
}

/** dt_packet_flow() - a hash of its addresses, protocol and ports; the same in both directions. */
DT_PUBLIC uint32_t dt_packet_flow(struct dt_packet *p);

/**
 * dt_packet_new() - an empty packet of @length bytes, owned by this layer: for replies, or to replace another.
 * Return: NULL when there is no memory for packets now, or @length is above 65,600.
 */
DT_PUBLIC struct dt_packet *dt_packet_new(struct dt_ctx *c, uint32_t length);
/** dt_packet_copy() - another one with the same content; NULL as dt_packet_new(). */
DT_PUBLIC struct dt_packet *dt_packet_copy(struct dt_ctx *c, const struct dt_packet *p);
/** dt_packet_set_length() - cut it, or let it grow as far as dt_packet_room(); the new bytes are undefined. */
DT_PUBLIC void dt_packet_set_length(struct dt_packet *p, uint32_t length);
DT_PUBLIC uint32_t dt_packet_room(const struct dt_packet *p);

/** struct dt_vnet_header - struct virtio_net_hdr_v1: how guests and the kernel's TAP tell of offloads. */
struct dt_vnet_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
/**
 * dt_vnet_read() - take from @v what is left to do on @p. Nothing of it is trusted: super-frames and
 * checksums are those that the packet's own headers show, and a partial checksum anywhere else is
 * completed here.
 * @allowed: enum dt_offload bits that the sender may use.
 * Return: 0; -EINVAL for what contradicts the packet or is not allowed.
 */
DT_PUBLIC int dt_vnet_read(struct dt_packet *p, const struct dt_vnet_header *v, uint32_t allowed);
/** dt_vnet_write() - tell of @p, in a header made anew. */
DT_PUBLIC void dt_vnet_write(struct dt_packet *p, struct dt_vnet_header *v);
/** dt_checksum() - the Internet checksum (RFC 1071) of @length bytes, continued from @sum; not complemented. */
DT_PUBLIC uint16_t dt_checksum(const void *data, uint32_t length, uint16_t sum);

/** dt_transport_checksum() - what belongs into the checksum of @p's TCP or UDP header, in host order, whatever is there
 *  now. For copies of packets with DT_OFFLOAD_CSUM. */
DT_PUBLIC uint16_t dt_transport_checksum(struct dt_packet *p);

/* ---- Handing on ----------------------------------------------------------------------------- */

/** dt_transmit() - hand @n packets on toward the wire. Not for backs. */
DT_PUBLIC void dt_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
/** dt_receive() - hand @n packets on toward the guest. */
DT_PUBLIC void dt_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
/** dt_drop() - @n packets end here; @counter of the layer says why. */
DT_PUBLIC void dt_drop(struct dt_ctx *c, struct dt_packet **packets, unsigned n, unsigned counter);
/** dt_sent() - for backs: @n packets are on the wire, and the memory is free again. */
DT_PUBLIC void dt_sent(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
static inline void dt_transmit_one(struct dt_ctx *c, struct dt_packet *p)
{
    dt_transmit(c, &p, 1);
}
static inline void dt_receive_one(struct dt_ctx *c, struct dt_packet *p)
{
    dt_receive(c, &p, 1);
}
static inline void dt_drop_one(struct dt_ctx *c, struct dt_packet *p, unsigned counter)
{
    dt_drop(c, &p, 1, counter);
}
/**
 * dt_room() - for backs: how many packets the guest takes now. With none, leave them where they are;
 * `resume` tells when that changes. Those that come all the same are kept for a while, and then dropped.
 */
DT_PUBLIC unsigned dt_room(struct dt_ctx *c);
/**
 * dt_ring_size() - how many descriptors the guest's transmit ring has; of several, the smallest of this thread.
 * For layers that hold packets of the guest's, which takes that many of them at most. 256 while no ring runs.
 */
DT_PUBLIC unsigned dt_ring_size(struct dt_ctx *c);

/* ---- Packets that a layer holds ---- */

#define DT_PEEK_BYTES 128u
/**
 * dt_peek() - while @on, packets of the guest's come to this layer with their headers alone: there is a private copy of their
 * first DT_PEEK_BYTES bytes, and the rest stays in the guest's memory until the packet is handed on; it is
 * never copied of one that is dropped. For layers that hold packets and take some of them
 * out of their turn, or none.
 *
 * Such packets have DT_OFFLOAD_FETCH. They are long ones of TCP or UDP, unfragmented and without IP options, whose headers
 * are among those bytes; all others come whole. All of dt_headers() is right, and @length; of @data no more than
 * DT_PEEK_BYTES may be read, and none written. This layer, and those between it and the guest, must declare
 * to take DT_OFFLOAD_FETCH; else nothing changes.
 */
DT_PUBLIC void dt_peek(struct dt_ctx *c, bool on);
/** dt_packet_fetch() - have all of it here, as dt_transmit() does by itself for a layer that does not take such packets. */
DT_PUBLIC void dt_packet_fetch(struct dt_packet *p);
/**
 * dt_packet_rest() - where the rest of a packet with DT_OFFLOAD_FETCH is: for backs that copy it to their wire, or have the
 * kernel do so. It is the guest's memory: it may be read once, and not judged.
 * Return: how many pieces; 0 if they are more than @most, or nobody knows: then dt_packet_fetch() it.
 */
DT_PUBLIC unsigned dt_packet_rest(const struct dt_packet *p, struct iovec *iov, unsigned most);

/**
 * struct dt_pending - packets that wait, first in, first out: to look at, and to take in any order. Embed it; their `next` is
 * the list's. The guest's descriptors of those that it sent stay outstanding, so for the guest they are still in its ring;
 * but what was copied of them, all or with dt_peek() the headers, cannot change any more.
 */
struct dt_pending {
    struct dt_packet *first, **end;
    uint32_t count;
};
static inline void dt_pending_init(struct dt_pending *l)
{
    l->first = NULL;
    l->end = &l->first;
    l->count = 0;
}
/** dt_pending_add() - behind the others; false, and nothing, when @most wait. */
static inline bool dt_pending_add(struct dt_pending *l, struct dt_packet *p, uint64_t most)
{
    if (l->count >= most)
        return false;
    p->next = NULL;
    *l->end = p;
    l->end = &p->next;
    l->count++;
    return true;
}
/** dt_pending_peek() - the one behind @p, or the first (NULL); NULL = there is none. They stay where they are. */
static inline struct dt_packet *dt_pending_peek(const struct dt_pending *l,
                                                const struct dt_packet *p)
{
    return p ? p->next : l->first;
}
/** dt_pending_take() - @p, or the first (NULL), waits no longer; NULL if it did not. A walk as far as @p. */
static inline struct dt_packet *dt_pending_take(struct dt_pending *l, struct dt_packet *p)
{
    struct dt_packet **at = &l->first;

    while (p && *at && *at != p)
        at = &(*at)->next;
    p = *at;
    if (!p)
        return NULL;
    *at = p->next;
    if (!*at)
        l->end = at;
    l->count--;
    return p;
}

/* ---- Description ---- */

/** enum dt_link - does the wire carry anything? */
enum dt_link { DT_LINK_UNKNOWN, DT_LINK_UP, DT_LINK_DOWN };

/**
 * struct dt_net_info - what a card is. The back fills it; extensions may change it on the way up (`info`).
 * @mtu:      largest network packet, without the Ethernet header; 68 to 65,535.
 * @offloads: enum dt_offload bits that the guest may leave to us; all, unless a layer takes some away.
 * @link:     enum dt_link. It alone may change while the card runs: a back then calls dt_layer_info_changed().
 * @mac:      the address that what is behind the back takes for the card's; zero = nobody says.
 */
struct dt_net_info {
    uint16_t mtu;
    uint32_t offloads;
    uint8_t link;
    uint8_t mac[6];
};

/** enum dt_net_verdict - what a callback for each packet decided. DT_DROP comes from dt_drop_as(). */
enum dt_net_verdict {
    DT_ACCEPT, /* go on */
    DT_DROP,
    DT_HOLD, /* the layer keeps it and will hand it on itself */
};
/** dt_drop_as() - `return dt_drop_as(p, COUNTER)`. */
static inline enum dt_net_verdict dt_drop_as(struct dt_packet *p, unsigned counter)
{
    p->reason = (uint16_t)counter;
    return DT_DROP;
}

/**
 * struct dt_net_ext - an extension or a back. Zero what you do not use. Fields that struct dt_block_ext has
 * too mean the same.
 *
 * @abi, @size: use DT_NET_EXT_HEADER.
 * @flags:  enum dt_ext_flags; DT_CONTENT_BEARING means nothing here.
 * @takes:  enum dt_offload bits: what may be left to do on packets that this layer gets; for a back, what
 *          goes to the wire so. Core does the rest before: it cuts super-frames and completes checksums.
 */
struct dt_net_ext {
    uint32_t abi;
    uint32_t size;
    const char *name;
    const char *summary;
    const char *help;
    uint32_t flags;
    uint32_t takes;
    const struct dt_param *params;
    const struct dt_counter *counters;
    const struct dt_verb *verbs;
    size_t layer_size;
    size_t ctx_size;
    uint32_t state_version;

    /* Life, as for disks. */
    int (*open)(struct dt_layer *layer, struct dt_error *err);
    void (*close)(struct dt_layer *layer);
    int (*start)(struct dt_ctx *c, struct dt_error *err);
    void (*stop)(struct dt_ctx *c);
    /* What the card is: backs fill all of it, extensions change what they change. */
    int (*info)(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err);

    /* Packets to the wire, and from it; in batches or one by one, never both. */
    void (*transmit)(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
    void (*receive)(struct dt_ctx *c, struct dt_packet **packets, unsigned n);
    enum dt_net_verdict (*tx)(struct dt_ctx *c, struct dt_packet *p);
    enum dt_net_verdict (*rx)(struct dt_ctx *c, struct dt_packet *p);

    /* Before packets are taken from the guest's rings: how many of @want may be? The others stay there;
     * call dt_wake() when that changes. For rate limits. */
    unsigned (*admit)(struct dt_ctx *c, unsigned want);
    /* Backs: the guest takes packets again, after dt_room() said that it does not. */
    void (*resume)(struct dt_ctx *c);
    /* Let go of every held packet now: hand it on, or drop it. A layer that holds packets must have this. */
    void (*quiesce)(struct dt_ctx *c, uint64_t deadline);

    /* As for disks. */
    int (*set)(struct dt_layer *layer, unsigned index, struct dt_error *err);
    int64_t (*save)(struct dt_layer *layer, void *buf, size_t size);
    int (*load)(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err);
};

#define DT_NET_EXT_HEADER .abi = DT_ABI, .size = sizeof(struct dt_net_ext)

/** DT_NET_EXTENSION() - the entry of a shared object: `DT_NET_EXTENSION(my_ext)` once. */
#define DT_NET_EXTENSION(ext)                                  \
    DT_PUBLIC const struct dt_net_ext *dt_net_extension(void); \
    DT_PUBLIC const struct dt_net_ext *dt_net_extension(void)  \
    {                                                          \
        return &(ext);                                         \
    }

/** dt_layer_takes() - from open(): this layer takes only these of the offloads it declares, for as long as it is open. */
DT_PUBLIC void dt_layer_takes(struct dt_layer *layer, uint32_t takes);
/** dt_layer_takes_now() - from open() or set(): of packets of this direction it takes only these of the offloads it declares, until
 *  it says otherwise; never what dt_layer_takes() left out. */
DT_PUBLIC void dt_layer_takes_now(struct dt_layer *layer, enum dt_direction way, uint32_t takes);
/** dt_layer_net_info() - the card as the layer below describes it (valid from open() on). */
DT_PUBLIC const struct dt_net_info *dt_layer_net_info(const struct dt_layer *layer);

#ifdef __cplusplus
}
#endif
#endif
