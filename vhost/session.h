/* SPDX-License-Identifier: MIT */
/*
 * session.h - a back-end session as the device sees it that serves a VMM: its state, its rings, and what each
 * asks of the other. Whether the session is in this process (backend.h) or in a keeper (link.h)
 * makes no difference to the device.
 */
#ifndef VHOST_SESSION_H
#define VHOST_SESSION_H

#include "vhost/message.h"

#define VHOST_STATE_MAGIC   0x74735644u /* "DVst" */
#define VHOST_STATE_VERSION 2u

/** struct vhost_queue_state - what a successor must know of a ring. */
struct vhost_queue_state {
    uint16_t size;
    uint8_t have_addr, have_kick, have_call;
    uint8_t enabled, started;
    uint8_t log_used; /* log writes to the used ring, at @log_addr */
    uint32_t base;
    uint64_t desc, avail, used; /* front-end virtual addresses, as received */
    uint64_t log_addr;
};

/**
 * struct vhost_state - the whole state of a session, in shared memory, with no pointers:
 * a process that inherits this block and the session's descriptors can carry on.
 * A successor validates every field before it uses it.
 * @region_uses: how many times each was added: QEMU before 8.0 does so for each queue pair of a card.
 */
struct vhost_state {
    uint32_t magic, version;
    uint64_t features;          /* acknowledged virtio features */
    uint64_t protocol_features; /* acknowledged and offered */
    uint8_t features_set, status, owner, log_enabled;
    uint32_t region_count;
    struct vhost_mem_region regions[MEMMAP_MAX_REGIONS];
    uint32_t region_uses[MEMMAP_MAX_REGIONS];
    struct vhost_inflight inflight;
    uint8_t inflight_from_front; /* the VMM's region, not ours */
    uint64_t log_size, log_offset;
    struct vhost_queue_state queues[VHOST_MAX_QUEUES];
};

/**
 * struct vhost_ring - what a device needs to start ring @q; descriptors stay the session's.
 * @config, @base and @recover may be handed to virtq_start() as they are.
 */
struct vhost_ring {
    struct virtq_config config; /* all but slots and iovs filled in */
    uint32_t base;
    bool recover;   /* config.innocent says whether requests are to be charged */
    int kick, call; /* -1 = none: poll, or signal nobody */
};

/** struct vhost_shared - a region of guest memory, and where it is here. @fd: the session's. */
struct vhost_shared {
    struct vhost_mem_region at;
    uint8_t *host;
    int fd;
};

/**
 * struct vhost_session - a session as its device sees it. The protocol is spoken in this process
 * (struct vhost_backend) or in another (struct vhost_remote, see link.h): the device cannot tell.
 */
struct vhost_session {
    const struct vhost_session_ops *ops;
};
struct vhost_session_ops {
    int (*ring)(struct vhost_session *s, unsigned q, struct vhost_ring *ring, struct dt_error *err);
    int (*kick_fd)(const struct vhost_session *s, unsigned q);
    int (*call_fd)(const struct vhost_session *s, unsigned q);
    void (*queue_stopped)(struct vhost_session *s, unsigned q, uint32_t base);
    void (*paused)(struct vhost_session *s);
    void (*fail)(struct vhost_session *s, const char *reason);
    int (*notify_config)(struct vhost_session *s);
    void (*close)(struct vhost_session *s);
    void (*free)(struct vhost_session *s);
    bool (*region)(const struct vhost_session *s, unsigned index, struct vhost_shared *shared);
    bool (*inflight)(const struct vhost_session *s, struct vhost_inflight *region, int *fd);
    void (*iotlb_done)(struct vhost_session *s, int result);
    int (*iotlb_miss)(struct vhost_session *s, uint64_t iova, unsigned access);
};

/** vhost_session_ring() - from queue_start() or later while the ring is started. */
static inline int vhost_session_ring(struct vhost_session *s, unsigned q, struct vhost_ring *ring,
                                     struct dt_error *err)
{
    return s->ops->ring(s, q, ring, err);
}
/** vhost_session_kick_fd(), _call_fd() - the current eventfds; they may be replaced at run time.
 *  From any thread. */
static inline int vhost_session_kick_fd(const struct vhost_session *s, unsigned q)
{
    return s->ops->kick_fd(s, q);
}
static inline int vhost_session_call_fd(const struct vhost_session *s, unsigned q)
{
    return s->ops->call_fd(s, q);
}
/**
 * vhost_session_queue_stopped(), vhost_session_paused() - the answers to queue_stop() and pause(),
 * from within them or later, on the session's loop. The session goes on when the loop runs
 * again, never within the call.
 */
static inline void vhost_session_queue_stopped(struct vhost_session *s, unsigned q, uint32_t base)
{
    s->ops->queue_stopped(s, q, base);
}
static inline void vhost_session_paused(struct vhost_session *s)
{
    s->ops->paused(s);
}
/**
 * vhost_session_break() - end the session because of a peer's fault; the reason is logged
 * and passed to closed(). Rings are stopped first, through queue_stop(). From any callback or
 * from outside; nothing happens before the loop runs again, and the first reason is the one that
 * counts.
 */
static inline void vhost_session_break(struct vhost_session *s, const char *reason)
{
    s->ops->fail(s, reason);
}
/**
 * vhost_session_notify_config() - the device's configuration changed: tell the driver.
 * Return: 0, -ENOTSUP where the front end opened no channel for it, or what sending gave.
 */
