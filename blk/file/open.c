/* SPDX-License-Identifier: MIT */
/*
 * open.c - opening what holds the disk, and finding out what it is: size, block sizes, what
 * O_DIRECT wants.
 *
 * Each open() is a fresh open file description: I/O in flight pins the description it was started
 * on, with its locks, and that is what the fence rests on (lock.c).
 */
#include "blk/file/internal.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define IOV_LIMIT 1024u /* UIO_MAXIOV */

/* ---- Opening --------------------------------------------------------------------------------- */

static int open_failed(const struct file *f, int error, struct dt_error *err)
{
    switch (error) {
    case ENOENT:
        return dt_fail(err, -error, "%s does not exist (create=on size=... makes it)", f->path);
    case EISDIR:
        return dt_fail(err, -error, "%s is a directory, not a disk image", f->path);
    case EROFS:
        return dt_fail(err, -error, "%s is on a read-only file system (read-only=on would do)",
                       f->path);
    case EACCES:
    case EPERM:
        return dt_fail(err, -error, "%s: no permission to %s it", f->path,
                       f->read_only ? "read" : "read and write");
    default:
        return dt_fail(err, -error, "cannot open %s: %s", f->path, strerror(error));
    }
}

/* A file system without O_DIRECT is no reason to refuse the disk: it goes through the page cache.
 */
static int open_path(struct file *f, int more, struct dt_error *err)
{
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK | more | (f->read_only ? O_RDONLY : O_RDWR);

    f->direct = f->cache == CACHE_NONE;
    f->fd = open(f->path, flags | (f->direct ? O_DIRECT : 0), 0600);
    if (f->fd < 0 && errno == EINVAL && f->direct) {
        f->direct = false;
        f->fd = open(f->path, flags & ~O_EXCL, 0600); /* the first try may have made it */
    }
    return f->fd < 0 ? open_failed(f, errno, err) : 0;
}

static int set_size(const struct file *f, struct dt_error *err)
{
    if (f->size == 0)
        return dt_fail(err, -EINVAL, "create=on needs size=");
    if (f->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "size=%llu is not a multiple of 512",
                       (unsigned long long)f->size);
    if (ftruncate(f->fd, (off_t)f->size) < 0)
        return dt_fail(err, -errno, "cannot make %s %llu bytes long: %s", f->path,
                       (unsigned long long)f->size, strerror(errno));
    return 0;
}

static int open_or_create(struct file *f, struct dt_error *err)
{
    struct stat st;
    int ret;

    if (f->create && f->read_only)
        return dt_fail(err, -EINVAL, "create=on and read-only=on exclude each other");
    if (f->size && !f->create)
        return dt_fail(err, -EINVAL, "size= is for create=on; the size of %s is its own", f->path);
    if (f->create && !f->size)
        return dt_fail(err, -EINVAL, "create=on needs size=");
    ret = open_path(f, f->create ? O_CREAT : 0, err);
    if (ret < 0)
        return ret;
    if (fstat(f->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", f->path, strerror(errno));
    f->is_device = S_ISBLK(st.st_mode);
    if (S_ISDIR(st.st_mode))
        return open_failed(f, EISDIR, err);
    if (!S_ISREG(st.st_mode) && !f->is_device)
        return dt_fail(err, -EINVAL, "%s is neither a regular file nor a block device", f->path);
    return f->create && !f->is_device && st.st_size == 0 ? set_size(f, err) : 0;
}

/* ---- What it is ---- */

/* One number of a block device's queue in sysfs, of the whole disk for a partition; 0 if there is
 * none. */
static uint64_t queue_number(dev_t dev, const char *name)
{
    static const char *const places[] = {"queue", "../queue"};
    unsigned long long n = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(places) && n == 0; i++) {
        _cleanup_free_ char *path =
            xasprintf("/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev), places[i], name);
        FILE *file = fopen(path, "re");

        if (!file)
            continue;
        if (fscanf(file, "%llu", &n) != 1)
            n = 0;
        fclose(file);
    }
    return n;
}

/* Older kernels do not tell what O_DIRECT wants: see what it takes. */
static void try_alignment(struct file *f)
{
    _cleanup_free_ uint8_t *page = xaligned(PAGE_SIZE_4K, 2 * PAGE_SIZE_4K);

    for (uint32_t align = DT_SECTOR_SIZE; align < PAGE_SIZE_4K; align *= 2)
        if (pread(f->fd, page + align, align, align) >= 0) {
            f->mem_align = f->block = align;
            return;
        }
    f->mem_align = f->block = PAGE_SIZE_4K;
}

static bool power_of_two(uint32_t n)
{
    return n && !(n & (n - 1));
}

/* What O_DIRECT wants of memory (@mem_align) and of ranges (@block). */
static void find_alignment(struct file *f)
{
    struct statx stx = {0};

    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN)) {
        f->mem_align = stx.stx_dio_mem_align;
        f->block = stx.stx_dio_offset_align;
        if (f->block == 0) { /* this file cannot: encrypted, inline, ... */
            f->direct = false;
            fcntl(f->fd, F_SETFL, 0);
        }
    }
    if (f->direct && (!power_of_two(f->mem_align) || !power_of_two(f->block)))
        try_alignment(f);
}

