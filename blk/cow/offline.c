/* SPDX-License-Identifier: MIT */
/*
 * offline.c - overlays that no VM uses.
 *
 * Each change is in an order that a crash may cut anywhere: data are flushed before the map says that
 * they count, a base before the overlay forgets what was committed. What was cut is done again
 * by running it again.
 */
#include "blk/cow/offline.h"
#include "blk/storefile/storefile.h"

#include <fcntl.h>
#include <linux/falloc.h>

#define COPY_GRANULES 256u

/* ---- Opening ---- */

static int load(struct cow_file *f, uint64_t offset, uint64_t *bad, struct dt_error *err)
{
    struct cow_map_sector sector;

    if (!bad)
        return cow_map_load(f->fd, f->path, &f->at, offset, f->map, err);
    for (uint64_t s = 0; s < f->at.map_sectors; s++) {
        if (pread(f->fd, &sector, sizeof(sector), (off_t)(offset + s * sizeof(sector))) !=
            (ssize_t)sizeof(sector))
            return storefile_failed(f->path, "read the map of", err);
        if (!cow_map_ok(&sector, s)) {
            (*bad)++;
            continue;
        }
        for (unsigned i = 0; i < sizeof(sector.bits); i++)
            f->map[s].bits[i] |= sector.bits[i];
    }
    for (uint64_t g = f->at.granules; g < f->at.map_sectors * COW_BITS; g++)
        if (cow_map_test(f->map, g)) {
            (*bad)++;
            return 0;
        }
    return 0;
}

/* Sectors [@from, @to) of the stored map. */
static int store(struct cow_file *f, uint64_t from, uint64_t to, struct dt_error *err)
{
    static const struct cow_map_sector empty;

    for (uint64_t s = from; s < to; s++) {
        if (memcmp(f->map[s].bits, empty.bits, sizeof(empty.bits)) == 0)
            continue;
        cow_map_seal(&f->map[s], s);
        if (storefile_write(f->fd, &f->map[s], sizeof(f->map[s]),
                            f->at.map_offset + s * sizeof(f->map[s])) < 0)
            return storefile_failed(f->path, "write the map of", err);
    }
    return 0;
}

static int put_header(struct cow_file *f, struct dt_error *err)
{
    cow_header_seal(&f->header);
    if (storefile_write(f->fd, &f->header, sizeof(f->header), 0) < 0 || fsync(f->fd) < 0)
        return storefile_failed(f->path, "write the header of", err);
    return 0;
}

/* What a killed process left in the live map alone becomes durable; after that there is no live map. */
static int settle(struct cow_file *f, struct dt_error *err)
{
    int ret = 0;

    if (f->ours) {
        if (fsync(f->fd) < 0)
            return storefile_failed(f->path, "flush", err);
        ret = store(f, 0, f->at.map_sectors, err);
        if (ret == 0 && fsync(f->fd) < 0)
            ret = storefile_failed(f->path, "flush", err);
    }
    if (ret < 0)
        return ret;
    memset(f->header.boot, 0, sizeof(f->header.boot));
    f->ours = false;
    return put_header(f, err);
}

static int read_in(struct cow_file *f, uint64_t *bad, struct dt_error *err)
{
    uint8_t boot[BOOT_ID_SIZE];
    uint64_t size;
    int ret;

    if (pread(f->fd, &f->header, sizeof(f->header), 0) < 0)
        return storefile_failed(f->path, "read", err);
    ret = storefile_size(f->fd, f->path, &size, err);
    ret = ret ?: cow_header_check(&f->header, size, f->path, err);
    if (ret < 0)
        return ret;
    cow_layout(&f->at, f->header.size);
    f->map = cow_map_new(f->at.map_sectors);
    if (!f->map)
        return dt_fail(err, -ENOMEM, "no memory for the map of %s", f->path);
    boot_id(boot);
    f->ours = boot_is(f->header.boot, boot);
    ret = load(f, f->at.map_offset, bad, err);
    if (ret == 0 && f->ours)
        ret = load(f, f->at.live_offset, bad, err);
    return ret;
}

