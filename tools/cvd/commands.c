/* SPDX-License-Identifier: MIT */
/* commands.c - the table of the commands of cvd and of their options, and how a command line is read. */
#include "tools/cvd/cvd.h"

static const char *const no_options[] = {NULL};
static const char *const json_options[] = {"json", NULL};
static const char *const create_options[] = {"size", "sector", "json", NULL};
static const char *const pool_create_options[] = {"size",          "journal", "share", "rate",
                                                  "preallocation", "json",    NULL};
static const char *const share_options[] = {"rate", "now", "json", NULL};
static const char *const open_options[] = {"background", "cache", "data-cache",
                                           "sandbox",    "json",  NULL};
static const char *const check_options[] = {"data", "rate", "memory", "repair", "json", NULL};
static const char *const grow_options[] = {"size", "json", NULL};
static const char *const dup_options[] = {"count", "first", "json", NULL};
static const char *const name_options[] = {"name", "json", NULL};
static const char *const tree_options[] = {"format", "all", "json", NULL};
static const char *const fill_options[] = {"format", "json", NULL};
static const char *const bench_options[] = {"rw", "size", "depth", "time", "json", NULL};
static const char *const quota_options[] = {"policy", "json", NULL};
static const char *const guest_options[] = {"socket", "every", "json", NULL};
static const char *const from_options[] = {"from", "json", NULL};
static const char *const history_options[] = {"most", "json", NULL};
static const char *const log_options[] = {"sector", "json", NULL};
static const char *const rollback_options[] = {"newer", "json", NULL};
static const char *const send_options[] = {"from", "zstd", "token", "output", "json", NULL};
static const char *const receive_options[] = {"resume", "status", "json", NULL};

