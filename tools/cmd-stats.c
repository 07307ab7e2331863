/* SPDX-License-Identifier: MIT */
/*
 * cmd-stats.c - devtap stats: what each layer did, as totals or as live rates.
 *
 * A rate is the difference of two answers over the difference of their times, so it is right
 * whatever the answers' own delays.
 */
#include "tools/tools.h"

#include <inttypes.h>
#include <time.h>

struct stats_options {
    bool live, json;
    uint64_t interval, count;
};

static const struct dt_param options[] = {
    {"live", DT_PARAM_BOOL, .offset = offsetof(struct stats_options, live),
     .help = "Print rates instead of totals, until interrupted."},
    {"interval", DT_PARAM_DURATION, .offset = offsetof(struct stats_options, interval),
     .initial = "1s", .min = DT_MS(50), .max = DT_S(86400),
     .help = "Time between two tables with --live."},
    {"count", DT_PARAM_UINT, .offset = offsetof(struct stats_options, count), .initial = "0",
     .help = "With --live: end after so many tables; 0 is never."},
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct stats_options, json),
     .help = "Print JSON; with --live, an object on a line each time."},
    {NULL},
};

static int64_t number(json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* Latencies are kept for reads, writes and all others. */
static json_t *latency_of(json_t *layer, const char *op)
{
    json_t *latency = json_object_get(layer, "latency");
    json_t *own = json_object_get(latency, op);
    bool data = strcmp(op, "read") == 0 || strcmp(op, "write") == 0;

    return own || data ? own : json_object_get(latency, "other");
}

static void add_latency(struct table *table, json_t *latency)
{
    static const char *const which[] = {"p50", "p99"};

    for (unsigned i = 0; i < ARRAY_SIZE(which); i++)
        if (latency)
            table_cell(table, "%s", human_ns((uint64_t)number(latency, which[i])));
        else
            table_cell(table, "-");
}

/* A layer that no request has reached yet. */
static void add_idle(struct table *table, const char *name)
{
    table_cell(table, "%s", name ?: "?");
    for (unsigned i = 0; i < 6; i++)
        table_cell(table, "-");
}

/* ---- Totals -------------------------------------------------------------------------------- */

static void add_totals(struct table *table, json_t *layer)
{
    const char *name = json_string_value(json_object_get(layer, "name")), *op;
    bool any = false;
    json_t *counts;

    json_object_foreach(json_object_get(layer, "ops"), op, counts)
    {
        if (number(counts, "requests") == 0)
            continue;
        any = true;
        table_cell(table, "%s", name ?: "?");
        table_cell(table, "%s", op);
        table_cell(table, "%" PRId64, number(counts, "requests"));
        table_cell(table, "%s", human_bytes((uint64_t)number(counts, "bytes")));
        table_cell(table, "%" PRId64, number(counts, "errors"));
        add_latency(table, latency_of(layer, op));
    }
    if (!any)
        add_idle(table, name);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A counter tells its unit by the end of its name, which a person need not see. */
static void print_counter(const char *layer, const char *name, uint64_t value)
{
    int n = (int)strlen(name);

    if (ends_with(name, "-ns"))
        printf("%s: %.*s: %s\n", layer, n - 3, name, human_ns(value));
    else if (ends_with(name, "-bytes"))
        printf("%s: %.*s: %s\n", layer, n - 6, name, human_bytes(value));
    else
        printf("%s: %s: %" PRIu64 "\n", layer, name, value);
}

static void print_counters(json_t *stats)
{
    json_t *layer, *value;
    const char *key;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i, layer)
        json_object_foreach(json_object_get(layer, "counters"), key, value)
            print_counter(json_string_value(json_object_get(layer, "name")) ?: "?", key,
                          (uint64_t)json_integer_value(value));
}

static void print_totals(json_t *stats)
{
    struct table *table = table_new("LAYER OP >REQUESTS >BYTES >ERRORS >P50 >P99");
    json_t *layer;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i, layer) add_totals(table, layer);
    table_print(table, stdout);
    table_free(table);
    print_counters(stats);
}

/* ---- Rates --------------------------------------------------------------------------------- */

/* Samples of one bucket in an earlier answer. */
static int64_t samples_before(json_t *before, json_int_t top)
{
    json_t *bucket;
    size_t i;

    json_array_foreach(json_object_get(before, "buckets"), i,
                       bucket) if (json_integer_value(json_array_get(bucket, 0)) ==
                                   top) return json_integer_value(json_array_get(bucket, 1));
    return 0;
}

static int64_t samples_since(json_t *bucket, json_t *before)
{
    json_int_t top = json_integer_value(json_array_get(bucket, 0));

    return json_integer_value(json_array_get(bucket, 1)) - samples_before(before, top);
}

