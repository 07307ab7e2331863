/* SPDX-License-Identifier: MIT */
/*
 * meter.h - a token bucket whose whole state is one word, which threads and processes may share without a lock.
 *
 * That word is the time at which the bucket was, or will be, empty ("theoretical arrival time" less one token, as in the virtual
 * scheduling algorithm of ITU-T I.371): a token is there for each 1/rate that has passed since. Who takes some moves it on by
 * what they are worth at its own rate, so members of one bucket with different rates each pay by their own. In the future means in debt:
 * nothing passes until that is paid. Times are in 64ths of a nanosecond, and what is taken at once is rounded up to one: at 40 Gbit/s
 * that is 0.1 % of the smallest frame.
 *
 * Whoever is killed has either taken or not. Nothing in the word is trusted: a time that no debt explains counts as now.
 */
#ifndef BASE_METER_H
#define BASE_METER_H

#include "base/base.h"

#define METER_UNIT 64u /* of a nanosecond */
/* The longest debt that is believed: a super-frame at 6 kbit/s takes a minute and a half, and others may share the bucket. */
#define METER_DEBT (DT_S(3600) * METER_UNIT)

/** struct meter - @cost: of a token, in units; 0 = unlimited. @capacity: units of what accumulates, one token included. */
struct meter {
    double cost;
    uint64_t capacity;
    uint64_t *empty; /* shared; atomic */
};

/** meter_init() - @word is the bucket; a new one is 0, and then begins with a single token. */
void meter_init(struct meter *m, uint64_t *word);
/** meter_set() - @rate tokens a second, 0 = unlimited, and what accumulates in @burst_ns. A debt is at most @most tokens from now on. */
void meter_set(struct meter *m, uint64_t rate, uint64_t burst_ns, uint64_t most, uint64_t now);
/** meter_tokens() - whole tokens there now; 0 in debt, UINT64_MAX if unlimited. */
uint64_t meter_tokens(const struct meter *m, uint64_t now);
/** meter_has() - are there @n of them now? Then one need not be waited for. Told without a division; false where a 64th of a nanosecond is
 *  missing. */
bool meter_has(const struct meter *m, uint64_t n, uint64_t now);
/** meter_when() - when there is one, in ns; 0 = there is now. */
uint64_t meter_when(const struct meter *m, uint64_t now);
/** meter_take() - @n tokens, into debt if need be. */
void meter_take(const struct meter *m, uint64_t n, uint64_t now);

#endif
