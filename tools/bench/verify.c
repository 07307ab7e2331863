/* SPDX-License-Identifier: MIT */
/*
 * verify.c - what a block must read back as.
 *
 * The content of a block follows from its number, its generation and the seed, so nothing needs
 * to be remembered but the generation. Every 512-byte sector names its own address and generation
 * in its first two words; a mismatch can therefore tell a lost write (an older generation) from a
 * misplaced one (another address) and from garbage.
 */
#include "tools/bench/load.h"

#include <inttypes.h>
#include <stdio.h>

#define WORDS (DT_SECTOR_SIZE / 8)

int verify_init(struct verify *v, uint64_t blocks, uint32_t block_bytes, uint64_t seed,
                struct dt_error *err)
{
    *v = (struct verify){.blocks = blocks, .block_bytes = block_bytes, .seed = seed | 1};
    v->table = calloc(blocks, sizeof(*v->table));
    if (!v->table)
        return dt_fail(err, -ENOMEM, "no memory to remember %" PRIu64 " blocks: use --range",
                       blocks);
    return 0;
}

void verify_fini(struct verify *v)
{
    free(v->table);
}

bool verify_claim(struct verify *v, uint64_t block, bool write)
{
    uint32_t *users = &v->table[block].users, seen = __atomic_load_n(users, __ATOMIC_RELAXED);
    uint32_t wanted;

    do {
        if (seen == VERIFY_WRITING || (write && seen != 0))
            return false;
        wanted = write ? VERIFY_WRITING : seen + 1;
    } while (!__atomic_compare_exchange_n(users, &seen, wanted, true, __ATOMIC_ACQUIRE,
                                          __ATOMIC_RELAXED));
    return true;
}

void verify_release(struct verify *v, uint64_t block, bool write)
{
    uint32_t *users = &v->table[block].users;

    if (write)
        __atomic_store_n(users, 0, __ATOMIC_RELEASE);
    else
        __atomic_sub_fetch(users, 1, __ATOMIC_RELEASE);
}

/* splitmix64's finaliser: https://prng.di.unimi.it/splitmix64.c */
static inline uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

void verify_fill_sector(uint64_t seed, uint64_t sector, uint64_t generation, uint64_t *words)
{
    uint64_t x = mix(sector * seed + generation);

    words[0] = sector;
    words[1] = generation;
    for (unsigned i = 2; i < WORDS; i++)
        words[i] = x + i * seed;
}

static uint64_t first_sector(const struct verify *v, uint64_t block)
{
    return block * (v->block_bytes >> DT_SECTOR_SHIFT);
}

static uint32_t next_generation(uint32_t generation)
{
    return generation + 1 ? generation + 1 : 1;
}

void verify_fill(const struct verify *v, uint64_t block, void *data)
{
    uint32_t generation = next_generation(v->table[block].generation & 0x7fffffffu);

    for (unsigned s = 0; s < v->block_bytes >> DT_SECTOR_SHIFT; s++)
        verify_fill_sector(v->seed, first_sector(v, block) + s, generation,
                           (uint64_t *)data + s * WORDS);
}

void verify_acknowledge(struct verify *v, uint64_t block, bool ok)
{
    struct verify_block *b = &v->table[block];
    uint32_t generation = next_generation(b->generation & 0x7fffffffu);

    /* After a failed write both contents are right; the top bit says "do not check". */
    b->generation = ok ? generation : generation | 0x80000000u;
}

bool verify_check(const struct verify *v, uint64_t block, const void *data, char *why, size_t size)
{
    uint32_t generation = v->table[block].generation;
    uint64_t expected[WORDS];

    if (generation == 0 || generation & 0x80000000u)
        return true;
    for (unsigned s = 0; s < v->block_bytes >> DT_SECTOR_SHIFT; s++) {
        const uint64_t *found = (const uint64_t *)data + s * WORDS;
        uint64_t sector = first_sector(v, block) + s;

        verify_fill_sector(v->seed, sector, generation, expected);
        if (memcmp(found, expected, sizeof(expected)) == 0)
            continue;
        if (found[0] == sector && found[1] != generation)
            snprintf(why, size,
                     "sector %" PRIu64 " has generation %" PRIu64 ", acknowledged was %u", sector,
                     found[1], generation);
        else if (found[0] != sector)
            snprintf(why, size,
                     "sector %" PRIu64 " holds what does not belong there (0x%016" PRIx64
                     " 0x%016" PRIx64 ")",
                     sector, found[0], found[1]);
        else
            snprintf(why, size, "sector %" PRIu64 " is damaged inside", sector);
        return false;
    }
    return true;
}
