/* SPDX-License-Identifier: MIT */
/*
 * queue.c - rings begin, pause and end on their lane's thread; the session asks on its own.
 *
 * The session's thread prepares a ring, then a message hands it to the lane. From there until the
 * lane's answer to a stop the session does not touch it. A pause closes the intake of a whole
 * lane, while guest memory or the dirty log changes.
 */
#include "front/mode.h"
#include <sys/epoll.h>
#include <sys/mman.h>

/* Who asked waits for us, and the VM with him: what a layer holds must come soon, or go back to the ring. */
#define RELEASE_NS DT_MS(100)
/* Nobody waits for the end of the process, and what it leaves in flight is run by the next one. */
#define RELEASE_AT_END_NS DT_S(120)

/* ---- On the lane's thread ---- */

static struct loop *loop_of(const struct front_queue *q)
{
    return lane_loop(q->lane->lane);
}

static void run_kicked(struct dt_watch *watch, uint32_t events)
{
    struct front_queue *q = container_of(watch, struct front_queue, kick);

    virtq_disarm(&q->vq);
    loop_poller_wake(loop_of(q), &q->poller);
}

/*
 * Each kick is an event of an edge-triggered watch, and its counter is not read. It is cleared before the ring is
 * looked at first, in case it came full; and at the end, because QEMU starts a device again
 * whose counter it finds set when it has stopped it.
 */
static void clear_kicks(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        log_debug("kick eventfd: %m");
}

static void unwatch(struct front_queue *q)
{
    if (q->kick.fd >= 0) {
        loop_watch_remove(loop_of(q), &q->kick);
        clear_kicks(q->kick.fd);
    }
    q->kick.fd = -1;
}

static void watch_kicks(struct front_queue *q)
{
    int fd = vhost_session_kick_fd(q->front->session, q->index);

    unwatch(q);
    if (fd < 0)
        return;
    clear_kicks(fd);
    q->kick.fd = fd;
    if (loop_watch_add(loop_of(q), &q->kick) < 0) {
        q->kick.fd = -1;
        front_lane_fault(q->lane, "queue %u: cannot watch its kick eventfd", q->index);
    }
}

/* Take requests from now on. The ring may hold some that were never kicked for. */
void front_queue_open(struct front_queue *q)
{
    q->state = QUEUE_RUNNING;
    q->blocked = false;
    if (q->front->class->ring_opened)
        q->front->class->ring_opened(q);
    watch_kicks(q);
    virtq_disarm(&q->vq);
    loop_poller_wake(loop_of(q), &q->poller);
}

void front_queue_close(struct front_queue *q, enum queue_state state)
{
    q->state = state;
    q->blocked = false; /* or a wake() by the chain would poll a ring that is gone */
    unwatch(q);
    loop_poller_remove(loop_of(q), &q->poller);
    if (q->front->class->ring_closed)
        q->front->class->ring_closed(q);
}

void front_queue_begin(struct front_queue *q)
{
    if (q->vq.replay_count)
        log_info("%s: queue %u: requests of an earlier process that are run again: %u",
                 device_name(q->front->dev), q->index, q->vq.replay_count);
    q->suspect = front_queue_owes(q) && !q->vq.config.innocent;
    q->lane->suspects += q->suspect;
}

static void run_start(struct loop_message *message)
{
    struct front_queue *q = container_of(message, struct front_queue, start);

    if (q->translated) {
        front_iommu_start(q);
        return;
    }
    front_queue_begin(q);
    front_queue_open(q);
}

static bool lane_idle(const struct front_lane *fl)
{
    return lane_in_flight(fl->lane) == 0 && fl->dirty == NULL;
}

/* Nothing is in flight: what came back unserved is as if it had never been taken. */
void front_queue_put_back(struct front_queue *q)
{
    unsigned n = virtq_put_back(&q->vq);

    if (n)
        log_info("%s: queue %u: requests that were not served stay in the ring: %u",
                 device_name(q->front->dev), q->index, n);
}

