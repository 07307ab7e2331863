/* SPDX-License-Identifier: MIT */
/*
 * cvd.c - the disk administrator's program: its command line, and where a command is carried out.
 *
 * A command that only looks opens the pool without its lock, so it works beside the process that
 * serves the disks. One that changes something is sent to that process, with all its words; where there is
 * none, it takes the lock here. Either way it ends with what it did durable.
 */
#include "tools/cvd/cvd.h"

#include "tools/pool/pool.h"

#define ANSWER_MS 60000

/* ---- Progress ---- */

static bool drawn;

static bool is_due(void)
{
    static uint64_t last;
    uint64_t now = dt_clock_ns();

    if (!isatty(STDERR_FILENO) || now - last < DT_MS(200))
        return false;
    last = now;
    drawn = true;
    return true;
}

void progress(const char *what, uint64_t done, uint64_t total)
{
    if (total && is_due())
        fprintf(stderr, "\r%s: %llu %%", what, (unsigned long long)(done * 100 / total));
}

void progress_amount(const char *what, uint64_t bytes)
{
    if (is_due())
        fprintf(stderr, "\r%s: %s\033[K", what, human_bytes(bytes));
}

void progress_end(void)
{
    if (drawn)
        fputs("\r\033[K", stderr);
    drawn = false;
}

/* ---- Running one ---- */

static void print_other_name(void *out, const char *words, const struct command *c)
{
    fprintf(out, "\n  %-14s = %s", words, c->name);
}

static void print_usage(FILE *out)
{
    fputs("usage: cvd COMMAND ARGUMENT... [OPTION...]\n\n", out);
    for (const struct command *c = cvd_commands; c->name; c++)
        if (c->summary)
            fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fputs("\nOther names:", out);
    aliases_each(print_other_name, out);
    fputs(
        "\n\nPOOL is the path of a pool. `cvd COMMAND --help` explains one. The manual: man cvd\n",
        out);
}

static void print_completion(const char *words, const struct command *c)
{
    printf("%s:--help", words);
    for (const char *const *o = c->options; *o; o++)
        printf(" --%s", *o);
    putchar('\n');
}

/* Other names of two words would be taken for those of the first. */
static void print_alias(void *arg, const char *words, const struct command *c)
{
    if (!strchr(words, ' '))
        print_completion(words, c);
}

static void print_completion_data(void)
{
    for (const struct command *c = cvd_commands; c->name; c++)
        if (c->summary)
            print_completion(c->name, c);
    aliases_each(print_alias, NULL);
}

/* As it was written, before the options are taken out of it. */
static json_t *words_of(const struct command *c, char **argv)
{
    json_t *words = json_array();
    const char *space = strchr(c->name, ' ');

    json_array_append_new(words, space ? json_stringn(c->name, (size_t)(space - c->name))
                                       : json_string(c->name));
    if (space)
        json_array_append_new(words, json_string(space + 1));
    for (; *argv; argv++)
        json_array_append_new(words, json_string(*argv));
    return words;
}

static int run_elsewhere(const struct target *t, json_t *words, struct dt_error *err)
{
    json_t *result = NULL;
    int ret =
        cvd_ask(t->sock, json_pack("{ss ss sO}", "verb", "run", "pool", t->path, "words", words),
                ANSWER_MS, &result, err);

    if (ret == 0)
        fputs(json_string_value(json_object_get(result, "output")) ?: "", t->out);
    json_decref(result);
    return ret;
}

static int run(const struct command *c, char **argv)
{
    struct cvd_options o = {0};
    struct target t = {.out = stdout};
    struct dt_error err = {""};
    json_t *words = words_of(c, argv);
    int argc, ret = command_parse(c, &o, argv, &argc, &err);

    if (ret == 0) {
        ret = target_open(&t, c, argv[0], &err);
        if (ret == 0 && t.sock > 0 && (c->needs == NEEDS_CHANGE || c->needs == NEEDS_SERVED))
            ret = run_elsewhere(&t, words, &err);
        else if (ret == 0)
            ret = command_run(c, &t, &o, argc, argv, &err);
        progress_end();
        ret = target_close(&t, ret, &err);
    }
    json_decref(words);
    command_free(&o);
    if (ret < 0)
        fprintf(stderr, "cvd %s: %s\n", c->name, err.text);
    return ret < 0 ? (int)exit_status_of(ret) : ret;
}

/* There is no such command. */
static int refuse(char **argv)
{
    bool pool = strcmp(argv[0], "pool") == 0;

    if (pool && !argv[1])
        fputs("cvd pool: what about it? create, open, info, check ... (see cvd --help)\n", stderr);
    else
        fprintf(stderr, "cvd: no command is named '%.40s%s%.40s' (see cvd --help)\n", argv[0],
                pool ? " " : "", pool ? argv[1] : "");
    return STATUS_USAGE;
}

int main(int argc, char **argv)
{
    const struct command *c;

    if (argc < 2) {
        print_usage(stderr);
        return STATUS_USAGE;
    }
    log_set_level(DT_LOG_WARNING);
    if (strcmp(argv[1], "--help") == 0) {
        print_usage(stdout);
        return output_finish(STATUS_DONE);
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("cvd " DEVTAP_VERSION);
        return output_finish(STATUS_DONE);
    }
    if (strcmp(argv[1], "--completion-data") == 0) {
        print_completion_data();
        return output_finish(STATUS_DONE);
    }
    argv++;
    if (strcmp(argv[0], "pool-worker") == 0)
        return pool_worker_main(argv + 1);
    if (command_refusal(argv)) {
        fprintf(stderr, "cvd %s: %s\n", argv[0], command_refusal(argv));
        return STATUS_USAGE;
    }
    c = command_find(&argv);
    if (!c)
        return refuse(argv);
    for (char **a = argv; *a; a++)
        if (strcmp(*a, "--help") == 0) {
            command_help(c);
            return output_finish(STATUS_DONE);
        }
    return output_finish(run(c, argv));
}
