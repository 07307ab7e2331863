/* SPDX-License-Identifier: MIT */
/* signals.c - SIGTERM and SIGINT as events of a loop: the first ends in good order. */
#include "tools/run/run.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

static void of_interest(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

static void run_signal(struct dt_watch *watch, uint32_t events)
{
    struct signals *s = container_of(watch, struct signals, watch);
    struct signalfd_siginfo info;

    if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
        return;
    log_info("stopping (%s)", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    s->quit(s->arg);
}

int signals_watch(struct signals *s, struct loop *loop, struct dt_error *err)
{
    sigset_t set;
    int ret;

    of_interest(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->watch.events = EPOLLIN;
    s->watch.ready = run_signal;
    s->watch.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    ret = s->watch.fd < 0 ? -errno : loop_watch_add(loop, &s->watch);
    return ret < 0 ? dt_fail(err, ret, "cannot watch for signals: %s", strerror(-ret)) : 0;
}

void signals_unblock(void)
{
    sigset_t set;

    of_interest(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void signals_unwatch(struct signals *s, struct loop *loop)
{
    if (s->watch.fd < 0)
        return;
    loop_watch_remove(loop, &s->watch);
    close(s->watch.fd);
    s->watch.fd = -1;
}
