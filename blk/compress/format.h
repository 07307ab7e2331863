/* SPDX-License-Identifier: MIT */
/* format.h - the compressed store, as devtap-compress(5) describes it; shared with the programs
 * that check it. */
#ifndef COMPRESS_FORMAT_H
#define COMPRESS_FORMAT_H

#include "base/base.h"
#include "base/boot.h"

#define COMPRESS_MAGIC       "devtapCZ"
#define COMPRESS_VERSION     1u
#define COMPRESS_UNIT_SHIFT  16u
#define COMPRESS_UNIT        (1u << COMPRESS_UNIT_SHIFT)
#define COMPRESS_BLOCK_SHIFT 12u
#define COMPRESS_BLOCK       (1u << COMPRESS_BLOCK_SHIFT)
#define COMPRESS_MAX_FRAME   (COMPRESS_UNIT - COMPRESS_BLOCK) /* a longer one saves nothing */
#define COMPRESS_MAP_OFFSET  4096u
#define COMPRESS_MAX_SIZE    ((uint64_t)1 << 46)

/** struct compress_header - the first sector. A sector is written whole or not at all. */
struct compress_header {
    char magic[8];
    uint32_t version, unit;
    uint64_t size;              /* of the disk, bytes */
    uint8_t boot[BOOT_ID_SIZE]; /* of which the live map is; zeroes: of none */
    uint64_t generation;
    uint8_t reserved[512 - 48 - 8];
    uint64_t sum;
};
_Static_assert(sizeof(struct compress_header) == 512, "the header is one sector");

/** struct compress_entry - where a unit is. All zeroes: it is zeroes. */
struct compress_entry {
    uint64_t block;
    uint32_t length, sum;
};

#define COMPRESS_ENTRIES 31u

/** struct compress_map_sector - the entries of so many units. */
struct compress_map_sector {
    struct compress_entry entries[COMPRESS_ENTRIES];
    uint64_t generation, sum;
};
_Static_assert(sizeof(struct compress_map_sector) == 512, "a sector of a map is one sector");

/** struct compress_layout - where things are in the store: it follows from the size alone. */
struct compress_layout {
    uint64_t units, map_sectors, map_offset, live_offset, data_offset;
};
void compress_layout(struct compress_layout *layout, uint64_t size);

void compress_header_init(struct compress_header *header, uint64_t size);
void compress_header_seal(struct compress_header *header);
/** compress_header_check() - is this the header of a store of @store_size bytes? */
int compress_header_check(const struct compress_header *header, uint64_t store_size,
                          const char *path, struct dt_error *err);

/** compress_sum() - of what is stored of a unit. */
uint32_t compress_sum(uint64_t unit, const void *stored, uint32_t length);
/** compress_map_seal() - @generation: 0 for the stored map. */
void compress_map_seal(struct compress_map_sector *sector, uint64_t index, uint64_t generation);
/** compress_map_check() - is this sector @index of a map of that generation, with entries that can
 * be? @blocks: of the store. */
int compress_map_check(const struct compress_map_sector *sector, uint64_t index,
                       uint64_t generation, const struct compress_layout *layout, uint64_t blocks,
                       const char *path, struct dt_error *err);

static inline bool compress_is_hole(const struct compress_entry *e)
{
    return e->length == 0;
}
/** compress_blocks() - how many blocks the unit takes. */
static inline uint32_t compress_blocks(const struct compress_entry *e)
{
    return (e->length + COMPRESS_BLOCK - 1) >> COMPRESS_BLOCK_SHIFT;
}
/** compress_store_blocks() - how many there can be in a store of @size bytes. */
static inline uint64_t compress_store_blocks(const struct compress_layout *layout, uint64_t size)
{
    return size > layout->data_offset ? (size - layout->data_offset) >> COMPRESS_BLOCK_SHIFT : 0;
}

#endif
