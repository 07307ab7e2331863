/* SPDX-License-Identifier: MIT */
/*
 * orders.c - one process, and all the threads of a device that send it requests.
 *
 * What becomes of the process is decided on the device's first thread; each thread's link does as it is
 * ordered, and says when it has. There is one order at a time, to some or all of the links, so a link
 * never has two, and the next step begins when all have obeyed:
 *
 *     LIVE --(the process ended)--> all links DOWN: each reads the rest, and takes its requests back
 *     FALLING --(all are down)--> a new process, with a new channel for each link; or GIVE_UP
 *     STARTING --(all channels are there, nothing of the old process's is below)--> all links LIVE
 *
 * Who made the process crash is known only if it was alone there. So where there are suspects the links TRY
 * first, one after the other, each its suspects one by one, and are LIVE together afterwards.
 *
 * Orders and "look again" are messages between loops. With one thread both are calls.
 */
#include "blk/channel/internal.h"

#include <stdarg.h>
#include <stdio.h>

#define DELAY_MIN_MS 10u
#define DELAY_MAX_MS 1000u
#define SAVE_APART   DT_MS(500) /* the links ask once a second, each for itself */

void proxy_break(struct proxy *p, const char *fmt, ...)
{
    char why[160];
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    process_kill(&p->process, "%s", why);
}

/* ---- Orders ---- */

static void run_order(struct loop_message *message)
{
    struct link *l = container_of(message, struct link, message);
    struct proxy *p = l->p;

    link_obey(l);
    __atomic_sub_fetch(&p->awaited, 1, __ATOMIC_ACQ_REL);
    proxy_turn_soon(p);
}

void proxy_order(struct link *l, enum link_order what)
{
    struct proxy *p = l->p;

    l->order = what;
    __atomic_add_fetch(&p->awaited, 1, __ATOMIC_RELAXED);
    l->message.run = run_order;
    if (p->nlinks == 1)
        run_order(&l->message);
    else
        loop_post(layer_loop(p->layer, l->thread), &l->message);
}

static void order_all(struct proxy *p, enum link_order what)
{
    for (unsigned i = 0; i < p->nlinks; i++)
        proxy_order(p->links[i], what);
}

static bool obeyed(const struct proxy *p)
{
    return __atomic_load_n(&p->awaited, __ATOMIC_ACQUIRE) == 0;
}

/* Whoever has not yet obeyed will see the new policy when it does. */
void proxy_order_policy(struct proxy *p)
{
    if (p->state == PROXY_GIVEN_UP && obeyed(p))
        order_all(p, ORDER_GIVE_UP);
}

/* ---- The end ---- */

static void fall(struct proxy *p)
{
    p->ended = false;
    p->lived = p->state == PROXY_LIVE || p->state == PROXY_TRYING;
    proxy_frames(p);
    proxy_unwatch(p);
    process_reap(&p->process, &p->end);
    p->ready = false;
    p->init_seq = p->load_seq = p->save_seq = p->memory_seq = 0;
    if (p->lived)
        p->died_at = dt_clock_ns();
    p->state = PROXY_FALLING;
    order_all(p, ORDER_DOWN);
}

