/* SPDX-License-Identifier: MIT */
/* store-space.c - the space that a file has where nothing of it is in use: given back, allocated, or written. */
#include "parallax/store-space.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#define PIECE  65536u
#define PIECES 64u /* in one write: a device works on several requests at once then */

static int allocate(int fd, int mode, uint64_t at, uint64_t bytes)
{
    int ret;

    do
        ret = fallocate(fd, mode, (off_t)at, (off_t)bytes) < 0 ? -errno : 0;
    while (ret == -EINTR);
    return ret;
}

int store_space_punch(int fd, uint64_t at, uint64_t bytes)
{
    return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes);
}

int store_space_allocate(int fd, uint64_t at, uint64_t bytes)
{
    return allocate(fd, FALLOC_FL_KEEP_SIZE, at, bytes);
}

int store_space_zero(int fd, uint64_t at, uint64_t bytes)
{
    static uint8_t zeroes[PIECE] __attribute__((aligned(4096)));
    struct iovec iov[PIECES];

    while (bytes) {
        unsigned n = 0;
        ssize_t done;

        for (uint64_t left = bytes; left && n < PIECES; left -= iov[n++].iov_len)
            iov[n] = (struct iovec){zeroes, MIN(left, (uint64_t)PIECE)};
        done = pwritev(fd, iov, (int)n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -EIO;
        at += (uint64_t)done;
        bytes -= (uint64_t)done;
    }
    return 0;
}

/* ---- What there is ---- */

/* Space that other files have a part in is none for a write, nor is what has no place of its own. */
#define NOT_OURS (FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_NOT_ALIGNED)

static int ask_map(int fd, uint64_t at, uint64_t end, struct fiemap_extent *extent)
{
    union {
        struct fiemap map;
        uint8_t bytes[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
    } ask = {.map = {.fm_start = at, .fm_length = end - at, .fm_extent_count = 1}};

    if (ioctl(fd, FS_IOC_FIEMAP, &ask.map) < 0)
        return -errno;
    memcpy(extent, ask.bytes + offsetof(struct fiemap, fm_extents), sizeof(*extent));
    return (int)ask.map.fm_mapped_extents;
}

bool store_space_has_map(int fd)
{
    struct fiemap_extent extent;

    return ask_map(fd, 0, 4096, &extent) >= 0;
}

static int find_mapped(int fd, uint64_t at, uint64_t *end, uint64_t *from)
{
    while (at < *end) {
        struct fiemap_extent e = {0};
        int n = ask_map(fd, at, *end, &e);

        if (n < 0)
            return n;
        if (n == 0)
            break;
        if (!(e.fe_flags & NOT_OURS)) {
            *from = MAX(e.fe_logical, at);
            *end = MIN(e.fe_logical + e.fe_length, *end);
            return 0;
        }
        at = MAX(e.fe_logical + e.fe_length, at + 1);
    }
    *from = *end;
    return 0;
}

int store_space_find(int fd, bool map, uint64_t at, uint64_t *end, uint64_t *from)
{
    off_t data, hole;

    if (map)
        return find_mapped(fd, at, end, from);
    *from = *end;
    data = lseek(fd, (off_t)at, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? 0 : -errno; /* nothing follows */
    hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        return -errno;
    *from = MIN((uint64_t)data, *end);
    *end = MIN((uint64_t)hole, *end);
    return 0;
}
