/* SPDX-License-Identifier: MIT */
/* cmd-test.c - devtap test: does an extension keep its side of the contract? */
#include "tools/conformance/conformance.h"
#include "tools/tools.h"

#include <inttypes.h>

struct test_options {
    uint64_t seed, duration, patience;
    const char *property;
    bool list, net, json;
};

static const struct dt_param options[] = {
    {"seed", DT_PARAM_UINT, .offset = offsetof(struct test_options, seed), .initial = "0",
     .help = "Of the random numbers; 0 takes one from the clock, and prints it."},
    {"duration", DT_PARAM_DURATION, .offset = offsetof(struct test_options, duration),
     .initial = "500ms", .help = "Load for each property."},
    {"patience", DT_PARAM_DURATION, .offset = offsetof(struct test_options, patience),
     .initial = "5s", .help = "A request without progress for so long counts as lost."},
    {"property", DT_PARAM_STRING, .offset = offsetof(struct test_options, property),
     .help = "Test only this one; see --list."},
    {"net", DT_PARAM_BOOL, .offset = offsetof(struct test_options, net),
     .help = "The chain is a network card's."},
    {"list", DT_PARAM_BOOL, .offset = offsetof(struct test_options, list),
     .help = "List the properties that are tested."},
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct test_options, json), .help = "Print JSON."},
    {NULL},
};

static char *join(char **words)
{
    char *text = xstrdup("");

    for (unsigned i = 0; words[i]; i++) {
        char *longer = xasprintf("%s%s%s", text, i ? " " : "", words[i]);

        free(text);
        text = longer;
    }
    return text;
}

static void print_one(void *arg, const struct conformance_result *r)
{
    static const char *const outcomes[] = {"ok", "FAILED", "skipped"};

    printf("%-8s %s", outcomes[r->outcome], r->property);
    if (r->count)
        printf(" (%" PRIu64 " %s)", r->count, r->unit);
    if (*r->text)
        printf(": %s", r->text);
    putchar('\n');
    if (*r->log)
        fprintf(stderr, "%s", r->log); /* a sanitizer's report, say */
    fflush(stdout);
}

static void print_properties(bool net, bool json)
{
    json_t *list = json ? json_array() : NULL;
    const char *name, *claim;

    for (unsigned i = 0; conformance_property(net, i, &name, &claim); i++)
        if (json)
            json_array_append_new(list, json_pack("{ss ss}", "name", name, "claim", claim));
        else
            printf("%-16s %s\n", name, claim);
    if (json)
        print_json(list);
}

static int64_t number(json_t *report, const char *key)
{
    return json_integer_value(json_object_get(report, key));
}

/* How to see each failure again, alone. */
static void print_again(json_t *report, bool net)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(report, "properties"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "outcome")), "failed") == 0)
            printf("again: devtap test %s--seed %" PRId64 " --property %s '%s'\n",
                   net ? "--net " : "", number(report, "seed"),
                   json_string_value(json_object_get(item, "name")),
                   json_string_value(json_object_get(report, "chain")));
    }
}

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    const struct test_options *o = opts;
    _cleanup_free_ char *chain = join(argv);
    struct conformance_config config = {.chain = chain,
                                        .net = o->net,
                                        .seed = o->seed,
                                        .property = o->property,
                                        .duration = o->duration,
                                        .patience = o->patience,
                                        .progress = o->json ? NULL : print_one};
    struct dt_error err;
    json_t *report = NULL;
    int failed;

    if (o->list) {
        print_properties(o->net, o->json);
        return STATUS_DONE;
    }
    if (argc == 0) {
        dt_fail(&err, -EINVAL, "usage: devtap test %s", verb->args);
        return verb_fail(verb, -EINVAL, &err);
    }
    failed = conformance_run(&config, &report, &err);
    if (failed < 0)
        return verb_fail(verb, failed, &err);
    if (o->json) {
        print_json(report);
        return failed ? STATUS_FAULT : STATUS_DONE;
    }
    printf("%" PRId64 " passed, %" PRId64 " failed, %" PRId64 " skipped (seed %" PRId64 ")\n",
           number(report, "passed"), number(report, "failed"), number(report, "skipped"),
           number(report, "seed"));
    print_again(report, o->net);
    json_decref(report);
    return failed ? STATUS_FAULT : STATUS_DONE;
}

const struct verb verb_test = {
    .name = "test",
    .args = "[OPTION...] CHAIN",
    .summary = "check that an extension keeps the contract of the API",
    .help = "Drives a chain (an extension with its parameters will do; a back in memory is put "
            "below) through random bursts, errors, stops, kills and replays, and checks what every "
            "layer promises. For whoever writes an extension.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct test_options),
    .max_args = 64,
    .completes = COMPLETES_EXTENSION,
    .run = run,
};
