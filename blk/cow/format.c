/* SPDX-License-Identifier: MIT */
#include "blk/cow/format.h"
#include "blk/storefile/storefile.h"

#include <stdio.h>
#include <sys/mman.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define DATA_ALIGN      ((uint64_t)1 << 20)
#define FIRST_PARTITION ((uint64_t)1 << 20) /* where most tools put it */

void cow_layout(struct cow_layout *l, uint64_t size)
{
    uint64_t map_bytes;

    l->granules = (size + COW_GRANULE - 1) >> COW_SHIFT;
    l->map_sectors = (l->granules + COW_BITS - 1) / COW_BITS;
    map_bytes = ALIGN_UP(l->map_sectors * sizeof(struct cow_map_sector), (uint64_t)4096);
    l->map_offset = COW_MAP_OFFSET;
    l->live_offset = l->map_offset + map_bytes;
    l->data_offset = ALIGN_UP(l->live_offset + map_bytes, DATA_ALIGN);
    l->file_size = l->data_offset + (l->granules << COW_SHIFT);
}

/* ---- The header ---- */

static uint64_t header_sum(const struct cow_header *header)
{
    return XXH3_64bits(header, offsetof(struct cow_header, sum));
}

void cow_header_seal(struct cow_header *header)
{
    header->sum = header_sum(header);
}

void cow_header_init(struct cow_header *header, uint64_t size, const char *base_id)
{
    *header = (struct cow_header){.version = COW_VERSION, .granule = COW_GRANULE, .size = size};
    memcpy(header->magic, COW_MAGIC, sizeof(header->magic));
    if (base_id)
        memcpy(header->base_id, base_id, MIN(strlen(base_id), (size_t)COW_ID_SIZE - 1));
    cow_header_seal(header);
}

int cow_header_check(const struct cow_header *h, uint64_t file_size, const char *path,
                     struct dt_error *err)
{
    struct cow_layout layout;

    if (memcmp(h->magic, COW_MAGIC, sizeof(h->magic)) != 0)
        return dt_fail(err, -EINVAL, "%s is not an overlay of devtap's", path);
    if (h->sum != header_sum(h))
        return dt_fail(err, -EBADMSG,
                       "%s: the header is damaged: its checksum is wrong (see 'devtap cow check')",
                       path);
    if (h->version != COW_VERSION)
        return dt_fail(err, -ENOTSUP, "%s has format version %u; this devtap knows %u", path,
                       h->version, COW_VERSION);
    if (h->granule != COW_GRANULE || h->size == 0 || h->size % DT_SECTOR_SIZE ||
        h->size > COW_MAX_SIZE || h->base_id[COW_ID_SIZE - 1])
        return dt_fail(err, -EBADMSG, "%s: the header contradicts itself", path);
    cow_layout(&layout, h->size);
    if (file_size < layout.file_size)
        return dt_fail(err, -EBADMSG, "%s was cut: it has %llu bytes and should have %llu", path,
                       (unsigned long long)file_size, (unsigned long long)layout.file_size);
    return 0;
}

/* ---- What the base is ---- */

uint64_t cow_sample(const struct cow_layout *layout, uint64_t size, unsigned i, uint32_t *length)
{
    uint64_t last = layout->granules - 1, at;

    at = (i == 1 ? MIN(FIRST_PARTITION >> COW_SHIFT, last) : last * i / (COW_SAMPLES - 1))
         << COW_SHIFT;
    *length = (uint32_t)MIN(size - at, (uint64_t)COW_GRANULE);
    return at;
}

void cow_print(char base_id[COW_ID_SIZE], const uint8_t *samples)
{
    memset(base_id, 0, COW_ID_SIZE);
    snprintf(base_id, COW_ID_SIZE, COW_PRINT_PREFIX "%016llx",
             (unsigned long long)XXH3_64bits(samples, COW_SAMPLES * COW_GRANULE));
}

bool cow_is_print(const char *base_id)
{
    return strncmp(base_id, COW_PRINT_PREFIX, strlen(COW_PRINT_PREFIX)) == 0;
}

/* ---- Maps ---- */

static uint64_t map_sum(const struct cow_map_sector *sector, uint64_t index)
{
    return XXH3_64bits_withSeed(sector->bits, sizeof(sector->bits), index + 1);
}

void cow_map_seal(struct cow_map_sector *sector, uint64_t index)
{
    sector->sum = map_sum(sector, index);
}

bool cow_map_ok(const struct cow_map_sector *sector, uint64_t index)
{
    static const struct cow_map_sector empty;

    return memcmp(sector, &empty, sizeof(empty)) == 0 || sector->sum == map_sum(sector, index);
}

struct cow_map_sector *cow_map_new(uint64_t n)
{
    void *at = mmap(NULL, n * sizeof(struct cow_map_sector), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

void cow_map_free(struct cow_map_sector *map, uint64_t n)
{
    if (map)
        munmap(map, n * sizeof(*map));
}

struct load {
    const char *path;
    const struct cow_layout *layout;
    struct cow_map_sector *map;
};

static int add_sector(void *arg, uint64_t index, const void *sector, struct dt_error *err)
{
    const struct load *l = arg;
    const struct cow_map_sector *from = sector;

    if (!cow_map_ok(from, index))
        return dt_fail(err, -EBADMSG,
                       "%s: the map of granules %llu to %llu is damaged: its checksum is wrong "
                       "(see 'devtap cow check')",
                       l->path, (unsigned long long)(index * COW_BITS),
                       (unsigned long long)(index * COW_BITS + COW_BITS - 1));
    for (unsigned i = 0; i < sizeof(from->bits); i++)
        l->map[index].bits[i] |= from->bits[i];
    if (index == l->layout->map_sectors - 1)
        for (uint64_t g = l->layout->granules; g < l->layout->map_sectors * COW_BITS; g++)
            if (cow_map_test(l->map, g))
                return dt_fail(err, -EBADMSG, "%s: the map goes beyond the end of the disk",
                               l->path);
    return 0;
}

int cow_map_load(int fd, const char *path, const struct cow_layout *layout, uint64_t offset,
                 struct cow_map_sector *map, struct dt_error *err)
{
    struct load l = {path, layout, map};

    return storefile_walk(fd, path, offset, layout->map_sectors, add_sector, &l, err);
}
