/* SPDX-License-Identifier: MIT */
/*
 * served.h - what a front is made of: rings served on lanes, one session, and what is peculiar to a class
 * of devices.
 */
#ifndef FRONT_SERVED_H
#define FRONT_SERVED_H

#include "front/front.h"
#include "loop/listener.h"
#include "vhost/link.h"
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

struct passthrough;

#define FRONT_MAGIC 0x46726e74u
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
 * @slots:   of the class's size, each beginning with a virtq_chain; mapped, so that a deep ring of which
 *           little is used costs little.
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
    uint64_t seen;   /* passthrough: used index (packed: numbers in the log) as last looked at */
    bool suspect;    /* owes requests of a crash, which run one at a time */
    bool translated; /* a vIOMMU stands between */
    struct vhost_ring ring; /* and this is how it starts */
    struct virtq vq;
    struct loop_poller poller;
    struct dt_watch kick;
    void *slots;
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
    unsigned turn;     /* the queue that front_wake() looks at first: behind who took last */
    struct loop_deferred publish;
    struct loop_message pause, paused, resume, release;
    struct dt_timer ask_again; /* while a stop, a pause or an invalidation waits for the layers */
    struct slot *
        aside; /* the class's: let go of by the layers, of rings that go on: submitted again later */
    bool pausing;
    bool invalidating;
    struct front_iommu *iommu; /* NULL: not offered */
};

/**
 * struct front_class - what is peculiar to a class of devices.
 * @size:      of the class's front, which begins with a struct front; zeroed.
 * @slot_size: of what it keeps for each descriptor chain.
 * @rings_per_queue: virtqueues that make one queue, as people and GET_QUEUE_NUM count them.
 * @tail:      answers mostly in the order of the ring: virtq_config.tail.
 * @translates: answers requests with front_iommu_answered(), so that it can be offered a vIOMMU; @uses, @ahead and
 *           @let_go are for it alone, and may be NULL.
 * @init:      before any socket is opened: set @offered and what else is the class's.
 * @config_changed: the device's info is another.
 * @floor:     what a keeper may promise in our name.
 * @poll, @arm: of each queue's poller.
 * @ring_opened, @ring_closed: queue @q begins or ceases to be served; on its lane's thread. May be NULL.
 * @hand_over: the rings go to the rear: what else it has to be told. NULL where rings never leave.
 * @uses:    may memory of chain @chain be looked at yet? NULL: all may, until they are answered.
 * @ahead:   are the chains of @q taken ahead, so that only ring_closed() ends them?
 * @let_go:  the VMM waits: chains that are not used any more are answered, if it is for them that it waits.
 * @take_aside: what was put aside goes back to the rings that no longer run, or fails. May be NULL.
 * @submit_aside: and all of it into the chain; false if the chain takes nothing now. May be NULL.
 * @show: add to what front_show() tells.
 */
struct front_class {
    size_t size, slot_size;
    unsigned rings_per_queue;
    bool tail;
    bool translates;
    uint64_t protocol_features;
    const struct front_ops *device_ops;
    uint64_t (*features)(void *front);
    int (*set_features)(void *front, uint64_t features, struct dt_error *err);
    int (*get_config)(void *front, void *buf, uint32_t offset, uint32_t len);
    int (*set_config)(void *front, const void *buf, uint32_t offset, uint32_t len);
    void (*send_rarp)(void *front, const uint8_t mac[6]);
    int (*set_mtu)(void *front, uint16_t mtu);
    void (*init)(struct front *front, const struct front_config *config);
    void (*fini)(struct front *front);
    void (*floor)(struct front *front, struct link_floor *floor);
    unsigned (*poll)(struct loop_poller *poller);
    bool (*arm)(struct loop_poller *poller);
    bool (*uses)(const struct virtq_chain *chain);
    bool (*ahead)(const struct front_queue *q);
    void (*let_go)(struct front_lane *fl);
    void (*ring_opened)(struct front_queue *q);
    void (*ring_closed)(struct front_queue *q);
    void (*hand_over)(struct front *front, struct passthrough *p);
    void (*take_aside)(struct front_lane *fl);
    bool (*submit_aside)(struct front_lane *fl);
    void (*show)(struct front *front, json_t *show);
};

struct front_mode;
struct front {
    uint32_t magic;
    struct device *dev;
    struct loop *loop; /* of the device's first thread: sessions and sockets */
    const struct front_class *class;
    struct vhost_device_ops session_ops;
    unsigned nqueues; /* virtqueues */
    bool packed, iommu;
    uint64_t protocol_features; /* offered to the VMM */
    void (*ended)(void *arg);   /* of the session that the front was made with */
    void *ended_arg;
    uint64_t offered;  /* virtio features: the floor, fixed for the front's life */
    uint64_t features; /* acknowledged by the driver */

    struct front_mode *mode; /* NULL: its rings never leave */
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
    bool pause_deferred,
        pause_drain;           /* the session wants one, which waits until the rings are here */
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
/** front_wake() - front_ops.wake: rings that the chain, or a translation, held up are looked at again. */
void front_wake(struct lane *lane);
void front_lane_fault(struct front_lane *fl, const char *fmt, ...) DT_PRINTF(2, 3);

/** front_drain() - as front_pause(), for front_mode_paused(); layers keep what they hold for as long as they
 *  like. front_release() ends their patience. */
void front_drain(struct front *front);
void front_release(struct front *front);
void front_resume_lanes(struct front *front);
void front_queue_call_changed(void *dev, unsigned q);

/* front_list_dirty() - @q is to be published at the end of the turn. */
void front_list_dirty(struct front_queue *q);
/** front_mark_dirty() - the ring has used entries to publish at the end of the turn. */
static inline void front_mark_dirty(struct front_queue *q)
{
    if (!q->dirty)
        front_list_dirty(q);
}
void front_publish(struct loop_deferred *deferred);
void front_call_driver(const struct front_queue *q);
/** front_awaited() - does a stop, a pause or an invalidation wait for the layers? */
bool front_awaited(const struct front_lane *fl);
/** front_keep_aside() - something was put aside: it is submitted again as soon as the chain admits it. */
void front_keep_aside(struct front_lane *fl);
/** front_take_aside() - front_class.take_aside, where the class has it. */
void front_take_aside(struct front_lane *fl);
/** front_queue_drained() - something completed: a stop or pause may be waiting for it. */
void front_queue_drained(struct front_queue *q);

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
void front_iommu_answered(struct front_queue *q, struct virtq_chain *chain);
/** front_iommu_drains() - the VMM waits for all that is in flight of @q, because the ring itself goes. */
static inline bool front_iommu_drains(const struct front_queue *q)
{
    return q->state == QUEUE_UNMAPPED && q->vq.started && virtq_mapped(&q->vq);
}
/** front_iommu_settle() - is an invalidation that waits for this lane over? */
void front_iommu_settle(struct front_lane *fl);
/** front_iommu_urge() - an invalidation takes long: take nothing more. */
void front_iommu_urge(struct front_lane *fl);
json_t *front_iommu_show(const struct front *front);

#endif
