/* SPDX-License-Identifier: MIT */
/*
 * rng.c - xoshiro256** by Blackman and Vigna (https://prng.di.unimi.it), seeded through
 * splitmix64 as its authors advise, so that any seed gives a good state.
 */
#include "base/base.h"

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

/** dt_rng_seed() - the same @seed gives the same sequence on every host and in every release. */
void dt_rng_seed(struct dt_rng *rng, uint64_t seed)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rng->s); i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        rng->s[i] = z ^ (z >> 31);
    }
}

/** dt_rng_next() - 64 uniform bits. */
uint64_t dt_rng_next(struct dt_rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Lemire, "Fast Random Integer Generation in an Interval", ACM TOMACS 29(1), 2019. */
uint64_t dt_rng_below(struct dt_rng *rng, uint64_t bound)
{
    unsigned __int128 product;

    CHECK(bound != 0);
    product = (unsigned __int128)dt_rng_next(rng) * bound;
    if ((uint64_t)product < bound) {
        uint64_t threshold = -bound % bound;

        while ((uint64_t)product < threshold)
            product = (unsigned __int128)dt_rng_next(rng) * bound;
    }
    return (uint64_t)(product >> 64);
}

bool dt_rng_chance(struct dt_rng *rng, double p)
{
    if (p <= 0 || p >= 1)
        return p >= 1;
    return (double)(dt_rng_next(rng) >> 11) < p * 0x1p53;
}
