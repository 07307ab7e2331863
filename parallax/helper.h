/* SPDX-License-Identifier: MIT */
/* helper.h - a thread that carries out what blocks, for a store in a file. */
#ifndef PARALLAX_HELPER_H
#define PARALLAX_HELPER_H

#include "parallax/store.h"

#include <pthread.h>

/**
 * struct helper - set @work and @arg, zero the rest.
 * @work: on its own thread: carry out all that @batch links, in order, and set each one's result.
 * @busy: what was handed to it and is not completed on the loop yet.
 */
struct helper {
    void (*work)(void *arg, struct store_io *batch);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct store_io *queue, **tail, *finished;
    unsigned busy;
    bool runs, stop;
    int event;
    struct dt_watch watch;
    struct loop *loop;
};

/** helper_start() - its thread, which completes on @loop. */
int helper_start(struct helper *h, struct loop *loop);
/** helper_drain() - until nothing is under way, what completions add included. Without the loop. */
void helper_drain(struct helper *h);
/** helper_stop() - nothing is under way any more, or it is waited for. */
void helper_stop(struct helper *h);
/** helper_add() - from the loop's thread. */
void helper_add(struct helper *h, struct store_io *sio);

#endif
