/* SPDX-License-Identifier: MIT */
/*
 * tools.h - what the verbs of devtap share: their declaration, options, exit codes,
 * output, tables, and the client's end of the control socket.
 */
#ifndef TOOLS_H
#define TOOLS_H

#include "base/base.h"
#include "core/core.h"

#include <stdio.h>

/* ---- Exit codes: devtap(1), EXIT STATUS; never change one ---------------------------------- */

enum exit_status {
    STATUS_DONE = 0,
    STATUS_FAILED = 1,
    STATUS_USAGE = 2,
    STATUS_NOT_FOUND = 3,
    STATUS_IN_USE = 4,
    STATUS_DENIED = 5,
    STATUS_FAULT = 6,
};
/** exit_status_of() - the exit status for a negative errno. */
enum exit_status exit_status_of(int error);

/* ---- Options (options.c) ------------------------------------------------------------------- */

/*
 * Options are declared as parameters of extensions are, so their types, units, bounds, defaults and
 * errors are the same. A DT_PARAM_BOOL is a flag: `--json` means on, and `--json=off` is possible.
 */
#define OPTIONS_MAX_GROUPS 3u

/**
 * struct option_group - options that are described together and stored in one struct.
 * @title: for the help.
 * @options: ends with a NULL name.
 */
struct option_group {
    const char *title;
    const struct dt_param *options;
};

/** struct option - one piece of a command line, as options_next() found it. */
struct option {
    unsigned group;
    const struct dt_param *param; /* NULL: an argument */
    const char *value;
};

/** struct option_scan - where options_next() is. Set @argv (NULL-terminated) and @groups. */
struct option_scan {
    char **argv;
    const struct option_group *groups; /* ends with a NULL title */
    bool only_arguments;               /* after "--" */
};
/** options_next() - 1 and @option filled, 0 at the end, -EINVAL with @err. */
int options_next(struct option_scan *scan, struct option *option, struct dt_error *err);
/** options_defaults() - set every option of a table to its default; a table may be NULL. */
void options_defaults(const struct dt_param *options, void *base);
/** options_apply() - parse @value into @base; the error names the option as it is written. */
int options_apply(const struct dt_param *option, void *base, const char *value,
                  struct dt_error *err);

/**
 * options_parse() - the usual command line: options of one table and arguments in any order.
 * @argv: NULL-terminated; on return the arguments alone.
 */
int options_parse(const struct option_group *groups, void *base, char **argv, struct dt_error *err);

/* ---- Verbs (devtap.c) ---------------------------------------------------------------------- */

/** enum completes - what the shell may complete a verb's first argument with. */
enum completes { COMPLETES_NOTHING, COMPLETES_DEVICE, COMPLETES_EXTENSION, COMPLETES_FILE };

/**
 * struct verb - one verb. Its help, completions and usage errors come from here.
 * @args:    arguments for the usage line: "DEVICE LAYER PARAMETER=VALUE..."
 * @summary: one line for `devtap --help`.
 * @help:    what follows the usage line in `devtap VERB --help`.
 * @options: size @options_size, groups ended by a NULL title; the first is what run() gets.
 * @min_args, @max_args: of arguments.
 * @run:     Return: an exit status.
 * @run_raw: instead: parses the command line itself (after --help was looked for).
 */
struct verb {
    const char *name;
    const char *args;
    const char *summary;
    const char *help;
    struct option_group groups[OPTIONS_MAX_GROUPS + 1];
    size_t options_size;
    unsigned min_args, max_args;
    enum completes completes;
    int (*run)(const struct verb *verb, void *options, int argc, char **argv);
    int (*run_raw)(const struct verb *verb, char **argv);
};
/* All verbs, in the order of the help; one line each. */
#define VERBS(X)       \
    X(verb_run)        \
    X(verb_list)       \
    X(verb_show)       \
    X(verb_stats)      \
    X(verb_map)        \
    X(verb_set)        \
    X(verb_do)         \
    X(verb_resize)     \
    X(verb_mode)       \
    X(verb_insert)     \
    X(verb_remove)     \
    X(verb_move)       \
    X(verb_replace)    \
    X(verb_change)     \
    X(verb_move_back)  \
    X(verb_shadow)     \
    X(verb_quiesce)    \
    X(verb_switch)     \
    X(verb_attach)     \
    X(verb_detach)     \
    X(verb_events)     \
    X(verb_upgrade)    \
    X(verb_extensions) \
    X(verb_help)       \
    X(verb_trace)      \
    X(verb_cache)      \
    X(verb_cow)        \
    X(verb_compress)   \
    X(verb_integrity)  \
    X(verb_bench)      \
    X(verb_test)

