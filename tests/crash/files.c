/* SPDX-License-Identifier: MIT */
/*
 * files.c - all I/O of the chain passes here, is done in an order of our choice, and is logged.
 *
 * Asynchronous I/O (dt_io_*) waits in a list until crash_pump() picks one; so the order of
 * completion is the seed's, and a run can be repeated. Synchronous calls are done and logged at
 * once. A file is known by its inode, since a layer opens it by itself and as often as it likes.
 */
#include "base/boot.h"
#include "tests/crash/crash.h"

#include <devtap/io.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/stat.h>

enum wait_kind { WAIT_READ, WAIT_WRITE, WAIT_SYNC, WAIT_ALLOCATE };

struct waiting {
    enum wait_kind kind;
    struct dt_io *io;
    int fd, mode;
    const struct iovec *iov;
    unsigned n;
    uint64_t offset, length, issued;
};

#define WAITING_MAX 4096u
static struct waiting waiting[WAITING_MAX];
static unsigned nwaiting;
static struct dt_rng order;
static unsigned fail_sync; /* the flushes until one fails */
static uint64_t now;
static uint8_t boot; /* of the machine, in tests */

static char directory[256];
static const char *const *file_names;
static struct crash_log *current;

uint64_t crash_clock(void)
{
    return ++now;
}

void crash_seed(uint64_t seed)
{
    dt_rng_seed(&order, seed);
    now = 0;
    boot = 1;
}

void crash_fail_sync(unsigned n)
{
    fail_sync = n;
}

/* ---- Which file ---- */

void crash_files_set(const char *dir, const char *const *names)
{
    unsigned n = 0;

    while (names[n])
        n++;
    CHECK(n <= CRASH_FILES && strlen(dir) < sizeof(directory));
    strcpy(directory, dir);
    file_names = names;
}

static char *path_of(unsigned file)
{
    return xasprintf("%s/%s", directory, file_names[file]);
}

/* -1 for a descriptor of anything else. */
static int file_of(int fd)
{
    struct stat st, named;

    if (!current || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return -1;
    for (unsigned i = 0; file_names[i]; i++) {
        _cleanup_free_ char *path = path_of(i);

        if (stat(path, &named) == 0 && named.st_ino == st.st_ino && named.st_dev == st.st_dev)
            return (int)i;
    }
    return -1;
}

/* ---- The log ---- */

static void image_read(struct crash_image *image, const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return;
    CHECK(fstat(fd, &st) == 0);
    image->size = image->room = (uint64_t)st.st_size;
    image->bytes = xcalloc(1, image->size + 1);
    CHECK(pread(fd, image->bytes, image->size, 0) == st.st_size);
}

void crash_log_begin(struct crash_log *log)
{
    *log = (struct crash_log){.boot = boot};
    for (unsigned i = 0; file_names[i]; i++) {
        _cleanup_free_ char *path = path_of(i);

        image_read(&log->start[i], path);
    }
    current = log;
}

void crash_log_end(struct crash_log *log)
{
    CHECK(current == log);
    log->end = crash_clock();
    current = NULL;
}

void crash_log_free(struct crash_log *log)
{
    for (unsigned i = 0; i < CRASH_FILES; i++)
        free(log->start[i].bytes);
    for (unsigned i = 0; i < log->count; i++)
        free(log->ops[i].data);
    free(log->ops);
}

static struct crash_op *log_add(int file, enum crash_kind kind, uint64_t offset, uint64_t length,
                                uint64_t issued)
{
    struct crash_op *op;

    if (current->count == current->room) {
        current->room = MAX(64u, current->room * 2);
        current->ops = realloc(current->ops, current->room * sizeof(*current->ops));
        CHECK(current->ops);
    }
    op = &current->ops[current->count++];
    *op = (struct crash_op){.kind = kind,
                            .file = (unsigned)file,
                            .offset = offset,
                            .length = length,
                            .issued = issued,
                            .done = crash_clock(),
                            .stable = CRASH_NEVER};
    return op;
}

/* What was done before the flush was asked for is durable; or, where it failed, forgotten. */
static void log_flush(int file, uint64_t issued, bool good)
{
    uint64_t done = crash_clock();

    for (unsigned i = 0; i < current->count; i++) {
        struct crash_op *op = &current->ops[i];

        if (op->file != (unsigned)file || op->done > issued || op->stable != CRASH_NEVER)
            continue;
        if (!good)
            op->lost = true;
        else if (!op->lost)
            op->stable = done;
    }
}

/* ---- The real calls ---- */

ssize_t __real_pwrite64(int fd, const void *data, size_t n, off_t offset);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int n, off_t offset);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_ftruncate64(int fd, off_t size);
int __real_fallocate64(int fd, int mode, off_t offset, off_t length);

