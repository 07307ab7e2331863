/* SPDX-License-Identifier: MIT */
/* format.h - the overlay file, as devtap-cow(5) describes it; shared with the programs that check it. */
#ifndef COW_FORMAT_H
#define COW_FORMAT_H

#include "base/base.h"
#include "base/boot.h"

#define COW_MAGIC      "devtapCW"
#define COW_VERSION    1u
#define COW_SHIFT      12u
#define COW_GRANULE    (1u << COW_SHIFT)
#define COW_ID_SIZE    64u
#define COW_MAP_OFFSET 4096u
#define COW_MAX_SIZE   ((uint64_t)1 << 56)

/** struct cow_header - the first sector. A sector is written whole or not at all. */
struct cow_header {
    char magic[8];
    uint32_t version, granule;
    uint64_t size;              /* of the disk and of its base, bytes */
    uint8_t boot[BOOT_ID_SIZE]; /* of which the live map is; zeroes: of none */
    char base_id[COW_ID_SIZE];  /* given by whoever made it, or cow_print(); padded with zeroes */
    uint8_t reserved[512 - 104 - 8];
    uint64_t sum;
};
_Static_assert(sizeof(struct cow_header) == 512, "the header is one sector");

#define COW_BITS 4032u /* granules of a sector of a map */

/** struct cow_map_sector - one bit for each granule that the overlay holds. All zeroes is valid. */
struct cow_map_sector {
    uint8_t bits[COW_BITS / 8];
    uint64_t sum;
};
_Static_assert(sizeof(struct cow_map_sector) == 512, "a sector of a map is one sector");

/** struct cow_layout - where things are in the file: it follows from the size alone. */
struct cow_layout {
    uint64_t granules, map_sectors, map_offset, live_offset, data_offset, file_size;
};
void cow_layout(struct cow_layout *layout, uint64_t size);

void cow_header_init(struct cow_header *header, uint64_t size, const char *base_id);
void cow_header_seal(struct cow_header *header);
/** cow_header_check() - is this the header of an overlay in a file of @file_size bytes? */
int cow_header_check(const struct cow_header *header, uint64_t file_size, const char *path,
                     struct dt_error *err);
/*
 * What tells one base from another without a name: a checksum of some granules, spread over the disk, with
 * those where partition tables and the superblocks of first partitions are. It is a base id like others, with
 * a prefix of its own.
 */
#define COW_SAMPLES      16u
#define COW_PRINT_PREFIX "content:"
/** cow_sample() - where the sample number @i lies, bytes, and how long it is. */
uint64_t cow_sample(const struct cow_layout *layout, uint64_t size, unsigned i, uint32_t *length);
/** cow_print() - of COW_SAMPLES times COW_GRANULE bytes: what a sample lacks is zero. */
void cow_print(char base_id[COW_ID_SIZE], const uint8_t *samples);
bool cow_is_print(const char *base_id);
void cow_map_seal(struct cow_map_sector *sector, uint64_t index);
bool cow_map_ok(const struct cow_map_sector *sector, uint64_t index);
/** cow_map_load() - add the bits of the map at @offset to @map. Holes cost neither time nor memory. */
int cow_map_load(int fd, const char *path, const struct cow_layout *layout, uint64_t offset,
                 struct cow_map_sector *map, struct dt_error *err);
/** cow_map_new() - @n empty sectors of memory that is taken when first used; NULL without. */
struct cow_map_sector *cow_map_new(uint64_t n);
void cow_map_free(struct cow_map_sector *map, uint64_t n);

static inline bool cow_map_test(const struct cow_map_sector *map, uint64_t granule)
{
    uint64_t bit = granule % COW_BITS;

    return map[granule / COW_BITS].bits[bit / 8] >> bit % 8 & 1;
}
static inline void cow_map_set(struct cow_map_sector *map, uint64_t granule)
{
    uint64_t bit = granule % COW_BITS;

    map[granule / COW_BITS].bits[bit / 8] |= (uint8_t)(1u << bit % 8);
}
/** cow_map_run() - how many granules from @granule to below @end are as the first one. */
static inline uint64_t cow_map_run(const struct cow_map_sector *map, uint64_t granule, uint64_t end,
                                   bool *set)
{
    uint64_t at = granule + 1;

    *set = cow_map_test(map, granule);
    while (at < end && cow_map_test(map, at) == *set)
        at++;
    return at - granule;
}

#endif
