/* SPDX-License-Identifier: MIT */
/*
 * serve.c - the disks of one process and the threads that serve them.
 *
 * Theory of operation: the main thread has a loop for signals and the control socket and never
 * touches a request. Each I/O thread has a loop; a disk's first thread is chosen in turn. The
 * order of opening is the one in which failing leaves nothing behind: sockets are bound (nobody
 * can connect yet), then images opened and locked, then threads and lanes started, and only then
 * does anything listen. Stopping is the reverse, with the socket files removed first.
 */
#include "tools/run/server.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define BACKLOG         8
#define STOP_SECONDS    30
#define QUIESCE_SECONDS 10

static unsigned thread_count(const struct server *s)
{
    return (unsigned)s->config->process.threads;
}

/* ---- Threads
 * ------------------------------------------------------------------------------------- */

static void *run_thread(void *arg)
{
    struct io_thread *t = arg;
    char name[16];

    snprintf(name, sizeof(name), "devtap-io%u", t->index);
    pthread_setname_np(pthread_self(), name);
    loop_run(t->loop);
    return NULL;
}

static int new_loops(struct server *s, struct dt_error *err)
{
    struct loop_config config = {.engine = (enum loop_engine)s->config->process.engine,
                                 .spin_ns = s->config->process.poll};
    struct loop_config quiet = {.engine = LOOP_EPOLL};
    int ret = loop_new(&s->loop, &quiet, err);

    s->threads = xcalloc(thread_count(s), sizeof(*s->threads));
    for (unsigned i = 0; ret == 0 && i < thread_count(s); i++) {
        s->threads[i].index = i;
        ret = loop_new(&s->threads[i].loop, &config, err);
    }
    return ret;
}

static int start_threads(struct server *s, struct dt_error *err)
{
    for (unsigned i = 0; i < thread_count(s); i++) {
        struct io_thread *t = &s->threads[i];
        int ret = pthread_create(&t->thread, NULL, run_thread, t);

        if (ret)
            return dt_fail(err, -ret, "cannot start a thread: %s", strerror(ret));
        t->running = true;
        while (!loop_is_foreign(t->loop))
            sched_yield();
    }
    return 0;
}

static void stop_threads(struct server *s)
{
    for (unsigned i = 0; s->threads && i < thread_count(s); i++) {
        struct io_thread *t = &s->threads[i];

        if (t->running) {
            loop_stop(t->loop);
            pthread_join(t->thread, NULL);
        }
        if (t->loop)
            loop_free(t->loop);
    }
    free(s->threads);
    if (s->loop)
        loop_free(s->loop);
}

/* ---- Opening one disk
 * --------------------------------------------------------------------------------- */

static int open_device(struct disk *d, struct dt_error *err)
{
    const struct disk_options *o = &d->config->options;
    struct server *s = d->server;
    struct loop *loops[DEVICE_MAX_THREADS];
    struct device_config config = {.name = d->config->name,
                                   .loops = loops,
                                   .threads = (unsigned)o->threads,
                                   .state_dir = o->state};
    struct chain_spec spec;
    int ret = chain_parse(&spec, o->chain, err);

    if (ret < 0)
        return ret;
    for (unsigned t = 0; t < config.threads; t++)
        loops[t] = s->threads[(d->first_thread + t) % thread_count(s)].loop;
    config.chain = &spec;
    if (s->state)
        config.blobs = (void *)(s->state + (size_t)(d - s->disks) * blob_area_size());
    ret = device_new(&d->dev, &config, err);
    chain_spec_free(&spec);
    return ret;
}

/* The front comes after the device has started, so what core tells the front goes through the disk.
 */
static void front_changed(void *arg)
{
    struct disk *d = arg;

    if (d->front)
        front_device_ops.info_changed(d->front);
}

struct front_call {
    struct disk *disk;
    struct front_config config;
    struct dt_error *err;
    int ret;
};

static void make_front(void *arg)
{
    struct front_call *call = arg;

    call->ret = front_new(&call->disk->front, &call->config, call->err);
}

struct loop *disk_loop(const struct disk *d)
{
    return d->server->threads[d->first_thread].loop;
}

