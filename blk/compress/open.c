/* SPDX-License-Identifier: MIT */
/* open.c - the store's file or device: made, opened and fenced (blk/storefile). */
#include "blk/compress/internal.h"

#include <fcntl.h>

#define ZEROES (1u << 20)

/* ---- Making one ---- */

/* What a device holds where the maps will be is anything. */
static int write_zeroes(int fd, uint64_t from, uint64_t to)
{
    _cleanup_free_ uint8_t *zeroes = xcalloc(1, ZEROES);
    int ret = 0;

    for (uint64_t n; from < to && ret == 0; from += n) {
        n = MIN((uint64_t)ZEROES, to - from);
        ret = storefile_write(fd, zeroes, n, from);
    }
    return ret;
}

/* The maps get their space at once where that can be: a killed worker's successor must not need
 * any. */
static int prepare_file(int fd, const struct compress_layout *at)
{
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)at->data_offset) < 0)
        return -errno;
    if (fallocate(fd, 0, 0, (off_t)at->data_offset) < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    return 0;
}

static int make(struct compress *w, uint64_t room, struct dt_error *err)
{
    int fd = w->file.map_fd, ret;
    struct compress_layout at;

    if (w->size == 0 || w->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "create=on needs size=, a multiple of 512");
    compress_layout(&at, w->size);
    if (w->file.is_device && room <= at.data_offset)
        return dt_fail(err, -ENOSPC, "%s is too small for the maps of such a disk, %llu bytes",
                       w->file.path, (unsigned long long)at.data_offset);
    ret = w->file.is_device ? write_zeroes(fd, 0, at.data_offset) : prepare_file(fd, &at);
    if (ret < 0)
        return dt_fail(err, ret, "cannot make %s: %s", w->file.path, strerror(-ret));
    compress_header_init(&w->header, w->size);
    return storefile_finish(&w->file, &w->header, sizeof(w->header), err);
}

/* Is there nothing that making a store would destroy? An ext4's first sectors are zeroes, too. */
static bool is_blank(const struct compress *w, uint64_t size)
{
    _cleanup_free_ uint8_t *start = xcalloc(1, COMPRESS_UNIT + 1);
    struct compress_layout at;
    ssize_t n = pread(w->file.map_fd, start, COMPRESS_UNIT, 0);

    compress_layout(&at, MAX(w->size, (uint64_t)1));
    if (!w->file.is_device && size != 0 && size != at.data_offset)
        return false; /* the second is what an interrupted make() has left */
    return n >= 0 && memcmp(start, start + 1, COMPRESS_UNIT) == 0 && start[0] == 0;
}

/* ---- Opening ---- */

static int read_header(struct compress *w, struct dt_error *err)
{
    uint64_t size;
    int ret = storefile_size(w->file.map_fd, w->file.path, &size, err);

    if (ret == 0 && w->file.create && is_blank(w, size)) {
        ret = make(w, size, err);
        ret = ret ?: storefile_size(w->file.map_fd, w->file.path, &size, err);
    }
    ret = ret ?: storefile_read_header(&w->file, &w->header, sizeof(w->header), err);
    return ret ?: compress_header_check(&w->header, size, w->file.path, err);
}

int compress_open(struct dt_layer *layer, struct dt_error *err)
{
    struct compress *w = dt_layer_data(layer);
    int ret = storefile_open(&w->file, true, "create=on size=... makes it", err);

    w->layer = layer;
    w->shortage = (struct shortage){.layer = layer, .path = w->file.path, .policy = &w->on_full};
    boot_id(w->boot);
    ret = ret ?: read_header(w, err);
    ret = ret ?: storefile_open_data(&w->file, err);
    if (ret < 0) {
        compress_close(layer);
        return ret;
    }
    compress_layout(&w->at, w->header.size);
    w->no_punch = w->file.is_device; /* there, a hole may cost more than it gives */
    storefile_direct(&w->file, COMPRESS_BLOCK, w->at.data_offset);
    return 0;
}

void compress_close(struct dt_layer *layer)
{
    struct compress *w = dt_layer_data(layer);

    compress_space_fini(&w->space);
    storefile_close(&w->file);
}

int compress_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct compress *w = dt_layer_data(layer);

    return storefile_fence(&w->file, dt_layer_device(layer), deadline, err);
}
