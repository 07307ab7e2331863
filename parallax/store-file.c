/* SPDX-License-Identifier: MIT */
/*
 * store-file.c - a pool in a regular file or on a block device.
 *
 * Theory of operation: data goes past the page cache by a descriptor with O_DIRECT, through the thread's loop. What the pool
 * itself keeps (journal, nodes, maps) goes through the page cache by another: a write there costs a copy, survives
 * the process, and becomes durable with the next fdatasync(2), which covers both descriptors because they share
 * the inode. The two never touch the same block between two roots, because a block that is freed is not used again before the
 * next one; when one changes from one kind to the other, the kernel keeps the two views coherent.
 */
#include "parallax/store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#define LOCK_AT ((off_t)1 << 61) /* far behind any data */
#define POLL_NS DT_MS(1)

struct file_store {
    struct store s;
    struct loop *loop;
    char *path;
    int fd, direct; /* through the page cache, and past it; the same where a file system cannot */
    bool device, no_punch;
};

static struct file_store *of(struct store *s)
{
    return container_of(s, struct file_store, s);
}

/* ---- Data ---- */

static void moved(struct dt_io *io, int result)
{
    struct store_io *sio = container_of(io, struct store_io, io);

    if (result >= 0)
        result = (size_t)result == sio->iov.iov_len ? 0 : -EIO;
    sio->done(sio, result);
}

static void begin(struct store *s, struct store_io *sio, const void *buf, unsigned count)
{
    sio->store = s;
    sio->io.done = moved;
    sio->iov = (struct iovec){(void *)(uintptr_t)buf, (size_t)count * PX_BLOCK};
}

