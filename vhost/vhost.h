/* SPDX-License-Identifier: MIT */
/*
 * vhost.h - the vhost-user protocol: messages, the back-end session that serves a VMM, and
 * the front-end session that drives somebody else's back end.
 *
 * Source: QEMU docs/interop/vhost-user.rst. Nothing here knows what kind of device it is.
 */
#ifndef VHOST_H
#define VHOST_H

#include "loop/loop.h"
#include "ring/ring.h"

/* ---- Messages ------------------------------------------------------------------------ */

#define VHOST_MAX_QUEUES 256u
#define VHOST_MAX_FDS    8u
#define VHOST_MAX_CONFIG 256u
#define VHOST_VERSION    0x1u
#define VHOST_REPLY      0x4u
#define VHOST_NEED_REPLY 0x8u
/* Memory slots offered: constant, since a front end that reconnects refuses fewer than before,
 * and below MEMMAP_MAX_REGIONS, so that a tap has room for slots of its own in its rear. */
#define VHOST_MEM_SLOTS 509u
/* SET_VRING_KICK, _CALL, _ERR: the ring's index, and "no descriptor comes with this". */
#define VHOST_RING_INDEX_MASK 0xffu
#define VHOST_RING_NO_FD      0x100u
/* SET_VRING_ADDR: log writes to the used ring. */
#define VHOST_RING_F_LOG 0x1u
/* Bytes of SET_CONFIG and GET_CONFIG before the data. */
#define VHOST_CONFIG_HEADER 12u

enum vhost_request {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_LOG_BASE = 6,
    VHOST_SET_LOG_FD = 7,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SEND_RARP = 19,
    VHOST_NET_SET_MTU = 20,
    VHOST_SET_BACKEND_REQ_FD = 21,
    VHOST_IOTLB_MSG = 22,
    VHOST_SET_VRING_ENDIAN = 23,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_CREATE_CRYPTO_SESSION = 26,
    VHOST_CLOSE_CRYPTO_SESSION = 27,
    VHOST_POSTCOPY_ADVISE = 28,
    VHOST_POSTCOPY_LISTEN = 29,
    VHOST_POSTCOPY_END = 30,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_GPU_SET_SOCKET = 33,
    VHOST_RESET_DEVICE = 34,
    VHOST_VRING_KICK = 35,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
    VHOST_SET_STATUS = 39,
    VHOST_GET_STATUS = 40,
    VHOST_GET_SHARED_OBJECT = 41,
    VHOST_SET_DEVICE_STATE_FD = 42,
    VHOST_CHECK_DEVICE_STATE = 43,
    VHOST_REQUEST_END, /* one past the last that is known here */
};

/* What the back end asks of the front end, on the channel of SET_BACKEND_REQ_FD. */
enum vhost_backend_request {
    VHOST_BACKEND_IOTLB_MSG = 1,
    VHOST_BACKEND_CONFIG_CHANGE_MSG = 2,
};

/* What an IOTLB message says; rights are those of enum memmap_access. */
enum vhost_iotlb_type {
    VHOST_IOTLB_MISS = 1,       /* asks for a translation: back end to front end */
    VHOST_IOTLB_UPDATE = 2,     /* gives one */
    VHOST_IOTLB_INVALIDATE = 3, /* takes it away */
};

enum vhost_protocol_feature {
    VHOST_F_MQ = 0,
    VHOST_F_LOG_SHMFD = 1,
    VHOST_F_RARP = 2,
    VHOST_F_REPLY_ACK = 3,
    VHOST_F_MTU = 4,
    VHOST_F_BACKEND_REQ = 5,
    VHOST_F_CONFIG = 9,
    VHOST_F_INFLIGHT_SHMFD = 12,
    VHOST_F_RESET_DEVICE = 13,
    VHOST_F_CONFIGURE_MEM_SLOTS = 15,
    VHOST_F_STATUS = 16,
    VHOST_F_DEVICE_STATE = 19,
};
/* Virtio feature bit 30: protocol features exist. Bit 26: log dirty pages. */
#define VHOST_FEATURE_PROTOCOL 30
#define VHOST_FEATURE_LOG_ALL  26

struct vhost_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size;
} __attribute__((packed));

struct vhost_mem_region {
    uint64_t gpa, size, uva, offset;
};
/** struct vhost_iotlb - a translation: [@iova, @iova+@size) is the front end's address @uaddr. */
struct vhost_iotlb {
    uint64_t iova, size, uaddr;
    uint8_t access, type;
} __attribute__((aligned(8))); /* 32 bytes on the wire */
struct vhost_inflight {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
} __attribute__((aligned(8))); /* 24 bytes on the wire */

