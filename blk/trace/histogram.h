/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - times in log-linear buckets, 32 to each power of two: a percentile is at most
 * 3.2 % above the true one.
 */
#ifndef TRACE_HISTOGRAM_H
#define TRACE_HISTOGRAM_H

#include <stdint.h>

#define TRACE_HISTOGRAM_SHIFT   5u
#define TRACE_HISTOGRAM_SUB     (1u << TRACE_HISTOGRAM_SHIFT)
#define TRACE_HISTOGRAM_BUCKETS ((65u - TRACE_HISTOGRAM_SHIFT) * TRACE_HISTOGRAM_SUB)

struct trace_histogram {
    uint64_t count, min, max;
    double sum;
    uint64_t buckets[TRACE_HISTOGRAM_BUCKETS];
};

void trace_histogram_add(struct trace_histogram *h, uint64_t value);
/** trace_histogram_percentile() - the least upper bound of @p percent of the values; 0 if there are
 * none.
 */
uint64_t trace_histogram_percentile(const struct trace_histogram *h, double p);

#endif
