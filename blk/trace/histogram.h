/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - times in log-linear buckets, 32 to each power of two: a percentile is at most
 * 3.2 % above the true one.
 */
#ifndef TRACE_HISTOGRAM_H
#define TRACE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SHIFT   5u
#define HISTOGRAM_SUB     (1u << HISTOGRAM_SHIFT)
#define HISTOGRAM_BUCKETS ((65u - HISTOGRAM_SHIFT) * HISTOGRAM_SUB)

struct histogram {
    uint64_t count, min, max;
    double sum;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t value);
/** histogram_percentile() - the least upper bound of @p percent of the values; 0 if there are none.
 */
uint64_t histogram_percentile(const struct histogram *h, double p);

#endif
