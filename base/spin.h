/* SPDX-License-Identifier: MIT */
/*
 * spin.h - giving way while looking for work again and again.
 *
 * Theory of operation: who spins may hold the processor that the bringer of its work waits for, and then waits for
 * the end of its own time slice, which is milliseconds. So who has found nothing for a while yields, and learns
 * from how long that takes:
 *
 * - It comes back at once: nobody waited, and the next yield is longer in coming. Where each spinner has a processor to
 *   itself, yields cost a fraction of a microsecond in twenty.
 * - Soon: the processor is shared with one that gives way as we do, most likely the other end of a ring. From then on each
 *   wait that is longer than a microsecond is given away.
 * - Not for long: its owner is busy with something else, and took a time slice. The next try is after 0.1 seconds, then
 *   twice as long each time, until one comes back sooner.
 */
#ifndef BASE_SPIN_H
#define BASE_SPIN_H

#include "base/base.h"

#include <sched.h>

#define SPIN_SHORT    DT_US(1)
#define SPIN_LONG     DT_US(20)
#define SPIN_SHARED   DT_US(3)   /* a yield that took longer let somebody run */
#define SPIN_TAKEN    DT_US(500) /* and this one did not give way */
#define SPIN_REST     DT_MS(100)
#define SPIN_REST_MAX DT_S(10)

/**
 * struct spin - of one thread; all zero at first.
 * @since: when it began to wait, or yielded last; 0 = it found something.
 * @resting: no yield before; @rest: how long that was.
 */
struct spin {
    uint64_t since, interval, resting, rest;
};

static inline void spin_found(struct spin *s)
{
    s->since = 0;
}

/** spin_idle() - nothing was found, at @now. Return: for how many ns others had the processor. */
static inline uint64_t spin_idle(struct spin *s, uint64_t now)
{
    uint64_t took;

    if (s->since == 0) {
        s->since = now;
        return 0;
    }
    if (now - s->since < s->interval || now < s->resting)
        return 0;
    sched_yield();
    s->since = dt_clock_ns();
    took = s->since - now;
    s->rest = took > SPIN_TAKEN ? MIN(MAX(2 * s->rest, SPIN_REST), SPIN_REST_MAX) : 0;
    s->resting = s->since + s->rest;
    s->interval =
        took > SPIN_SHARED ? SPIN_SHORT : MIN(MAX(2 * s->interval, SPIN_SHORT), SPIN_LONG);
    return took > SPIN_SHARED ? took : 0;
}

#endif
