/* SPDX-License-Identifier: MIT */
/* cmd-help.c - devtap help: an extension explained from its declaration, or a verb. */
#include "tools/describe.h"

static void print_verbs(bool json)
{
    if (json) {
        json_t *list = json_array();

        for (const struct verb *const *v = verb_table(); *v; v++)
            json_array_append_new(list, describe_verb_json(*v));
        print_json(list);
        return;
    }
    puts("usage: devtap VERB [OPTION...] [ARGUMENT...]\n");
    for (const struct verb *const *v = verb_table(); *v; v++)
        printf("  %-11s %s\n", (*v)->name, (*v)->summary);
    puts("\n`devtap help NAME` explains one, or an extension (`devtap extensions` lists them).");
}

static int run(const struct verb *verb, void *options, int argc, char **argv)
{
    const struct json_options *o = options;
    const struct dt_block_ext *ext;
    const struct verb *other;
    struct dt_error err;

    if (argc == 0) {
        print_verbs(o->json);
        return STATUS_DONE;
    }
    other = verb_find(argv[0]);
    ext = registry_find(argv[0], &err);
    if (!ext && !other)
        return verb_fail(verb, -ENOENT, &err);
    if (ext && o->json)
        print_json(describe_json(ext));
    else if (ext)
        describe_print(ext, stdout);
    else if (o->json)
        print_json(describe_verb_json(other));
    else
        verb_print_help(other, stdout);
    if (ext && other && !o->json) /* `trace` is both */
        printf("\n`devtap %s --help` explains the command of the same name.\n", argv[0]);
    return STATUS_DONE;
}

const struct verb verb_help = {
    .name = "help",
    .args = "[--json] [NAME]",
    .summary = "explain an extension, a back or a verb",
    .groups = {{"Options", json_only}},
    .options_size = sizeof(struct json_options),
    .max_args = 1,
    .completes = COMPLETES_EXTENSION,
    .run = run,
};