const struct command cvd_commands[] = {
    {"pool create",
     "POOL --size SIZE [--journal SIZE] [--preallocation off|falloc|full] [--share off|on|writes] "
     "[--rate SIZE] [--json]",
     "make a pool in a new file, or on a block device", NEEDS_NOTHING, true, true, 1, 1,
     pool_create_options, cmd_pool_create, .plain = true},
    {"pool open",
     "POOL [--background] [--cache SIZE] [--data-cache SIZE] [--sandbox on|off] [--json]",
     "serve a pool to any number of VMs", NEEDS_NOTHING, true, false, 1, 1, open_options,
     cmd_pool_open},
    {"pool close", "POOL [--json]", "end the process that serves it", NEEDS_NOTHING, true, false, 1,
     1, json_options, cmd_pool_close, .plain = true},
    {"pool check", "POOL [--data=off] [--rate SIZE] [--memory SIZE] [--repair] [--json]",
     "read the whole pool, maps and data, while it is in use or not; repairs nothing unless told",
     NEEDS_NOTHING, true, false, 1, 1, check_options, cmd_pool_check},
    {"pool info", "POOL [--json]", "space, and how much of everything there is", NEEDS_LOOK, true,
     false, 1, 1, json_options, cmd_pool_info},
    {"pool grow", "POOL [--size SIZE] [--json]",
     "make a pool larger, or use what its device has grown", NEEDS_CHANGE, true, false, 1, 1,
     grow_options, cmd_pool_grow, .plain = true},
    {"pool preallocation", "POOL [off|falloc|full] [--json]",
     "have space in the file for all of the pool before it is written, or give back what is free",
     NEEDS_CHANGE, true, false, 1, 2, json_options, cmd_pool_preallocation},
    {"pool share", "POOL [off|on|writes] [--rate SIZE] [--now] [--json]",
     "have equal blocks stored once, or tell what that saves", NEEDS_CHANGE, true, false, 1, 2,
     share_options, cmd_pool_share},
    {"pool stats", "POOL [--json]", "what each disk in use got of the pool", NEEDS_SERVED, true,
     false, 1, 1, json_options, cmd_pool_stats},
    {"pool data-cache", "POOL [SIZE|off] [--json]",
     "what blocks that disks have in common are read once for, or how much memory that may take",
     NEEDS_SERVED, true, false, 1, 2, json_options, cmd_pool_data_cache},
    {"pool latency", "POOL [--json]", "the longest that anything of the pool took", NEEDS_SERVED,
     true, false, 1, 1, json_options, cmd_pool_latency},
    {"create", "POOL/DISK --size SIZE [--sector 512|4096] [--json]", "make an empty disk",
     NEEDS_CHANGE, false, true, 1, 2, create_options, cmd_create},
    {"fill", "POOL/DISK FILE|NBD-URI [--format raw|qcow2] [--json]",
     "copy an image or an NBD export into a disk", NEEDS_DATA, false, false, 2, 2, fill_options,
     cmd_fill},
    {"export", "POOL/DISK[@SNAPSHOT|@{MOMENT}] FILE [--json]",
     "copy a disk or snapshot into a sparse raw image", NEEDS_DATA, false, false, 2, 2,
     json_options, cmd_export, .moments = true},
    {"dup", "POOL/DISK@SNAPSHOT NAME [--count N [--first N]] [--json]",
     "make clones of a labelled snapshot", NEEDS_CHANGE, false, false, 2, 2, dup_options, cmd_dup},
    {"snap", "POOL/DISK[@NAME]... [--name NAME] [--json]",
     "take a snapshot, of several disks at one moment", NEEDS_CHANGE, false, false, 1, 30,
     name_options, cmd_snap, .names_new = true},
    {"snaps", "POOL/DISK [--json]", "list a disk's snapshots", NEEDS_LOOK, false, false, 1, 1,
     json_options, cmd_snaps},
    {"label", "POOL/DISK@SNAPSHOT [NAME] [--json]", "keep a snapshot, so that it can be cloned",
     NEEDS_CHANGE, false, false, 1, 2, json_options, cmd_label, .plain = true},
    {"unlabel", "POOL/DISK@SNAPSHOT [--json]", "keep it no longer", NEEDS_CHANGE, false, false, 1,
     1, json_options, cmd_unlabel, .plain = true},
    {"sync", "POOL[/DISK] [--json]", "make all that was changed durable", NEEDS_CHANGE, true, false,
     1, 1, json_options, cmd_sync, .plain = true},
    {"list", "POOL [--json]", "list the disks", NEEDS_LOOK, true, false, 1, 1, json_options,
     cmd_list},
    {"tree", "POOL [--format text|dot|svg|png] [--all] [--json]", "what stands on what", NEEDS_LOOK,
     true, false, 1, 1, tree_options, cmd_tree},
    {"collapse", "POOL/DISK@PARENT @CHILD [--json]", "delete the snapshots from PARENT up to CHILD",
     NEEDS_CHANGE, false, false, 2, 2, json_options, cmd_collapse, .plain = true},
    {"delete", "POOL/DISK[@SNAPSHOT[%SNAPSHOT]] [--json]",
     "delete a disk with its unlabelled snapshots, or snapshots", NEEDS_CHANGE, false, false, 1, 1,
     json_options, cmd_delete, .plain = true, .ranges = true},
    {"rename", "POOL/DISK[@SNAPSHOT] NAME [--json]", "give it another name", NEEDS_CHANGE, false,
     false, 2, 2, json_options, cmd_rename, .plain = true},
    {"resize", "POOL/DISK [+]SIZE|--size SIZE [--json]", "make a disk larger or smaller",
     NEEDS_CHANGE, false, false, 1, 2, grow_options, cmd_resize, .plain = true},
    {"quota", "POOL/DISK [SIZE|off] [--policy hold|fail|drop-oldest] [--json]",
     "limit, or tell, what a disk and its snapshots may occupy", NEEDS_CHANGE, false, false, 1, 2,
     quota_options, cmd_quota},
    {"schedule", "POOL/DISK [every=INTERVAL [keep=AGE:INTERVAL,...] | off] [--json]",
     "have snapshots taken, and thinned out as they get old", NEEDS_CHANGE, false, false, 1, 3,
     json_options, cmd_schedule},
    {"weight", "POOL/DISK N [--json]", "set a disk's share of the pool", NEEDS_CHANGE, false, false,
     2, 2, json_options, cmd_weight, .plain = true},
    {"bench", "POOL/DISK [--rw MODE] [--size SIZE] [--depth N] [--time TIME] [--json]",
     "measure what a VM on a clone of the disk would get", NEEDS_NOTHING, false, false, 1, 1,
     bench_options, cmd_bench},
    {"rollback", "POOL/DISK@SNAPSHOT [--newer|-r] [--json]",
     "return to the newest snapshot, or to another one and delete those that are newer",
     NEEDS_CHANGE, false, false, 1, 1, rollback_options, cmd_rollback, .plain = true},
    {"info", "POOL[/DISK[@SNAPSHOT]] [--json]", "tell what a pool, a disk or a snapshot is",
     NEEDS_LOOK, false, false, 1, 1, json_options, cmd_info, .either = true},
    {"du", "POOL[/DISK[@SNAPSHOT[%SNAPSHOT]]] [--json]",
     "what occupies space, why, and which deletion would give back how much", NEEDS_LOOK, false,
     false, 1, 1, json_options, cmd_du, .ranges = true, .either = true},
    {"diff", "POOL/DISK[@SNAPSHOT|@{MOMENT}] [--from @SNAPSHOT|@{MOMENT}] [--json]",
     "which ranges differ", NEEDS_LOOK, false, false, 1, 1, from_options, cmd_diff,
     .moments = true},
    {"history", "POOL/DISK [AGE|off] [--most SIZE] [--json]",
     "keep what a disk was for so long; or tell how far that reaches", NEEDS_CHANGE, false, false,
     1, 2, history_options, cmd_history},
    {"log", "POOL/DISK [--sector N] [--json]", "when and by whom a sector was changed", NEEDS_LOOK,
     false, false, 1, 1, log_options, cmd_log},
    {"bisect", "POOL/DISK@A @B [--json] -- PROBE [ARGUMENT...]",
     "find the first state in which a probe fails", NEEDS_DATA, false, false, 3, 60, json_options,
     cmd_bisect, .moments = true},
    {"guest", "POOL/DISK... --socket PATH [--every TIME] [--json]",
     "answer what a VM asks for through its port", NEEDS_NOTHING, false, false, 1, 30,
     guest_options, cmd_guest},
    {"send",
     "POOL/DISK@SNAPSHOT [--from @SNAPSHOT] [--zstd] [--token TOKEN] [--output FILE] [--json]",
     "write a snapshot, or what differs from an earlier one, as a stream", NEEDS_NOTHING, false,
     false, 1, 1, send_options, cmd_send},
    {"receive", "POOL/DISK [--resume] [--status] [--json]", "make a snapshot of a stream",
     NEEDS_DATA, false, true, 1, 1, receive_options, cmd_receive},
    {"receive-step", "POOL/DISK STEP", NULL, NEEDS_CHANGE, false, true, 2, 4, no_options,
     cmd_receive_step},
    {NULL},
};

