/* SPDX-License-Identifier: MIT */
/*
 * store-file.c - a pool in a regular file or on a block device.
 *
 * Theory of operation: data goes past the page cache by a descriptor with O_DIRECT, through the
 * thread's loop. The journal and the roots go through the page cache by another: a write there
 * costs a copy, survives the process, and becomes durable with the next fdatasync(2), which covers
 * all descriptors because they share the inode.
 *
 * Nodes are many at once, and whoever flushes next would have to wait for all of them to be written if they
 * were in the page cache. So a thread writes them past it (@save), as they are known, and a flush finds little to
 * do; only where a pool is opened or closed, and waits for them anyway, they are put. The same thread gives space back to the file
 * system and has it allocated (store-space.c), which may take that one long.
 * Flushes take threads in any case (io_uring uses some, too), so they have ours, which can be
 * waited for when the disk stops. They are several, so that a flush need not wait for the one before: what that
 * one has to write may be much.
 *
 * The descriptors never touch the same block between two roots, because a block
 * that is freed is not used again before the next one; when one changes from one kind to the other,
 * the kernel keeps the two views coherent.
 */
#include "parallax/helper.h"
#include "parallax/store-space.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#define LOCK_AT ((off_t)1 << 61) /* far behind any data */
#define POLL_NS DT_MS(1)

#define FLUSHERS 3u /* two of the pool's at once, and a root's */

/** struct flusher - a thread that flushes, by a descriptor of its own: the kernel tells each open file of an error once. */
struct flusher {
    struct helper helper;
    int fd;
};