static void put_all_back(struct front_lane *fl)
{
    for (unsigned i = 0; i < fl->front->nqueues; i++)
        if (fl->front->queues[i].lane == fl && fl->front->queues[i].state == QUEUE_PAUSED)
            front_queue_put_back(&fl->front->queues[i]);
}

/* Classes whose layers let go of what a ring has, and cannot give it back to that ring. */
void front_take_aside(struct front_lane *fl)
{
    if (fl->front->class->take_aside)
        fl->front->class->take_aside(fl);
}

static bool submit_aside(struct front_lane *fl)
{
    return !fl->front->class->submit_aside || fl->front->class->submit_aside(fl);
}

/* Who is woken first may have all that a limit lets through, so it is the ring behind the one that took something last; not
 * behind the one woken last, which may have met another limit. */
void front_wake(struct lane *lane)
{
    struct front_lane *fl = lane_front(lane);
    struct front *front = fl->front;

    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[(fl->turn + i) % front->nqueues];

        if (q->lane == fl && q->blocked) {
            q->blocked = false;
            loop_poller_wake(lane_loop(lane), &q->poller);
        }
    }
    if (fl->aside && !front_awaited(fl) && submit_aside(fl))
        loop_timer_cancel(lane_loop(lane), &fl->ask_again);
}

bool front_awaited(const struct front_lane *fl)
{
    bool stops = false;

    for (unsigned i = 0; i < fl->front->nqueues && !stops; i++)
        stops = fl->front->queues[i].lane == fl && fl->front->queues[i].state == QUEUE_STOPPING;
    return stops || fl->pausing || fl->invalidating;
}

/* What is late is asked again: requests that were under way may have come to be held since. */
static void ask_for_rest(struct front_lane *fl, uint64_t patience)
{
    uint64_t deadline = dt_clock_ns() + patience;

    lane_release(fl->lane, deadline);
    loop_timer_set(lane_loop(fl->lane), &fl->ask_again, deadline);
}

static void run_ask_again(struct dt_timer *timer)
{
    struct front_lane *fl = container_of(timer, struct front_lane, ask_again);

    if (fl->invalidating)
        front_iommu_urge(fl);
    if (front_awaited(fl))
        ask_for_rest(fl, RELEASE_NS);
    else if (!submit_aside(fl))
        loop_timer_set(lane_loop(fl->lane), timer, dt_clock_ns() + RELEASE_NS);
}

/* A lane that is closed tells when it is open again, once it has refused somebody. */
void front_keep_aside(struct front_lane *fl)
{
    lane_admit(fl->lane, 1);
    if (!fl->ask_again.heap_index)
        loop_timer_set(lane_loop(fl->lane), &fl->ask_again, dt_clock_ns() + RELEASE_NS);
}

void front_queue_drained(struct front_queue *q)
{
    struct front_lane *fl = q->lane;

    if (q->state == QUEUE_STOPPING && q->vq.in_flight == 0 && !q->dirty && !front_queue_owes(q)) {
        loop_poller_remove(loop_of(q), &q->poller);
        q->lane->suspects -= q->suspect;
        q->suspect = false;
        q->state = QUEUE_IDLE;
        q->blocked = false;
        front_queue_put_back(q);
        q->base = virtq_stop(&q->vq);
        loop_post(q->front->loop, &q->stopped);
    }
    if (fl->pausing && lane_idle(fl)) {
        fl->pausing = false;
        put_all_back(fl);
        loop_post(q->front->loop, &fl->paused);
    }
    front_iommu_settle(fl);
    if (!front_awaited(fl) && !fl->aside)
        loop_timer_cancel(lane_loop(fl->lane), &fl->ask_again);
}