#define ANY_SECTOR "18446744073709551615"
#define UNTOLD     ANY_SECTOR
static const char *const off_on[] = {"off", "on", NULL};
const char *const share_choices[] = {"off", "on", "writes", NULL};
const char *const preallocation_choices[] = {"off", "falloc", "full", NULL};

#define FIELD(field) .offset = offsetof(struct cvd_options, field)
const struct dt_param cvd_option_table[] = {
    {"json", DT_PARAM_BOOL, FIELD(json), .help = "Print JSON."},
    {"repair", DT_PARAM_BOOL, FIELD(repair), .help = "Make the maps of free space anew."},
    {"data", DT_PARAM_BOOL, FIELD(data), .initial = "on",
     .help = "Read all data, too, and compare checksums (unless told otherwise)."},
    {"all", DT_PARAM_BOOL, FIELD(all),
     .help = "Show each clone, also where many of one snapshot have none of their own."},
    {"background", DT_PARAM_BOOL, FIELD(background),
     .help = "Return as soon as it is served; another process goes on."},
    {"cache", DT_PARAM_SIZE, FIELD(cache), .initial = "256M", .min = 1 << 20,
     .max = (uint64_t)1 << 40,
     .help = "Memory for the maps of the pool: size/256 of what is used at random makes reads need "
             "one I/O."},
    {"data-cache", DT_PARAM_SIZE, FIELD(data_cache), .initial = "256M", .max = DATA_CACHE_MOST,
     .help = "Memory for blocks of data that disks have in common, so that each is read once; 0: "
             "none."},
    {"sandbox", DT_PARAM_ENUM, FIELD(sandbox), .initial = "on", .choices = off_on,
     .help = "Confine the process that has the pool to what it needs."},
    {"size", DT_PARAM_SIZE, FIELD(size), .initial = "0", .help = "Size, such as 20G."},
    {"sector", DT_PARAM_SIZE, FIELD(sector), .initial = ANY_SECTOR,
     .help = "Of a new disk: the size of sectors that guests see, 512 (until told otherwise) or "
             "4096. Of a "
             "log: the number of the sector of 512 bytes; all of them unless told."},
    {"journal", DT_PARAM_SIZE, FIELD(journal), .initial = "0",
     .help = "Size of the journal; 0 takes a 16th of the pool, at most 64M."},
    {"preallocation", DT_PARAM_ENUM, FIELD(preallocation), .initial = "off",
     .choices = preallocation_choices,
     .help = "falloc: have the file system allocate all of the pool; full: and write zeroes there, "
             "so that no later write needs more; see pool preallocation."},
    {"share", DT_PARAM_ENUM, FIELD(share), .initial = "off", .choices = share_choices,
     .help = "Have equal blocks stored once: see pool share."},
    {"rate", DT_PARAM_SIZE, FIELD(rate), .initial = "0", .max = (uint64_t)1 << 40,
     .help = "What a search for equal blocks (16M unless told) or a check may read, bytes per "
             "second. A check of a pool that is served takes 64M unless told, others all they can "
             "get."},
    {"memory", DT_PARAM_SIZE, FIELD(memory), .initial = "256M", .min = 1 << 20,
     .max = (uint64_t)1 << 40,
     .help = "For what a check notes of blocks, 4 bytes for each of 4 KiB: where that is not "
             "enough for all, maps are read several times."},
    {"now", DT_PARAM_BOOL, FIELD(now),
     .help = "Look for equal blocks until none are left, and return then."},
    {"count", DT_PARAM_UINT, FIELD(count), .initial = "0",
     .help = "So many clones, named NAME and a number."},
    {"most", DT_PARAM_SIZE, FIELD(most), .initial = UNTOLD,
     .help = "What a history may occupy: of more, the oldest part goes first. 0: as much as there "
             "is. As it was unless told."},
    {"first", DT_PARAM_UINT, FIELD(first), .initial = "1", .help = "The first number."},
    {"name", DT_PARAM_STRING, FIELD(name), .help = "The snapshot's name; the time unless told."},
    {"from", DT_PARAM_STRING, FIELD(from), .help = "Compare with this snapshot."},
    {"zstd", DT_PARAM_BOOL, FIELD(zstd), .help = "Compress what gets shorter by it."},
    {"token", DT_PARAM_STRING, FIELD(token),
     .help = "Go on where an earlier stream broke off; 'cvd receive' tells this."},
    {"output", DT_PARAM_STRING, FIELD(output),
     .help = "Write to a new file instead of standard output."},
    {"resume", DT_PARAM_BOOL, FIELD(resume), .help = "Go on with what broke off."},
    {"status", DT_PARAM_BOOL, FIELD(status), .help = "Receive nothing: tell how far it got."},
    {"newer", DT_PARAM_BOOL, FIELD(newer),
     .help = "Delete the snapshots that are newer; also written -r, as zfs has it."},
    {"policy", DT_PARAM_STRING, FIELD(policy),
     .help =
         "At the quota, writes wait (hold, until told otherwise), fail with an I/O error (fail), "
         "or cost the oldest snapshots that are not labelled (drop-oldest)."},
    {"rw", DT_PARAM_STRING, FIELD(rw),
     .help = "read, write, randread (unless told), randwrite or randrw: see devtap bench --help."},
    {"depth", DT_PARAM_UINT, FIELD(depth), .initial = "16", .min = 1, .max = 1024,
     .help = "Requests in flight."},
    {"time", DT_PARAM_STRING, FIELD(time), .help = "Length of the measurement; 5s unless told."},
    {"socket", DT_PARAM_PATH, FIELD(socket),
     .help = "Where the VMM listens for the other end of the VM's virtio-serial port."},
    {"every", DT_PARAM_DURATION, FIELD(every), .initial = "10s", .min = DT_MS(1),
     .max = DT_S(86400),
     .help = "The VM may ask for one thing so often, on average, and for six at once."},
    {"format", DT_PARAM_STRING, FIELD(format),
     .help = "Of a tree: text, or dot, svg or png by graphviz. Of an image: raw (unless told) or "
             "qcow2."},
    {NULL},
};
static const struct option_group groups[] = {{"Options", cvd_option_table}, {NULL}};

