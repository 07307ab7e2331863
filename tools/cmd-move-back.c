/* SPDX-License-Identifier: MIT */
/*
 * cmd-move-back.c - devtap move-back: what a running disk stands on is copied elsewhere, and then
 * the disk stands there.
 *
 * The copying is the layer `copy`'s, and goes on without us; who calls again waits again.
 */
#include "tools/tools.h"

struct move_options {
    const char *rate;
    bool compare, background, abort, status, json;
};

static const char *content(bool compare)
{
    return compare ? "equal" : "copy";
}

int move_back(struct client *client, const char *chain, bool compare, json_t **result,
              struct dt_error *err)
{
    struct twin_client tc = {.client = client, .kind = "copy"};
    const char *const more[] = {"content", content(compare), NULL};

    return twin_insert(&tc, "bottom", chain, more, err)
               ?: twin_adopt(&tc, false, true, 0, result, err);
}

static int begin(struct twin_client *tc, const char *chain, const struct move_options *o,
                 struct dt_error *err)
{
    const char *const more[] = {"rate", o->rate ?: "0", "content", content(o->compare), NULL};

    return twin_insert(tc, "bottom", chain, more, err);
}

static int find(struct twin_client *tc, struct dt_error *err)
{
    int ret = twin_find(tc, err);

    if (ret == 0)
        return dt_fail(err, -ENOENT, "%s is not being moved", client_device(tc->client));
    return MIN(ret, 0);
}

static void print_text(const char *device, const struct move_options *o, json_t *result)
{
    const char *chain = json_string_value(json_object_get(result, "chain"));

    if (o->abort)
        printf("%s: not moved; it is served by: %s\n", device, chain ?: "?");
    else if (chain)
        printf("%s: moved; it is served by: %s\n", device, chain);
    else
        printf("%s: %s, %s of %s left\n", device,
               json_string_value(json_object_get(result, "state")) ?: "?",
               human_bytes((uint64_t)json_integer_value(json_object_get(result, "bytes-left"))),
               human_bytes((uint64_t)json_integer_value(json_object_get(result, "bytes"))));
}

static int judge(const struct move_options *o, const char *chain, struct dt_error *err)
{
    if (o->abort + o->status + o->background > 1)
        return dt_fail(err, -EINVAL, "--abort, --status and --background exclude each other");
    if (chain && (o->abort || o->status))
        return dt_fail(err, -EINVAL, "%s takes no NEWBACK", o->abort ? "--abort" : "--status");
    if (!chain && (o->compare || (o->background && !o->rate)))
        return dt_fail(err, -EINVAL, "a NEWBACK is missing");
    return 0;
}

static int run_move(struct twin_client *tc, const struct move_options *o, const char *chain,
                    json_t **result, struct dt_error *err)
{
    int ret = judge(o, chain, err);

    ret = ret ?: chain ? begin(tc, chain, o, err) : find(tc, err);
    if (ret == 0 && o->rate && !chain)
        ret = twin_configure(tc, "rate", o->rate, err);
    if (ret < 0)
        return ret;
    if (o->abort)
        return twin_remove(tc, result, err);
    if (o->status || o->background)
        return twin_status(tc, result, err);
    return twin_adopt(tc, false, !o->json, 0, result, err);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct move_options *o = options;
    struct twin_client tc = {.kind = "copy"};
    json_t *result = NULL;
    struct dt_error err;
    int ret = client_find(&tc.client, argv[0], &err);

    ret = ret ?: run_move(&tc, o, argv[1], &result, &err);
    if (ret == 0 && o->json)
        print_json(json_incref(result));
    else if (ret == 0)
        print_text(client_device(tc.client), o, result);
    json_decref(result);
    client_free(tc.client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

#define FIELD(field) .offset = offsetof(struct move_options, field)
static const struct dt_param options[] = {
    {"rate", DT_PARAM_STRING, FIELD(rate),
     .help =
         "Copy no faster than so many bytes per second (100M); without a NEWBACK: from now on."},
    {"compare", DT_PARAM_BOOL, FIELD(compare),
     .help = "NEWBACK holds what the disk does: compare the two, and copy only what is written "
             "meanwhile."},
    {"background", DT_PARAM_BOOL, FIELD(background),
     .help = "Begin (or set the rate), and do not wait; the disk is not switched."},
    {"status", DT_PARAM_BOOL, FIELD(status), .help = "Tell how far it is."},
    {"abort", DT_PARAM_BOOL, FIELD(abort), .help = "Give it up: the disk stays where it is."},
    {"json", DT_PARAM_BOOL, FIELD(json), .help = "Print the outcome as JSON."},
    {NULL},
};

const struct verb verb_move_back = {
    .name = "move-back",
    .args = "[OPTION...] DEVICE [NEWBACK]",
    .summary = "copy a running disk to another back, and serve it from there",
    .help = "NEWBACK is a back, or a chain that ends in one, in quotes. Without it, waits for a "
            "move that "
            "was begun in the background, and switches.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct move_options),
    .min_args = 1,
    .max_args = 2,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
