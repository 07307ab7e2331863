/* SPDX-License-Identifier: MIT */
/*
 * data.c - cvd fill and export: whole disks, with several requests under way, holes kept.
 */
#include "tools/cvd/source.h"
#include "tools/cvd/transfer.h"

#include <fcntl.h>

/* ---- fill ---- */

static int fill_range(struct transfer *x, struct source *from, uint64_t at, uint64_t end,
                      struct dt_error *err)
{
    while (at < end) {
        struct piece *p = transfer_get(x);
        uint64_t length = MIN(end - at, (uint64_t)TRANSFER_PIECE);
        int ret;

        if (!p)
            return dt_fail(err, transfer_error(x), "the disk cannot be written: %s",
                           strerror(-transfer_error(x)));
        ret = from->read(from, p->buf, at, (size_t)length, err);
        if (ret < 0)
            return ret;
        transfer_submit(x, p, DISK_WRITE, at, length);
        at += length;
        progress("fill", at, from->size);
    }
    return 0;
}

static int fill_all(struct transfer *x, struct source *from, struct dt_error *err)
{
    uint64_t at = 0, begin, end, size = ALIGN_UP(from->size, (uint64_t)PX_BLOCK);
    int ret = 0;

    while (ret == 0 && at < from->size && (ret = from->extent(from, at, &begin, &end, err)) > 0) {
        /* In whole blocks; the end of an image may be within one. */
        begin = MAX(ALIGN_DOWN(begin, (uint64_t)PX_BLOCK), at);
        end = MIN(ALIGN_UP(end, (uint64_t)PX_BLOCK), size);
        ret = fill_range(x, from, begin, end, err);
        at = MAX(end, at + 1);
    }
    return ret;
}

static int fill_disk(struct transfer *x, struct source *from, const char *what,
                     struct dt_error *err)
{
    uint64_t disk = transfer_size(x);
    int ret;

    if (from->size > disk)
        return dt_fail(err, -EFBIG, "%s has %llu bytes, the disk only %llu: cvd resize it", what,
                       (unsigned long long)from->size, (unsigned long long)disk);
    /* What is not in the image is zero, whatever the disk had. */
    ret = transfer_zero(x, 0, disk);
    if (ret < 0)
        return dt_fail(err, ret, "the disk cannot be emptied: %s", strerror(-ret));
    return fill_all(x, from, err);
}

int cmd_fill(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err)
{
    struct source *from;
    struct transfer *x;
    int ret = source_open(&from, argv[1], o->format, err);

    if (ret < 0)
        return ret;
    ret = transfer_open(&x, t, false, NULL, NULL, err);
    if (ret == 0)
        ret = transfer_close(x, true, fill_disk(x, from, argv[1], err), argv[1], err);
    if (ret == 0 && o->json)
        print_json(json_pack("{ss sI}", "name", t->name, "bytes", (json_int_t)from->size));
    from->close(from);
    return ret;
}

/* ---- export ---- */

struct export
{
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
    bool standard = strcmp(argv[1], "-") == 0;
    _cleanup_close_ int fd =
        standard ? -1 : open(argv[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    struct export e = {.fd = fd};
    int ret;

    if (standard)
        return dt_fail(
            err, -EINVAL,
            "an image has holes, which standard output cannot ('cvd send' writes streams)");
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
    else if (o->json)
        print_json(json_pack("{ss sI}", "name", t->name, "bytes", (json_int_t)e.size));
    return ret;
}
