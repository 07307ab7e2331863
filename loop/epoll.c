/* SPDX-License-Identifier: MIT */
/*
 * epoll.c - the loop's engine where io_uring is missing or forbidden.
 *
 * Theory of operation: epoll for descriptors; file I/O is done by a few threads, which start with
 * the first I/O. What a turn started goes to them together at its end, under a lock; what they
 * finished comes back on a lock-free stack, which the loop looks at on every turn, and they wake
 * the loop only if it sleeps, like the sender of a message.
 */
#include "base/fifo.h"
#include "loop/engine.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>

#define EPOLL_THREADS 4
#define EPOLL_EVENTS  64
#define EPOLL_CHUNK   64

struct job {
    struct io_op op;
    int result;
    struct job *next;
};

struct job_chunk {
    struct job_chunk *next;
    struct job jobs[EPOLL_CHUNK];
};

FIFO(job_queue, job)

struct epoll {
    struct loop *loop;
    int fd;
    struct job *free;
    struct job_chunk *chunks;
    struct job_queue started; /* in this turn */
    unsigned n_started;
    unsigned threads;
    bool threads_tried;
    int n_events; /* what a sleep brought; -1 = not asked since the last turn */
    struct epoll_event events[EPOLL_EVENTS];
    pthread_t thread[EPOLL_THREADS];

    CACHE_ALIGNED pthread_mutex_t lock;
    pthread_cond_t work;
    struct job_queue queue; /* under @lock, as the next two */
    unsigned idle;
    bool quit;

    CACHE_ALIGNED struct job *finished; /* newest first */
};

static void job_run(struct job *job)
{
    const struct io_op *op = &job->op;
    ssize_t rc = -1;

    do {
        switch (op->code) {
        case IO_READ:
            rc = preadv(op->fd, op->iov, (int)op->n, (off_t)op->offset);
            break;
        case IO_WRITE:
            rc = pwritev(op->fd, op->iov, (int)op->n, (off_t)op->offset);
            break;
        case IO_FDATASYNC:
            rc = fdatasync(op->fd);
            break;
        case IO_FALLOCATE:
            rc = fallocate(op->fd, op->mode, (off_t)op->offset, (off_t)op->length);
            break;
        }
    } while (rc < 0 && errno == EINTR);
    job->result = rc < 0 ? -errno : (int)rc;
}

static void job_finish(struct epoll *e, struct job *job)
{
    struct job *head = __atomic_load_n(&e->finished, __ATOMIC_RELAXED);

    do {
        job->next = head;
    } while (!__atomic_compare_exchange_n(&e->finished, &head, job, true, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED));
    loop_wake(e->loop);
}

static void *io_thread(void *arg)
{
    struct epoll *e = arg;

    pthread_mutex_lock(&e->lock);
    for (;;) {
        struct job *job = job_queue_take(&e->queue);

        if (!job) {
            if (e->quit)
                break;
            e->idle++;
            pthread_cond_wait(&e->work, &e->lock);
            e->idle--;
            continue;
        }
        pthread_mutex_unlock(&e->lock);
        job_run(job);
        job_finish(e, job);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* A sandbox may refuse threads: then the loop does its I/O itself, slowly but rightly. */
static void threads_start(struct epoll *e)
{
    sigset_t all, old;

    e->threads_tried = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the program's own threads */
    while (e->threads < EPOLL_THREADS &&
           pthread_create(&e->thread[e->threads], NULL, io_thread, e) == 0)
        e->threads++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!e->threads)
        log_warning("cannot start I/O threads; files will block the loop");
}

static int epoll_open(struct loop *loop, unsigned entries, struct dt_error *err)
{
    struct epoll *e = xaligned(CACHE_LINE, sizeof(*e));
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = KEY_WAKE};

    e->fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->fd < 0 || epoll_ctl(e->fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
        int rc = dt_fail(err, -errno, "cannot set up epoll: %m");

        if (e->fd >= 0)
            close(e->fd);
        free(e);
        return rc;
    }
    e->loop = loop;
    e->n_events = -1;
    job_queue_init(&e->started);
    job_queue_init(&e->queue);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, NULL);
    loop->state = e;
    return 0;
}

static void epoll_close(struct loop *loop)
{
    struct epoll *e = loop->state;

    pthread_mutex_lock(&e->lock);
    e->quit = true;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    for (unsigned i = 0; i < e->threads; i++)
        pthread_join(e->thread[i], NULL);
    pthread_cond_destroy(&e->work);
    pthread_mutex_destroy(&e->lock);
    while (e->chunks) {
        struct job_chunk *chunk = e->chunks;

        e->chunks = chunk->next;
        free(chunk);
    }
    close(e->fd);
    free(e);
}

