/* SPDX-License-Identifier: MIT */
/*
 * engine.h - what the parts of the loop share with each other, and nobody else.
 */
#ifndef LOOP_ENGINE_H
#define LOOP_ENGINE_H

#include "base/spin.h"
#include "loop/loop.h"

#define LOOP_MAGIC 0x6c6f6f70u /* "loop" */

/*
 * While it spins, a turn takes some 10 ns and a clock more than that: the clock is read, idle
 * pollers are judged, and (with epoll) descriptors are looked at once in so many turns.
 */
#define LOOP_TICK_TURNS 16u

#define LOOP_FOREVER UINT64_MAX

/* One I/O on its way into an engine. */
struct io_op {
    enum io_code { IO_READ, IO_WRITE, IO_FDATASYNC, IO_FALLOCATE } code;
    int fd;
    int mode;   /* IO_FALLOCATE */
    unsigned n; /* entries of @iov */
    const struct iovec *iov;
    uint64_t offset;
    uint64_t length; /* IO_FALLOCATE */
    struct dt_io *io;
};

/**
 * struct watch_slot - a registered watch. The kernel knows it by a key of slot and generation,
 * never by its address, so an event still on its way after the removal finds nothing.
 * @watch:      NULL = removed or free.
 * @generation: changes with every removal.
 * @next:       of the free list or of io_uring's list of polls to arm; index + 1, 0 = end.
 * @armed:      io_uring: a poll is in the kernel.
 * @queued:     io_uring: on the list of polls to arm, and thus not to be reused.
 */
struct watch_slot {
    struct dt_watch *watch;
    uint32_t generation;
    unsigned next;
    bool armed, queued;
};

struct watch_table {
    struct watch_slot *slots;
    unsigned size, used;
    unsigned free;
};

/* Keys carry a tag in their low bits; pointers to struct dt_io have zeros there. */
#define KEY_TAG_MASK 3u
#define KEY_WATCH    1u
#define KEY_INTERNAL 2u /* nobody waits for the outcome */
#define KEY_WAKE     3u

unsigned watch_slot_take(struct watch_table *table, struct dt_watch *watch);
void watch_slot_release(struct watch_table *table, unsigned index);
uint64_t watch_key(const struct watch_table *table, unsigned index);
bool watch_find(const struct watch_table *table, uint64_t key, unsigned *index);
unsigned watch_index(const struct watch_table *table, const struct dt_watch *watch);

/* Sorted by (key, sequence): equal deadlines fire in the order in which they were set. */
struct timer_entry {
    uint64_t key; /* the deadline, but never before the time when it was set */
    uint64_t sequence;
    struct dt_timer *timer;
};

struct timer_heap {
    struct timer_entry *entries; /* from 1, because heap_index 0 = not set */
    unsigned n, size;
    uint64_t sequence;
};

unsigned timers_fire(struct timer_heap *heap, uint64_t now);
void timers_set(struct timer_heap *heap, struct dt_timer *timer, uint64_t deadline, uint64_t now);
void timers_cancel(struct timer_heap *heap, struct dt_timer *timer);

/**
 * struct engine - how a loop meets the kernel.
 * @reap:  run the callbacks of completed I/O and ready watches, without a system call where
 *         possible; returns how many.
 * @enter: submit what was started; wait up to @timeout ns (0 = not at all) for anything.
 * @ready: @reap would find something (completions of other threads included).
 */
struct engine {
    const char *name;
    int (*open)(struct loop *loop, unsigned entries, struct dt_error *err);
    void (*close)(struct loop *loop);
    unsigned (*reap)(struct loop *loop);
    void (*enter)(struct loop *loop, uint64_t timeout);
    bool (*ready)(struct loop *loop);
    void (*start)(struct loop *loop, const struct io_op *op);
    int (*watch_add)(struct loop *loop, unsigned index);
    void (*watch_remove)(struct loop *loop, unsigned index);
};

extern const struct engine engine_uring, engine_epoll;

struct loop {
    uint32_t magic;
    bool now_stale;
    uint64_t now;
    uint64_t spin_ns;
    struct spin spin;
    uint64_t lent; /* ns that others had while pollers were active: not their spin time */
    const struct engine *engine;
    void *state; /* the engine's */

    struct list pollers;         /* the active ones */
    struct list *cursor;         /* the next one to poll in this turn */
    struct loop_poller *current; /* being polled; NULL once it is removed */
    struct loop_poller *first; /* found something first of all when all were polled last, or NULL */
    struct loop_deferred *deferred_head, **deferred_tail;
    unsigned deferred_count;
    struct timer_heap timers;
    struct watch_table watches;
    uint64_t in_flight;
    int wake_fd; /* written only while @sleeping, never read: both engines see the edge */
    struct loop_stats stats;

    /* What other threads write. */
    CACHE_ALIGNED struct loop_message *mailbox; /* newest first */
    bool sleeping;
    bool stop;
    pid_t owner; /* the thread inside loop_run(), or 0 */
};

/* Counters have one writer and any number of readers. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void io_finish(struct loop *loop, struct dt_io *io, int result)
{
    loop->in_flight--;
    stat_add(&loop->stats.ios, 1);
    io->done(io, result);
}

/** loop_wake() - get the loop's thread out of its sleep; after what it shall see was stored. */
void loop_wake(struct loop *loop);

/** uring_start_opcode() - for the tests of the restriction: any opcode, without arguments. */
void uring_start_opcode(struct loop *loop, struct dt_io *io, uint8_t opcode);

#endif
