/* SPDX-License-Identifier: MIT */
/*
 * queue.c - requests on one thread: to the rear while there is a session, into a list while not.
 *
 * What waits keeps its order. It waits for the rear, for the rear to learn of new guest memory, or
 * for room in the ring; whichever it was, it goes first when that changes.
 */
#include "blk/rear/internal.h"

#include <sys/epoll.h>

/* ---- Sending --------------------------------------------------------------------------------- */

/* May requests go out now? Guest memory changed where the generation did. */
static bool ready(const struct rear_ctx *rc)
{
    return likely(rc->rings && !rc->broken) &&
           likely(rc->map->generation ==
                  __atomic_load_n(&rc->rear->rear.generation, __ATOMIC_RELAXED));
}

static void show(struct rear_ctx *rc)
{
    loop_poller_wake(ctx_loop(rc->c), &rc->poller);
    loop_defer(ctx_loop(rc->c), &rc->publish);
}

static void send_waiting(struct rear_ctx *rc)
{
    struct dt_req *req;

    if (!rc->waiting.head || !ready(rc))
        return;
    while ((req = rc->waiting.head) != NULL && rear_send(rc, &req, 1))
        rear_list_take(rc, &rc->waiting);
    show(rc);
}

/* Is it gone? Without rings it may also not be there yet, or serve the guest's own. */
static bool gone(const struct rear_ctx *rc)
{
    return !rc->rings && rear_gone(&rc->rear->rear);
}

static bool failing(const struct rear_ctx *rc)
{
    return gone(rc) && __atomic_load_n(&rc->rear->on_loss, __ATOMIC_RELAXED) == REAR_FAIL;
}

static void end_waiting(struct rear_ctx *rc, int error)
{
    struct dt_req *req;

    while ((req = rear_list_take(rc, &rc->waiting)) != NULL)
        dt_complete_one(rc->c, req, error);
}

void rear_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct rear_ctx *rc = c->data;
    unsigned i = 0;

    /* The guest's requests come again: the rest is over. Until it is they come from a layer above, which lets go of them. */
    if (unlikely(rc->rest_by) && !(reqs[0]->flags & DT_REQ_SUB) && !ctx_resting(c))
        rc->rest_by = 0;
    if (unlikely(failing(rc))) {
        for (; i < n; i++)
            reqs[i]->error = -EIO;
        dt_complete(c, reqs, n);
        return;
    }
    if (likely(!rc->waiting.head && ready(rc))) {
        i = rear_send(rc, reqs, n);
        show(rc);
    }
    if (unlikely(i < n && gone(rc)))
        dt_count(c, REAR_HELD, n - i);
    for (; i < n; i++)
        rear_list_add(rc, &rc->waiting, reqs[i]);
}

/* Once a turn: one kick for all that was sent in it. */
static void publish(struct loop_deferred *deferred)
{
    struct rear_ctx *rc = container_of(deferred, struct rear_ctx, publish);

    if (rc->rings && rear_ring_kick(&rc->rear->rear, &rc->rings->part.rings[0]))
        dt_count(rc->c, REAR_KICKS, 1);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

static unsigned poll_ring(struct loop_poller *poller)
{
    struct rear_ctx *rc = container_of(poller, struct rear_ctx, poller);
    struct dt_req *done[REAR_BURST];
    uint16_t ids[REAR_BURST];
    uint32_t lens[REAR_BURST];
    unsigned ndone;
    int n;

    if (!rc->rings || rc->broken)
        return 0;
    n = virtq_driver_reap(rear_vq(rc->rings), ids, lens, REAR_BURST);
    if (unlikely(n < 0)) {
        rc->broken = true;
        rear_fault(&rc->rear->rear, "%s", rear_vq(rc->rings)->fault);
        return 0;
    }
    ndone = rear_received(rc, ids, lens, (unsigned)n, done);
    if (unlikely(ndone < (unsigned)n) && !rc->broken)
        show(rc);
    if (ndone)
        dt_complete(rc->c, done, ndone);
    if (unlikely(rc->waiting.head) && n > 0)
        send_waiting(rc);
    return (unsigned)n;
}

static bool arm_ring(struct loop_poller *poller)
{
    struct rear_ctx *rc = container_of(poller, struct rear_ctx, poller);

    return !rc->rings || rc->broken || virtq_driver_arm(rear_vq(rc->rings));
}

static void run_called(struct dt_watch *watch, uint32_t events)
{
    struct rear_ctx *rc = container_of(watch, struct rear_ctx, call);
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0)
        return;
    dt_count(rc->c, REAR_CALLS, 1);
    if (rc->rings && !rc->broken) {
        virtq_driver_disarm(rear_vq(rc->rings));
        loop_poller_wake(ctx_loop(rc->c), &rc->poller);
    }
}

/* ---- Orders ---------------------------------------------------------------------------------- */

