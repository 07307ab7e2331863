/* SPDX-License-Identifier: MIT */
/*
 * link.h - a back-end session in two processes: the *keeper's* end speaks vhost-user and owns the
 * sockets and descriptors; the *worker's* end serves the rings. The worker may die at any
 * instruction, and the session goes on with its successor.
 *
 *     front end <- vhost-user -> vhost_backend <- ops -> vhost_proxy      the keeper
 *                                                          | link: a SOCK_SEQPACKET pair
 *     device    <- ops -> vhost_remote (a vhost_session) --+              the worker
 *
 * Theory of operation: one message is one packet of fixed size for its type, with descriptors where
 * the type has them; there is nothing to reassemble. The worker speaks first: its *floor*, what the
 * device promises the guest, which the keeper remembers and holds every successor to. The
 * keeper then hands over what the session has by now (hand-over and normal life are the same
 * messages), and every started ring with "recover": its in-flight log, in the front end's
 * memory or in the keeper's, says what a dead worker left.
 *
 * Neither end trusts the other: a worker may have been captured by the guest it serves. All that
 * comes in is checked in size, state and range, and what is wrong ends the link, never the process.
 */
#ifndef VHOST_LINK_H
#define VHOST_LINK_H

#include "vhost/session.h"

#define LINK_VERSION     1u
#define LINK_MAX_FDS     2u
#define LINK_CONFIG_LIVE 255 /* in link_floor.writable: the device may change this byte */

enum link_type {
    /* From the worker. */
    LINK_FLOOR = 1,
    LINK_CONFIG_CHANGED,
    LINK_QUEUE_STARTED,
    LINK_QUEUE_STOPPED,
    LINK_PAUSED,
    LINK_FAULT,
    /* From the keeper. */
    LINK_ATTACH,
    LINK_FEATURES,
    LINK_SET_CONFIG,
    LINK_REGION_ADD,
    LINK_REGION_REMOVE,
    LINK_LOG,
    LINK_INFLIGHT,
    LINK_QUEUE_START,
    LINK_QUEUE_UPDATE,
    LINK_QUEUE_CALL,
    LINK_QUEUE_STOP,
    LINK_PAUSE,
    LINK_RESUME,
    LINK_DETACH,
    LINK_RARP, /* network devices: announce the MAC address in the first six bytes of u64 */
    LINK_IOTLB,
    /* From the worker, where the session has a vIOMMU. */
    LINK_IOTLB_DONE,
    LINK_IOTLB_MISS,
    LINK_TYPE_END,
};

/**
 * struct link_floor - what the device promises the guest, and so what its successors must too.
 * @features, @protocol_features: offered.
 * @writable: for each byte of the configuration space the largest value a driver may set, 0 for
 *            what nobody changes, LINK_CONFIG_LIVE for what the device itself changes.
 * @fence_ns: how long the worker waited for the I/O of its predecessor to land.
 */
struct link_floor {
    uint32_t version, queues;
    uint64_t features, protocol_features;
    uint64_t fence_ns;
    uint8_t config[VHOST_MAX_CONFIG];
    uint8_t writable[VHOST_MAX_CONFIG];
};

/** struct link_message - one message, payload by type. */
struct link_message {
    uint32_t type;
    uint32_t size; /* of the payload */
    union {
        struct link_floor floor;
        struct {
            uint32_t offset, size;
            uint8_t data[VHOST_MAX_CONFIG];
        } config;
        struct {
            uint64_t id;
            struct vhost_mem_region at;
        } region;
        struct {
            uint64_t size, offset;
        } log;
        struct vhost_inflight inflight;
        /* With the kick eventfd, then the call eventfd, those that it has. */
        struct {
            uint32_t index;
            uint8_t recover, innocent, has_kick, has_call;
            struct vhost_queue_state state;
        } queue;
        struct {
            uint32_t index, value; /* base, or number of requests run again */
        } answer;
        struct vhost_iotlb iotlb;
        uint64_t u64;
        uint32_t u32;
        char text[256];
    };
    int fds[LINK_MAX_FDS];
    unsigned nfds;
};

/** link_type_name() - for messages to people. */
const char *link_type_name(uint32_t type);
/** link_send() - send one message; @m->size and the number of descriptors follow from the type and
 *  @m->nfds; they stay the caller's. Waits at most @timeout_ms for room. */
int link_send(int sock, struct link_message *m, int timeout_ms);
/**
 * link_receive() - one message, if there is one.
 * @from_worker: which end sends.
 * Return: 1 with @m, whose descriptors are the caller's; 0 = none yet; -ECONNRESET when the
 * other end is gone; -EPROTO with @err for what no end of ours sends.
 */
