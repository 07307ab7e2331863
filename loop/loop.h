/* SPDX-License-Identifier: MIT */
/*
 * loop.h - one event loop per thread.
 *
 * Theory of operation: a turn of the loop completes I/O and calls ready watches, polls the active
 * pollers, fires due timers, runs posted messages, runs what was deferred to the end of the turn,
 * and submits all new I/O in one system call. While any poller is active the loop spins; a
 * poller that found nothing for the spin time is asked to arm its notification (and looks
 * once more), and when none is active the loop sleeps in the kernel until a completion, an
 * eventfd, a message or a timer. Pollers that compete for something each have their turn to be
 * the first.
 *
 * Two engines serve the same interface: io_uring, with a ring restricted to the few
 * operations below because io_uring escapes seccomp, and epoll with a small pool of I/O
 * threads where io_uring is missing or forbidden.
 */
#ifndef LOOP_H
#define LOOP_H

#include "base/base.h"
#include <devtap/io.h>

struct loop;

/**
 * struct loop_config - how to make a loop.
 * @engine:  LOOP_AUTO takes io_uring where it works.
 * @entries: submission queue size; rounded up to a power of two. 0 = 256.
 * @spin_ns: how long a poller stays active after its last work. 0 = always sleep at once;
 *           UINT64_MAX = never sleep while a poller is active.
 */
struct loop_config {
    enum loop_engine { LOOP_AUTO, LOOP_URING, LOOP_EPOLL } engine;
    unsigned entries;
    uint64_t spin_ns;
};

/** loop_new() - allocate a loop for the calling thread or a thread yet to be started. */
int loop_new(struct loop **loop, const struct loop_config *config, struct dt_error *err);
/** loop_free() - after its thread ended. Watches, timers, active pollers and I/O in flight must be
 *  gone: this is checked. */
void loop_free(struct loop *loop);
/** loop_run() - turn until loop_stop(). The first thread that turns a loop owns it from then on:
 *  no other may. I/O, watches and timers may be started before that. */
void loop_run(struct loop *loop);
/** loop_turn() - one turn; with @wait it may sleep. For tests, and for programs with a loop of
 *  their own. Returns true if anything was done. */
bool loop_turn(struct loop *loop, bool wait);
/** loop_stop() - from any thread, or from a callback: loop_run() returns after this turn. */
void loop_stop(struct loop *loop);
/** loop_is_foreign() - is another thread inside loop_run()? Then only messages reach it. A thread
 *  that starts another for a loop waits until this is true (loop_post() works before). */
bool loop_is_foreign(const struct loop *loop);
/** loop_is_own() - is this thread inside its loop_run()? */
bool loop_is_own(const struct loop *loop);
/** loop_sleeps() - is its thread asleep in the kernel, for want of work? From any thread. */
bool loop_sleeps(const struct loop *loop);
/** loop_engine_name() - "io_uring" or "epoll". */
const char *loop_engine_name(const struct loop *loop);
/** loop_now() - dt_clock_ns() taken at most once per turn. */
uint64_t loop_now(struct loop *loop);

/* File descriptors, timers: as in <devtap/io.h>, on a loop instead of a context.
 * One watch per descriptor (-EEXIST); remove it before the descriptor is closed. */
int loop_watch_add(struct loop *loop, struct dt_watch *watch);
void loop_watch_remove(struct loop *loop, struct dt_watch *watch);
void loop_timer_set(struct loop *loop, struct dt_timer *timer, uint64_t deadline);
void loop_timer_cancel(struct loop *loop, struct dt_timer *timer);

void loop_readv(struct loop *loop, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                uint64_t offset);
void loop_writev(struct loop *loop, struct dt_io *io, int fd, const struct iovec *iov, unsigned n,
                 uint64_t offset);
void loop_fdatasync(struct loop *loop, struct dt_io *io, int fd);
void loop_fallocate(struct loop *loop, struct dt_io *io, int fd, int mode, uint64_t offset,
                    uint64_t length);

/**
 * struct loop_poller - something to look at on every turn while it is active (a virtqueue).
 * @poll: do what there is; return how much was done (0 = idle this time).
 * @arm:  the spin time is over: enable notification, look once more; return true if there is
 *        still nothing (the poller becomes inactive), false to stay active. NULL = never idle.
 *
 * An eventfd's watch makes it active again by loop_poller_wake(). @poll may remove and free its
 * poller; @arm may remove it.
 */
struct loop_poller {
    unsigned (*poll)(struct loop_poller *poller);
    bool (*arm)(struct loop_poller *poller);
    struct list node;   /* list_init() before first use */
    uint64_t last_work; /* private to the loop */
};
/** loop_poller_wake() - make active: polled from this turn on. Harmless when it is already. */
void loop_poller_wake(struct loop *loop, struct loop_poller *poller);
/** loop_poller_remove() - never polled again unless woken. */
void loop_poller_remove(struct loop *loop, struct loop_poller *poller);

/**
 * struct loop_deferred - runs once at the end of the current turn (publishing completions of
 * a whole burst, for example). Set @run; zero the rest. Deferring it again while it is pending
 * changes nothing; what is deferred by a @run still joins the same turn, a few times over.
 */
struct loop_deferred {
    void (*run)(struct loop_deferred *deferred);
    struct loop_deferred *next;
    bool pending;
};
void loop_defer(struct loop *loop, struct loop_deferred *deferred);
/** loop_defer_cancel() - forget it if it is pending. */
void loop_defer_cancel(struct loop *loop, struct loop_deferred *deferred);

/**
 * struct loop_message - runs once on the loop's thread; posted from any thread, lock-free,
 * in order per sender. The struct belongs to the loop until @run starts.
 */
struct loop_message {
    void (*run)(struct loop_message *message);
    struct loop_message *next;
};
void loop_post(struct loop *loop, struct loop_message *message);
/** loop_unpost() - take back a message that was posted; on the loop's thread, or while it has none. Return: false where it runs in this
 *  turn, or ran. */
bool loop_unpost(struct loop *loop, struct loop_message *message);

/** struct loop_stats - counters since the start, for `devtap stats`; read from any thread. */
struct loop_stats {
    uint64_t turns;      /* all turns */
    uint64_t busy_turns; /* turns that did something */
    uint64_t sleeps;     /* times the thread slept in the kernel */
    uint64_t submits;    /* system calls that submitted I/O */
    uint64_t ios;        /* I/Os completed */
};
void loop_get_stats(const struct loop *loop, struct loop_stats *stats);

#endif
