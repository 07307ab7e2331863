/* SPDX-License-Identifier: MIT */
/* storefile.c - the files in which layers keep what they know: storefile.h. */
#include "blk/storefile/storefile.h"
#include "base/filelock.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define WALK_BYTES (256u << 10)

int storefile_failed(const char *path, const char *what, struct dt_error *err)
{
    int error = errno ? errno : EIO;

    return dt_fail(err, -error, "cannot %s %s: %s", what, path, strerror(error));
}

/* ---- Opening ---- */

/* What is neither is not waited for, as one would for the other end of a FIFO. */
static int judge_kind(struct storefile *f, bool devices, struct dt_error *err)
{
    struct stat st;

    if (fstat(f->map_fd, &st) < 0)
        return storefile_failed(f->path, "look at", err);
    f->is_device = S_ISBLK(st.st_mode);
    if (!S_ISREG(st.st_mode) && !(devices && f->is_device))
        return dt_fail(err, -EINVAL, "%s is %s", f->path,
                       devices ? "neither a regular file nor a block device"
                               : "not a regular file");
    return fcntl(f->map_fd, F_SETFL, 0) < 0 ? storefile_failed(f->path, "open", err) : 0;
}

static int flags_of(const struct storefile *f)
{
    return O_CLOEXEC | O_NOCTTY | (f->read_only ? O_RDONLY : O_RDWR);
}

int storefile_open(struct storefile *f, bool devices, const char *hint, struct dt_error *err)
{
    f->fd = f->map_fd = -1;
    if (f->create && f->read_only)
        return dt_fail(err, -EINVAL, "create=on and read-only=on exclude each other");
    f->map_fd = open(f->path, flags_of(f) | O_NONBLOCK | (f->create ? O_CREAT : 0), 0600);
    if (f->map_fd < 0 && errno == ENOENT)
        return dt_fail(err, -ENOENT, "%s does not exist (%s)", f->path, hint);
    return f->map_fd < 0 ? storefile_failed(f->path, "open", err) : judge_kind(f, devices, err);
}

int storefile_open_data(struct storefile *f, struct dt_error *err)
{
    f->fd = open(f->path, flags_of(f));
    return f->fd < 0 ? storefile_failed(f->path, "open", err) : 0;
}

/* A file system that has no O_DIRECT is no reason to refuse. */
bool storefile_direct(struct storefile *f, uint32_t block, uint64_t offset)
{
    _cleanup_free_ uint8_t *memory = xaligned(PAGE_SIZE_4K, PAGE_SIZE_4K + block);

    if (fcntl(f->fd, F_SETFL, O_DIRECT) == 0 &&
        pread(f->fd, memory + block % PAGE_SIZE_4K, block, (off_t)(offset + block)) >= 0)
        return true;
    fcntl(f->fd, F_SETFL, 0);
    return false;
}

void storefile_close(struct storefile *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->map_fd >= 0)
        close(f->map_fd);
    f->fd = f->map_fd = -1;
}

int storefile_fence(const struct storefile *f, const char *device, uint64_t deadline,
                    struct dt_error *err)
{
    struct filelock first = {
        .path = f->path, .fd = f->fd < 0 ? f->map_fd : f->fd, .read_only = f->read_only};
    struct filelock map = {.path = f->path, .fd = f->map_fd, .read_only = f->read_only};
    _cleanup_free_ char *name = xasprintf("%s map", device);
    int ret = filelock_own(&first, device, deadline, err);

    return ret < 0 || f->fd < 0 ? ret : filelock_fence(&map, name, deadline, err);
}

int storefile_open_unused(const char *path, bool write, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    struct filelock lock = {.path = path, .fd = fd, .read_only = !write};
    int ret = fd < 0 ? storefile_failed(path, "open", err) : filelock_image(&lock, 0, err);

    return ret < 0 ? ret : TAKE_FD(fd);
}

/* ---- Making one ---- */

