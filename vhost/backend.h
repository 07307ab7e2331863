/* SPDX-License-Identifier: MIT */
/* backend.h - the back-end session itself: it has the VMM's socket, memory and descriptors. */
#ifndef VHOST_BACKEND_H
#define VHOST_BACKEND_H

#include "vhost/session.h"

struct vhost_backend;

/**
 * struct vhost_backend_config - a session to be.
 * @sock: connected socket, non-blocking; becomes the session's.
 * @queues: queues offered (GET_QUEUE_NUM), whatever the number of threads; 1..VHOST_MAX_QUEUES.
 * @protocol_features: offered protocol features (bits of enum vhost_protocol_feature).
 * @keep_files: keep the descriptors of guest memory, to hand them on: vhost_backend_files().
 * @name: for log lines.
 */
struct vhost_backend_config {
    struct loop *loop;
    int sock;
    unsigned queues;
    uint64_t protocol_features;
    bool keep_files;
    const char *name;
    const struct vhost_device_ops *ops;
    void *dev;
};

/** vhost_backend_new() - serve a connection. On failure the socket stays the caller's. */
int vhost_backend_new(struct vhost_backend **session, const struct vhost_backend_config *config,
                      struct dt_error *err);
/**
 * vhost_backend_break() - end the session because of a peer's fault; the reason is logged
 * and passed to closed(). Rings are stopped first, through queue_stop(). From any callback or
 * from outside; nothing happens before the loop runs again, and the first reason is the one that
 * counts.
 */
void vhost_backend_break(struct vhost_backend *s, const char *fmt, ...) DT_PRINTF(2, 3);
/** vhost_backend_close() - end it in good order (the program is stopping); closed() follows. */
void vhost_backend_close(struct vhost_backend *s);
/** vhost_backend_ending() - is it closing, or did its peer hang up? closed() will follow. */
bool vhost_backend_ending(const struct vhost_backend *s);
/** vhost_backend_free() - from closed() or after it. */
void vhost_backend_free(struct vhost_backend *s);

/** vhost_backend_ring() - from queue_start() or later while the ring is started. */
int vhost_backend_ring(struct vhost_backend *s, unsigned q, struct vhost_ring *ring,
                       struct dt_error *err);
/** vhost_backend_call_fd(), _kick_fd() - the current eventfds; they may be replaced at run time. */
int vhost_backend_call_fd(const struct vhost_backend *s, unsigned q);
int vhost_backend_kick_fd(const struct vhost_backend *s, unsigned q);
/**
 * vhost_backend_queue_stopped(), vhost_backend_paused() - the answers to queue_stop() and pause(),
 * from within them or later, on the session's loop. The session goes on when the loop runs
 * again, never within the call.
 */
void vhost_backend_queue_stopped(struct vhost_backend *s, unsigned q, uint32_t base);
void vhost_backend_paused(struct vhost_backend *s);
/**
 * vhost_backend_faulted() - did a file behind the guest's memory, the dirty log or the in-flight
 * region turn out shorter than promised? The session looks at each message; a device looks where
 * it finds a ring corrupt or at its leisure, and breaks the session.
 */
bool vhost_backend_faulted(const struct vhost_backend *s);
/**
 * vhost_backend_notify_config() - the device's configuration changed: tell the driver.
 * Return: 0, also where earlier ones fill the channel; -ENOTSUP where the front end opened none, or what sending gave.
 */
int vhost_backend_notify_config(struct vhost_backend *s);
/** vhost_backend_iotlb_done(), _iotlb_miss() - as vhost_session_iotlb_done() and _miss(). */
void vhost_backend_iotlb_done(struct vhost_backend *s, int result);
int vhost_backend_iotlb_miss(struct vhost_backend *s, uint64_t iova, unsigned access);
const struct vhost_state *vhost_backend_state(const struct vhost_backend *s);
struct memmap *vhost_backend_memmap(struct vhost_backend *s);
/** vhost_backend_session() - the session as its device sees it. */
struct vhost_session *vhost_backend_session(struct vhost_backend *s);

/** struct vhost_file - a descriptor kept for handing on. @id is never used twice in a session. */
struct vhost_file {
    uint64_t id;
    int fd; /* -1 = none */
};
/**
 * struct vhost_files - of a session with @keep_files. @regions: one for each of the state's regions.
 */
struct vhost_files {
    const struct vhost_file *regions;
    struct vhost_file log, inflight;
};
void vhost_backend_files(const struct vhost_backend *s, struct vhost_files *files);
/**
 * vhost_backend_queue_left() - an answer to queue_stop() for a ring that nobody serves and whose
 * in-flight log still holds requests. If the front end starts the same ring again at @base, it
 * is recovered.
 */
void vhost_backend_queue_left(struct vhost_backend *s, unsigned q, uint32_t base);

/**
 * vhost_ring_config() - what the state of a ring says of how virtq_start() is to find it.
 * @v: the ring; hostile. With ACCESS_PLATFORM among @features its addresses are I/O virtual ones; they are
 *     handed on as they are, and @config's map must be replaced by a view (struct iotlb).
 * Return: 0, -EFAULT where no region holds all of one of its areas, -EINVAL for an impossible base.
 */
int vhost_ring_config(const struct vhost_queue_state *v, uint64_t features,
                      const struct memmap *map, struct virtq_config *config, struct dt_error *err);
int vhost_ring_base(const struct vhost_queue_state *v, bool packed, uint32_t *base,
                    struct dt_error *err);

#endif
