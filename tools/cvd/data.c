/* SPDX-License-Identifier: MIT */
/*
 * data.c - cvd fill and export: whole disks, with several requests under way, holes kept.
 */
#include "tools/cvd/cvd.h"

#include <fcntl.h>
#include <sys/stat.h>

#define DEPTH 16u
#define PIECE (DISK_MAX_BLOCKS * (size_t)PX_BLOCK)

struct copy;

/** struct piece - a request and its memory. */
struct piece {
    struct disk_req req;
    struct copy *copy;
    bool busy;
};

struct copy {
    struct target *t;
    struct disk *disk;
    int fd;
    unsigned busy;
    int error;
    struct piece pieces[DEPTH];
};

static void piece_done(struct disk_req *req)
{
    struct piece *p = container_of(req, struct piece, req);
    struct copy *c = p->copy;

    if (req->error && !c->error)
        c->error = req->error;
    if (req->op == DISK_READ && !req->error && !c->error) {
        ssize_t n = pwrite(c->fd, req->buf, req->length, (off_t)req->offset);

        if (n < 0 || (size_t)n != req->length)
            c->error = n < 0 ? -errno : -EIO;
    }
    p->busy = false;
    c->busy--;
}

static struct piece *piece_get(struct copy *c)
{
    for (;;) {
        for (unsigned i = 0; i < DEPTH; i++)
            if (!c->pieces[i].busy)
                return &c->pieces[i];
        target_turn(c->t);
    }
}

static void piece_submit(struct copy *c, struct piece *p, enum disk_op op, uint64_t offset,
                         uint64_t length)
{
    p->busy = true;
    c->busy++;
    p->req.op = op;
    p->req.offset = offset;
    p->req.length = length;
    disk_submit(c->disk, &p->req);
}

static int copy_begin(struct copy *c, struct target *t, bool read_only, struct dt_error *err)
{
    int ret = disk_open(&c->disk, t->pool, t->slot, read_only, "cvd", err);

    ret = ret ?: target_data(t, err);
    c->t = t;
    for (unsigned i = 0; i < DEPTH; i++) {
        c->pieces[i].copy = c;
        c->pieces[i].req.done = piece_done;
        c->pieces[i].req.buf = xaligned(PX_BLOCK, PIECE);
    }
    return ret;
}

static int copy_end(struct copy *c, int ret, const char *path, struct dt_error *err)
{
    while (c->busy)
        target_turn(c->t);
    while (c->t && c->t->loop && !pool_idle(c->t->pool))
        target_turn(c->t);
    for (unsigned i = 0; i < DEPTH; i++)
        free(c->pieces[i].req.buf);
    if (c->disk)
        disk_close(c->disk);
    if (ret == 0 && c->error)
        ret = dt_fail(err, c->error, "%s: %s", path, strerror(-c->error));
    return ret;
}

/* ---- fill ---- */

static int fill_range(struct copy *c, uint64_t from, uint64_t to, uint64_t total)
{
    while (from < to && !c->error) {
        struct piece *p = piece_get(c);
        size_t length = (size_t)MIN(to - from, (uint64_t)PIECE);
        ssize_t n = pread(c->fd, p->req.buf, length, (off_t)from);

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        /* The end of an image may be within a block. */
        memset((char *)p->req.buf + n, 0, ALIGN_UP((size_t)n, (size_t)PX_BLOCK) - (size_t)n);
        piece_submit(c, p, DISK_WRITE, from, ALIGN_UP((uint64_t)n, (uint64_t)PX_BLOCK));
        from += (uint64_t)n;
        progress("fill", from, total);
    }
    return 0;
}

static int fill_all(struct copy *c, uint64_t size)
{
    uint64_t at = 0;

    while (at < size) {
        off_t data = lseek(c->fd, (off_t)at, SEEK_DATA), hole;

        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* nothing but a hole */
        data &= ~(off_t)(PX_BLOCK - 1);
        hole = lseek(c->fd, (off_t)MAX((uint64_t)data, at), SEEK_HOLE);
        if (hole < 0)
            return -errno;
        hole = (off_t)MIN(ALIGN_UP((uint64_t)hole, (uint64_t)PX_BLOCK), size);
        int ret = fill_range(c, MAX((uint64_t)data, at), (uint64_t)hole, size);

        if (ret < 0 || c->error)
            return ret;
        at = (uint64_t)hole;
    }
    return 0;
}

static int judge_image(struct copy *c, const char *path, uint64_t disk, uint64_t *size,
                       struct dt_error *err)
{
    char magic[4] = "";
    struct stat st;

    c->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0 || fstat(c->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", path);
    if (pread(c->fd, magic, 4, 0) == 4 && memcmp(magic, "QFI\xfb", 4) == 0)
        return dt_fail(err, -EINVAL, "%s is a qcow2 image: 'qemu-img convert -O raw' makes it raw",
                       path);
    *size = (uint64_t)st.st_size;
    if (*size > disk)
        return dt_fail(err, -EFBIG, "%s has %llu bytes, the disk only %llu: cvd resize it", path,
                       (unsigned long long)*size, (unsigned long long)disk);
    return 0;
}

int cmd_fill(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    struct copy c = {.fd = -1};
    uint64_t size = 0;
    int ret = judge_image(&c, argv[1], pool_record(t->pool, t->slot)->size, &size, err);

    if (ret == 0) {
        ret = copy_begin(&c, t, false, err);
        /* What is not in the image is zero, whatever the disk had. */
        if (ret == 0)
            piece_submit(&c, piece_get(&c), DISK_ZERO, 0, pool_record(t->pool, t->slot)->size);
        while (ret == 0 && c.busy)
            target_turn(t);
        if (ret == 0) {
            ret = fill_all(&c, size);
            if (ret < 0)
                dt_fail(err, ret, "%s: %s", argv[1], strerror(-ret));
        }
        ret = copy_end(&c, ret, argv[1], err);
    }
    if (c.fd >= 0)
        close(c.fd);
    return ret;
}

/* ---- export ---- */

static int export_range(void *arg, uint64_t index, uint64_t count, bool mapped)
{
    struct copy *c = arg;
    uint64_t at = index << PX_BLOCK_SHIFT, end = (index + count) << PX_BLOCK_SHIFT;

    while (mapped && at < end && !c->error) {
        uint64_t length = MIN(end - at, (uint64_t)PIECE);

        piece_submit(c, piece_get(c), DISK_READ, at, length);
        at += length;
    }
    return c->error;
}

int cmd_export(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err)
{
    uint64_t size = pool_record(t->pool, t->slot)->size;
    struct copy c = {.fd = open(argv[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    int ret;

    if (c.fd < 0)
        return dt_fail(err, -errno, "cannot make %s: %s", argv[1], strerror(errno));
    ret = copy_begin(&c, t, true, err);
    if (ret == 0 && ftruncate(c.fd, (off_t)size) < 0)
        ret = dt_fail(err, -errno, "%s: %s", argv[1], strerror(errno));
    ret = ret ?: pool_diff(t->pool, NO_SLOT, t->slot, export_range, &c, err);
    ret = copy_end(&c, ret, argv[1], err);
    if (ret == 0 && fsync(c.fd) < 0)
        ret = dt_fail(err, -errno, "%s: %s", argv[1], strerror(errno));
    close(c.fd);
    return ret;
}
