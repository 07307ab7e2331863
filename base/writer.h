/* SPDX-License-Identifier: MIT */
/*
 * writer.h - a thread that writes out what others put into rings, one ring for each of them.
 *
 * Who puts something in never waits: not for a lock, not for the file. It wakes the thread only when
 * that has nothing to do, or when the ring has become half full.
 */
#ifndef BASE_WRITER_H
#define BASE_WRITER_H

#include "base/base.h"

#include <pthread.h>

/**
 * struct writer - the thread, and the rings that it empties.
 * @name:  of the thread, and in messages.
 * @drain: writes out what is in @ring, under the lock; returns whether there was anything.
 * @slow_fd: set by @drain where the thread has to wait until this takes more; else -1.
 */
struct writer {
    const char *name;
    bool (*drain)(struct writer *w, void *ring);
    int slow_fd;

    /* Private. */
    void **rings; /* by thread; NULL = none */
    unsigned threads;
    pthread_mutex_t lock;
    pthread_t thread;
    int wake_fd;
    CACHE_ALIGNED bool asleep; /* it waits for the first thing to write */
    bool quit;
};

/**
 * writer_start() - begin, with room for the rings of @threads.
 * @w: zeroed, with @name and @drain set.
 *
 * Return: 0, or -errno with @err set; then there is nothing to stop.
 */
int writer_start(struct writer *w, unsigned threads, struct dt_error *err);
/** writer_stop() - write what is left, and end. */
void writer_stop(struct writer *w);

/** writer_add() - begin to empty @ring, of @thread. */
void writer_add(struct writer *w, unsigned thread, void *ring);
/** writer_remove() - empty the ring of @thread with @last, under the lock, and forget it. */
void writer_remove(struct writer *w, unsigned thread, void (*last)(struct writer *w, void *ring));

void writer_wake(struct writer *w);

/**
 * writer_published() - to be called when a ring of @size has been filled from @before to @after.
 *
 * There is no fence before this look: one that comes too early costs a second of delay, the thread's
 * longest sleep, while a fence would cost each burst.
 */
static inline void writer_published(struct writer *w, uint64_t before, uint64_t after,
                                    uint64_t size)
{
    if (unlikely(__atomic_load_n(&w->asleep, __ATOMIC_RELAXED)) ||
        unlikely(before < size / 2 && after >= size / 2))
        writer_wake(w);
}

#endif
