/* SPDX-License-Identifier: MIT */
/*
 * cvd.c - the disk administrator's program: the table of its commands, and how one is run.
 *
 * A command that only looks opens the pool without its lock, so it works beside the process that
 * serves the disks. One that changes something takes the lock, and ends with what it did durable.
 */
#include "tools/cvd/cvd.h"

#include <sys/stat.h>

#define WAIT_NS DT_MS(500)
#define LOOKS   10u
#define WAKE_NS DT_MS(1)

static const char *const no_options[] = {NULL};
static const char *const json_options[] = {"json", NULL};
static const char *const create_options[] = {"size", "sector", NULL};
static const char *const pool_create_options[] = {"size", "journal", NULL};
static const char *const check_options[] = {"data", "json", NULL};
static const char *const grow_options[] = {"size", NULL};
static const char *const dup_options[] = {"count", "first", NULL};
static const char *const name_options[] = {"name", NULL};
static const char *const tree_options[] = {"format", NULL};
static const char *const from_options[] = {"from", "json", NULL};

const struct command cvd_commands[] = {
    {"pool create", "POOL --size SIZE", "make a pool in a new file, or on a block device",
     NEEDS_NOTHING, true, true, 1, 1, pool_create_options, cmd_pool_create},
    {"pool check", "POOL [--data] [--json]", "read the whole pool; repairs nothing", NEEDS_CHANGE,
     true, false, 1, 1, check_options, cmd_pool_check},
    {"pool info", "POOL [--json]", "space, and how much of everything there is", NEEDS_LOOK, true,
     false, 1, 1, json_options, cmd_pool_info},
    {"pool grow", "POOL [--size SIZE]", "make a pool larger, or use what its device has grown",
     NEEDS_CHANGE, true, false, 1, 1, grow_options, cmd_pool_grow},
    {"create", "POOL/DISK --size SIZE", "make an empty disk", NEEDS_CHANGE, false, true, 1, 1,
     create_options, cmd_create},
    {"fill", "POOL/DISK FILE", "copy a raw image into a disk", NEEDS_CHANGE, false, false, 2, 2,
     no_options, cmd_fill},
    {"export", "POOL/DISK[@SNAPSHOT] FILE", "copy a disk or snapshot into a sparse raw image",
     NEEDS_CHANGE, false, false, 2, 2, no_options, cmd_export},
    {"dup", "POOL/DISK@SNAPSHOT NAME [--count N]", "make clones of a labelled snapshot",
     NEEDS_CHANGE, false, false, 2, 2, dup_options, cmd_dup},
    {"snap", "POOL/DISK... [--name NAME]", "take a snapshot, of several disks at one moment",
     NEEDS_CHANGE, false, false, 1, 30, name_options, cmd_snap},
    {"snaps", "POOL/DISK [--json]", "list a disk's snapshots", NEEDS_LOOK, false, false, 1, 1,
     json_options, cmd_snaps},
    {"label", "POOL/DISK@SNAPSHOT [NAME]", "keep a snapshot, so that it can be cloned",
     NEEDS_CHANGE, false, false, 1, 2, no_options, cmd_label},
    {"unlabel", "POOL/DISK@SNAPSHOT", "keep it no longer", NEEDS_CHANGE, false, false, 1, 1,
     no_options, cmd_unlabel},
    {"list", "POOL [--json]", "list the disks", NEEDS_LOOK, true, false, 1, 1, json_options,
     cmd_list},
    {"tree", "POOL [--format text|dot]", "what stands on what", NEEDS_LOOK, true, false, 1, 1,
     tree_options, cmd_tree},
    {"collapse", "POOL/DISK@PARENT @CHILD", "delete the snapshots from PARENT up to CHILD",
     NEEDS_CHANGE, false, false, 2, 2, no_options, cmd_collapse},
    {"delete", "POOL/DISK[@SNAPSHOT]", "delete a disk with its unlabelled snapshots, or a snapshot",
     NEEDS_CHANGE, false, false, 1, 1, no_options, cmd_delete},
    {"rename", "POOL/DISK[@SNAPSHOT] NAME", "give it another name", NEEDS_CHANGE, false, false, 2,
     2, no_options, cmd_rename},
    {"resize", "POOL/DISK SIZE", "make a disk larger or smaller", NEEDS_CHANGE, false, false, 2, 2,
     no_options, cmd_resize},
    {"rollback", "POOL/DISK@SNAPSHOT", "return to the newest snapshot", NEEDS_CHANGE, false, false,
     1, 1, no_options, cmd_rollback},
    {"du", "POOL/DISK [--json]", "what occupies space, and what deleting it would give back",
     NEEDS_LOOK, false, false, 1, 1, json_options, cmd_du},
    {"diff", "POOL/DISK[@SNAPSHOT] [--from @SNAPSHOT] [--json]", "which ranges differ", NEEDS_LOOK,
     false, false, 1, 1, from_options, cmd_diff},
    {NULL},
};

