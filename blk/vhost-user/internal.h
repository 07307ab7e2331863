/* SPDX-License-Identifier: MIT */
/* internal.h - the front's queues and slots. */
#ifndef BLK_VHOST_USER_INTERNAL_H
#define BLK_VHOST_USER_INTERNAL_H

#include "blk/vhost-user/front.h"
#include "loop/listener.h"
#include "vhost/link.h"
#include <linux/virtio_blk.h>

#define FRONT_MAGIC 0x46726e74u
/* Protocol features offered. */
#define FRONT_PROTOCOL_FEATURES                                                                     \
    (1ull << VHOST_F_MQ | 1ull << VHOST_F_LOG_SHMFD | 1ull << VHOST_F_REPLY_ACK |                 \
     1ull << VHOST_F_BACKEND_REQ | 1ull << VHOST_F_CONFIG | 1ull << VHOST_F_INFLIGHT_SHMFD |      \
     1ull << VHOST_F_RESET_DEVICE | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_STATUS)
#define FRONT_BURST VIRTQ_GOOD_BURST

/**
 * struct slot - a request between the ring and the chain; one per descriptor chain the ring can hold.
 * @status:  where the guest expects the status byte.
 * @trimmed: the status byte shares its vector with data: the vector was cut by one.
 * @awaited: the VMM takes back memory that it may use, and waits for its end (iommu.c).
 */
struct slot {
    struct virtq_chain chain;
    struct front_queue *queue;
    uint8_t *status;
    bool trimmed, awaited;
    struct slot *next; /* put aside */
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
} CACHE_ALIGNED;

enum queue_state {
    QUEUE_IDLE,     /* no ring */
    QUEUE_STARTING, /* the session prepared it; the lane has not heard of it yet */
    QUEUE_RUNNING,  /* takes requests */
    QUEUE_PAUSED,   /* memory or the log is changing: takes nothing */
    QUEUE_STOPPING, /* takes nothing; ends when nothing is in flight */
    QUEUE_HANDED,   /* the rear serves it (mode.c) */
    QUEUE_LOST,     /* the rear served it, and what it had is lost */
    QUEUE_UNMAPPED, /* takes nothing: the translation of the ring's memory is not known (iommu.c) */
};

/**
 * struct front_queue - one virtqueue, on one lane. All but what messages carry belongs to that
 * lane's thread.
 * @blocked: the chain admits nothing now; wake() tells when.
 * @slots:   mapped, so that a deep ring of which little is used costs little.
 * @dirty:   on the lane's list of rings with used entries to publish.
 */
struct front_queue {
    struct front *front;
    struct front_lane *lane;
    unsigned index;
    enum queue_state state;
    bool blocked, dirty;
    bool stop_deferred; /* the session wants it stopped, which waits until it is here again */
    struct virtq_config handed; /* of a ring that is at the rear */
    uint16_t seen_used;         /* passthrough: the used index, as last looked at */
    bool suspect; /* owes requests of a crash, which run one at a time */
    bool translated;        /* a vIOMMU stands between */
    struct vhost_ring ring; /* and this is how it starts */
    struct virtq vq;
    struct loop_poller poller;
    struct dt_watch kick;
    struct slot *slots;
    size_t slots_size;
    struct front_queue *next_dirty;

    /* Between the session's thread and the lane's. */
    struct loop_message start, stop, stopped;
    uint32_t base;
};

/** struct front_lane - the front on one thread. */
struct front_lane {
    struct front *front;
    struct lane *lane;
    struct iovpool *iovs;
    struct front_queue *dirty;
    unsigned suspects; /* queues of it that are suspect */
    struct loop_deferred publish;
    struct loop_message pause, paused, resume, release;
    struct dt_timer ask_again; /* while a stop, a pause or an invalidation waits for the layers */
    struct slot *aside; /* let go of by the layers, of rings that go on: submitted again later */
    bool pausing;
    bool invalidating;
    struct front_iommu *iommu; /* NULL: not offered */
};

