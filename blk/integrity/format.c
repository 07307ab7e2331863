/* SPDX-License-Identifier: MIT */
#include "blk/integrity/format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

void integrity_layout(struct integrity_layout *l, uint64_t size, uint64_t region)
{
    l->blocks = (size + INTEGRITY_BLOCK - 1) >> INTEGRITY_SHIFT;
    l->regions = (size + region - 1) / region;
    l->map_sectors = (l->regions + INTEGRITY_BITS - 1) / INTEGRITY_BITS;
    l->sums_offset =
        ALIGN_UP(INTEGRITY_MAP_OFFSET + l->map_sectors * sizeof(struct integrity_map_sector),
                 (uint64_t)4096);
    l->file_size = l->sums_offset + l->blocks * sizeof(uint64_t);
}

static uint64_t header_sum(const struct integrity_header *header)
{
    return XXH3_64bits(header, offsetof(struct integrity_header, sum));
}

void integrity_header_seal(struct integrity_header *header)
{
    header->sum = header_sum(header);
}

void integrity_header_init(struct integrity_header *header, uint64_t size, uint64_t region)
{
    *header = (struct integrity_header){
        .version = INTEGRITY_VERSION, .block = INTEGRITY_BLOCK, .size = size, .region = region};
    memcpy(header->magic, INTEGRITY_MAGIC, sizeof(header->magic));
    integrity_header_seal(header);
}

int integrity_header_check(const struct integrity_header *h, uint64_t file_size, const char *path,
                           struct dt_error *err)
{
    struct integrity_layout layout;

    if (memcmp(h->magic, INTEGRITY_MAGIC, sizeof(h->magic)) != 0)
        return dt_fail(err, -EINVAL, "%s has no checksums of devtap's", path);
    if (h->sum != header_sum(h))
        return dt_fail(err, -EBADMSG, "%s: the header is damaged: its checksum is wrong", path);
    if (h->version != INTEGRITY_VERSION)
        return dt_fail(err, -ENOTSUP, "%s has format version %u; this devtap knows %u", path,
                       h->version, INTEGRITY_VERSION);
    if (h->block != INTEGRITY_BLOCK || h->size == 0 || h->size % DT_SECTOR_SIZE ||
        h->size > INTEGRITY_MAX_SIZE || h->region < INTEGRITY_REGION_MIN ||
        h->region > INTEGRITY_REGION_MAX || (h->region & (h->region - 1)))
        return dt_fail(err, -EBADMSG, "%s: the header contradicts itself", path);
    integrity_layout(&layout, h->size, h->region);
    if (file_size < layout.file_size)
        return dt_fail(err, -EBADMSG, "%s was cut: it has %llu bytes and should have %llu", path,
                       (unsigned long long)file_size, (unsigned long long)layout.file_size);
    return 0;
}

static uint64_t map_sum(const struct integrity_map_sector *sector, uint64_t index)
{
    return XXH3_64bits_withSeed(sector->bits, sizeof(sector->bits), index + 1);
}

void integrity_map_seal(struct integrity_map_sector *sector, uint64_t index)
{
    sector->sum = map_sum(sector, index);
}

bool integrity_map_ok(const struct integrity_map_sector *sector, uint64_t index)
{
    static const struct integrity_map_sector empty;

    return memcmp(sector, &empty, sizeof(empty)) == 0 || sector->sum == map_sum(sector, index);
}

/* Seeded with the address: a block that was written to the wrong place does not pass. */
uint64_t integrity_sum(const void *bytes, size_t n, uint64_t block)
{
    uint64_t sum = XXH3_64bits_withSeed(bytes, n, block);

    return sum ? sum : 1;
}
