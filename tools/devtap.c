/* SPDX-License-Identifier: MIT */
/*
 * devtap.c - the table of verbs. A verb declares its arguments and options once; usage errors,
 * --help and the shell's completions come from that declaration.
 */
#include "tools/run/run.h"

#include "blk/blk.h"
#include "blk/channel/placed.h"
#include "net/net.h"
#include <ctype.h>

#define ENTRY(name) &name,
static const struct verb *const verbs[] = {VERBS(ENTRY) NULL};

const struct verb *const *verb_table(void)
{
    return verbs;
}

const struct verb *verb_find(const char *name)
{
    for (unsigned i = 0; verbs[i]; i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

/* ---- Help ---------------------------------------------------------------------------------- */

static void print_option(FILE *out, const struct dt_param *p)
{
    char left[80];

    if (p->type == DT_PARAM_BOOL)
        snprintf(left, sizeof(left), "--%s", p->name);
    else if (p->type == DT_PARAM_ENUM) {
        size_t at = (size_t)snprintf(left, sizeof(left), "--%s ", p->name);

        for (unsigned i = 0; p->choices[i] && at < sizeof(left); i++)
            at +=
                (size_t)snprintf(left + at, sizeof(left) - at, "%s%s", i ? "|" : "", p->choices[i]);
    } else
        snprintf(left, sizeof(left), "--%s <%s>", p->name, p->unit ?: param_type_name(p));
    fprintf(out, "  %s\n", left);
    if (p->initial && p->type != DT_PARAM_BOOL) {
        _cleanup_free_ char *text = xasprintf("%s Default: %s.", p->help, p->initial);

        print_wrapped(out, 6, text);
    } else
        print_wrapped(out, 6, p->help);
}

void verb_print_help(const struct verb *verb, FILE *out)
{
    fprintf(out, "usage: devtap %s%s%s\n\n", verb->name, *verb->args ? " " : "", verb->args);
    if (verb->help)
        print_wrapped(out, 0, verb->help);
    else
        fprintf(out, "%c%s.\n", toupper((unsigned char)*verb->summary), verb->summary + 1);
    for (const struct option_group *g = verb->groups; g->title; g++) {
        if (!g->options->name)
            continue;
        fprintf(out, "\n%s:\n", g->title);
        for (const struct dt_param *p = g->options; p->name; p++)
            print_option(out, p);
    }
    fprintf(out, "\nThe manual: man devtap-%s\n", verb->name);
}

static void print_usage(FILE *out)
{
    fputs("usage: devtap VERB [OPTION...] [ARGUMENT...]\n\n", out);
    for (unsigned i = 0; verbs[i]; i++)
        fprintf(out, "  %-11s %s\n", verbs[i]->name, verbs[i]->summary);
    fputs("\n`devtap VERB --help` explains one. The manual: man devtap\n", out);
}

/* For completions/devtap: "VERB KIND --option..." per line. */
static void print_completion_data(void)
{
    static const char *const kinds[] = {"-", "device", "extension", "file"};

    for (unsigned i = 0; verbs[i]; i++) {
        printf("%s %s --help", verbs[i]->name, kinds[verbs[i]->completes]);
        for (const struct option_group *g = verbs[i]->groups; g->title; g++)
            for (const struct dt_param *p = g->options; p->name; p++)
                printf(" --%s%s", p->name, p->type == DT_PARAM_BOOL ? "" : "=");
        putchar('\n');
    }
}

/* ---- Running one --------------------------------------------------------------------------- */

static bool wants_help(char **argv)
{
    for (; *argv && strcmp(*argv, "--") != 0; argv++)
        if (strcmp(*argv, "--help") == 0)
            return true;
    return false;
}

static int run_parsed(const struct verb *verb, char **argv)
{
    _cleanup_free_ void *options = xcalloc(1, MAX(verb->options_size, (size_t)1));
    struct dt_error err;
    unsigned argc = 0;
    int ret = options_parse(verb->groups, options, argv, &err);

    while (argv[argc])
        argc++;
    if (ret == 0 && (argc < verb->min_args || argc > verb->max_args))
        ret = dt_fail(&err, -EINVAL, "usage: devtap %s %s", verb->name, verb->args);
    if (ret < 0)
        ret = verb_fail(verb, ret, &err);
    else
        ret = verb->run(verb, options, (int)argc, argv);
    param_free_all(verb->groups[0].options, options);
    return ret;
}

static int run_verb(const struct verb *verb, char **argv)
{
    if (wants_help(argv)) {
        verb_print_help(verb, stdout);
        return STATUS_DONE;
    }
    return verb->run_raw ? verb->run_raw(verb, argv) : run_parsed(verb, argv);
}

static int unknown_verb(const char *name)
{
    struct nearest nearest = {.wanted = name};
    struct dt_error err;

    for (unsigned i = 0; verbs[i]; i++)
        nearest_offer(&nearest, verbs[i]->name);
    dt_fail(&err, -EINVAL, "no verb is named '%.40s'", name);
    nearest_hint(&nearest, &err);
    fprintf(stderr, "devtap: %s%s\n", err.text, nearest.best ? "" : " (see devtap --help)");
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    const struct verb *verb;

    blk_register_builtin();
    net_register_builtin();
    /* The process of an extension: not for people. */
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return ext_host_main(argv[2]);
    placed_init(NULL);
    /* The name that vhost-user management software calls; see devtap-run(1). */
    if (strcmp(program_invocation_short_name, "devtap-vhost-user-blk") == 0)
        return output_finish(run_verb(&verb_vhost_user_blk, argv + 1));
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argv + 2, NULL);
    if (argc > 1 && strncmp(argv[1], ATTEMPT_WORKER, strlen(ATTEMPT_WORKER)) == 0)
        return attempt_main(argv + 2, argv[1] + strlen(ATTEMPT_WORKER));
    if (argc > 1 && strcmp(argv[1], SPARE_WORKER) == 0)
        return worker_main(argv + 2, argv[1]);
    if (argc > 1 && strcmp(argv[1], "keeper") == 0)
        return keeper_main(argv + 2);
    if (argc < 2) {
        print_usage(stderr);
        return STATUS_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0)
        print_usage(stdout);
    else if (strcmp(argv[1], "--version") == 0)
        puts("devtap " DEVTAP_VERSION);
    else if (strcmp(argv[1], "--completion-data") == 0)
        print_completion_data();
    else if ((verb = verb_find(argv[1])) == NULL)
        return unknown_verb(argv[1]);
    else
        return output_finish(run_verb(verb, argv + 2));
    return output_finish(STATUS_DONE);
}
