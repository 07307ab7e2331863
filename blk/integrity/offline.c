/* SPDX-License-Identifier: MIT */
#include "blk/integrity/offline.h"
#include "blk/storefile/storefile.h"

#define PIECE_BLOCKS 256u

static int read_in(struct integrity_file *f, struct dt_error *err)
{
    uint64_t size;
    size_t bytes;
    int ret;

    if (pread(f->fd, &f->header, sizeof(f->header), 0) < 0)
        return storefile_failed(f->path, "read", err);
    ret = storefile_size(f->fd, f->path, &size, err);
    ret = ret ?: integrity_header_check(&f->header, size, f->path, err);
    if (ret < 0)
        return ret;
    integrity_layout(&f->at, f->header.size, f->header.region);
    bytes = f->at.map_sectors * sizeof(*f->map);
    f->map = malloc(bytes);
    if (!f->map)
        return dt_fail(err, -ENOMEM, "no memory for the map of %s", f->path);
    if (storefile_read(f->fd, f->map, bytes, INTEGRITY_MAP_OFFSET) < 0)
        return storefile_failed(f->path, "read the map of", err);
    for (uint64_t s = 0; s < f->at.map_sectors; s++)
        if (!integrity_map_ok(&f->map[s], s))
            return dt_fail(err, -EBADMSG, "%s: sector %llu of the map is damaged", f->path,
                           (unsigned long long)s);
    return 0;
}

int integrity_file_open(struct integrity_file *f, const char *path, struct dt_error *err)
{
    int ret;

    *f = (struct integrity_file){.path = path, .fd = storefile_open_unused(path, false, err)};
    if (f->fd < 0)
        return f->fd;
    ret = read_in(f, err);
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

static void compare(const struct integrity_file *f, uint64_t first, uint64_t n, const uint8_t *data,
                    const uint64_t *sums, struct integrity_found *found)
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
    int ret = storefile_size(fd, disk, &size, err);

    if (ret == 0 && size != f->header.size)
        ret = dt_fail(err, -EINVAL, "%s has %llu bytes; %s is for a disk of %llu", disk,
                      (unsigned long long)size, f->path, (unsigned long long)f->header.size);
    return ret;
}

int integrity_file_check(const struct integrity_file *f, const char *disk,
                         struct integrity_found *found, struct dt_error *err)
{
    _cleanup_free_ uint8_t *data = xaligned(4096, PIECE_BLOCKS << INTEGRITY_SHIFT);
    _cleanup_close_ int fd = storefile_open_unused(disk, false, err);
    uint64_t sums[PIECE_BLOCKS];
    int ret = fd < 0 ? fd : check_size(f, disk, fd, err);

    for (uint64_t b = 0; b < f->at.blocks && ret == 0; b += PIECE_BLOCKS) {
        uint64_t n = MIN((uint64_t)PIECE_BLOCKS, f->at.blocks - b), at = b << INTEGRITY_SHIFT;
        uint64_t bytes = MIN(n << INTEGRITY_SHIFT, f->header.size - at);

        if (storefile_read(fd, data, bytes, at) < 0)
            ret = storefile_failed(disk, "read", err);
        else if (storefile_read(f->fd, sums, n * sizeof(*sums),
                                f->at.sums_offset + b * sizeof(*sums)) < 0)
            ret = storefile_failed(f->path, "read", err);
        else
            compare(f, b, n, data, sums, found);
    }
    return ret;
}