/* ---- Reading a command line ---- */

static bool takes(const struct command *c, const char *option)
{
    for (const char *const *o = c->options; *o; o++)
        if (strcmp(*o, option) == 0)
            return true;
    return false;
}

void command_help(const struct command *c)
{
    printf("usage: cvd %s %s\n\nTo %s.\n", c->name, c->args, c->summary ?: "do a step of another");
    for (const struct dt_param *p = cvd_option_table; p->name; p++)
        if (takes(c, p->name)) {
            printf("\n  --%s%s\n", p->name, p->type == DT_PARAM_BOOL ? "" : " VALUE");
            print_wrapped(stdout, 6, p->help);
        }
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

int command_run(const struct command *c, struct target *t, const struct cvd_options *o, int argc,
                char **argv, struct dt_error *err)
{
    _cleanup_free_ char *about = xstrdup(argv[0]);
    int ret = c->run(t, o, argc, argv, err);

    if (ret == 0 && o->json && c->plain)
        print_json_to(t->out, json_pack("{ss ss}", "done", c->name, "to", about));
    return ret;
}

/* There are no short options but this one, which whoever knows zfs will write. */
static void write_out(const struct command *c, char **argv)
{
    static char newer[] = "--newer";

    for (; takes(c, "newer") && *argv && strcmp(*argv, "--"); argv++)
        if (strcmp(*argv, "-r") == 0)
            *argv = newer;
}

int command_parse(const struct command *c, struct cvd_options *o, char **argv, int *argc,
                  struct dt_error *err)
{
    int ret = check_options_taken(c, argv, err);

    write_out(c, argv);

    ret = ret ?: options_parse(groups, o, argv, err);
    for (*argc = 0; ret == 0 && argv[*argc];)
        ++*argc;
    if (ret == 0 && ((unsigned)*argc < c->min_args || (unsigned)*argc > c->max_args))
        ret = dt_fail(err, -EINVAL, "usage: cvd %s %s", c->name, c->args);
    return ret;
}

void command_free(struct cvd_options *o)
{
    param_free_all(cvd_option_table, o);
}
