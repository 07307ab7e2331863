/* SPDX-License-Identifier: MIT */
/*
 * storefile.h - the files in which layers keep what they know: made, opened, fenced, and read.
 *
 * Theory of operation: such a file has a header in its first sector, maps behind it, and data. A
 * new one is made in an order that a crash may cut anywhere: what belongs behind the header, then
 * the header, then the directory's entry, each made durable before the next. So a file without a
 * header is one that nobody has used, and create=on may fill it.
 *
 * A layer that has data in it opens it twice: past the page cache for them, through it for header
 * and maps, which are never in the same page. Each of the two descriptions may have I/O of a dead
 * predecessor under way, so each has a fence of its own (base/filelock.h).
 *
 * What stands in a sector is the layer's affair. Programs that look at such files share the
 * functions below that take a descriptor.
 */
#ifndef BLK_STOREFILE_H
#define BLK_STOREFILE_H

#include "base/base.h"
#include <devtap/block.h>

#define STOREFILE_SECTOR 512u

/**
 * struct storefile - of a layer.
 * @path, @create, @read_only: parameters of the layer; what it does not have is zero.
 * @map_fd: header and maps; @fd: data, or -1.
 * @is_device: it is a block device, not a file.
 */
struct storefile {
    const char *path;
    bool create, read_only;
    bool is_device;
    int fd, map_fd;
};

/**
 * storefile_open() - open header and maps; with create=on an empty file if there is none.
 * @devices: a block device will do, too.
 * @hint:    what would make one, for who names a file that is not there.
 * Return: 0; an error: -ENOENT if it does not exist. In both cases storefile_close() is the
 * caller's.
 */
int storefile_open(struct storefile *f, bool devices, const char *hint, struct dt_error *err);
/** storefile_open_data() - open it for data as well. */
int storefile_open_data(struct storefile *f, struct dt_error *err);
/** storefile_direct() - let data go past the page cache, if transfers of @block bytes can at
 * @offset. Return: whether they do. */
bool storefile_direct(struct storefile *f, uint32_t block, uint64_t offset);
void storefile_close(struct storefile *f);
/** storefile_fence() - a layer's fence(): nobody else has it, and all I/O of the dead has landed.
 */
int storefile_fence(const struct storefile *f, const char *device, uint64_t deadline,
                    struct dt_error *err);

/** storefile_read_header() - of @n bytes; a file that is shorter has zeroes there. */
int storefile_read_header(const struct storefile *f, void *header, size_t n, struct dt_error *err);
/** storefile_finish() - the last steps of making one: all that is in it so far, header, name. */
int storefile_finish(const struct storefile *f, const void *header, size_t n, struct dt_error *err);
/** storefile_sync_directory() - make the name of a new file durable. */
int storefile_sync_directory(const char *path);

/** storefile_open_unused() - open a file or device for a program, locked so that no VM uses it.
 *  Return: a descriptor, or an error. */
int storefile_open_unused(const char *path, bool write, struct dt_error *err);
/** storefile_size() - of a file or device, in bytes; another kind of file is an error. */
int storefile_size(int fd, const char *path, uint64_t *size, struct dt_error *err);
/** storefile_read(), storefile_write() - all of it, at @offset. Return: 0; an error, which errno
 * has, too. */
int storefile_read(int fd, void *data, size_t n, uint64_t offset);
int storefile_write(int fd, const void *data, size_t n, uint64_t offset);
/** storefile_failed() - "cannot @what @path", because of errno. Return: that, negative. */
int storefile_failed(const char *path, const char *what, struct dt_error *err);

/** storefile_status() - a layer's status() for a range that lies in a file at @offset: holes are what the file system
 *  says they are; devices and file systems that know of none have data. Behind the end are holes. */
void storefile_status(int fd, uint64_t offset, struct dt_extent *extent);
/**
 * storefile_walk() - call @each for the @sectors of the map at @offset, those of zeroes left out.
 * Holes cost no time. It ends with the first error of @each.
 */
int storefile_walk(int fd, const char *path, uint64_t offset, uint64_t sectors,
                   int (*each)(void *arg, uint64_t index, const void *sector, struct dt_error *err),
                   void *arg, struct dt_error *err);

#endif
