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

#define FRONT_MAGIC 0x46726e74u
enum queue_state {
    QUEUE_IDLE,     /* no ring */
    QUEUE_STARTING, /* the session prepared it; the lane has not heard of it yet */
    QUEUE_RUNNING,  /* takes requests */
    QUEUE_PAUSED,   /* memory or the log is changing: takes nothing */
    QUEUE_STOPPING, /* takes nothing; ends when nothing is in flight */
    QUEUE_HANDED,   /* the rear serves it (blk/vhost-user/mode.c) */
    QUEUE_LOST,     /* the rear served it, and what it had is lost */
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
    uint16_t seen_used;         /* passthrough: the used index, as last looked at */
    bool suspect; /* owes requests of a crash, which run one at a time */
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
    struct loop_deferred publish;
    struct loop_message pause, paused, resume, release;
    struct dt_timer ask_again; /* while a stop or pause waits for the layers */
    struct slot *aside; /* the class's: let go of by the layers, of rings that go on: submitted again later */
    bool pausing;
};

/**
 * struct front_class - what is peculiar to a class of devices.
 * @size:      of the class's front, which begins with a struct front; zeroed.
 * @slot_size: of what it keeps for each descriptor chain.
 * @rings_per_queue: virtqueues that make one queue, as people and GET_QUEUE_NUM count them.
 * @init:      before any socket is opened: set @offered and what else is the class's.
 * @config_changed: the device's info is another.
 * @floor:     what a keeper may promise in our name.
 * @poll, @arm: of each queue's poller.
 * @ring_opened, @ring_closed: queue @q begins or ceases to be served; on its lane's thread. May be NULL.
 * @session_changed: the session, or a ring of it, is another. May be NULL.
 * @leave: true: the rings are here. Else they will be, what was deferred is done then, and this is what
 *         @at_rest waits for. NULL where rings never leave.
 * @at_rest: front_drain() is done.
 * @call_changed: vhost_device_ops.queue_call_changed.
 * @take_aside: what was put aside goes back to the rings that no longer run, or fails. May be NULL.
 * @submit_aside: and all of it into the chain; false if the chain admits nothing now. May be NULL.
 * @show: add to what front_show() tells.
 */
struct front_class {
    size_t size, slot_size;
    unsigned rings_per_queue;
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
    void (*ring_opened)(struct front_queue *q);
    void (*ring_closed)(struct front_queue *q);
    void (*session_changed)(struct front *front);
    bool (*leave)(struct front *front, bool urgent);
    void (*at_rest)(struct front *front);
    void (*call_changed)(void *front, unsigned q);
    void (*take_aside)(struct front_lane *fl);
    bool (*submit_aside)(struct front_lane *fl);
    void (*show)(struct front *front, json_t *show);
};

struct front {
    uint32_t magic;
    struct device *dev;
    struct loop *loop; /* of the device's first thread: sessions and sockets */
    const struct front_class *class;
    struct vhost_device_ops session_ops;
    unsigned nqueues;  /* virtqueues */
    bool packed;
    void (*ended)(void *arg); /* of the session that the front was made with */
    void *ended_arg;
    uint64_t offered;  /* virtio features: the floor, fixed for the front's life */
    uint64_t features; /* acknowledged by the driver */

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
    bool pause_deferred, pause_drain; /* the session wants one, which waits until the rings are here */
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
void front_lane_fault(struct front_lane *fl, const char *fmt, ...) DT_PRINTF(2, 3);

/** front_drain() - as front_pause(), for front_class.at_rest(); layers keep what they hold for as long as they
 *  like. front_release() ends their patience. */
void front_drain(struct front *front);
void front_release(struct front *front);
void front_resume_lanes(struct front *front);
void front_queue_call_changed(void *dev, unsigned q);

/** front_mark_dirty() - the ring has used entries to publish at the end of the turn. */
void front_mark_dirty(struct front_queue *q);
void front_publish(struct loop_deferred *deferred);
void front_call_driver(const struct front_queue *q);
/** front_awaited() - does a stop or a pause wait for the layers? */
bool front_awaited(const struct front_lane *fl);
/** front_queue_drained() - something completed: a stop or pause may be waiting for it. */
void front_queue_drained(struct front_queue *q);

#endif