static void run_stop(struct loop_message *message)
{
    struct front_queue *q = container_of(message, struct front_queue, stop);
    uint64_t patience = q->front->stopping ? RELEASE_AT_END_NS : RELEASE_NS;

    if (front_iommu_stop(q))
        return;
    front_queue_close(q, QUEUE_STOPPING);
    front_take_aside(q->lane);
    if (front_queue_owes(q))
        loop_poller_wake(loop_of(q), &q->poller);
    ask_for_rest(q->lane, patience);
    front_queue_drained(q);
}

static void run_pause(struct loop_message *message)
{
    struct front_lane *fl = container_of(message, struct front_lane, pause);
    struct front *front = fl->front;

    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];

        if (q->lane == fl && q->state == QUEUE_RUNNING)
            front_queue_close(q, QUEUE_PAUSED);
    }
    fl->pausing = front->drain;
    if (fl->pausing)
        front_take_aside(fl);
    if (!front->drain || lane_idle(fl)) {
        fl->pausing = false;
        loop_post(front->loop, &fl->paused);
        return;
    }
    if (front->pausing)
        ask_for_rest(fl, RELEASE_NS);
}

static void run_release(struct loop_message *message)
{
    struct front_lane *fl = container_of(message, struct front_lane, release);

    if (fl->pausing)
        ask_for_rest(fl, RELEASE_NS);
}

static void run_resume(struct loop_message *message)
{
    struct front_lane *fl = container_of(message, struct front_lane, resume);
    struct front *front = fl->front;

    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];
        struct vhost_ring ring;

        if (q->lane != fl || (q->state != QUEUE_PAUSED && q->state != QUEUE_UNMAPPED) ||
            !front->session)
            continue;
        if (vhost_session_ring(front->session, q->index, &ring, NULL) == 0)
            virtq_set_dirty(&q->vq, ring.config.dirty, ring.config.log_used,
                            ring.config.log_used_valid);
        if (q->state == QUEUE_UNMAPPED)
            front_iommu_resume(q, &ring);
        else
            front_queue_open(q);
    }
}

void front_lane_fault(struct front_lane *fl, const char *fmt, ...)
{
    struct front *front = fl->front;
    va_list args;

    if (__atomic_exchange_n(&front->faulted, true, __ATOMIC_ACQ_REL))
        return; /* the first fault is being reported */
    va_start(args, fmt);
    vsnprintf(front->fault, sizeof(front->fault), fmt, args);
    va_end(args);
    loop_post(front->loop, &front->fault_message);
}

/* ---- On the session's thread ---- */

