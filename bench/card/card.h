/* SPDX-License-Identifier: MIT */
/* card.h - a guest's driver of one network card, as little as one needs: what is measured is the other side. */
#ifndef BENCH_CARD_CARD_H
#define BENCH_CARD_CARD_H

#include "base/base.h"
#include "ring/ring.h"
#include <devtap/net.h>

#include <linux/virtio_net.h>

#define CARD_RING   256u /* descriptors: what QEMU gives a card that is not told otherwise */
#define CARD_MEMORY ((size_t)64 << 20)
#define CARD_HEADER sizeof(struct dt_vnet_header)

enum card_ring { CARD_RX, CARD_TX, CARD_RINGS };

/**
 * struct card - rings at the end of the guest's memory; all before CARD_BUFFERS is for buffers, by guest-physical address.
 * @kick: the device wants to be told of @ring.
 * @call: of vhost-user alone.
 */
struct card {
    uint8_t *memory;
    struct virtq_driver rings[CARD_RINGS];
    uint64_t features;
    void (*kick)(struct card *card, enum card_ring ring);
    int call[CARD_RINGS], kicks[CARD_RINGS];
    int qtest;
    struct vhost_frontend *session;
};
#define CARD_BUFFERS (CARD_MEMORY - ((size_t)1 << 20))

/** card_open_vhost() - a back end's, by vhost-user; ends the program with a message when that fails. */
void card_open_vhost(struct card *card, const char *path);
/** card_open_qemu() - QEMU's own: on a machine `microvm` that runs nothing, over qtest, with its memory in a file. */
void card_open_qemu(struct card *card, const char *qtest, const char *memory);
/** card_wanted() - the features that a driver as Linux's would have of these. */
uint64_t card_wanted(uint64_t offered);
/** card_rings_init() - lay the rings out, empty; @features are agreed. */
void card_rings_init(struct card *card);
/** card_publish() - show what was added to @ring. */
static inline void card_publish(struct card *card, enum card_ring ring)
{
    if (virtq_driver_publish(&card->rings[ring]))
        card->kick(card, ring);
}
/** card_pin() - this thread to a processor. */
void card_pin(unsigned cpu);
/** card_fail() - a message, and the end. */
_Noreturn void card_fail(const char *what, const char *why);
/** card_pseudo() - the partial checksum that belongs into a TCP header of IPv4, of @length bytes with the payload. */
uint16_t card_pseudo(const uint8_t *ip, uint8_t protocol, uint32_t length);
/** card_ipv4() - an IPv4 header with its checksum at @ip, of @length bytes with what follows. */
void card_ipv4(uint8_t *ip, uint8_t protocol, uint32_t length, uint32_t from, uint32_t to);

#endif