static int start_front(struct disk *d, struct dt_error *err)
{
    const struct disk_options *o = &d->config->options;
    struct front_call call = {
        .disk = d,
        .err = err,
        .config = {.dev = d->dev,
                   .listen_fd = -1,
                   .session_fd = -1,
                   .connect = o->connect,
                   .serial = o->serial,
                   .queues = (unsigned)o->queues,
                   .packed = o->packed},
    };

    if (d->socket.bound && listen(d->socket.fd, BACKLOG) < 0)
        return dt_fail(err, -errno, "%s: cannot listen: %s", o->socket, strerror(errno));
    if (d->socket.fd >= 0 && socket_kind(d->socket.fd) == 1)
        call.config.listen_fd = d->socket.fd;
    else
        call.config.session_fd = d->socket.fd;
    loop_call(disk_loop(d), make_front, &call);
    if (call.ret == 0)
        d->socket.fd = -1;
    return call.ret;
}

static int fence_disk(struct disk *d, struct dt_error *err)
{
    return device_fence(d->dev, err);
}

static int start_disk(struct disk *d, struct dt_error *err)
{
    static struct front_ops ops;
    int ret;

    ops = front_device_ops;
    ops.info_changed = front_changed;
    ret = device_start(d->dev, &ops, d, err);
    if (ret < 0)
        return ret;
    d->started = true;
    return d->server->worker ? 0 : start_front(d, err);
}

/* Applies @step to every disk; the error says which one failed. */
static int each_disk(struct server *s, int (*step)(struct disk *d, struct dt_error *err),
                     struct dt_error *err)
{
    for (unsigned i = 0; i < s->config->count; i++) {
        struct disk *d = &s->disks[i];
        int ret = step(d, err);
        size_t n = strlen(d->config->name);

        if (ret < 0) {
            if (strncmp(err->text, d->config->name, n) != 0 || err->text[n] != ':')
                dt_fail_prefix(err, "%s", d->config->name);
            if (d->config->where)
                dt_fail_prefix(err, "%s", d->config->where);
            return ret;
        }
    }
    return 0;
}

/* ---- Stopping
 * -------------------------------------------------------------------------------------------- */

static void front_stopped(void *arg)
{
    struct disk *d = arg;

    sem_post(&d->stopped);
}

static void begin_stop(void *arg)
{
    struct disk *d = arg;

    front_stop(d->front, front_stopped, d);
}

static void device_quiet(void *arg, const char *late)
{
    struct disk *d = arg;

    snprintf(d->late, sizeof(d->late), "%s", late ?: "");
    sem_post(&d->stopped);
}

static void free_front(void *arg)
{
    front_free(arg);
}

/* Nothing more can be done in good order: what is in flight is the next process's to repeat. */
static _Noreturn void give_up(const struct disk *d, const char *why)
{
    log_error("%s: it does not stop: %s", d->config->name, why);
    _exit(STATUS_FAILED);
}

static void wait_stopped(struct disk *d, const char *why)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_SECONDS;
    while (sem_timedwait(&d->stopped, &until) < 0)
        if (errno != EINTR)
            give_up(d, why);
}

static void stop_disk(struct disk *d)
{
    if (d->front) {
        wait_stopped(d, "requests of the VM are still in flight");
        loop_call(disk_loop(d), free_front, d->front);
    }
    if (d->started) {
        device_quiesce(d->dev, dt_clock_ns() + DT_S(QUIESCE_SECONDS), device_quiet, d);
        wait_stopped(d, "a layer does not come to rest");
        if (d->late[0])
            give_up(d, d->late);
        device_stop(d->dev);
    }
    device_free(d->dev);
    if (d->socket.fd >= 0)
        close(d->socket.fd);
    if (d->next_link >= 0)
        close(d->next_link);
    sem_destroy(&d->stopped);
}

static void stop_disks(struct server *s)
{
    for (unsigned i = 0; i < s->config->count; i++)
        disk_socket_remove(&s->disks[i].socket);
    for (unsigned i = 0; i < s->config->count; i++)
        if (s->disks[i].front)
            loop_call(disk_loop(&s->disks[i]), begin_stop, &s->disks[i]);
    for (unsigned i = 0; i < s->config->count; i++)
        stop_disk(&s->disks[i]);
}

/* ---- The whole
 * ------------------------------------------------------------------------------------------------
 */

