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

void proxy_ping(struct proxy *p, uint64_t now)
{
    if (p->ping != p->pong)
        return;
    p->pinged_at = now;
    p->cancels_then = p->cancels;
    *channel_push(&p->down) = (struct channel_msg){.kind = CHANNEL_PING, .id = ++p->ping};
    channel_publish(&p->down);
}

const char *proxy_take_pong(struct proxy *p, uint32_t id)
{
    if (id != p->ping || p->pong == p->ping)
        return "it answered a ping that there was not";
    p->pong = id;
    p->cancels -= p->cancels_then;
    p->cancels_then = 0;
    return NULL;
}

/* Out of the queue of those that wait for a slot, for memory or for a process. */
static bool dequeue(struct proxy *p, struct dt_req *req)
{
    for (struct dt_req **at = &p->queue; *at; at = &frame_of(p, *at)->next) {
        if (*at != req)
            continue;
        *at = frame_of(p, req)->next;
        if (!*at)
            p->queue_tail = at;
        p->queued--;
        return true;
    }
    return false;
}

static void ask(struct proxy *p, uint32_t id)
{
    struct slot *s = &p->slots[id];

    if (!p->w->cancels || p->state != PROXY_LIVE || s->cancelled)
        return;
    if (p->cancels == CHANNEL_CANCELS) {
        proxy_ping(p, dt_now(p->c));
        return;
    }
    p->cancels++;
    s->cancelled = true;
    *channel_push(&p->down) = (struct channel_msg){.kind = CHANNEL_CANCEL, .id = id};
    channel_publish(&p->down);
}

int proxy_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct proxy *p = c->layer_data;
    struct frame *f = frame_of(p, req);

    if (f->id != NO_SLOT) {
        ask(p, f->id);
        return -EBUSY; /* its answer is awaited */
    }
    if (!dequeue(p, req))
        return -EBUSY;
    req->sector = f->sector;
    dt_complete_one(c, req, -ECANCELED);
    if (p->stopped && !p->queue) {
        p->stopped = false;
        dt_wake(c);
    }
    return 0;
}