/* The percentile of what was sampled between two answers; 0 if nothing was. */
static uint64_t percentile_since(json_t *now, json_t *before, unsigned percent)
{
    int64_t rank = (number(now, "samples") - number(before, "samples")) * percent / 100, seen = 0;
    json_t *bucket;
    size_t i;

    json_array_foreach(json_object_get(now, "buckets"), i, bucket)
    {
        seen += samples_since(bucket, before);
        if (seen > rank)
            return (uint64_t)json_integer_value(json_array_get(bucket, 0));
    }
    return 0;
}

static void add_latency_since(struct table *table, json_t *now, json_t *before)
{
    static const unsigned percents[] = {50, 99};

    for (unsigned i = 0; i < ARRAY_SIZE(percents); i++) {
        uint64_t ns = percentile_since(now, before, percents[i]);

        table_cell(table, "%s", ns ? human_ns(ns) : "-");
    }
}

static void add_rates(struct table *table, json_t *now, json_t *before, double seconds)
{
    const char *name = json_string_value(json_object_get(now, "name")), *op;
    bool any = false;
    json_t *counts;

    json_object_foreach(json_object_get(now, "ops"), op, counts)
    {
        json_t *old = json_object_get(json_object_get(before, "ops"), op);
        double iops = (double)(number(counts, "requests") - number(old, "requests")) / seconds;
        double bytes = (double)(number(counts, "bytes") - number(old, "bytes")) / seconds;

        if (number(counts, "requests") == 0)
            continue;
        any = true;
        table_cell(table, "%s", name ?: "?");
        table_cell(table, "%s", op);
        table_cell(table, "%s", human_count(iops));
        table_cell(table, "%.1f", bytes / 1e6);
        table_cell(table, "%" PRId64, number(counts, "errors") - number(old, "errors"));
        add_latency_since(table, latency_of(now, op), latency_of(before, op));
    }
    if (!any)
        add_idle(table, name);
}

static json_t *layer_named(json_t *stats, const char *name)
{
    json_t *layer;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i, layer)
    {
        const char *own = json_string_value(json_object_get(layer, "name"));

        if (own && name && strcmp(own, name) == 0)
            return layer;
    }
    return NULL;
}

static void show_rates(json_t *now, json_t *before, bool tty, unsigned *lines)
{
    struct table *table = table_new("LAYER OP >IOPS >MB/s >ERRORS >P50 >P99");
    double seconds = (double)MAX(number(now, "time") - number(before, "time"), 1) / 1e9;
    json_t *layer;
    size_t i;

    json_array_foreach(json_object_get(now, "layers"), i, layer)
    {
        const char *name = json_string_value(json_object_get(layer, "name"));

        add_rates(table, layer, layer_named(before, name), seconds);
    }
    if (tty)
        table_redraw(table, stdout, lines);
    else {
        table_print(table, stdout);
        putchar('\n');
        fflush(stdout);
    }
    table_free(table);
}

/* ---- The verb ------------------------------------------------------------------------------ */

static int ask(struct client *client, json_t **stats, struct dt_error *err)
{
    return client_call(
        client, json_pack("{ss ss}", "verb", "stats", "device", client_device(client)), stats, err);
}

static void pause_for(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / DT_S(1)), .tv_nsec = (long)(ns % DT_S(1))};

    nanosleep(&t, NULL);
}

static int run_live(struct client *client, const struct stats_options *o, struct dt_error *err)
{
    json_t *before = NULL, *now = NULL;
    bool tty = isatty(STDOUT_FILENO);
    unsigned lines = 0;
    int ret = ask(client, &before, err);

    for (uint64_t n = 0; ret == 0 && (o->count == 0 || n < o->count) && !ferror(stdout); n++) {
        pause_for(o->interval);
        ret = ask(client, &now, err);
        if (ret < 0)
            break;
        if (o->json)
            print_json_line(json_incref(now));
        else
            show_rates(now, before, tty, &lines);
        json_decref(before);
        before = now;
    }
    json_decref(before);
    return ret;
}

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    const struct stats_options *o = opts;
    struct client *client = NULL;
    struct dt_error err;
    json_t *stats = NULL;
    int ret = client_find(&client, argv[0], &err);

    if (ret == 0 && o->live)
        ret = run_live(client, o, &err);
    else if (ret == 0)
        ret = ask(client, &stats, &err);
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    if (stats && o->json)
        print_json(stats);
    else if (stats) {
        print_totals(stats);
        json_decref(stats);
    }
    return STATUS_DONE;
}

const struct verb verb_stats = {
    .name = "stats",
    .args = "[OPTION...] DEVICE",
    .summary = "show requests, bytes and latencies of each layer",
    .help = "Prints what each layer of a disk did, from the guest down. Latencies are seen from "
            "above the layer, so the difference of two rows is what the layer between costs.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct stats_options),
    .min_args = 1,
    .max_args = 1,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
