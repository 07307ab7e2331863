/* SPDX-License-Identifier: MIT */
/*
 * cancel.c - one request of an extension in a process is to be let go of: its deadline has passed.
 *
 * One that waits here ends at once. One that the process has is asked for, and ends when the
 * process answers it, now or never: a process that does not answer anything is another matter, and
 * is killed for that (death.c). The rings hold but so many messages that nothing answers; a PONG
 * tells that all before its PING were read.
 */
#include "blk/channel/internal.h"

void link_ping(struct link *l, uint64_t now)
{
    if (l->ping != l->pong)
        return;
    l->pinged_at = now;
    l->cancels_then = l->cancels;
    *channel_push(&l->down) = (struct channel_msg){.kind = CHANNEL_PING, .id = ++l->ping};
    channel_publish(&l->down);
}

const char *link_take_pong(struct link *l, uint32_t id)
{
    if (id != l->ping || l->pong == l->ping)
        return "it answered a ping that there was not";
    l->pong = id;
    l->cancels -= l->cancels_then;
    l->cancels_then = 0;
    return NULL;
}

/* Out of the queue of those that wait for a slot, for memory or for a process. */
static bool dequeue(struct link *l, struct dt_req *req)
{
    for (struct dt_req **at = &l->queue; *at; at = &frame_of(l, *at)->next) {
        if (*at != req)
            continue;
        *at = frame_of(l, req)->next;
        if (!*at)
            l->queue_tail = at;
        set_queued(l, l->queued - 1);
        return true;
    }
    return false;
}

static void ask(struct link *l, uint32_t id)
{
    struct slot *s = &l->slots[id];

    if (!l->p->w->cancels || !link_is_up(l) || s->cancelled)
        return;
    if (l->cancels == CHANNEL_CANCELS) {
        link_ping(l, dt_now(l->c));
        return;
    }
    l->cancels++;
    s->cancelled = true;
    *channel_push(&l->down) = (struct channel_msg){.kind = CHANNEL_CANCEL, .id = id};
    channel_publish(&l->down);
}

int proxy_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct link *l = link_of(c);
    struct frame *f = frame_of(l, req);

    if (f->id != NO_SLOT) {
        ask(l, f->id);
        return -EBUSY; /* its answer is awaited */
    }
    if (!dequeue(l, req))
        return -EBUSY;
    req->sector = f->sector;
    dt_complete_one(c, req, -ECANCELED);
    if (l->stopped && !l->queue) {
        l->stopped = false;
        dt_wake(c);
    }
    return 0;
}
