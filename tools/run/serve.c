/* SPDX-License-Identifier: MIT */
/*
 * serve.c - the disks of one process and the threads that serve them.
 *
 * Theory of operation: the main thread has a loop for signals and the control socket and never
 * touches a request (in a worker it becomes the first I/O thread, and that work another's: threads.c). Each
 * I/O thread has a loop; a disk's first thread is chosen in turn. The
 * order of opening is the one in which failing leaves nothing behind: sockets are bound (nobody
 * can connect yet), then images opened and locked, then threads and lanes started, and only then
 * does anything listen. Stopping is the reverse, with the socket files removed first.
 */
#include "tools/run/server.h"

#include "control/sandbox.h"

/* ---- All disks ----------------------------------------------------------------------------- */

/* Does @text begin with the name of the disk? Return: what follows, or NULL. */
static const char *behind_name(const struct disk *d, const char *text)
{
    size_t n = strlen(d->config->name);

    return strncmp(text, d->config->name, n) == 0 && strncmp(text + n, ": ", 2) == 0 ? text + n + 2
                                                                                     : NULL;
}

/* Only what the first worker could open; see control/supervisor-absent.c. */
static bool leave_out(struct server *s, struct disk *d, const struct dt_error *err)
{
    const char *why = behind_name(d, err->text) ?: err->text;

    if (!s->worker || !worker_leaves_out(s->worker, (unsigned)(d - s->disks), why))
        return false;
    device_free(TAKE_PTR(d->dev));
    d->out = xstrdup(why);
    return true;
}

/* Applies @step to every disk; the error says which one failed. */
static int each_disk(struct server *s, int (*step)(struct disk *d, struct dt_error *err),
                     struct dt_error *err)
{
    for (unsigned i = 0; i < s->config->count; i++) {
        struct disk *d = &s->disks[i];
        int ret = d->out ? 0 : step(d, err);

        if (ret < 0 && !leave_out(s, d, err)) {
            if (!behind_name(d, err->text))
                dt_fail_prefix(err, "%s", d->config->name);
            if (d->config->where)
                dt_fail_prefix(err, "%s", d->config->where);
            return ret;
        }
    }
    return 0;
}

static void stop_disks(struct server *s)
{
    for (unsigned i = 0; i < s->config->count; i++)
        disk_socket_remove(&s->disks[i].socket);
    for (unsigned i = 0; i < s->config->count; i++)
        disk_begin_stop(&s->disks[i]);
    for (unsigned i = 0; i < s->config->count; i++)
        disk_stop(&s->disks[i]);
}

/* ---- The whole ----------------------------------------------------------------------------- */

static void init_disks(struct server *s)
{
    unsigned *first = xcalloc(s->config->count, sizeof(*first)), next = 0;

    s->disks = xcalloc(s->config->count, sizeof(*s->disks));
    pairs_find(s->config, first);
    for (unsigned i = 0; i < s->config->count; i++) {
        const struct disk_config *config = &s->config->disks[i];

        if (first[i] != i) {
            disk_init(&s->disks[i], s, config, s->disks[first[i]].first_thread);
            continue;
        }
        disk_init(&s->disks[i], s, config, next);
        next = (next + (unsigned)config->options.threads) % thread_count(s);
    }
    free(first);
}

static int open_control(struct server *s, struct dt_error *err)
{
    const char *path = s->config->process.control;

    if (path && strcmp(path, "none") == 0)
        return 0;
    return control_new(&s->control, s->loop, path, &server_protocol, s, err);
}

static void stop(struct server *s)
{
    if (s->worker)
        worker_end(s->worker);
    control_free(s->control);
    stop_disks(s);
    signals_unwatch(&s->signals, s->loop);
    server_stop_threads(s);
}

static void run_and_stop(struct server *s)
{
    loop_run(s->loop);
    signals_unblock();
    if (!s->worker)
        notify_manager("STOPPING=1");
    stop(s);
}

static bool any_started(const struct server *s)
{
    for (unsigned i = 0; i < s->config->count; i++)
        if (s->disks[i].started)
            return true;
    return false;
}

/* Disks that have begun need their thread to come to rest. */
static void stop_half_started(struct server *s)
{
    struct dt_error err;

    if (s->worker && any_started(s) && server_start_threads(s, 0, 1, &err) < 0)
        log_error("%s", err.text);
    stop(s);
}

static int server_start(struct server *s, struct dt_error *err)
{
    int ret = server_new_loops(s, err);

    if (!s->worker)
        ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: each_disk(s, disk_open_socket, err);
    ret = ret ?: s->worker ? worker_open(s->worker, err) : open_control(s, err);
    ret = ret ?: each_disk(s, disk_open_device, err);
    if (s->worker) { /* whoever holds an image can be named only from outside */
        ret = ret ?: each_disk(s, disk_fence, err);
        ret = ret ?: worker_confine(s->worker, err);
    }
    ret = ret ?: server_start_threads(s, s->worker ? 1 : 0, thread_count(s), err);
    ret = ret ?: each_disk(s, disk_start, err);
    ret = ret ?: s->worker ? worker_begin(s->worker, err) : 0;
    return ret ?: s->worker ? server_exchange(s, run_and_stop, err) : 0;
}

static void run_quit(void *arg)
{
    server_quit(arg);
}

static void announce(const struct server *s, bool good)
{
    if (s->worker || !good)
        return;
    fputs("devtap: ready\n", stderr);
    notify_manager("READY=1");
}

int server_run(const struct verb *verb, struct run_config *config, struct worker *worker)
{
    struct server s = {.config = config, .worker = worker};
    struct dt_error err;
    int ret;

    s.signals = (struct signals){.watch.fd = -1, .quit = run_quit, .arg = &s};
    sandbox_raise_limits();
    activation_init(&s.activation);
    init_disks(&s);
    if (worker)
        worker_init(worker, &s);
    ret = server_start(&s, &err);
    announce(&s, ret == 0);
    if (ret < 0)
        stop_half_started(&s);
    else if (worker)
        server_run_exchanged(&s);
    else
        run_and_stop(&s);
    server_free_loops(&s);
    free(s.disks);
    activation_free(&s.activation);
    if (ret < 0 && worker)
        worker_failed(&err);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

void server_quit(struct server *server)
{
    loop_stop(server->loop);
}

bool server_confined(const struct server *server)
{
    return server->worker && server->config->process.sandbox;
}

int server_try(struct run_config *config, unsigned index)
{
    struct disk_options *o = &config->disks[index].options;
    struct server s = {.config = config};
    struct dt_error err;
    int ret;

    free((char *)o->state); /* what is saved there is not ours to replace */
    o->state = NULL;
    init_disks(&s);
    ret = server_new_loops(&s, &err);
    ret = ret ?: disk_open_device(&s.disks[index], &err);
    ret = ret ?: disk_fence(&s.disks[index], &err); /* locks are a part of opening it */
    device_free(TAKE_PTR(s.disks[index].dev));
    server_free_loops(&s);
    free(s.disks);
    return ret < 0 ? STATUS_FAILED : STATUS_DONE;
}

const char *server_name(const struct server *server, unsigned index)
{
    return server->config->disks[index].name;
}

const char *server_left_out(const struct server *server, unsigned index)
{
    return server->disks[index].out;
}

unsigned server_disks(const struct server *server)
{
    return server->config->count;
}

struct device *server_device(struct server *server, unsigned index)
{
    return server->disks[index].dev;
}