int cow_file_open(struct cow_file *f, const char *path, bool write, uint64_t *bad,
                  struct dt_error *err)
{
    int ret;

    *f = (struct cow_file){
        .path = path, .writable = write, .fd = storefile_open_unused(path, write, err)};
    if (f->fd < 0)
        return f->fd;
    ret = read_in(f, bad, err);
    if (ret == 0 && write)
        ret = settle(f, err);
    if (ret < 0)
        cow_file_close(f);
    return ret;
}

void cow_file_close(struct cow_file *f)
{
    cow_map_free(f->map, f->at.map_sectors);
    f->map = NULL;
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

uint64_t cow_file_count(const struct cow_file *f)
{
    uint64_t n = 0;

    for (uint64_t s = 0; s < f->at.map_sectors; s++)
        for (unsigned i = 0; i < sizeof(f->map[s].bits); i++)
            n += (unsigned)__builtin_popcount(f->map[s].bits[i]);
    return n;
}

/* ---- Bases ---- */

/* Returns a descriptor. */
static int open_base(const struct cow_file *f, const char *path, bool write, struct dt_error *err)
{
    _cleanup_close_ int fd = storefile_open_unused(path, write, err);
    uint64_t size;
    int ret = fd < 0 ? fd : storefile_size(fd, path, &size, err);

    if (ret == 0 && size != f->header.size)
        ret = dt_fail(err, -EINVAL, "%s has %llu bytes; %s is for a base of %llu", path,
                      (unsigned long long)size, f->path, (unsigned long long)f->header.size);
    return ret < 0 ? ret : TAKE_FD(fd);
}

/* The bytes of @n granules: the last one of the disk may be shorter. */
static uint64_t bytes_of(const struct cow_file *f, uint64_t granule, uint64_t n)
{
    return MIN(n << COW_SHIFT, f->header.size - (granule << COW_SHIFT));
}

int cow_file_commit(const struct cow_file *f, const char *base, struct dt_error *err)
{
    _cleanup_free_ uint8_t *data = xaligned(COW_GRANULE, COPY_GRANULES << COW_SHIFT);
    _cleanup_close_ int fd = open_base(f, base, true, err);
    uint64_t n;

    if (fd < 0)
        return fd;
    for (uint64_t g = 0; g < f->at.granules; g += n) {
        uint64_t end = MIN(g + COPY_GRANULES, f->at.granules), length, at = g << COW_SHIFT;
        bool set;

        n = cow_map_run(f->map, g, end, &set);
        length = bytes_of(f, g, n);
        if (set && storefile_read(f->fd, data, length, f->at.data_offset + at) < 0)
            return storefile_failed(f->path, "read", err);
        if (set && storefile_write(fd, data, length, at) < 0)
            return storefile_failed(base, "write", err);
    }
    return fsync(fd) < 0 ? storefile_failed(base, "flush", err) : 0;
}

/* ---- Reset ---- */

static int punch(const struct cow_file *f, uint64_t from, uint64_t to, struct dt_error *err)
{
    if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(to - from)) < 0 ||
        fsync(f->fd) < 0)
        return storefile_failed(f->path, "empty", err);
    return 0;
}

int cow_file_reset(struct cow_file *f, struct dt_error *err)
{
    int ret = punch(f, f->at.map_offset, f->at.data_offset, err);

    ret = ret ?: punch(f, f->at.data_offset, f->at.file_size, err);
    if (ret < 0)
        return ret;
    memset(f->map, 0, f->at.map_sectors * sizeof(*f->map));
    if (!cow_is_print(f->header.base_id))
        return 0;
    memset(f->header.base_id, 0,
           sizeof(f->header.base_id)); /* it may be on what was committed now */
    return put_header(f, err);
}

/* ---- Rebase ---- */

