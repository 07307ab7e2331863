/* SPDX-License-Identifier: MIT */
/*
 * open.c - the store's file or device: made, opened twice (past the page cache for blocks, through
 * it for header and maps, which are never in the same page), and fenced.
 */
#include "base/filelock.h"
#include "blk/compress/internal.h"

#include <fcntl.h>
#include <sys/stat.h>

#define ZEROES (1u << 20)

/* ---- Making one ---- */

static int sync_directory(const char *path)
{
    _cleanup_free_ char *dir = xstrdup(path);
    char *slash = strrchr(dir, '/');
    _cleanup_close_ int fd = -1;

    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* What a device holds where the maps will be is anything. */
static int write_zeroes(int fd, uint64_t from, uint64_t to)
{
    _cleanup_free_ uint8_t *zeroes = xcalloc(1, ZEROES);

    while (from < to) {
        ssize_t n = pwrite(fd, zeroes, MIN((uint64_t)ZEROES, to - from), (off_t)from);

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        from += (uint64_t)n;
    }
    return 0;
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

/* The header comes last: without it the file is still one that create=on may fill. */
static int make(struct compress *w, uint64_t room, struct dt_error *err)
{
    struct compress_layout at;
    int ret;

    if (w->size == 0 || w->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "create=on needs size=, a multiple of 512");
    compress_layout(&at, w->size);
    if (w->is_device && room <= at.data_offset)
        return dt_fail(err, -ENOSPC, "%s is too small for the maps of such a disk, %llu bytes",
                       w->path, (unsigned long long)at.data_offset);
    compress_header_init(&w->header, w->size);
    ret = w->is_device ? write_zeroes(w->map_fd, 0, at.data_offset) : prepare_file(w->map_fd, &at);
    if (ret == 0 && fsync(w->map_fd) < 0)
        ret = -errno;
    if (ret == 0 && pwrite(w->map_fd, &w->header, sizeof(w->header), 0) != sizeof(w->header))
        ret = errno ? -errno : -EIO;
    if (ret == 0 && fsync(w->map_fd) < 0)
        ret = -errno;
    if (ret == 0 && !w->is_device)
        ret = sync_directory(w->path);
    return ret < 0 ? dt_fail(err, ret, "cannot make %s: %s", w->path, strerror(-ret)) : 0;
}

/* Is there nothing that making a store would destroy? An ext4's first sectors are zeroes, too. */
static bool is_blank(const struct compress *w, uint64_t size)
{
    _cleanup_free_ uint8_t *start = xcalloc(1, COMPRESS_UNIT + 1);
    struct compress_layout at;
    ssize_t n = pread(w->map_fd, start, COMPRESS_UNIT, 0);

    compress_layout(&at, MAX(w->size, (uint64_t)1));
    if (!w->is_device && size != 0 && size != at.data_offset)
        return false; /* the second is what an interrupted make() has left */
    return n >= 0 && memcmp(start, start + 1, COMPRESS_UNIT) == 0 && start[0] == 0;
}

/* ---- Opening ---- */

static int open_failed(const struct compress *w, int error, struct dt_error *err)
{
    if (error == ENOENT)
        return dt_fail(err, -error, "%s does not exist (create=on size=... makes it)", w->path);
    return dt_fail(err, -error, "cannot open %s: %s", w->path, strerror(error));
}

static int read_header(struct compress *w, struct dt_error *err)
{
    struct stat st;
    uint64_t size;
    ssize_t n;
    int ret = compress_store_size(w->map_fd, w->path, &size, err);

    if (ret < 0)
        return ret;
    w->is_device = fstat(w->map_fd, &st) == 0 && S_ISBLK(st.st_mode);
    if (w->create && is_blank(w, size)) {
        ret = make(w, size, err);
        ret = ret ?: compress_store_size(w->map_fd, w->path, &size, err);
        if (ret < 0)
            return ret;
    }
    n = pread(w->map_fd, &w->header, sizeof(w->header), 0);
    if (n < 0)
        return dt_fail(err, -errno, "%s: %s", w->path, strerror(errno));
    if (n < (ssize_t)sizeof(w->header))
        memset((uint8_t *)&w->header + n, 0, sizeof(w->header) - (size_t)n);
    return compress_header_check(&w->header, size, w->path, err);
}

/* Our buffers suit it; a file system that has no O_DIRECT is no reason to refuse. */
static void find_direct(struct compress *w)
{
    _cleanup_free_ uint8_t *memory = xaligned(COMPRESS_BLOCK, COMPRESS_BLOCK);

    if (fcntl(w->fd, F_SETFL, O_DIRECT) == 0 &&
        pread(w->fd, memory, COMPRESS_BLOCK, (off_t)w->at.data_offset) < 0)
        fcntl(w->fd, F_SETFL, 0);
}

int compress_open(struct dt_layer *layer, struct dt_error *err)
{
    struct compress *w = dt_layer_data(layer);
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (w->read_only ? O_RDONLY : O_RDWR), ret;

    w->layer = layer;
    w->shortage = (struct shortage){.layer = layer, .path = w->path, .policy = &w->on_full};
    w->fd = -1;
    if (w->create && w->read_only)
        return dt_fail(err, -EINVAL, "create=on and read-only=on exclude each other");
    boot_id(w->boot);
    w->map_fd = open(w->path, flags | (w->create ? O_CREAT : 0), 0600);
    ret = w->map_fd < 0 ? open_failed(w, errno, err) : read_header(w, err);
    if (ret == 0) {
        compress_layout(&w->at, w->header.size);
        w->fd = open(w->path, flags);
        ret = w->fd < 0 ? open_failed(w, errno, err) : 0;
    }
    if (ret < 0) {
        compress_close(layer);
        return ret;
    }
    w->no_punch = w->is_device; /* there, a hole may cost more than it gives */
    find_direct(w);
    return 0;
}

void compress_close(struct dt_layer *layer)
{
    struct compress *w = dt_layer_data(layer);

    compress_space_fini(&w->space);
    if (w->fd >= 0)
        close(w->fd);
    if (w->map_fd >= 0)
        close(w->map_fd);
}

/* Two descriptions, both of which may have I/O of the dead under way: two bytes. */
int compress_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct compress *w = dt_layer_data(layer);
    struct filelock data = {.path = w->path, .fd = w->fd, .read_only = w->read_only};
    struct filelock map = {.path = w->path, .fd = w->map_fd, .read_only = w->read_only};
    _cleanup_free_ char *name = xasprintf("%s map", dt_layer_device(layer));
    int ret = filelock_own(&data, dt_layer_device(layer), deadline, err);

    if (ret == 0)
        ret = filelock_fence(&map, name, deadline, err);
    if (ret < 0 && ret != -EBUSY)
        dt_fail(err, ret, "%s: its file system cannot lock it: %s", w->path, strerror(-ret));
    return ret;
}
