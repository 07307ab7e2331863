/* SPDX-License-Identifier: MIT */
/*
 * window.h - packets sent and received in the last second, in eighths of it.
 *
 * A window is the eighth that has begun and the seven before it: each packet is in it for more than 7/8 s and for no more than one. It never
 * holds more than a second, so who sends seven packets in each second is never delayed; and it always holds 7/8 s, so what a second allows is
 * allowed in that. Finer parts would be as many bytes more of each of a million flows. Counts that would overflow are halved, all of them; their
 * ratio stays.
 */
#ifndef SYMMETRY_WINDOW_H
#define SYMMETRY_WINDOW_H

#include "base/base.h"

#define WINDOW_PARTS 8u
#define WINDOW_TICK  (DT_S(1) / WINDOW_PARTS)

/** struct window - what passed in each tick of dt_clock_ns(); a part belongs to tick % WINDOW_PARTS. */
struct window {
    uint16_t tx[WINDOW_PARTS], rx[WINDOW_PARTS];
};

static inline uint32_t window_sum(const uint16_t parts[WINDOW_PARTS])
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < WINDOW_PARTS; i++)
        sum += parts[i];
    return sum;
}

/** window_advance() - from tick @from to @to: what is a second old is forgotten. */
static inline void window_advance(struct window *w, uint32_t from, uint32_t to)
{
    uint32_t passed = to - from;

    if (passed >= WINDOW_PARTS) {
        *w = (struct window){0};
        return;
    }
    for (uint32_t t = from + 1; t != to + 1; t++)
        w->tx[t % WINDOW_PARTS] = w->rx[t % WINDOW_PARTS] = 0;
}

static inline void window_halve(struct window *w)
{
    for (unsigned i = 0; i < WINDOW_PARTS; i++) {
        w->tx[i] /= 2;
        w->rx[i] /= 2;
    }
}

/** window_add() - @n packets. Return: were all counts halved for it? Then their ratio is only about what it was. */
static inline bool window_add(struct window *w, bool tx, uint32_t tick, uint32_t n)
{
    uint16_t *part = &(tx ? w->tx : w->rx)[tick % WINDOW_PARTS];
    bool halved = false;

    while (unlikely(*part + n > UINT16_MAX)) {
        window_halve(w);
        if (n > UINT16_MAX / 2)
            n /= 2;
        halved = true;
    }
    *part = (uint16_t)(*part + n);
    return halved;
}

/** window_slack() - how many may be sent one after the other so that before none of them ln((tx+1)/(rx+1)) is above the threshold whose
 *  power of e, in 65536ths, is @ratio; 0 = it is now. */
static inline uint64_t window_slack(const struct window *w, uint64_t ratio)
{
    uint64_t tx = window_sum(w->tx), most = (window_sum(w->rx) + 1) * ratio >> 16;

    return most > tx ? most - tx : 0;
}

#endif