int storefile_sync_directory(const char *path)
{
    _cleanup_free_ char *dir = xstrdup(path);
    char *slash = strrchr(dir, '/');
    _cleanup_close_ int fd = -1;

    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int storefile_finish(const struct storefile *f, const void *header, size_t n, struct dt_error *err)
{
    int ret = fsync(f->map_fd) < 0 ? -errno : storefile_write(f->map_fd, header, n, 0);

    if (ret == 0 && fsync(f->map_fd) < 0)
        ret = -errno;
    if (ret == 0 && !f->is_device)
        ret = storefile_sync_directory(f->path);
    return ret < 0 ? dt_fail(err, ret, "cannot make %s: %s", f->path, strerror(-ret)) : 0;
}

/* ---- Reading and writing ---- */

int storefile_read_header(const struct storefile *f, void *header, size_t n, struct dt_error *err)
{
    ssize_t got = pread(f->map_fd, header, n, 0);

    if (got < 0)
        return storefile_failed(f->path, "read", err);
    memset((uint8_t *)header + got, 0, n - (size_t)got);
    return 0;
}

int storefile_size(int fd, const char *path, uint64_t *size, struct dt_error *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return storefile_failed(path, "look at", err);
    *size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, size) < 0)
        return storefile_failed(path, "find the size of", err);
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
        return 0;
    return dt_fail(err, -EINVAL, "%s is neither a regular file nor a block device", path);
}

static int transfer(int fd, char *data, size_t n, uint64_t offset, bool write)
{
    while (n) {
        ssize_t done =
            write ? pwrite(fd, data, n, (off_t)offset) : pread(fd, data, n, (off_t)offset);

        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = EIO;
        if (done <= 0)
            return -errno;
        data += done;
        n -= (size_t)done;
        offset += (uint64_t)done;
    }
    return 0;
}

int storefile_read(int fd, void *data, size_t n, uint64_t offset)
{
    return transfer(fd, data, n, offset, false);
}

int storefile_write(int fd, const void *data, size_t n, uint64_t offset)
{
    return transfer(fd, (char *)data, n, offset, true);
}

void storefile_status(int fd, uint64_t offset, struct dt_extent *extent)
{
    uint64_t length = extent->sectors << DT_SECTOR_SHIFT, run = length;
    off_t found = lseek(fd, (off_t)offset, SEEK_DATA);

    extent->status = DT_STATUS_DATA;
    if (found < 0 && errno == ENXIO) {
        extent->status = DT_STATUS_HOLE;
    } else if (found >= 0 && (uint64_t)found - offset >= DT_SECTOR_SIZE) {
        run = MIN(run, ALIGN_DOWN((uint64_t)found - offset, (uint64_t)DT_SECTOR_SIZE));
        extent->status = DT_STATUS_HOLE;
    } else if (found >= 0) {
        found = lseek(fd, found, SEEK_HOLE);
        if (found >= 0 && (uint64_t)found > offset)
            run = MIN(run, ALIGN_UP((uint64_t)found - offset, (uint64_t)DT_SECTOR_SIZE));
    }
    extent->sectors = run >> DT_SECTOR_SHIFT;
}

/* The next part that is not a hole, from @at on; @end if there is none. */
static uint64_t next_data(int fd, uint64_t at, uint64_t end)
{
    off_t found = lseek(fd, (off_t)at, SEEK_DATA);

    if (found < 0)
        return errno == ENXIO ? end : at;
    return MIN(MAX(at, ALIGN_DOWN((uint64_t)found, (uint64_t)STOREFILE_SECTOR)), end);
}

static bool is_empty(const uint8_t *sector)
{
    static const uint8_t empty[STOREFILE_SECTOR];

    return memcmp(sector, empty, sizeof(empty)) == 0;
}

int storefile_walk(int fd, const char *path, uint64_t offset, uint64_t sectors,
                   int (*each)(void *arg, uint64_t index, const void *sector, struct dt_error *err),
                   void *arg, struct dt_error *err)
{
    _cleanup_free_ uint8_t *piece = xcalloc(1, WALK_BYTES);
    uint64_t end = offset + sectors * STOREFILE_SECTOR;
    int ret = 0;

    for (uint64_t at = next_data(fd, offset, end); at < end && ret == 0;) {
        ssize_t n = pread(fd, piece, MIN((uint64_t)WALK_BYTES, end - at), (off_t)at);

        if (n <= 0 || n % STOREFILE_SECTOR)
            return dt_fail(err, n < 0 ? -errno : -EIO, "%s: cannot read the map: %s", path,
                           n < 0 ? strerror(errno) : "it ends early");
        for (ssize_t i = 0; i < n && ret == 0; i += STOREFILE_SECTOR)
            if (!is_empty(piece + i))
                ret = each(arg, (at + (uint64_t)i - offset) / STOREFILE_SECTOR, piece + i, err);
        at = next_data(fd, at + (uint64_t)n, end);
    }
    return ret;
}
