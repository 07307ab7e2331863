/* SPDX-License-Identifier: MIT */
/*
 * cmd-change.c - devtap insert, remove, move, replace and change: the chain of a running disk.
 *
 * The first four are one step of `change`, with their arguments in the same order.
 */
#include "tools/tools.h"

/* ---- Words to steps -------------------------------------------------------------------------- */

/* One argument of the shell is one word of the step, whatever is in it. */
static void put_word(FILE *out, const char *word)
{
    putc(' ', out);
    for (; *word; word++) {
        if (strchr(" \t\n|\"'\\", *word))
            putc('\\', out);
        putc(*word, out);
    }
}

/* A last argument that stands alone is a layer as in a chain: 'throttle iops=5k'. */
static char *make_step(const char *verb, char **argv, unsigned plain)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    unsigned n = 0;

    CHECK(out);
    fputs(verb, out);
    for (; argv[n] && n < plain; n++)
        fprintf(out, " %s", argv[n]);
    if (argv[n] && !argv[n + 1])
        fprintf(out, " %s", argv[n]);
    else
        for (; argv[n]; n++)
            put_word(out, argv[n]);
    CHECK(fclose(out) == 0);
    return text;
}

/* ---- The request ----------------------------------------------------------------------------- */

static void print_result(const char *device, json_t *result)
{
    json_int_t drain = json_integer_value(json_object_get(result, "drain_ns"));
    json_int_t change = json_integer_value(json_object_get(result, "switch_ns"));
    const char *outside = json_string_value(json_object_get(result, "outside"));
    bool dry_run = json_is_true(json_object_get(result, "dry_run"));

    printf("%s: %s\n", device, json_string_value(json_object_get(result, "chain")) ?: "?");
    if (dry_run && outside)
        printf("a new worker would serve it, because the present one cannot open '%s' any more; "
               "whether "
               "that opens is seen then\n",
               outside);
    else if (dry_run)
        puts("the worker would change it in place");
    else if (outside)
        puts("a new worker serves it");
    else
        printf("in place: requests drained in %s, new chain took over in %s\n",
               human_ns((uint64_t)drain), human_ns((uint64_t)change));
}

int chain_change(struct client *client, json_t *steps, const struct change_options *o,
                 json_t **result, struct dt_error *err)
{
    json_t *request = json_pack("{ss ss so sb sb sI}", "verb", "change", "device",
                                client_device(client), "steps", steps, "force", o->force, "dry_run",
                                o->dry_run, "patience_ns", (json_int_t)o->patience);
    json_t *after;
    int ret = client_call(client, request, result, err);

    after = ret == 0 ? json_object_get(*result, "after") : NULL;
    if (after)
        ret = client_outcome(client, json_integer_value(after), client_device(client), "changed",
                             "change-refused", err);
    if (ret == 0) {
        json_object_del(*result, "after");
        return 0;
    }
    json_decref(*result);
    *result = NULL;
    return ret;
}

static int change(const struct verb *verb, const struct change_options *o, const char *device,
                  json_t *steps)
{
    struct client *client = NULL;
    json_t *result = NULL;
    struct dt_error err;
    int ret = client_find(&client, device, &err);

    if (ret == 0)
        ret = chain_change(client, steps, o, &result, &err);
    else
        json_decref(steps);
    if (ret == 0) {
        if (o->json)
            print_json(json_incref(result));
        else
            print_result(client_device(client), result);
    }
    json_decref(result);
    client_free(client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

static int add_step(json_t *steps, char *text, struct dt_error *err)
{
    int ret = json_array_append_new(steps, json_string(text));

    free(text);
    return ret < 0 ? dt_fail(err, -EINVAL, "an argument is not UTF-8") : 0;
}

/* insert, remove, move, replace: DEVICE and what the step has. */
static int run_step(const struct verb *verb, void *options, int argc, char **argv)
{
    json_t *steps = json_array();
    struct dt_error err;
    int ret = add_step(steps, make_step(verb->name, argv + 1, 1), &err);

    if (ret == 0)
        return change(verb, options, argv[0], steps);
    json_decref(steps);
    return verb_fail(verb, ret, &err);
}

static int run_change(const struct verb *verb, void *options, int argc, char **argv)
{
    json_t *steps = json_array();
    struct dt_error err;
    int ret = 0;

    for (int i = 1; ret == 0 && i < argc; i++)
        ret = add_step(steps, xstrdup(argv[i]), &err);
    if (ret == 0)
        return change(verb, options, argv[0], steps);
    json_decref(steps);
    return verb_fail(verb, ret, &err);
}

/* ---- The verbs ------------------------------------------------------------------------------- */

static const struct dt_param options[] = {
    {"dry-run", DT_PARAM_BOOL, .offset = offsetof(struct change_options, dry_run),
     .help = "Judge the change: say why it would be refused, or who would do it."},
    {"force", DT_PARAM_BOOL, .offset = offsetof(struct change_options, force),
     .help = "Change it though the guest may read other data then: you know that it will not."},
    {"patience", DT_PARAM_DURATION, .offset = offsetof(struct change_options, patience),
     .initial = "5s", .min = DT_MS(1), .max = DT_S(8),
     .help = "How long requests in flight may take to finish in the old chain."},
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct change_options, json),
     .help = "Print the outcome as JSON."},
    {NULL},
};

#define CHANGE_VERB                                                                  \
    .groups = {{"Options", options}}, .options_size = sizeof(struct change_options), \
    .completes = COMPLETES_DEVICE

const struct verb verb_insert = {
    .name = "insert",
    .args = "DEVICE POSITION EXTENSION [PARAMETER=VALUE...]",
    .summary = "put a layer into the chain of a running disk",
    .help = "POSITION is a number from 1, nearest the guest, or top, bottom, above:LAYER or "
            "below:LAYER.",
    CHANGE_VERB,
    .min_args = 3,
    .max_args = 64,
    .run = run_step,
};

const struct verb verb_remove = {
    .name = "remove",
    .args = "DEVICE LAYER",
    .summary = "take a layer out of the chain of a running disk",
    CHANGE_VERB,
    .min_args = 2,
    .max_args = 2,
    .run = run_step,
};

const struct verb verb_move = {
    .name = "move",
    .args = "DEVICE LAYER POSITION",
    .summary = "move a layer within the chain of a running disk",
    .help = "The layer keeps its state and its counters. POSITION is as for devtap insert, counted "
            "without the layer.",
    CHANGE_VERB,
    .min_args = 3,
    .max_args = 3,
    .run = run_step,
};

const struct verb verb_replace = {
    .name = "replace",
    .args = "DEVICE LAYER EXTENSION [PARAMETER=VALUE...]",
    .summary = "put another layer in the place of one in a running disk",
    .help = "One of the same extension keeps the name and gets the state of the one before.",
    CHANGE_VERB,
    .min_args = 3,
    .max_args = 64,
    .run = run_step,
};

const struct verb verb_change = {
    .name = "change",
    .args = "DEVICE STEP...",
    .summary = "several steps on the chain of a running disk as one change",
    .help =
        "Each STEP is one argument in the words of the verbs insert, remove, move and replace, "
        "without "
        "the device. They apply one after the other; the disk sees the result alone, or nothing."
        "\n\n  devtap change vm1 'remove delay' 'insert top throttle iops=5k'",
    CHANGE_VERB,
    .min_args = 2,
    .max_args = 65,
    .run = run_change,
};
