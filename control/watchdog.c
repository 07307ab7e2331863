/* SPDX-License-Identifier: MIT */
/* watchdog.c - see watchdog.h. */
#include "control/watchdog.h"

#define LOOKS 10u /* within the deadline */

static uint64_t beats(const struct watchdog *w)
{
    return __atomic_load_n(&w->heart->beats, __ATOMIC_RELAXED);
}

static void wait_on(struct watchdog *w)
{
    loop_timer_set(w->loop, &w->timer, dt_clock_ns() + w->interval);
}

static void run_look(struct dt_timer *timer)
{
    struct watchdog *w = container_of(timer, struct watchdog, timer);
    uint64_t now = beats(w);

    w->missed = now == w->seen ? w->missed + 1 : 0;
    w->seen = now;
    if (w->missed >= LOOKS)
        w->hangs(w);
    else
        wait_on(w);
}

void watchdog_init(struct watchdog *w, struct loop *loop, const struct heartbeat *heart,
                   uint64_t deadline, void (*hangs)(struct watchdog *w))
{
    *w = (struct watchdog){.loop = loop,
                           .heart = heart,
                           .hangs = hangs,
                           .timer.fire = run_look,
                           .interval = deadline / LOOKS};
}

void watchdog_start(struct watchdog *w)
{
    if (w->interval == 0)
        return;
    w->missed = 0;
    w->seen = beats(w);
    wait_on(w);
}

void watchdog_stop(struct watchdog *w)
{
    if (w->interval)
        loop_timer_cancel(w->loop, &w->timer);
}

bool pulse_take(struct pulse *pulse, const struct loop *loop)
{
    struct loop_stats stats;
    uint64_t before = pulse->turns;

    loop_get_stats(loop, &stats);
    pulse->turns = stats.turns;
    return stats.turns != before || loop_sleeps(loop);
}