int link_receive(int sock, struct link_message *m, bool from_worker, struct dt_error *err);
void link_close_fds(struct link_message *m);
/** link_judge() - the size and the descriptors of a received packet; for link_receive() and tests. */
int link_judge(const struct link_message *m, size_t bytes, bool from_worker, struct dt_error *err);
#define LINK_HEADER offsetof(struct link_message, floor)

/* ---- The keeper's end -------------------------------------------------------------------- */

/** struct vhost_recovery - how a successor took over. Times in ns. */
struct vhost_recovery {
    uint64_t pause; /* from the loss of the worker until all rings ran again */
    uint64_t fence; /* of it, waiting for the predecessor's I/O to land */
    unsigned rings, replayed;
};

/** struct vhost_proxy_ops - what the keeper learns. All run on the loop, none within a call. */
struct vhost_proxy_ops {
    /* A worker showed a floor that will do; front ends may be attached. */
    void (*ready)(void *arg);
    /* The link ended: @reason says what the worker did wrong, or NULL when it just went. */
    void (*lost)(void *arg, const char *reason);
    void (*recovered)(void *arg, const struct vhost_recovery *recovery);
    /* What vhost_proxy_release() asked for is done. */
    void (*released)(void *arg);
    void (*closed)(void *arg, const char *reason);
};

struct vhost_proxy;
/**
 * vhost_proxy_new() - a keeper's device, for one front end at a time.
 * @patience: how long a front end's demand for quiet waits for a successor, ns.
 */
struct vhost_proxy *vhost_proxy_new(struct loop *loop, const char *name, uint64_t patience,
                                    const struct vhost_proxy_ops *ops, void *arg);
/** vhost_proxy_free() - its session must have been closed. */
void vhost_proxy_free(struct vhost_proxy *p);
/**
 * vhost_proxy_link() - @sock, owned from now on, leads to a worker whose predecessor is dead.
 * @innocent: and did not die of what it did, so of no request.
 */
int vhost_proxy_link(struct vhost_proxy *p, int sock, bool innocent, struct dt_error *err);
/** vhost_proxy_attach() - serve a connected front end; a floor must be known. */
int vhost_proxy_attach(struct vhost_proxy *p, int sock, struct dt_error *err);
/** vhost_proxy_close() - end the session in good order; closed() follows. */
void vhost_proxy_close(struct vhost_proxy *p);
/** vhost_proxy_release() - have the worker finish what it has in flight and let it go; the session
 *  waits for the next link. released() follows, or lost(). */
void vhost_proxy_release(struct vhost_proxy *p);
struct transfer;
/**
 * vhost_proxy_send() - give all that is known and open to another keeper, over a SOCK_SEQPACKET @sock (vhost/transfer.h).
 * No worker is linked. Until vhost_proxy_thaw() the front end is not heard; whoever goes on with the session is
 * for the caller to decide, and this end may also just end.
 * Return: 0; -EBUSY with @err while the front end is in the middle of something, or -errno where the other
 * end does not take it: then the session goes on here.
 */
int vhost_proxy_send(struct vhost_proxy *p, int sock, struct dt_error *err);
/**
 * vhost_proxy_adopt() - go on, from vhost_proxy_thaw() on, with what transfer_receive() received. @p is as new;
 * workers may be linked before the thaw. On failure it is to be freed.
 */
int vhost_proxy_adopt(struct vhost_proxy *p, struct transfer *t, struct dt_error *err);
void vhost_proxy_thaw(struct vhost_proxy *p);
bool vhost_proxy_ready(const struct vhost_proxy *p);
/** vhost_proxy_linked() - to a worker, whether its floor was seen or not. */
bool vhost_proxy_linked(const struct vhost_proxy *p);
bool vhost_proxy_attached(const struct vhost_proxy *p);
/** vhost_proxy_ending() - the front end is leaving, or has hung up. */
bool vhost_proxy_ending(const struct vhost_proxy *p);

/* ---- The worker's end --------------------------------------------------------------------- */

/**
 * struct vhost_remote_config - @sock becomes the remote's. @floor: version and queues are filled in.
 * @attached: a front end came; @session is as any other from here to closed().
 * @lost: the keeper is gone or broke the protocol; no session is open any more.
 */
struct vhost_remote_config {
    struct loop *loop;
    int sock;
    unsigned queues;
    const char *name;
    const struct vhost_device_ops *ops;
    void *dev;
    void (*attached)(void *dev, struct vhost_session *session);
    void (*lost)(void *dev, const char *reason);
};
struct vhost_remote;
int vhost_remote_new(struct vhost_remote **remote, const struct vhost_remote_config *config,
                     const struct link_floor *floor, struct dt_error *err);
/** vhost_remote_config_changed() - the device changed live bytes of its configuration space. */
void vhost_remote_config_changed(struct vhost_remote *r);
/** vhost_remote_free() - no session is open. */
void vhost_remote_free(struct vhost_remote *r);

#endif