#define FIELD(field) .offset = offsetof(struct cvd_options, field)
static const struct dt_param all_options[] = {
    {"json", DT_PARAM_BOOL, FIELD(json), .help = "Print JSON."},
    {"data", DT_PARAM_BOOL, FIELD(data), .help = "Read all data, too, and compare checksums."},
    {"size", DT_PARAM_SIZE, FIELD(size), .initial = "0", .help = "Size, such as 20G."},
    {"sector", DT_PARAM_SIZE, FIELD(sector), .initial = "512",
     .help = "Sector size that guests see: 512 or 4096."},
    {"journal", DT_PARAM_SIZE, FIELD(journal), .initial = "0",
     .help = "Size of the journal; 0 takes a 16th of the pool, at most 64M."},
    {"count", DT_PARAM_UINT, FIELD(count), .initial = "0",
     .help = "So many clones, named NAME and a number."},
    {"first", DT_PARAM_UINT, FIELD(first), .initial = "1", .help = "The first number."},
    {"name", DT_PARAM_STRING, FIELD(name), .help = "The snapshot's name; the time unless told."},
    {"from", DT_PARAM_STRING, FIELD(from), .help = "Compare with this snapshot."},
    {"format", DT_PARAM_STRING, FIELD(format), .initial = "text",
     .help = "text, or dot for graphviz."},
    {NULL},
};
static const struct option_group groups[] = {{"Options", all_options}, {NULL}};

/* ---- Targets ---- */

int target_split(const char *text, char **path, char **name, struct dt_error *err)
{
    const char *slash = strrchr(text, '/');

    if (!slash || slash == text || !slash[1])
        return dt_fail(err, -EINVAL, "'%s' is not POOL/DISK, with POOL the path of a pool", text);
    *path = xasprintf("%.*s", (int)(slash - text), text);
    *name = xstrdup(slash + 1);
    return 0;
}

int target_other(struct target *t, const char *text, uint32_t *slot, struct dt_error *err)
{
    _cleanup_free_ char *path = NULL, *name = NULL;
    int ret = 0;

    if (text[0] == '@') {
        const char *at = strchrnul(t->name, '@');

        name = xasprintf("%.*s%s", (int)(at - t->name), t->name, text);
    } else {
        ret = target_split(text, &path, &name, err);
        if (ret == 0 && strcmp(path, t->path))
            ret = dt_fail(err, -EINVAL, "%s and %s are two pools", path, t->path);
    }
    if (ret < 0)
        return ret;
    *slot = pool_find(t->pool, name, err);
    return *slot == NO_SLOT ? -ENOENT : 0;
}

/* Beside a process that writes to the pool, what a root reaches may be gone before it was read:
 * look again. */
static int look(struct target *t, struct store *store, struct dt_error *err)
{
    const struct pool_options o = {.read_only = true};
    int ret = -EBADMSG;

    for (unsigned i = 0; i < LOOKS && ret == -EBADMSG; i++)
        ret = pool_open(&t->pool, store, &o, err);
    return ret;
}

static int target_open(struct target *t, const struct command *c, const char *text,
                       struct dt_error *err)
{
    struct store_file_options file = {.read_only = c->needs == NEEDS_LOOK};
    const struct pool_options o = {0};
    struct store *store;
    int ret = 0;

    if (c->whole_pool)
        t->path = xstrdup(text);
    else
        ret = target_split(text, &t->path, &t->name, err);
    t->slot = NO_SLOT;
    if (ret < 0 || c->needs == NEEDS_NOTHING)
        return ret;
    ret = store_file_open(&store, t->path, &file, err);
    if (ret < 0)
        return ret;
    if (c->needs == NEEDS_LOOK)
        ret = look(t, store, err);
    else
        ret = store_file_lock(store, dt_clock_ns() + WAIT_NS, err)
                  ?: pool_open(&t->pool, store, &o, err);
    if (ret < 0) {
        store->close(store);
        return ret;
    }
    if (t->name && !c->makes) {
        t->slot = pool_find(t->pool, t->name, err);
        ret = t->slot == NO_SLOT ? -ENOENT : 0;
    }
    return ret;
}

int target_data(struct target *t, struct dt_error *err)
{
    const struct loop_config config = {0};
    int ret = loop_new(&t->loop, &config, err);

    if (ret == 0)
        ret = store_file_loop(pool_store(t->pool), t->loop);
    return ret < 0 ? dt_fail(err, ret, "no loop: %s", strerror(-ret)) : 0;
}

static void woken(struct dt_timer *timer)
{
}

/* What was waited for may have happened in the pool's turn, with no I/O: so no long sleep. */
void target_turn(struct target *t)
{
    struct dt_timer timer = {.fire = woken};

    pool_turn(t->pool);
    loop_timer_set(t->loop, &timer, loop_now(t->loop) + WAKE_NS);
    loop_turn(t->loop, true);
    loop_timer_cancel(t->loop, &timer);
    pool_turn(t->pool);
}

