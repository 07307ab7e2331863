/* SPDX-License-Identifier: MIT */
/* writer.c - the thread: it looks often while things come, and sleeps when nothing does. */
#include "base/writer.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#define NAP_MS   10   /* between looks while something comes */
#define SLEEP_MS 1000 /* the longest sleep, which bounds the cost of a missed wake-up */

static bool drain_all(struct writer *w)
{
    bool any = false;

    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < w->threads; i++)
        if (w->rings[i])
            any |= w->drain(w, w->rings[i]);
    pthread_mutex_unlock(&w->lock);
    return any;
}

static void nap(struct writer *w, bool busy)
{
    struct pollfd wait[2] = {{.fd = w->wake_fd, .events = POLLIN},
                             {.fd = w->slow_fd, .events = POLLOUT}};
    bool slow = w->slow_fd >= 0;
    uint64_t count;

    if (poll(wait, slow ? 2 : 1, !busy || slow ? SLEEP_MS : NAP_MS) > 0 && wait[0].revents &&
        read(w->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
        log_error("%s: eventfd: %s", w->name, strerror(errno));
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    bool busy = true;

    while (!__atomic_load_n(&w->quit, __ATOMIC_ACQUIRE)) {
        nap(w, busy);
        __atomic_store_n(&w->asleep, false, __ATOMIC_RELAXED);
        busy = drain_all(w);
        if (busy)
            continue;
        __atomic_store_n(&w->asleep, true, __ATOMIC_SEQ_CST);
        busy = drain_all(w); /* what came before the flag was seen */
    }
    return NULL;
}

void writer_wake(struct writer *w)
{
    const uint64_t one = 1;

    __atomic_store_n(&w->asleep, false, __ATOMIC_RELAXED);
    if (write(w->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_error("%s: eventfd: %s", w->name, strerror(errno));
}

/* With all signals blocked: they are for the program's own threads, and a pipe without a reader is
 * an error here. */
static int start_thread(struct writer *w)
{
    sigset_t all, old;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    ret = pthread_create(&w->thread, NULL, writer_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -ret;
}

int writer_start(struct writer *w, unsigned threads, struct dt_error *err)
{
    int ret;

    w->slow_fd = -1;
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake_fd < 0)
        return dt_fail(err, -errno, "cannot create an eventfd: %s", strerror(errno));
    pthread_mutex_init(&w->lock, NULL);
    w->rings = xcalloc(threads, sizeof(*w->rings));
    w->threads = threads;
    ret = start_thread(w);
    if (ret < 0) {
        free(w->rings);
        pthread_mutex_destroy(&w->lock);
        close(w->wake_fd);
        return dt_fail(err, ret, "cannot start the writing thread: %s", strerror(-ret));
    }
    pthread_setname_np(w->thread, w->name);
    return 0;
}

void writer_stop(struct writer *w)
{
    __atomic_store_n(&w->quit, true, __ATOMIC_RELEASE);
    writer_wake(w);
    pthread_join(w->thread, NULL);
    free(w->rings);
    pthread_mutex_destroy(&w->lock);
    close(w->wake_fd);
}

void writer_add(struct writer *w, unsigned thread, void *ring)
{
    pthread_mutex_lock(&w->lock);
    w->rings[thread] = ring;
    pthread_mutex_unlock(&w->lock);
}

void writer_remove(struct writer *w, unsigned thread, void (*last)(struct writer *w, void *ring))
{
    pthread_mutex_lock(&w->lock);
    last(w, w->rings[thread]);
    w->rings[thread] = NULL;
    pthread_mutex_unlock(&w->lock);
}