static int device_info(struct file *f, dev_t dev, struct dt_error *err)
{
    unsigned optimal = 0, physical = 0;
    int logical = 0, fixed = 0;
    unsigned short rotational = 0;
    uint64_t discard_max;

    if (ioctl(f->fd, BLKSSZGET, &logical) < 0 || ioctl(f->fd, BLKPBSZGET, &physical) < 0)
        return dt_fail(err, -errno, "%s: cannot find its block size: %s", f->path, strerror(errno));
    if (!f->read_only && ioctl(f->fd, BLKROGET, &fixed) == 0 && fixed)
        return dt_fail(err, -EROFS, "%s is a read-only device (read-only=on would do)", f->path);
    ioctl(f->fd, BLKIOOPT, &optimal);
    ioctl(f->fd, BLKROTATIONAL, &rotational);
    f->block = (uint32_t)logical;
    f->info.logical_block = f->block;
    f->info.physical_block = MAX(physical, f->block);
    f->info.optimal_io = optimal;
    f->info.rotational = rotational;
    f->info.discard_align = (uint32_t)(queue_number(dev, "discard_granularity") >> DT_SECTOR_SHIFT);
    discard_max = queue_number(dev, "discard_max_bytes");
    f->no_punch = discard_max == 0;
    return 0;
}

/*
 * A file system may want ranges in units of 4096 (4Kn disks below it). A guest that was installed
 * on sectors of 512 could not read its disk with others, so unless it was asked for, such a file
 * goes through the page cache.
 */
static int regular_info(struct file *f, const struct stat *st, struct dt_error *err)
{
    uint32_t wanted = f->block_size ? (uint32_t)f->block_size : DT_SECTOR_SIZE;
    struct statfs fs;

    if (f->direct && f->block > wanted) {
        log_warning("%s: the file system wants direct I/O in units of %u: using the page cache "
                    "(block-size=4096 would do, for a new disk)",
                    f->path, f->block);
        f->direct = false;
        fcntl(f->fd, F_SETFL, 0);
    }
    f->block = wanted;
    f->info.logical_block = f->info.physical_block = wanted;
    if (fstatfs(f->fd, &fs) == 0 && fs.f_bsize > 0 && power_of_two((uint32_t)fs.f_bsize)) {
        f->info.physical_block = MAX(wanted, MIN((uint32_t)fs.f_bsize, PAGE_SIZE_4K));
        f->info.discard_align = (uint32_t)fs.f_bsize >> DT_SECTOR_SHIFT;
    }
    f->info.rotational = queue_number(st->st_dev, "rotational");
    /* Beyond the end a hole changes nothing, and tells whether there can be holes at all. */
    if (!f->read_only &&
        fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)ALIGN_UP((uint64_t)st->st_size, (uint64_t)1 << 20), PAGE_SIZE_4K) < 0)
        f->no_punch = errno == EOPNOTSUPP || errno == ENOSYS;
    return 0;
}

int file_current_size(const struct file *f, uint64_t *bytes, struct dt_error *err)
{
    struct stat st;

    if (f->is_device ? ioctl(f->fd, BLKGETSIZE64, bytes) < 0 : fstat(f->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: cannot find its size: %s", f->path, strerror(errno));
    if (!f->is_device)
        *bytes = (uint64_t)st.st_size;
    if (*bytes == 0)
        return dt_fail(err, -EINVAL, "%s is empty: a disk has at least one sector", f->path);
    if (*bytes % f->block)
        return dt_fail(err, -EINVAL, "%s: its size, %llu bytes, is not a multiple of %u", f->path,
                       (unsigned long long)*bytes, f->block);
    return 0;
}

static int find_info(struct file *f, struct dt_error *err)
{
    uint64_t bytes;
    struct stat st;
    int ret;

    if (f->block_size && f->block_size != DT_SECTOR_SIZE && f->block_size != PAGE_SIZE_4K)
        return dt_fail(err, -EINVAL, "block-size is 512 or 4096");
    if (fstat(f->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", f->path, strerror(errno));
    f->mem_align = f->block = DT_SECTOR_SIZE;
    if (f->direct)
        find_alignment(f);
    ret = f->is_device ? device_info(f, st.st_rdev, err) : regular_info(f, &st, err);
    if (ret < 0)
        return ret;
    if (f->block_size && f->block_size != f->block)
        return dt_fail(err, -EINVAL, "block-size=%llu: the blocks of %s have %u bytes",
                       (unsigned long long)f->block_size, f->path, f->block);
    f->info.read_only = f->read_only;
    f->info.can_flush = true;
    f->info.can_discard = !f->read_only && f->discard && !f->no_punch;
    f->info.can_write_zeroes = !f->read_only;
    f->info.write_zeroes_unmaps = f->info.can_discard;
    f->info.max_segments = IOV_LIMIT;
    ret = file_current_size(f, &bytes, err);
    f->sectors = bytes >> DT_SECTOR_SHIFT;
    return ret;
}

int file_open(struct dt_layer *layer, struct dt_error *err)
{
    struct file *f = dt_layer_data(layer);
    int ret;

    f->layer = layer;
    f->shortage = (struct shortage){.layer = layer, .path = f->path, .policy = &f->on_full};
    f->fd = -1;
    ret = open_or_create(f, err);
    if (ret == 0)
        ret = find_info(f, err);
    if (ret < 0 && f->fd >= 0)
        close(f->fd);
    return ret;
}
