/* SPDX-License-Identifier: MIT */
/*
 * host.c - the process that hosts an extension: what the worker asks of it, answered by core.
 *
 * Crash-only: when the worker is gone there is nobody to finish anything for, and the process
 * ends at once, whatever is in flight.
 */
#include "blk/channel/host.h"

#include <sys/stat.h>

static void answer(struct host *h, uint32_t seq, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);

    dt_channel_answer(h->ch, seq, text);
    free(text);
    json_decref(json);
}

static void answer_result(struct host *h, uint32_t seq, int ret, const struct dt_error *err)
{
    if (ret < 0)
        dt_channel_answer_error(h->ch, seq, ret, err->text);
    else
        dt_channel_answer(h->ch, seq, NULL);
}

/* A limit of the extension's own is kept; where it has none, that of the disk below holds. */
static json_t *info_answer(const struct host *h)
{
    struct dt_block_info info;

    if (h->net)
        return json_pack("{so}", "info", net_info_to_json(device_net_info(h->dev)));
    info = *device_info(h->dev);
    if (info.max_sectors == 0)
        info.max_sectors = h->below.max_sectors;
    if (info.max_segments == 0)
        info.max_segments = h->below.max_segments;
    return json_pack("{so}", "info", info_to_json(&info));
}

static int take_below(struct host *h, const json_t *below)
{
    return h->net ? net_info_from_json(&h->net_below, below) : info_from_json(&h->below, below);
}

static void on_init(struct host *h, uint32_t seq, json_t *json)
{
    struct dt_error err = {""};
    int ret = take_below(h, json_object_get(json, "below"));

    if (ret == 0)
        ret = host_chain_new(h, json, &err);
    if (ret == 0 && placed_configuration->confine_host)
        ret = placed_configuration->confine_host(&err);
    if (ret == 0)
        ret = host_threads_start(h, &err);
    if (ret < 0) {
        dt_channel_answer_error(h->ch, seq, ret, err.text);
        h->status = EXIT_FAILURE;
        h->stopping = true;
        return;
    }
    answer(h, seq, info_answer(h));
}

static int load_state(struct host *h, json_t *json, int fd, struct dt_error *err)
{
    uint32_t version = (uint32_t)json_integer_value(json_object_get(json, "version"));
    _cleanup_free_ uint8_t *blob = NULL;
    struct stat st;

    if (fd < 0 || !h->ext->load || h->served || fstat(fd, &st) < 0 || st.st_size > STATE_MAX)
        return dt_fail(err, -EBADMSG, "its saved state cannot be read");
    blob = xcalloc(1, (size_t)st.st_size + 1);
    if (pread(fd, blob, (size_t)st.st_size, 0) != st.st_size)
        return dt_fail(err, -EBADMSG, "its saved state cannot be read: %s", strerror(errno));
    return h->ext->load(device_layer(h->dev, 1), blob, (size_t)st.st_size, version, err);
}

static void on_load(struct host *h, uint32_t seq, json_t *json, int fd)
{
    struct dt_error err = {""};
    int ret = load_state(h, json, fd, &err);

    answer_result(h, seq, ret, &err);
}

static void on_start(struct host *h, uint32_t seq)
{
    struct dt_error err = {""};
    int ret = host_lane_start(h, &err);

    answer_result(h, seq, ret, &err);
}

static void on_set(struct host *h, uint32_t seq, json_t *json)
{
    struct dt_error err = {""};
    const char *param = json_string_value(json_object_get(json, "param"));
    const char *value = json_string_value(json_object_get(json, "value"));
    int ret = param && value ? device_set(h->dev, h->ext->name, param, value, &err) : -EINVAL;

    host_allow(h); /* what was allowed before the change may be too much now */

    answer_result(h, seq, ret, &err);
}

static void on_do(struct host *h, uint32_t seq, json_t *json)
{
    const char *verb = json_string_value(json_object_get(json, "verb"));
    json_t *args = json_object_get(json, "args"), *reply = NULL;
    struct dt_error err = {""};
    const char *argv[64];
    int argc = 0, ret;

    for (; argc < (int)MIN(json_array_size(args), ARRAY_SIZE(argv)); argc++)
        argv[argc] = json_string_value(json_array_get(args, (size_t)argc)) ?: "";
    ret = device_do(h->dev, h->ext->name, verb ?: "", argc, argv, &reply, &err);
    if (ret < 0)
        answer_result(h, seq, ret, &err);
    else
        answer(h, seq, json_pack("{so}", "reply", reply));
}

struct save_call {
    struct host *h;
    uint8_t *buffer;
    int64_t size;
};

static void save_exclusive(void *arg)
{
    struct save_call *call = arg;
    struct host *h = call->h;

    call->size = h->ext->save(device_layer(h->dev, 1), call->buffer, STATE_MAX);
}

