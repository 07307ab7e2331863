/* SPDX-License-Identifier: MIT */
/*
 * latencies.h - times in log-linear buckets, 32 to each power of two: a percentile is at most
 * 3.2 % above the true one.
 */
#ifndef TRACE_LATENCIES_H
#define TRACE_LATENCIES_H

#include <stdint.h>

#define LATENCIES_SHIFT   5u
#define LATENCIES_SUB     (1u << LATENCIES_SHIFT)
#define LATENCIES_BUCKETS ((65u - LATENCIES_SHIFT) * LATENCIES_SUB)

struct latencies {
    uint64_t count, min, max;
    double sum;
    uint64_t buckets[LATENCIES_BUCKETS];
};

void latencies_add(struct latencies *h, uint64_t value);
/** latencies_percentile() - the least upper bound of @p percent of the values; 0 if there are none.
 */
uint64_t latencies_percentile(const struct latencies *h, double p);

#endif
