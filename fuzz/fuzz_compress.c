/* SPDX-License-Identifier: MIT */
/*
 * fuzz_compress.c - any bytes as a compressed store, as they are and once more with all checksums
 * of header and maps repaired, and those of what is stored, because no mutation would ever find
 * them.
 *
 * Invariants: what is refused is refused with a reason; what opens can be read, with or without an
 * error; a check counts damage instead of refusing it. Frames are the decompressor's to survive.
 */
#include "blk/compress/offline.h"
#include "fuzz/stored.h"

#define UNITS 40u /* two sectors of the map */

/* The input is folded: what follows its first sectors lies where the store has blocks. */
#define FRONT (COMPRESS_MAP_OFFSET + 2 * 4096u)

static uint64_t data_offset(void)
{
    struct compress_layout at;

    compress_layout(&at, UNITS * COMPRESS_UNIT);
    return at.data_offset;
}

static void check_offline(const char *path)
{
    struct compress_found found = {0};
    struct compress_file file;
    struct dt_error err = {""};

    if (compress_file_open(&file, path, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return;
    }
    CHECK(compress_file_check(&file, true, &found, &err) == 0);
    CHECK(found.units <= file.at.units && found.raw <= found.units);
    compress_file_close(&file);
}

static void check_file(const uint8_t *bytes, size_t n)
{
    uint64_t size = data_offset() + (n > FRONT ? ALIGN_UP(n - FRONT, (size_t)4096) : 0);
    char path[64], chain[160];
    _cleanup_close_ int fd = input_file(bytes, MIN(n, (size_t)FRONT), size, path);

    if (n > FRONT)
        CHECK(pwrite(fd, bytes + FRONT, n - FRONT, (off_t)data_offset()) == (ssize_t)(n - FRONT));
    check_offline(path);
    snprintf(chain, sizeof(chain), "compress path=%s map-cache=8K cache=1M", path);
    stored_open(chain);
}

/* The checksum of what an entry names, where that is in the input. */
static void repair_entry(struct compress_entry *e, uint64_t unit, const uint8_t *blocks, size_t n)
{
    uint64_t at = e->block << COMPRESS_BLOCK_SHIFT;

    if (e->length && e->length <= COMPRESS_UNIT && at < n && e->length <= n - at)
        e->sum = compress_sum(unit, blocks + at, e->length);
}

static void repair(uint8_t *bytes, size_t n)
{
    struct compress_header *header = (struct compress_header *)bytes;

    if (n < sizeof(*header))
        return;
    memcpy(header->magic, COMPRESS_MAGIC, sizeof(header->magic));
    header->version = COMPRESS_VERSION;
    header->unit = COMPRESS_UNIT;
    header->size = UNITS * COMPRESS_UNIT;
    boot_id(header->boot);
    compress_header_seal(header);
    for (uint64_t s = 0; s < 4; s++) { /* two of the stored map, two of the live one */
        size_t offset = COMPRESS_MAP_OFFSET + (s / 2) * 4096 + (s % 2) * 512;
        struct compress_map_sector *sector = (struct compress_map_sector *)(bytes + offset);

        if (offset + sizeof(*sector) > n)
            return;
        for (unsigned i = 0; i < COMPRESS_ENTRIES && n > FRONT; i++)
            repair_entry(&sector->entries[i], (s % 2) * COMPRESS_ENTRIES + i, bytes + FRONT,
                         n - FRONT);
        compress_map_seal(sector, s % 2, s < 2 ? 0 : header->generation);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static bool registered;
    struct dt_error err;

    if (!registered)
        CHECK(registry_add(&blk_compress, &err) == 0);
    registered = true;
    return input_twice(bytes, size, check_file, repair);
}