static ssize_t do_write(int fd, const struct iovec *iov, unsigned n, uint64_t offset,
                        uint64_t issued)
{
    int file = file_of(fd);
    ssize_t moved = __real_pwritev64(fd, iov, (int)n, (off_t)offset);

    if (moved < 0)
        return -errno;
    if (file >= 0 && moved > 0) {
        struct crash_op *op = log_add(file, CRASH_WRITE, offset, (uint64_t)moved, issued);

        op->data = xcalloc(1, (size_t)moved);
        dt_iov_read(iov, n, 0, op->data, (size_t)moved);
    }
    return moved;
}

static int do_sync(int fd, uint64_t issued)
{
    int file = file_of(fd);
    bool good = !(fail_sync && --fail_sync == 0);

    if (file >= 0)
        log_flush(file, issued, good);
    return good ? 0 : -EIO;
}

static int do_allocate(int fd, int mode, uint64_t offset, uint64_t length, uint64_t issued)
{
    int file = file_of(fd);

    if (__real_fallocate64(fd, mode, (off_t)offset, (off_t)length) < 0)
        return -errno;
    if (file >= 0 && (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
        log_add(file, CRASH_ZERO, offset, length, issued);
    return 0;
}

/* ---- What the chain calls ---- */

ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t offset)
{
    struct iovec iov = {(void *)data, n};
    ssize_t ret = do_write(fd, &iov, 1, (uint64_t)offset, crash_clock());

    if (ret < 0)
        errno = (int)-ret;
    return ret < 0 ? -1 : ret;
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int n, off_t offset)
{
    ssize_t ret = do_write(fd, iov, (unsigned)n, (uint64_t)offset, crash_clock());

    if (ret < 0)
        errno = (int)-ret;
    return ret < 0 ? -1 : ret;
}

void __wrap_boot_id(uint8_t id[BOOT_ID_SIZE]);
void __wrap_boot_id(uint8_t id[BOOT_ID_SIZE])
{
    memset(id, boot, BOOT_ID_SIZE);
}

static int as_call(int ret)
{
    if (ret == 0)
        return 0;
    errno = -ret;
    return -1;
}

int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    return as_call(do_sync(fd, crash_clock()));
}

int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    return as_call(do_sync(fd, crash_clock()));
}

int __wrap_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size)
{
    int file = file_of(fd);

    if (__real_ftruncate64(fd, size) < 0)
        return -1;
    if (file >= 0)
        log_add(file, CRASH_TRUNCATE, (uint64_t)size, 0, crash_clock());
    return 0;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
    return as_call(do_allocate(fd, mode, (uint64_t)offset, (uint64_t)length, crash_clock()));
}

static void wait_add(struct waiting w)
{
    CHECK(nwaiting < WAITING_MAX);
    w.issued = crash_clock();
    waiting[nwaiting++] = w;
}

void __wrap_dt_io_readv(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                        unsigned n, uint64_t offset);
void __wrap_dt_io_readv(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                        unsigned n, uint64_t offset)
{
    wait_add((struct waiting){
        .kind = WAIT_READ, .io = io, .fd = fd, .iov = iov, .n = n, .offset = offset});
}

void __wrap_dt_io_writev(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                         unsigned n, uint64_t offset);
void __wrap_dt_io_writev(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                         unsigned n, uint64_t offset)
{
    wait_add((struct waiting){
        .kind = WAIT_WRITE, .io = io, .fd = fd, .iov = iov, .n = n, .offset = offset});
}

void __wrap_dt_io_fdatasync(struct dt_ctx *c, struct dt_io *io, int fd);
void __wrap_dt_io_fdatasync(struct dt_ctx *c, struct dt_io *io, int fd)
{
    wait_add((struct waiting){.kind = WAIT_SYNC, .io = io, .fd = fd});
}

void __wrap_dt_io_fallocate(struct dt_ctx *c, struct dt_io *io, int fd, int mode, uint64_t offset,
                            uint64_t length);
