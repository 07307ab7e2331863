/* SPDX-License-Identifier: MIT */
/* format.h - what a cache file consists of, as devtap-cache(5) says; all little-endian. */
#ifndef CACHE_FORMAT_H
#define CACHE_FORMAT_H

#include "base/boot.h"
#include <devtap/base.h>

#include <stddef.h>
#include <stdint.h>

#define CACHE_MAGIC      "DTcache\n"
#define CACHE_VERSION    1u
#define CACHE_SUPER_SIZE 4096u
#define CACHE_WAYS       64u /* slots of a set */
#define CACHE_GROUP      16u /* consecutive blocks that share a set */
#define CACHE_PAGE_SLOTS 512u
#define CACHE_PAGE_BYTES 4096u
#define CACHE_DATA_ALIGN (1u << 20)
#define CACHE_BLOCK_MIN  4096u
#define CACHE_BLOCK_MAX  65536u
#define CACHE_BLOCK_BITS 40u
#define CACHE_MAX_SLOTS  (1ull << 31)

/** struct cache_super - one of the two superblocks, at 0 and at 4096. */
struct cache_super {
    uint8_t magic[8];
    uint32_t version;
    uint32_t size;
    uint64_t generation;
    uint64_t salt;
    uint8_t boot[BOOT_ID_SIZE]; /* of the host that has it open; zeroes: closed in good order */
    uint64_t disk_sectors;
    uint32_t block_bytes;
    uint32_t ways;
    uint64_t slots;
    uint64_t map_offset, live_offset, data_offset;
    char disk[64];
    uint8_t reserved[CACHE_SUPER_SIZE - 168];
    uint64_t hash; /* XXH3-64 of all before it */
};
_Static_assert(sizeof(struct cache_super) == CACHE_SUPER_SIZE, "devtap-cache(5)");
_Static_assert(offsetof(struct cache_super, disk) == 96, "devtap-cache(5)");
_Static_assert(offsetof(struct cache_super, hash) == CACHE_SUPER_SIZE - 8, "devtap-cache(5)");

/* An entry of the map or the live map: what a slot holds. 0 = nothing. */
#define CACHE_ENTRY_VALID (1ull << 40)
#define CACHE_ENTRY_DIRTY (1ull << 41)
#define CACHE_ENTRY_KEY   (CACHE_ENTRY_VALID | ((1ull << CACHE_BLOCK_BITS) - 1))
#define CACHE_CHECK_SHIFT 42u

static inline uint64_t cache_entry_block(uint64_t entry)
{
    return entry & ((1ull << CACHE_BLOCK_BITS) - 1);
}
/** cache_entry() - @key, which is block and flags, with its check bits for the place @slot. */
uint64_t cache_entry(uint64_t salt, uint64_t slot, uint64_t key);
/** cache_entry_good() - nothing, or something whose check bits are right. */
bool cache_entry_good(uint64_t salt, uint64_t slot, uint64_t entry);
/** cache_set_of() - the set where @block is looked for. */
static inline uint64_t cache_set_of(uint64_t sets, uint64_t block)
{
    return block / CACHE_GROUP % sets;
}

/** cache_super_seal() - put in the hash. */
void cache_super_seal(struct cache_super *super);
/** cache_super_judge() - is it a superblock, of this version, and possible? @file_bytes: of the
 * file. -EINVAL: no superblock. Else 0 or -errno with @err. */
int cache_super_judge(const struct cache_super *super, uint64_t file_bytes, struct dt_error *err);
/** cache_super_read() - the newer good one of the two. */
int cache_super_read(int fd, struct cache_super *super, struct dt_error *err);
/** cache_super_closed() - was it closed in good order? */
bool cache_super_closed(const struct cache_super *super);
/** cache_live_counts() - is the live map to be believed, in this boot? */
bool cache_live_counts(const struct cache_super *super, const uint8_t boot[BOOT_ID_SIZE]);

/**
 * struct cache_maps - both maps of a file, read, and what is wrong with them.
 * @map, @live: entries; damaged ones are as they were found.
 */
struct cache_maps {
    uint64_t *map, *live;
    uint64_t durable;      /* good entries of the map */
    uint64_t valid, dirty; /* good entries of the live map */
    uint64_t damaged; /* in either: bad check bits, a block where it cannot be, a block twice */
    char first[160];  /* what the first damage is */
};
/** cache_maps_read() - 0, or an error of reading. With @live_counts the live map is judged, too. */
int cache_maps_read(int fd, const struct cache_super *super, bool live_counts,
                    struct cache_maps *maps, struct dt_error *err);
void cache_maps_free(struct cache_maps *maps);

#endif
