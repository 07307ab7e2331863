/* SPDX-License-Identifier: MIT */
/*
 * deadline.c - requests that are under way for longer than their device allows.
 *
 * Theory of operation: nothing is noted for a request on its way. A timer of each lane, four times
 * within a deadline, has the front show all requests that are within the chain; what is too old is
 * told once, with the layer that has it, and that layer is asked each time to cancel it. Most
 * cannot cancel what a kernel or a server has; those that hold requests for a time of their own
 * can. So a request ends between one deadline and one and a quarter after it began, or stays where
 * it is and is known to.
 *
 * Without a deadline there is no timer.
 */
#include "core/internal.h"

/* How often within a deadline; a request is told of in the one look that first finds it too old, however late
 * that look comes. */
#define LOOKS 4u

static uint64_t interval(const struct lane *lane)
{
    return MAX(lane->dev->deadline / LOOKS, DT_MS(1));
}

static void tell(struct dt_layer *layer, const struct dt_req *req, uint64_t age, bool cancelled)
{
    dt_layer_event(layer, "request-late",
                   "%s of %u sectors at %llu is under way for %.1f s, now in %s%s",
                   dt_op_name(req->op), req->sectors, (unsigned long long)req->sector,
                   (double)age / 1e9, layer->name,
                   cancelled            ? ": cancelled, it fails"
                   : layer->ext->cancel ? "; the layer was asked to let go of it"
                                        : ", and this layer cannot cancel");
}

int request_cancel(struct request *r)
{
    struct ctx *holder = r->holder;

    if (!holder || !holder->pub.layer || !holder->pub.layer->ext->cancel)
        return -EOPNOTSUPP;
    return holder->pub.layer->ext->cancel(&holder->pub, &r->pub);
}

static void look(struct lane *lane, struct request *r)
{
    uint64_t now = loop_now(lane->loop), age = now - r->pub.started, deadline = lane->dev->deadline;
    struct ctx *holder = r->holder;
    struct dt_layer *layer = holder ? holder->pub.layer : NULL;
    const struct dt_req copy =
        r->pub; /* a front may use the slot again as soon as it is completed */
    bool cancelled;

    if (!layer || now < r->pub.started || age < deadline)
        return;
    cancelled = request_cancel(r) == 0;
    if (cancelled || copy.started + deadline > lane->looked_at)
        tell(layer, &copy, age, cancelled);
}

static void run_deadline(struct dt_timer *timer)
{
    struct lane *lane = container_of(timer, struct lane, deadline_timer);

    if (lane->in_flight)
        lane->front_ops->each(lane, look);
    lane->looked_at = loop_now(lane->loop);
    loop_timer_set(lane->loop, timer, lane->looked_at + interval(lane));
}

void deadline_start(struct lane *lane)
{
    if (!lane->dev->deadline || !lane->front_ops->each)
        return;
    lane->deadline_timer.fire = run_deadline;
    loop_timer_set(lane->loop, &lane->deadline_timer, dt_clock_ns() + interval(lane));
}

void deadline_stop(struct lane *lane)
{
    loop_timer_cancel(lane->loop, &lane->deadline_timer);
}
