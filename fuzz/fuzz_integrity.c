/* SPDX-License-Identifier: MIT */
/*
 * fuzz_integrity.c - any bytes as a file of checksums, as they are and once more with its own checksums
 * repaired and the size that fits the disk.
 *
 * Invariants: what is refused is refused with a reason; what opens accounts for each block of the
 * disk once, and the disk can be read, with or without an error.
 */
#include "blk/integrity/offline.h"
#include "fuzz/stored.h"

#define FILE_BYTES (16u << 10)

static void ignore(uint64_t byte)
{
}

static void check_offline(const char *path)
{
    struct integrity_found found = {.damaged = ignore};
    struct integrity_file file;
    struct dt_error err = {""};
    char disk[64];
    _cleanup_close_ __attribute__((unused)) int fd = input_file(NULL, 0, STORED_DISK, disk);

    if (integrity_file_open(&file, path, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return;
    }
    CHECK(integrity_file_open_regions(&file) <= file.at.regions);
    if (integrity_file_check(&file, disk, &found, &err) == 0)
        CHECK(found.fit + found.unknown + found.changing + found.damage == file.at.blocks);
    integrity_file_close(&file);
}

static void check_file(const uint8_t *bytes, size_t n)
{
    char path[64], chain[160];
    _cleanup_close_ __attribute__((unused)) int fd =
        input_file(bytes, n, MAX(n, (size_t)FILE_BYTES), path);

    check_offline(path);
    snprintf(chain, sizeof(chain), "integrity sums=%s | mem size=64K", path);
    stored_open(chain);
}

static void repair(uint8_t *bytes, size_t n)
{
    struct integrity_header *header = (struct integrity_header *)bytes;

    if (n < sizeof(*header))
        return;
    memcpy(header->magic, INTEGRITY_MAGIC, sizeof(header->magic));
    header->size = STORED_DISK;
    integrity_header_seal(header);
    if (n >= INTEGRITY_MAP_OFFSET + 512)
        integrity_map_seal((struct integrity_map_sector *)(bytes + INTEGRITY_MAP_OFFSET), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return input_twice(bytes, size, check_file, repair);
}