#define DECLARE_VERB(name) extern const struct verb name;
VERBS(DECLARE_VERB)
DECLARE_VERB(verb_vhost_user_blk) /* by another name of the program */
/** verb_table(), verb_find() - the table of all verbs, ended by NULL, and one by name. */
const struct verb *const *verb_table(void);
const struct verb *verb_find(const char *name);
/** verb_fail() - print "devtap VERB: text" to stderr; returns the exit status for @error. */
int verb_fail(const struct verb *verb, int error, const struct dt_error *err);
/** verb_print_help() - what --help says. */
void verb_print_help(const struct verb *verb, FILE *out);

/* For verbs whose only option is --json. */
struct json_options {
    bool json;
};
extern const struct dt_param json_only[];
/** verb_checks() - the first word of verbs about files. Return: 1: `check`; 0: `info`; an error. */
int verb_checks(const char *word, struct dt_error *err);

/* ---- Output (output.c) --------------------------------------------------------------------- */

/* Numbers for people, three significant digits; the text is in a ring of static buffers. */
const char *human_count(double n);   /* 999, 12.3k, 4.56M */
const char *human_ns(uint64_t ns);   /* 950ns, 12.3us, 4.56ms, 1.23s */
const char *human_bytes(uint64_t n); /* 512, 4.0K, 20.0G */

/** print_json() - indented, and releases @json; false if stdout failed. */
void print_json(json_t *json);
/** print_json_to() - the same, to @out. */
void print_json_to(FILE *out, json_t *json);
/** print_json_line() - on one line, and releases @json. */
void print_json_line(json_t *json);
/**
 * print_wrapped() - words of @text in lines of at most 80 columns, each behind @indent spaces. After
 * an empty line, a line that begins with a space is an example and stays as it is.
 */
void print_wrapped(FILE *out, unsigned indent, const char *text);
/** output_finish() - flush stdout; @status, or STATUS_FAILED with a message when writing failed. */
int output_finish(int status);

/* ---- Tables (table.c) ---------------------------------------------------------------------- */

#define TABLE_MAX_COLUMNS 16u
/**
 * table_new() - an aligned table.
 * @columns: titles separated by spaces; one that begins with '>' is aligned to the right.
 */
struct table *table_new(const char *columns);
void table_free(struct table *table);
void table_clear(struct table *table);
/** table_cell() - the next cell, row after row. */
void table_cell(struct table *table, const char *fmt, ...) DT_PRINTF(2, 3);
/** table_print() - Return: lines written. */
unsigned table_print(const struct table *table, FILE *out);
/** table_redraw() - over the one that was drawn before, @lines above the cursor. */
void table_redraw(const struct table *table, FILE *out, unsigned *lines);

/* ---- The control socket, client's end (client.c) ------------------------------------------- */

#define CONTROL_MAX_REQUEST (64u << 10)
#define CONTROL_MAX_REPLY   (16u << 20)
#define CONTROL_MAX_DEPTH   8u

/** runtime_dir() - where control sockets are; owned by the caller. */
char *runtime_dir(void);

struct client;
/**
 * client_find() - connect to the process that serves @device: "vm1" or "4711/vm1".
 * Return: 0, -ENODEV when there is none, -ENOTUNIQ when there are several.
 */
