/* SPDX-License-Identifier: MIT */
/*
 * queue.c - a pair of rings on one thread: polled, armed, kicked; and the orders of the control thread.
 *
 * The rear is asked for calls when it has packets for a guest that takes them; and about what it has sent only while
 * packets wait for room: else that is looked at when there is something to send.
 */
#include "net/rear/internal.h"

#include <sys/epoll.h>

static struct virtq_driver *vq_of(struct card_ctx *cc, enum card_ring ring)
{
    return &cc->rings->part.rings[ring].vq;
}

void card_rear_show(struct card_ctx *cc)
{
    loop_poller_wake(ctx_loop(cc->c), &cc->poller);
    loop_defer(ctx_loop(cc->c), &cc->publish);
}

void card_rear_lied(struct card_ctx *cc)
{
    cc->broken = true;
    port_out_block(&cc->out);
}

/* Once a turn: one kick for all that was sent in it, and one for all buffers. */
static void publish(struct loop_deferred *deferred)
{
    struct card_ctx *cc = container_of(deferred, struct card_ctx, publish);

    for (unsigned i = 0; cc->rings && i < REAR_MAX_RINGS; i++)
        rear_ring_kick(&cc->rear->rear, &cc->rings->part.rings[i]);
}

static unsigned poll_rings(struct loop_poller *poller)
{
    struct card_ctx *cc = container_of(poller, struct card_ctx, poller);
    unsigned n = 0;

    if (!cc->rings || cc->broken)
        return 0;
    n = card_rear_reap(cc);
    if (!cc->broken && n > 0 && cc->out.blocked)
        port_out_unblock(&cc->out);
    return cc->broken ? 0 : n + card_rear_receive(cc);
}

static bool arm_rings(struct loop_poller *poller)
{
    struct card_ctx *cc = container_of(poller, struct card_ctx, poller);

    if (!cc->rings || cc->broken)
        return true;
    if (cc->out.blocked && !virtq_driver_arm(vq_of(cc, CARD_TX)))
        return false;
    if (cc->starved || dt_room(cc->c) == 0) /* a timer or the guest will tell */
        return true;
    return virtq_driver_arm(vq_of(cc, CARD_RX));
}

static void run_called(struct dt_watch *watch, uint32_t events)
{
    struct card_call *call = container_of(watch, struct card_call, watch);
    struct card_ctx *cc = call->cc;

    if (!cc->rings || cc->broken)
        return;
    virtq_driver_disarm(vq_of(cc, call->ring));
    loop_poller_wake(ctx_loop(cc->c), &cc->poller);
}

/* ---- Orders ---------------------------------------------------------------------------------- */

static void watch_calls(struct card_ctx *cc)
{
    for (unsigned i = 0; i < REAR_MAX_RINGS; i++) {
        struct dt_watch *watch = &cc->calls[i].watch;

        watch->fd = cc->rings->part.rings[i].call;
        if (dt_watch_add(cc->c, watch) < 0) {
            watch->fd = -1;
            rear_fault(&cc->rear->rear, "cannot watch for its calls: %s", strerror(errno));
        }
    }
}

static void let_go(struct card_ctx *cc)
{
    if (!cc->broken && cc->at < cc->n)
        card_rear_skip(cc);
    loop_poller_remove(ctx_loop(cc->c), &cc->poller);
    loop_defer_cancel(ctx_loop(cc->c), &cc->publish);
    dt_timer_cancel(cc->c, &cc->again);
    for (unsigned i = 0; i < REAR_MAX_RINGS; i++) {
        struct dt_watch *watch = &cc->calls[i].watch;

        if (watch->fd >= 0)
            dt_watch_remove(cc->c, watch);
        watch->fd = -1;
    }
    dt_count(cc->c, TX_LOST, cc->rings->tx_packets);
    cc->rings = NULL;
    port_out_block(&cc->out);
}

static void come_up(struct card_ctx *cc, struct card_rings *rings)
{
    if (cc->rings == rings)
        return; /* it was asked to park, and another thread could not */
    if (cc->rings)
        let_go(cc);
    cc->rings = rings;
    cc->broken = cc->starved = false;
    cc->compares = true;
    cc->at = cc->n = cc->frame.buffers = 0;
    watch_calls(cc);
    for (unsigned i = 0; i < REAR_MAX_RINGS; i++)
        virtq_driver_disarm(vq_of(cc, i));
    card_rear_show(cc);
    port_out_unblock(&cc->out);
}

/* Packets that the rear did not send yet are worth a moment; rear/passthrough.c knows how long. */
static void park(struct card_ctx *cc)
{
    if (cc->rings && !cc->broken)
        card_rear_reap(cc);
    if (cc->rings && cc->rings->tx_packets > 0 && !cc->broken)
        cc->rear->rear.busy = true; /* the control thread reads it after our acknowledgement */
    else if (cc->rings)
        let_go(cc);
}

void card_rear_obey(struct rear_lane *lane, enum rear_order order, struct rear_part *part,
                    const struct rear_map *map)
{
    struct card_ctx *cc = container_of(lane, struct card_ctx, lane);

    if (order == REAR_UP)
        come_up(cc, container_of(part, struct card_rings, part));
    else if (order == REAR_PARK)
        park(cc);
    else if (order == REAR_DOWN && cc->rings)
        let_go(cc);
}

void card_ctx_init(struct card_ctx *cc, struct dt_ctx *c)
{
    cc->c = c;
    cc->rear = c->layer_data;
    cc->poller = (struct loop_poller){.poll = poll_rings, .arm = arm_rings};
    list_init(&cc->poller.node);
    cc->publish.run = publish;
    for (unsigned i = 0; i < REAR_MAX_RINGS; i++)
        cc->calls[i] = (struct card_call){
            .watch = {.ready = run_called, .fd = -1, .events = EPOLLIN | EPOLLET},
            .cc = cc,
            .ring = i};
    cc->out = (struct port_out){.write = card_rear_write, .c = c, .full = TX_FULL};
}
