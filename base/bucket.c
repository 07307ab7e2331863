/* SPDX-License-Identifier: MIT */
/* bucket.c - see bucket.h. */
#include "base/bucket.h"

#define TOKEN ((__int128)1000000000)

static __int128 capacity(const struct bucket *b)
{
    return TOKEN + (__int128)b->rate * b->burst_ns;
}

static uint64_t clamp(__int128 n)
{
    return n <= 0 ? 0 : n > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)n;
}

void bucket_refill(struct bucket *b, uint64_t now)
{
    __int128 level;

    if (now <= b->last)
        return;
    if (__builtin_mul_overflow((__int128)(now - b->last), (__int128)b->rate, &level) ||
        __builtin_add_overflow(b->level, level, &level))
        level = capacity(b);
    b->level = MIN(level, capacity(b));
    b->last = now;
}

void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst_ns, uint64_t now)
{
    bool was_limited = b->rate != 0;

    bucket_refill(b, now);
    b->rate = rate;
    b->burst_ns = burst_ns;
    b->last = MAX(b->last, now);
    b->level = was_limited ? MIN(b->level, capacity(b)) : TOKEN;
}

uint64_t bucket_tokens(const struct bucket *b)
{
    return b->rate ? clamp(b->level / TOKEN) : UINT64_MAX;
}

bool bucket_empty(const struct bucket *b)
{
    return b->rate && b->level < TOKEN;
}

void bucket_take(struct bucket *b, uint64_t n)
{
    if (b->rate)
        b->level -= TOKEN * n;
}

uint64_t bucket_when(const struct bucket *b, uint64_t tokens)
{
    __int128 missing = TOKEN * tokens - b->level;

    if (!b->rate || missing <= 0)
        return b->last;
    return clamp((__int128)b->last + (missing + b->rate - 1) / b->rate);
}

uint64_t bucket_capacity(const struct bucket *b)
{
    return b->rate ? clamp(capacity(b) / TOKEN) : UINT64_MAX;
}