static void on_save(struct host *h, uint32_t seq)
{
    static uint8_t *buffer; /* pages that no state ever reached cost nothing */
    struct save_call call = {.h = h, .size = -ENOSYS};

    host_counters(h);
    if (!buffer)
        buffer = xcalloc(1, STATE_MAX);
    call.buffer = buffer;
    if (h->ext->save)
        device_exclusive(h->dev, save_exclusive, &call);
    if (call.size < 0)
        dt_channel_answer_error(h->ch, seq, (int)call.size, NULL);
    else
        dt_channel_answer_state(h->ch, seq, buffer, (size_t)call.size);
}

struct info_call {
    struct host *h;
    json_t *below;
    struct dt_error err;
    int ret;
};

static void info_exclusive(void *arg)
{
    struct info_call *call = arg;

    call->ret = take_below(call->h, call->below);
    if (call->ret == 0)
        call->ret = device_gather_info(call->h->dev, true, &call->err);
}

static void on_info(struct host *h, uint32_t seq, json_t *json)
{
    struct info_call call = {.h = h, .below = json_object_get(json, "below")};

    host_counters(h);
    device_exclusive(h->dev, info_exclusive, &call);
    if (call.ret < 0)
        answer_result(h, seq, call.ret, &call.err);
    else
        answer(h, seq, info_answer(h));
}

static void on_quiesce(struct host *h, json_t *json)
{
    json_int_t ns = json_integer_value(json_object_get(json, "ns"));
    json_t *thread = json_object_get(json, "thread");

    host_release(h, json_is_integer(thread) ? (int)json_integer_value(thread) : -1,
                 dt_clock_ns() + (uint64_t)MAX(ns, 0));
}

void host_lost(struct host *h, int error)
{
    h->status = error ? EXIT_FAILURE : EXIT_SUCCESS;
    if (error)
        log_error("%s: the worker broke the channel's protocol: %s", h->name, strerror(-error));
    h->abandoned = h->stopping = true;
}

void host_control(struct host *h, const struct dt_channel_event *e)
{
    json_t *json = e->text ? json_loads(e->text, 0, NULL) : NULL;

    if (e->type == DT_CHANNEL_END)
        host_lost(h, e->error);
    else if (e->control == DT_CHANNEL_INIT && !h->dev)
        on_init(h, e->seq, json);
    else if (!h->dev || e->control == DT_CHANNEL_INIT)
        host_lost(h, -EPROTO);
    else if (e->control == DT_CHANNEL_START)
        on_start(h, e->seq);
    else if (e->control == DT_CHANNEL_LOAD)
        on_load(h, e->seq, json, e->fd);
    else if (e->control == DT_CHANNEL_SET)
        on_set(h, e->seq, json);
    else if (e->control == DT_CHANNEL_DO)
        on_do(h, e->seq, json);
    else if (e->control == DT_CHANNEL_SAVE)
        on_save(h, e->seq);
    else if (e->control == DT_CHANNEL_INFO)
        on_info(h, e->seq, json);
    else if (e->control == DT_CHANNEL_QUIESCE)
        on_quiesce(h, json);
    else if (e->control == DT_CHANNEL_STOP)
        h->stopping = true;
    json_decref(json);
    if (e->fd >= 0)
        close(e->fd);
}

/* Until there is a chain, there is only the socket. */
static void await_init(struct host *h)
{
    while (!h->dev && !h->stopping) {
        struct dt_channel_event e;

        dt_channel_wait(h->ch, -1);
        if (dt_channel_poll(h->ch, &e, 1))
            host_control(h, &e);
    }
}

static int introduce(struct host *h, struct dt_error *err)
{
    _cleanup_free_ char *hello = xasprintf("{\"name\":\"%s\"}", h->ext->name);

    return dt_channel_open(&h->ch, -1, hello, err);
}

/* One packet, whatever thread of the extension speaks; the worker names device and layer again. */
static void on_event(const struct device_event *e)
{
    dt_channel_event(the_host.ch, e->event, e->text);
}

static int add_back(const struct host *h, struct dt_error *err)
{
    return h->net ? registry_add_net(&host_net_back, err) : registry_add(&host_back, err);
}

int placed_host(const char *name)
{
    struct host *h = &the_host;
    struct dt_error err;

    h->net = strncmp(name, HOST_NET, strlen(HOST_NET)) == 0;
    h->name = h->net ? name + strlen(HOST_NET) : name;
    h->ext = registry_find_kind(h->net ? DEVICE_NET : DEVICE_DISK, h->name, &err);
    if (!h->ext || add_back(h, &err) < 0 || introduce(h, &err) < 0) {
        log_error("%s: %s", name, err.text);
        return EXIT_FAILURE;
    }
    device_events(on_event);
    await_init(h);
    if (!h->stopping)
        host_serve(h);
    if (h->abandoned || host_in_flight(h))
        _exit(h->status); /* requests are in flight that nobody waits for */
    if (h->dev)
        host_chain_stop(h);
    host_loops_free(h);
    dt_channel_free(h->ch);
    return h->status;
}
