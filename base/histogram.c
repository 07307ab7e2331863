/* SPDX-License-Identifier: MIT */
#include "base/histogram.h"
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
uint64_t histogram_bucket_top(unsigned b)
{
    unsigned shift = b / HISTOGRAM_SUB - 1;

    if (b < HISTOGRAM_SUB)
        return b;
    return ((uint64_t)(HISTOGRAM_SUB + b % HISTOGRAM_SUB) << shift) + (((uint64_t)1 << shift) - 1);
}

static void set(uint64_t *field, uint64_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELAXED);
}

void histogram_add(struct histogram *h, uint64_t value)
{
    unsigned b = bucket_of(value);

    if (h->count == 0 || value < h->min)
        set(&h->min, value);
    if (value > h->max)
        set(&h->max, value);
    set(&h->buckets[b], h->buckets[b] + 1);
    set(&h->count, h->count + 1);
    h->sum += (double)value;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    uint64_t min = __atomic_load_n(&from->min, __ATOMIC_RELAXED);

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        uint64_t n = __atomic_load_n(&from->buckets[b], __ATOMIC_RELAXED);

        into->buckets[b] += n;
        into->count += n;
        into->sum += (double)n * (double)histogram_bucket_top(b);
    }
    if (into->min == 0 || min < into->min)
        into->min = min;
    into->max = MAX(into->max, __atomic_load_n(&from->max, __ATOMIC_RELAXED));
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    double exact = (double)h->count * percent / 100.0;
    uint64_t rank = (uint64_t)exact, seen = 0;

    if (h->count == 0)
        return 0;
    if ((double)rank < exact || rank == 0)
        rank++;
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        seen += h->buckets[b];
        if (seen >= rank)
            return MIN(histogram_bucket_top(b), h->max);
    }
    return h->max;
}

uint64_t histogram_mean(const struct histogram *h)
{
    double mean = h->count ? h->sum / (double)h->count + 0.5 : 0;

    return mean >= 0x1p64 ? UINT64_MAX : (uint64_t)mean;
}
