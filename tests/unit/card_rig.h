/* SPDX-License-Identifier: MIT */
/*
 * card_rig.h - a network card served by a thread of this process: its wire in the test's hands, and a guest with one pair
 * of rings of which every byte is the test's, for what no decent driver would do.
 */
#ifndef TESTS_CARD_RIG_H
#define TESTS_CARD_RIG_H

#include "core/net.h"
#include "soft_disk.h"

#include "net/virtio/offloads.h"
#include <linux/virtio_net.h>

#define CARD_MEMORY  (4u << 20)
#define CARD_DATA    (1u << 20) /* offset in memory behind the rings */
#define CARD_GPA     0x40000000ull
#define CARD_RING    128u
#define CARD_FRAMES  64u
#define CARD_WAIT_MS 10000

enum card_ring { CARD_RX, CARD_TX, CARD_RINGS };

/** struct card_frame - as it came to the wire. @bytes: for free(). */
struct card_frame {
    uint8_t *bytes;
    uint32_t length;
    uint16_t segment;
    uint8_t needs;
};

/**
 * struct card_guest - @soft: the card. @packed, @features: as wanted; what is always wanted comes on top, but for VERSION_1 where
 * @legacy.
 */
struct card_guest {
    struct soft_disk soft;
    struct vhost_frontend *front;
    struct virtq_driver rings[CARD_RINGS];
    bool packed, legacy;
    uint64_t features;
    uint8_t *memory;
    int memory_fd, kick[CARD_RINGS], call[CARD_RINGS];
};

/** card_serve() - a card whose chain is the wire alone. */
void card_serve(struct soft_disk *soft);
/** wire_link() - what the wire says of its link from now on; the card @soft is told, NULL = none. */
void wire_link(struct soft_disk *soft, enum dt_link link);
/** card_guest_start() - serve a card whose chain is the wire alone, and attach. Ends the program with a message when it cannot. */
void card_guest_start(struct card_guest *g);
void card_guest_stop(struct card_guest *g);
void card_guest_attach(struct card_guest *g);
void card_guest_detach(struct card_guest *g);
/** card_guest_offer() - one chain for the card, which is told. */
void card_guest_offer(struct card_guest *g, enum card_ring ring, const struct virtq_buffer *bufs,
                      unsigned nread, unsigned nwrite);
/** card_guest_reap() - wait for the next chain that comes back. Return: bytes written, or -ETIMEDOUT, -EPROTO. */
int64_t card_guest_reap(struct card_guest *g, enum card_ring ring, uint16_t *id, int timeout_ms);
/** card_guest_gone() - wait until the back end hung up; false if it did not within @timeout_ms. */
bool card_guest_gone(struct card_guest *g, int timeout_ms);
/** card_guest_dropped() - of the counters that `show` tells. */
uint64_t card_guest_dropped(struct card_guest *g, const char *why);

/** wire_arrive() - a packet comes from the wire; @v as dt_vnet_read() has it, or NULL. */
void wire_arrive(struct card_guest *g, const void *frame, uint32_t length,
                 const struct dt_vnet_header *v);
/** wire_take() - the oldest of the frames that came to the wire of any card; false: there is none. Its bytes are for free(). */
bool wire_take(struct card_frame *frame);

#endif
