/* SPDX-License-Identifier: MIT */
/*
 * fake_rear.h - a vhost-user back end made by hand, on a thread of its own, that lies as it is
 * told. It knows split rings with and without indirect tables, and has a disk in memory; or it is a network card, and
 * keeps what is sent to it.
 */
#ifndef TESTS_FAKE_REAR_H
#define TESTS_FAKE_REAR_H

#include "vhost/message.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <pthread.h>

#define FAKE_SECTORS 2048u
#define FAKE_FEATURES                                                                              \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |                            \
     1ull << VHOST_FEATURE_PROTOCOL | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH | \
     1ull << VIRTIO_BLK_F_SEG_MAX)
#define FAKE_PROTOCOL                                                               \
    (1ull << VHOST_F_MQ | 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_BACKEND_REQ | \
     1ull << VHOST_F_CONFIG | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS)

#define FAKE_NET_FEATURES                                                                   \
    (1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_FEATURE_PROTOCOL |                          \
     1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_CSUM | \
     1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_CSUM |                     \
     1ull << VIRTIO_NET_F_GUEST_TSO4)
#define FAKE_NET_PROTOCOL (1ull << VHOST_F_MQ | 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_MTU)
#define FAKE_FRAME        65700u

/** enum fake_lie - what the next request is answered with instead of the truth; said once. */
enum fake_lie {
    LIE_NONE,
    LIE_STATUS, /* a status byte that does not exist */
    LIE_UNSET,  /* none at all */
    LIE_SHORT,  /* a read that wrote less than was asked */
    LIE_LONG,   /* more written than there is room for */
    LIE_ID,     /* an id that was never offered */
    LIE_RANGE,  /* an id outside of the ring */
    LIE_TWICE,  /* the same id twice */
    LIE_INDEX,  /* an index far ahead */
    LIE_HANG_UP,
    LIE_COUNT,
};

struct fake_ring {
    uint64_t desc, avail, used;
    uint16_t size, next;
    int kick, call;
    bool enabled;
};

/**
 * struct fake_rear - set @features, @protocol and @disk or @card before fake_rear_start().
 * @asked: bytes of the configuration space that were last asked for.
 * @net: a network card, with ring 0 for packets to the front end and 1 for those from it. @frame: the last of these,
 *       with its header. @mute: it takes nothing from ring 1. @mtu: what it was told.
 * @lie: may be set at any time.
 * @connects: to somebody who listens at @path, again and again; else it listens itself.
 * @mangle: change a reply before it is sent; false = do not send it. May be NULL.
 * @mangle_used: change a used entry and the index that is published with it. May be NULL.
 * @mangle_frame: change @frame before it is sent back; NULL: it is not.
 */
struct fake_rear {
    char path[64];
    uint64_t features, protocol;
    struct virtio_blk_config disk;
    struct virtio_net_config card;
    uint32_t asked;
    int lie;
    bool (*mangle)(struct fake_rear *rear, struct vhost_message *m);
    void (*mangle_used)(struct fake_rear *rear, uint32_t *id, uint32_t *len, uint16_t *idx);
    void (*mangle_frame)(struct fake_rear *rear);
    void *arg;

    uint8_t data[FAKE_SECTORS * 512];
    unsigned sessions, flushes, served;
    pthread_t thread;
    pthread_mutex_t busy; /* but while it waits */
    int listen_fd, quit_fd, conn, events;
    struct memmap memory;
    struct fake_ring rings[2];
    bool net, mute, connects;
    uint8_t frame[FAKE_FRAME];
    uint32_t frame_bytes;
    uint16_t mtu;
};

void fake_rear_start(struct fake_rear *rear);
/** fake_rear_stop() - hang up and listen no more; may be started again at the same path. */
void fake_rear_stop(struct fake_rear *rear);
/** fake_rear_settle() - until it has done what it is at: then what is here may be looked at, if nothing is under way. */
void fake_rear_settle(struct fake_rear *rear);
/** fake_rear_send() - @bytes, header and packet, over as many of the front end's buffers as are needed, of @each bytes
 *  at most. Return: false where there are none. From any thread, while a session is up. */
bool fake_rear_send(struct fake_rear *rear, const void *bytes, uint32_t n, uint32_t each);
/** fake_rear_resize() - and tell the front end. */
void fake_rear_resize(struct fake_rear *rear, uint64_t sectors);
/** fake_rear_say() - the card's configuration space is @card from now on; tell the front end. Return: false if none is there. */
bool fake_rear_say(struct fake_rear *rear, const struct virtio_net_config *card);

#endif
