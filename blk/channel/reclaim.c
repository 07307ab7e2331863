/* SPDX-License-Identifier: MIT */
/* reclaim.c - what a dead process had, and what waits for one that does not come: of disks, requests. See death.c. */
#include "blk/channel/internal.h"

#define POISON 2

/* ---- The dead one's requests ---- */

static int by_order(const void *a, const void *b)
{
    const struct slot *x = *(const struct slot *const *)a, *y = *(const struct slot *const *)b;

    return (x->order > y->order) - (x->order < y->order);
}

/* The poison was found: it fails, and it alone. */
static void fail_poison(struct link *l, struct dt_req *req)
{
    dt_layer_event(l->p->layer, "request-failed",
                   "%s of %u sectors at %llu ended the extension's process %u times",
                   dt_op_name(req->op), req->sectors, (unsigned long long)req->sector, POISON);
    req->error = -EIO;
    req->sector = frame_of(l, req)->sector;
    dt_complete(l->c, &req, 1);
}

static void reclaim(struct link *l, struct slot *s)
{
    bool own = l->p->end.own, alone = l->trial == s->req;
    struct dt_req *req = s->req;
    struct frame *f = frame_of(l, req);

    f->replay = true;
    if (own && f->attempts < UINT8_MAX)
        f->attempts++;
    l->suspected |= own;
    if (s->state == SLOT_BELOW) {
        f->id = NO_SLOT;
        f->orphan = true;
        count_orphan(l);
    } else if (own && alone && f->attempts >= POISON) {
        f->id = NO_SLOT;
        fail_poison(l, req);
    } else {
        f->id = NO_SLOT;
        link_enqueue(l, req, true);
    }
}

static unsigned reclaim_all(struct link *l)
{
    struct slot *order[SLOTS];
    unsigned n = 0;

    for (unsigned i = 0; i < SLOTS && l->map.header; i++)
        if (l->slots[i].state != SLOT_FREE)
            order[n++] = &l->slots[i];
    qsort(order, n, sizeof(order[0]), by_order);
    for (unsigned i = n; i-- > 0;) /* each goes before the one that was sent after it */
        reclaim(l, order[i]);
    l->trial = NULL;
    l->trying = false;
    subs_orphan(l);
    return n;
}

void orphan_back(struct link *l)
{
    uint32_t left = l->orphans - 1;

    __atomic_store_n(&l->orphans, left, __ATOMIC_RELEASE);
    if (left == 0)
        proxy_turn_soon(l->p);
}

/* ---- Requests that nobody will serve ---- */

static void empty_queue(struct link *l, void (*end)(struct link *l, struct dt_req *req))
{
    struct dt_req *req = l->queue;

    l->queue = NULL;
    l->queue_tail = &l->queue;
    set_queued(l, 0);
    while (req) {
        struct dt_req *next = frame_of(l, req)->next;

        end(l, req);
        req = next;
    }
}

static void by_policy(struct link *l, struct dt_req *req)
{
    if (l->p->on_crash == ON_CRASH_BYPASS)
        dt_forward_one(l->c, req);
    else
        dt_complete_one(l->c, req, -EIO);
}

static void let_go(struct link *l, struct dt_req *req)
{
    dt_complete_one(l->c, req, -ECANCELED);
}

static uint64_t oldest(const struct link *l)
{
    uint64_t at = UINT64_MAX;

    for (unsigned i = 0; i < SLOTS; i++)
        if (l->slots[i].state == SLOT_SENT || l->slots[i].state == SLOT_RETURNED)
            at = MIN(at, l->slots[i].sent_at);
    return at;
}

/* ---- The class ---- */

static bool arm(struct link *l)
{
    return channel_arm(&l->up);
}

static void publish(struct link *l)
{
    channel_publish(&l->down);
}

static void end_queue(struct link *l, bool policy)
{
    empty_queue(l, policy ? by_policy : let_go);
}

static void look_below(struct proxy *p)
{
    p->below = *dt_layer_info(p->layer);
}

static json_t *below(const struct proxy *p)
{
    return info_to_json(&p->below);
}

const struct link_class request_class = {
    .noun = "requests",
    .lost = "held",
    .attach = link_attach,
    .detach = link_detach,
    .memory = link_memory,
    .take = link_take,
    .arm = arm,
    .publish = publish,
    .ping = link_ping,
    .oldest = oldest,
    .reclaim = reclaim_all,
    .send = link_send_queue,
    .end_queue = end_queue,
    .look_below = look_below,
    .below = below,
    .take_info = proxy_take_info,
};
