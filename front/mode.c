/* SPDX-License-Identifier: MIT */
/*
 * mode.c - the tap's switch: who serves the rings, this front and its chain (interpose), or the
 * rear itself (passthrough).
 *
 * Theory of operation: passthrough is wished for, and entered when it can be. To enter, the lanes
 * pause until nothing is in flight, the rings stop without the session's knowledge, and the rear
 * gets them. Whatever the session asks for then (a stop, a pause for memory or a log, a new ring)
 * waits until the rings are here again, and happens as always; a while later they go to the rear
 * again. While pages are logged for a migration they stay here, since only this front logs.
 *
 * If the rear is lost, the in-flight log tells what it had, and that is run again. A rear that
 * keeps none has the log spoilt before it gets the rings: whoever would recover from it is told
 * that it cannot be. Where that may be lost which it had (packets), rings go on from where they stand: split ones
 * from their used index, and their log stays as it is, and empty; packed ones from where the descriptors' flags say (ring/packed-find.c).
 */
#include "front/mode.h"

#include <stdio.h>

#define AGAIN_NS DT_MS(200) /* after the session was served, or a try failed */
#define COUNT_NS DT_MS(20)  /* between looks at the indices: they have 16 bits */

static struct front_mode *mode_of(struct passthrough *p)
{
    return container_of(p, struct front_mode, rings);
}

static void explain(struct front_mode *m, const char *why)
{
    snprintf(m->why, sizeof(m->why), "%s", why ?: "");
}

static void try_later(struct front *front)
{
    loop_timer_set(front->loop, &front->mode->again, dt_clock_ns() + AGAIN_NS);
}

/* Can the rings go on when the rear is lost? */
static bool survives(const struct passthrough *p)
{
    return p->logged || p->lossy;
}

/* ---- Rings on their way ---------------------------------------------------------------------- */

static void describe_ring(struct front_queue *q, struct device_ring *ring)
{
    const struct virtq_config *c = &q->vq.config;

    *ring = (struct device_ring){.index = q->index,
                                 .size = c->size,
                                 .desc = c->desc,
                                 .driver = c->driver,
                                 .device = c->device,
                                 .kick = vhost_session_kick_fd(q->front->session, q->index),
                                 .call = vhost_session_call_fd(q->front->session, q->index)};
}

/* What can be known before anything is disturbed. */
static int judge(struct front *front, struct dt_error *err)
{
    struct front_mode *m = front->mode;
    struct passthrough *p = &m->rings;
    struct vhost_inflight log = {0};
    int ret = device_passthrough(front->dev, &m->back, &m->ops, err);

    if (ret < 0)
        return ret;
    if (front->session && front_translates(front))
        return dt_fail(
            err, -EOPNOTSUPP,
            "the guest has an IOMMU, and what the rear once reached could not be taken back "
            "from it: only interpose can be");
    p->count = 0;
    p->features = front->features;
    p->packed = front->features & 1ull << VIRTIO_F_RING_PACKED;
    front->class->hand_over(front, p);
    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];

        if (q->state == QUEUE_RUNNING && q->vq.config.dirty)
            return dt_fail(err, -EBUSY, "a migration logs what is written, which is done here");
        if (q->state == QUEUE_RUNNING && front_queue_owes(q))
            return dt_fail(err, -EBUSY, "requests of a crash are being run again");
        if (q->state == QUEUE_RUNNING)
            describe_ring(q, &p->rings[p->count++]);
        else if (q->state != QUEUE_IDLE)
            return dt_fail(err, -EBUSY, "a ring is changing");
    }
    if (p->count == 0)
        return dt_fail(err, -EAGAIN, "no VM has started a ring");
    if (!vhost_session_inflight(front->session, &log, &p->log.fd))
        return dt_fail(err, -EAGAIN, "there is no in-flight log yet");
    p->log.size = log.mmap_size;
    p->log.offset = log.mmap_offset;
    p->log.queues = log.num_queues;
    p->log.queue_size = log.queue_size;
    return m->ops->judge(m->back, p, err);
}

