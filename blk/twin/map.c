/* SPDX-License-Identifier: MIT */
/*
 * map.c - the map of dirty regions.
 *
 * What is changed is changed in the live copy as well (state.c), and before whatever comes of it: a region is marked
 * before the write that makes it dirty goes down, and cleaned after the copy has arrived.
 */
#include "blk/twin/twin.h"

bool twin_is_dirty(const struct twin *t, uint64_t region)
{
    return t->map[region / 64] >> (region % 64) & 1;
}

static void set_word(struct twin *t, uint64_t word, uint64_t value)
{
    t->map[word] = value;
    if (t->live)
        WRITE_ONCE(t->live->map[word], value);
}

void twin_clean(struct twin *t, uint64_t region)
{
    set_word(t, region / 64, t->map[region / 64] & ~(1ull << (region % 64)));
    t->dirty--;
    if (t->wanted == region)
        t->wanted = NO_REGION;
}

uint64_t twin_region_end(const struct twin *t, uint64_t region)
{
    return MIN((region + 1) << t->shift, t->sectors);
}

uint64_t twin_last_region(const struct twin *t, uint64_t sector, uint64_t sectors)
{
    return (sector + sectors - (sectors ? 1 : 0)) >> t->shift;
}

bool twin_any_dirty(const struct twin *t, uint64_t sector, uint32_t sectors)
{
    uint64_t last = twin_last_region(t, sector, sectors);

    for (uint64_t r = sector >> t->shift; t->dirty && r <= last; r++)
        if (twin_is_dirty(t, r))
            return true;
    return false;
}

bool twin_all_dirty(const struct twin *t, uint64_t sector, uint32_t sectors)
{
    uint64_t last = twin_last_region(t, sector, sectors);

    for (uint64_t r = sector >> t->shift; r <= last; r++)
        if (!twin_is_dirty(t, r))
            return false;
    return true;
}

void twin_mark(struct twin *t, uint64_t sector, uint32_t sectors)
{
    uint64_t last = twin_last_region(t, sector, sectors);

    t->equal = false;
    for (uint64_t r = sector >> t->shift; r <= last; r++)
        if (!twin_is_dirty(t, r)) {
            set_word(t, r / 64, t->map[r / 64] | 1ull << (r % 64));
            t->dirty++;
        }
}

/* What was said to be equal is not overwritten because nobody knows: it is compared from the beginning. */
void twin_mark_all(struct twin *t)
{
    if (t->judges) {
        t->judged = 0;
    } else {
        for (uint64_t r = 0; r < t->regions; r += 64)
            set_word(t, r / 64, t->regions - r < 64 ? (1ull << (t->regions - r)) - 1 : UINT64_MAX);
        t->dirty = t->regions;
    }
    t->equal = false;
    twin_holes_touch(t, 0, t->sectors); /* what the second chain said may not last */
    for (unsigned i = 0; t->copiers && i < TWIN_COPIERS; i++)
        t->copiers[i].spoiled = true;
}

uint64_t twin_bytes_left(const struct twin *t)
{
    uint64_t regions = t->dirty + (t->regions - t->judged);

    return MIN(regions << t->shift, t->sectors) << DT_SECTOR_SHIFT;
}
