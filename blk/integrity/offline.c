/* SPDX-License-Identifier: MIT */
#include "blk/integrity/offline.h"
#include "base/filelock.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define PIECE_BLOCKS 256u

static int failed(const char *path, const char *what, struct dt_error *err)
{
    int error = errno ? errno : EIO;

    return dt_fail(err, -error, "cannot %s %s: %s", what, path, strerror(error));
}

static int lock(const char *path, int fd, struct dt_error *err)
{
    struct filelock l = {.path = path, .fd = fd, .read_only = true};
    int ret = filelock_image(&l, 0, err);

    if (ret == -EBUSY || ret == 0)
        return ret;
    return dt_fail(err, ret, "%s: its file system cannot lock it: %s", path, strerror(-ret));
}

static int read_in(struct integrity_file *f, struct dt_error *err)
{
    struct stat st;
    size_t bytes;
    int ret;

    if (pread(f->fd, &f->header, sizeof(f->header), 0) < 0 || fstat(f->fd, &st) < 0)
        return failed(f->path, "read", err);
    ret = integrity_header_check(&f->header, (uint64_t)st.st_size, f->path, err);
    if (ret < 0)
        return ret;
    integrity_layout(&f->at, f->header.size, f->header.region);
    bytes = f->at.map_sectors * sizeof(*f->map);
    f->map = malloc(bytes);
    if (!f->map)
        return dt_fail(err, -ENOMEM, "no memory for the map of %s", f->path);
    if (pread(f->fd, f->map, bytes, INTEGRITY_MAP_OFFSET) != (ssize_t)bytes)
        return failed(f->path, "read the map of", err);
    for (uint64_t s = 0; s < f->at.map_sectors; s++)
        if (!integrity_map_ok(&f->map[s], s))
            return dt_fail(err, -EBADMSG, "%s: sector %llu of the map is damaged", f->path,
                           (unsigned long long)s);
    return 0;
}

int integrity_file_open(struct integrity_file *f, const char *path, struct dt_error *err)
{
    int ret;

    *f = (struct integrity_file){.path = path};
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0)
        return failed(path, "open", err);
    ret = lock(path, f->fd, err);
    ret = ret ?: read_in(f, err);
    if (ret < 0)
        integrity_file_close(f);
    return ret;
}

void integrity_file_close(struct integrity_file *f)
{
    free(f->map);
    f->map = NULL;
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

uint64_t integrity_file_open_regions(const struct integrity_file *f)
{
    uint64_t n = 0;

    for (uint64_t r = 0; r < f->at.regions; r++)
        n += integrity_bit(f->map, r);
    return n;
}

static void compare(const struct integrity_file *f, uint64_t first, uint64_t n,
                    const uint8_t *data, const uint64_t *sums, struct integrity_found *found)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t block = first + i, byte = block << INTEGRITY_SHIFT;
        uint64_t bytes = MIN((uint64_t)INTEGRITY_BLOCK, f->header.size - byte);

        if (sums[i] == 0) {
            found->unknown++;
        } else if (sums[i] == integrity_sum(data + (i << INTEGRITY_SHIFT), bytes, block)) {
            found->fit++;
        } else if (integrity_bit(f->map, byte / f->header.region)) {
            found->changing++;
        } else {
            found->damage++;
            found->damaged(byte);
        }
    }
}

static int check_size(const struct integrity_file *f, const char *disk, int fd,
                      struct dt_error *err)
{
    uint64_t size;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return failed(disk, "look at", err);
    size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) < 0)
        return failed(disk, "find the size of", err);
    if (size != f->header.size)
        return dt_fail(err, -EINVAL, "%s has %llu bytes; %s is for a disk of %llu", disk,
                       (unsigned long long)size, f->path, (unsigned long long)f->header.size);
    return 0;
}

int integrity_file_check(const struct integrity_file *f, const char *disk,
                         struct integrity_found *found, struct dt_error *err)
{
    _cleanup_free_ uint8_t *data = xaligned(4096, PIECE_BLOCKS << INTEGRITY_SHIFT);
    _cleanup_close_ int fd = open(disk, O_RDONLY | O_CLOEXEC);
    uint64_t sums[PIECE_BLOCKS];
    int ret;

    if (fd < 0)
        return failed(disk, "open", err);
    ret = lock(disk, fd, err);
    ret = ret ?: check_size(f, disk, fd, err);
    for (uint64_t b = 0; b < f->at.blocks && ret == 0; b += PIECE_BLOCKS) {
        uint64_t n = MIN((uint64_t)PIECE_BLOCKS, f->at.blocks - b), at = b << INTEGRITY_SHIFT;
        uint64_t bytes = MIN(n << INTEGRITY_SHIFT, f->header.size - at);

        errno = 0;
        if (pread(fd, data, bytes, (off_t)at) != (ssize_t)bytes)
            ret = failed(disk, "read", err);
        else if (pread(f->fd, sums, n * sizeof(*sums),
                       (off_t)(f->at.sums_offset + b * sizeof(*sums))) != (ssize_t)(n * sizeof(*sums)))
            ret = failed(f->path, "read", err);
        else
            compare(f, b, n, data, sums, found);
    }
    return ret;
}
