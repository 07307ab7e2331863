/* SPDX-License-Identifier: MIT */
/*
 * shared.c - a pool within a process: one structure, whichever number of disks are in it.
 *
 * Theory of operation: a pool has one writer. A successor may be started while its predecessor
 * still serves, so opening takes no lock: the file is opened, and looked at read-only, for the
 * sizes of disks. The lock is taken and the pool recovered by the fence, when the predecessor is
 * gone. From start to stop it belongs to one thread.
 */
#include "blk/cvd-local/internal.h"

#include <time.h>

#define TURN_EVERY      DT_S(1)
#define SCHEDULES_EVERY DT_S(1)
#define LOOKS           5u

static struct shared *all;

/* Each disk that it concerns; the first one speaks for those that are not open here. */
static void tell_disks(const struct shared *s, uint32_t slot, const char *event, const char *text)
{
    bool told = false;

    list_for_each (it, &s->disks) {
        const struct cvd *d = list_entry(it, struct cvd, node);

        if (slot != NO_SLOT && !(d->disk && disk_about(d->disk) == slot))
            continue;
        dt_layer_event(d->layer, event, "%s", text);
        told = true;
    }
    if (!told && !list_empty(&s->disks))
        dt_layer_event(list_entry(s->disks.next, struct cvd, node)->layer, event, "%s", text);
}

static void pool_event(void *arg, uint32_t slot, const char *event, const char *text)
{
    const struct shared *s = arg;

    if (s->event)
        s->event(s->arg, slot, event, text);
    else
        tell_disks(s, slot, event, text);
}

/* ---- Turns ---- */

static void run_turn(struct loop_deferred *deferred)
{
    struct shared *s = container_of(deferred, struct shared, turn);
    bool more = pool_turn(s->pool);
    uint64_t wait = MIN(TURN_EVERY, pool_wait(s->pool));

    loop_timer_set(s->loop, &s->timer, loop_now(s->loop) + (more ? 0 : wait));
}

static void run_timer(struct dt_timer *timer)
{
    struct shared *s = container_of(timer, struct shared, timer);

    loop_defer(s->loop, &s->turn);
}

static void run_schedules(struct dt_timer *timer)
{
    struct shared *s = container_of(timer, struct shared, schedules);
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    pool_run_schedules(s->pool, (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec);
    loop_timer_set(s->loop, timer, loop_now(s->loop) + SCHEDULES_EVERY);
}

static void kick(void *arg)
{
    struct shared *s = arg;

    if (s->running)
        loop_defer(s->loop, &s->turn);
}

int shared_start(struct shared *s, struct loop *loop, struct dt_error *err)
{
    int ret;

    if (s->loop && s->loop != loop)
        return dt_fail(err, -EINVAL, "%s: all disks of a pool are on one thread (--threads 1)",
                       s->path);
    if (s->running++)
        return 0;
    s->loop = loop;
    s->turn.run = run_turn;
    s->timer.fire = run_timer;
    ret = store_file_loop(s->store, loop);
    if (ret < 0) {
        s->loop = NULL;
        s->running = 0;
        return dt_fail(err, ret, "%s: its thread cannot be started: %s", s->path, strerror(-ret));
    }
    loop_timer_set(loop, &s->timer,
                   loop_now(loop)); /* opening asked for a turn, before there was a loop */
    s->schedules.fire = run_schedules;
    loop_timer_set(loop, &s->schedules, loop_now(loop) + SCHEDULES_EVERY);
    return 0;
}

void shared_stop(struct shared *s)
{
    if (--s->running)
        return;
    loop_timer_cancel(s->loop, &s->timer);
    loop_timer_cancel(s->loop, &s->schedules);
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

/* Between open and start nobody else may touch it, so whoever comes later is on its thread. */
static bool is_elsewhere(const struct shared *s)
{
    return s->running && !loop_is_own(s->loop);
}

static int get(struct shared **out, const char *path, bool looks, struct dt_error *err)
{
    struct store_file_options o = {0};
    struct shared *s = find(path);
    int ret;

    if (s && is_elsewhere(s))
        return dt_fail(err, -EBUSY,
                       "%s serves other disks already: start all disks of a pool together, or let "
                       "a process of its own serve it (cvd pool open)",
                       path);
    *out = s;
    if (s) {
        s->users++;
        return 0;
    }
    s = xcalloc(1, sizeof(*s));
    s->path = xstrdup(path);
    s->next = all;
    list_init(&s->disks);
    all = s;
    ret = store_file_open(&s->store, path, &o, err);
    if (ret == 0 && looks) {
        ret = look(s, err);
        if (ret < 0)
            s->store->close(s->store);
    }
    if (ret < 0) {
        drop(s);
        return ret;
    }
    s->users = 1;
    *out = s;
    return 0;
}

int shared_get(struct shared **out, const char *path, struct dt_error *err)
{
    return get(out, path, true, err);
}

int shared_lock(struct shared *s, size_t cache, uint64_t data_cache, uint64_t deadline,
                struct dt_error *err)
{
    struct pool_options o = {.lazy = true,
                             .kick = kick,
                             .event = pool_event,
                             .arg = s,
                             .cache = cache,
                             .data_cache = data_cache,
                             .holder = s->holder};
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

int shared_put(struct shared *s, struct dt_error *err)
{
    int ret = 0;

    if (--s->users)
        return 0;
    if (s->peek)
        pool_release(s->peek);
    if (s->pool)
        ret = pool_close(s->pool, err);
    else
        s->store->close(s->store);
    drop(s);
    return ret;
}

/* ---- A host ---- */

int shared_host(struct shared **out, const struct shared_config *config, struct dt_error *err)
{
    struct dt_error late;
    struct shared *s;
    int ret =
        get(&s, config->path, false, err); /* it is about to be opened: that would be done twice */

    if (ret < 0)
        return ret;
    s->holder = config->holder;
    s->event = config->event;
    s->arg = config->arg;
    ret = shared_lock(s, config->cache, config->data_cache, config->deadline, err);
    ret = ret ?: shared_start(s, config->loop, err);
    if (ret < 0) {
        shared_put(s, &late);
        return ret;
    }
    *out = s;
    return 0;
}

int shared_unhost(struct shared *s, struct dt_error *err)
{
    CHECK(list_empty(&s->disks));
    shared_stop(s);
    return shared_put(s, err);
}

struct pool *shared_pool(struct shared *s)
{
    return s->pool;
}

void shared_resized(struct shared *s, uint32_t slot)
{
    list_for_each_safe (it, &s->disks) {
        struct cvd *d = list_entry(it, struct cvd, node);

        if (d->disk && disk_slot(d->disk) == slot)
            cvd_resized(d);
    }
}