static int map_slots(struct front_queue *q, unsigned n, struct dt_error *err)
{
    q->slots_size = n * q->front->class->slot_size;
    q->slots =
        mmap(NULL, q->slots_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (q->slots != MAP_FAILED)
        return 0;
    q->slots = NULL;
    return dt_fail(err, -errno, "queue %u: no memory for %u requests", q->index, n);
}

static void unmap_slots(struct front_queue *q)
{
    munmap(q->slots, q->slots_size);
    q->slots = NULL;
}

int front_queue_start(void *dev, unsigned index, struct dt_error *err)
{
    struct front *front = dev;
    struct front_queue *q = &front->queues[index];
    struct vhost_ring ring;
    int ret = vhost_session_ring(front->session, index, &ring, err);

    if (ret < 0)
        return ret;
    CHECK(q->state == QUEUE_IDLE);
    ret = map_slots(q, ring.config.size, err);
    if (ret < 0)
        return ret;
    ring.config.slots = q->slots;
    ring.config.slot_stride = front->class->slot_size;
    ring.config.iovs = q->lane->iovs;
    ring.config.tail = front->class->tail;
    q->translated = front_translates(front);
    if (q->translated) {
        q->ring = ring;
        q->state = QUEUE_STARTING;
        loop_post(loop_of(q), &q->start);
        return 0; /* what is run again is known when the ring can be read */
    }
    ret = virtq_start(&q->vq, &ring.config, ring.base, ring.recover, err);
    if (ret < 0) {
        unmap_slots(q);
        return ret;
    }
    front_mode_leave(front, false); /* all rings, or none */
    front_mode_session(front);
    q->state = QUEUE_STARTING; /* not PAUSED: a resume under way would open it too early */
    loop_post(loop_of(q), &q->start);
    return (int)q->vq.replay_count;
}

static void run_stopped(struct loop_message *message)
{
    struct front_queue *q = container_of(message, struct front_queue, stopped);

    unmap_slots(q);
    vhost_session_queue_stopped(q->front->session, q->index, q->base);
}

void front_queue_stop(void *dev, unsigned index)
{
    struct front *front = dev;
    struct front_queue *q = &front->queues[index];

    if (q->state == QUEUE_LOST) {
        q->state = QUEUE_IDLE;
        loop_post(front->loop, &q->stopped);
    } else if (front_mode_leave(front, true)) {
        loop_post(loop_of(q), &q->stop);
    } else {
        q->stop_deferred = true;
    }
}

static void pause_lanes(struct front *front, bool drain)
{
    front->drain = drain;
    front->lanes_to_pause = front->nlanes;
    for (unsigned t = 0; t < front->nlanes; t++)
        loop_post(lane_loop(front->lanes[t].lane), &front->lanes[t].pause);
}

void front_pause(void *dev, bool drain)
{
    struct front *front = dev;

    if (!front_mode_leave(front, true)) {
        front->pause_deferred = true;
        front->pause_drain = drain;
        return;
    }
    front->pausing = true;
    pause_lanes(front, drain);
}

void front_drain(struct front *front)
{
    pause_lanes(front, true);
}

void front_release(struct front *front)
{
    for (unsigned t = 0; t < front->nlanes; t++)
        loop_post(lane_loop(front->lanes[t].lane), &front->lanes[t].release);
}

static void run_paused(struct loop_message *message)
{
    struct front *front = container_of(message, struct front_lane, paused)->front;

    if (--front->lanes_to_pause > 0)
        return;
    if (front->pausing)
        vhost_session_paused(front->session);
    else
        front_mode_paused(front);
}

void front_resume_lanes(struct front *front)
{
    for (unsigned t = 0; t < front->nlanes; t++)
        loop_post(lane_loop(front->lanes[t].lane), &front->lanes[t].resume);
}

void front_resume(void *dev)
{
    struct front *front = dev;

    front->pausing = false;
    front_resume_lanes(front);
    front_mode_session(front);
}

void front_queue_kick_changed(void *dev, unsigned index)
{
    /* The session pauses the lanes around it: resume takes the new descriptors. */
    (void)dev;
    (void)index;
}

/* ---- Life ---- */

void front_queue_init(struct front *front, unsigned index)
{
    struct front_queue *q = &front->queues[index];

    q->front = front;
    q->index = index;
    q->lane = &front->lanes[index / front->class->rings_per_queue % front->nlanes];
    q->kick = (struct dt_watch){.fd = -1, .events = EPOLLIN | EPOLLET, .ready = run_kicked};
    q->poller = (struct loop_poller){.poll = front->class->poll, .arm = front->class->arm};
    list_init(&q->poller.node);
    q->start.run = run_start;
    q->stop.run = run_stop;
    q->stopped.run = run_stopped;
}

void front_lane_init(struct front *front, unsigned thread)
{
    struct front_lane *fl = &front->lanes[thread];

    fl->front = front;
    fl->lane = device_lane(front->dev, thread);
    fl->iovs = iovpool_new(64);
    fl->publish.run = front_publish;
    fl->pause.run = run_pause;
    fl->paused.run = run_paused;
    fl->resume.run = run_resume;
    fl->release.run = run_release;
    fl->ask_again.fire = run_ask_again;
    if (front->iommu)
        front_iommu_init(fl);
    lane_set_front(fl->lane, fl);
}

void front_lane_fini(struct front_lane *fl)
{
    CHECK(!fl->dirty && !fl->aside);
    lane_set_front(fl->lane, NULL);
    iovpool_free(fl->iovs);
    front_iommu_fini(fl);
}
