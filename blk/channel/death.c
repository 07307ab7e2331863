/* SPDX-License-Identifier: MIT */
/*
 * death.c - a process ends, and another takes its place.
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

#include <stdarg.h>
#include <stdio.h>

#define DELAY_MIN_MS 10u
#define DELAY_MAX_MS 1000u
#define TICK_MAX     DT_MS(250)
#define SAVE_EVERY   DT_S(1)
#define POISON       2

/* ---- Breaking ---- */

void proxy_break(struct proxy *p, const char *fmt, ...)
{
    char why[160];
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    process_kill(&p->process, "%s", why);
    if (p->state == PROXY_LIVE)
        p->state = PROXY_DYING;
}

/* ---- The dead one's requests ---- */

static int by_order(const void *a, const void *b)
{
    const struct slot *x = *(const struct slot *const *)a, *y = *(const struct slot *const *)b;

    return (x->order > y->order) - (x->order < y->order);
}

/* The poison was found: it fails, and it alone. */
static void fail_poison(struct proxy *p, struct dt_req *req)
{
    dt_layer_event(p->layer, "request-failed",
                   "%s of %u sectors at %llu ended the extension's process %u times",
                   dt_op_name(req->op), req->sectors, (unsigned long long)req->sector, POISON);
    req->error = -EIO;
    req->sector = frame_of(p, req)->sector;
    dt_complete(p->c, &req, 1);
}

static void reclaim(struct proxy *p, struct slot *s, bool own)
{
    struct dt_req *req = s->req;
    struct frame *f = frame_of(p, req);
    bool alone = p->trial == req;

    f->replay = true;
    if (own && f->attempts < UINT8_MAX)
        f->attempts++;
    if (s->state == SLOT_BELOW) {
        f->id = NO_SLOT;
        f->orphan = true;
        p->orphans++;
    } else if (own && alone && f->attempts >= POISON) {
        f->id = NO_SLOT;
        fail_poison(p, req);
    } else {
        f->id = NO_SLOT;
        proxy_enqueue(p, req, true);
    }
}

static unsigned reclaim_all(struct proxy *p, bool own)
{
    struct slot *order[SLOTS];
    unsigned n = 0;

    for (unsigned i = 0; i < SLOTS && p->map.header; i++)
        if (p->slots[i].state != SLOT_FREE)
            order[n++] = &p->slots[i];
    qsort(order, n, sizeof(order[0]), by_order);
    for (unsigned i = n; i-- > 0;) /* each goes before the one that was sent after it */
        reclaim(p, order[i], own);
    p->trial = NULL;
    p->trying = false;
    subs_orphan(p);
    return n;
}

/* ---- Policy ---- */

/* Everything that waits, if nobody will serve it. */
void proxy_apply_policy(struct proxy *p)
{
    struct dt_req *req = p->queue;

    if (p->on_crash == ON_CRASH_HOLD)
        return;
    p->queue = NULL;
    p->queue_tail = &p->queue;
    p->queued = 0;
    while (req) {
        struct dt_req *next = frame_of(p, req)->next;

        if (p->on_crash == ON_CRASH_BYPASS)
            dt_forward_one(p->c, req);
        else
            dt_complete_one(p->c, req, -EIO);
        req = next;
    }
    dt_wake(p->c);
}

static void give_up(struct proxy *p)
{
    static const char *const what[] = {
        [ON_CRASH_HOLD] = "requests are held until 'restart-process'",
        [ON_CRASH_BYPASS] = "requests pass it by",
        [ON_CRASH_FAIL] = "requests fail",
    };

    p->state = PROXY_GIVEN_UP;
    if (p->c)
        dt_timer_cancel(p->c, &p->timer); /* from here on it says that a stop cannot wait */
    dt_layer_event(p->layer, "extension-given-up", "%u failures: %s", p->nfailures,
                   what[p->on_crash]);
    proxy_apply_policy(p);
}

/* Counts this failure; true when there were too many within the window that began with the first.
 */
static bool count_failure(struct proxy *p, uint64_t now)
{
    if (p->nfailures == 0 || now - p->failing_since > p->window) {
        p->nfailures = 0;
        p->failing_since = now;
    }
    return ++p->nfailures >= p->tries;
}

/* ---- The end, and the beginning ---- */

void proxy_gone(struct proxy *p)
{
    bool own, was_live = p->state == PROXY_LIVE, lived = was_live || p->state == PROXY_DYING;
    char cause[200];
    const char *why;
    unsigned had;

    proxy_frames(p);
    while (was_live && p->state == PROXY_LIVE && proxy_take(p, &why) > 0)
        ;
    proxy_count(p);
    proxy_unwatch(p);
    process_reap(&p->process, &own, cause, sizeof(cause));
    p->state = PROXY_WAITING;
    p->ready = false;
    p->init_seq = p->load_seq = p->start_seq = p->save_seq = 0;
    if (lived)
        p->died_at = dt_clock_ns();
    for (unsigned i = 0; i < p->w->ncounters; i++)
        p->counters_base[i] += p->counters_last[i];
    had = reclaim_all(p, own);
    proxy_detach(p);
    dt_layer_event(p->layer, "extension-died", "%s; %u requests held", cause, had);
    if (count_failure(p, dt_clock_ns())) {
        give_up(p);
        return;
    }
    /* One that served is replaced at once; one that never came up may need time. */
    p->delay_ms = lived ? 0 : MIN(MAX(p->delay_ms * 2, DELAY_MIN_MS), DELAY_MAX_MS);
    dt_timer_set(p->c, &p->timer, dt_clock_ns() + DT_MS(p->delay_ms));
}

