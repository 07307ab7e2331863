/* SPDX-License-Identifier: MIT */
/*
 * fuzz_cache.c - any bytes as the beginning of a cache file, as they are and once more with the
 * superblock's hash and the check bits of all entries repaired, because no mutation would ever find
 * those.
 *
 * Invariants: what is taken for a superblock is within the file; where nothing is damaged, every
 * entry is good, in its set, on the disk, and alone with its block.
 */
#include "blk/cache/format.h"
#include "fuzz/input.h"

#define FILE_BYTES (64u << 20) /* sparse: room for what the superblock may claim */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void judge_map(const struct cache_super *s, const uint64_t *entries)
{
    for (uint64_t i = 0; i < s->slots; i++) {
        uint64_t block = cache_entry_block(entries[i]);

        if (!entries[i])
            continue;
        CHECK(cache_entry_good(s->salt, i, entries[i]));
        CHECK(block < s->disk_sectors);
        CHECK(cache_set_of(s->slots / CACHE_WAYS, block) == i / CACHE_WAYS);
        for (uint64_t k = i - i % CACHE_WAYS; k < i; k++)
            CHECK(!entries[k] || cache_entry_block(entries[k]) != block);
    }
}

static void judge(int fd, bool live_counts)
{
    struct cache_super super;
    struct cache_maps maps;
    struct dt_error err = {""};
    int ret = cache_super_read(fd, &super, &err);

    if (ret < 0) {
        CHECK(err.text[0]);
        return;
    }
    CHECK(super.slots && super.data_offset + super.slots * super.block_bytes <= FILE_BYTES);
    CHECK(memchr(super.disk, '\0', sizeof(super.disk)));
    ret = cache_maps_read(fd, &super, live_counts, &maps, &err);
    CHECK(ret == 0);
    CHECK(maps.dirty <= maps.valid && maps.valid <= super.slots && maps.durable <= super.slots);
    CHECK(!maps.damaged == !maps.first[0]);
    if (!maps.damaged) {
        judge_map(&super, maps.map);
        judge_map(&super, maps.live);
    }
    cache_maps_free(&maps);
}

static void repair(uint8_t *bytes, size_t size)
{
    struct cache_super super;

    for (unsigned i = 0; i < 2; i++) {
        if (size < (i + 1) * sizeof(super))
            return;
        memcpy(&super, bytes + i * sizeof(super), sizeof(super));
        cache_super_seal(&super);
        memcpy(bytes + i * sizeof(super), &super, sizeof(super));
    }
    for (uint64_t at = 2 * sizeof(super); at + 8 <= size; at += 8) {
        uint64_t entry, slot = (at - super.map_offset) / 8;

        memcpy(&entry, bytes + at, 8);
        if (super.live_offset > super.map_offset && at >= super.live_offset)
            slot = (at - super.live_offset) / 8;
        entry &= CACHE_ENTRY_KEY | CACHE_ENTRY_DIRTY;
        entry = entry & CACHE_ENTRY_VALID ? cache_entry(super.salt, slot, entry) : 0;
        memcpy(bytes + at, &entry, 8);
    }
}

static void check_file(const uint8_t *bytes, size_t n)
{
    char path[64];
    _cleanup_close_ int fd = input_file(bytes, n, FILE_BYTES, path);

    judge(fd, true);
    judge(fd, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return input_twice(bytes, size, check_file, repair);
}
