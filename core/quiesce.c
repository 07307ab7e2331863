/* SPDX-License-Identifier: MIT */
/*
 * quiesce.c - bring a device to rest: every lane closes its intake, asks each layer to let go of
 * what it holds, and reports when nothing of the guest's or the layers' own is under way, or when
 * the deadline passed, naming the layers that still hold something.
 */
#include "core/internal.h"
#include <semaphore.h>
#include <time.h>

static void report(struct lane *lane)
{
    lane->quiescing = false;
    loop_timer_cancel(lane->loop, &lane->quiesce_timer);
    loop_post(lane->dev->loops[0], &lane->quiesce_report);
}

void lane_drained(struct lane *lane)
{
    if (lane->quiescing && lane->in_flight == 0 && lane->subs == 0)
        report(lane);
}

static void run_late(struct dt_timer *timer)
{
    struct lane *lane = container_of(timer, struct lane, quiesce_timer);
    size_t at = 0;

    for (unsigned i = 1; i < lane->nctxs; i++) {
        struct ctx *c = lane->ctxs[i];

        if (c->held && at < sizeof(lane->late))
            at += (size_t)snprintf(lane->late + at, sizeof(lane->late) - at, "%s%s holds %u",
                                   at ? ", " : "", c->pub.layer->name, c->held);
    }
    if (at == 0)
        snprintf(lane->late, sizeof(lane->late), "%u requests wait for memory", lane->in_flight);
    report(lane);
}

void lane_release(struct lane *lane, uint64_t deadline)
{
    lane->release_by = deadline;
    for (unsigned i = 1; i < lane->nctxs; i++) {
        struct ctx *c = lane->ctxs[i];

        /* What works in the background holds no request of the guest's and must rest, too. */
        if ((c->held || c->sub_memory) && c->pub.layer->ext->quiesce)
            c->pub.layer->ext->quiesce(&c->pub, deadline);
    }
}

static bool resting(const struct lane *lane)
{
    return lane->quiescing || lane->closed;
}

bool ctx_resting(struct dt_ctx *c)
{
    return resting(ctx_of(c)->lane);
}

bool lane_asked(const struct lane *lane)
{
    return resting(lane) || dt_clock_ns() < lane->release_by;
}

/* On each lane's thread. */
static void run_start(struct loop_message *message)
{
    struct lane *lane = container_of(message, struct lane, quiesce_start);
    uint64_t deadline = lane->dev->quiesce_deadline;

    lane->late[0] = '\0';
    lane->closed |= lane->dev->quiesce_closes;
    lane->quiescing = true;
    lane->quiesce_timer.fire = run_late;
    loop_timer_set(lane->loop, &lane->quiesce_timer, deadline);
    lane_release(lane, deadline);
    lane_drained(lane);
}

/* A layer whose state belongs to the first thread gets work there from the other lanes, which may have come after that
 * one's report; when they all have reported, no more can come. */
static bool first_has_work(struct device *dev)
{
    struct lane *lane = dev->lanes[0];

    if (dev->threads == 1 || dev->quiesce_late[0] || (lane->in_flight == 0 && lane->subs == 0))
        return false;
    dev->quiesce_left = 1;
    lane->quiescing = true;
    loop_timer_set(lane->loop, &lane->quiesce_timer, dev->quiesce_deadline);
    lane_release(lane, dev->quiesce_deadline);
    lane_drained(lane);
    return true;
}

/* On the device's first thread, once per lane. */
static void run_report(struct loop_message *message)
{
    struct lane *lane = container_of(message, struct lane, quiesce_report);
    struct device *dev = lane->dev;
    void (*done)(void *arg, const char *late) = dev->quiesce_done;

    if (lane->late[0] && !dev->quiesce_late[0])
        snprintf(dev->quiesce_late, sizeof(dev->quiesce_late), "%s", lane->late);
    if (--dev->quiesce_left > 0 || first_has_work(dev))
        return;
    dev->quiesce_done = NULL;
    done(dev->quiesce_arg, dev->quiesce_late[0] ? dev->quiesce_late : NULL);
}