static void spawn_again(struct proxy *p)
{
    struct dt_error err;
    int ret = proxy_spawn(p, &err);

    /* All at once: the answers come in while the old one's requests return from below. */
    ret = ret ?: proxy_send_load(p, &err);
    ret = ret ?: proxy_send_start(p, &err);
    if (ret < 0) {
        dt_layer_event(p->layer, "extension-not-started", "%s", err.text);
        if (p->process.pidfd < 0) {
            p->state = PROXY_WAITING;
            dt_timer_set(p->c, &p->timer, dt_clock_ns() + DT_MS(DELAY_MAX_MS));
            return;
        }
        process_kill(&p->process, "it could not be started");
    }
    proxy_watch(p);
    dt_timer_set(p->c, &p->timer, dt_clock_ns() + START_NS);
}

/* A stop does not wait for somebody to say 'restart-process'. */
static void let_go(struct proxy *p)
{
    struct dt_req *req = p->queue;

    p->queue = NULL;
    p->queue_tail = &p->queue;
    p->queued = 0;
    while (req) {
        struct dt_req *next = frame_of(p, req)->next;

        dt_complete_one(p->c, req, -ECANCELED);
        req = next;
    }
}

static void on_timer(struct dt_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, timer);

    if (p->state == PROXY_GIVEN_UP)
        let_go(p);
    else if (p->state == PROXY_WAITING)
        spawn_again(p);
    else if (p->hung_up)
        proxy_break(p, "it closed its control socket");
    else if (p->state == PROXY_STARTING && !p->started)
        proxy_break(p, "it did not start within %llu s", (unsigned long long)(START_NS / DT_S(1)));
}

/* All that a process needs to go on may be there now: its own start, and the old one's requests. */
void proxy_drained(struct proxy *p)
{
    if (p->c && p->state == PROXY_STARTING && p->started && p->orphans == 0) {
        proxy_live(p);
        dt_wake(p->c);
    }
}

void proxy_live(struct proxy *p)
{
    p->state = PROXY_LIVE;
    p->delay_ms = 0;
    dt_timer_cancel(p->c, &p->timer);
    loop_poller_wake(ctx_loop(p->c), &p->poller);
    p->saved_at = dt_clock_ns();
    if (p->died_at) {
        p->restarts++;
        p->resent += p->queued;
        dt_layer_event(p->layer, "extension-restarted", "after %.1f ms; %u requests go on",
                       (double)(dt_clock_ns() - p->died_at) / 1e6, p->queued);
        p->died_at = 0;
    }
    proxy_send_queue(p);
}

void proxy_restart(struct proxy *p)
{
    if (p->state == PROXY_GIVEN_UP || p->state == PROXY_WAITING) {
        p->state = PROXY_WAITING;
        dt_timer_set(p->c, &p->timer, dt_clock_ns());
    } else {
        proxy_break(p, "replaced on request");
    }
}

/* ---- The tick: silence, counters, state ---- */

void proxy_count(struct proxy *p)
{
    if (!p->map.header)
        return;
    for (unsigned i = 0; i < p->w->ncounters; i++) {
        uint64_t now = __atomic_load_n(&p->map.header->counters[i], __ATOMIC_RELAXED);

        p->counters_last[i] = now;
        __atomic_store_n(&p->c->counters[i], p->counters_base[i] + now, __ATOMIC_RELAXED);
    }
}

static uint64_t oldest(const struct proxy *p)
{
    uint64_t at = UINT64_MAX;

    for (unsigned i = 0; i < SLOTS; i++)
        if (p->slots[i].state == SLOT_SENT || p->slots[i].state == SLOT_RETURNED)
            at = MIN(at, p->slots[i].sent_at);
    return at;
}

/* A silent process gets a ping; an extension that holds nothing must answer requests, too. */
static void check_silence(struct proxy *p, uint64_t now)
{
    uint64_t at = oldest(p);
    unsigned long long ms = p->deadline / DT_MS(1);

    if (p->ping != p->pong && now - p->pinged_at > p->deadline) {
        proxy_break(p, "it hangs: silent for %llu ms", ms);
    } else if (!p->w->holds && at < now && now - at > p->deadline) {
        proxy_break(p, "it hangs: a request was not answered for %llu ms", ms);
    } else if (p->ping == p->pong && at < now && now - at > p->deadline / 4) {
        proxy_ping(p, now);
    }
}

static void on_tick(struct dt_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, tick);
    uint64_t now = dt_clock_ns();
    const char *why;

    if (p->state != PROXY_LIVE)
        return;
    /* What it has said counts, even if this thread was too busy to listen. */
    if (proxy_take(p, &why) < 0) {
        proxy_break(p, "%s", why);
        return;
    }
    proxy_count(p);
    check_silence(p, now);
    if (now - p->saved_at >= SAVE_EVERY)
        proxy_ask_state(p);
    if (p->in_slots)
        proxy_tick_start(p);
}

void proxy_tick_start(struct proxy *p)
{
    if (p->tick.heap_index == 0 && p->state == PROXY_LIVE)
        dt_timer_set(p->c, &p->tick, dt_now(p->c) + MIN(MAX(p->deadline / 4, DT_MS(1)), TICK_MAX));
}

void proxy_timers(struct proxy *p)
{
    p->timer.fire = on_timer;
    p->tick.fire = on_tick;
}