static void jobs_grow(struct epoll *e)
{
    struct job_chunk *chunk = xcalloc(1, sizeof(*chunk));

    chunk->next = e->chunks;
    e->chunks = chunk;
    for (unsigned i = 0; i < EPOLL_CHUNK; i++) {
        chunk->jobs[i].next = e->free;
        e->free = &chunk->jobs[i];
    }
}

static void epoll_start(struct loop *loop, const struct io_op *op)
{
    struct epoll *e = loop->state;
    struct job *job;

    if (!e->free)
        jobs_grow(e);
    job = e->free;
    e->free = job->next;
    job->op = *op;
    job_queue_add(&e->started, job);
    e->n_started++;
}

static void jobs_submit(struct epoll *e)
{
    unsigned wake;

    stat_add(&e->loop->stats.submits, 1);
    if (!e->threads_tried)
        threads_start(e);
    if (!e->threads) {
        for (struct job *job; (job = job_queue_take(&e->started));) {
            job_run(job);
            job_finish(e, job);
        }
        e->n_started = 0;
        return;
    }
    pthread_mutex_lock(&e->lock);
    job_queue_move(&e->queue, &e->started);
    wake = MIN(e->idle, e->n_started);
    pthread_mutex_unlock(&e->lock);
    while (wake--)
        pthread_cond_signal(&e->work);
    e->n_started = 0;
}

static unsigned watches_reap(struct loop *loop, struct epoll *e)
{
    unsigned done = 0;

    if (e->n_events < 0) {
        /* A spinning turn is cheaper than this system call by far. */
        if (!loop->watches.used ||
            (!list_empty(&loop->pollers) && loop->stats.turns % LOOP_TICK_TURNS))
            return 0;
        e->n_events = epoll_wait(e->fd, e->events, EPOLL_EVENTS, 0);
    }
    for (int i = 0; i < e->n_events; i++) {
        uint64_t key = e->events[i].data.u64;
        struct dt_watch *watch;
        unsigned index;

        /* A callback before this one may have removed the watch. */
        if (key == KEY_WAKE || !watch_find(&loop->watches, key, &index))
            continue;
        watch = loop->watches.slots[index].watch;
        watch->ready(watch, e->events[i].events);
        done++;
    }
    e->n_events = -1;
    return done;
}

static unsigned jobs_reap(struct loop *loop, struct epoll *e)
{
    struct job *newest, *oldest = NULL;
    unsigned done = 0;

    if (!__atomic_load_n(&e->finished, __ATOMIC_RELAXED))
        return 0;
    newest = __atomic_exchange_n(&e->finished, NULL, __ATOMIC_ACQUIRE);
    while (newest) {
        struct job *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct job *job = oldest;
        struct dt_io *io = job->op.io;

        oldest = job->next;
        job->next = e->free;
        e->free = job;
        io_finish(loop, io, job->result);
        done++;
    }
    return done;
}

static unsigned epoll_reap(struct loop *loop)
{
    struct epoll *e = loop->state;
    unsigned done = jobs_reap(loop, e);

    return done + watches_reap(loop, e);
}

static void epoll_enter(struct loop *loop, uint64_t timeout)
{
    struct epoll *e = loop->state;
    struct timespec ts = {(time_t)(timeout / DT_S(1)), (long)(timeout % DT_S(1))};

    if (e->n_started)
        jobs_submit(e);
    if (!timeout)
        return;
    e->n_events =
        epoll_pwait2(e->fd, e->events, EPOLL_EVENTS, timeout == LOOP_FOREVER ? NULL : &ts, NULL);
    CHECK(e->n_events >= 0 || errno == EINTR);
}

static bool epoll_ready(struct loop *loop)
{
    struct epoll *e = loop->state;

    return __atomic_load_n(&e->finished, __ATOMIC_SEQ_CST) != NULL;
}

static int epoll_watch_add(struct loop *loop, unsigned index)
{
    struct epoll *e = loop->state;
    struct dt_watch *watch = loop->watches.slots[index].watch;
    struct epoll_event event = {.events = watch->events,
                                .data.u64 = watch_key(&loop->watches, index)};

    return epoll_ctl(e->fd, EPOLL_CTL_ADD, watch->fd, &event) < 0 ? -errno : 0;
}

static void epoll_watch_remove(struct loop *loop, unsigned index)
{
    struct epoll *e = loop->state;

    epoll_ctl(e->fd, EPOLL_CTL_DEL, loop->watches.slots[index].watch->fd, NULL);
}

const struct engine engine_epoll = {
    .name = "epoll",
    .open = epoll_open,
    .close = epoll_close,
    .reap = epoll_reap,
    .enter = epoll_enter,
    .ready = epoll_ready,
    .start = epoll_start,
    .watch_add = epoll_watch_add,
    .watch_remove = epoll_watch_remove,
};
