/* SPDX-License-Identifier: MIT */
/*
 * shared.c - a pool within a process: one structure, whichever number of disks are in it.
 *
 * Theory of operation: a pool has one writer. A successor may be started while its predecessor
 * still serves, so opening takes no lock: the file is opened, and looked at read-only, for the
 * sizes of disks. The lock is taken and the pool recovered by the fence, when the predecessor is
 * gone. From start to stop it belongs to one thread.
 */
#include "blk/cvd/internal.h"
#include "core/core.h"

#define TURN_EVERY DT_S(1)
#define LOOKS      5u

static struct shared *all;

static void pool_event(void *arg, const char *event, const char *text)
{
    const struct shared *s = arg;

    dt_layer_event(s->layer, event, "%s", text);
}

/* ---- Turns ---- */

static void run_turn(struct loop_deferred *deferred)
{
    struct shared *s = container_of(deferred, struct shared, turn);
    bool more = pool_turn(s->pool);

    loop_timer_set(s->loop, &s->timer, loop_now(s->loop) + (more ? 0 : TURN_EVERY));
}

static void run_timer(struct dt_timer *timer)
{
    struct shared *s = container_of(timer, struct shared, timer);

    loop_defer(s->loop, &s->turn);
}

static void kick(void *arg)
{
    struct shared *s = arg;

    if (s->running)
        loop_defer(s->loop, &s->turn);
}

int shared_start(struct cvd *d, struct dt_ctx *c, struct dt_error *err)
{
    struct shared *s = d->shared;
    struct loop *loop = ctx_loop(c);
    int ret;

    if (s->loop && s->loop != loop)
        return dt_fail(err, -EINVAL, "%s: all disks of a pool are on one thread (--threads 1)",
                       s->path);
    if (s->ctxs++)
        return 0;
    s->loop = loop;
    s->turn.run = run_turn;
    s->timer.fire = run_timer;
    ret = store_file_loop(s->store, loop);
    if (ret < 0) {
        s->loop = NULL;
        s->ctxs = 0;
        return dt_fail(err, ret, "%s: its thread cannot be started: %s", s->path, strerror(-ret));
    }
    s->running = true;
    loop_timer_set(loop, &s->timer, loop_now(loop) + TURN_EVERY);
    return 0;
}

void shared_stop(struct cvd *d)
{
    struct shared *s = d->shared;

    if (--s->ctxs)
        return;
    s->running = false;
    loop_timer_cancel(s->loop, &s->timer);
    loop_defer_cancel(s->loop, &s->turn);
    store_file_loop(s->store, NULL); /* waits for a root that is being written */
    s->loop = NULL;
}

/* ---- Opening ---- */

/* Somebody may be writing to it: then what a root reaches may be gone before it was read. Look
 * again. */
static int look(struct shared *s, struct dt_error *err)
{
    struct pool_options o = {.read_only = true};
    int ret = -EBADMSG;

    for (unsigned i = 0; i < LOOKS && ret == -EBADMSG; i++)
        ret = pool_open(&s->peek, s->store, &o, err);
    return ret;
}

static struct shared *find(const char *path)
{
    struct shared *s = all;

    while (s && strcmp(s->path, path))
        s = s->next;
    return s;
}

static void drop(struct shared *s)
{
    struct shared **at = &all;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s->path);
    free(s);
}

int shared_get(struct cvd *d, struct dt_layer *layer, struct dt_error *err)
{
    struct store_file_options o = {0};
    struct shared *s = find(d->path);
    int ret;

    if (s && s->running)
        return dt_fail(err, -EBUSY,
                       "%s serves other disks already: start all disks of a pool "
                       "together",
                       d->path);
    if (s) {
        d->shared = s;
        s->disks++;
        return 0;
    }
    s = xcalloc(1, sizeof(*s));
    s->path = xstrdup(d->path);
    s->layer = layer;
    s->next = all;
    all = s;
    ret = store_file_open(&s->store, d->path, &o, err);
    if (ret == 0) {
        ret = look(s, err);
        if (ret < 0)
            s->store->close(s->store);
    }
    if (ret < 0) {
        drop(s);
        return ret;
    }
    s->disks = 1;
    d->shared = s;
    return 0;
}

int shared_lock(struct cvd *d, uint64_t deadline, struct dt_error *err)
{
    struct shared *s = d->shared;
    struct pool_options o = {
        .kick = kick, .event = pool_event, .arg = s, .cache = (size_t)d->cache};
    int ret;

    if (s->pool)
        return 0;
    ret = store_file_lock(s->store, deadline, err);
    if (ret < 0)
        return ret;
    if (s->peek)
        pool_release(s->peek);
    s->peek = NULL;
    return pool_open(&s->pool, s->store, &o, err);
}

void shared_put(struct cvd *d, struct dt_layer *layer)
{
    struct shared *s = d->shared;
    struct dt_error err;

    if (--s->disks)
        return;
    if (s->peek)
        pool_release(s->peek);
    if (s->pool && pool_close(s->pool, &err) < 0)
        log_error("%s", err.text);
    else if (!s->pool)
        s->store->close(s->store);
    drop(s);
}
