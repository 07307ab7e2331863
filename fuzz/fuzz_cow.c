/* SPDX-License-Identifier: MIT */
/*
 * fuzz_cow.c - any bytes as an overlay, as they are and once more with all checksums repaired and the
 * size that fits the base, because no mutation would ever find those.
 *
 * Invariants: what is refused is refused with a reason; what opens holds no granule beyond its
 * end, and can be read; a check counts damage instead of refusing it.
 */
#include "blk/cow/offline.h"
#include "fuzz/stored.h"

#define FILE_BYTES ((1u << 20) + STORED_DISK)

static void check_offline(const char *path)
{
    struct cow_file file;
    struct dt_error err;
    uint64_t bad = 0;

    if (cow_file_open(&file, path, false, NULL, &err) == 0) {
        CHECK(cow_file_count(&file) <= file.at.granules);
        cow_file_close(&file);
    } else {
        CHECK(err.text[0] != '\0');
    }
    if (cow_file_open(&file, path, false, &bad, &err) == 0) {
        CHECK(bad <= 2 * file.at.map_sectors + 2);
        cow_file_close(&file);
    }
}

static void check_file(const uint8_t *bytes, size_t n)
{
    char path[64], chain[160];
    _cleanup_close_ __attribute__((unused)) int fd = input_file(bytes, n, FILE_BYTES, path);

    check_offline(path);
    snprintf(chain, sizeof(chain), "cow overlay=%s | readonly | mem size=64K", path);
    stored_open(chain);
}

static void repair(uint8_t *bytes, size_t n)
{
    struct cow_header *header = (struct cow_header *)bytes;
    struct cow_layout at;

    if (n < sizeof(*header))
        return;
    memcpy(header->magic, COW_MAGIC, sizeof(header->magic));
    header->size = STORED_DISK;
    header->base_id[COW_ID_SIZE - 1] = 0;
    boot_id(header->boot);
    cow_header_seal(header);
    cow_layout(&at, STORED_DISK);
    for (unsigned live = 0; live < 2; live++) {
        uint64_t offset = live ? at.live_offset : at.map_offset;

        if (offset + 512 <= n)
            cow_map_seal((struct cow_map_sector *)(bytes + offset), 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return input_twice(bytes, size, check_file, repair);
}
