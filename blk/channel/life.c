/* SPDX-License-Identifier: MIT */
/* life.c - the proxy as a layer: opened, started, asked, stopped. */
#include "blk/channel/internal.h"

#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>

#define STOP_MS      1000
#define BUSY_NS      DT_S(1)
#define THREAD_BYTES (16u << 20)

/* Each thread beyond the first brings a channel, and a stack and what its loop needs. */
static uint64_t memory_of(const struct proxy *p)
{
    uint64_t bytes = p->mem_limit + (p->nlinks - 1) * (p->class->memory(p) + THREAD_BYTES);

    return p->mem_limit == 0 ? 0 : p->trust ? bytes | PLACED_LIMIT_PRIVATE : bytes;
}

int proxy_spawn(struct proxy *p, struct dt_error *err)
{
    int ret;

    p->hung_up = p->ended = false;
    p->class->look_below(p);
    ret = process_start(&p->process, p->w, memory_of(p), err);
    if (ret < 0)
        return ret;
    p->state = PROXY_STARTING;
    return proxy_send_init(p, err);
}

/* Ends the process in good order, so that the extension can put its own things away. */
static void end_process(struct proxy *p)
{
    struct pollfd fd = {.fd = p->process.pidfd, .events = POLLIN};
    struct ending end;

    if (p->process.pidfd < 0)
        return;
    if (process_send(&p->process, CONTROL_STOP, "{}", NULL, 0) < 0 || poll(&fd, 1, STOP_MS) <= 0)
        process_kill(&p->process, "it did not end when asked to");
    process_reap(&p->process, &end);
    p->state = PROXY_CLOSED;
    p->ready = false;
}

static int judge_policy(const struct proxy *p, struct dt_error *err)
{
    const struct dt_block_ext *e = &p->w->ext;

    if (p->on_crash == ON_CRASH_BYPASS &&
        ((e->flags & DT_CONTENT_BEARING) || e->read_data == DT_DATA_TRANSFORM ||
         e->write_data == DT_DATA_TRANSFORM))
        return dt_fail(err, -EINVAL,
                       "on-crash=bypass: without it the guest would read something else; choose "
                       "hold or fail");
    return 0;
}

/*
 * The process of a worker that was just killed may be about to see it, and still hold what the new
 * one needs (a lock on a file): so "busy" is asked again for a while.
 */
static int open_process(struct proxy *p, struct dt_error *err)
{
    uint64_t until = dt_clock_ns() + BUSY_NS;

    for (;;) {
        int ret = proxy_spawn(p, err);

        ret = ret ?: proxy_await(p, &p->ready, START_NS, err);
        if ((ret != -EBUSY && ret != -EAGAIN) || dt_clock_ns() > until)
            return ret;
        end_process(p);
        usleep(10000);
    }
}

static void new_links(struct proxy *p)
{
    p->nlinks = dt_layer_threads(p->layer);
    p->links = xcalloc(p->nlinks, sizeof(*p->links));
    for (unsigned i = 0; i < p->nlinks; i++) {
        struct link *l = p->links[i] = xaligned(CACHE_LINE, sizeof(*l));

        l->p = p;
        l->thread = i;
        l->queue_tail = &l->queue;
        l->kick_down = l->kick_up = -1;
        link_timers(l);
    }
}

static void free_all(struct proxy *p)
{
    for (unsigned i = 0; i < p->nlinks; i++) {
        p->class->detach(p->links[i]);
        free(p->links[i]->packets);
        free(p->links[i]);
    }
    free(p->links);
    json_decref(p->call_answer);
    free(p->frame);
    free(p->blob);
}

static int proxy_open(struct dt_layer *layer, struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);
    int ret;

    p->layer = layer;
    p->w = wrapped_of(layer_ext(layer));
    p->class = p->w->class;
    process_init(&p->process);
    p->frame = xcalloc(1, sizeof(*p->frame));
    new_links(p);
    proxy_init_orders(p);
    ret = judge_policy(p, err);
    if (ret == 0 && p->trust && !p->w->vectors)
        ret = dt_fail(err, -EINVAL, "trust=memory: %s knows copies of data alone",
                      p->w->argv ? "this program" : "an extension for cards");
    layer_watch_memory(layer, p->trust ? proxy_memory_changed : NULL);
    ret = ret ?: open_process(p, err);
    if (ret < 0) {
        end_process(p);
        free_all(p);
    }
    return ret;
}

static void nothing(void *arg)
{
}

/* Nothing is ordered any more, but what was may still be in a loop's hands. */
static void collect_messages(struct proxy *p)
{
    for (unsigned i = p->nlinks; i-- > 0 && p->nlinks > 1;)
        loop_call(layer_loop(p->layer, i), nothing, NULL);
}

static void proxy_close(struct dt_layer *layer)
{
    struct proxy *p = dt_layer_data(layer);

    collect_messages(p);
    end_process(p);
    free_all(p);
}

