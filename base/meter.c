/* SPDX-License-Identifier: MIT */
/* meter.c - see meter.h. */
#include "base/meter.h"

static uint64_t load(const struct meter *m)
{
    return __atomic_load_n(m->empty, __ATOMIC_RELAXED);
}

/* False: somebody else was faster, and *@seen is what there is now. Nothing else is ordered by it. */
static bool replace(const struct meter *m, uint64_t *seen, uint64_t now)
{
    return __atomic_compare_exchange_n(m->empty, seen, now, true, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

static uint64_t units(const struct meter *m, uint64_t tokens)
{
    return (uint64_t)((double)tokens * m->cost) + 1;
}

/* When it was, or will be, empty: not longer ago than what it holds. */
static uint64_t judge(const struct meter *m, uint64_t seen, uint64_t now)
{
    if (seen > now)
        return seen - now > METER_DEBT ? now : seen;
    return now - seen > m->capacity ? now - m->capacity : seen;
}

void meter_init(struct meter *m, uint64_t *word)
{
    *m = (struct meter){.empty = word};
}

/* A word of 0 is older than any burst, and would be a full bucket. */
void meter_set(struct meter *m, uint64_t rate, uint64_t burst_ns, uint64_t most, uint64_t now)
{
    bool was_limited = m->cost != 0;
    uint64_t seen = load(m), next;

    now *= METER_UNIT;
    m->cost = rate ? 1e9 * METER_UNIT / (double)rate : 0;
    if (rate == 0)
        return;
    m->capacity = units(m, 1) + burst_ns * METER_UNIT;
    do
        next = seen == 0 || (!was_limited && now > seen)
                   ? now - units(m, 1)
                   : MIN(judge(m, seen, now), now + MIN(units(m, most), METER_DEBT));
    while (!replace(m, &seen, next));
}

uint64_t meter_tokens(const struct meter *m, uint64_t now)
{
    uint64_t empty;

    if (m->cost == 0)
        return UINT64_MAX;
    now *= METER_UNIT;
    empty = judge(m, load(m), now);
    return empty < now ? (uint64_t)((double)(now - empty) / m->cost) : 0;
}

bool meter_has(const struct meter *m, uint64_t n, uint64_t now)
{
    if (m->cost == 0)
        return true;
    now *= METER_UNIT;
    return judge(m, load(m), now) + units(m, n) <= now;
}

uint64_t meter_when(const struct meter *m, uint64_t now)
{
    uint64_t when;

    if (m->cost == 0)
        return 0;
    when = judge(m, load(m), now * METER_UNIT) + units(m, 1);
    return when <= now * METER_UNIT ? 0 : (when + METER_UNIT - 1) / METER_UNIT;
}

void meter_take(const struct meter *m, uint64_t n, uint64_t now)
{
    uint64_t seen = load(m), cost;

    if (m->cost == 0 || n == 0)
        return;
    now *= METER_UNIT;
    cost = MIN(units(m, n), METER_DEBT);
    while (!replace(m, &seen, judge(m, seen, now) + cost)) {
    }
}
