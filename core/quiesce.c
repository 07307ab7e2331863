/* SPDX-License-Identifier: MIT */
/*
 * quiesce.c - bring a device to rest: every lane closes its intake, asks each layer to let go of what
 * it holds, and reports when nothing of the guest's or the layers' own is under way, or
 * when the deadline passed, naming the layers that still hold something.
 */
#include "core/internal.h"

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
    for (unsigned i = 1; i < lane->nctxs; i++) {
        struct ctx *c = lane->ctxs[i];

        /* What works in the background holds no request of the guest's and must rest, too. */
        if ((c->held || c->sub_memory) && c->pub.layer->ext->quiesce)
            c->pub.layer->ext->quiesce(&c->pub, deadline);
    }
}

/* On each lane's thread. */
static void run_start(struct loop_message *message)
{
    struct lane *lane = container_of(message, struct lane, quiesce_start);
    uint64_t deadline = lane->dev->quiesce_deadline;

    lane->late[0] = '\0';
    lane->quiescing = true;
    lane->quiesce_timer.fire = run_late;
    loop_timer_set(lane->loop, &lane->quiesce_timer, deadline);
    lane_release(lane, deadline);
    lane_drained(lane);
}

/* On the device's first thread, once per lane. */
static void run_report(struct loop_message *message)
{
    struct lane *lane = container_of(message, struct lane, quiesce_report);
    struct device *dev = lane->dev;
    void (*done)(void *arg, const char *late) = dev->quiesce_done;

    if (lane->late[0] && !dev->quiesce_late[0])
        snprintf(dev->quiesce_late, sizeof(dev->quiesce_late), "%s", lane->late);
    if (--dev->quiesce_left > 0)
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