static void give_up(struct proxy *p)
{
    static const char *const what[] = {
        [ON_CRASH_HOLD] = "are held until 'restart-process'",
        [ON_CRASH_BYPASS] = "pass it by",
        [ON_CRASH_FAIL] = "fail",
    };

    p->state = PROXY_GIVEN_UP;
    dt_timer_cancel(p->c, &p->timer);
    dt_layer_event(p->layer, "extension-given-up", "%u failures: %s %s", p->nfailures,
                   p->class->noun, what[p->on_crash]);
    order_all(p, ORDER_GIVE_UP);
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

/* All have taken their requests back. */
static void fallen(struct proxy *p)
{
    struct device_event facts = {.why = p->end.why, .status = p->end.status};

    for (unsigned i = 0; i < p->nlinks; i++)
        facts.requests += p->links[i]->had;
    p->state = PROXY_WAITING;
    layer_event(p->layer, &facts, "extension-died", "%s; %u %s %s", p->end.cause, facts.requests,
                p->class->noun, p->class->lost);
    if (!p->wanted && count_failure(p, dt_clock_ns())) {
        give_up(p);
        return;
    }
    p->wanted = false;
    /* One that served is replaced at once; one that never came up may need time. */
    p->delay_ms = p->lived ? 0 : MIN(MAX(p->delay_ms * 2, DELAY_MIN_MS), DELAY_MAX_MS);
    dt_timer_set(p->c, &p->timer, dt_clock_ns() + DT_MS(p->delay_ms));
}

/* ---- The beginning ---- */

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

static bool drained(const struct proxy *p)
{
    for (unsigned i = 0; i < p->nlinks; i++)
        if (__atomic_load_n(&p->links[i]->orphans, __ATOMIC_ACQUIRE))
            return false;
    return true;
}

static void go_live(struct proxy *p)
{
    p->state = PROXY_LIVE;
    p->delay_ms = 0;
    p->saved_at = dt_clock_ns();
    order_all(p, ORDER_LIVE);
}

/* The next link with suspects, from @p->trying on; or all of them, when there is none. */
static void try_next(struct proxy *p)
{
    while (p->trying < p->nlinks && !p->links[p->trying]->suspected)
        p->trying++;
    if (p->trying == p->nlinks)
        go_live(p);
    else
        proxy_order(p->links[p->trying], ORDER_TRY);
}

static void report_restart(struct proxy *p)
{
    struct device_event facts = {.pause_ns = dt_clock_ns() - p->died_at};

    for (unsigned i = 0; i < p->nlinks; i++)
        facts.requests += __atomic_load_n(&p->links[i]->queued, __ATOMIC_RELAXED);
    p->restarts++;
    layer_event(p->layer, &facts, "extension-restarted", "after %.1f ms; %u %s go on",
                (double)facts.pause_ns / 1e6, facts.requests, p->class->noun);
    p->died_at = 0;
}

static void begin(struct proxy *p)
{
    dt_timer_cancel(p->c, &p->timer);
    if (p->died_at)
        report_restart(p);
    p->state = PROXY_TRYING;
    p->trying = 0;
    try_next(p);
}

void proxy_restart(struct proxy *p)
{
    if (p->state == PROXY_GIVEN_UP || p->state == PROXY_WAITING) {
        p->state = PROXY_WAITING;
        dt_timer_set(p->c, &p->timer, dt_clock_ns());
    } else {
        p->wanted = true;
        proxy_break(p, "replaced on request");
    }
}

/* ---- One step after the other ---- */

static void save(struct proxy *p)
{
    if (__atomic_exchange_n(&p->unsaved, false, __ATOMIC_ACQ_REL) &&
        dt_clock_ns() - p->saved_at >= SAVE_APART)
        proxy_ask_state(p);
}

static void step(struct proxy *p)
{
    if (!p->c || !obeyed(p))
        return;
    if (p->ended)
        fall(p);
    else if (p->state == PROXY_FALLING)
        fallen(p);
    else if (p->state == PROXY_STARTING && p->started && drained(p))
        begin(p);
    else if (p->state == PROXY_TRYING &&
             __atomic_exchange_n(&p->links[p->trying]->tried, false, __ATOMIC_ACQ_REL))
        try_next(p);
    else if (p->state == PROXY_LIVE)
        save(p);
}

/* An order may be obeyed, and a request come back, within this. */
static void turn(struct proxy *p)
{
    p->again = true;
    if (p->turning)
        return;
    p->turning = true;
    while (p->again) {
        p->again = false;
        step(p);
    }
    p->turning = false;
}

static void run_turn(struct loop_message *message)
{
    struct proxy *p = container_of(message, struct proxy, turn);

    __atomic_store_n(&p->poked, false, __ATOMIC_SEQ_CST);
    turn(p);
}

void proxy_turn_soon(struct proxy *p)
{
    if (!__atomic_load_n(&p->running, __ATOMIC_ACQUIRE))
        return;
    if (p->nlinks == 1)
        turn(p);
    else if (!__atomic_exchange_n(&p->poked, true, __ATOMIC_SEQ_CST))
        loop_post(layer_loop(p->layer, 0), &p->turn);
}

static void on_timer(struct dt_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, timer);

    if (p->state == PROXY_WAITING)
        spawn_again(p);
    else if (p->hung_up)
        proxy_break(p, "it closed its control socket");
    else if (p->state == PROXY_STARTING && !p->started)
        proxy_break(p, "it did not start within %llu s", (unsigned long long)(START_NS / DT_S(1)));
}

void proxy_init_orders(struct proxy *p)
{
    p->timer.fire = on_timer;
    p->turn.run = run_turn;
}
