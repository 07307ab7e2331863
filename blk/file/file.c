/* SPDX-License-Identifier: MIT */
/*
 * file.c - the back `file`: a regular file or a block device.
 *
 * Theory of operation: a request whose memory suits the file becomes one I/O of its thread's loop,
 * whose struct is in the request's frame; nothing is allocated and nothing locked. All else leaves
 * this path by a function of its own: memory that O_DIRECT refuses and transfers that came back
 * short (bounce.c), discards and zeroes (range.c).
 */
#include "blk/file/internal.h"

#include "blk/storefile/storefile.h"

static const char *const caches[] = {[CACHE_NONE] = "none", [CACHE_WRITEBACK] = "writeback", NULL};

#define FIELD(field) .offset = offsetof(struct file, field)
static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     FIELD(path),
     .help = "Regular file or block device that holds the disk."},
    {.name = "cache",
     .type = DT_PARAM_ENUM,
     FIELD(cache),
     .initial = "none",
     .choices = caches,
     .help =
         "none: past the page cache (O_DIRECT) where the file system can; writeback: through it."},
    {.name = "read-only",
     .type = DT_PARAM_BOOL,
     FIELD(read_only),
     .initial = "off",
     .help = "Open for reading alone; the guest sees a read-only disk."},
    {.name = "create",
     .type = DT_PARAM_BOOL,
     FIELD(create),
     .initial = "off",
     .help = "If the file is missing or empty, make a sparse one of size=."},
    {.name = "size",
     .type = DT_PARAM_SIZE,
     FIELD(size),
     .initial = "0",
     .max = INT64_MAX,
     .help = "Size of a file that create= makes; an existing one keeps its own."},
    {.name = "block-size",
     .type = DT_PARAM_SIZE,
     FIELD(block_size),
     .initial = "0",
     .max = 4096,
     .help = "Logical block size shown to the guest: 512 or 4096; 0 = the device's own, 512 for "
             "files."},
    {.name = "discard",
     .type = DT_PARAM_BOOL,
     FIELD(discard),
     .initial = "on",
     .help = "Give space back when the guest discards."},
    {.name = "lock",
     .type = DT_PARAM_BOOL,
     FIELD(lock),
     .initial = "on",
     .help = "Lock the image as QEMU does, so that neither opens what the other writes."},
    SHORTAGE_PARAM(offsetof(struct file, on_full)),
    {.name = "queue-depth",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     FIELD(queue_depth),
     .initial = "0",
     .unit = "requests",
     .max = 1 << 20,
     .help = "Most requests under way at a time on each thread; 0 = no limit."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [BOUNCED] = {"bounced", "requests", "Requests copied because O_DIRECT refuses their memory."},
    [CONTINUED] = {"continued", "requests", "Transfers that came back short and were continued."},
    [PAST_END] = {"past-end", "requests", "Reads past the end of the file, answered with zeroes."},
    [HELD] = {"held", "requests", "Times that a request was held because there was no space."},
    [ZEROED_BYTES] = {"zeroed-bytes", "bytes",
                      "Zeroes written as data because the file system has no better way."},
    {NULL},
};

/* ---- The end of a request ------------------------------------------------------------------- */

static void desaturate(struct file_ctx *fc)
{
    fc->saturated = false;
    dt_wake(fc->c);
}

void file_finish(struct file_io *fio, int error)
{
    struct dt_ctx *c = fio->c;
    struct file_ctx *fc = c->data;

    fc->in_flight--;
    dt_complete_one(c, file_req(fio), error);
    if (unlikely(fc->saturated))
        desaturate(fc);
}

void file_failed(struct file_io *fio, int error)
{
    struct file_ctx *fc = fio->c->data;

    if (!shortage_is(error)) {
        file_finish(fio, error);
    } else if (shortage_holds(&fc->shortage)) {
        dt_count(fio->c, HELD, 1);
        file_list_add(&fc->held, fio);
    } else {
        file_finish(fio, shortage_error(&fc->shortage, error));
    }
}

static bool again(struct shortage_ctx *s, int error)
{
    struct file_ctx *fc = container_of(s, struct file_ctx, shortage);
    struct file_io *fio = fc->held.head, *next;
    bool any = fio != NULL;

    /* What is held again is not in the list that is gone through. */
    file_list_init(&fc->held);
    for (; fio; fio = next) {
        next = fio->next;
        if (error)
            file_finish(fio, error);
        else
            file_begin(fio);
    }
    return any;
}

