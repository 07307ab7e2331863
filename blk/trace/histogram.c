/* SPDX-License-Identifier: MIT */
/* histogram.c - see histogram.h. */
#include "blk/trace/histogram.h"
#include "base/base.h"

static unsigned bucket_of(uint64_t value)
{
    unsigned exp;

    if (value < HISTOGRAM_SUB)
        return (unsigned)value;
    exp = 63u - (unsigned)__builtin_clzll(value); /* >= HISTOGRAM_SHIFT */
    return (exp - HISTOGRAM_SHIFT + 1) * HISTOGRAM_SUB +
           (unsigned)((value >> (exp - HISTOGRAM_SHIFT)) & (HISTOGRAM_SUB - 1));
}

/* The largest value that falls into bucket @b. */
static uint64_t bucket_top(unsigned b)
{
    unsigned shift = b / HISTOGRAM_SUB - 1;

    if (b < HISTOGRAM_SUB)
        return b;
    return ((uint64_t)(HISTOGRAM_SUB + b % HISTOGRAM_SUB) << shift) + (((uint64_t)1 << shift) - 1);
}

void histogram_add(struct histogram *h, uint64_t value)
{
    h->buckets[bucket_of(value)]++;
    h->min = h->count ? MIN(h->min, value) : value;
    h->max = MAX(h->max, value);
    h->sum += (double)value;
    h->count++;
}

uint64_t histogram_percentile(const struct histogram *h, double p)
{
    uint64_t rank, seen = 0;

    if (h->count == 0)
        return 0;
    /* The rank-th smallest, from 1: ceil(count * p / 100). */
    rank = (uint64_t)((double)h->count * p / 100.0);
    if ((double)rank < (double)h->count * p / 100.0 || rank == 0)
        rank++;
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        seen += h->buckets[b];
        if (seen >= rank)
            return MIN(bucket_top(b), h->max);
    }
    return h->max;
}
