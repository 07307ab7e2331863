/* SPDX-License-Identifier: MIT */
/* cmd-help.c - devtap help: an extension explained from its declaration, or a verb. */
#include "blk/channel/placed.h"
#include "tools/describe.h"

struct help_options {
    bool json, net;
};
static const struct dt_param options[] = {
    {"net", DT_PARAM_BOOL, .offset = offsetof(struct help_options, net),
     .help = "Explain the layer of network cards, where one of disks has the same name."},
    {"json", DT_PARAM_BOOL, .offset = offsetof(struct help_options, json), .help = "Print JSON."},
    {NULL},
};

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

/* What every extension takes that runs in a process of its own. */
static void print_placement(void)
{
    puts("place=process runs an extension in a process of its own:\n"
         "  devtap run --disk vm1 --socket vm1.sock 'trace out=t place=process | file "
         "path=vm1.img'\n"
         "So does a program in any language, named by its path or as process cmd='PROGRAM "
         "ARG...'.\n");
    print_wrapped(
        stdout, 0,
        "A process that dies, hangs or breaks its bounds is replaced, and every request that "
        "it had not answered is sent again: the guest waits, and notices nothing else.");
    describe_print_params(placed_params, stdout);
}

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    const struct help_options *o = opts;
    const struct dt_block_ext *ext, *net;
    const struct verb *other;
    struct dt_error err;

    if (argc == 0) {
        print_verbs(o->json);
        return STATUS_DONE;
    }
    if (strcmp(argv[0], "placement") == 0) {
        print_placement();
        return STATUS_DONE;
    }
    other = verb_find(argv[0]);
    net = registry_find_kind(DEVICE_NET, argv[0], NULL);
    ext = registry_find(argv[0], &err);
    if (net && (o->net || !ext))
        ext = net;
    else if (net && !o->json) /* `null` is both */
        printf("`devtap help --net %s` explains that of network cards.\n\n", argv[0]);
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
    .args = "[--net] [--json] [NAME]",
    .summary = "explain an extension, a back or a verb",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct help_options),
    .max_args = 1,
    .completes = COMPLETES_EXTENSION,
    .run = run,
};
