/* SPDX-License-Identifier: MIT */
/* server-protocol.c - requests of the control socket, answered from the disks that run. */
#include "tools/run/run.h"

static int find_device(struct server *server, const char *name, unsigned *index,
                       struct dt_error *err)
{
    struct nearest nearest = {.wanted = name};

    for (unsigned i = 0; i < server_disks(server); i++) {
        const char *own = server_name(server, i), *out = server_left_out(server, i);

        if (strcmp(own, name) == 0) {
            *index = i;
            return out ? dt_fail(err, -EAGAIN, "it is not served now: %s", out) : 0;
        }
        nearest_offer(&nearest, own);
    }
    dt_fail(err, -ENODEV, "no running device is named '%.64s'", name);
    nearest_hint(&nearest, err);
    return -ENODEV;
}

static int answer_list(void *arg, json_t **result, struct dt_error *err)
{
    struct server *server = arg;

    *result = json_array();
    for (unsigned i = 0; i < server_disks(server); i++)
        json_array_append_new(*result, server_list(server, i));
    return 0;
}

static int answer_show(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    if (ret == 0)
        *result = server_show(arg, index);
    return ret;
}

static int answer_stats(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    if (ret == 0)
        *result = device_stats(server_device(arg, index));
    return ret;
}

static int answer_set(void *arg, const char *device, const char *layer, const char *param,
                      const char *value, struct dt_error *err)
{
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    if (ret == 0)
        ret = device_set(server_device(arg, index), layer, param, value, err);
    if (ret == 0)
        log_info("%s: %s: %s=%s", device, layer, param, value);
    return ret;
}

static int answer_do(void *arg, const char *device, const char *layer, const char *command,
                     int argc, const char *const *argv, json_t **result, struct dt_error *err)
{
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    return ret ?: device_do(server_device(arg, index), layer, command, argc, argv, result, err);
}

static int answer_resize(void *arg, const char *device, const char *size, json_t **result,
                         struct dt_error *err)
{
    json_t *show, *layer;
    unsigned index;
    char *back;
    size_t i;
    int ret = find_device(arg, device, &index, err);

    if (ret < 0)
        return ret;
    show = device_show(server_device(arg, index));
    back = xstrdup("");
    json_array_foreach(json_object_get(show, "chain"), i, layer)
    {
        free(back); /* the last one is the back */
        back = xstrdup(json_string_value(json_object_get(layer, "name")) ?: "");
    }
    json_decref(show);
    ret = device_do(server_device(arg, index), back, "resize", 1, &size, result, err);
    free(back);
    return ret;
}

static int answer_change(void *arg, const char *device, json_t *request, json_t **result,
                         struct dt_error *err)
{
    struct chain_edit old, now;
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    if (ret < 0)
        return ret;
    device_edit(server_device(arg, index), &old);
    ret = change_device(server_device(arg, index), server_confined(arg), request, result, err);
    device_edit(server_device(arg, index), &now);
    change_note_rear(server_rear(arg, index), &old.spec, &now.spec);
    chain_spec_free(&old.spec);
    chain_spec_free(&now.spec);
    return ret;
}

#define HOLD_NS     DT_S(30)
#define HOLD_MAX_NS DT_S(3600)

static uint64_t number_of(json_t *request, const char *key, uint64_t initial, uint64_t most)
{
    json_t *json = json_object_get(request, key);
    json_int_t n = json_integer_value(json);

    return !json_is_integer(json) || n < 0 ? initial : MIN((uint64_t)n, most);
}

static int answer_quiesce(void *arg, const char *device, json_t *request, json_t **result,
                          struct dt_error *err)
{
    const char *verb = json_string_value(json_object_get(request, "verb"));
    uint64_t start = dt_clock_ns();
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    if (ret < 0)
        return ret;
    if (strcmp(verb, "resume") == 0)
        return server_resume(arg, index, err);
    ret = server_quiesce(
        arg, index, number_of(request, "patience_ns", CHANGE_PATIENCE_NS, CHANGE_PATIENCE_MAX_NS),
        number_of(request, "hold_ns", HOLD_NS, HOLD_MAX_NS),
        json_is_true(json_object_get(request, "flush")), err);
    if (ret == 0)
        *result = json_pack("{sI}", "drain_ns", (json_int_t)(dt_clock_ns() - start));
    return ret;
}

/* Nothing else is answered meanwhile, so the rest is for another question. */
#define MAP_NS DT_MS(100)

static int answer_map(void *arg, const char *device, uint64_t start, uint64_t length,
                      json_t **result, struct dt_error *err)
{
    unsigned index;
    int ret = find_device(arg, device, &index, err);

    return ret ?: device_map(server_device(arg, index), start, length, MAP_NS, result, err);
}

static int answer_quit(void *arg, struct dt_error *err)
{
    server_quit(arg);
    return 0;
}

const struct protocol_ops server_protocol = {
    .list = answer_list,
    .show = answer_show,
    .stats = answer_stats,
    .set = answer_set,
    .run = answer_do,
    .resize = answer_resize,
    .change = answer_change,
    .quiesce = answer_quiesce,
    .map = answer_map,
    .quit = answer_quit,
};