static int target_close(struct target *t, int ret, struct dt_error *err)
{
    struct dt_error late;
    int closed = 0;

    if (t->loop)
        store_file_loop(pool_store(t->pool), NULL);
    if (t->pool)
        closed = pool_close(t->pool, &late);
    if (t->loop)
        loop_free(t->loop);
    free(t->path);
    free(t->name);
    if (ret == 0 && closed < 0)
        *err = late;
    return ret ?: closed;
}

/* ---- Progress ---- */

static bool drawn;

void progress(const char *what, uint64_t done, uint64_t total)
{
    static uint64_t last;
    uint64_t now = dt_clock_ns();

    if (!isatty(STDERR_FILENO) || now - last < DT_MS(200) || total == 0)
        return;
    last = now;
    drawn = true;
    fprintf(stderr, "\r%s: %llu %%", what, (unsigned long long)(done * 100 / total));
}

void progress_end(void)
{
    if (drawn)
        fputs("\r\033[K", stderr);
    drawn = false;
}

/* ---- Running one ---- */

static void print_usage(FILE *out)
{
    fputs("usage: cvd COMMAND ARGUMENT... [OPTION...]\n\n", out);
    for (const struct command *c = cvd_commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fputs("\nPOOL is the path of a pool. `cvd COMMAND --help` explains one. The manual: man cvd\n",
          out);
}

static bool takes(const struct command *c, const char *option)
{
    for (const char *const *o = c->options; *o; o++)
        if (strcmp(*o, option) == 0)
            return true;
    return false;
}

static void print_help(const struct command *c)
{
    printf("usage: cvd %s %s\n\nTo %s.\n", c->name, c->args, c->summary);
    for (const struct dt_param *p = all_options; p->name; p++)
        if (takes(c, p->name)) {
            printf("\n  --%s%s\n", p->name, p->type == DT_PARAM_BOOL ? "" : " VALUE");
            print_wrapped(stdout, 6, p->help);
        }
}

static void print_completion_data(void)
{
    for (const struct command *c = cvd_commands; c->name; c++) {
        printf("%s:--help", c->name);
        for (const char *const *o = c->options; *o; o++)
            printf(" --%s", *o);
        putchar('\n');
    }
}

/* "pool create" is two words; the rest one. Advances past them. */
static const struct command *find_command(char ***argv)
{
    for (const struct command *c = cvd_commands; c->name; c++) {
        const char *space = strchr(c->name, ' ');
        size_t n = space ? (size_t)(space - c->name) : strlen(c->name);

        if (strlen((*argv)[0]) != n || strncmp((*argv)[0], c->name, n))
            continue;
        if (!space) {
            *argv += 1;
            return c;
        }
        if ((*argv)[1] && strcmp((*argv)[1], space + 1) == 0) {
            *argv += 2;
            return c;
        }
    }
    return NULL;
}

static int check_options_taken(const struct command *c, char **argv, struct dt_error *err)
{
    for (; *argv && strcmp(*argv, "--"); argv++) {
        _cleanup_free_ char *name = NULL;

        if (strncmp(*argv, "--", 2))
            continue;
        name = xasprintf("%.*s", (int)(strchrnul(*argv, '=') - *argv - 2), *argv + 2);
        if (!takes(c, name))
            return dt_fail(err, -EINVAL, "it has no option --%s (see cvd %s --help)", name,
                           c->name);
    }
    return 0;
}

static int run(const struct command *c, char **argv)
{
    struct cvd_options o = {0};
    struct target t = {0};
    struct dt_error err = {""};
    unsigned argc = 0;
    int ret = check_options_taken(c, argv, &err);

    ret = ret ?: options_parse(groups, &o, argv, &err);
    while (ret == 0 && argv[argc])
        argc++;
    if (ret == 0 && (argc < c->min_args || argc > c->max_args))
        ret = dt_fail(&err, -EINVAL, "usage: cvd %s %s", c->name, c->args);
    if (ret == 0) {
        ret = target_open(&t, c, argv[0], &err);
        ret = ret ?: c->run(&t, &o, (int)argc, argv, &err);
        progress_end();
        ret = target_close(&t, ret, &err);
    }
    param_free_all(all_options, &o);
    if (ret < 0)
        fprintf(stderr, "cvd %s: %s\n", c->name, err.text);
    return ret < 0 ? (int)exit_status_of(ret) : ret;
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
    c = find_command(&argv);
    if (!c) {
        fprintf(stderr, "cvd: no command is named '%.40s' (see cvd --help)\n", argv[0]);
        return STATUS_USAGE;
    }
    for (char **a = argv; *a; a++)
        if (strcmp(*a, "--help") == 0) {
            print_help(c);
            return output_finish(STATUS_DONE);
        }
    return output_finish(run(c, argv));
}