static struct front_queue *queue_of(struct front *front, unsigned i)
{
    return &front->queues[front->mode->rings.rings[i].index];
}

/* All lanes are at rest: from here on the rings are nobody's. */
static void hand_over(struct front *front)
{
    struct passthrough *p = &front->mode->rings;

    for (unsigned i = 0; i < p->count; i++) {
        struct front_queue *q = queue_of(front, i);

        CHECK(q->state == QUEUE_PAUSED);
        /* Some rears take it that they are kicked, whatever we left in the ring. */
        virtq_arm(&q->vq);
        q->handed = q->vq.config;
        p->rings[i].base = q->base = virtq_stop(&q->vq);
        q->state = QUEUE_HANDED;
        if (p->packed)
            inflight_renumber(q->handed.inflight, q->handed.size, q->seen);
        else
            q->seen = q->base;
        if (!survives(p))
            inflight_spoil(q->handed.inflight);
        else if (!p->logged && p->packed)
            inflight_loosen(q->handed.inflight);
    }
    front->mode->ops->enter(front->mode->back, p);
}

/* The rings are ours again, where the rear left them. */
static int take_back(struct front *front, bool recover, struct dt_error *err)
{
    struct passthrough *p = &front->mode->rings;
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < p->count; i++) {
        struct front_queue *q = queue_of(front, i);

        q->handed.innocent = true;
        ret = virtq_start(&q->vq, &q->handed, p->rings[i].base, recover || p->rings[i].unsure, err);
        if (ret == 0)
            q->state = QUEUE_PAUSED;
        front_call_driver(q); /* what the rear answered may have been signalled to an old eventfd */
    }
    return ret;
}

/* ---- Steps, on the front's loop -------------------------------------------------------------- */

static void settle_in(struct front *front, enum front_mode_state state)
{
    struct front_mode *m = front->mode;

    m->state = state;
    m->changes++;
    m->switch_ns = dt_clock_ns() - m->began - m->drain_ns;
    log_info("%s: %s%s%s", device_name(front->dev),
             state == MODE_PASSTHROUGH ? "passthrough" : "interpose", m->why[0] ? ": " : "",
             m->why);
}

/* Serve again, and do what was asked meanwhile. */
static void interpose(struct front *front)
{
    struct front_mode *m = front->mode;

    settle_in(front, MODE_INTERPOSE);
    device_in_passthrough(front->dev, false);
    loop_timer_cancel(front->loop, &m->count);
    front_resume_lanes(front);
    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];

        if (!q->stop_deferred)
            continue;
        q->stop_deferred = false;
        front_queue_stop(front, i);
    }
    if (front->pause_deferred) {
        front->pause_deferred = false;
        front_pause(front, front->pause_drain);
    }
    if (m->wanted)
        try_later(front);
}

/* A ring that cannot be taken back has lost requests: the driver would wait for them for ever. */
static void give_up(struct front *front, const char *why)
{
    struct passthrough *p = &front->mode->rings;

    for (unsigned i = 0; i < p->count; i++) {
        struct front_queue *q = queue_of(front, i);

        if (q->state == QUEUE_HANDED)
            q->state = QUEUE_LOST;
    }
    vhost_session_break(front->session, why);
    interpose(front);
}

/* The used index says how many were answered; it has 16 bits. */
static uint64_t answered_split(struct front_queue *q)
{
    const struct virtq_config *c = &q->handed;
    const uint16_t *used =
        memmap_host(c->map, c->device + offsetof(struct vring_used, idx), sizeof(*used));
    uint16_t now = used ? READ_ONCE(*used) : (uint16_t)q->seen, n = (uint16_t)(now - q->seen);

    q->seen = now;
    return n;
}

