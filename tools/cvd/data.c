/* SPDX-License-Identifier: MIT */
/*
 * data.c - cvd fill and export: whole disks, with several requests under way, holes kept.
 */
#include "tools/cvd/transfer.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- fill ---- */

static int fill_range(struct transfer *x, int fd, uint64_t from, uint64_t to, uint64_t total)
{
    while (from < to) {
        struct piece *p = transfer_get(x);
        size_t length = (size_t)MIN(to - from, (uint64_t)TRANSFER_PIECE);
        ssize_t n = p ? pread(fd, p->buf, length, (off_t)from) : 0;

        if (!p)
            return transfer_error(x);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        /* The end of an image may be within a block. */
        memset((char *)p->buf + n, 0, ALIGN_UP((size_t)n, (size_t)PX_BLOCK) - (size_t)n);
        transfer_submit(x, p, DISK_WRITE, from, ALIGN_UP((uint64_t)n, (uint64_t)PX_BLOCK));
        from += (uint64_t)n;
        progress("fill", from, total);
    }
    return 0;
}

static int fill_all(struct transfer *x, int fd, uint64_t size)
{
    uint64_t at = 0;

    while (at < size) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
        int ret;

        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* nothing but a hole */
        data &= ~(off_t)(PX_BLOCK - 1);
        hole = lseek(fd, (off_t)MAX((uint64_t)data, at), SEEK_HOLE);
        if (hole < 0)
            return -errno;
        hole = (off_t)MIN(ALIGN_UP((uint64_t)hole, (uint64_t)PX_BLOCK), size);
        ret = fill_range(x, fd, MAX((uint64_t)data, at), (uint64_t)hole, size);
        if (ret < 0)
            return ret;
        at = (uint64_t)hole;
    }
    return 0;
}

static int open_image(const char *path, uint64_t *size, struct dt_error *err)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char magic[4] = "";
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", path);
    if (pread(fd, magic, 4, 0) == 4 && memcmp(magic, "QFI\xfb", 4) == 0)
        return dt_fail(err, -EINVAL, "%s is a qcow2 image: 'qemu-img convert -O raw' makes it raw",
                       path);
    *size = (uint64_t)st.st_size;
    return TAKE_FD(fd);
}

int cmd_fill(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    uint64_t size = 0, disk;
    _cleanup_close_ int fd = open_image(argv[1], &size, err);
    struct transfer *x;
    int ret = fd < 0 ? fd : transfer_open(&x, t, false, NULL, NULL, err);

    if (ret < 0)
        return ret;
    disk = transfer_size(x);
    if (size > disk) {
        ret = dt_fail(err, -EFBIG, "%s has %llu bytes, the disk only %llu: cvd resize it", argv[1],
                      (unsigned long long)size, (unsigned long long)disk);
    } else {
        /* What is not in the image is zero, whatever the disk had. */
        ret = transfer_zero(x, 0, disk);
        ret = ret ?: fill_all(x, fd, size);
        if (ret < 0)
            dt_fail(err, ret, "%s: %s", argv[1], strerror(-ret));
    }
    return transfer_close(x, true, ret, argv[1], err);
}

/* ---- export ---- */

struct export {
    struct transfer *x;
    int fd;
    uint64_t size;
};

static bool all_zero(const uint8_t *bytes, size_t n)
{
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

static int write_piece(void *arg, const struct piece *p)
{
    const struct export *e = arg;
    ssize_t n;

    if (all_zero(p->buf, p->length))
        return 0; /* the new file has a hole there */
    n = pwrite(e->fd, p->buf, p->length, (off_t)p->offset);
    return n < 0 ? -errno : (size_t)n == p->length ? 0 : -EIO;
}

static int export_range(void *arg, uint64_t index, uint64_t count, bool mapped)
{
    const struct export *e = arg;
    uint64_t at = index << PX_BLOCK_SHIFT, end = (index + count) << PX_BLOCK_SHIFT;

    while (mapped && at < end) {
        uint64_t length = MIN(end - at, (uint64_t)TRANSFER_PIECE);
        struct piece *p = transfer_get(e->x);

        if (!p)
            return transfer_error(e->x);
        transfer_submit(e->x, p, DISK_READ, at, length);
        at += length;
        progress("export", at, e->size);
    }
    return 0;
}

/* Where another process has the pool, its maps are not ours to read: holes cost a request, but no I/O. */
static int export_all(struct export *e, struct target *t, const char *path, struct dt_error *err)
{
    int ret;

    e->size = transfer_size(e->x);
    if (ftruncate(e->fd, (off_t)e->size) < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (t->pool && t->moment == PRESENT)
        return pool_diff(t->pool, NO_SLOT, t->slot, export_range, e, err);
    ret = export_range(e, 0, e->size >> PX_BLOCK_SHIFT, true);
    return ret < 0 ? dt_fail(err, ret, "%s: %s", path, strerror(-ret)) : 0;
}

int cmd_export(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    _cleanup_close_ int fd = open(argv[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct export e = {.fd = fd};
    int ret;

    if (fd < 0)
        return dt_fail(err, -errno, "cannot make %s: %s", argv[1], strerror(errno));
    ret = transfer_open(&e.x, t, true, write_piece, &e, err);
    if (ret == 0) {
        ret = export_all(&e, t, argv[1], err);
        ret = transfer_close(e.x, false, ret, argv[1], err);
    }
    if (ret == 0 && fsync(fd) < 0)
        ret = dt_fail(err, -errno, "%s: %s", argv[1], strerror(errno));
    if (ret < 0)
        unlink(argv[1]);
    return ret;
}
