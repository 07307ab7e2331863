/* SPDX-License-Identifier: MIT */
/*
 * host-threads.c - the threads of a host: as many as those of the worker's that send it requests.
 *
 * With one, its loop listens to the worker's control socket, too. With several, the process's own thread does nothing
 * else: a change that needs all of them to stand still can be made by none of them.
 */
#include "blk/channel/host.h"

#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>

#define STACK_BYTES (1u << 20)

int host_loops_new(struct host *h, unsigned n, uint64_t spin, struct dt_error *err)
{
    struct loop_config config = {.spin_ns = spin};
    int ret = 0;

    h->lanes = xaligned(CACHE_LINE, n * sizeof(*h->lanes));
    for (h->nlanes = 0; h->nlanes < n && ret == 0; h->nlanes++) {
        h->lanes[h->nlanes] = (struct host_lane){.h = h, .index = h->nlanes};
        ret = loop_new(&h->lanes[h->nlanes].loop, &config, err);
    }
    return ret;
}

static void *run_lane(void *arg)
{
    struct host_lane *l = arg;
    char name[16];

    snprintf(name, sizeof(name), "ext-host%u", l->index);
    pthread_setname_np(pthread_self(), name);
    loop_run(l->loop);
    return NULL;
}

int host_threads_start(struct host *h, struct dt_error *err)
{
    pthread_attr_t attr;
    int ret = 0;

    if (h->nlanes == 1)
        return 0;
    mallopt(M_ARENA_MAX, 1); /* each reserves 64 MiB, of an address space that is limited */
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    for (unsigned i = 0; i < h->nlanes && ret == 0; i++) {
        ret = pthread_create(&h->lanes[i].thread, &attr, run_lane, &h->lanes[i]);
        while (ret == 0 && !loop_is_foreign(h->lanes[i].loop))
            sched_yield();
    }
    pthread_attr_destroy(&attr);
    return ret ? dt_fail(err, -ret, "cannot start a thread: %s", strerror(ret)) : 0;
}

static void take_control(struct host *h)
{
    struct dt_channel_event e;

    while (!h->stopping && dt_channel_poll_control(h->ch, &e))
        host_control(h, &e);
    /* The end of the conversation is an event of the other kind. */
    if (!h->stopping && dt_channel_ended(h->ch) && dt_channel_poll(h->ch, &e, 1))
        host_control(h, &e);
}

static void on_control(struct dt_watch *watch, uint32_t events)
{
    struct host *h = container_of(watch, struct host, control_watch);

    take_control(h);
    if (h->stopping)
        loop_stop(h->lanes[0].loop);
}

void host_serve(struct host *h)
{
    struct loop *loop = h->lanes[0].loop;

    if (h->nlanes > 1) {
        for (take_control(h); !h->stopping; take_control(h))
            dt_channel_wait(h->ch, -1);
        return;
    }
    h->control_watch = (struct dt_watch){
        .ready = on_control, .fd = dt_channel_control_fd(h->ch), .events = EPOLLIN};
    CHECK(loop_watch_add(loop, &h->control_watch) == 0);
    loop_run(loop);
    loop_watch_remove(loop, &h->control_watch);
}

void host_loops_free(struct host *h)
{
    for (unsigned i = 0; i < h->nlanes; i++) {
        if (h->lanes[i].thread) {
            loop_stop(h->lanes[i].loop);
            pthread_join(h->lanes[i].thread, NULL);
        }
        loop_free(h->lanes[i].loop);
    }
    free(h->lanes);
}