static int proxy_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);
    json_t *answer = NULL;
    int ret;

    if (!p->have_info || memcmp(&p->below, info, sizeof(*info)) != 0) {
        p->below = *info;
        ret = proxy_call(p, CONTROL_INFO, json_pack("{so}", "below", info_to_json(info)), &answer,
                         err);
        if (ret == 0 && proxy_take_info(p, answer) < 0)
            ret = dt_fail(err, -EPROTO, "it described the disk wrongly");
        json_decref(answer);
        if (ret < 0)
            return ret;
    }
    *info = p->info;
    return 0;
}

/* ---- On the first thread: the process ---- */

static void on_frame(struct dt_watch *watch, uint32_t events)
{
    struct proxy *p = container_of(watch, struct proxy, sock_watch);

    proxy_frames(p);
    if (!p->hung_up)
        return;
    /* The end of the process follows, or it has no business without a control socket. */
    dt_watch_remove(p->c, &p->sock_watch);
    dt_timer_set(p->c, &p->timer, dt_clock_ns() + DT_MS(100));
}

static void on_exit_of_process(struct dt_watch *watch, uint32_t events)
{
    struct proxy *p = container_of(watch, struct proxy, pid_watch);

    dt_watch_remove(p->c, &p->pid_watch);
    p->ended = true;
    proxy_turn_soon(p);
}

void proxy_watch(struct proxy *p)
{
    p->sock_watch = (struct dt_watch){.ready = on_frame, .fd = p->process.sock, .events = EPOLLIN};
    p->pid_watch =
        (struct dt_watch){.ready = on_exit_of_process, .fd = p->process.pidfd, .events = EPOLLIN};
    if (dt_watch_add(p->c, &p->sock_watch) < 0 || dt_watch_add(p->c, &p->pid_watch) < 0)
        proxy_break(p, "it cannot be watched");
}

void proxy_unwatch(struct proxy *p)
{
    dt_watch_remove(p->c, &p->sock_watch);
    dt_watch_remove(p->c, &p->pid_watch);
}

/* ---- On each thread: its channel ---- */

static unsigned poll_up(struct loop_poller *poller)
{
    struct link *l = container_of(poller, struct link, poller);
    const char *why;
    int n;

    if (!link_is_up(l))
        return 0;
    n = l->p->class->take(l, &why);
    if (n < 0)
        link_break(l, why);
    return n < 0 ? 1 : (unsigned)n;
}

static bool arm_up(struct loop_poller *poller)
{
    struct link *l = container_of(poller, struct link, poller);

    if (!link_is_up(l))
        return true;
    link_count(l);
    return l->p->class->arm(l);
}

