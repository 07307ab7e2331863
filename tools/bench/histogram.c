/* SPDX-License-Identifier: MIT */
/* histogram.c - latencies in log-linear buckets. */
#include "tools/bench/load.h"

static unsigned bucket_of(uint64_t ns)
{
    unsigned exp;

    if (ns < 2 * LATENCY_SUB)
        return (unsigned)ns;
    exp = 63u - (unsigned)__builtin_clzll(ns); /* >= 6 */
    return MIN((exp - 4) * LATENCY_SUB + (unsigned)((ns >> (exp - 5)) & (LATENCY_SUB - 1)),
               LATENCY_BUCKETS - 1);
}

/* The largest value that falls into bucket @b. */
static uint64_t bucket_top(unsigned b)
{
    unsigned exp = b / LATENCY_SUB + 4;

    if (b < 2 * LATENCY_SUB)
        return b;
    return ((uint64_t)(LATENCY_SUB + b % LATENCY_SUB + 1) << (exp - 5)) - 1;
}

void latencies_add(struct latencies *l, uint64_t ns)
{
    l->buckets[bucket_of(ns)]++;
    l->count++;
    if (ns > l->max)
        l->max = ns;
}

void latencies_merge(struct latencies *into, const struct latencies *from)
{
    for (unsigned b = 0; b < LATENCY_BUCKETS; b++)
        into->buckets[b] += from->buckets[b];
    into->count += from->count;
    into->max = MAX(into->max, from->max);
}

uint64_t latencies_percentile(const struct latencies *l, double percent)
{
    uint64_t rank = (uint64_t)((double)l->count * percent / 100.0), seen = 0;

    for (unsigned b = 0; b < LATENCY_BUCKETS; b++) {
        seen += l->buckets[b];
        if (seen > rank)
            return MIN(bucket_top(b), l->max);
    }
    return l->max;
}