struct file_store {
    struct store s;
    struct loop *loop;
    char *path;
    int fd, direct; /* through the page cache, and past it; the same where a file system cannot */
    bool device, read_only;
    struct flusher flushers[FLUSHERS];
    unsigned flusher; /* chosen last */
    struct helper saver;
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

/* A file system that is full takes what fits, and tells of the rest when it is asked again. */
static void written(struct dt_io *io, int result)
{
    struct store_io *sio = container_of(io, struct store_io, io);

    if (result >= 0)
        result = (size_t)result == sio->iov.iov_len ? 0 : -ENOSPC;
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
    if (s->holes)
        sio->io.done = written;
    loop_writev(of(s)->loop, &sio->io, of(s)->direct, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

/* What @get reads is in the page cache as long as it was put lately, and not on the disk perhaps. */
static void file_fetch(struct store *s, struct store_io *sio, void *buf, uint64_t addr,
                       unsigned count)
{
    begin(sio, buf, count);
    loop_readv(of(s)->loop, &sio->io, of(s)->fd, &sio->iov, 1, addr << PX_BLOCK_SHIFT);
}

/* ---- What threads of ours do ---- */

/* One fdatasync(2) for all that wait. */
static void sync_all(void *arg, struct store_io *batch)
{
    const struct flusher *fl = arg;
    int result = fdatasync(fl->fd) < 0 ? -errno : 0;

    for (; batch; batch = batch->next)
        batch->result = result;
}

/* The last one again, which is still awake perhaps; one that does nothing; or the one that was chosen the longest time ago. */
static void file_flush(struct store *s, struct store_io *sio)
{
    struct file_store *f = of(s);
    unsigned chosen = f->flusher;

    for (unsigned i = 1; i < FLUSHERS && f->flushers[chosen].helper.busy; i++)
        chosen = (f->flusher + i) % FLUSHERS;
    if (f->flushers[chosen].helper.busy)
        chosen = (f->flusher + 1) % FLUSHERS;
    f->flusher = chosen;
    helper_add(&f->flushers[chosen].helper, sio);
}

static int write_all(int fd, const void *buf, size_t size, uint64_t at)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, (const char *)buf + done, size - done, (off_t)(at + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int carry_out(const struct file_store *f, const struct store_io *sio)
{
    switch (sio->job) {
    case STORE_SAVE:
        return write_all(f->direct, sio->iov.iov_base, sio->iov.iov_len, sio->at);
    case STORE_PUNCH:
        return store_space_punch(f->fd, sio->at, sio->iov.iov_len);
    case STORE_ALLOCATE: /* a device has all of it */
        return f->device ? 0 : store_space_allocate(f->fd, sio->at, sio->iov.iov_len);
    case STORE_ZERO:
        return store_space_zero(f->direct, sio->at, sio->iov.iov_len);
    }
    return -EINVAL;
}

static void save(void *arg, struct store_io *batch)
{
    for (; batch; batch = batch->next)
        batch->result = carry_out(arg, batch);
}

static void file_save(struct store *s, struct store_io *sio, const void *buf, uint64_t addr,
                      unsigned count)
{
    sio->job = STORE_SAVE;
    sio->iov = (struct iovec){(void *)(uintptr_t)buf, (size_t)count * PX_BLOCK};
    sio->at = addr << PX_BLOCK_SHIFT;
    helper_add(&of(s)->saver, sio);
}

/* @sio NULL: blocking. */
static int of_space(struct file_store *f, struct store_io *sio, enum store_job job, uint64_t addr,
                    uint64_t count)
{
    struct store_io now, *io = sio ?: &now;

    io->job = job;
    io->iov = (struct iovec){NULL, (size_t)count << PX_BLOCK_SHIFT};
    io->at = addr << PX_BLOCK_SHIFT;
    if (!sio)
        return carry_out(f, io);
    helper_add(&f->saver, sio);
    return 0;
}

static void file_punch(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count)
{
    of_space(of(s), sio, STORE_PUNCH, addr, count);
}

static int file_allocate(struct store *s, struct store_io *sio, uint64_t addr, uint64_t count,
                         bool full)
{
    return of_space(of(s), sio, full ? STORE_ZERO : STORE_ALLOCATE, addr, count);
}

static int file_backed(struct store *s, uint64_t addr, uint64_t end, uint64_t *from, uint64_t *to)
{
    uint64_t last = end << PX_BLOCK_SHIFT;
    int ret = store_space_find(of(s)->fd, s->finds_unwritten, addr << PX_BLOCK_SHIFT, &last, from);

    *to = MIN(last >> PX_BLOCK_SHIFT, end);
    *from = MIN(ALIGN_UP(*from, (uint64_t)PX_BLOCK) >> PX_BLOCK_SHIFT, end);
    return ret;
}

static int start_helpers(struct file_store *f)
{
    int ret = 0;

    for (unsigned i = 0; i < FLUSHERS && ret == 0; i++) {
        f->flushers[i].helper.work = sync_all;
        f->flushers[i].helper.arg = &f->flushers[i];
        ret = helper_start(&f->flushers[i].helper, f->loop);
    }
    f->saver.work = save;
    f->saver.arg = f;
    return ret ?: helper_start(&f->saver, f->loop);
}

static bool helpers_busy(const struct file_store *f)
{
    bool busy = f->saver.busy;

    for (unsigned i = 0; i < FLUSHERS; i++)
        busy |= f->flushers[i].helper.busy;
    return busy;
}

/* What one completes may be followed by something that another does. */
static void stop_helpers(struct file_store *f)
{
    while (helpers_busy(f)) {
        helper_drain(&f->saver);
        for (unsigned i = 0; i < FLUSHERS; i++)
            helper_drain(&f->flushers[i].helper);
    }
    helper_stop(&f->saver);
    for (unsigned i = 0; i < FLUSHERS; i++)
        helper_stop(&f->flushers[i].helper);
}

/* ---- What the pool keeps ---- */

int store_pread(int fd, void *buf, uint64_t addr, unsigned count)
{
    size_t size = (size_t)count * PX_BLOCK, done = 0;

    while (done < size) {
        ssize_t n =
            pread(fd, (char *)buf + done, size - done, (off_t)((addr << PX_BLOCK_SHIFT) + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int file_get(struct store *s, void *buf, uint64_t addr, unsigned count)
{
    return store_pread(of(s)->fd, buf, addr, count);
}

static int file_put(struct store *s, const void *buf, uint64_t addr, unsigned count)
{
    return write_all(of(s)->fd, buf, (size_t)count * PX_BLOCK, addr << PX_BLOCK_SHIFT);
}

static int file_sync(struct store *s)
{
    return fdatasync(of(s)->fd) < 0 ? -errno : 0;
}

static void file_close(struct store *s)
{
    struct file_store *f = of(s);

    CHECK(!f->saver.runs);
    for (unsigned i = 0; i < FLUSHERS; i++)
        if (f->flushers[i].fd >= 0)
            close(f->flushers[i].fd);
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

static int open_all(struct file_store *f, const struct store_file_options *o, struct dt_error *err)
{
    int flags = O_CLOEXEC | O_NOCTTY | (o->read_only ? O_RDONLY : O_RDWR);

    f->fd = open(f->path, flags | (o->create ? O_CREAT : 0), 0600);
    if (f->fd < 0 && errno == ENOENT && !o->create)
        return dt_fail(err, -ENOENT, "there is no pool %s (cvd pool create makes one)", f->path);
    if (f->fd < 0)
        return dt_fail(err, -errno, "cannot %s %s: %s", o->create ? "make" : "open", f->path,
                       strerror(errno));
    f->direct = open(f->path, flags | O_DIRECT);
    if (f->direct < 0 && errno == EINVAL)
        f->direct = f->fd; /* a file system without it */
    if (f->direct < 0)
        return dt_fail(err, -errno, "cannot open %s: %s", f->path, strerror(errno));
    for (unsigned i = 0; i < FLUSHERS && !o->read_only; i++) {
        f->flushers[i].fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (f->flushers[i].fd < 0)
            return dt_fail(err, -errno, "cannot open %s: %s", f->path, strerror(errno));
    }
    return 0;
}

int store_file_open(struct store **store, const char *path, const struct store_file_options *o,
                    struct dt_error *err)
{
    struct file_store *f = xcalloc(1, sizeof(*f));
    int ret;

    f->s = (struct store){.read = file_read,
                          .write = file_write,
                          .save = file_save,
                          .flush = file_flush,
                          .get = file_get,
                          .put = file_put,
                          .sync = file_sync,
                          .commit = store_slots_commit,
                          .recall = store_slots_recall,
                          .punch = file_punch,
                          .allocate = file_allocate,
                          .backed = file_backed,
                          .fetch = file_fetch,
                          .prefetch = file_prefetch,
                          .close = file_close};
    f->read_only = o->read_only;
    f->path = xstrdup(path);
    f->s.name = f->path;
    f->fd = f->direct = -1;
    for (unsigned i = 0; i < FLUSHERS; i++)
        f->flushers[i].fd = -1;
    ret = open_all(f, o, err);
    ret = ret ?: find_size(f, err);
    f->s.holes = !f->device;
    f->s.finds_unwritten = ret == 0 && f->s.holes && store_space_has_map(f->fd);
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

    int ret;

    if (!loop)
        stop_helpers(f);
    f->loop = loop;
    ret = loop ? start_helpers(f) : 0;
    if (ret < 0)
        stop_helpers(f);
    return ret;
}