int client_find(struct client **client, const char *device, struct dt_error *err);
/** client_adopt() - speak over @sock, which stays the caller's, as @name, for errors. */
struct client *client_adopt(int sock, const char *name, unsigned seconds);
void client_free(struct client *client);
/** client_device() - the device's name, without a process id. */
const char *client_device(const struct client *client);
/** client_path() - the control socket. */
const char *client_path(const struct client *client);
/**
 * client_call() - send @request (a reference is taken over) and wait for the reply.
 * @result: a new reference; NULL if not wanted.
 * Return: 0, or a negative errno that exit_status_of() maps to the status in the reply.
 */
int client_call(struct client *client, json_t *request, json_t **result, struct dt_error *err);
/** client_reply() - wait for the reply to a request that was sent before, otherwise as client_call(). */
int client_reply(struct client *client, json_t **result, struct dt_error *err);
/**
 * client_outcome() - wait for an event after number @after: @done, or @refused, which becomes the error's text.
 * @device: that it is to be of; NULL = any.
 */
int client_outcome(struct client *client, json_int_t after, const char *device, const char *done,
                   const char *refused, struct dt_error *err);

/** struct change_options - of devtap change; zero but for @patience. */
struct change_options {
    bool dry_run, force, json;
    uint64_t patience;
};
#define CHANGE_PATIENCE DT_S(5)
/** chain_change() - @steps (an array of texts; a reference is taken over) on the chain of the client's disk;
 *  returns when they are in effect, by a successor too. @result: new reference, or NULL where it failed. */
int chain_change(struct client *client, json_t *steps, const struct change_options *o,
                 json_t **result, struct dt_error *err);
/** client_show() - what `show` tells; new reference. client_do() - a command of @layer; @result may be NULL. */
int client_show(struct client *client, json_t **show, struct dt_error *err);
int client_do(struct client *client, const char *layer, const char *command, const char *arg,
              json_t **result, struct dt_error *err);
int client_set(struct client *client, const char *layer, const char *param, const char *value,
               struct dt_error *err);

/** client_map_piece() - device_map() of the client's disk: as much of it as comes at once; new reference. */
int client_map_piece(struct client *client, uint64_t start, uint64_t length, json_t **piece,
                     struct dt_error *err);
/** client_map() - all of it, {"size","extents"}; new reference. */
int client_map(struct client *client, uint64_t start, uint64_t length, json_t **map,
               struct dt_error *err);

/* ---- A second chain beside a disk's (twin.c) ------------------------------------------------ */

/**
 * struct twin_client - the layer `copy` or `shadow` of a running disk, as its verb sees it.
 * @kind: the extension's name. @name: the layer's, once found. @to: its chain, within twin_adopt().
 */
struct twin_client {
    struct client *client;
    const char *kind;
    char name[LAYER_NAME], *to;
};
/** twin_find() - 1 and @name set, 0 if the disk has none, -errno. */
int twin_find(struct twin_client *tc, struct dt_error *err);
/** twin_insert() - @to with the parameters in @more (NULL-terminated pairs); if the second chain cannot be
 *  opened, it is taken out again. */
int twin_insert(struct twin_client *tc, const char *position, const char *to,
                const char *const *more, struct dt_error *err);
int twin_remove(struct twin_client *tc, json_t **result, struct dt_error *err);
/** twin_status() - also while a worker is being replaced; -ENODEV: the layer is gone. */
int twin_status(struct twin_client *tc, json_t **status, struct dt_error *err);
int twin_configure(struct twin_client *tc, const char *param, const char *value,
                   struct dt_error *err);
/** twin_adopt() - wait until the second chain holds all, @patience ns at most (0 = for ever), and put it in place. */
int twin_adopt(struct twin_client *tc, bool force, bool progress, uint64_t patience,
               json_t **result, struct dt_error *err);
/** move_back() - copy the disk to @chain, or @compare whether it is there, and serve it from there. */
int move_back(struct client *client, const char *chain, bool compare, json_t **result,
              struct dt_error *err);

/** client_each() - call @fn for every process in the runtime directory; cleans up stale sockets. */
int client_each(int (*fn)(struct client *client, void *arg), void *arg, struct dt_error *err);

#endif