static inline int vhost_session_notify_config(struct vhost_session *s)
{
    return s->ops->notify_config(s);
}
/** vhost_session_close() - end it in good order (the program is stopping); closed() follows. */
static inline void vhost_session_close(struct vhost_session *s)
{
    s->ops->close(s);
}
/**
 * vhost_session_region() - region @index of guest memory, for devices that hand it on; false beyond
 * the last. From memory_changed() on, until memory changes again.
 */
static inline bool vhost_session_region(const struct vhost_session *s, unsigned index,
                                        struct vhost_shared *shared)
{
    return s->ops->region(s, index, shared);
}
/** vhost_session_inflight() - the region with the rings' in-flight logs; false where none is yet.
 */
static inline bool vhost_session_inflight(const struct vhost_session *s,
                                          struct vhost_inflight *region, int *fd)
{
    return s->ops->inflight(s, region, fd);
}
/** vhost_session_iotlb_done() - the answer to iotlb(), from within it or later, on the session's loop.
 *  @result: 0, or -errno where an update cannot be. */
static inline void vhost_session_iotlb_done(struct vhost_session *s, int result)
{
    s->ops->iotlb_done(s, result);
}
/**
 * vhost_session_iotlb_miss() - ask the front end for the translation of @iova. On the session's loop. The
 * answer, if there ever is one, comes as iotlb().
 * Return: 0, -ENOTSUP where the front end opened no channel for it, or what sending gave.
 */
static inline int vhost_session_iotlb_miss(struct vhost_session *s, uint64_t iova, unsigned access)
{
    return s->ops->iotlb_miss(s, iova, access);
}
/** vhost_session_free() - from closed() or after it. */
static inline void vhost_session_free(struct vhost_session *s)
{
    s->ops->free(s);
}

/**
 * struct vhost_device_ops - what a session asks of the device it serves. All run on the
 * session's loop. `dev` is the pointer given with it.
 */
struct vhost_device_ops {
    /* Offered virtio features, without bits 26 and 30, which the session adds. */
    uint64_t (*features)(void *dev);
    /* The driver acknowledged @features (already known to be a subset). */
    int (*set_features)(void *dev, uint64_t features, struct dt_error *err);
    /*
     * Device configuration space: read or write [offset, offset+len). A read beyond its end
     * gives zeroes: SPDK's initiator and QEMU of another version ask for more than we may
     * have. A write outside is -EINVAL.
     */
    int (*get_config)(void *dev, void *buf, uint32_t offset, uint32_t len);
    int (*set_config)(void *dev, const void *buf, uint32_t offset, uint32_t len);
    /*
     * Ring @q is ready and enabled: vhost_backend_ring() gives its configuration. The device
     * calls virtq_start() on a ring of its own (with slots, iovec pool), on whatever thread
     * it likes. The session then signals the ring's kick and call eventfds once, for what was
     * signalled while nobody listened.
     * Return: how many requests an earlier process left that are to be run again; a failure
     * breaks the session.
     */
    int (*queue_start)(void *dev, unsigned q, struct dt_error *err);
    /*
     * Take nothing more from ring @q (but what virtq_take() still owes from the in-flight log:
     * no base can express that), finish what is in flight, virtq_stop() it, then call
     * vhost_backend_queue_stopped() with the base, at once or later, on the session's loop.
     */
    void (*queue_stop)(void *dev, unsigned q);
    /*
     * Guest memory or the dirty log is about to change: make no thread use either, with
     * nothing in flight where @drain (in every case but that of a new kick eventfd); then call
     * vhost_backend_paused(). resume() follows: read vhost_backend_ring() of each started ring
     * again and virtq_set_dirty() it. Never called while a queue_stop() is under way, nor the other
     * way round.
     */
    void (*pause)(void *dev, bool drain);
    void (*resume)(void *dev);
    /*
     * A kick eventfd of ring @q was replaced while it runs; called between pause() and
     * resume(). The descriptor it had stays open until the ring stops or the next replacement,
     * so that a watch on it can be removed at leisure. (A call eventfd is replaced under its
     * number, which stays valid while the ring runs; nobody is told.)
     */
    void (*queue_kick_changed)(void *dev, unsigned q);
    /*
     * For devices that hold descriptors of their own of what the session has: the call eventfd
     * of ring @q is another; guest memory, the dirty log or the in-flight region is another,
     * while no ring runs or all are paused. May be NULL.
     */
    void (*queue_call_changed)(void *dev, unsigned q);
    void (*memory_changed)(void *dev);
    /*
     * Where ACCESS_PLATFORM was acknowledged: an UPDATE or INVALIDATE from the front end. After
     * vhost_session_iotlb_done() no thread uses memory that it reached through what was invalidated; the
     * front end waits for that. Never called within a pause or a stop. NULL: refused.
     */
    void (*iotlb)(void *dev, const struct vhost_iotlb *change);
    /* The device status register became @status; 0 = reset by the driver. May be NULL. */
    void (*set_status)(void *dev, uint8_t status);
    /*
     * The session ended: all rings are stopped and the memory is unmapped. @reason is NULL
     * after an orderly disconnect. The device may free the session from here.
     */
    void (*closed)(void *dev, const char *reason);
    /* Network devices, where VHOST_F_RARP and VHOST_F_MTU are offered; else NULL. */
    void (*send_rarp)(void *dev, const uint8_t mac[6]);
    int (*set_mtu)(void *dev, uint16_t mtu);
};

#endif
