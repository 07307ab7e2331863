/* SPDX-License-Identifier: MIT */
/* cmd-list.c - devtap list: the soft disks that run on this machine. */
#include "tools/tools.h"

static int add_disks(struct client *client, void *arg)
{
    json_t *all = arg, *list = NULL;
    struct dt_error err;

    if (client_call(client, json_pack("{ss}", "verb", "list"), &list, &err) == 0) {
        json_array_extend(all, list);
        json_decref(list);
    }
    return 0;
}

static char *chain_text(json_t *chain)
{
    char *text = xstrdup("");
    json_t *layer;
    size_t i;

    json_array_foreach(chain, i, layer)
    {
        char *longer = xasprintf("%s%s%s", text, i ? " | " : "", json_string_value(layer) ?: "?");

        free(text);
        text = longer;
    }
    return text;
}

/* A network card has none. */
static const char *size_text(json_t *bytes)
{
    return bytes ? human_bytes((uint64_t)json_integer_value(bytes)) : "-";
}

static void print_list(json_t *all)
{
    struct table *table = table_new("NAME >PID >SIZE VM CHAIN");
    json_t *disk;
    size_t i;

    json_array_foreach(all, i, disk)
    {
        _cleanup_free_ char *chain = chain_text(json_object_get(disk, "chain"));

        table_cell(table, "%s", json_string_value(json_object_get(disk, "name")) ?: "?");
        table_cell(table, "%lld", (long long)json_integer_value(json_object_get(disk, "pid")));
        table_cell(table, "%s", size_text(json_object_get(disk, "bytes")));
        table_cell(table, "%s", json_is_true(json_object_get(disk, "attached")) ? "attached" : "-");
        table_cell(table, "%s", chain);
    }
    table_print(table, stdout);
    table_free(table);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    json_t *all = json_array();
    struct dt_error err;
    int ret = client_each(add_disks, all, &err);

    if (ret == -EACCES) {
        fprintf(stderr, "devtap list: %s\n", err.text); /* and show what can be seen */
        ret = 0;
    }
    if (ret < 0) {
        json_decref(all);
        return verb_fail(verb, ret, &err);
    }
    if (o->json) {
        print_json(all);
        return STATUS_DONE;
    }
    print_list(all);
    json_decref(all);
    return STATUS_DONE;
}

const struct verb verb_list = {
    .name = "list",
    .args = "[--json]",
    .summary = "list the soft disks and network cards that run on this machine",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .run = run,
};
