/* SPDX-License-Identifier: MIT */
/*
 * replayed.c - what each sector must read back as while a trace is replayed.
 *
 * A trace tells where was written, not what. A replay therefore writes patterns that follow
 * from the sector and the number of the write, its generation; one word for each sector that was
 * touched is all that must be remembered. The words are in chunks, and those in a hash table, so
 * a trace of a large disk costs what it touches.
 */
#include "tools/bench/load.h"
#include "tools/trace/trace.h"

#include <inttypes.h>

#define CHUNK   2048u /* sectors: 1 MiB */
#define BUCKETS 65536u
#define ZEROES  0xffffffffu
#define LOST    0xfffffffeu

struct chunk {
    uint64_t index;
    struct chunk *next;
    uint32_t generation[CHUNK]; /* 0 = not touched */
};

struct replayed {
    uint64_t seed;
    struct chunk *buckets[BUCKETS];
};

struct replayed *replayed_new(uint64_t seed)
{
    struct replayed *c = xcalloc(1, sizeof(*c));

    c->seed = seed | 1;
    return c;
}

void replayed_free(struct replayed *c)
{
    for (unsigned i = 0; c && i < BUCKETS; i++)
        while (c->buckets[i]) {
            struct chunk *chunk = c->buckets[i];

            c->buckets[i] = chunk->next;
            free(chunk);
        }
    free(c);
}

static struct chunk *find(const struct replayed *c, uint64_t index)
{
    struct chunk *chunk = c->buckets[index % BUCKETS];

    while (chunk && chunk->index != index)
        chunk = chunk->next;
    return chunk;
}

static uint32_t get(const struct replayed *c, uint64_t sector)
{
    const struct chunk *chunk = find(c, sector / CHUNK);

    return chunk ? chunk->generation[sector % CHUNK] : 0;
}

static void put(struct replayed *c, uint64_t sector, uint32_t sectors, uint32_t value)
{
    for (uint32_t i = 0; i < sectors; i++) {
        uint64_t index = (sector + i) / CHUNK;
        struct chunk *chunk = find(c, index);

        if (!chunk) {
            chunk = xcalloc(1, sizeof(*chunk));
            chunk->index = index;
            chunk->next = c->buckets[index % BUCKETS];
            c->buckets[index % BUCKETS] = chunk;
        }
        chunk->generation[(sector + i) % CHUNK] = value;
    }
}

void replayed_fill(uint64_t seed, uint64_t sector, uint32_t sectors, uint32_t generation,
                   void *data)
{
    for (uint32_t i = 0; i < sectors; i++)
        verify_fill_sector(seed | 1, sector + i, generation,
                           (uint64_t *)data + i * (DT_SECTOR_SIZE / 8));
}

void replayed_written(struct replayed *c, uint64_t sector, uint32_t sectors, uint32_t generation)
{
    put(c, sector, sectors, generation);
}

void replayed_zeroed(struct replayed *c, uint64_t sector, uint32_t sectors)
{
    put(c, sector, sectors, ZEROES);
}

void replayed_lost(struct replayed *c, uint64_t sector, uint32_t sectors)
{
    put(c, sector, sectors, LOST);
}

bool replayed_untouched(const struct replayed *c, uint64_t sector, uint32_t sectors)
{
    for (uint32_t i = 0; i < sectors; i++)
        if (get(c, sector + i))
            return false;
    return true;
}

bool replayed_check(const struct replayed *c, uint64_t sector, uint32_t sectors, const void *data,
                    char *why, size_t size)
{
    for (uint32_t i = 0; i < sectors; i++) {
        const uint64_t *found = (const uint64_t *)data + i * (DT_SECTOR_SIZE / 8);
        uint64_t expected[DT_SECTOR_SIZE / 8] = {0};
        uint32_t generation = get(c, sector + i);

        if (generation == 0 || generation == LOST)
            continue;
        if (generation != ZEROES)
            verify_fill_sector(c->seed, sector + i, generation, expected);
        if (memcmp(found, expected, sizeof(expected)) == 0)
            continue;
        if (generation == ZEROES)
            snprintf(why, size, "sector %" PRIu64 " was zeroed and reads otherwise", sector + i);
        else if (found[0] == sector + i && found[1] != generation)
            snprintf(why, size,
                     "sector %" PRIu64 " has the data of write %" PRIu64
                     ", the last acknowledged was %u",
                     sector + i, found[1], generation);
        else
            snprintf(why, size,
                     "sector %" PRIu64 " holds what does not belong there (0x%016" PRIx64
                     " 0x%016" PRIx64 ")",
                     sector + i, found[0], found[1]);
        return false;
    }
    return true;
}
