/* SPDX-License-Identifier: MIT */
/* cmd-do.c - devtap do: give a layer one of its own commands. */
#include "tools/tools.h"

static void print_reply(json_t *reply)
{
    const char *key;
    json_t *value;

    json_object_foreach(reply, key, value)
    {
        if (json_is_string(value))
            printf("%s: %s\n", key, json_string_value(value));
        else {
            _cleanup_free_ char *text = json_dumps(value, JSON_ENCODE_ANY);

            printf("%s: %s\n", key, text ?: "?");
        }
    }
    json_decref(reply);
}

static json_t *request(const char *device, char **argv)
{
    json_t *args = json_array();

    for (char **a = argv + 3; *a; a++)
        json_array_append_new(args, json_string(*a));
    return json_pack("{ss ss ss ss so}", "verb", "do", "device", device, "layer", argv[1],
                     "command", argv[2], "args", args);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct client *client = NULL;
    struct dt_error err;
    json_t *reply = NULL;
    int ret = client_find(&client, argv[0], &err);

    if (ret == 0) {
        json_t *r = request(client_device(client), argv);

        ret = r ? client_call(client, r, &reply, &err)
                : dt_fail(&err, -EINVAL, "an argument is not UTF-8");
    }
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    (o->json ? print_json : print_reply)(reply);
    return STATUS_DONE;
}

const struct verb verb_do = {
    .name = "do",
    .args = "[--json] DEVICE LAYER COMMAND [ARGUMENT...]",
    .summary = "give a layer one of its own commands",
    .help = "Runs a command of an extension or back, as listed by `devtap help EXTENSION`, and "
            "prints its answer.",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 3,
    .max_args = 64,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
