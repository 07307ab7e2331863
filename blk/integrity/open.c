/* SPDX-License-Identifier: MIT */
/* open.c - the file of checksums: made, opened, fenced, and read. */
#include "base/filelock.h"
#include "blk/integrity/internal.h"

#include <fcntl.h>
#include <sys/stat.h>

static int open_failed(const struct integrity *w, int error, struct dt_error *err)
{
    if (error == ENOENT)
        return dt_fail(err, -error, "%s does not exist (create=on makes it)", w->sums);
    return dt_fail(err, -error, "cannot open %s: %s", w->sums, strerror(error));
}

/* The space is taken at once, so that no write fails for want of it. The header comes last: without
 * it the file is still one that create=on may fill. */
static int make(struct integrity *w, struct dt_error *err)
{
    uint64_t size = dt_layer_info(w->layer)->sectors << DT_SECTOR_SHIFT;
    struct integrity_layout at;
    int ret = 0;

    if (size > INTEGRITY_MAX_SIZE || w->region_size & (w->region_size - 1))
        return dt_fail(err, -EINVAL, "region is a power of two");
    integrity_layout(&at, size, w->region_size);
    integrity_header_init(&w->header, size, w->region_size);
    if (ftruncate(w->fd, (off_t)at.file_size) < 0 ||
        (fallocate(w->fd, 0, 0, (off_t)at.file_size) < 0 && errno != EOPNOTSUPP) || fsync(w->fd) < 0)
        ret = -errno;
    else if (pwrite(w->fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        ret = errno ? -errno : -EIO;
    else if (fsync(w->fd) < 0)
        ret = -errno;
    return ret < 0 ? dt_fail(err, ret, "cannot make %s, %llu bytes: %s", w->sums,
                             (unsigned long long)at.file_size, strerror(-ret))
                   : 0;
}

static int read_header(struct integrity *w, struct dt_error *err)
{
    static const struct integrity_header blank;
    struct stat st;
    ssize_t n;
    int ret;

    if (fstat(w->fd, &st) < 0)
        return open_failed(w, errno, err);
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", w->sums);
    n = pread(w->fd, &w->header, sizeof(w->header), 0);
    if (n < 0)
        return dt_fail(err, -errno, "%s: %s", w->sums, strerror(errno));
    if (n < (ssize_t)sizeof(w->header))
        memset((uint8_t *)&w->header + n, 0, sizeof(w->header) - (size_t)n);
    if (w->create && memcmp(&w->header, &blank, sizeof(blank)) == 0) {
        ret = make(w, err);
        if (ret < 0)
            return ret;
        if (fstat(w->fd, &st) < 0)
            return open_failed(w, errno, err);
    }
    return integrity_header_check(&w->header, (uint64_t)st.st_size, w->sums, err);
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
    w->fd = open(w->sums, O_RDWR | O_CLOEXEC | O_NOCTTY | (w->create ? O_CREAT : 0), 0600);
    if (w->fd < 0)
        return open_failed(w, errno, err);
    ret = read_header(w, err);
    if (ret == 0 && size != w->header.size)
        ret = dt_fail(err, -EINVAL,
                      "%s is for a disk of %llu bytes; this one has %llu: it has changed, or is "
                      "another",
                      w->sums, (unsigned long long)w->header.size, (unsigned long long)size);
    if (ret < 0) {
        close(w->fd);
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
    close(w->fd);
}

int integrity_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct integrity *w = dt_layer_data(layer);
    struct filelock lock = {.path = w->sums, .fd = w->fd};

    return filelock_own(&lock, dt_layer_device(layer), deadline, err);
}

/* A sector of the map that is damaged says nothing: all of its regions may have been written. */
static void load_sector(struct integrity *w, uint64_t sector)
{
    uint64_t first = sector * INTEGRITY_BITS, end = MIN(first + INTEGRITY_BITS, w->at.regions);

    if (!integrity_map_ok(&w->map[sector], sector)) {
        log_warning("%s: the map of regions %llu to %llu is damaged: what does not fit its "
                    "checksum there is taken as it is",
                    w->sums, (unsigned long long)first, (unsigned long long)end - 1);
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

    if (pread(w->fd, w->map, bytes, INTEGRITY_MAP_OFFSET) != (ssize_t)bytes)
        return dt_fail(err, errno ? -errno : -EIO, "%s: cannot read the map", w->sums);
    w->nopen = w->nsuspect = 0;
    memset(w->flags, 0, w->at.regions * sizeof(*w->flags));
    for (uint64_t s = 0; s < w->at.map_sectors; s++)
        load_sector(w, s);
    if (w->nsuspect)
        log_info("%s: %llu regions were being written when it stopped: looking at them", w->sums,
                 (unsigned long long)w->nsuspect);
    return 0;
}