/*
 * A packed ring has only positions, which say nothing of requests and come around within a moment. But a rear
 * that keeps the in-flight log numbers there what it takes. When it gets the ring again it goes on where it, or the
 * log, stood; one that was started anew may begin at 0.
 */
static uint64_t taken_packed(struct front_queue *q)
{
    uint64_t now = inflight_next(q->handed.inflight, q->handed.size);
    uint64_t n = now >= q->seen ? now - q->seen : now;

    q->seen = now;
    return n;
}

/* What the rear did, without looking at anything but indices. */
static void count_passed(struct front *front)
{
    struct front_mode *m = front->mode;

    if (m->rings.packed && !m->rings.logged)
        return;
    for (unsigned i = 0; i < m->rings.count; i++) {
        struct front_queue *q = queue_of(front, i);

        m->passed += m->rings.packed ? taken_packed(q) : answered_split(q);
    }
}

static void run_count(struct dt_timer *timer)
{
    struct front_mode *m = container_of(timer, struct front_mode, count);
    struct front *front = m->front;

    count_passed(front);
    if (m->state == MODE_PASSTHROUGH)
        loop_timer_set(front->loop, timer, dt_clock_ns() + COUNT_NS);
}

static void run_entered(struct loop_message *message)
{
    struct front_mode *m = container_of(message, struct front_mode, entered);
    struct front *front = m->front;
    bool untouched = m->result == -EBUSY || m->result == -ENOTCONN;
    struct dt_error err;
    int ret = 0;

    explain(m, m->result < 0 ? m->reason : NULL);
    if (m->result == 0) {
        settle_in(front, MODE_PASSTHROUGH);
        run_count(&m->count);
        if (m->leave_asked)
            front_mode_leave(front, false);
        return;
    }
    if (!untouched && !survives(&m->rings))
        ret = dt_fail(&err, m->result, "the rear may have served rings and kept no log: %s",
                      m->reason);
    if (ret < 0 || take_back(front, !untouched, &err) < 0)
        give_up(front, err.text);
    else
        interpose(front);
}

static void run_left(struct loop_message *message)
{
    struct front_mode *m = container_of(message, struct front_mode, left);
    struct front *front = m->front;
    struct dt_error err = {""};
    int ret = 0;

    count_passed(front); /* what the last look missed */
    m->drain_ns = m->rings.drain_ns;
    explain(m, m->result < 0 ? m->reason : NULL);
    if (m->result < 0 && !survives(&m->rings))
        ret = dt_fail(&err, m->result, "the rear had the rings and kept no in-flight log: %s",
                      m->reason);
    ret = ret ?: take_back(front, m->result < 0, &err);
    if (ret < 0)
        give_up(front, err.text);
    else
        interpose(front);
}

static void on_entered(struct passthrough *p, int result, const char *why)
{
    struct front_mode *m = mode_of(p);

    m->result = result;
    snprintf(m->reason, sizeof(m->reason), "%s", why ?: "");
    loop_post(m->front->loop, &m->entered);
}

static void on_left(struct passthrough *p, int result, const char *why)
{
    struct front_mode *m = mode_of(p);

    m->result = result;
    snprintf(m->reason, sizeof(m->reason), "%s", why ?: "");
    loop_post(m->front->loop, &m->left);
}

/* The lanes are at rest. */
void front_mode_paused(struct front *front)
{
    struct front_mode *m = front->mode;

    m->drain_ns = dt_clock_ns() - m->began;
    if (m->leave_asked)
        interpose(front);
    else
        hand_over(front);
}

static void run_again(struct dt_timer *timer)
{
    struct front_mode *m = container_of(timer, struct front_mode, again);
    struct front *front = m->front;
    struct dt_error err;
    int ret;

    if (!m->wanted || m->state != MODE_INTERPOSE || !front->session || front->stopping)
        return;
    if (front->pausing) {
        try_later(front);
        return;
    }
    ret = judge(front, &err);
    if (ret < 0) {
        explain(m, err.text);
        try_later(front);
        return;
    }
    m->state = MODE_ENTERING;
    m->began = dt_clock_ns();
    device_in_passthrough(front->dev, true);
    m->leave_asked = false;
    front_drain(front);
}