/** struct vhost_message - one message, payload by request. */
struct vhost_message {
    struct vhost_header header;
    union {
        uint64_t u64;
        struct {
            uint32_t index, num;
        } vring;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } addr;
        struct {
            uint32_t count, padding;
            struct vhost_mem_region regions[8];
        } table;
        struct {
            uint64_t padding;
            struct vhost_mem_region region;
        } slot;
        struct {
            uint64_t size, offset;
        } log;
        struct {
            uint32_t offset, size, flags;
            uint8_t data[VHOST_MAX_CONFIG];
        } config;
        struct vhost_inflight inflight;
        struct vhost_iotlb iotlb;
        uint8_t raw[512];
    };
    int fds[VHOST_MAX_FDS];
    unsigned nfds;
};

/** vhost_request_name() - as the specification spells it, or "an unknown request". */
const char *vhost_request_name(uint32_t request);

/**
 * struct vhost_stream - reassembles messages from a non-blocking socket: a peer may send a
 * header in one piece and the payload in another, with file descriptors on either.
 * @sock:     the socket; stays the caller's.
 * @expect:   what the peer sends. Requests to a back end are checked against the table of sizes
 *            and descriptors; replies and the back end's own requests only for what they have in
 *            common, since what is right depends on what was asked.
 * @have:     bytes received of the message under way; 0 = at a message boundary.
 */
struct vhost_stream {
    int sock;
    enum vhost_expect { VHOST_EXPECT_REQUESTS, VHOST_EXPECT_REPLIES, VHOST_EXPECT_EVENTS } expect;
    size_t have;
    struct vhost_message message;
};
/**
 * vhost_stream_read() - receive what there is.
 * Return: 1 and a whole, size-checked message in @s->message (its fds now the caller's: take
 * or vhost_message_close_fds() them), 0 = not yet, -ECONNRESET at end of stream, -EPROTO with
 * @err naming the request and what is wrong with its version, size or number of fds, or saying
 * that the stream ended within a message; another -errno where the socket failed.
 *
 * A request whose number is not known here passes: whether it deserves an answer is for the
 * session to say.
 */
int vhost_stream_read(struct vhost_stream *s, struct dt_error *err);
void vhost_stream_reset(struct vhost_stream *s); /* closes fds that were received */
void vhost_message_close_fds(struct vhost_message *m);
/**
 * vhost_send() - send one message whole, with its fds (which stay the caller's).
 * @timeout_ms: how long to wait while the socket's buffer is full; 0 = not at all.
 * Return: 0, -ETIMEDOUT, or another -errno. After a failure the stream may have been cut within
 * a message: it is of no further use.
 */
int vhost_send(int sock, const struct vhost_message *m, int timeout_ms);
/** vhost_fd_is_eventfd() - is this descriptor an eventfd (the only kind taken for rings)? */
bool vhost_fd_is_eventfd(int fd);

/* ---- Back-end session ----------------------------------------------------------------- */

#define VHOST_STATE_MAGIC   0x74735644u /* "DVst" */
#define VHOST_STATE_VERSION 1u

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
 */
