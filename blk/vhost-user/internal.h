/* SPDX-License-Identifier: MIT */
/* internal.h - the front of a disk: slots, configuration, modes. */
#ifndef BLK_VHOST_USER_INTERNAL_H
#define BLK_VHOST_USER_INTERNAL_H

#include "blk/vhost-user/front.h"
#include "front/served.h"
#include <linux/virtio_blk.h>

#define FRONT_BURST       VIRTQ_GOOD_BURST
#define FRONT_SERIAL_SIZE 20u

/**
 * struct slot - a request between the ring and the chain; one per descriptor chain the ring can hold.
 * @status:  where the guest expects the status byte.
 * @trimmed: the status byte shares its vector with data: the vector was cut by one.
 */
struct slot {
    struct virtq_chain chain;
    struct front_queue *queue;
    uint8_t *status;
    bool trimmed;
    struct slot *next; /* put aside */
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
} CACHE_ALIGNED;

struct disk_front {
    struct front front;
    char serial[FRONT_SERIAL_SIZE];
    bool writeback;
    bool fua; /* every write must be durable when completed */
    struct virtio_blk_config config;
};
#define DISK(f) container_of(f, struct disk_front, front)

/* stuck.c */
/** front_stuck() - requests that are older than a second, the oldest 16; new reference. */
json_t *front_stuck(const struct front *front);

/* request.c: between ring and chain. */
unsigned front_queue_poll(struct loop_poller *poller);
bool front_queue_arm(struct loop_poller *poller);
void front_complete(struct lane *lane, struct request **reqs, unsigned n);
void front_each(struct lane *lane, void (*look)(struct lane *lane, struct request *req));
/** disk_take_aside() - what was put aside goes back to the rings that no longer run, or fails. */
void disk_take_aside(struct front_lane *fl);
/** disk_submit_aside() - and all of it into the chain. Return: false if the chain takes nothing now. */
bool disk_submit_aside(struct front_lane *fl);

#endif