/* A VM's queue takes two descriptors, and there may be hundreds of VMs. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void init_disks(struct server *s)
{
    unsigned next = 0;

    s->disks = xcalloc(s->config->count, sizeof(*s->disks));
    for (unsigned i = 0; i < s->config->count; i++) {
        struct disk *d = &s->disks[i];

        d->server = s;
        d->config = &s->config->disks[i];
        d->socket.fd = d->next_link = -1;
        sem_init(&d->stopped, 0, 0);
        d->first_thread = next;
        next = (next + (unsigned)d->config->options.threads) % thread_count(s);
    }
}

static int open_control(struct server *s, struct dt_error *err)
{
    const char *path = s->config->process.control;

    if (path && strcmp(path, "none") == 0)
        return 0;
    return control_new(&s->control, s->loop, path, &server_protocol, s, err);
}

static int open_socket(struct disk *d, struct dt_error *err)
{
    struct server *s = d->server;

    return s->worker ? 0
                     : disk_socket_open(&d->socket, d->config, &s->activation,
                                        s->config->count == 1, err);
}

static int server_start(struct server *s, struct dt_error *err)
{
    int ret = new_loops(s, err);

    if (!s->worker)
        ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: each_disk(s, open_socket, err);
    ret = ret ?: s->worker ? worker_open(s->worker, err) : open_control(s, err);
    ret = ret ?: each_disk(s, open_device, err);
    if (s->worker) { /* whoever holds an image can be named only from outside */
        ret = ret ?: each_disk(s, fence_disk, err);
        ret = ret ?: worker_confine(s->worker, err);
    }
    ret = ret ?: start_threads(s, err);
    ret = ret ?: each_disk(s, start_disk, err);
    return ret ?: s->worker ? worker_begin(s->worker, err) : 0;
}

static void run_quit(void *arg)
{
    server_quit(arg);
}

static void announce(const struct server *s)
{
    if (s->worker)
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
    raise_limits();
    activation_init(&s.activation);
    init_disks(&s);
    if (worker)
        worker_init(worker, &s);
    ret = server_start(&s, &err);
    if (ret == 0) {
        announce(&s);
        loop_run(s.loop);
        if (!worker)
            notify_manager("STOPPING=1");
    }
    if (worker)
        worker_end(worker);
    control_free(s.control);
    stop_disks(&s);
    signals_unwatch(&s.signals, s.loop);
    stop_threads(&s);
    free(s.disks);
    activation_free(&s.activation);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

void server_quit(struct server *server)
{
    loop_stop(server->loop);
}

/* ---- Seen from outside
 * ---------------------------------------------------------------------------------------- */

unsigned server_disks(const struct server *server)
{
    return server->config->count;
}

struct device *server_device(struct server *server, unsigned index)
{
    return server->disks[index].dev;
}

struct show_call {
    struct disk *disk;
    json_t *json;
};

static void show_front(void *arg)
{
    struct show_call *call = arg;

    /* A worker's front comes with the link to its keeper. */
    call->json = call->disk->front ? front_show(call->disk->front)
                                   : json_pack("{sb}", "attached", false);
}

static json_t *front_json(struct disk *d)
{
    struct show_call call = {.disk = d};

    loop_call(disk_loop(d), show_front, &call);
    return call.json;
}

json_t *server_show(struct server *server, unsigned index)
{
    struct disk *d = &server->disks[index];
    json_t *show = device_show(d->dev), *front = front_json(d);
    const char *socket = d->config->options.socket ?: d->config->options.connect;

    if (socket)
        json_object_set_new(front, "socket", json_string(socket));
    json_object_set_new(show, "front", front);
    json_object_set_new(show, "pid", json_integer(getpid()));
    return show;
}

json_t *server_list(struct server *server, unsigned index)
{
    json_t *show = server_show(server, index), *names = json_array(), *layer, *list;
    json_t *front = json_object_get(show, "front"), *socket = json_object_get(front, "socket");
    size_t i;

    json_array_foreach(json_object_get(show, "chain"), i, layer)
        json_array_append(names, json_object_get(layer, "name"));
    list = json_pack("{sO sO sO sO so}", "name", json_object_get(show, "name"), "pid",
                     json_object_get(show, "pid"), "bytes",
                     json_object_get(json_object_get(show, "disk"), "bytes"), "attached",
                     json_object_get(front, "attached"), "chain", names);
    json_object_set(list, "socket", socket ?: json_null());
    json_decref(show);
    return list;
}