/* ---- From the session and from outside ------------------------------------------------------- */

bool front_mode_leave(struct front *front, bool urgent)
{
    struct front_mode *m = front->mode;

    if (!m || m->state == MODE_INTERPOSE)
        return true;
    m->leave_asked = true;
    if (m->state == MODE_PASSTHROUGH) {
        m->state = MODE_LEAVING;
        m->began = dt_clock_ns();
        m->ops->leave(m->back);
    } else if (m->state == MODE_ENTERING && urgent) {
        front_release(front);
    }
    return false;
}

void front_mode_session(struct front *front)
{
    if (front->mode && front->mode->wanted)
        try_later(front);
}

/* The rear has the old one: it gets the new one with the rings. */
void front_mode_call_changed(void *dev, unsigned index)
{
    struct front *front = dev;

    if (front->queues[index].state == QUEUE_HANDED)
        front_mode_leave(front, false);
}

int front_set_passthrough(struct lane *lane, bool on, struct dt_error *err)
{
    struct front_lane *fl = lane_front(lane);
    struct front *front = fl ? fl->front : NULL;
    int ret = 0;

    if (!front)
        return dt_fail(err, -EAGAIN, "the device has no front yet");
    if (on && front->session && front->mode->state == MODE_INTERPOSE)
        ret = judge(front, err);
    if (ret < 0 && ret != -EBUSY && ret != -EAGAIN)
        return ret;
    front->mode->wanted = on;
    explain(front->mode, ret < 0 && err ? err->text : NULL);
    if (on)
        loop_timer_set(front->loop, &front->mode->again, dt_clock_ns());
    else
        front_mode_leave(front, false);
    return 0;
}

void front_mode_init(struct front *front)
{
    struct front_mode *m = front->mode = xcalloc(1, sizeof(*m));

    m->front = front;
    m->wanted = device_wants_passthrough(front->dev);
    m->rings.rings = xcalloc(front->nqueues, sizeof(*m->rings.rings));
    m->rings.entered = on_entered;
    m->rings.left = on_left;
    m->entered.run = run_entered;
    m->left.run = run_left;
    m->again.fire = run_again;
    m->count.fire = run_count;
}

void front_mode_fini(struct front *front)
{
    struct front_mode *m = front->mode;

    if (!m)
        return;
    CHECK(m->state == MODE_INTERPOSE);
    loop_timer_cancel(front->loop, &m->again);
    loop_timer_cancel(front->loop, &m->count);
    free(m->rings.rings);
    free(m);
    front->mode = NULL;
}

static const char *mode_name(const struct front_mode *m)
{
    static const char *const names[] = {[MODE_INTERPOSE] = "interpose",
                                        [MODE_ENTERING] = "entering passthrough",
                                        [MODE_PASSTHROUGH] = "passthrough",
                                        [MODE_LEAVING] = "leaving passthrough"};

    return names[m->state];
}

void front_mode_show(struct front *front, json_t *show)
{
    const struct front_mode *m = front->mode;

    if (!m)
        return;
    if (m->state == MODE_PASSTHROUGH)
        count_passed(front);
    json_object_set_new(show, "mode", json_string(mode_name(m)));
    json_object_set_new(show, "mode_wanted", json_string(m->wanted ? "passthrough" : "interpose"));
    if (m->why[0])
        json_object_set_new(show, "mode_because", json_string(m->why));
    json_object_set_new(show, "mode_changes", json_integer((json_int_t)m->changes));
    json_object_set_new(show, "passed_through", json_integer((json_int_t)m->passed));
    json_object_set_new(show, "mode_drain_ns", json_integer((json_int_t)m->drain_ns));
    json_object_set_new(show, "mode_switch_ns", json_integer((json_int_t)m->switch_ns));
}
