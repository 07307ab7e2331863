/* SPDX-License-Identifier: MIT */
/*
 * supervise.c - `devtap run` in several processes: sockets and the control socket are here, a keeper
 * holds each VM's session, and a worker serves them all (control/supervisor.h).
 *
 * What the control socket is asked about disks is passed on to the worker in the same protocol.
 * While there is no worker the answer says so.
 */
#include "tools/run/supervise.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>

#define PATIENCE_NS    DT_S(10)
#define ANSWER_SECONDS 10

/* ---- Questions, passed on ------------------------------------------------------------------------ */

struct client *worker_client(struct supervise *s)
{
    int sock = supervisor_worker(s->supervisor);
    struct client *client;

    if (sock < 0)
        return NULL;
    client = client_adopt(sock, "the worker", ANSWER_SECONDS);
    live_settle(s, client);
    return client;
}

int ask_worker(struct supervise *s, json_t *request, json_t **result, struct dt_error *err)
{
    struct client *client = worker_client(s);
    int ret;

    if (!client) {
        json_decref(request);
        return dt_fail(err, -EAGAIN, "the worker is being restarted: try again");
    }
    ret = client_call(client, request, result, err);
    client_free(client);
    return ret;
}

/* What can be said while there is no worker. */
static json_t *list_names(const struct supervise *s)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < s->config->count; i++)
        json_array_append_new(list, json_pack("{ss si sb so ss?}", "name", s->config->disks[i].name,
                                              "bytes", 0, "attached", false, "chain", json_array(),
                                              "socket", s->config->disks[i].options.socket));
    return list;
}

static int answer_list(void *arg, json_t **result, struct dt_error *err)
{
    struct supervise *s = arg;
    json_t *disk;
    size_t i;

    if (ask_worker(s, json_pack("{ss}", "verb", "list"), result, err) < 0)
        *result = list_names(s);
    json_array_foreach(*result, i, disk) json_object_set_new(disk, "pid", json_integer(getpid()));
    return 0;
}

unsigned disk_index(const struct supervise *s, const char *device)
{
    unsigned i = 0;

    while (i < s->config->count && strcmp(s->config->disks[i].name, device) != 0)
        i++;
    return i;
}

static int answer_show(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    struct supervise *s = arg;
    unsigned disk = disk_index(s, device);
    int ret = ask_worker(s, json_pack("{ss ss}", "verb", "show", "device", device), result, err);

    if (ret == 0 && disk < s->config->count) {
        json_object_set_new(*result, "pid", json_integer(getpid()));
        json_object_set_new(*result, "worker", json_integer(supervisor_worker_pid(s->supervisor)));
        json_object_set_new(*result, "keeper",
                            json_integer(supervisor_keeper_pid(s->supervisor, disk)));
        change_show_rear(*result, s->config->disks[disk].rear);
    }
    return ret;
}

static int answer_stats(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    return ask_worker(arg, json_pack("{ss ss}", "verb", "stats", "device", device), result, err);
}

static int answer_set(void *arg, const char *device, const char *layer, const char *param,
                      const char *value, struct dt_error *err)
{
    return live_set(arg, device, layer, param, value, err);
}

static int answer_do(void *arg, const char *device, const char *layer, const char *command,
                     int argc, const char *const *argv, json_t **result, struct dt_error *err)
{
    json_t *args = json_array();

    for (int i = 0; i < argc; i++)
        json_array_append_new(args, json_string(argv[i]));
    return ask_worker(arg,
                      json_pack("{ss ss ss ss so}", "verb", "do", "device", device, "layer", layer,
                                "command", command, "args", args),
                      result, err);
}

/* A worker that dies meanwhile holds nothing any more, and its successor says so at the resume. */
static int answer_quiesce(void *arg, const char *device, json_t *request, json_t **result,
                          struct dt_error *err)
{
    return ask_worker(arg, json_deep_copy(request), result, err);
}

static int answer_map(void *arg, const char *device, uint64_t start, uint64_t length,
                      json_t **result, struct dt_error *err)
{
    return ask_worker(arg,
                      json_pack("{ss ss sI sI}", "verb", "map", "device", device, "start",
                                (json_int_t)start, "length", (json_int_t)length),
                      result, err);
}