static void come_up(struct rear_ctx *rc, struct rear_rings *rings, const struct rear_map *map)
{
    rc->rings = rings;
    rc->map = map;
    rc->hint = 0;
    rc->broken = false;
    rc->call.fd = rings->part.rings[0].call;
    if (loop_watch_add(ctx_loop(rc->c), &rc->call) < 0) {
        rc->call.fd = -1;
        rear_fault(&rc->rear->rear, "cannot watch for its calls: %s", strerror(errno));
    }
    virtq_driver_disarm(rear_vq(rings));
    loop_poller_wake(ctx_loop(rc->c), &rc->poller);
    send_waiting(rc);
}

/* What was in flight goes before what waited: it is older. */
static void take_back(struct rear_ctx *rc)
{
    struct rear_list again;
    struct dt_req *req;
    unsigned n = 0;

    rear_list_init(&again);
    for (unsigned i = 0; i < rc->rings->nslots; i++) {
        struct rear_slot *slot = &rc->rings->slots[i];

        if (!slot->req)
            continue;
        rear_list_add(rc, &again, slot->req);
        rear_slot_release(rc->rings, slot);
        n++;
    }
    CHECK(n == rc->in_flight);
    rc->in_flight = 0;
    dt_count(rc->c, REAR_REPLAYED, n);
    while ((req = rear_list_take(rc, &rc->waiting)) != NULL)
        rear_list_add(rc, &again, req);
    while ((req = rear_list_take(rc, &again)) != NULL)
        rear_list_add(rc, &rc->waiting, req);
}

static void let_go(struct rear_ctx *rc)
{
    loop_poller_remove(ctx_loop(rc->c), &rc->poller);
    loop_defer_cancel(ctx_loop(rc->c), &rc->publish);
    if (rc->call.fd >= 0)
        loop_watch_remove(ctx_loop(rc->c), &rc->call);
    rc->call.fd = -1;
    take_back(rc);
    rc->rings = NULL;
    rc->map = NULL;
}

static void go_down(struct rear_ctx *rc)
{
    if (rc->rings)
        let_go(rc);
    if (failing(rc))
        end_waiting(rc, -EIO);
    else if (rc->rest_by && dt_clock_ns() >= rc->rest_by)
        end_waiting(rc, -ECANCELED);
}

static void park(struct rear_ctx *rc)
{
    if (rc->in_flight)
        rc->rear->rear.busy = true; /* the control thread reads it after our acknowledgement */
    else if (rc->rings)
        let_go(rc);
}

void rear_obey(struct rear_lane *lane, enum rear_order order, struct rear_part *part,
               const struct rear_map *map)
{
    struct rear_ctx *rc = container_of(lane, struct rear_ctx, lane);

    if (order == REAR_DOWN) {
        go_down(rc);
    } else if (order == REAR_PARK) {
        park(rc);
    } else if (order == REAR_UP) {
        if (rc->rings)
            let_go(rc);
        come_up(rc, container_of(part, struct rear_rings, part), map);
    } else {
        rc->map = map;
        rc->hint = 0;
        send_waiting(rc);
    }
}

/* ---- Rest ------------------------------------------------------------------------------------ */

static void run_patience(struct dt_timer *timer)
{
    struct rear_ctx *rc = container_of(timer, struct rear_ctx, patience);

    if (rc->rest_by && !rc->rings) /* else that rest is over, and what waits now is the guest's */
        end_waiting(rc, failing(rc) ? -EIO : -ECANCELED);
}

/*
 * Somebody waits for the device, and with him the VM. The rear may be back until shortly before the
 * deadline; what it has now and loses later must not be waited for either.
 */
void rear_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct rear_ctx *rc = c->data;

    rc->rest_by = patience_end(dt_clock_ns(), deadline);
    dt_timer_set(c, &rc->patience, rc->rest_by);
}

void rear_give_up(struct rear_lane *lane)
{
    struct rear_ctx *rc = container_of(lane, struct rear_ctx, lane);

    if (failing(rc))
        end_waiting(rc, -EIO);
}

int rear_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct rear_ctx *rc = c->data;
    struct rear_list rest;
    struct dt_req *each;
    bool found = false;

    rear_list_init(&rest);
    while ((each = rear_list_take(rc, &rc->waiting)) != NULL) {
        if (each == req)
            found = true;
        else
            rear_list_add(rc, &rest, each);
    }
    while ((each = rear_list_take(rc, &rest)) != NULL)
        rear_list_add(rc, &rc->waiting, each);
    if (!found)
        return -EBUSY; /* the rear has it */
    dt_complete_one(c, req, -ECANCELED);
    return 0;
}

void rear_ctx_init(struct rear_ctx *rc, struct dt_ctx *c)
{
    rc->c = c;
    rc->rear = c->layer_data;
    rear_list_init(&rc->waiting);
    rc->poller = (struct loop_poller){.poll = poll_ring, .arm = arm_ring};
    list_init(&rc->poller.node);
    rc->publish.run = publish;
    rc->call = (struct dt_watch){.ready = run_called, .fd = -1, .events = EPOLLIN};
    rc->patience.fire = run_patience;
}
