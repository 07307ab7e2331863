/* SPDX-License-Identifier: MIT */
/* match.c - sequences over a restart. */
#include "blk/match/match.h"

struct saved {
    uint64_t rng[4], matched, hits;
};

void match_restart(struct match_sequence *s, unsigned n, uint64_t seed)
{
    for (unsigned i = 0; i < n; i++) {
        s[i] = (struct match_sequence){0};
        dt_rng_seed(&s[i].rng, seed + i * 0x9e3779b97f4a7c15u);
    }
}

/* The blob: the seed, then each sequence. */
int64_t match_save(const struct match_sequence *s, unsigned n, uint64_t seed, void *buf,
                   size_t size)
{
    uint8_t *to = (uint8_t *)buf + sizeof(seed);
    size_t need = sizeof(seed) + n * sizeof(struct saved);

    if (size < need)
        return -ENOSPC;
    memcpy(buf, &seed, sizeof(seed));
    for (unsigned i = 0; i < n; i++) {
        struct saved one = {.matched = s[i].matched, .hits = s[i].hits};

        memcpy(one.rng, s[i].rng.s, sizeof(one.rng));
        memcpy(to + i * sizeof(one), &one, sizeof(one));
    }
    return (int64_t)need;
}

int match_load(struct match_sequence *s, unsigned n, uint64_t seed, const void *buf, size_t size,
               uint32_t version, struct dt_error *err)
{
    const uint8_t *from = (const uint8_t *)buf + sizeof(seed);
    uint64_t saved_seed;

    if (version != MATCH_STATE || size < sizeof(seed) ||
        (size - sizeof(seed)) % sizeof(struct saved))
        return dt_fail(err, -EBADMSG, "its saved state is of another version (%u)", version);
    memcpy(&saved_seed, buf, sizeof(seed));
    if (saved_seed != seed || (size - sizeof(seed)) / sizeof(struct saved) != n)
        return 0;
    for (unsigned i = 0; i < n; i++) {
        struct saved one;

        memcpy(&one, from + i * sizeof(one), sizeof(one));
        if (!(one.rng[0] | one.rng[1] | one.rng[2] | one.rng[3]))
            return dt_fail(err, -EBADMSG, "its saved state holds an impossible generator");
        memcpy(s[i].rng.s, one.rng, sizeof(one.rng));
        s[i].matched = one.matched;
        s[i].hits = one.hits;
    }
    return 0;
}
