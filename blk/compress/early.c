/* SPDX-License-Identifier: MIT */
/*
 * early.c - reads for a layer above that is being opened, when this one is neither fenced nor started: nothing is
 * changed, neither here nor in the store, which a predecessor may be writing.
 */
#include "blk/compress/internal.h"

#define TRIES 3u /* the predecessor may store a unit between our look at the map and our read */

static int find(const struct compress *w, const struct compress_header *header, uint64_t unit,
                struct compress_entry *entry, struct dt_error *err)
{
    uint64_t index = unit / COMPRESS_ENTRIES, generation = header->generation, size;
    uint64_t at = index * sizeof(struct compress_map_sector);
    struct compress_map_sector s = {0};
    int ret = storefile_size(w->file.map_fd, w->file.path, &size, err);

    if (ret == 0 && boot_is(header->boot, w->boot) &&
        pread(w->file.map_fd, &s, sizeof(s), (off_t)(w->at.live_offset + at)) != sizeof(s))
        ret = dt_fail(err, -EIO, "%s: cannot read the map", w->file.path);
    if (ret == 0 && s.generation != generation) {
        generation = 0;
        if (pread(w->file.map_fd, &s, sizeof(s), (off_t)(w->at.map_offset + at)) != sizeof(s))
            ret = dt_fail(err, -EIO, "%s: cannot read the map", w->file.path);
    }
    ret = ret
              ?: compress_map_check(&s, index, generation, &w->at,
                                    compress_store_blocks(&w->at, size), w->file.path, err);
    *entry = s.entries[unit % COMPRESS_ENTRIES];
    return ret;
}

/* Return: false if the blocks are not what the entry says. */
static bool read_unit(const struct compress *w, struct compress_packer *packer, uint64_t unit,
                      const struct compress_entry *e, uint8_t *packed, uint8_t *data)
{
    bool raw = e->length == COMPRESS_UNIT;
    uint8_t *to = raw ? data : packed;

    if (compress_is_hole(e)) {
        memset(data, 0, COMPRESS_UNIT);
        return true;
    }
    return pread(w->file.fd, to, (size_t)compress_blocks(e) << COMPRESS_BLOCK_SHIFT,
                 (off_t)(w->at.data_offset + (e->block << COMPRESS_BLOCK_SHIFT))) >= e->length &&
           compress_sum(unit, to, e->length) == e->sum &&
           (raw || compress_unpack(packer, packed, e->length, data));
}

static int fetch(const struct compress *w, struct compress_packer *packer, uint64_t unit,
                 uint8_t *memory, struct dt_error *err)
{
    struct compress_header header;
    struct compress_entry entry;
    int ret = 0;

    for (unsigned i = 0; i < TRIES && ret == 0; i++) {
        if (pread(w->file.map_fd, &header, sizeof(header), 0) != sizeof(header))
            return dt_fail(err, -EIO, "%s: cannot read the header", w->file.path);
        ret = find(w, &header, unit, &entry, err);
        if (ret == 0 && read_unit(w, packer, unit, &entry, memory + COMPRESS_UNIT, memory))
            return 0;
    }
    return ret
               ?: dt_fail(err, -EIO, "%s: the unit at byte %llu of the disk is damaged",
                          w->file.path, (unsigned long long)(unit << COMPRESS_UNIT_SHIFT));
}

int compress_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                        struct dt_error *err)
{
    const struct compress *w = dt_layer_data(layer);
    _cleanup_free_ uint8_t *memory = xaligned(COMPRESS_BLOCK, 2 * COMPRESS_UNIT);
    struct compress_packer *packer = compress_packer_new();
    uint64_t at = sector << DT_SECTOR_SHIFT, end = at + ((uint64_t)sectors << DT_SECTOR_SHIFT);
    uint8_t *to = data;
    int ret = packer ? 0 : dt_fail(err, -ENOMEM, "zstd finds no memory");

    while (at < end && ret == 0) {
        uint64_t from = at % COMPRESS_UNIT, n = MIN(COMPRESS_UNIT - from, end - at);

        ret = fetch(w, packer, at >> COMPRESS_UNIT_SHIFT, memory, err);
        memcpy(to, memory + from, n);
        to += n;
        at += n;
    }
    compress_packer_free(packer);
    return ret;
}
