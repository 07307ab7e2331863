/* SPDX-License-Identifier: MIT */
/*
 * early.c - what the disk holds, for a layer above that reads it at the start (an encrypted disk's
 * header).
 *
 * A predecessor may be serving the file, so only blocks are looked up, in the map on the medium,
 * one at a time; what was found is looked up again after the data was read, because the slot may
 * have been given to another block meanwhile.
 */
#include "blk/cache/internal.h"

#define TRIES 100u

/* Entries of the set where @block is looked for; the slot that has it, or SLOT_NONE. */
static int find(const struct cache *k, const struct cache_super *s, uint64_t maps, uint64_t block,
                uint64_t *slot, struct dt_error *err)
{
    uint64_t entries[CACHE_WAYS], first = cache_set_of(s->slots / CACHE_WAYS, block) * CACHE_WAYS;
    ssize_t n =
        pread(k->file.map_fd, entries, sizeof(entries), (off_t)(maps + first * sizeof(uint64_t)));

    if (n != sizeof(entries))
        return dt_fail(err, n < 0 ? -errno : -EIO, "%s: cannot read its map", k->file.path);
    *slot = SLOT_NONE;
    for (unsigned i = 0; i < CACHE_WAYS; i++)
        if ((entries[i] & CACHE_ENTRY_KEY) == (block | CACHE_ENTRY_VALID) &&
            cache_entry_good(s->salt, first + i, entries[i]))
            *slot = first + i;
    return 0;
}

/* Sectors @from to @from + @n of @block; 1 if it is not here. */
static int read_block(const struct cache *k, const struct cache_super *s, uint64_t maps,
                      uint64_t block, uint32_t from, uint32_t n, uint8_t *bounce, void *data,
                      struct dt_error *err)
{
    uint64_t slot, again = SLOT_NONE;

    for (unsigned tries = 0; tries < TRIES; tries++) {
        int ret = find(k, s, maps, block, &slot, err);

        if (ret < 0)
            return ret;
        if (slot == SLOT_NONE)
            return 1;
        if (pread(k->file.fd, bounce, s->block_bytes,
                  (off_t)(s->data_offset + slot * s->block_bytes)) != (ssize_t)s->block_bytes)
            return dt_fail(err, -EIO, "%s: cannot read its slot %llu", k->file.path,
                           (unsigned long long)slot);
        ret = find(k, s, maps, block, &again, err);
        if (ret < 0)
            return ret;
        if (again == slot) {
            memcpy(data, bounce + ((size_t)from << DT_SECTOR_SHIFT), (size_t)n << DT_SECTOR_SHIFT);
            return 0;
        }
    }
    return dt_fail(err, -EAGAIN, "%s: a block of it does not stay in its place", k->file.path);
}

/* From below: @sectors that end before @end, into the memory before @to. */
static int read_run(struct dt_layer *layer, uint64_t end, uint32_t sectors, uint8_t *to,
                    struct dt_error *err)
{
    return dt_layer_read_below(layer, end - sectors, sectors,
                               to - ((size_t)sectors << DT_SECTOR_SHIFT), err);
}

int cache_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                     struct dt_error *err)
{
    const struct cache *k = dt_layer_data(layer);
    _cleanup_free_ uint8_t *bounce = NULL;
    uint8_t boot[BOOT_ID_SIZE], *to = data;
    struct cache_super s;
    uint64_t maps, end = sector + sectors;
    uint32_t per_block, n, absent = 0; /* sectors before @sector that are to be read below */
    int ret = cache_super_read(k->file.map_fd, &s, err);

    if (ret < 0)
        return ret;
    boot_id(boot);
    maps = cache_live_counts(&s, boot) ? s.live_offset : s.map_offset;
    per_block = s.block_bytes >> DT_SECTOR_SHIFT;
    bounce = xaligned(PAGE_SIZE_4K, s.block_bytes);
    for (; sector < end && ret >= 0; sector += n, to += (size_t)n << DT_SECTOR_SHIFT) {
        uint32_t from = (uint32_t)(sector % per_block);

        n = (uint32_t)MIN(end - sector, (uint64_t)(per_block - from));
        ret = read_block(k, &s, maps, sector / per_block, from, n, bounce, to, err);
        if (ret == 0 && absent)
            ret = read_run(layer, sector, absent, to, err);
        absent = ret > 0 ? absent + n : 0;
    }
    return ret > 0 ? read_run(layer, end, absent, to, err) : ret;
}