void file_past_end(struct file_io *fio, uint64_t from)
{
    struct dt_req *req = file_req(fio);
    const struct iovec *iov;
    unsigned n = dt_req_map(fio->c, req, &iov);

    dt_count(fio->c, PAST_END, 1);
    dt_iov_fill(iov, n, from, 0, dt_req_bytes(req) - from);
    file_finish(fio, 0);
}

static void synced(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);
    struct file *f = fio->c->layer_data;

    /* The kernel reports a lost page once and then forgets it; we do not, even for a flush that was
     * under way beside the one that was told. */
    if (unlikely(result < 0) && !f->direct)
        __atomic_store_n(&f->flush_failed, true, __ATOMIC_RELAXED);
    else if (unlikely(__atomic_load_n(&f->flush_failed, __ATOMIC_RELAXED)))
        result = -EIO;
    file_finish(fio, result);
}

static void sync_begin(struct file_io *fio)
{
    struct file *f = fio->c->layer_data;

    if (f->read_only) {
        file_finish(fio, 0);
        return;
    }
    if (unlikely(__atomic_load_n(&f->flush_failed, __ATOMIC_RELAXED))) {
        file_finish(fio, -EIO);
        return;
    }
    fio->io.done = synced;
    dt_io_fdatasync(fio->c, &fio->io, f->fd);
}

void file_written(struct file_io *fio)
{
    if (unlikely(file_req(fio)->flags & DT_REQ_FUA))
        sync_begin(fio);
    else
        file_finish(fio, 0);
}

/* ---- Reads and writes ---- */

/* Not all of it moved, or none. */
static void moved_oddly(struct file_io *fio, int result)
{
    struct file *f = fio->c->layer_data;
    bool read = file_req(fio)->op == DT_OP_READ;

    if (result == -EINTR || result == -EAGAIN) {
        file_begin(fio);
    } else if (result == -EINVAL && f->direct) {
        file_bounce(fio); /* the file system is stricter than it said */
    } else if (result < 0) {
        file_failed(fio, result);
    } else if (read && (unsigned)result % f->block) {
        file_past_end(fio, (unsigned)result);
    } else if (read && result == 0) {
        file_past_end(fio, 0);
    } else {
        dt_count(fio->c, CONTINUED, 1);
        fio->moved = ALIGN_DOWN((unsigned)result, f->block);
        file_bounce(fio);
    }
}

static void read_done(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);

    if (likely(result >= 0 && (uint64_t)result == dt_req_bytes(file_req(fio))))
        file_finish(fio, 0);
    else
        moved_oddly(fio, result);
}

static void write_done(struct dt_io *io, int result)
{
    struct file_io *fio = file_io_of(io);

    if (likely(result >= 0 && (uint64_t)result == dt_req_bytes(file_req(fio))))
        file_written(fio);
    else
        moved_oddly(fio, result);
}

static void move(struct file_io *fio, struct dt_req *req)
{
    struct dt_ctx *c = fio->c;
    const struct file *f = c->layer_data;
    const struct iovec *iov;
    unsigned n = dt_req_map(c, req, &iov);

    if (unlikely(f->direct && !file_aligned(f, iov, n))) {
        dt_count(c, BOUNCED, 1);
        file_bounce(fio);
    } else if (req->op == DT_OP_READ) {
        fio->io.done = read_done;
        dt_io_readv(c, &fio->io, f->fd, iov, n, req->sector << DT_SECTOR_SHIFT);
    } else {
        fio->io.done = write_done;
        dt_io_writev(c, &fio->io, f->fd, iov, n, req->sector << DT_SECTOR_SHIFT);
    }
}

void file_begin(struct file_io *fio)
{
    const struct file *f = fio->c->layer_data;
    struct dt_req *req = file_req(fio);

    fio->moved = 0;
    if (likely(req->op == DT_OP_READ))
        move(fio, req);
    else if (req->op == DT_OP_FLUSH)
        sync_begin(fio);
    else if (unlikely(f->read_only))
        file_finish(fio, -EROFS);
    else if (req->op == DT_OP_WRITE)
        move(fio, req);
    else if (req->op == DT_OP_DISCARD)
        file_discard(fio);
    else
        file_zero(fio);
}