enum front_mode_state { MODE_INTERPOSE, MODE_ENTERING, MODE_PASSTHROUGH, MODE_LEAVING };

/**
 * struct front_mode - see mode.c. On the front's loop.
 * @wanted: a person wants passthrough.
 * @leave_asked: and something else wants the rings here, as soon as that can be.
 * @why: it is not as wanted.
 * @result, @reason: what the back said last.
 */
struct front_mode {
    bool wanted, leave_asked;
    enum front_mode_state state;
    char why[512];
    struct dt_layer *back;
    const struct passthrough_ops *ops;
    struct passthrough rings;
    bool pause_deferred, pause_drain;
    struct loop_message entered, left;
    struct dt_timer again, count;
    int result;
    char reason[512];
    uint64_t passed, changes; /* requests that the rear answered; changes of mode */
    /* Of the last change: when it began, how long requests in flight took to end, and what came then. */
    uint64_t began, drain_ns, switch_ns;
};

struct front {
    uint32_t magic;
    struct device *dev;
    struct loop *loop; /* of the device's first thread: sessions and sockets */
    char serial[FRONT_SERIAL_SIZE];
    unsigned nqueues;
    bool packed, iommu;
    uint64_t protocol_features; /* offered to the VMM */
    void (*ended)(void *arg); /* of the session that the front was made with */
    void *ended_arg;
    uint64_t offered;  /* virtio features: the floor, fixed for the front's life */
    uint64_t features; /* acknowledged by the driver */
    bool writeback;
    bool fua; /* every write must be durable when completed */
    struct virtio_blk_config config;

    struct vhost_session *session;
    struct vhost_backend *backend; /* the session, where this process speaks the protocol */
    struct vhost_remote *remote;   /* where a keeper does */
    struct front_keeper keeper;
    bool link_lost;
    struct front_queue *queues;
    struct front_lane *lanes;
    unsigned nlanes, lanes_to_pause;
    bool drain;
    bool pausing; /* from the session's pause() to its resume() */
    struct front_mode mode;
    struct vhost_iotlb change; /* of a translation, under way on the lanes */
    unsigned lanes_to_change;
    int change_result;

    int listen_fd;
    struct listener listener;
    int next; /* accepted while the session before it is ending, or -1 */
    char *connect;
    struct dt_timer connect_timer;
    bool stopping;
    void (*stop_done)(void *arg);
    void *stop_arg;
    struct loop_message stopped_message, lost_message;
    struct loop_message fault_message;
    bool faulted; /* @fault is being written, or was; by whichever lane came first */
    char fault[256];
    uint64_t sessions, broken;
};

extern const struct vhost_device_ops front_session_ops;

/** front_queue_owes() - are there requests of an earlier process still to be taken again? */
static inline bool front_queue_owes(const struct front_queue *q)
{
    return q->vq.replay_next < q->vq.replay_count;
}

/* queue.c */
void front_queue_init(struct front *front, unsigned index);
void front_lane_init(struct front *front, unsigned thread);
void front_lane_fini(struct front_lane *fl);
int front_queue_start(void *dev, unsigned q, struct dt_error *err);
void front_queue_stop(void *dev, unsigned q);
void front_pause(void *dev, bool drain);
void front_resume(void *dev);
void front_queue_kick_changed(void *dev, unsigned q);
/** front_queue_begin() - its virtqueue started. front_queue_open() - take requests from now on.
 *  front_queue_close() - and no more; its state is @state. front_queue_put_back() - what came back unserved. */
void front_queue_begin(struct front_queue *q);
void front_queue_open(struct front_queue *q);
void front_queue_close(struct front_queue *q, enum queue_state state);
void front_queue_put_back(struct front_queue *q);
void front_lane_fault(struct front_lane *fl, const char *fmt, ...) DT_PRINTF(2, 3);

/** front_drain() - as front_pause(), for front_mode_paused(); layers keep what they hold for as long as they
 *  like. front_release() ends their patience. */
