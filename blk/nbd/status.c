/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a range holds: the server is asked, by the metadata context base:allocation.
 *
 * Theory of operation: a connection belongs to its thread, so the question is left with the first thread, whose timer
 * sends it; who asks waits for the answer, until its deadline. A server that is gone or slow has data everywhere. libnbd
 * may call back long after that, so the question stays until nobody has it.
 */
#include "blk/nbd/internal.h"

#include <pthread.h>
#include <time.h>

#define MAX_LENGTH ((uint64_t)1 << 30) /* any server's 32 bits hold it */

/**
 * struct question - what the server is asked.
 * @users: who asks, the timer, libnbd's two callbacks.
 * @length, @flags: the answer; 0 = none.
 */
struct question {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    unsigned users;
    bool done;
    uint64_t at, asked, length;
    uint32_t flags;
};

static void put(void *arg)
{
    struct question *q = arg;

    if (__atomic_sub_fetch(&q->users, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->answered);
    free(q);
}

static struct question *question_new(uint64_t at, uint64_t length)
{
    struct question *q = xcalloc(1, sizeof(*q));
    pthread_condattr_t clock;

    *q = (struct question){.users = 2, .at = at, .asked = length};
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&q->answered, &clock);
    pthread_condattr_destroy(&clock);
    return q;
}

static void finish(struct question *q, bool known)
{
    pthread_mutex_lock(&q->lock);
    if (!known)
        q->length = 0;
    q->done = true;
    pthread_cond_signal(&q->answered);
    pthread_mutex_unlock(&q->lock);
}

/* ---- On the disk's thread ---- */

/* In libnbd. Each entry is a length and what it is. */
static int heard(void *user, const char *context, uint64_t offset, uint32_t *entries, size_t n,
                 int *error)
{
    struct question *q = user;

    if (n < 2 || offset != q->at || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    pthread_mutex_lock(&q->lock);
    q->length = entries[0];
    q->flags = entries[1];
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static int over(void *user, int *error)
{
    finish(user, *error == 0);
    return 1; /* libnbd forgets the command */
}

void remote_ask(struct dt_timer *timer)
{
    struct remote_ctx *rc = container_of(timer, struct remote_ctx, ask);
    struct question *q = TAKE_PTR(rc->question);
    struct conn *conn = q ? conn_pick(rc) : NULL;
    nbd_extent_callback extent = {.callback = heard, .user_data = q, .free = put};
    nbd_completion_callback done = {.callback = over, .user_data = q, .free = put};

    if (!q)
        return;
    if (!conn || nbd_can_meta_context(conn->h, LIBNBD_CONTEXT_BASE_ALLOCATION) <= 0) {
        finish(q, false);
    } else {
        __atomic_add_fetch(&q->users, 2, __ATOMIC_RELAXED);
        if (nbd_aio_block_status(conn->h, q->asked, q->at, extent, done, LIBNBD_CMD_FLAG_REQ_ONE) <
            0)
            finish(q, false);
        conn_settle(conn);
    }
    put(q);
}

/* ---- Who asks ---- */

struct hand_over {
    struct dt_layer *layer;
    struct question *q; /* in: to be asked; out: that was not */
};

static void leave(void *arg)
{
    struct hand_over *h = arg;
    struct dt_ctx *c = dt_layer_ctx(h->layer, 0);
    struct remote_ctx *rc = c->data;

    rc->question = TAKE_PTR(h->q);
    dt_timer_set(c, &rc->ask, dt_clock_ns());
}

static void withdraw(void *arg)
{
    struct hand_over *h = arg;
    struct dt_ctx *c = dt_layer_ctx(h->layer, 0);
    struct remote_ctx *rc = c->data;

    dt_timer_cancel(c, &rc->ask);
    h->q = TAKE_PTR(rc->question);
}

static bool await(struct question *q, uint64_t end)
{
    struct timespec at = {.tv_sec = (time_t)(end / DT_S(1)), .tv_nsec = (long)(end % DT_S(1))};
    bool done;

    pthread_mutex_lock(&q->lock);
    while (!q->done && pthread_cond_timedwait(&q->answered, &q->lock, &at) == 0)
        ;
    done = q->done;
    pthread_mutex_unlock(&q->lock);
    return done;
}

/* The range that was asked of the server begins @before sectors before the extent, in whole blocks of its. */
static void judge(struct question *q, uint64_t before, struct dt_extent *extent)
{
    uint64_t sectors;

    pthread_mutex_lock(&q->lock);
    sectors = MIN(q->length, q->asked) >> DT_SECTOR_SHIFT;
    if (q->done && sectors > before) {
        extent->sectors = MIN(extent->sectors, sectors - before);
        if (q->flags & LIBNBD_STATE_ZERO)
            extent->status = q->flags & LIBNBD_STATE_HOLE ? DT_STATUS_HOLE : DT_STATUS_ZERO;
    }
    pthread_mutex_unlock(&q->lock);
}

void remote_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct remote *r = dt_layer_data(layer);
    uint64_t block = r->info.logical_block >> DT_SECTOR_SHIFT;
    uint64_t first = ALIGN_DOWN(extent->sector, block);
    uint64_t length = (extent->sector + extent->sectors - first) << DT_SECTOR_SHIFT;
    struct question *q;
    struct hand_over h = {.layer = layer};

    if (!r->maps)
        return;
    q = question_new(first << DT_SECTOR_SHIFT,
                     MIN(ALIGN_UP(length, (uint64_t)r->info.logical_block), MAX_LENGTH));
    h.q = q;
    dt_layer_exclusive(layer, leave, &h);
    if (!await(q, extent->deadline)) {
        dt_layer_exclusive(layer, withdraw, &h);
        if (h.q)
            put(h.q);
    }
    judge(q, extent->sector - first, extent);
    put(q);
}
