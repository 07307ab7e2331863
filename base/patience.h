/* SPDX-License-Identifier: MIT */
/*
 * patience.h - how long a layer that cannot serve what it holds may go on hoping while it is asked to come
 * to rest: until shortly before the deadline, so that what it lets go of is back in time.
 *
 * What is let go of then was not served, and ends with -ECANCELED: the front leaves it to whoever serves
 * the ring next, where it can. Another error would be the guest's.
 */
#ifndef BASE_PATIENCE_H
#define BASE_PATIENCE_H

#include "base/base.h"

/** struct patience - zero: nobody waits. Times are ns of dt_clock_ns(). */
struct patience {
    uint64_t ends, deadline;
};

/**
 * patience_end() - when to let go: a quarter of the time, and at most a second, are kept for the way back. It takes
 * microseconds, but a host whose processors are busy may not let us run for some hundred milliseconds.
 */
static inline uint64_t patience_end(uint64_t now, uint64_t deadline)
{
    uint64_t left = deadline > now ? deadline - now : 0;

    return MAX(1u, deadline - MIN(deadline, MIN(left / 4, DT_S(1))));
}
/** patience_begin() - from quiesce(). */
static inline void patience_begin(struct patience *p, uint64_t now, uint64_t deadline)
{
    *p = (struct patience){.ends = patience_end(now, deadline), .deadline = deadline};
}
/**
 * patience_look() - when to look next at what is held.
 * @every:   how often where nobody waits, ns.
 * @hurried: how often while somebody waits for this layer to rest, ns; and when patience ends.
 */
static inline uint64_t patience_look(const struct patience *p, uint64_t now, uint64_t every,
                                     uint64_t hurried)
{
    if (!p->ends)
        return now + every;
    return p->ends > now ? MIN(p->ends, now + hurried) : now + hurried;
}
/** patience_over() - let go now? After the deadline the device has stopped, or goes on as if nothing
 *  had been. */
static inline bool patience_over(struct patience *p, uint64_t now)
{
    if (p->ends && now >= p->deadline)
        p->ends = 0;
    return p->ends && now >= p->ends;
}

#endif
