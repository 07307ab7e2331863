/* SPDX-License-Identifier: MIT */
/* cmd-show.c - devtap show: a disk's chain, parameters, and what the guest sees. */
#include "tools/tools.h"

#include <inttypes.h>

static void print_value(json_t *value)
{
    if (json_is_string(value))
        printf("%s", json_string_value(value));
    else {
        _cleanup_free_ char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

        printf("%s", text ?: "?");
    }
}

static void print_layer(json_t *layer)
{
    const char *key;
    json_t *value;

    printf("  %s\n", json_string_value(json_object_get(layer, "name")) ?: "?");
    json_object_foreach(json_object_get(layer, "parameters"), key, value)
    {
        printf("    %s = ", key);
        print_value(value);
        putchar('\n');
    }
}

/* What the JSON calls max_discard is "max discard" to a person, and 0 is no limit. */
static void print_property(const char *key, json_t *value)
{
    bool none = json_is_integer(value) && json_integer_value(value) == 0;

    if (strcmp(key, "bytes") == 0) {
        printf("  size: %s (%" PRId64 " bytes)\n", human_bytes((uint64_t)json_integer_value(value)),
               (int64_t)json_integer_value(value));
        return;
    }
    fputs("  ", stdout);
    for (const char *c = key; *c; c++)
        putchar(*c == '_' ? ' ' : *c);
    fputs(": ", stdout);
    if (json_is_boolean(value))
        fputs(json_is_true(value) ? "yes" : "no", stdout);
    else if (none && (strncmp(key, "max_", 4) == 0 || strncmp(key, "optimal_", 8) == 0))
        fputs("any", stdout);
    else
        print_value(value);
    putchar('\n');
}

static void print_object(const char *title, json_t *object)
{
    const char *key;
    json_t *value;

    if (!json_object_size(object))
        return;
    printf("%s\n", title);
    json_object_foreach(object, key, value) if (!json_is_array(value)) print_property(key, value);
}

static void print_queues(json_t *queues)
{
    static const char *const keys[] = {"size", "in_flight", "taken", "kicks", "calls"};
    struct table *table;
    json_t *queue;
    size_t i;

    if (!json_array_size(queues))
        return;
    table = table_new(">QUEUE STATE RING >SIZE >IN-FLIGHT >REQUESTS >KICKS >CALLS");
    json_array_foreach(queues, i, queue)
    {
        table_cell(table, "%" PRId64, (int64_t)json_integer_value(json_object_get(queue, "queue")));
        table_cell(table, "%s", json_string_value(json_object_get(queue, "state")) ?: "?");
        table_cell(table, "%s",
                   json_is_true(json_object_get(queue, "packed")) ? "packed" : "split");
        for (unsigned k = 0; k < ARRAY_SIZE(keys); k++)
            table_cell(table, "%" PRId64,
                       (int64_t)json_integer_value(json_object_get(queue, keys[k])));
    }
    puts("rings");
    table_print(table, stdout);
    table_free(table);
}

static void print_stuck(json_t *stuck)
{
    struct table *table;
    json_t *request;
    size_t i;

    if (!json_array_size(stuck))
        return;
    table = table_new(">AGE LAYER >QUEUE OPERATION >SECTOR >SECTORS");
    json_array_foreach(stuck, i, request)
    {
        table_cell(table, "%.1f s", json_number_value(json_object_get(request, "age_ms")) / 1e3);
        table_cell(table, "%s", json_string_value(json_object_get(request, "layer")) ?: "?");
        table_cell(table, "%" PRId64,
                   (int64_t)json_integer_value(json_object_get(request, "queue")));
        table_cell(table, "%s", json_string_value(json_object_get(request, "operation")) ?: "?");
        table_cell(table, "%" PRId64,
                   (int64_t)json_integer_value(json_object_get(request, "sector")));
        table_cell(table, "%" PRId64,
                   (int64_t)json_integer_value(json_object_get(request, "sectors")));
    }
    puts("requests under way for more than a second");
    table_print(table, stdout);
    table_free(table);
}

static void print_show(json_t *show)
{
    int64_t threads = json_integer_value(json_object_get(show, "threads"));
    json_t *layer;
    size_t i;

    printf("%s, served by process %" PRId64 " on %" PRId64 " thread%s\n",
           json_string_value(json_object_get(show, "name")) ?: "?",
           (int64_t)json_integer_value(json_object_get(show, "pid")), threads,
           threads == 1 ? "" : "s");
    if (json_object_get(show, "written"))
        printf("written: %s\n", json_string_value(json_object_get(show, "written")) ?: "?");
    if (json_object_get(show, "rear"))
        printf("rear, detached: %s\n", json_string_value(json_object_get(show, "rear")) ?: "?");
    puts("chain, from the guest down");
    json_array_foreach(json_object_get(show, "chain"), i, layer) print_layer(layer);
    print_object("disk, as the guest sees it", json_object_get(show, "disk"));
    print_object("card", json_object_get(show, "card"));
    print_object("front", json_object_get(show, "front"));
    print_queues(json_object_get(json_object_get(show, "front"), "queues"));
    print_stuck(json_object_get(json_object_get(show, "front"), "stuck"));
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct client *client = NULL;
    struct dt_error err;
    json_t *show = NULL;
    int ret = client_find(&client, argv[0], &err);

    if (ret == 0)
        ret = client_call(client,
                          json_pack("{ss ss}", "verb", "show", "device", client_device(client)),
                          &show, &err);
    client_free(client);
    if (ret < 0)
        return verb_fail(verb, ret, &err);
    if (o->json) {
        print_json(show);
        return STATUS_DONE;
    }
    print_show(show);
    json_decref(show);
    return STATUS_DONE;
}

const struct verb verb_show = {
    .name = "show",
    .args = "[--json] DEVICE",
    .summary = "show a device's chain, parameters and the VM that is attached",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .min_args = 1,
    .max_args = 1,
    .completes = COMPLETES_DEVICE,
    .run = run,
};