void front_drain(struct front *front);
void front_release(struct front *front);
void front_resume_lanes(struct front *front);
void front_queue_call_changed(void *dev, unsigned q);

/* iommu.c: what only a guest with a vIOMMU needs */
static inline bool front_translates(const struct front *front)
{
    return front->features & 1ull << VIRTIO_F_ACCESS_PLATFORM;
}
void front_iommu_init(struct front_lane *fl);
void front_iommu_fini(struct front_lane *fl);
/** front_iommu_forget() - the session is over; no ring is left, and its memory goes. */
void front_iommu_forget(struct front *front);
/** front_iotlb() - the session's iotlb(). */
void front_iotlb(void *dev, const struct vhost_iotlb *change);
/** front_iommu_start() - on the lane: @q->ring says how, and its memory may have to be asked for. */
void front_iommu_start(struct front_queue *q);
/** front_iommu_stop() - true: the ring had not even started, and its stop is answered. */
bool front_iommu_stop(struct front_queue *q);
/** front_iommu_resume() - after a pause, for a ring that waits for its memory. */
void front_iommu_resume(struct front_queue *q, const struct vhost_ring *ring);
/** front_iommu_blocked() - nothing was taken; if it was for want of a translation, that is asked for, unless the
 *  queue stops: true: it has ended. */
bool front_iommu_blocked(struct front_queue *q);
/** front_iommu_answered() - a request that was awaited is over. */
void front_iommu_answered(struct slot *slot);
/** front_iommu_settle() - is an invalidation that waits for this lane over? */
void front_iommu_settle(struct front_lane *fl);
/** front_iommu_urge() - an invalidation takes long: take nothing more. */
void front_iommu_urge(struct front_lane *fl);
json_t *front_iommu_show(const struct front *front);

/* mode.c: passthrough */
void front_mode_init(struct front *front);
void front_mode_fini(struct front *front);
/** front_mode_leave() - true: the rings are here. Else they will be, and what was deferred is done then.
 *  @urgent: and the VMM waits, so layers that hold requests are not waited for. */
bool front_mode_leave(struct front *front, bool urgent);
/** front_mode_session() - the session changed something: look again whether passthrough can be. */
void front_mode_session(struct front *front);
void front_mode_paused(struct front *front);
const char *front_mode_name(const struct front *front);
int front_set_passthrough(struct lane *lane, bool on, struct dt_error *err);

/* stuck.c */
/** front_stuck() - requests that are older than a second, the oldest 16; new reference. */
json_t *front_stuck(const struct front *front);

/* request.c: between ring and chain. */
unsigned front_queue_poll(struct loop_poller *poller);
bool front_queue_arm(struct loop_poller *poller);
void front_publish(struct loop_deferred *deferred);
void front_complete(struct lane *lane, struct request **reqs, unsigned n);
void front_wake(struct lane *lane);
void front_each(struct lane *lane, void (*look)(struct lane *lane, struct request *req));
void front_call_driver(const struct front_queue *q);
/** front_awaited() - does a stop or a pause wait for the layers? */
bool front_awaited(const struct front_lane *fl);
/** front_take_aside() - what was put aside goes back to the rings that no longer run, or fails. */
void front_take_aside(struct front_lane *fl);
/** front_submit_aside() - and all of it into the chain. Return: false if the chain admits nothing now. */
bool front_submit_aside(struct front_lane *fl);
/** front_queue_drained() - something completed: a stop or pause may be waiting for it. */
void front_queue_drained(struct front_queue *q);

/* config.c: what the guest sees of the disk. */
void front_config_init(struct front *front);
void front_config_update(struct front *front);
uint64_t front_features(void *dev);
int front_set_features(void *dev, uint64_t features, struct dt_error *err);
int front_get_config(void *dev, void *buf, uint32_t offset, uint32_t len);
int front_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len);
/** front_floor() - what a keeper may promise in our name. */
void front_floor(struct front *front, struct link_floor *floor);

#endif