void __wrap_dt_io_fallocate(struct dt_ctx *c, struct dt_io *io, int fd, int mode, uint64_t offset,
                            uint64_t length)
{
    wait_add((struct waiting){.kind = WAIT_ALLOCATE,
                              .io = io,
                              .fd = fd,
                              .mode = mode,
                              .offset = offset,
                              .length = length});
}

static int perform(const struct waiting *w)
{
    ssize_t ret;

    switch (w->kind) {
    case WAIT_READ:
        ret = preadv(w->fd, w->iov, (int)w->n, (off_t)w->offset);
        return ret < 0 ? -errno : (int)ret;
    case WAIT_WRITE:
        return (int)do_write(w->fd, w->iov, w->n, w->offset, w->issued);
    case WAIT_SYNC:
        return do_sync(w->fd, w->issued);
    default:
        return do_allocate(w->fd, w->mode, w->offset, w->length, w->issued);
    }
}

bool crash_pump(void)
{
    struct waiting w;
    unsigned pick;

    if (nwaiting == 0)
        return false;
    pick = (unsigned)dt_rng_below(&order, nwaiting);
    w = waiting[pick];
    waiting[pick] = waiting[--nwaiting];
    w.io->done(w.io, perform(&w));
    return true;
}

/* ---- States ---- */

static void image_grow(struct crash_image *image, uint64_t size)
{
    if (size > image->room) {
        image->room = MAX(size, 2 * image->room); /* a sector at a time makes it longer */
        image->bytes = realloc(image->bytes, image->room + 1);
        CHECK(image->bytes);
    }
    if (size > image->size)
        memset(image->bytes + image->size, 0, size - image->size);
    image->size = size;
}

/* Bytes from @from to @to of the operation. */
static void apply_part(struct crash_image *image, const struct crash_op *op, uint64_t from,
                       uint64_t to)
{
    if (op->kind == CRASH_ZERO) { /* keeps the size: beyond the end there is nothing to do */
        to = MIN(to, image->size);
        if (from < to)
            memset(image->bytes + from, 0, to - from);
        return;
    }
    if (to > image->size)
        image_grow(image, to);
    memcpy(image->bytes + from, op->data + (from - op->offset), to - from);
}

static void apply(struct crash_image *image, const struct crash_op *op, double chance,
                  struct dt_rng *rng)
{
    uint64_t end = op->offset + op->length, next;

    if (op->kind == CRASH_TRUNCATE) {
        if (dt_rng_chance(rng, chance))
            image_grow(image, op->offset);
        return;
    }
    for (uint64_t at = op->offset; at < end; at = next) {
        next = MIN(end, ALIGN_DOWN(at, (uint64_t)512) + 512);
        if (dt_rng_chance(rng, chance))
            apply_part(image, op, at, next);
    }
}

/* How likely each sector of an operation is to be there. */
static double chance_of(const struct crash_op *op, uint64_t when, enum crash_choice choice,
                        struct dt_rng *rng)
{
    if (op->stable <= when)
        return 1;
    switch (choice) {
    case CRASH_KILLED: /* what was under way may have landed, or was cancelled */
        return op->done <= when || dt_rng_below(rng, 2);
    case CRASH_NOTHING:
        return 0;
    case CRASH_SOME:
        return dt_rng_below(rng, 2);
    case CRASH_TORN:
        return 0.5;
    default:
        return dt_rng_below(rng, 8) ? 0 : 0.7;
    }
}

static void write_out(const char *path, const struct crash_image *image)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct iovec iov = {image->bytes, image->size};

    CHECK(fd >= 0 && __real_ftruncate64(fd, (off_t)image->size) == 0);
    CHECK(__real_pwritev64(fd, &iov, 1, 0) == (ssize_t)image->size);
}

void crash_state_make(const struct crash_log *log, uint64_t when, enum crash_choice choice,
                      struct dt_rng *rng)
{
    static struct crash_image scratch; /* kept from state to state */

    boot = (uint8_t)(log->boot + (choice != CRASH_KILLED));
    for (unsigned f = 0; file_names[f]; f++) {
        _cleanup_free_ char *path = path_of(f);

        scratch.size = 0;
        image_grow(&scratch, log->start[f].size);
        if (scratch.size)
            memcpy(scratch.bytes, log->start[f].bytes, scratch.size);
        for (unsigned i = 0; i < log->count; i++) {
            const struct crash_op *op = &log->ops[i];

            if (op->file == f && op->issued < when)
                apply(&scratch, op, chance_of(op, when, choice, rng), rng);
        }
        write_out(path, &scratch);
    }
}