static int answer_resize(void *arg, const char *device, const char *size, json_t **result,
                         struct dt_error *err)
{
    return ask_worker(arg,
                      json_pack("{ss ss ss}", "verb", "resize", "device", device, "size", size),
                      result, err);
}

static void quit(void *arg)
{
    struct supervise *s = arg;

    for (unsigned i = 0; i < s->config->count; i++)
        disk_socket_remove(&s->sockets[i]);
    signals_unblock();
    supervisor_stop(s->supervisor);
}

static int answer_quit(void *arg, struct dt_error *err)
{
    quit(arg);
    return 0;
}

static int answer_events(void *arg, uint64_t after, json_t **result, struct dt_error *err)
{
    struct supervise *s = arg;

    *result = events_since(s->events, after, EVENTS_KEPT);
    return 0;
}

static int answer_upgrade(void *arg, const char *path, json_t **result, struct dt_error *err)
{
    struct supervise *s = arg;
    json_t *before = events_since(s->events, 0, EVENTS_KEPT);
    json_t *last = json_array_get(before, json_array_size(before) - 1);
    json_int_t number = json_integer_value(json_object_get(last, "number"));
    int ret = supervisor_upgrade(s->supervisor, path ? path : s->program, NULL, err);

    json_decref(before);
    if (ret == 0)
        *result = json_pack("{sI}", "after", number);
    return ret;
}

static const struct protocol_ops supervise_protocol = {
    .change = supervise_change,
    .quiesce = answer_quiesce,
    .list = answer_list,
    .show = answer_show,
    .stats = answer_stats,
    .set = answer_set,
    .run = answer_do,
    .resize = answer_resize,
    .map = answer_map,
    .quit = answer_quit,
    .events = answer_events,
    .upgrade = answer_upgrade,
};

/* ---- Life ------------------------------------------------------------------------------------------- */

static void on_ready(void *arg)
{
    struct supervise *s = arg;

    s->was_ready = true;
    fputs("devtap: ready\n", stderr);
    notify_manager("READY=1");
}

static void on_ended(void *arg, int status)
{
    struct supervise *s = arg;

    s->status = status;
    loop_stop(s->loop);
}

static const struct supervisor_ops supervisor_ops = {.ready = on_ready,
                                                     .started = live_started,
                                                     .restarted = live_restarted,
                                                     .changed = supervise_changed,
                                                     .ended = on_ended};

static int open_sockets(struct supervise *s, struct dt_error *err)
{
    for (unsigned i = 0; i < s->config->count; i++) {
        const struct disk_config *c = &s->config->disks[i];
        struct disk_socket *socket = &s->sockets[i];
        int ret = disk_socket_open(socket, c, &s->activation, s->config->count == 1, err);

        if (ret < 0) {
            dt_fail_prefix(err, "%s", c->name);
            if (c->where)
                dt_fail_prefix(err, "%s", c->where);
            return ret;
        }
        s->disks[i] = (struct supervised_disk){
            .name = c->name, .sock = socket->fd, .connect = c->options.connect};
        if (c->options.connect)
            s->disks[i].socket = KEEPER_CONNECTS;
        else if (!socket->bound && socket_kind(socket->fd) != 1)
            s->disks[i].socket = KEEPER_HAS_SESSION;
    }
    return 0;
}

/* By its name, so that an upgrade without one takes what is installed there by then. */
static int find_program(struct supervise *s, struct dt_error *err)
{
    ssize_t n = readlink("/proc/self/exe", s->program, sizeof(s->program) - 1);

    return n < 0 ? dt_fail(err, -errno, "/proc/self/exe: %s", strerror(errno)) : 0;
}

/* A host that does not allow it gives every worker the same. */
static int give_weight(struct supervise *s)
{
    const struct process_options *o = &s->config->process;
    struct dt_error err;

    if (o->weight && cgroup_new(&s->cgroup, o->cgroup, (unsigned)o->weight, &err) < 0)
        events_add(s->events, NULL, "weight-not-set", NULL,
                   "the worker has no weight of its own: %s", err.text);
    return MAX(s->cgroup.fd, 0);
}

