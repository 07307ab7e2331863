/* SPDX-License-Identifier: MIT */
/*
 * watchdog.h - notices that a worker lives but does not get on.
 *
 * Theory of operation: a worker's main thread adds to a counter in memory that it shares with its
 * supervisor, ten times a second, as long as each of its I/O threads either sleeps with nothing to do or has
 * turned its loop since the last time. So idle threads are not woken, and a thread that is stuck stops the
 * counter, as the main thread's own end does. The supervisor looks at it on a timer, and counts how often
 * it saw no change instead of reading a clock: on a host that had no time for either of them both are late.
 */
#ifndef CONTROL_WATCHDOG_H
#define CONTROL_WATCHDOG_H

#include "loop/loop.h"

/** struct heartbeat - in shared memory; written by the worker alone, and hostile. */
struct heartbeat {
    uint64_t beats;
};

/** struct watchdog - embed it; @hangs is called once, on the loop, until it is started again. */
struct watchdog {
    struct loop *loop;
    const struct heartbeat *heart;
    void (*hangs)(struct watchdog *w);
    struct dt_timer timer;
    uint64_t interval, seen;
    unsigned missed;
};

/** watchdog_init() - @deadline: how long without a beat is a hang, ns; 0 = never. */
void watchdog_init(struct watchdog *w, struct loop *loop, const struct heartbeat *heart,
                   uint64_t deadline, void (*hangs)(struct watchdog *w));
/** watchdog_start() - a worker serves from now on. */
void watchdog_start(struct watchdog *w);
/** watchdog_stop() - it is to end, or is gone. Harmless when not started. */
void watchdog_stop(struct watchdog *w);

/** struct pulse - in the worker: one I/O thread, as it was seen last. */
struct pulse {
    uint64_t turns;
};
/** pulse_take() - has the thread of @loop done something since the last time, or nothing to do? */
bool pulse_take(struct pulse *pulse, const struct loop *loop);

#endif
