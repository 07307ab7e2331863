/* SPDX-License-Identifier: MIT */
/*
 * export.c - a disk of the pool, served to one client by vhost-user.
 *
 * Theory of operation: a device of one layer, the back `cvd-local`, with a front for this one session.
 * Everything runs on the pool's thread, where the end of a session comes from within the front: so
 * front and device are taken down by messages to ourselves, one after the other.
 */
#include "tools/pool/pool.h"

#define EXPORT_QUEUES 16u
#define QUIET_NS      DT_S(10)

/** struct export - @message: to ourselves; one at a time is under way. */
struct export
{
    struct list node;
    struct pool_server *server;
    char *disk; /* its name, as the client wrote it */
    struct device *dev;
    struct front *front;
    struct loop_message message;
};

/* ---- The end ---- */

static void run_free(struct loop_message *message)
{
    struct export *e = container_of(message, struct export, message);
    struct pool_server *s = e->server;

    device_stop(e->dev);
    device_free(e->dev);
    list_del(&e->node);
    free(e->disk);
    free(e);
    callers_retry(s);
    if (s->ending && list_empty(&s->exports))
        pool_server_quiet(s);
}

static void quiet(void *arg, const char *late)
{
    struct export *e = arg;

    if (late) { /* a successor will be told the requests again */
        log_error("%s: it does not come to rest: %s", device_name(e->dev), late);
        _exit(STATUS_FAILED);
    }
    e->message.run = run_free;
    loop_post(e->server->loop, &e->message);
}

static void run_ended(struct loop_message *message)
{
    struct export *e = container_of(message, struct export, message);

    front_free(e->front);
    e->front = NULL;
    device_quiesce(e->dev, dt_clock_ns() + QUIET_NS, quiet, e);
}

static void ended(void *arg)
{
    struct export *e = arg;

    e->message.run = run_ended;
    loop_post(e->server->loop, &e->message);
}

void exports_end(struct pool_server *s)
{
    s->ending = true;
    list_for_each (it, &s->exports) {
        struct export *e = list_entry(it, struct export, node);

        if (e->front)
            front_stop(e->front, ended, e);
    }
    if (list_empty(&s->exports))
        pool_server_quiet(s);
}

/* ---- The beginning ---- */

static void add_setting(struct layer_spec *layer, const char *key, const char *value)
{
    layer->settings = realloc(layer->settings, (layer->count + 1) * sizeof(layer->settings[0]));
    CHECK(layer->settings);
    layer->settings[layer->count++] = (struct setting){xstrdup(key), xstrdup(value)};
}

static void make_chain(struct chain_spec *chain, const struct pool_server *s,
                       const struct pool_request *request)
{
    struct layer_spec *layer = xcalloc(1, sizeof(*layer));
    _cleanup_free_ char *weight = xasprintf("%u", request->weight);

    layer->name = xstrdup("cvd-local");
    add_setting(layer, "pool", s->path);
    add_setting(layer, "name", request->disk);
    add_setting(layer, "read-only", request->read_only ? "on" : "off");
    add_setting(layer, "weight", weight);
    *chain = (struct chain_spec){.layers = layer, .count = 1};
}

static void info_changed(void *arg)
{
    struct export *e = arg;

    if (e->front)
        front_class_ops(&disk_front)->info_changed(e->front);
}

static int start(struct export *e, struct dt_error *err)
{
    static struct front_ops ops;

    ops = *front_class_ops(&disk_front);
    ops.info_changed = info_changed;
    return device_start(e->dev, &ops, e, err);
}

int export_new(struct export **out, struct pool_server *s, const struct pool_request *request,
               struct dt_error *err)
{
    struct export *e = xcalloc(1, sizeof(*e));
    struct device_config config = {.name = request->owner, .loops = &s->loop, .threads = 1};
    struct chain_spec chain;
    int ret;

    make_chain(&chain, s, request);
    config.chain = &chain;
    e->server = s;
    ret = device_new(&e->dev, &config, err);
    chain_spec_free(&chain);
    ret = ret ?: start(e, err);
    if (ret < 0) {
        device_free(e->dev);
        free(e);
        return ret;
    }
    e->disk = xstrdup(request->disk);
    list_add_tail(&s->exports, &e->node);
    *out = e;
    return 0;
}

/* One look at a time: all disks wait for it. */
int export_map(struct pool_server *s, const struct pool_request *request, json_t **map,
               struct dt_error *err)
{
    list_for_each (it, &s->exports) {
        const struct export *e = list_entry(it, struct export, node);

        if (strcmp(e->disk, request->disk) == 0)
            return device_map(e->dev, request->start, request->length, 0, map, err);
    }
    return dt_fail(err, -ENOENT, "nobody has '%.64s' open", request->disk);
}

void export_begin(struct export *e, int sock)
{
    const struct front_config config = {.class = &disk_front,
                                        .dev = e->dev,
                                        .listen_fd = -1,
                                        .session_fd = sock,
                                        .ended = ended,
                                        .ended_arg = e,
                                        .queues = EXPORT_QUEUES,
                                        .packed = true};
    struct dt_error err;

    if (front_new(&e->front, &config, &err) == 0)
        return;
    log_error("%s: %s", device_name(e->dev), err.text);
    ended(e);
}
