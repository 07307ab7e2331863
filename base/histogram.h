/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - latencies, or other values, in log-linear buckets: 32 to each power of two, so a
 * percentile is at most 3.2 % above the true one. One writer; any thread may merge a copy.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

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
/** histogram_merge() - add @from, which its writer may be changing, to @into, which is ours. */
void histogram_merge(struct histogram *into, const struct histogram *from);
/** histogram_percentile() - the least upper bound of @percent of the values; 0 if there are none. */
uint64_t histogram_percentile(const struct histogram *h, double percent);
/** histogram_bucket_top() - the largest value that falls into bucket @b. */
uint64_t histogram_bucket_top(unsigned b);
/** histogram_mean() - rounded; 0 if there are none. */
uint64_t histogram_mean(const struct histogram *h);

#endif
