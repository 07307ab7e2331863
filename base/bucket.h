/* SPDX-License-Identifier: MIT */
/*
 * bucket.h - token buckets that are exact over any length of time.
 *
 * A bucket is filled with @rate tokens per second and holds what accumulates in its burst time
 * plus one token. Its level is kept in token-nanoseconds (1e9 to the token): an interval of
 * t ns adds t * rate, a whole number, so nothing is ever rounded and no drift builds up. 128 bits
 * hold the largest rate for centuries. The level may go below zero (debt): what was taken
 * beyond the level is paid before anything else comes.
 */
#ifndef BUCKET_H
#define BUCKET_H

#include "base/base.h"

/** struct bucket - @rate 0 = unlimited: it then grants everything. */
struct bucket {
    uint64_t rate;
    uint64_t burst_ns;
    uint64_t last; /* level is as of this time */
    __int128 level;
};

/** bucket_set() - give it a rate and burst from @now on. What it held or owed stays, in tokens,
 *  within the new capacity; one that was unlimited starts with a single token. */
void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst_ns, uint64_t now);
/** bucket_refill() - bring it to @now; going back in time changes nothing. */
void bucket_refill(struct bucket *b, uint64_t now);
/** bucket_tokens() - whole tokens there now; 0 in debt, UINT64_MAX if unlimited. */
uint64_t bucket_tokens(const struct bucket *b);
/** bucket_empty() - is there not even one whole token? As bucket_tokens() says it, without its division. */
bool bucket_empty(const struct bucket *b);
/** bucket_take() - take @n tokens, into debt if need be. */
void bucket_take(struct bucket *b, uint64_t n);
/** bucket_when() - the time at which it holds @tokens, if nothing is taken before. */
uint64_t bucket_when(const struct bucket *b, uint64_t tokens);
/** bucket_capacity() - the most whole tokens it can hold. */
uint64_t bucket_capacity(const struct bucket *b);

#endif