struct bases {
    const char *old, *new;
    int old_fd, new_fd;
    uint8_t *old_data, *new_data;
};

/* Granules from @g on that are the base's: those that differ become the overlay's. */
static int copy_run(struct cow_file *f, const struct bases *b, uint64_t g, uint64_t n,
                    uint64_t *copied, struct dt_error *err)
{
    uint64_t at = g << COW_SHIFT, length = bytes_of(f, g, n);

    if (storefile_read(b->old_fd, b->old_data, length, at) < 0)
        return storefile_failed(b->old, "read", err);
    if (storefile_read(b->new_fd, b->new_data, length, at) < 0)
        return storefile_failed(b->new, "read", err);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t from = i << COW_SHIFT, bytes = bytes_of(f, g + i, 1);

        if (memcmp(b->old_data + from, b->new_data + from, bytes) == 0)
            continue;
        if (storefile_write(f->fd, b->old_data + from, bytes, f->at.data_offset + at + from) < 0)
            return storefile_failed(f->path, "write", err);
        cow_map_set(f->map, g + i);
        (*copied)++;
    }
    return 0;
}

static int copy_differences(struct cow_file *f, const struct bases *b, uint64_t *copied,
                            struct dt_error *err)
{
    int ret = 0;
    uint64_t n;

    *copied = 0;
    for (uint64_t g = 0; g < f->at.granules && ret == 0; g += n) {
        bool set;

        n = cow_map_run(f->map, g, MIN(g + COPY_GRANULES, f->at.granules), &set);
        if (!set)
            ret = copy_run(f, b, g, n, copied, err);
    }
    if (ret == 0 && fsync(f->fd) < 0)
        ret = storefile_failed(f->path, "flush", err);
    ret = ret ?: store(f, 0, f->at.map_sectors, err);
    if (ret == 0 && fsync(f->fd) < 0)
        ret = storefile_failed(f->path, "flush", err);
    return ret;
}

/* As base.c does it for a chain. */
static int print_base(struct cow_file *f, const struct bases *b, struct dt_error *err)
{
    _cleanup_free_ uint8_t *samples = xaligned(COW_GRANULE, COW_SAMPLES * COW_GRANULE);

    memset(samples, 0, COW_SAMPLES * COW_GRANULE);
    for (unsigned i = 0; i < COW_SAMPLES; i++) {
        uint32_t length;
        uint64_t from = cow_sample(&f->at, f->header.size, i, &length);

        if (storefile_read(b->new_fd, samples + i * COW_GRANULE, length, from) < 0)
            return storefile_failed(b->new, "read", err);
    }
    cow_print(f->header.base_id, samples);
    return 0;
}

int cow_file_rebase(struct cow_file *f, const char *old, const char *new, const char *base_id,
                    uint64_t *copied, struct dt_error *err)
{
    _cleanup_free_ uint8_t *data = xaligned(COW_GRANULE, 2u * COPY_GRANULES << COW_SHIFT);
    _cleanup_close_ int old_fd = open_base(f, old, false, err);
    _cleanup_close_ int new_fd = old_fd < 0 ? old_fd : open_base(f, new, false, err);
    struct bases b = {.old = old,
                      .new = new,
                      .old_fd = old_fd,
                      .new_fd = new_fd,
                      .old_data = data,
                      .new_data = data + (COPY_GRANULES << COW_SHIFT)};
    int ret;

    if (new_fd < 0)
        return new_fd;
    if (base_id && strlen(base_id) >= COW_ID_SIZE)
        return dt_fail(err, -EINVAL, "a base id has at most %u characters", COW_ID_SIZE - 1);
    ret = copy_differences(f, &b, copied, err);
    if (ret < 0)
        return ret;
    memset(f->header.base_id, 0, sizeof(f->header.base_id));
    if (base_id)
        memcpy(f->header.base_id, base_id, strlen(base_id));
    else
        ret = print_base(f, &b, err);
    return ret ?: put_header(f, err);
}
