/* SPDX-License-Identifier: MIT */
/* cmd-set.c - devtap set: change parameters of a layer while the VM runs. */
#include "tools/tools.h"

static int collect_values(json_t *values, char **argv, struct dt_error *err)
{
    for (; *argv; argv++) {
        const char *equals = strchr(*argv, '=');

        if (!equals || equals == *argv)
            return dt_fail(err, -EINVAL, "'%.64s': PARAMETER=VALUE was expected", *argv);
        _cleanup_free_ char *key = strndup(*argv, (size_t)(equals - *argv));
        if (json_object_get(values, key))
            return dt_fail(err, -EINVAL, "'%s' is given twice", key);
        if (json_object_set_new(values, key, json_string(equals + 1)) < 0)
            return dt_fail(err, -EINVAL, "'%.64s' is not UTF-8", *argv);
    }
    return 0;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    json_t *values = json_object();
    struct client *client = NULL;
    struct dt_error err;
    int ret = collect_values(values, argv + 2, &err);

    ret = ret ?: client_find(&client, argv[0], &err);
    if (ret == 0)
        ret = client_call(client,
                          json_pack("{ss ss ss sO}", "verb", "set", "device", client_device(client),
                                    "layer", argv[1], "values", values),
                          NULL, &err);
    json_decref(values);
    client_free(client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

static const struct dt_param no_options[] = {{NULL}};

const struct verb verb_set = {
    .name = "set",
    .args = "DEVICE LAYER PARAMETER=VALUE...",
    .summary = "change parameters of a layer while the VM runs",
    .help = "Gives live parameters of a layer new values, in the order written, and ends at the "
            "first that is refused. `devtap help EXTENSION` tells which are live.",
    .groups = {{"Options", no_options}},
    .min_args = 3,
    .max_args = 64,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
