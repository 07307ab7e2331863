/* SPDX-License-Identifier: MIT */
/* cmd-shadow.c - devtap shadow: a second chain beside a disk's, to be compared, promoted or
 * dropped. */
#include "tools/tools.h"

struct shadow_options {
    const char *rate, *buffer;
    uint64_t patience;
    bool copy, promote, drop, force, json;
};

static int begin(struct twin_client *tc, const char *chain, const struct shadow_options *o,
                 struct dt_error *err)
{
    const char *more[7] = {"content", o->copy ? "copy" : "equal", NULL};
    unsigned n = 2;

    if (o->rate) {
        more[n++] = "rate";
        more[n++] = o->rate;
    }
    if (o->buffer) {
        more[n++] = "buffer";
        more[n++] = o->buffer;
    }
    more[n] = NULL;
    return twin_insert(tc, "top", chain, more, err);
}

/* In step for as long as that takes: only then is it sure to have all that the guest was told. */
static int promote(struct twin_client *tc, const struct shadow_options *o, json_t **result,
                   struct dt_error *err)
{
    struct dt_error ignored;
    int ret = twin_configure(tc, "sync", "on", err);

    ret = ret ?: twin_adopt(tc, o->force, !o->json, o->patience, result, err);
    if (ret < 0)
        twin_configure(tc, "sync", "off", &ignored);
    return ret;
}

static int judge(const struct shadow_options *o, const char *chain, struct dt_error *err)
{
    if (o->promote && o->drop)
        return dt_fail(err, -EINVAL, "--promote and --drop exclude each other");
    if (chain && (o->promote || o->drop))
        return dt_fail(err, -EINVAL, "%s takes no CHAIN", o->promote ? "--promote" : "--drop");
    return 0;
}

static int run_shadow(struct twin_client *tc, const struct shadow_options *o, const char *chain,
                      json_t **result, struct dt_error *err)
{
    int ret = judge(o, chain, err);

    if (ret < 0)
        return ret;
    if (chain)
        return begin(tc, chain, o, err) ?: twin_status(tc, result, err);
    ret = twin_find(tc, err);
    if (ret == 0)
        ret = dt_fail(err, -ENOENT, "%s has no shadow", client_device(tc->client));
    if (ret < 0)
        return ret;
    if (o->drop)
        return twin_remove(tc, result, err);
    return o->promote ? promote(tc, o, result, err) : twin_status(tc, result, err);
}

static void print_status(json_t *status)
{
    const char *key;
    json_t *value;

    json_object_foreach(status, key, value)
    {
        size_t n = strlen(key);

        if (json_is_string(value))
            printf("%-24s %s\n", key, json_string_value(value));
        else if (n > 3 && strcmp(key + n - 3, "-ns") == 0)
            printf("%-24.*s %s\n", (int)(n - 3), key,
                   human_ns((uint64_t)json_integer_value(value)));
        else
            printf("%-24s %lld\n", key, (long long)json_integer_value(value));
    }
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct shadow_options *o = options;
    struct twin_client tc = {.kind = "shadow"};
    json_t *result = NULL;
    struct dt_error err;
    int ret = client_find(&tc.client, argv[0], &err);

    ret = ret ?: run_shadow(&tc, o, argv[1], &result, &err);
    if (ret == 0 && o->json)
        print_json(json_incref(result));
    else if (ret == 0 && (o->promote || o->drop))
        printf("%s: %s; it is served by: %s\n", client_device(tc.client),
               o->promote ? "its shadow was promoted" : "its shadow was dropped",
               json_string_value(json_object_get(result, "chain")) ?: "?");
    else if (ret == 0)
        print_status(result);
    json_decref(result);
    client_free(tc.client);
    return ret < 0 ? verb_fail(verb, ret, &err) : STATUS_DONE;
}

#define FIELD(field) .offset = offsetof(struct shadow_options, field)
static const struct dt_param options[] = {
    {"copy", DT_PARAM_BOOL, FIELD(copy),
     .help = "The chain does not hold what the disk does: copy it, in the background."},
    {"rate", DT_PARAM_STRING, FIELD(rate),
     .help = "Copy no faster than so many bytes per second; the default is 16M."},
    {"buffer", DT_PARAM_STRING, FIELD(buffer),
     .help = "Memory for requests on their way to the shadow; the default is 8M."},
    {"promote", DT_PARAM_BOOL, FIELD(promote), .help = "Serve the disk by the shadow from now on."},
    {"patience", DT_PARAM_DURATION, FIELD(patience), .initial = "60s", .min = DT_MS(1),
     .max = DT_S(86400), .help = "With --promote: how long the shadow may take to catch up."},
    {"force", DT_PARAM_BOOL, FIELD(force),
     .help = "With --promote: whatever it answered, and whatever it lacks."},
    {"drop", DT_PARAM_BOOL, FIELD(drop), .help = "Do without the shadow."},
    {"json", DT_PARAM_BOOL, FIELD(json), .help = "Print the outcome as JSON."},
    {NULL},
};

const struct verb verb_shadow = {
    .name = "shadow",
    .args = "[OPTION...] DEVICE [CHAIN]",
    .summary = "give a second chain the requests of a running disk, and compare its answers",
    .help = "CHAIN is a whole chain, in quotes. Without it, shows what the shadow did, promotes it "
            "or drops "
            "it.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct shadow_options),
    .min_args = 1,
    .max_args = 2,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
