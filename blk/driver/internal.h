/* SPDX-License-Identifier: MIT */
/* internal.h - what the driver's own files share. */
#ifndef BLK_DRIVER_INTERNAL_H
#define BLK_DRIVER_INTERNAL_H

#include "blk/driver/driver.h"

/* Guest-physical addresses begin here, so that none is by chance an address of ours. */
#define DRIVER_GPA 0x100000000ull

/** struct driver_line - what a request shares with the back end, in one cache line. */
struct driver_line {
    struct virtio_blk_outhdr header;
    uint8_t status;
} CACHE_ALIGNED;

struct driver_queue {
    struct virtq_driver ring;
    int kick, call;
    unsigned depth;
    uint16_t ring_size;
    unsigned in_flight;
    uint8_t *ring_memory;
    struct driver_request *requests;
    struct driver_request **by_id; /* in flight, by the ring's id */
} CACHE_ALIGNED;

struct driver {
    struct driver_config config;
    char *path;
    struct vhost_frontend *session;
    struct driver_info info;
    int inflight_fd;
    struct vhost_inflight inflight;
    int memory_fd;
    uint8_t *memory;
    size_t memory_size;
    struct driver_queue *queues;
};

static inline uint64_t driver_gpa(const struct driver *d, const void *p)
{
    return DRIVER_GPA + (uint64_t)((const uint8_t *)p - d->memory);
}

/* queue.c */
size_t queue_bytes(const struct driver_config *config);
int queue_init(struct driver *d, unsigned index, uint8_t *memory, struct dt_error *err);
void queue_fini(struct driver_queue *q);
/** queue_start() - hand the ring to a new session. @again: it was in use before. */
int queue_start(struct driver *d, unsigned index, bool again, struct dt_error *err);

#endif
