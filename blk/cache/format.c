/* SPDX-License-Identifier: MIT */
/* format.c - reading and judging what stands in a cache file, which may be damaged or hostile. */
#include "blk/cache/format.h"
#include "base/base.h"

#include <stdio.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t cache_entry(uint64_t salt, uint64_t slot, uint64_t key)
{
    const uint64_t words[2] = {slot, key};

    return key | XXH3_64bits_withSeed(words, sizeof(words), salt) << CACHE_CHECK_SHIFT;
}

bool cache_entry_good(uint64_t salt, uint64_t slot, uint64_t entry)
{
    uint64_t key = entry & (CACHE_ENTRY_KEY | CACHE_ENTRY_DIRTY);

    return entry == 0 || (entry & CACHE_ENTRY_VALID && entry == cache_entry(salt, slot, key));
}

/* ---- Superblocks ---------------------------------------------------------------------------- */

void cache_super_seal(struct cache_super *super)
{
    super->hash = XXH3_64bits(super, offsetof(struct cache_super, hash));
}

bool cache_super_closed(const struct cache_super *super)
{
    static const uint8_t none[sizeof(super->boot)];

    return memcmp(super->boot, none, sizeof(none)) == 0;
}

bool cache_live_counts(const struct cache_super *super, const uint8_t boot[BOOT_ID_SIZE])
{
    return cache_super_closed(super) || boot_is(super->boot, boot);
}

static bool layout_possible(const struct cache_super *s, uint64_t file_bytes)
{
    uint64_t maps;

    if (s->size != CACHE_SUPER_SIZE || s->ways != CACHE_WAYS || s->block_bytes < CACHE_BLOCK_MIN ||
        s->block_bytes > CACHE_BLOCK_MAX || s->block_bytes & (s->block_bytes - 1))
        return false;
    if (s->slots == 0 || s->slots > CACHE_MAX_SLOTS || s->slots % CACHE_WAYS ||
        s->disk_sectors >> (CACHE_BLOCK_BITS + 3) || !memchr(s->disk, '\0', sizeof(s->disk)))
        return false;
    maps = ALIGN_UP(s->slots * sizeof(uint64_t), (uint64_t)CACHE_PAGE_BYTES);
    return s->map_offset == 2 * CACHE_SUPER_SIZE && s->live_offset == s->map_offset + maps &&
           s->data_offset == ALIGN_UP(s->live_offset + maps, (uint64_t)CACHE_DATA_ALIGN) &&
           s->data_offset + s->slots * s->block_bytes <= file_bytes;
}

int cache_super_judge(const struct cache_super *s, uint64_t file_bytes, struct dt_error *err)
{
    if (memcmp(s->magic, CACHE_MAGIC, sizeof(s->magic)) ||
        s->hash != XXH3_64bits(s, offsetof(struct cache_super, hash)))
        return dt_fail(err, -EINVAL, "it is not a cache");
    if (s->version != CACHE_VERSION)
        return dt_fail(err, -ENOTSUP, "it is a cache of version %u, and this devtap knows %u",
                       s->version, CACHE_VERSION);
    if (!layout_possible(s, file_bytes))
        return dt_fail(err, -EUCLEAN, "its superblock contradicts itself or the file's size");
    return 0;
}

int cache_super_read(int fd, struct cache_super *super, struct dt_error *err)
{
    struct cache_super copy;
    off_t end = lseek(fd, 0, SEEK_END);
    struct dt_error why;
    int result = -EINVAL;

    dt_fail(err, -EINVAL, "it is not a cache");
    for (unsigned i = 0; i < 2; i++) {
        ssize_t n = pread(fd, &copy, sizeof(copy), (off_t)(i * CACHE_SUPER_SIZE));
        int ret;

        if (n < 0)
            return dt_fail(err, -errno, "it cannot be read: %s", strerror(errno));
        if (n != sizeof(copy))
            continue;
        ret = cache_super_judge(&copy, (uint64_t)end, &why);
        if (ret == 0 && (result < 0 || copy.generation > super->generation)) {
            *super = copy;
            result = 0;
        } else if (ret != -EINVAL && result == -EINVAL) {
            *err = why; /* better than "not a cache" */
            result = ret;
        }
    }
    return result;
}

