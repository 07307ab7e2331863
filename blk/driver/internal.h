/* SPDX-License-Identifier: MIT */
/* internal.h - what the driver's own files share. */
#ifndef BLK_DRIVER_INTERNAL_H
#define BLK_DRIVER_INTERNAL_H

#include "blk/driver/driver.h"

/* Guest-physical addresses begin here, so that none is by chance an address of ours. */
#define VBLK_GPA 0x100000000ull

/** struct vblk_line - what a request shares with the back end, in one cache line. */
struct vblk_line {
    struct virtio_blk_outhdr header;
    uint8_t status;
} CACHE_ALIGNED;

struct vblk_queue {
    struct virtq_driver ring;
    int kick, call;
    unsigned depth;
    uint16_t ring_size;
    unsigned in_flight;
    uint8_t *ring_memory;
    struct vblk_request *requests;
    struct vblk_request **by_id; /* in flight, by the ring's id */
} CACHE_ALIGNED;

struct vblk {
    struct vblk_config config;
    char *path;
    struct vhost_frontend *session;
    struct vblk_info info;
    int inflight_fd;
    struct vhost_inflight inflight;
    int memory_fd;
    uint8_t *memory;
    size_t memory_size;
    struct vblk_queue *queues;
};

static inline uint64_t vblk_gpa(const struct vblk *d, const void *p)
{
    return VBLK_GPA + (uint64_t)((const uint8_t *)p - d->memory);
}

/* queue.c */
size_t vblk_queue_bytes(const struct vblk_config *config);
int vblk_queue_init(struct vblk *d, unsigned index, uint8_t *memory, struct dt_error *err);
void vblk_queue_fini(struct vblk_queue *q);
/** vblk_queue_start() - hand the ring to a new session. @again: it was in use before. */
int vblk_queue_start(struct vblk *d, unsigned index, bool again, struct dt_error *err);

#endif
