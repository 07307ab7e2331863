/* SPDX-License-Identifier: MIT */
/* net_rig.h - a network card on a loop of this thread, driven packet by packet, with both of its ends in the
 * test's hands. The chain ends with `wire` (takes all offloads) or `plain-wire` (takes none). */
#ifndef TESTS_NET_RIG_H
#define TESTS_NET_RIG_H

#include "base/bytes.h"
#include "core/net.h"
#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define RIG_FRAMES 4096u

/** struct rig_frame - a packet as it left the chain, at either end. */
struct rig_frame {
    uint8_t *data;
    uint32_t length;
    uint8_t needs;
    uint16_t segment, queue;
    uint64_t at; /* loop_now() */
};

/** struct rig_list - frames in order; freed by rig_clear(). */
struct rig_list {
    struct rig_frame frames[RIG_FRAMES];
    unsigned n;
};

extern struct rig {
    struct loop *loop;
    struct device *dev;
    struct lane *lane;
    struct rig_list wire, guest;
    unsigned sent;    /* descriptors that came back */
    unsigned fetched; /* packets of which the rest was copied */
    unsigned woken;
    void (*answer)(void);    /* when packets have reached the wire; NULL = nobody does */
    unsigned changed;        /* times that the front was told */
    struct blob_area *blobs; /* where the card's floor is kept; NULL = nowhere */
    struct dt_error err;
} rig;

/** test_clock - what dt_clock_ns() says; 0 = the real one. Programs link with --wrap=dt_clock_ns. */
extern uint64_t test_clock;

/** struct rig_refusal - a chain that is not served, and what the error says of it. */
struct rig_refusal {
    const char *chain, *says;
};

/** rig_start() - serve @chain; ends the program with a message when it cannot. rig_try() returns. */
void rig_start(const char *chain);
int rig_try(const char *chain);
/** rig_refuses() - that they are; ends the program with a message when one is not. */
void rig_refuses(const struct rig_refusal *cases, unsigned n);
void rig_stop(void);
void rig_clear(void);
/** rig_send() - from the guest, as its ring would give it. Return: false if nothing is admitted, or
 *  dt_vnet_read() refused it. @v may be NULL. */
bool rig_send(const void *frame, uint32_t length, const struct dt_vnet_header *v, uint32_t allowed);
/** rig_arrive() - from the wire. */
void rig_arrive(const void *frame, uint32_t length, const struct dt_vnet_header *v);
/** rig_gather() - what is sent or arrives from now on is kept, at most NET_BURST each way; rig_let_go() - it goes on as one batch each way. */
void rig_gather(void);
void rig_let_go(void);
/** rig_counter() - of a layer, by name. */
uint64_t rig_counter(const char *layer, const char *counter);
uint64_t rig_ops(const char *layer, const char *way, const char *what);
void rig_turn(void);

/* ---- Frames ---- */

/** struct frame - a builder. */
struct frame {
    uint8_t bytes[NET_MAX_FRAME];
    uint32_t n;
};
void frame_ether(struct frame *f, uint16_t type);
void frame_vlan(struct frame *f, uint16_t tpid, uint16_t tci, uint16_t type);
/** frame_ipv4() and following begin a header; frame_end() fills in lengths and checksums of all. */
void frame_ipv4(struct frame *f, uint8_t protocol, const char *from, const char *to);
void frame_ipv6(struct frame *f, uint8_t next, const char *from, const char *to);
void frame_tcp(struct frame *f, uint16_t from, uint16_t to, uint32_t seq, uint8_t flags);
void frame_udp(struct frame *f, uint16_t from, uint16_t to);
void frame_bytes(struct frame *f, const void *bytes, uint32_t n);
void frame_pattern(struct frame *f, uint32_t n);
void frame_end(struct frame *f);
/** frame_kind() - the headers of one of FRAME_KINDS: IPv4 or IPv6, UDP or TCP to @port, partial checksum or not,
 *  to be cut into segments of 1000 bytes or not; UDP with FRAME_CSUM | FRAME_SUPER into fragments. Return: what the guest says of it. */
#define FRAME_KINDS 16u
#define FRAME_V6    1u
#define FRAME_TCP   2u
#define FRAME_SUPER 4u
#define FRAME_CSUM  8u
static inline bool frame_fragments(unsigned kind)
{
    return (kind & (FRAME_TCP | FRAME_SUPER | FRAME_CSUM)) == (FRAME_SUPER | FRAME_CSUM);
}
struct dt_vnet_header frame_kind(struct frame *f, unsigned kind, uint16_t port);
/** frame_sums_right() - are IP header and transport checksums right, as a receiver sees it? Computed
 *  here, by the letter of RFC 1071. */
bool frame_sums_right(const uint8_t *data, uint32_t length);

#endif
