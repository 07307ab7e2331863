/* SPDX-License-Identifier: MIT */
/* listener.c - accept(), and what to do when it cannot. */
#include "loop/listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define PAUSE_NS DT_MS(100)

/* The connection stays in the backlog and the socket readable: watching on would keep a processor busy. */
static void rest(struct listener *l, int error)
{
    log_warning("cannot accept a connection: %s; trying again every %u ms", strerror(error),
                (unsigned)(PAUSE_NS / DT_MS(1)));
    loop_watch_remove(l->loop, &l->watch);
    loop_timer_set(l->loop, &l->pause, dt_clock_ns() + PAUSE_NS);
}

static void run_accept(struct dt_watch *watch, uint32_t events)
{
    struct listener *l = container_of(watch, struct listener, watch);
    int sock = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (sock >= 0)
        l->accepted(l, sock);
    else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        rest(l, errno);
    /* Anything else was the client's: it went away before it was served. */
}

static void run_pause(struct dt_timer *timer)
{
    struct listener *l = container_of(timer, struct listener, pause);

    if (loop_watch_add(l->loop, &l->watch) < 0)
        loop_timer_set(l->loop, timer, dt_clock_ns() + PAUSE_NS);
}

int listener_start(struct listener *listener, struct loop *loop, int fd,
                   void (*accepted)(struct listener *listener, int sock))
{
    int ret;

    *listener = (struct listener){
        .accepted = accepted,
        .loop = loop,
        .watch = {.fd = fd, .events = EPOLLIN, .ready = run_accept},
        .pause.fire = run_pause,
    };
    ret = loop_watch_add(loop, &listener->watch);
    if (ret < 0)
        listener->loop = NULL;
    return ret;
}

void listener_stop(struct listener *listener)
{
    if (!listener->loop)
        return;
    if (listener->pause.heap_index)
        loop_timer_cancel(listener->loop, &listener->pause);
    else
        loop_watch_remove(listener->loop, &listener->watch);
    listener->loop = NULL;
}