static int start(struct supervise *s, struct dt_error *err)
{
    static const char *const keeper_argv[] = {"devtap", "keeper", NULL};
    const struct loop_config quiet = {.engine = LOOP_EPOLL};
    struct supervisor_config config = {
        .program = s->program,
        .worker_argv = (const char *const *)s->worker_argv,
        .spare = s->config->process.spare ? SPARE_WORKER : NULL,
        .attempt = ATTEMPT_WORKER,
        .keeper_argv = keeper_argv,
        .disks = s->disks,
        .count = s->config->count,
        .sandbox = s->config->process.sandbox,
        .state_bytes = blob_area_size(),
        .patience = PATIENCE_NS,
        .hang = s->config->process.hang,
        .cgroup = give_weight(s),
        .events = s->events,
        .ops = &supervisor_ops,
        .arg = s,
    };
    const char *path = s->config->process.control;
    int ret = find_program(s, err) ?: loop_new(&s->loop, &quiet, err);

    ret = ret ?: signals_watch(&s->signals, s->loop, err);
    ret = ret ?: open_sockets(s, err);
    if (!path || strcmp(path, "none") != 0)
        ret = ret ?: control_new(&s->control, s->loop, path, &supervise_protocol, s, err);
    config.loop = s->loop;
    return ret ?: supervisor_new(&s->supervisor, &config, err);
}

char **supervise_worker_argv(const struct run_config *config)
{
    char uid[16];
    const char *const first[] = {"devtap", "worker", uid, NULL};

    snprintf(uid, sizeof(uid), "%u", supervisor_uid());
    return run_config_argv(config, first);
}

void free_words(char **words)
{
    for (char **word = words; word && *word; word++)
        free(*word);
    free(words);
}

static void supervise_init(struct supervise *s, struct run_config *config)
{
    *s = (struct supervise){.config = config,
                            .cgroup = {.parent = -1, .fd = -1},
                            .signals = {.watch.fd = -1, .quit = quit, .arg = s}};
    s->worker_argv = supervise_worker_argv(config);
    s->sockets = xcalloc(config->count, sizeof(*s->sockets));
    s->disks = xcalloc(config->count, sizeof(*s->disks));
    s->events = events_new();
    live_init(s);
    activation_init(&s->activation);
    for (unsigned i = 0; i < config->count; i++)
        s->sockets[i].fd = -1;
}

/* A worker may not write files of its own choosing: what its layers saved is kept for them. */
static void keep_states(struct supervise *s)
{
    const uint8_t *memory = s->supervisor ? supervisor_state(s->supervisor) : NULL;

    for (unsigned i = 0; memory && i < s->config->count; i++) {
        const struct disk_config *d = &s->config->disks[i];

        if (d->options.state)
            state_keep((const struct blob_area *)(const void *)(memory + i * blob_area_size()),
                       d->options.state, d->name);
    }
}

static void supervise_free(struct supervise *s)
{
    keep_states(s);
    supervisor_free(s->supervisor);
    cgroup_free(&s->cgroup);
    control_free(s->control);
    for (unsigned i = 0; i < s->config->count; i++) {
        disk_socket_remove(&s->sockets[i]);
        if (s->sockets[i].fd >= 0)
            close(s->sockets[i].fd);
    }
    if (s->loop) {
        signals_unwatch(&s->signals, s->loop);
        loop_free(s->loop);
    }
    supervise_change_free(s);
    free_words(s->worker_argv);
    free(s->sockets);
    free(s->disks);
    events_free(s->events);
    live_fini(s);
    activation_free(&s->activation);
}

int supervise_run(const struct verb *verb, struct run_config *config)
{
    struct supervise s;
    struct dt_error err;
    int ret;

    supervise_init(&s, config);
    ret = supervise_ask_passphrases(config, &err) ?: start(&s, &err);
    if (ret == 0) {
        loop_run(s.loop);
        if (s.was_ready)
            notify_manager("STOPPING=1");
    }
    supervise_free(&s);
    return ret < 0 ? verb_fail(verb, ret, &err) : s.status;
}
