/* SPDX-License-Identifier: MIT */
/* open.c - the file of checksums: made, opened and fenced (blk/storefile), and read. */
#include "blk/integrity/internal.h"

#include <fcntl.h>

/* The space is taken at once, so that no write fails for want of it. */
static int make(struct integrity *w, struct dt_error *err)
{
    uint64_t size = dt_layer_info(w->layer)->sectors << DT_SECTOR_SHIFT;
    struct integrity_layout at;

    if (size > INTEGRITY_MAX_SIZE || w->region_size & (w->region_size - 1))
        return dt_fail(err, -EINVAL, "region is a power of two");
    integrity_layout(&at, size, w->region_size);
    if (ftruncate(w->file.map_fd, (off_t)at.file_size) < 0 ||
        (fallocate(w->file.map_fd, 0, 0, (off_t)at.file_size) < 0 && errno != EOPNOTSUPP))
        return dt_fail(err, -errno, "cannot make %s, %llu bytes: %s", w->file.path,
                       (unsigned long long)at.file_size, strerror(errno));
    integrity_header_init(&w->header, size, w->region_size);
    return storefile_finish(&w->file, &w->header, sizeof(w->header), err);
}

static int read_header(struct integrity *w, struct dt_error *err)
{
    static const struct integrity_header blank;
    uint64_t size;
    int ret = storefile_read_header(&w->file, &w->header, sizeof(w->header), err);

    if (ret == 0 && w->file.create && memcmp(&w->header, &blank, sizeof(blank)) == 0)
        return make(w, err);
    ret = ret ?: storefile_size(w->file.map_fd, w->file.path, &size, err);
    return ret ?: integrity_header_check(&w->header, size, w->file.path, err);
}

static bool small_requests(const struct dt_block_info *below)
{
    return below->max_sectors && below->max_sectors < INTEGRITY_BLOCK >> DT_SECTOR_SHIFT;
}

int integrity_open(struct dt_layer *layer, struct dt_error *err)
{
    struct integrity *w = dt_layer_data(layer);
    uint64_t size = dt_layer_info(layer)->sectors << DT_SECTOR_SHIFT;
    int ret;

    w->layer = layer;
    if (small_requests(dt_layer_info(layer)))
        return dt_fail(err, -EINVAL, "the disk below takes no requests of 4 KiB");
    ret = storefile_open(&w->file, false, "create=on makes it", err);
    ret = ret ?: read_header(w, err);
    if (ret == 0 && size != w->header.size)
        ret = dt_fail(err, -EINVAL,
                      "%s is for a disk of %llu bytes; this one has %llu: it has changed, or is "
                      "another",
                      w->file.path, (unsigned long long)w->header.size, (unsigned long long)size);
    if (ret < 0) {
        storefile_close(&w->file);
        return ret;
    }
    integrity_layout(&w->at, w->header.size, w->header.region);
    w->map = xcalloc(w->at.map_sectors, sizeof(*w->map));
    w->flags = xcalloc(w->at.regions, sizeof(*w->flags));
    w->busy = xcalloc(w->at.regions, sizeof(*w->busy));
    w->used = xcalloc(w->at.regions, sizeof(*w->used));
    w->open_list = xcalloc(w->at.regions, sizeof(*w->open_list));
    w->era = 1;
    return 0;
}

void integrity_close(struct dt_layer *layer)
{
    struct integrity *w = dt_layer_data(layer);

    free(w->map);
    free(w->flags);
    free(w->busy);
    free(w->used);
    free(w->open_list);
    storefile_close(&w->file);
}

int integrity_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct integrity *w = dt_layer_data(layer);

    return storefile_fence(&w->file, dt_layer_device(layer), deadline, err);
}

/* A sector of the map that is damaged says nothing: all of its regions may have been written. */
static void load_sector(struct integrity *w, uint64_t sector)
{
    uint64_t first = sector * INTEGRITY_BITS, end = MIN(first + INTEGRITY_BITS, w->at.regions);

    if (!integrity_map_ok(&w->map[sector], sector)) {
        log_warning("%s: the map of regions %llu to %llu is damaged: what does not fit its "
                    "checksum there is taken as it is",
                    w->file.path, (unsigned long long)first, (unsigned long long)end - 1);
        memset(w->map[sector].bits, 0xff, sizeof(w->map[sector].bits));
    }
    for (uint64_t r = first; r < end; r++)
        if (integrity_bit(w->map, r)) {
            w->flags[r] = REGION_OPEN | REGION_SUSPECT;
            w->used[r] = w->era;
            w->open_list[w->nopen++] = (uint32_t)r;
            w->nsuspect++;
        }
}

int integrity_load(struct integrity *w, struct dt_error *err)
{
    size_t bytes = w->at.map_sectors * sizeof(*w->map);

    if (storefile_read(w->file.map_fd, w->map, bytes, INTEGRITY_MAP_OFFSET) < 0)
        return storefile_failed(w->file.path, "read the map of", err);
    w->nopen = w->nsuspect = 0;
    memset(w->flags, 0, w->at.regions * sizeof(*w->flags));
    for (uint64_t s = 0; s < w->at.map_sectors; s++)
        load_sector(w, s);
    if (w->nsuspect)
        log_info("%s: %llu regions were being written when it stopped: looking at them",
                 w->file.path, (unsigned long long)w->nsuspect);
    return 0;
}