static void file_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct file_ctx *fc = c->data;

    fc->in_flight += n;
    for (unsigned i = 0; i < n; i++) {
        struct file_io *fio = dt_frame(c, reqs[i]);

        fio->c = c;
        file_begin(fio);
    }
}

/* ---- Life ---- */

static unsigned file_admit(struct dt_ctx *c, unsigned want)
{
    const struct file *f = c->layer_data;
    struct file_ctx *fc = c->data;
    uint64_t room;

    if (likely(!f->queue_depth))
        return want;
    room = f->queue_depth > fc->in_flight ? f->queue_depth - fc->in_flight : 0;
    fc->saturated = room == 0;
    return (unsigned)MIN((uint64_t)want, room);
}

static void run_lifted(struct dt_timer *timer)
{
    struct file_ctx *fc = container_of(timer, struct file_ctx, lifted);

    if (fc->saturated)
        desaturate(fc);
}

static void file_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct file_ctx *fc = c->data;

    shortage_quiesce(&fc->shortage, deadline);
}

static int file_start(struct dt_ctx *c, struct dt_error *err)
{
    struct file_ctx *fc = c->data;
    struct file *f = c->layer_data;

    fc->c = c;
    file_list_init(&fc->bounce_waiting);
    file_list_init(&fc->held);
    fc->lifted.fire = run_lifted;
    shortage_start(&fc->shortage, c, &f->shortage, again);
    return 0;
}

static void file_stop(struct dt_ctx *c)
{
    struct file_ctx *fc = c->data;

    CHECK(fc->in_flight == 0);
    dt_timer_cancel(c, &fc->lifted);
    shortage_stop(&fc->shortage);
    file_bounce_fini(fc);
}

static int file_cancel(struct dt_ctx *c, struct dt_req *req)
{
    struct file_ctx *fc = c->data;
    struct file_io *fio = dt_frame(c, req);

    if (!file_list_remove(&fc->held, fio) && !file_list_remove(&fc->bounce_waiting, fio))
        return -EBUSY; /* the kernel has it */
    file_finish(fio, -ECANCELED);
    return 0;
}

static int file_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct file *f = dt_layer_data(layer);

    *info = f->info;
    info->sectors = __atomic_load_n(&f->sectors, __ATOMIC_RELAXED);
    return 0;
}

/* Asked of the file system on the caller's thread: to find a hole it may have to read what it knows of the file. */
static void file_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct file *f = dt_layer_data(layer);

    if (!f->is_device)
        storefile_status(f->fd, extent->sector << DT_SECTOR_SHIFT, extent);
}

static void file_close(struct dt_layer *layer)
{
    const struct file *f = dt_layer_data(layer);

    close(f->fd); /* and with the last I/O on it, the locks */
}

/* A limit was lifted, or there is no reason to hold any more: look at once. */
static int file_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    for (unsigned i = 0; i < dt_layer_threads(layer); i++) {
        struct dt_ctx *c = dt_layer_ctx(layer, i);
        struct file_ctx *fc = c ? c->data : NULL;

        if (!fc)
            continue;
        shortage_look(&fc->shortage);
        if (fc->saturated)
            dt_timer_set(c, &fc->lifted, dt_clock_ns());
    }
    return 0;
}

const struct dt_block_ext blk_file = {
    DT_BLOCK_EXT_HEADER,
    .name = "file",
    .summary = "A disk in a regular file or on a block device",
    .help =
        "Raw: sector n of the disk is at byte 512 * n. I/O goes past the page cache. When the file "
        "system is full, writes wait until there is space, so that the guest need not see an "
        "error. An image that QEMU has open is refused, and QEMU refuses ours.",
    .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .verbs = file_verbs,
    .layer_size = sizeof(struct file),
    .ctx_size = sizeof(struct file_ctx),
    .frame_size = sizeof(struct file_io),
    .open = file_open,
    .close = file_close,
    .start = file_start,
    .stop = file_stop,
    .info = file_info,
    .submit = file_submit,
    .admit = file_admit,
    .quiesce = file_quiesce,
    .cancel = file_cancel,
    .set = file_set,
    .fence = file_fence,
    .status = file_status,
};
