/* SPDX-License-Identifier: MIT */
/*
 * disk.h - a vhost-user-blk back end as blocking calls for any number of threads.
 *
 * Theory of operation: all threads share one queue of the driver under one mutex, which is held to
 * submit, to publish and to reap, never to move data or to wait. A thread takes a slot, submits, and waits for
 * its own request. One of those that wait, the *leader*, waits for the ring's call and reaps for all; when its
 * own request is done it steps down, and another takes over.
 *
 * The leader also notices that the back end is gone. It connects again, and the driver has what was in flight
 * served again; meanwhile the callers just wait. After `patience` it gives up, and every call fails from then on.
 */
#ifndef NBDKIT_DISK_H
#define NBDKIT_DISK_H

#include "blk/driver/driver.h"

#include <pthread.h>

/** struct disk_slot - one request of the driver. */
struct disk_slot {
    struct vblk_request *req;
    struct disk_slot *next;
    bool done;
};

/**
 * struct disk - zero it, fill the first part, disk_open().
 * @path:     the back end's socket.
 * @depth:    requests at a time.
 * @patience: how long a back end that is gone is waited for, in ns.
 */
struct disk {
    const char *path;
    uint64_t depth, patience;

    struct vblk *driver;
    struct vblk_queue *queue;
    uint32_t chunk; /* the largest data of one request */
    pthread_mutex_t lock;
    pthread_cond_t slot_free, progress;
    struct disk_slot *slots, *free;
    bool led;  /* somebody waits for the ring */
    bool gone; /* for good */
};

int disk_open(struct disk *disk, struct dt_error *err);
void disk_close(struct disk *disk);
/** disk_config() - what the disk is now. */
void disk_config(struct disk *disk, struct virtio_blk_config *config);
bool disk_has(const struct disk *disk, unsigned feature);

/*
 * Each returns 0 or -errno, and @err says why. Ranges are multiples of the disk's block size; they may be longer
 * than one request.
 */
int disk_read(struct disk *disk, void *data, uint32_t bytes, uint64_t offset, struct dt_error *err);
int disk_write(struct disk *disk, const void *data, uint32_t bytes, uint64_t offset,
               struct dt_error *err);
int disk_flush(struct disk *disk, struct dt_error *err);
int disk_discard(struct disk *disk, uint32_t bytes, uint64_t offset, struct dt_error *err);
int disk_zero(struct disk *disk, uint32_t bytes, uint64_t offset, bool unmap, struct dt_error *err);

#endif
