/* SPDX-License-Identifier: MIT */
/*
 * devtap/io.h - asynchronous work of a layer on its own thread: file I/O, file
 * descriptors, timers. Every callback runs on the thread that owns the
 * context it was started on, so a layer needs no locks for what its contexts own.
 */
#ifndef DEVTAP_IO_H
#define DEVTAP_IO_H

#include <devtap/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dt_ctx;

/**
 * struct dt_io - one I/O in flight; embed it (a request's frame is the usual place).
 * @done: called once, on the starting thread, with the bytes moved, 0 for operations
 *        without data, or -errno. The struct belongs to the kernel from start to @done.
 */
struct dt_io {
    void (*done)(struct dt_io *io, int result);
};

/*
 * Each starts one operation; nothing fails synchronously, every outcome comes through
 * @io->done, never before the call returns. @iov must stay in place until then.
 * Operations are submitted together at the end of the loop's turn.
 */
DT_PUBLIC void dt_io_readv(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                           unsigned n, uint64_t offset);
DT_PUBLIC void dt_io_writev(struct dt_ctx *c, struct dt_io *io, int fd, const struct iovec *iov,
                            unsigned n, uint64_t offset);
DT_PUBLIC void dt_io_fdatasync(struct dt_ctx *c, struct dt_io *io, int fd);
/** dt_io_fallocate() - @mode as fallocate(2). */
DT_PUBLIC void dt_io_fallocate(struct dt_ctx *c, struct dt_io *io, int fd, int mode,
                               uint64_t offset, uint64_t length);

/**
 * struct dt_timer - a one-shot timer; embed it, zero-initialised, with @fire set.
 * @fire: runs on the owning thread at or after the deadline; it may set the timer again.
 */
struct dt_timer {
    void (*fire)(struct dt_timer *timer);
    uint64_t deadline;   /* ns of dt_clock_ns(); read-only outside the loop */
    unsigned heap_index; /* 0 = not set; private to the loop */
};

/** dt_timer_set() - (re)arm for an absolute time in ns of dt_clock_ns(). */
DT_PUBLIC void dt_timer_set(struct dt_ctx *c, struct dt_timer *timer, uint64_t deadline);
/** dt_timer_cancel() - disarm; harmless if not armed. @fire will not run afterwards. */
DT_PUBLIC void dt_timer_cancel(struct dt_ctx *c, struct dt_timer *timer);

/**
 * struct dt_watch - readiness of a file descriptor; embed it with @ready and @fd set.
 * @ready: called with EPOLL* bits while the descriptor is ready (level triggered).
 */
struct dt_watch {
    void (*ready)(struct dt_watch *watch, uint32_t events);
    int fd;
    uint32_t events; /* EPOLLIN, EPOLLOUT */
    void *loop_private;
};

/** dt_watch_add() - start watching; 0 or -errno. The caller keeps owning the descriptor. */
DT_PUBLIC int dt_watch_add(struct dt_ctx *c, struct dt_watch *watch);
/** dt_watch_remove() - stop; @ready will not run afterwards, and the fd may be closed. */
DT_PUBLIC void dt_watch_remove(struct dt_ctx *c, struct dt_watch *watch);

#ifdef __cplusplus
}
#endif
#endif