void device_quiesce(struct device *dev, uint64_t deadline,
                    void (*done)(void *arg, const char *late), void *arg)
{
    CHECK(dev->started && !dev->quiesce_done);
    dev->quiesce_done = done;
    dev->quiesce_arg = arg;
    dev->quiesce_deadline = deadline;
    dev->quiesce_left = dev->threads;
    dev->quiesce_late[0] = '\0';
    for (unsigned t = 0; t < dev->threads; t++) {
        struct lane *lane = dev->lanes[t];

        lane->quiesce_start.run = run_start;
        lane->quiesce_report.run = run_report;
        loop_post(lane->loop, &lane->quiesce_start);
    }
}

/* ---- Held for somebody ----------------------------------------------------------------------- */

struct hold_call {
    sem_t done;
    char late[256];
};

static void run_held(void *arg, const char *late)
{
    struct hold_call *call = arg;

    snprintf(call->late, sizeof(call->late), "%s", late ?: "");
    sem_post(&call->done);
}

int device_hold(struct device *dev, uint64_t deadline, struct dt_error *err)
{
    struct hold_call call;

    CHECK_MAGIC(dev, DEVICE_MAGIC);
    CHECK(loop_is_foreign(dev->loops[0]));
    sem_init(&call.done, 0, 0);
    dev->held = dev->quiesce_closes = true;
    device_quiesce(dev, deadline, run_held, &call);
    while (sem_wait(&call.done) < 0)
        ;
    dev->quiesce_closes = false;
    sem_destroy(&call.done);
    if (!call.late[0])
        return 0;
    device_let_go(dev);
    return dt_fail(err, -ETIMEDOUT, "%s does not come to rest in time: %s", dev->name, call.late);
}

static void open_lane(void *arg)
{
    struct lane *lane = arg;

    lane->closed = false;
    if (lane->refused)
        lane->front_ops->wake(lane);
    lane->refused = false;
}

void device_let_go(struct device *dev)
{
    if (!dev->held)
        return;
    for (unsigned t = 0; t < dev->threads; t++)
        loop_call(dev->loops[t], open_lane, dev->lanes[t]);
    dev->held = false;
}

bool device_held(const struct device *dev)
{
    return dev->held;
}

/* ---- Flushed while held ---------------------------------------------------------------------- */

/* Freed by whoever of the two is done with it last: a store that hangs may answer much later. */
struct flush_call {
    struct lane *lane;
    sem_t done;
    unsigned users;
    int error;
};

static void flush_put(struct flush_call *call)
{
    if (__atomic_sub_fetch(&call->users, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    sem_destroy(&call->done);
    free(call);
}

static void flush_done(struct dt_ctx *c, struct dt_req *sub)
{
    struct flush_call *call = dt_sub_arg(sub);

    call->error = sub->error;
    dt_sub_free(c, sub);
    sem_post(&call->done);
    flush_put(call);
}

/* The front has requests of its own only where it splits. At rest it may get them. */
static void start_flush(void *arg)
{
    struct flush_call *call = arg;
    struct ctx *front = call->lane->front;
    struct dt_req *sub;

    if (!front->sub_memory)
        sub_init(front, 1);
    sub = dt_sub_new(&front->pub, DT_OP_FLUSH, 0, 0, NULL, 0, flush_done, call);
    CHECK(sub);
    dt_sub_submit(&front->pub, sub);
}

int device_flush(struct device *dev, uint64_t deadline, struct dt_error *err)
{
    struct flush_call *call;
    struct timespec until;
    uint64_t now = dt_clock_ns();
    int ret;

    CHECK(dev->held);
    if (!dev->chain_info.can_flush)
        return 0;
    call = xcalloc(1, sizeof(*call));
    call->lane = dev->lanes[0];
    call->users = 2;
    sem_init(&call->done, 0, 0);
    loop_call(dev->loops[0], start_flush, call);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)((deadline > now ? deadline - now : 0) / DT_S(1)) + 1;
    do
        ret = sem_timedwait(&call->done, &until) < 0 ? -errno : 0;
    while (ret == -EINTR);
    if (ret < 0)
        dt_fail(err, ret, "%s: its flush does not end in time", dev->name);
    else if (call->error)
        ret = dt_fail(err, call->error, "%s: its flush failed: %s", dev->name,
                      strerror(-call->error));
    flush_put(call);
    return ret;
}
