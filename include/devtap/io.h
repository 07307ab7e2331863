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
struct dt_layer;

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
 * @ready:  called with EPOLL* bits while the descriptor is ready (level triggered).
 * @events: EPOLLIN, EPOLLOUT; with EPOLLET, @ready is called when it becomes ready, and at the start if it is:
 *          for an eventfd, whose every write is an event, so that nobody needs to read it.
 */
struct dt_watch {
    void (*ready)(struct dt_watch *watch, uint32_t events);
    int fd;
    uint32_t events;
    void *loop_private;
};

/** dt_watch_add() - start watching; 0 or -errno. The caller keeps owning the descriptor. */
DT_PUBLIC int dt_watch_add(struct dt_ctx *c, struct dt_watch *watch);
/** dt_watch_remove() - stop; @ready will not run afterwards, and the fd may be closed. */
DT_PUBLIC void dt_watch_remove(struct dt_ctx *c, struct dt_watch *watch);

/*
 * Connections that are made later than open(): a back whose server went away comes back to it. The
 * process may be confined by then, and can neither open a socket nor look up a name; so another one makes
 * the connection, and makes none that was not announced in open().
 */

/** The longest address, with its terminating zero. */
#define DT_ADDRESS_MAX 288

/**
 * dt_layer_may_connect() - announce, in open() only, where this layer will connect to.
 * @address: "unix:PATH" or "tcp:HOST:PORT"; an IPv6 address stands in brackets, "tcp:[::1]:10809".
 *           PATH is as this process sees it at its start. At most 16 for each layer.
 *
 * Nothing is looked up or connected yet. Return: 0; -EINVAL for what is no address; -ENOSPC;
 * -EPERM when the process is confined already.
 */
DT_PUBLIC int dt_layer_may_connect(struct dt_layer *layer, const char *address,
                                   struct dt_error *err);

/**
 * struct dt_connect - one connection being made; embed it, zero-initialised, with @done and @address
 * set.
 * @done: called once, on the context's thread, never before dt_layer_connect() returns.
 *        @result: a connected stream socket, non-blocking and close-on-exec, owned by the layer
 *        (TCP: with TCP_NODELAY and SO_KEEPALIVE); or -errno: -EPERM for an address that was not
 *        announced, -ETIMEDOUT after ten seconds, -ENOENT or -EAGAIN for a name that does not exist or
 *        cannot be looked up now, -EPIPE where nobody is left to make it, else what connect(2) said.
 *        The struct is the layer's again when @done is called.
 * @address: one that was announced, the same text. Must stay until then.
 */
struct dt_connect {
    void (*done)(struct dt_connect *op, int result);
    const char *address;
    /* Private to core. */
    struct dt_ctx *ctx; /* NULL = not under way */
    struct dt_watch watch;
    struct dt_timer timer;
    int failure;
};

/** dt_layer_connect() - begin to connect. The thread does not wait, for names neither. */
DT_PUBLIC void dt_layer_connect(struct dt_ctx *c, struct dt_connect *op);
/** dt_layer_connect_cancel() - forget it: @done will not run afterwards. Harmless when it is not under
 *  way. Before stop() returns, all that is under way must be cancelled. */
DT_PUBLIC void dt_layer_connect_cancel(struct dt_connect *op);

#ifdef __cplusplus
}
#endif
#endif
