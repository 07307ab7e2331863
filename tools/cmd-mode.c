/* SPDX-License-Identifier: MIT */
/* cmd-mode.c - devtap mode: who serves the guest's rings, the chain or the rear behind it. */
#include "tools/tools.h"

#include <time.h>

#define LOOK_NS DT_MS(20)
#define WAIT_NS DT_S(10)

/* The front's part of what `show` tells; new reference. */
static int ask(struct client *client, json_t **front, struct dt_error *err)
{
    json_t *show = NULL;
    int ret = client_call(
        client, json_pack("{ss ss}", "verb", "show", "device", client_device(client)), &show, err);

    if (ret < 0)
        return ret;
    *front = json_incref(json_object_get(show, "front"));
    json_decref(show);
    return *front ? 0 : dt_fail(err, -EAGAIN, "%s has no front yet", client_device(client));
}

/* The back, which is a rear or has no modes: the last layer. Owned. */
static int find_back(struct client *client, char **name, struct dt_error *err)
{
    json_t *show = NULL, *chain;
    int ret = client_call(
        client, json_pack("{ss ss}", "verb", "show", "device", client_device(client)), &show, err);

    if (ret < 0)
        return ret;
    chain = json_object_get(show, "chain");
    chain = json_array_get(chain, json_array_size(chain) - 1);
    *name = xstrdup(json_string_value(json_object_get(chain, "name")) ?: "");
    json_decref(show);
    return 0;
}

static int wish(struct client *client, const char *mode, struct dt_error *err)
{
    _cleanup_free_ char *back = NULL;
    json_t *reply = NULL;
    int ret = find_back(client, &back, err);

    ret = ret ?: client_call(client,
                             json_pack("{ss ss ss ss s[s]}", "verb", "do", "device",
                                       client_device(client), "layer", back, "command", "mode",
                                       "args", mode),
                             &reply, err);
    json_decref(reply);
    return ret;
}

static const char *text_of(json_t *front, const char *key)
{
    return json_string_value(json_object_get(front, key)) ?: "";
}

/* Until it is so, or @deadline: then the reason is shown, and it will be so when that is over. */
static int await(struct client *client, const char *mode, json_t **front, struct dt_error *err)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    uint64_t end = dt_clock_ns() + WAIT_NS;

    for (;;) {
        int ret = ask(client, front, err);

        if (ret < 0 || strcmp(text_of(*front, "mode"), mode) == 0 || dt_clock_ns() >= end ||
            !json_is_true(json_object_get(*front, "attached")))
            return ret;
        json_decref(*front);
        nanosleep(&pause, NULL);
    }
}

static void print_mode(json_t *front)
{
    const char *why = text_of(front, "mode_because");

    printf("%s", text_of(front, "mode"));
    if (strcmp(text_of(front, "mode"), text_of(front, "mode_wanted")) != 0)
        printf(", %s when that can be", text_of(front, "mode_wanted"));
    printf("%s%s\n", *why ? ": " : "", why);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    struct client *client = NULL;
    struct dt_error err;
    json_t *front = NULL;
    int ret = client_find(&client, argv[0], &err);

    if (ret == 0 && argc > 1)
        ret = wish(client, argv[1], &err) ?: await(client, argv[1], &front, &err);
    else if (ret == 0)
        ret = ask(client, &front, &err);
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    print_mode(front);
    json_decref(front);
    return STATUS_DONE;
}

static const struct dt_param no_options[] = {{NULL}};

const struct verb verb_mode = {
    .name = "mode",
    .args = "DEVICE [passthrough|interpose]",
    .summary = "give the guest's rings to the back end behind a disk, or take them back",
    .help = "Passthrough: the back end that a disk with the back `vhost-user` or `cvd` stands on "
            "serves the guest's rings itself. Interpose: the chain does. Changed while the guest runs.",
    .groups = {{"Options", no_options}},
    .min_args = 1,
    .max_args = 2,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
