/* SPDX-License-Identifier: MIT */
/* cmd-upgrade.c - devtap upgrade: a worker of another program takes over while VMs run. */
#include "tools/tools.h"

struct upgrade_options {
    const char *binary;
    bool all;
};

static int upgrade(struct client *client, const struct upgrade_options *o, struct dt_error *err)
{
    json_t *request = json_pack("{ss}", "verb", "upgrade"), *begun = NULL;
    json_int_t after;
    int ret;

    if (o->binary)
        json_object_set_new(request, "binary", json_string(o->binary));
    ret = client_call(client, request, &begun, err);
    after = json_integer_value(json_object_get(begun, "after"));
    json_decref(begun);
    return ret ?: client_outcome(client, after, NULL, "upgraded", "upgrade-refused", err);
}

struct each {
    const struct upgrade_options *options;
    unsigned done, failed;
};

static int visit(struct client *client, void *arg)
{
    struct each *each = arg;
    struct dt_error err;

    if (upgrade(client, each->options, &err) == 0) {
        each->done++;
    } else {
        fprintf(stderr, "devtap upgrade: %s: %s\n", client_path(client), err.text);
        each->failed++;
    }
    return 0;
}

static int upgrade_all(const struct verb *verb, const struct upgrade_options *o)
{
    struct each each = {.options = o};
    struct dt_error err;
    int ret = client_each(visit, &each, &err);

    if (ret < 0)
        return verb_fail(verb, ret, &err);
    printf("%u upgraded, %u not\n", each.done, each.failed);
    return each.failed ? STATUS_FAILED : STATUS_DONE;
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct upgrade_options *o = options;
    struct client *client;
    struct dt_error err;
    int ret;

    if (o->all == (argc > 0)) {
        ret = dt_fail(&err, -EINVAL, "name a device, or say --all");
        return verb_fail(verb, ret, &err);
    }
    if (o->all)
        return upgrade_all(verb, o);
    ret = client_find(&client, argv[0], &err);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    ret = upgrade(client, o, &err);
    client_free(client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

static const struct dt_param options[] = {
    {"binary", DT_PARAM_PATH, .offset = offsetof(struct upgrade_options, binary),
     .help =
         "The program to upgrade to; the one installed where the running one was, unless told."},
    {"all", DT_PARAM_BOOL, .offset = offsetof(struct upgrade_options, all),
     .help = "Upgrade every devtap run of this machine, one after the other."},
    {NULL},
};

const struct verb verb_upgrade = {
    .name = "upgrade",
    .args = "DEVICE|--all [--binary PATH]",
    .summary = "let another version of the program take over while VMs run",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct upgrade_options),
    .max_args = 1,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
