/* SPDX-License-Identifier: MIT */
/* cmd-extensions.c - devtap extensions: what can stand in a chain. */
#include "tools/describe.h"

#include <dirent.h>

/* Loads what is installed beside the built-in ones; what does not load is said and left out. */
static void load_directory(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        struct dt_error err;

        if (!dot || strcmp(dot, ".so") != 0)
            continue;
        _cleanup_free_ char *name = strndup(entry->d_name, (size_t)(dot - entry->d_name));
        if (!registry_find(name, &err))
            fprintf(stderr, "devtap extensions: %s\n", err.text);
    }
    if (dir)
        closedir(dir);
}

static void load_all(void)
{
    _cleanup_free_ char *list = registry_directories();
    char *rest = list, *path;

    while ((path = strsep(&rest, ":")) != NULL)
        if (*path)
            load_directory(path);
}

static void print_kind(struct table *table, enum device_kind kind, bool back)
{
    for (const struct dt_block_ext *e = registry_next(NULL); e; e = registry_next(e))
        if (registry_kind(e) == kind && !!(e->flags & DT_BACK) == back) {
            table_cell(table, "%s", e->name);
            table_cell(table, "%s", kind == DEVICE_NET ? "net" : "disk");
            table_cell(table, "%s", back ? "back" : "extension");
            table_cell(table, "%s", e->summary);
        }
}

static void print_json_list(void)
{
    json_t *all = json_array();

    for (const struct dt_block_ext *e = registry_next(NULL); e; e = registry_next(e))
        json_array_append_new(all, describe_json(e));
    print_json(all);
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    struct table *table;

    load_all();
    if (o->json) {
        print_json_list();
        return STATUS_DONE;
    }
    table = table_new("NAME FOR KIND SUMMARY");
    for (enum device_kind kind = DEVICE_DISK; kind <= DEVICE_NET; kind++) {
        print_kind(table, kind, false);
        print_kind(table, kind, true);
    }
    table_print(table, stdout);
    table_free(table);
    return STATUS_DONE;
}

const struct verb verb_extensions = {
    .name = "extensions",
    .args = "[--json]",
    .summary = "list the extensions and backs that exist",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .run = run,
};
