/* SPDX-License-Identifier: MIT */
/*
 * helper.c - a thread that carries out what blocks, for a store in a file.
 *
 * Theory of operation: a loop can do such things too, by threads of the kernel's. But when a disk stops, what is under
 * way must be waited for without the loop, and with a thread of ours that is possible. What waits is taken as one
 * batch, so that one fdatasync(2) can serve all that asked for one.
 */
#include "parallax/helper.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The lock is not held while the kernel is asked, so the loop's thread never waits for that. Who is told takes all that is
 * finished then: where there is something already, that was told, and is not taken yet. */
static void finish(struct helper *h, struct store_io *batch)
{
    uint64_t one = 1;
    bool first;

    pthread_mutex_lock(&h->lock);
    first = !h->finished;
    while (batch) {
        struct store_io *next = batch->next;

        batch->next = h->finished;
        h->finished = batch;
        batch = next;
    }
    pthread_mutex_unlock(&h->lock);
    if (first && write(h->event, &one, sizeof(one)) < 0)
        log_warning("the end of a flush or write cannot be told: %s", strerror(errno));
}

/* What waits, once there is something; NULL: it is to stop. */
static struct store_io *take_all(struct helper *h)
{
    struct store_io *batch;

    pthread_mutex_lock(&h->lock);
    while (!h->queue && !h->stop)
        pthread_cond_wait(&h->wake, &h->lock);
    batch = h->queue;
    h->queue = NULL;
    h->tail = &h->queue;
    pthread_mutex_unlock(&h->lock);
    return batch;
}

static void *helper_main(void *arg)
{
    struct helper *h = arg;
    struct store_io *batch;

    while ((batch = take_all(h)) != NULL) {
        h->work(h->arg, batch);
        finish(h, batch);
    }
    return NULL;
}

static void complete(struct helper *h)
{
    struct store_io *sio, *next;

    pthread_mutex_lock(&h->lock);
    sio = h->finished;
    h->finished = NULL;
    pthread_mutex_unlock(&h->lock);
    for (; sio; sio = next) {
        next = sio->next;
        h->busy--;
        sio->done(sio, sio->result);
    }
}

static void ready(struct dt_watch *watch, uint32_t events)
{
    struct helper *h = container_of(watch, struct helper, watch);
    uint64_t count;

    if (read(h->event, &count, sizeof(count)) == sizeof(count))
        complete(h);
}

void helper_add(struct helper *h, struct store_io *sio)
{
    pthread_mutex_lock(&h->lock);
    sio->next = NULL;
    *h->tail = sio;
    h->tail = &sio->next;
    pthread_mutex_unlock(&h->lock);
    h->busy++;
    pthread_cond_signal(&h->wake);
}

int helper_start(struct helper *h, struct loop *loop)
{
    int ret;

    h->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->event < 0)
        return -errno;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, NULL);
    h->watch = (struct dt_watch){.ready = ready, .fd = h->event, .events = EPOLLIN};
    h->loop = loop;
    h->tail = &h->queue;
    h->stop = false;
    ret = loop_watch_add(loop, &h->watch);
    if (ret == 0) {
        ret = -pthread_create(&h->thread, NULL, helper_main, h);
        if (ret < 0)
            loop_watch_remove(loop, &h->watch);
    }
    if (ret < 0)
        close(h->event);
    h->runs = ret == 0;
    return ret;
}

void helper_drain(struct helper *h)
{
    while (h->busy) {
        struct pollfd p = {.fd = h->event, .events = POLLIN};

        poll(&p, 1, -1);
        ready(&h->watch, EPOLLIN);
    }
}

void helper_stop(struct helper *h)
{
    if (!h->runs)
        return;
    helper_drain(h);
    loop_watch_remove(h->loop, &h->watch);
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->wake);
    close(h->event);
    h->runs = false;
}