static void on_kick(struct dt_watch *watch, uint32_t events)
{
    struct link *l = container_of(watch, struct link, kick_watch);
    uint64_t count;

    if (read(watch->fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
        link_break(l, "its eventfd cannot be read");
    loop_poller_wake(ctx_loop(l->c), &l->poller);
}

static void run_flush(struct loop_deferred *deferred)
{
    struct link *l = container_of(deferred, struct link, flush);

    if (link_is_up(l))
        l->p->class->publish(l);
}

void link_watch(struct link *l)
{
    l->kick_watch = (struct dt_watch){.ready = on_kick, .fd = l->kick_up, .events = EPOLLIN};
    if (dt_watch_add(l->c, &l->kick_watch) < 0)
        link_break(l, "it cannot be watched");
    loop_poller_wake(ctx_loop(l->c), &l->poller);
}

void link_unwatch(struct link *l)
{
    if (!l->c)
        return;
    dt_watch_remove(l->c, &l->kick_watch);
    loop_poller_remove(ctx_loop(l->c), &l->poller);
    loop_defer_cancel(ctx_loop(l->c), &l->flush);
}

/* ---- Begin and end ---- */

/* The first thread begins for all: the process gets every channel at once. */
static int start_process(struct proxy *p, struct dt_error *err)
{
    int ret = 0;

    if (p->state == PROXY_CLOSED) {
        ret = open_process(p, err);
        ret = ret ?: proxy_send_load(p, err);
    }
    ret = ret ?: proxy_send_start(p, err);
    return ret ?: proxy_await(p, &p->started, START_NS, err);
}

static int start_proxy(struct proxy *p, struct dt_ctx *c, struct dt_error *err)
{
    int ret = start_process(p, err);

    if (ret < 0) {
        for (unsigned i = 0; i < p->nlinks; i++)
            p->class->detach(p->links[i]);
        return ret;
    }
    p->c = c;
    __atomic_store_n(&p->running, true, __ATOMIC_RELEASE);
    proxy_watch(p);
    p->state = PROXY_LIVE;
    p->saved_at = dt_clock_ns();
    for (unsigned i = 0; i < p->nlinks; i++)
        p->links[i]->state = LINK_LIVE;
    return 0;
}

static int proxy_start(struct dt_ctx *c, struct dt_error *err)
{
    struct proxy *p = c->layer_data;
    struct link *l = link_of(c);
    int ret = subs_init(l, err);

    l->flush.run = run_flush;
    l->poller = (struct loop_poller){.poll = poll_up, .arm = arm_up};
    list_init(&l->poller.node);
    if (l->thread == 0)
        ret = ret ?: start_proxy(p, c, err);
    if (ret < 0) {
        subs_fini(l);
        return ret;
    }
    l->c = c;
    if (link_is_up(l))
        link_watch(l);
    return 0;
}

void proxy_save_now(struct proxy *p)
{
    json_t *answer = NULL;
    struct dt_error err;

    if (!p->w->saves || p->state != PROXY_LIVE)
        return;
    p->save_seq = 0; /* what is on its way is older */
    proxy_ask_state(p);
    /* Answers come in order: once this one is here, so is the state. */
    proxy_call(p, CONTROL_INFO, json_pack("{so}", "below", p->class->below(p)), &answer, &err);
    json_decref(answer);
}

static void stop_proxy(struct proxy *p)
{
    proxy_save_now(p);
    proxy_unwatch(p);
    dt_timer_cancel(p->c, &p->timer);
    end_process(p);
    p->state = PROXY_CLOSED;
    p->died_at = 0;
    __atomic_store_n(&p->running, false, __ATOMIC_RELEASE);
    p->c = NULL;
}

/* The first thread is the first to stop. No request is in flight on any. */
static void proxy_stop(struct dt_ctx *c)
{
    struct link *l = link_of(c);

    link_count(l);
    if (l->thread == 0)
        stop_proxy(l->p);
    link_unwatch(l);
    dt_timer_cancel(c, &l->tick);
    dt_timer_cancel(c, &l->rest);
    l->p->class->detach(l);
    subs_fini(l);
    l->state = LINK_DOWN;
    l->c = NULL;
}

/* ---- Asked ---- */

static void proxy_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct link *l = link_of(c);
    uint64_t now = dt_clock_ns();
    char text[64];

    snprintf(text, sizeof(text), "{\"ns\":%llu,\"thread\":%u}",
             (unsigned long long)(deadline > now ? deadline - now : 0), l->thread);
    if (link_is_up(l))
        process_send(&l->p->process, CONTROL_QUIESCE, text, NULL, 0);
    else if (l->state == LINK_GIVEN_UP && l->queue)
        dt_timer_set(c, &l->rest, deadline);
}

static int proxy_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);
    _cleanup_free_ char *value = NULL;
    int ret;

    if (index >= p->w->own_params) {
        ret = judge_policy(p, err);
        if (ret == 0)
            proxy_order_policy(p);
        return ret;
    }
    /* Without a process the value waits in the layer's data for the next one. */
    if (p->process.sock < 0)
        return 0;
    value = proxy_param_text(p, index);
    return proxy_call(
        p, CONTROL_SET,
        json_pack("{ss ss}", "param", p->w->ext.params[index].name, "value", value ?: ""), NULL,
        err);
}

static int64_t proxy_save(struct dt_layer *layer, void *buf, size_t size)
{
    struct proxy *p = dt_layer_data(layer);

    proxy_save_now(p); /* nothing, unless it serves */
    if (!p->blob)
        return -ENODATA;
    if (p->blob_size > size)
        return -E2BIG;
    memcpy(buf, p->blob, p->blob_size);
    return (int64_t)p->blob_size;
}

/* What the process takes, the next one will be given, too. */
static int proxy_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                      struct dt_error *err)
{
    struct proxy *p = dt_layer_data(layer);
    _cleanup_close_ int fd = proxy_state_fd(buf, size);
    int ret;

    if (fd < 0)
        return dt_fail(err, -errno, "its state cannot be passed on: %m");
    ret = proxy_call_fd(p, CONTROL_LOAD, json_pack("{si}", "version", (int)version), fd, NULL, err);
    if (ret < 0)
        return ret;
    free(p->blob);
    p->blob = xcalloc(1, size + 1);
    memcpy(p->blob, buf, size);
    p->blob_size = size;
    p->blob_version = version;
    return 0;
}

pid_t placed_pid(struct dt_layer *layer, unsigned *restarts)
{
    struct proxy *p = dt_layer_data(layer);

    if (restarts)
        *restarts = p->restarts;
    return p->process.pid;
}

const struct dt_block_ext proxy_template = {
    DT_BLOCK_EXT_HEADER,        .frame_size = sizeof(struct frame),
    .open = proxy_open,         .close = proxy_close,
    .start = proxy_start,       .stop = proxy_stop,
    .info = proxy_info,         .submit = proxy_submit,
    .complete = proxy_complete, .admit = proxy_admit,
    .quiesce = proxy_quiesce,   .cancel = proxy_cancel,
    .set = proxy_set,           .save = proxy_save,
    .load = proxy_load,
};