/* ---- Maps ----------------------------------------------------------------------------------- */

static void damaged(struct cache_maps *maps, const char *which, uint64_t slot, const char *what)
{
    if (maps->damaged++ == 0)
        snprintf(maps->first, sizeof(maps->first), "entry %llu of the %s: %s",
                 (unsigned long long)slot, which, what);
}

static const char *judge_entry(const struct cache_super *s, uint64_t slot, uint64_t entry)
{
    uint64_t block = cache_entry_block(entry);

    if (!cache_entry_good(s->salt, slot, entry))
        return "its check bits are wrong";
    if (block >= s->disk_sectors / (s->block_bytes >> DT_SECTOR_SHIFT))
        return "its block is not on the disk";
    if (cache_set_of(s->slots / CACHE_WAYS, block) != slot / CACHE_WAYS)
        return "its block belongs to another set";
    return NULL;
}

/* A block is only looked for in its set, so only there can it be twice. */
static bool twice_in_set(const uint64_t *entries, uint64_t slot)
{
    for (uint64_t i = slot - slot % CACHE_WAYS; i < slot; i++)
        if (entries[i] && cache_entry_block(entries[i]) == cache_entry_block(entries[slot]))
            return true;
    return false;
}

static void judge_map(const struct cache_super *s, struct cache_maps *maps, bool live)
{
    const uint64_t *entries = live ? maps->live : maps->map;
    const char *which = live ? "live map" : "map";

    for (uint64_t i = 0; i < s->slots; i++) {
        const char *what = entries[i] ? judge_entry(s, i, entries[i]) : NULL;

        if (!entries[i])
            continue;
        if (!what && twice_in_set(entries, i))
            what = "its block is in another slot, too";
        if (!what && !live && !(entries[i] & CACHE_ENTRY_DIRTY))
            what = "it is not dirty";
        if (what) {
            damaged(maps, which, i, what);
        } else if (live) {
            maps->valid++;
            maps->dirty += !!(entries[i] & CACHE_ENTRY_DIRTY);
        } else {
            maps->durable++;
        }
    }
}

/* What the map promises, a live map that counts must have. */
static void judge_agreement(const struct cache_super *s, struct cache_maps *maps)
{
    for (uint64_t i = 0; i < s->slots; i++)
        if (maps->map[i] && cache_entry_block(maps->map[i]) != cache_entry_block(maps->live[i]))
            damaged(maps, "live map", i, "it does not have the block that the map has");
}

static int read_entries(int fd, uint64_t *entries, uint64_t bytes, uint64_t offset,
                        struct dt_error *err)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)entries + done, MIN(bytes - done, (uint64_t)1 << 30),
                          (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return dt_fail(err, n < 0 ? -errno : -EIO, "its maps cannot be read: %s",
                           n < 0 ? strerror(errno) : "the file ends");
        done += (uint64_t)n;
    }
    return 0;
}

int cache_maps_read(int fd, const struct cache_super *s, bool live_counts, struct cache_maps *maps,
                    struct dt_error *err)
{
    uint64_t bytes = s->slots * sizeof(uint64_t);
    int ret;

    *maps = (struct cache_maps){.map = malloc(bytes), .live = calloc(s->slots, sizeof(uint64_t))};
    if (!maps->map || !maps->live)
        ret = dt_fail(err, -ENOMEM, "no memory for an index of %llu slots",
                      (unsigned long long)s->slots);
    else
        ret = read_entries(fd, maps->map, bytes, s->map_offset, err);
    if (ret == 0 && live_counts)
        ret = read_entries(fd, maps->live, bytes, s->live_offset, err);
    if (ret < 0) {
        cache_maps_free(maps);
        return ret;
    }
    judge_map(s, maps, false);
    if (live_counts) {
        judge_map(s, maps, true);
        judge_agreement(s, maps);
    }
    return 0;
}

void cache_maps_free(struct cache_maps *maps)
{
    free(maps->map);
    free(maps->live);
    *maps = (struct cache_maps){0};
}