static void file_read(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                      unsigned count)
{
    begin(s, sio, buf, count);
    loop_readv(of(s)->loop, &sio->io, of(s)->direct, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

static void file_write(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                       unsigned count)
{
    begin(s, sio, buf, count);
    loop_writev(of(s)->loop, &sio->io, of(s)->direct, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

static void flushed(struct dt_io *io, int result)
{
    struct store_io *sio = container_of(io, struct store_io, io);

    sio->done(sio, result);
}

static void file_flush(struct store *s, struct store_io *sio)
{
    sio->store = s;
    sio->io.done = flushed;
    loop_fdatasync(of(s)->loop, &sio->io, of(s)->fd);
}

/* ---- What the pool keeps ---- */

static int file_get(struct store *s, void *buf, uint64_t addr, unsigned count)
{
    size_t size = (size_t)count * PX_BLOCK, done = 0;

    while (done < size) {
        ssize_t n = pread(of(s)->fd, (char *)buf + done, size - done,
                          (off_t)((addr << PX_BLOCK_SHIFT) + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int file_put(struct store *s, const void *buf, uint64_t addr, unsigned count)
{
    size_t size = (size_t)count * PX_BLOCK, done = 0;

    while (done < size) {
        ssize_t n = pwrite(of(s)->fd, (const char *)buf + done, size - done,
                           (off_t)((addr << PX_BLOCK_SHIFT) + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int file_sync(struct store *s)
{
    return fdatasync(of(s)->fd) < 0 ? -errno : 0;
}

static void file_punch(struct store *s, uint64_t addr, uint64_t count)
{
    struct file_store *f = of(s);

    if (!f->no_punch && fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  (off_t)(addr << PX_BLOCK_SHIFT),
                                  (off_t)(count << PX_BLOCK_SHIFT)) < 0)
        f->no_punch = true;
}

static void file_close(struct store *s)
{
    struct file_store *f = of(s);

    if (f->direct >= 0 && f->direct != f->fd)
        close(f->direct);
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f);
}

/* ---- Opening ---- */

static int take_lock(const struct file_store *f, const struct store_file_options *o)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    struct flock lock = {.l_type = o->read_only ? F_RDLCK : F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = LOCK_AT,
                         .l_len = 1};
    uint64_t until = dt_clock_ns() + o->wait_ns;

    /* On both descriptions: an I/O in flight pins the one that it was started on. */
    for (;;) {
        int ret = fcntl(f->fd, F_OFD_SETLK, &lock);

        lock.l_start++;
        if (ret == 0 && f->direct != f->fd)
            ret = fcntl(f->direct, F_OFD_SETLK, &lock);
        lock.l_start--;
        if (ret == 0)
            return 0;
        if (errno != EAGAIN && errno != EACCES)
            return -errno;
        if (dt_clock_ns() >= until)
            return -EBUSY;
        nanosleep(&pause, NULL);
    }
}

static int in_use(const struct file_store *f, struct dt_error *err)
{
    char who[PX_BLOCK] = "";

    if (pread(f->fd, who, sizeof(who) - 1, (off_t)PX_HOLDER_AT << PX_BLOCK_SHIFT) < 0)
        who[0] = '\0';
    who[strnlen(who, 100)] = '\0';
    for (char *p = who; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    return dt_fail(err, -EBUSY, "%s is in use%s%s", f->path, *who ? " by " : "", who);
}

static int find_size(struct file_store *f, struct dt_error *err)
{
    struct stat st;
    uint64_t bytes = 0;

    if (fstat(f->fd, &st) < 0)
        return dt_fail(err, -errno, "%s: %s", f->path, strerror(errno));
    f->device = S_ISBLK(st.st_mode);
    if (!f->device && !S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "%s is neither a regular file nor a block device", f->path);
    if (f->device && ioctl(f->fd, BLKGETSIZE64, &bytes) < 0)
        return dt_fail(err, -errno, "%s: cannot find its size: %s", f->path, strerror(errno));
    f->s.blocks = (f->device ? bytes : (uint64_t)st.st_size) >> PX_BLOCK_SHIFT;
    return 0;
}

static int open_both(struct file_store *f, const struct store_file_options *o, struct dt_error *err)
{
    int flags = O_CLOEXEC | O_NOCTTY | (o->read_only ? O_RDONLY : O_RDWR);

    f->fd = open(f->path, flags | (o->create ? O_CREAT : 0), 0600);
    if (f->fd < 0 && errno == ENOENT)
        return dt_fail(err, -ENOENT, "there is no pool %s (cvd pool create makes one)", f->path);
    if (f->fd < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", f->path, strerror(errno));
    f->direct = open(f->path, flags | O_DIRECT);
    if (f->direct < 0 && errno == EINVAL)
        f->direct = f->fd; /* a file system without it */
    if (f->direct < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", f->path, strerror(errno));
    return 0;
}

int store_file_open(struct store **store, const char *path, const struct store_file_options *o,
                    struct dt_error *err)
{
    struct file_store *f = xcalloc(1, sizeof(*f));
    int ret;

    f->s = (struct store){.read = file_read,
                          .write = file_write,
                          .flush = file_flush,
                          .get = file_get,
                          .put = file_put,
                          .sync = file_sync,
                          .punch = file_punch,
                          .close = file_close};
    f->loop = o->loop;
    f->path = xstrdup(path);
    f->s.name = f->path;
    f->fd = f->direct = -1;
    ret = open_both(f, o, err);
    if (ret == 0) {
        ret = take_lock(f, o);
        if (ret == -EBUSY)
            ret = in_use(f, err);
        else if (ret < 0)
            dt_fail(err, ret, "%s: its file system cannot lock it: %s", path, strerror(-ret));
    }
    ret = ret ?: find_size(f, err);
    if (ret == 0 && o->create && !f->device)
        ret = store_file_grow(&f->s, o->size, err);
    if (ret < 0) {
        file_close(&f->s);
        return ret;
    }
    *store = &f->s;
    return 0;
}

int store_file_grow(struct store *store, uint64_t bytes, struct dt_error *err)
{
    struct file_store *f = of(store);

    if (!f->device && bytes >> PX_BLOCK_SHIFT > store->blocks && ftruncate(f->fd, (off_t)bytes) < 0)
        return dt_fail(err, -errno, "cannot make %s %llu bytes long: %s", f->path,
                       (unsigned long long)bytes, strerror(errno));
    return find_size(f, err);
}

void store_file_loop(struct store *store, struct loop *loop)
{
    of(store)->loop = loop;
}
