/* SPDX-License-Identifier: MIT */
/* call.c - run a function on a loop's thread, or on all threads of a device at once, and wait. */
#include "core/internal.h"

struct call {
    struct loop_message message;
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void run_call(struct loop_message *message)
{
    struct call *call = container_of(message, struct call, message);

    call->fn(call->arg);
    pthread_mutex_lock(&call->lock);
    call->done = true;
    pthread_cond_signal(&call->cond);
    pthread_mutex_unlock(&call->lock);
}

void loop_call(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    struct call call = {
        .message = {.run = run_call},
        .fn = fn,
        .arg = arg,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
    };

    if (!loop_is_foreign(loop)) {
        fn(arg);
        return;
    }
    loop_post(loop, &call.message);
    pthread_mutex_lock(&call.lock);
    while (!call.done)
        pthread_cond_wait(&call.cond, &call.lock);
    pthread_mutex_unlock(&call.lock);
}

/* All of a device's threads stand still while the one that asked runs the function. */
struct stand_still {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned arrived, left;
    bool finished;
};

struct stander {
    struct loop_message message;
    struct stand_still *all;
};

static void run_stand(struct loop_message *message)
{
    struct stander *s = container_of(message, struct stander, message);
    struct stand_still *all = s->all;

    pthread_mutex_lock(&all->lock);
    all->arrived++;
    pthread_cond_broadcast(&all->changed);
    while (!all->finished)
        pthread_cond_wait(&all->changed, &all->lock);
    all->left++;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}

void device_exclusive(struct device *dev, void (*fn)(void *arg), void *arg)
{
    /* Two exclusives over shared threads could each wait for the other's. */
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    struct stander standers[DEVICE_MAX_THREADS];
    struct stand_still all = {.lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER};

    if (dev->threads == 1 || !loop_is_foreign(dev->loops[0])) {
        /* A test may turn all loops itself; one of several threads would not stop the others. */
        for (unsigned t = 0; dev->threads > 1 && t < dev->threads; t++)
            CHECK(!loop_is_own(dev->loops[t]));
        loop_call(dev->loops[0], fn, arg);
        return;
    }
    pthread_mutex_lock(&one_at_a_time);
    for (unsigned t = 0; t < dev->threads; t++) {
        standers[t] = (struct stander){.message = {.run = run_stand}, .all = &all};
        loop_post(dev->loops[t], &standers[t].message);
    }
    pthread_mutex_lock(&all.lock);
    while (all.arrived < dev->threads)
        pthread_cond_wait(&all.changed, &all.lock);
    fn(arg);
    all.finished = true;
    pthread_cond_broadcast(&all.changed);
    while (all.left < dev->threads) /* @all and @standers are on this stack */
        pthread_cond_wait(&all.changed, &all.lock);
    pthread_mutex_unlock(&all.lock);
    pthread_mutex_unlock(&one_at_a_time);
}
