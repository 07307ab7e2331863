/* SPDX-License-Identifier: MIT */
/* source.c - see source.h; raw images. */
#include "tools/cvd/source.h"

#include "base/base.h"

#include <fcntl.h>
#include <sys/stat.h>

/** struct raw - a raw image. */
struct raw {
    struct source source;
    int fd;
    char *path;
};

static int failed(const struct raw *r, struct dt_error *err)
{
    return dt_fail(err, -errno, "%s: %s", r->path, strerror(errno));
}

static int raw_extent(struct source *s, uint64_t at, uint64_t *from, uint64_t *to,
                      struct dt_error *err)
{
    const struct raw *r = container_of(s, struct raw, source);
    off_t data = lseek(r->fd, (off_t)at, SEEK_DATA), hole;

    if (data < 0)
        return errno == ENXIO ? 0 : failed(r, err); /* nothing but a hole */
    hole = lseek(r->fd, data, SEEK_HOLE);
    if (hole < 0)
        return failed(r, err);
    *from = (uint64_t)data;
    *to = (uint64_t)hole;
    return 1;
}

static int raw_read(struct source *s, void *buf, uint64_t offset, size_t length,
                    struct dt_error *err)
{
    const struct raw *r = container_of(s, struct raw, source);
    size_t have = 0;

    while (have < length) {
        ssize_t n = pread(r->fd, (char *)buf + have, length - have, (off_t)(offset + have));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(r, err);
        if (n == 0)
            break;
        have += (size_t)n;
    }
    if (offset + have < MIN(s->size, offset + length))
        return dt_fail(err, -EIO, "%s became shorter while it was read", r->path);
    memset((char *)buf + have, 0, length - have);
    return 0;
}

static void raw_close(struct source *s)
{
    struct raw *r = container_of(s, struct raw, source);

    if (r->fd >= 0)
        close(r->fd);
    free(r->path);
    free(r);
}

static int raw_open(struct raw *r, const char *path, struct dt_error *err)
{
    struct stat st;

    r->source = (struct source){.extent = raw_extent, .read = raw_read, .close = raw_close};
    r->path = xstrdup(path);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0 || fstat(r->fd, &st) < 0)
        return failed(r, err);
    if (!S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is not a regular file", path);
    r->source.size = (uint64_t)st.st_size;
    return 0;
}

static bool is_uri(const char *what)
{
    return strncmp(what, "nbd", 3) == 0 && strstr(what, "://");
}

/* The content of a raw image is its guest's, who may have made it look like another format, with any file
 * as its base: so what it is has to be said. */
static int refuse_doubtful(const struct raw *r, struct dt_error *err)
{
    char magic[4];

    if (pread(r->fd, magic, 4, 0) != 4 || memcmp(magic, "QFI\xfb", 4))
        return 0;
    return dt_fail(err, -EINVAL,
                   "%s looks like a qcow2 image: say --format qcow2, or raw to copy it as it is",
                   r->path);
}

int source_open(struct source **out, const char *what, const char *format, struct dt_error *err)
{
    struct raw *r;
    int ret;

    if (format && strcmp(format, "raw") && strcmp(format, "qcow2"))
        return dt_fail(err, -EINVAL, "--format is raw or qcow2");
    if (is_uri(what))
        return source_open_nbd(out, what, NULL, NULL, err);
    if (format && strcmp(format, "qcow2") == 0)
        return source_open_nbd(out, NULL, what, format, err);
    r = xcalloc(1, sizeof(*r));
    ret = raw_open(r, what, err);
    if (ret == 0 && !format)
        ret = refuse_doubtful(r, err);
    if (ret < 0)
        raw_close(&r->source);
    else
        *out = &r->source;
    return ret;
}
