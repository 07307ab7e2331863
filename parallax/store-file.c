/* SPDX-License-Identifier: MIT */
/*
 * store-file.c - a pool in a regular file or on a block device.
 *
 * Theory of operation: data goes past the page cache by a descriptor with O_DIRECT, through the
 * thread's loop. What the pool itself keeps (journal, nodes, maps) goes through the page cache by
 * another: a write there costs a copy, survives the process, and becomes durable with the next
 * fdatasync(2), which covers both descriptors because they share the inode. A flush takes a thread
 * in any case (io_uring uses one, too), so it has one of ours, which can be waited for when the
 * disk stops. The two descriptors never touch the same block between two roots, because a block
 * that is freed is not used again before the next one; when one changes from one kind to the other,
 * the kernel keeps the two views coherent.
 */
#include "parallax/store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#define LOCK_AT ((off_t)1 << 61) /* far behind any data */
#define POLL_NS DT_MS(1)

/** struct flusher - the thread that flushes. @busy: flushes handed to it and not yet completed on
 * the loop. */
struct flusher {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct store_io *queue, *finished;
    unsigned busy;
    bool runs, stop;
    int event;
    struct dt_watch watch;
};

struct file_store {
    struct store s;
    struct loop *loop;
    char *path;
    int fd, direct; /* through the page cache, and past it; the same where a file system cannot */
    bool device, no_punch, read_only;
    struct flusher flusher;
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

static void begin(struct store_io *sio, const void *buf, unsigned count)
{
    sio->io.done = moved;
    sio->iov = (struct iovec){(void *)(uintptr_t)buf, (size_t)count * PX_BLOCK};
}

static void file_read(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                      unsigned count)
{
    begin(sio, buf, count);
    loop_readv(of(s)->loop, &sio->io, of(s)->direct, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

static void file_write(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                       unsigned count)
{
    begin(sio, buf, count);
    loop_writev(of(s)->loop, &sio->io, of(s)->direct, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

/* What @get reads is in the page cache as long as it was put lately, and not on the disk perhaps. */
static void file_fetch(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                       unsigned count)
{
    begin(sio, buf, count);
    loop_readv(of(s)->loop, &sio->io, of(s)->fd, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

/* ---- Flushes ---- */

/* One fdatasync(2) for all that wait. */
static void *flusher_main(void *arg)
{
    struct file_store *f = arg;
    struct flusher *fl = &f->flusher;

    pthread_mutex_lock(&fl->lock);
    for (;;) {
        struct store_io *batch;
        uint64_t one = 1;
        int result;

        while (!fl->queue && !fl->stop)
            pthread_cond_wait(&fl->wake, &fl->lock);
        if (!fl->queue)
            break;
        batch = fl->queue;
        fl->queue = NULL;
        pthread_mutex_unlock(&fl->lock);
        result = fdatasync(f->fd) < 0 ? -errno : 0;
        pthread_mutex_lock(&fl->lock);
        while (batch) {
            struct store_io *next = batch->next;

            batch->result = result;
            batch->next = fl->finished;
            fl->finished = batch;
            batch = next;
        }
        if (write(fl->event, &one, sizeof(one)) < 0)
            log_warning("%s: the end of a flush cannot be told: %s", f->path, strerror(errno));
    }
    pthread_mutex_unlock(&fl->lock);
    return NULL;
}

static void complete_flushes(struct file_store *f)
{
    struct store_io *sio, *next;

    pthread_mutex_lock(&f->flusher.lock);
    sio = f->flusher.finished;
    f->flusher.finished = NULL;
    pthread_mutex_unlock(&f->flusher.lock);
    for (; sio; sio = next) {
        next = sio->next;
        f->flusher.busy--;
        sio->done(sio, sio->result);
    }
}

static void flusher_ready(struct dt_watch *watch, uint32_t events)
{
    struct file_store *f = container_of(watch, struct file_store, flusher.watch);
    uint64_t count;

    if (read(f->flusher.event, &count, sizeof(count)) == sizeof(count))
        complete_flushes(f);
}

static void file_flush(struct store *s, struct store_io *sio)
{
    struct flusher *fl = &of(s)->flusher;

    pthread_mutex_lock(&fl->lock);
    sio->next = fl->queue;
    fl->queue = sio;
    fl->busy++;
    pthread_cond_signal(&fl->wake);
    pthread_mutex_unlock(&fl->lock);
}

static int flusher_start(struct file_store *f)
{
    struct flusher *fl = &f->flusher;
    int ret;

    fl->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fl->event < 0)
        return -errno;
    fl->watch = (struct dt_watch){.ready = flusher_ready, .fd = fl->event, .events = EPOLLIN};
    fl->stop = false;
    ret = loop_watch_add(f->loop, &fl->watch);
    if (ret == 0)
        ret = -pthread_create(&fl->thread, NULL, flusher_main, f);
    fl->runs = ret == 0;
    return ret;
}

static void flusher_stop(struct file_store *f)
{
    struct flusher *fl = &f->flusher;

    if (!fl->runs)
        return;
    loop_watch_remove(f->loop, &fl->watch);
    while (fl->busy) { /* a completion may begin another */
        struct pollfd p = {.fd = fl->event, .events = POLLIN};
        uint64_t count;

        poll(&p, 1, -1);
        if (read(fl->event, &count, sizeof(count)) == sizeof(count))
            complete_flushes(f);
    }
    pthread_mutex_lock(&fl->lock);
    fl->stop = true;
    pthread_cond_signal(&fl->wake);
    pthread_mutex_unlock(&fl->lock);
    pthread_join(fl->thread, NULL);
    close(fl->event);
    fl->runs = false;
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

    if (!f->no_punch &&
        fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(addr << PX_BLOCK_SHIFT), (off_t)(count << PX_BLOCK_SHIFT)) < 0)
        f->no_punch = true;
}

static void file_close(struct store *s)
{
    struct file_store *f = of(s);

    CHECK(!f->flusher.runs);
    pthread_mutex_destroy(&f->flusher.lock);
    pthread_cond_destroy(&f->flusher.wake);
    if (f->direct >= 0 && f->direct != f->fd)
        close(f->direct);
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f);
}

/* ---- Opening ---- */

/* On both descriptions: an I/O in flight pins the one that it was started on. */
static int try_lock(const struct file_store *f)
{
    struct flock lock = {.l_type = f->read_only ? F_RDLCK : F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = LOCK_AT,
                         .l_len = 1};

    if (fcntl(f->fd, F_OFD_SETLK, &lock) < 0)
        return -errno;
    lock.l_start++;
    if (f->direct != f->fd && fcntl(f->direct, F_OFD_SETLK, &lock) < 0)
        return -errno;
    return 0;
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

int store_file_lock(struct store *store, uint64_t deadline, struct dt_error *err)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    const struct file_store *f = of(store);
    int ret;

    while ((ret = try_lock(f)) == -EAGAIN || ret == -EACCES) {
        if (dt_clock_ns() >= deadline)
            return in_use(f, err);
        nanosleep(&pause, NULL);
    }
    return ret < 0 ? dt_fail(err, ret, "%s: its file system cannot lock it: %s", f->path,
                             strerror(-ret))
                   : 0;
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

static void file_prefetch(struct store *s, uint64_t addr, uint64_t count)
{
    posix_fadvise(of(s)->fd, (off_t)(addr << PX_BLOCK_SHIFT), (off_t)(count << PX_BLOCK_SHIFT),
                  POSIX_FADV_WILLNEED);
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
                          .fetch = file_fetch,
                          .prefetch = file_prefetch,
                          .close = file_close};
    pthread_mutex_init(&f->flusher.lock, NULL);
    pthread_cond_init(&f->flusher.wake, NULL);
    f->read_only = o->read_only;
    f->path = xstrdup(path);
    f->s.name = f->path;
    f->fd = f->direct = -1;
    ret = open_both(f, o, err);
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

int store_file_loop(struct store *store, struct loop *loop)
{
    struct file_store *f = of(store);

    if (!loop)
        flusher_stop(f);
    f->loop = loop;
    return loop ? flusher_start(f) : 0;
}
