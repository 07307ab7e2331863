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

void link_break(struct link *l, const char *why)
{
    proxy_break(l->p, "%s", why);
    if (link_is_up(l))
        l->state = LINK_BROKEN;
}

/* A stop does not wait for somebody to say 'restart-process'. */
static void on_rest(struct dt_timer *timer)
{
    struct link *l = container_of(timer, struct link, rest);

    if (l->state == LINK_GIVEN_UP)
        l->p->class->end_queue(l, false);
}

/* ---- Orders ---- */

static void go_down(struct link *l)
{
    const char *why;

    l->had = 0;
    while (link_is_up(l) && l->p->class->take(l, &why) > 0)
        ;
    link_count(l);
    link_unwatch(l);
    l->state = LINK_DOWN;
    for (unsigned i = 0; i < l->p->w->ncounters; i++) {
        l->counters_base[i] += l->counters_last[i];
        l->counters_last[i] = 0;
    }
    if (l->c)
        l->had = l->p->class->reclaim(l);
    l->p->class->detach(l);
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
        l->p->class->send(l);
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
            l->p->class->end_queue(l, true);
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

/* A silent process gets a ping; an extension that holds nothing must answer requests, too. */
static void check_silence(struct link *l, uint64_t now)
{
    uint64_t at = l->p->class->oldest(l), deadline = l->p->deadline;
    unsigned long long ms = deadline / DT_MS(1);

    if (l->ping != l->pong && now - l->pinged_at > deadline) {
        proxy_break(l->p, "it hangs: silent for %llu ms", ms);
    } else if (!l->p->w->holds && at < now && now - at > deadline) {
        proxy_break(l->p, "it hangs: what it got was not answered for %llu ms", ms);
    } else if (l->ping == l->pong && at < now && now - at > deadline / 4) {
        l->p->class->ping(l, now);
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
    if (l->p->class->take(l, &why) < 0) {
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