struct vhost_state {
    uint32_t magic, version;
    uint64_t features;          /* acknowledged virtio features */
    uint64_t protocol_features; /* acknowledged and offered */
    uint8_t features_set, status, owner, log_enabled;
    uint32_t region_count;
    struct vhost_mem_region regions[MEMMAP_MAX_REGIONS];
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
    bool recover; /* config.innocent says whether requests are to be charged */
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

struct vhost_backend;

/**
 * struct vhost_device_ops - what a session asks of the device it serves. All run on the
 * session's loop. `dev` is the pointer given to vhost_backend_new().
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
 * Return: 0, -ENOTSUP where the front end opened no channel for it, or what sending gave.
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

/* ---- Front-end session ---------------------------------------------------------------- */

/**
 * struct vhost_frontend - drives a back end: negotiation, memory, rings. Calls block, each
 * with a deadline, so it belongs on a control thread; rings are used by any one thread.
 * The back end is not trusted: replies are checked in size, flags and range.
 */
struct vhost_frontend;

/**
 * vhost_frontend_new() - take over a connected socket.
 * @timeout_ms: for each reply.
 */
int vhost_frontend_new(struct vhost_frontend **f, int sock, int timeout_ms, struct dt_error *err);
/** vhost_connect() - a socket connected to the Unix socket at @path. Return: it, or -errno. */
int vhost_connect(const char *path, struct dt_error *err);
/** vhost_frontend_connect() - the same, to a Unix socket path. */
int vhost_frontend_connect(struct vhost_frontend **f, const char *path, int timeout_ms,
                           struct dt_error *err);
void vhost_frontend_free(struct vhost_frontend *f);
/**
 * vhost_frontend_negotiate() - learn what is offered, set what both want, take ownership.
 * @features: in: wanted virtio features; out: acknowledged.
 * @protocol: in: wanted protocol features; out: acknowledged.
 * @required: virtio features without which this fails.
 * @queues: out: queues offered.
 */
int vhost_frontend_negotiate(struct vhost_frontend *f, uint64_t *features, uint64_t *protocol,
                             uint64_t required, unsigned *queues, struct dt_error *err);
int vhost_frontend_offered(const struct vhost_frontend *f, uint64_t *features, uint64_t *protocol);
int vhost_frontend_get_config(struct vhost_frontend *f, void *buf, uint32_t offset, uint32_t len,
                              struct dt_error *err);
int vhost_frontend_set_config(struct vhost_frontend *f, const void *buf, uint32_t offset,
                              uint32_t len, struct dt_error *err);
/**
 * vhost_frontend_add_memory() - give the back end @size bytes of @fd at @offset as @gpa.
 * Uses ADD_MEM_REG where negotiated, else resends the whole table.
 */
int vhost_frontend_add_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva, uint64_t size,
                              int fd, uint64_t offset, struct dt_error *err);
int vhost_frontend_remove_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva,
                                 uint64_t size, struct dt_error *err);
/**
 * vhost_frontend_inflight() - get an in-flight region for @queues of @size from the back end,
 * or give it back one of an earlier connection (@fd >= 0 on entry). The fd stays ours.
 */
int vhost_frontend_inflight(struct vhost_frontend *f, unsigned queues, uint16_t size, int *fd,
                            struct vhost_inflight *region, struct dt_error *err);
/** struct vhost_frontend_ring - addresses are front-end virtual, within added memory. */
struct vhost_frontend_ring {
    uint16_t size;
    uint32_t base;
    uint64_t desc, driver, device;
    int kick, call; /* eventfds, the caller's */
};
int vhost_frontend_ring_start(struct vhost_frontend *f, unsigned q,
                              const struct vhost_frontend_ring *ring, struct dt_error *err);
/** vhost_frontend_ring_stop() - GET_VRING_BASE; see trap 9 of the facts: drain before it. */
int vhost_frontend_ring_stop(struct vhost_frontend *f, unsigned q, uint32_t *base,
                             struct dt_error *err);
/** vhost_frontend_ring_kick() - another kick eventfd for a ring that runs. */
int vhost_frontend_ring_kick(struct vhost_frontend *f, unsigned q, int fd, struct dt_error *err);
/** vhost_frontend_set_features() - other virtio features, of those offered, while no ring runs. */
int vhost_frontend_set_features(struct vhost_frontend *f, uint64_t features, struct dt_error *err);
int vhost_frontend_ring_enable(struct vhost_frontend *f, unsigned q, bool enable,
                               struct dt_error *err);
int vhost_frontend_set_status(struct vhost_frontend *f, uint8_t status, struct dt_error *err);
int vhost_frontend_reset(struct vhost_frontend *f, struct dt_error *err);
/** vhost_frontend_events() - read the back end's own requests without waiting; sets
 *  @config_changed if it announced a change. Returns -ECONNRESET when it is gone. */
int vhost_frontend_events(struct vhost_frontend *f, bool *config_changed);
/** vhost_frontend_iotlb() - give a translation, or take it away: when it returns, it is no longer used. */
int vhost_frontend_iotlb(struct vhost_frontend *f, const struct vhost_iotlb *change,
                         struct dt_error *err);
/** vhost_frontend_miss() - the next translation that the back end asked for: 1, 0 = none yet, or -errno.
 *  Other requests of the back end that came before it are answered, and dropped. */
int vhost_frontend_miss(struct vhost_frontend *f, struct vhost_iotlb *miss);
/** vhost_frontend_socket(), _backend_fd() - to poll for a hang-up or for events. */
int vhost_frontend_socket(const struct vhost_frontend *f);
int vhost_frontend_backend_fd(const struct vhost_frontend *f);

#endif
