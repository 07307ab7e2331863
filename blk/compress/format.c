/* SPDX-License-Identifier: MIT */
/* format.c - header and maps of a compressed store: made, sealed and judged. */
#include "blk/compress/format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define DATA_ALIGN ((uint64_t)1 << 20)

void compress_layout(struct compress_layout *l, uint64_t size)
{
    uint64_t map_bytes;

    l->units = (size + COMPRESS_UNIT - 1) >> COMPRESS_UNIT_SHIFT;
    l->map_sectors = (l->units + COMPRESS_ENTRIES - 1) / COMPRESS_ENTRIES;
    map_bytes = ALIGN_UP(l->map_sectors * sizeof(struct compress_map_sector), (uint64_t)4096);
    l->map_offset = COMPRESS_MAP_OFFSET;
    l->live_offset = l->map_offset + map_bytes;
    l->data_offset = ALIGN_UP(l->live_offset + map_bytes, DATA_ALIGN);
}

/* ---- The header ---- */

static uint64_t header_sum(const struct compress_header *header)
{
    return XXH3_64bits(header, offsetof(struct compress_header, sum));
}

void compress_header_seal(struct compress_header *header)
{
    header->sum = header_sum(header);
}

void compress_header_init(struct compress_header *header, uint64_t size)
{
    *header = (struct compress_header){
        .version = COMPRESS_VERSION, .unit = COMPRESS_UNIT, .size = size, .generation = 1};
    memcpy(header->magic, COMPRESS_MAGIC, sizeof(header->magic));
    compress_header_seal(header);
}

int compress_header_check(const struct compress_header *h, uint64_t store_size, const char *path,
                          struct dt_error *err)
{
    struct compress_layout layout;

    if (memcmp(h->magic, COMPRESS_MAGIC, sizeof(h->magic)) != 0)
        return dt_fail(err, -EINVAL, "%s is not a compressed store of devtap's", path);
    if (h->sum != header_sum(h))
        return dt_fail(err, -EBADMSG, "%s: the header is damaged: its checksum is wrong", path);
    if (h->version != COMPRESS_VERSION)
        return dt_fail(err, -ENOTSUP, "%s has format version %u; this devtap knows %u", path,
                       h->version, COMPRESS_VERSION);
    if (h->unit != COMPRESS_UNIT || h->size == 0 || h->size % DT_SECTOR_SIZE ||
        h->size > COMPRESS_MAX_SIZE || h->generation == 0)
        return dt_fail(err, -EBADMSG, "%s: the header contradicts itself", path);
    compress_layout(&layout, h->size);
    if (store_size < layout.data_offset)
        return dt_fail(err, -EBADMSG,
                       "%s was cut: it has %llu bytes, and its maps alone end at %llu", path,
                       (unsigned long long)store_size, (unsigned long long)layout.data_offset);
    return 0;
}

/* ---- Maps ---- */

uint32_t compress_sum(uint64_t unit, const void *stored, uint32_t length)
{
    return (uint32_t)XXH3_64bits_withSeed(stored, length, unit);
}

static uint64_t map_sum(const struct compress_map_sector *sector, uint64_t index)
{
    return XXH3_64bits_withSeed(sector, offsetof(struct compress_map_sector, sum), index + 1);
}

void compress_map_seal(struct compress_map_sector *sector, uint64_t index, uint64_t generation)
{
    sector->generation = generation;
    sector->sum = map_sum(sector, index);
}

static bool is_empty(const struct compress_map_sector *sector)
{
    static const struct compress_map_sector empty;

    return memcmp(sector, &empty, sizeof(empty)) == 0;
}

static bool entry_ok(const struct compress_entry *e, bool within, uint64_t blocks)
{
    if (e->length == 0)
        return e->block == 0 && e->sum == 0;
    return within && (e->length <= COMPRESS_MAX_FRAME || e->length == COMPRESS_UNIT) &&
           e->block < blocks && compress_blocks(e) <= blocks - e->block;
}

int compress_map_check(const struct compress_map_sector *sector, uint64_t index,
                       uint64_t generation, const struct compress_layout *layout, uint64_t blocks,
                       const char *path, struct dt_error *err)
{
    uint64_t first = index * COMPRESS_ENTRIES;

    if (generation == 0 && is_empty(sector))
        return 0;
    if (sector->sum != map_sum(sector, index) || sector->generation != generation)
        return dt_fail(err, -EBADMSG,
                       "%s: the map of units %llu to %llu is damaged: its checksum is wrong "
                       "(see 'devtap compress check')",
                       path, (unsigned long long)first,
                       (unsigned long long)first + COMPRESS_ENTRIES - 1);
    for (unsigned i = 0; i < COMPRESS_ENTRIES; i++)
        if (!entry_ok(&sector->entries[i], first + i < layout->units, blocks))
            return dt_fail(err, -EBADMSG,
                           "%s: the map has unit %llu where none can be (was the file cut?)", path,
                           (unsigned long long)first + i);
    return 0;
}
