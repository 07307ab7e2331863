/* SPDX-License-Identifier: MIT */
/* disk.c - one soft disk of devtap run: opened step by step, stopped from wherever it had come to.
 */
#include "tools/run/server.h"

#include <sys/socket.h>
#include <time.h>

#define BACKLOG         8
#define STOP_SECONDS    30
#define QUIESCE_SECONDS 10

void disk_init(struct disk *d, struct server *s, const struct disk_config *config,
               unsigned first_thread)
{
    d->server = s;
    d->config = config;
    d->socket.fd = d->next_link = -1;
    d->first_thread = first_thread;
    sem_init(&d->stopped, 0, 0);
}

const struct front_class *disk_front_class(const struct disk *d)
{
    return d->config->kind == DEVICE_NET ? &card_front : &disk_front;
}

/* ---- Opening one disk ---------------------------------------------------------------------- */

int disk_open_socket(struct disk *d, struct dt_error *err)
{
    struct server *s = d->server;

    return s->worker ? 0
                     : disk_socket_open(&d->socket, d->config, &s->activation,
                                        s->config->count == 1, err);
}

int disk_open_device(struct disk *d, struct dt_error *err)
{
    const struct disk_options *o = &d->config->options;
    struct server *s = d->server;
    struct loop *loops[DEVICE_MAX_THREADS];
    struct device_config config = {.kind = d->config->kind,
                                   .name = d->config->name,
                                   .loops = loops,
                                   .threads = (unsigned)o->threads,
                                   .state_dir = o->state,
                                   .deadline = o->deadline};
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
        front_class_ops(disk_front_class(d))->info_changed(d->front);
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
        .config = {.class = disk_front_class(d),
                   .dev = d->dev,
                   .listen_fd = -1,
                   .session_fd = -1,
                   .connect = o->connect,
                   .serial = o->serial,
                   .queues = (unsigned)o->queues,
                   .packed = o->packed,
                   .iommu = o->iommu,
                   .config_space = o->config_space,
                   .few_regions = !o->memory_slots},
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

int disk_fence(struct disk *d, struct dt_error *err)
{
    return device_fence(d->dev, err);
}

int disk_start(struct disk *d, struct dt_error *err)
{
    int ret;

    d->ops = *front_class_ops(disk_front_class(d));
    d->ops.info_changed = front_changed;
    ret = device_start(d->dev, &d->ops, d, err);
    if (ret < 0)
        return ret;
    d->started = true;
    return d->server->worker ? 0 : start_front(d, err); /* a worker's come with their links */
}

/* ---- Held at rest -------------------------------------------------------------------------- */

static void let_go(struct disk *d)
{
    if (!d->started)
        return;
    loop_timer_cancel(d->server->loop, &d->hold);
    device_let_go(d->dev);
}

/* Whoever wanted it held has died, or takes too long. */
static void run_hold(struct dt_timer *timer)
{
    struct disk *d = container_of(timer, struct disk, hold);

    log_warning("%s: it was held at rest for as long as was agreed, and goes on", d->config->name);
    let_go(d);
}

int server_quiesce(struct server *server, unsigned index, uint64_t patience, uint64_t hold,
                   bool flush, struct dt_error *err)
{
    struct disk *d = &server->disks[index];
    uint64_t deadline = dt_clock_ns() + patience;
    int ret;

    if (device_held(d->dev))
        return dt_fail(err, -EBUSY, "%s is held at rest already", d->config->name);
    ret = device_hold(d->dev, deadline, err);
    if (ret == 0 && flush && (ret = device_flush(d->dev, deadline, err)) < 0)
        device_let_go(d->dev);
    if (ret < 0)
        return ret;
    d->hold.fire = run_hold;
    loop_timer_set(server->loop, &d->hold, dt_clock_ns() + hold);
    return 0;
}

int server_resume(struct server *server, unsigned index, struct dt_error *err)
{
    struct disk *d = &server->disks[index];

    if (!device_held(d->dev))
        return dt_fail(err, -ESTALE, "%s was not at rest to the end: it goes on already",
                       d->config->name);
    let_go(d);
    return 0;
}

/* ---- Stopping ------------------------------------------------------------------------------ */

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

void disk_begin_stop(struct disk *d)
{
    let_go(d);
    if (d->front)
        loop_call(disk_loop(d), begin_stop, d);
}

static void device_quiet(void *arg, const char *late)
{
    struct disk *d = arg;

    snprintf(d->late, sizeof(d->late), "%s", late ?: "");
    sem_post(&d->stopped);
}

/* On its thread, where a layer may still say that the device changed. */
static void free_front(void *arg)
{
    struct disk *d = arg;

    front_free(TAKE_PTR(d->front));
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

void disk_stop(struct disk *d)
{
    if (d->front) {
        wait_stopped(d, "requests of the VM are still in flight");
        loop_call(disk_loop(d), free_front, d);
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
    free(d->out);
}

/* ---- Seen from outside --------------------------------------------------------------------- */

struct show_call {
    struct disk *disk;
    json_t *json;
};

static void show_front(void *arg)
{
    struct show_call *call = arg;

    /* A worker's front comes with the link to its keeper. */
    call->json =
        call->disk->front ? front_show(call->disk->front) : json_pack("{sb}", "attached", false);
}

static json_t *front_json(struct disk *d)
{
    struct show_call call = {.disk = d};

    /* It reads the rings of all threads. */
    device_exclusive(d->dev, show_front, &call);
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
    change_show_rear(show, d->config->rear);
    return show;
}

char **server_rear(struct server *server, unsigned index)
{
    return &server->config->disks[index].rear;
}

/* What can be said of one that is left out. */
static json_t *name_alone(const struct disk *d)
{
    const struct disk_options *o = &d->config->options;

    return json_pack("{ss si ss sb so ss?}", "name", d->config->name, "pid", (int)getpid(), "kind",
                     d->config->kind == DEVICE_NET ? "net" : "disk", "attached", false, "chain",
                     json_array(), "socket", o->socket ?: o->connect);
}

static json_t *list_served(struct server *server, unsigned index)
{
    json_t *show = server_show(server, index), *names = json_array(), *layer, *list;
    json_t *front = json_object_get(show, "front"), *socket = json_object_get(front, "socket");
    json_t *bytes = json_object_get(json_object_get(show, "disk"), "bytes");
    size_t i;

    json_array_foreach(json_object_get(show, "chain"), i, layer)
        json_array_append(names, json_object_get(layer, "name"));
    list = json_pack("{sO sO ss sO so}", "name", json_object_get(show, "name"), "pid",
                     json_object_get(show, "pid"), "kind", bytes ? "disk" : "net", "attached",
                     json_object_get(front, "attached"), "chain", names);
    if (bytes)
        json_object_set(list, "bytes", bytes);
    json_object_set(list, "socket", socket ?: json_null());
    json_decref(show);
    return list;
}

json_t *server_list(struct server *server, unsigned index)
{
    const struct disk *d = &server->disks[index];

    return d->out ? name_alone(d) : list_served(server, index);
}
