/* SPDX-License-Identifier: MIT */
/*
 * death.c - a process ends, and another takes its place: what each thread's link does about it.
 *
 * What the dead one had said is read to the end. What it had not answered goes back to the queue,
 * in the order of its sending; what it had forwarded is still below, and joins the queue when it
 * comes back. Only then is the new process given anything: so nothing of the old one's mixes with
 * the new one's.
 *
 * A crash by its own fault makes suspects of all that it had. They are tried one at a time,
 * and the one that is alone in the process at the next crash is failed (-EIO): the rest goes on. A
 * process that was killed from outside makes nobody a suspect.
 */
#include "blk/channel/internal.h"

#define TICK_MAX   DT_MS(250)
#define SAVE_EVERY DT_S(1)
#define POISON     2

void link_break(struct link *l, const char *why)
{
    proxy_break(l->p, "%s", why);
    if (link_is_up(l))
        l->state = LINK_BROKEN;
}

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

/* A stop does not wait for somebody to say 'restart-process'. */
static void on_rest(struct dt_timer *timer)
{
    struct link *l = container_of(timer, struct link, rest);

    if (l->state == LINK_GIVEN_UP)
        empty_queue(l, let_go);
}

/* ---- Orders ---- */

static void go_down(struct link *l)
{
    const char *why;

    l->had = 0;
    while (link_is_up(l) && link_take(l, &why) > 0)
        ;
    link_count(l);
    link_unwatch(l);
    l->state = LINK_DOWN;
    for (unsigned i = 0; i < l->p->w->ncounters; i++) {
        l->counters_base[i] += l->counters_last[i];
        l->counters_last[i] = 0;
    }
    if (l->c)
        l->had = reclaim_all(l);
    link_detach(l);
}

/* A link that was not started yet, or is stopped already, has no requests and nothing to listen with. */
static void go_up(struct link *l, enum link_state state)
{
    bool up = link_is_up(l);

    l->state = state;
    l->saved_at = dt_clock_ns();
    if (!l->c)
        return;
    dt_timer_cancel(l->c, &l->rest);
    if (!up)
        link_watch(l);
    if (link_is_up(l)) /* it could be watched */
        link_send_queue(l);
    dt_wake(l->c);
}

void link_obey(struct link *l)
{
    switch (l->order) {
    case ORDER_DOWN:
        go_down(l);
        break;
    case ORDER_TRY:
        __atomic_store_n(&l->tried, false, __ATOMIC_RELAXED);
        go_up(l, LINK_TRYING);
        break;
    case ORDER_LIVE:
        go_up(l, LINK_LIVE);
        break;
    case ORDER_GIVE_UP:
        l->state = LINK_GIVEN_UP;
        if (l->c && l->p->on_crash != ON_CRASH_HOLD) {
            empty_queue(l, by_policy);
            dt_wake(l->c);
        }
        break;
    }
}

/* ---- The tick: silence, counters, state ---- */

void link_count(struct link *l)
{
    if (!l->map.header || !l->c)
        return;
    for (unsigned i = 0; i < l->p->w->ncounters; i++) {
        uint64_t now = __atomic_load_n(&l->map.header->counters[i], __ATOMIC_RELAXED);

        l->counters_last[i] = now;
        __atomic_store_n(&l->c->counters[i], l->counters_base[i] + now, __ATOMIC_RELAXED);
    }
}

static uint64_t oldest(const struct link *l)
{
    uint64_t at = UINT64_MAX;

    for (unsigned i = 0; i < SLOTS; i++)
        if (l->slots[i].state == SLOT_SENT || l->slots[i].state == SLOT_RETURNED)
            at = MIN(at, l->slots[i].sent_at);
    return at;
}

/* A silent process gets a ping; an extension that holds nothing must answer requests, too. */
static void check_silence(struct link *l, uint64_t now)
{
    uint64_t at = oldest(l), deadline = l->p->deadline;
    unsigned long long ms = deadline / DT_MS(1);

    if (l->ping != l->pong && now - l->pinged_at > deadline) {
        proxy_break(l->p, "it hangs: silent for %llu ms", ms);
    } else if (!l->p->w->holds && at < now && now - at > deadline) {
        proxy_break(l->p, "it hangs: a request was not answered for %llu ms", ms);
    } else if (l->ping == l->pong && at < now && now - at > deadline / 4) {
        link_ping(l, now);
    }
}

static void on_tick(struct dt_timer *timer)
{
    struct link *l = container_of(timer, struct link, tick);
    uint64_t now = dt_clock_ns();
    const char *why;

    if (!link_is_up(l))
        return;
    /* What it has said counts, even if this thread was too busy to listen. */
    if (link_take(l, &why) < 0) {
        link_break(l, why);
        return;
    }
    link_count(l);
    check_silence(l, now);
    if (now - l->saved_at >= SAVE_EVERY) {
        l->saved_at = now;
        __atomic_store_n(&l->p->unsaved, true, __ATOMIC_RELEASE);
        proxy_turn_soon(l->p);
    }
    if (l->in_slots)
        link_tick_start(l);
}

void link_tick_start(struct link *l)
{
    uint64_t every = MIN(MAX(l->p->deadline / 4, DT_MS(1)), TICK_MAX);

    if (l->tick.heap_index == 0 && link_is_up(l))
        dt_timer_set(l->c, &l->tick, dt_now(l->c) + every);
}

void link_timers(struct link *l)
{
    l->tick.fire = on_tick;
    l->rest.fire = on_rest;
}
