/* SPDX-License-Identifier: MIT */
/* server-protocol.c - requests of the control socket, answered from the disks that run. */
#include "tools/run/run.h"

static int find_device(struct server *server, const char *name, unsigned *index,
                       struct dt_error *err)
{
    struct nearest nearest = {.wanted = name};

    for (unsigned i = 0; i < server_disks(server); i++) {
        const char *own = device_name(server_device(server, i));

        if (strcmp(own, name) == 0) {
            *index = i;
            return 0;
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
    .quit = answer_quit,
};
