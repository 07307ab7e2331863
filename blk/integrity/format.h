/* SPDX-License-Identifier: MIT */
/* format.h - the file of checksums, as devtap-integrity(5) describes it. */
#ifndef INTEGRITY_FORMAT_H
#define INTEGRITY_FORMAT_H

#include "base/base.h"

#define INTEGRITY_MAGIC      "devtapIN"
#define INTEGRITY_VERSION    1u
#define INTEGRITY_SHIFT      12u
#define INTEGRITY_BLOCK      (1u << INTEGRITY_SHIFT)
#define INTEGRITY_MAP_OFFSET 4096u
#define INTEGRITY_MAX_SIZE   ((uint64_t)1 << 56)
#define INTEGRITY_REGION_MIN (16u << 10)
#define INTEGRITY_REGION_MAX (1u << 30)

/** struct integrity_header - the first sector; never changed. */
struct integrity_header {
    char magic[8];
    uint32_t version, block;
    uint64_t size;   /* of the disk, bytes */
    uint64_t region; /* bytes, a power of two */
    uint8_t reserved[512 - 32 - 8];
    uint64_t sum;
};
_Static_assert(sizeof(struct integrity_header) == 512, "the header is one sector");

#define INTEGRITY_BITS 4032u /* regions of a sector of the map */

/** struct integrity_map_sector - a bit for each region that is being written. All zeroes is valid. */
struct integrity_map_sector {
    uint8_t bits[INTEGRITY_BITS / 8];
    uint64_t sum;
};
_Static_assert(sizeof(struct integrity_map_sector) == 512, "a sector of the map is one sector");

/** struct integrity_layout - follows from size and region. Checksums have 8 bytes each. */
struct integrity_layout {
    uint64_t blocks, regions, map_sectors, sums_offset, file_size;
};
void integrity_layout(struct integrity_layout *layout, uint64_t size, uint64_t region);
void integrity_header_init(struct integrity_header *header, uint64_t size, uint64_t region);
void integrity_header_seal(struct integrity_header *header);
int integrity_header_check(const struct integrity_header *header, uint64_t file_size,
                           const char *path, struct dt_error *err);
void integrity_map_seal(struct integrity_map_sector *sector, uint64_t index);
bool integrity_map_ok(const struct integrity_map_sector *sector, uint64_t index);
/** integrity_sum() - of a block's @n bytes; never 0, which stands for "not known". */
uint64_t integrity_sum(const void *bytes, size_t n, uint64_t block);

static inline bool integrity_bit(const struct integrity_map_sector *map, uint64_t region)
{
    uint64_t bit = region % INTEGRITY_BITS;

    return map[region / INTEGRITY_BITS].bits[bit / 8] >> bit % 8 & 1;
}
static inline void integrity_bit_set(struct integrity_map_sector *map, uint64_t region, bool on)
{
    uint64_t bit = region % INTEGRITY_BITS;
    uint8_t *byte = &map[region / INTEGRITY_BITS].bits[bit / 8], mask = (uint8_t)(1u << bit % 8);

    *byte = (uint8_t)(on ? *byte | mask : *byte & ~mask);
}

#endif
