/* SPDX-License-Identifier: MIT */
/*
 * listener.h - a listening socket on a loop: connections as they come, and a pause when the process
 * or the system has no room for one more, instead of being told of it without end.
 */
#ifndef LOOP_LISTENER_H
#define LOOP_LISTENER_H

#include "loop/loop.h"

/**
 * struct listener - embed it; zero until listener_start().
 * @accepted: called on the loop's thread with a connected, non-blocking socket, the callee's from then on.
 */
struct listener {
    void (*accepted)(struct listener *listener, int sock);
    struct loop *loop; /* NULL: not started */
    struct dt_watch watch;
    struct dt_timer pause;
};

/** listener_start() - @fd listens already and stays the caller's. Return: 0 or -errno. */
int listener_start(struct listener *listener, struct loop *loop, int fd,
                   void (*accepted)(struct listener *listener, int sock));
/** listener_stop() - harmless if not started; the descriptor may be closed afterwards. */
void listener_stop(struct listener *listener);

#endif
