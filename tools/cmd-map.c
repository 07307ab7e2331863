/* SPDX-License-Identifier: MIT */
/* cmd-map.c - devtap map: what a running disk holds where. */
#include "tools/tools.h"

#include <inttypes.h>

struct map_options {
    uint64_t start, length;
    bool totals, json;
};

static const struct dt_param options[] = {
    {"start", DT_PARAM_SIZE, .offset = offsetof(struct map_options, start), .initial = "0",
     .max = INT64_MAX, .help = "Where to begin; a multiple of 512."},
    {"length", DT_PARAM_SIZE, .offset = offsetof(struct map_options, length), .initial = "0",
     .max = INT64_MAX, .help = "How much to look at, a multiple of 512; 0 = to the end."},
    {"totals", DT_PARAM_BOOL, .offset = offsetof(struct map_options, totals),
     .help = "Print only how much there is of each kind."},
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct map_options, json), .help = "Print JSON."},
    {NULL},
};

static void print_extents(json_t *map)
{
    struct table *table = table_new(">START >LENGTH STATUS");
    json_t *extent;
    size_t i;

    json_array_foreach(json_object_get(map, "extents"), i, extent)
    {
        table_cell(table, "%" PRId64,
                   (int64_t)json_integer_value(json_object_get(extent, "start")));
        table_cell(table, "%" PRId64,
                   (int64_t)json_integer_value(json_object_get(extent, "length")));
        table_cell(table, "%s", json_string_value(json_object_get(extent, "status")) ?: "?");
    }
    table_print(table, stdout);
    table_free(table);
}

/* {"size": ..., "data": bytes, "zero": bytes, "hole": bytes} */
static json_t *sum_up(json_t *map)
{
    json_t *sums = json_pack("{sO si si si}", "size", json_object_get(map, "size"), "data", 0,
                             "zero", 0, "hole", 0);
    json_t *extent;
    size_t i;

    json_array_foreach(json_object_get(map, "extents"), i, extent)
    {
        const char *status = json_string_value(json_object_get(extent, "status"));
        json_t *sum = json_object_get(sums, status ?: "");

        if (sum)
            json_integer_set(sum, json_integer_value(sum) +
                                      json_integer_value(json_object_get(extent, "length")));
    }
    json_decref(map);
    return sums;
}

static void print_totals(json_t *sums)
{
    static const char *const kinds[] = {"data", "zero", "hole"};
    struct table *table = table_new("STATUS >BYTES >SIZE");

    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        json_int_t bytes = json_integer_value(json_object_get(sums, kinds[i]));

        table_cell(table, "%s", kinds[i]);
        table_cell(table, "%" PRId64, (int64_t)bytes);
        table_cell(table, "%s", human_bytes((uint64_t)bytes));
    }
    table_print(table, stdout);
    table_free(table);
}

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    const struct map_options *o = opts;
    struct client *client = NULL;
    struct dt_error err;
    json_t *map = NULL;
    int ret = client_find(&client, argv[0], &err);

    ret = ret ?: client_map(client, o->start, o->length, &map, &err);
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    if (o->totals)
        map = sum_up(map);
    if (o->json) {
        print_json(map);
        return STATUS_DONE;
    }
    (o->totals ? print_totals : print_extents)(map);
    json_decref(map);
    return STATUS_DONE;
}

const struct verb verb_map = {
    .name = "map",
    .args = "[OPTION...] DEVICE",
    .summary = "show what a running disk holds where: data, zeroes, holes",
    .help = "Lists the extents of a disk while the VM uses it. A hole reads as zeroes and takes no "
            "space, as far as the layers of the chain know; what nobody knows is data.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct map_options),
    .min_args = 1,
    .max_args = 1,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
