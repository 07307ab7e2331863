/* SPDX-License-Identifier: MIT */
/*
 * driver.h - a virtio-blk driver in user space, for any vhost-user-blk back end: what a guest's
 * kernel would be. `devtap bench` and tests drive back ends with it.
 *
 * Theory of operation: the driver owns a memfd that plays the guest's memory: rings, one cache line
 * for each request's header and status, and a data buffer for each request. Every queue has
 * `depth` requests, which are either the caller's or in flight. One thread uses a queue at a time;
 * opening, reconnecting and closing happen while none does.
 */
#ifndef BLK_DRIVER_H
#define BLK_DRIVER_H

#include "vhost/frontend.h"

#include <linux/virtio_blk.h>

/**
 * struct vblk_config - a connection to be.
 * @path:    socket of the back end.
 * @sock:    connected to it already, taken over; 0 = connect to @path. There is no coming back then.
 * @queues:  how many to use; opening fails when the back end offers fewer.
 * @depth:   requests of each queue; at most 8192.
 * @bytes:   the largest data of one request; a multiple of 512.
 * @packed, @event_idx: needed, and wanted, of the rings.
 * @no_inflight: do without the back end's in-flight log, as SPDK and DPDK do.
 * @huge:    put the memory in huge pages.
 * @timeout_ms: for each answer of the back end.
 */
struct vblk_config {
    const char *path;
    int sock;
    unsigned queues;
    unsigned depth;
    uint32_t bytes;
    bool packed, event_idx, huge, no_inflight;
    int timeout_ms;
};

/** struct vblk_info - the disk, and what was agreed with the back end. */
struct vblk_info {
    struct virtio_blk_config disk; /* capacity is in sectors; zeroes where the feature is missing */
    uint64_t features, protocol;
    unsigned queues; /* offered */
    bool inflight;   /* the back end logs requests in flight: they survive it */
};

/**
 * struct vblk_request - one request; its memory lives as long as the driver.
 * @data:   buffer of vblk_config.bytes, in memory shared with the back end.
 * @type:   VIRTIO_BLK_T_IN, _OUT, _FLUSH, _GET_ID, _DISCARD or _WRITE_ZEROES.
 * @bytes:  of data: of the disk's, or the 20 of _GET_ID, or of the ranges that _DISCARD has in
 * @data.
 * @sector: where.
 * @status: VIRTIO_BLK_S_* once it came back, 0xff if the back end left it unset.
 * @tag:    the caller's.
 */
struct vblk_request {
    uint8_t *data;
    uint64_t sector;
    uint32_t type;
    uint32_t bytes;
    uint64_t tag;
    uint8_t status;
    bool busy; /* in flight; the driver's */
    struct vblk_line *line_;
    struct virtq_buffer bufs_[3];
};

struct vblk;
struct vblk_queue;

int vblk_open(struct vblk **driver, const struct vblk_config *config, struct dt_error *err);
void vblk_close(struct vblk *driver);
const struct vblk_info *vblk_info(const struct vblk *driver);
struct vblk_queue *vblk_queue(struct vblk *driver, unsigned index);
/** vblk_request() - request @index of a queue, below its depth. */
struct vblk_request *vblk_request(struct vblk_queue *q, unsigned index);

/** vblk_submit() - add a request that is the caller's to the ring; seen after vblk_publish(). */
void vblk_submit(struct vblk_queue *q, struct vblk_request *req);
/** vblk_publish() - show what was submitted, and kick the back end if it wants that. */
void vblk_publish(struct vblk_queue *q);
/**
 * vblk_reap() - collect at most @max requests that came back; they are the caller's again.
 * Return: how many, or -EPROTO when the back end broke the ring: vblk_fault() says how.
 */
int vblk_reap(struct vblk_queue *q, struct vblk_request **done, unsigned max);
const char *vblk_fault(const struct vblk_queue *q);
/**
 * vblk_poll() - ask for no calls: the caller looks by itself. This or vblk_wait() decides
 *  how completions are noticed.
 */
void vblk_poll(struct vblk_queue *q);
/** vblk_wait() - ask for a call and sleep until there is something to reap, or @timeout_ms passed.
 */
void vblk_wait(struct vblk_queue *q, int timeout_ms);
/**
 * vblk_arm() - for who waits by itself: ask for a call.
 * Return: the descriptor that becomes readable with the next completion (read its 8 bytes then), or -1 if
 * there is something to reap already.
 */
int vblk_arm(struct vblk_queue *q);
unsigned vblk_in_flight(const struct vblk_queue *q);

/**
 * vblk_alive() - false when the back end is gone. Also handles what the back end itself asks:
 * @changed is set when the disk changed; then vblk_info() is new. Any thread, one at a time.
 */
bool vblk_alive(struct vblk *driver, bool *changed);
/**
 * vblk_reconnect() - after the back end went away and every queue was reaped until nothing
 * came: connect again, with the same memory. What is in flight will come back: by the
 * back end's in-flight log, or where it has none because it is submitted again here.
 *
 * Return: 0; -ECONNREFUSED or -ENOENT while nobody listens; else what failed.
 */
int vblk_reconnect(struct vblk *driver, struct dt_error *err);

#endif
