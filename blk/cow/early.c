/* SPDX-License-Identifier: MIT */
/*
 * early.c - what the disk holds, for a layer above that reads it at the start (an encrypted disk's
 * header).
 *
 * A predecessor may be serving the overlay: the maps are read afresh, into memory that is given up
 * again.
 */
#include "blk/cow/internal.h"

/* Granules of the stored map, and of the live one where it is of this boot. */
static int load(const struct cow *w, struct cow_map_sector *map, struct dt_error *err)
{
    struct cow_header header;
    int ret;

    if (pread(w->file.map_fd, &header, sizeof(header), 0) != sizeof(header))
        return dt_fail(err, -EIO, "%s: cannot read the header", w->file.path);
    ret = cow_header_check(&header, w->at.file_size, w->file.path, err);
    ret = ret ?: cow_map_load(w->file.map_fd, w->file.path, &w->at, w->at.map_offset, map, err);
    if (ret == 0 && boot_is(header.boot, w->boot))
        ret = cow_map_load(w->file.map_fd, w->file.path, &w->at, w->at.live_offset, map, err);
    return ret;
}

/* Of one granule, through @bounce, which is aligned as O_DIRECT wants it. */
static int read_ours(const struct cow *w, uint64_t granule, uint64_t from, uint64_t n, void *data,
                     uint8_t *bounce, struct dt_error *err)
{
    uint64_t at = w->at.data_offset + (granule << COW_SHIFT);
    ssize_t got = pread(w->file.fd, bounce, COW_GRANULE, (off_t)at);

    if (got != COW_GRANULE)
        return dt_fail(err, got < 0 ? -errno : -EIO, "%s: cannot read at byte %llu: %s",
                       w->file.path, (unsigned long long)at,
                       got < 0 ? strerror(errno) : "it ends early");
    memcpy(data, bounce + from, n);
    return 0;
}

static int read_granules(struct dt_layer *layer, const struct cow_map_sector *map, uint64_t sector,
                         uint32_t sectors, uint8_t *data, struct dt_error *err)
{
    _cleanup_free_ uint8_t *bounce = xaligned(COW_GRANULE, COW_GRANULE);
    uint64_t at = sector << DT_SECTOR_SHIFT, end = (sector + sectors) << DT_SECTOR_SHIFT, n;
    uint64_t last = (end + COW_GRANULE - 1) >> COW_SHIFT;
    bool ours;
    int ret = 0;

    for (; at < end && ret == 0; at += n, data += n) {
        uint64_t granule = at >> COW_SHIFT, from = at & (COW_GRANULE - 1);
        uint64_t run = cow_map_run(map, granule, last, &ours);

        n = MIN(end - at, ((ours ? 1 : run) << COW_SHIFT) - from);
        if (ours)
            ret = read_ours(dt_layer_data(layer), granule, from, n, data, bounce, err);
        else
            ret = dt_layer_read_below(layer, at >> DT_SECTOR_SHIFT,
                                      (uint32_t)(n >> DT_SECTOR_SHIFT), data, err);
    }
    return ret;
}

int cow_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                   struct dt_error *err)
{
    const struct cow *w = dt_layer_data(layer);
    struct cow_map_sector *map = cow_map_new(w->at.map_sectors);
    int ret;

    if (!map)
        return dt_fail(err, -ENOMEM, "no address space for the map of %s", w->file.path);
    ret = load(w, map, err);
    ret = ret ?: read_granules(layer, map, sector, sectors, data, err);
    cow_map_free(map, w->at.map_sectors);
    return ret;
}
