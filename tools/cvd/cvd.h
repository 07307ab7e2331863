/* SPDX-License-Identifier: MIT */
/* cvd.h - what the commands of cvd share: POOL/DISK[@SNAPSHOT], opening and ending, output. */
#ifndef CVD_TOOL_H
#define CVD_TOOL_H

#include "blk/cvd/ask.h"
#include "parallax/parallax.h"
#include "tools/tools.h"

/** struct cvd_options - the options of all commands; each names those that it takes. */
struct cvd_options {
    bool json, data, repair, background, all, zstd, resume, status, newer;
    unsigned sandbox, share, preallocation;
    bool now;
    uint64_t rate, memory, size, sector, journal, count, first, cache, data_cache, depth, every,
        most;
    const char *name, *from, *format, *policy, *token, *output, *rw, *time, *socket;
};

/**
 * enum needs - how a command uses the pool of its first argument.
 * @NEEDS_LOOK:   reads it, without a lock, whoever has it open.
 * @NEEDS_CHANGE: opens it, or where a process serves it, is carried out there.
 * @NEEDS_DATA:   opens it, or where a process serves it, has that one read and write the disk.
 * @NEEDS_SERVED: asks the process that serves it, and changes nothing that is stored.
 */
enum needs { NEEDS_NOTHING, NEEDS_LOOK, NEEDS_CHANGE, NEEDS_DATA, NEEDS_SERVED };

/**
 * struct target - a pool that was opened, and what in it was meant.
 * @pool: NULL where another process has it, which @sock is connected to.
 * @live: disks of it are in use: this is the process that serves it.
 * @slot: of @name, or NO_SLOT where the command makes it. @moment: of its history; else PRESENT.
 * @out:  where the command prints.
 */
struct target {
    struct pool *pool;
    struct loop *loop;
    int sock;
    bool live;
    char *path, *name;
    uint32_t slot, first;
    uint64_t moment;
    FILE *out;
};

/**
 * struct command
 * @summary:    NULL: not for people.
 * @whole_pool: its first argument is a POOL, not POOL/DISK.
 * @makes:      its first argument need not exist.
 * @moments:    its first argument may be DISK@{MOMENT}.
 * @ranges:     its first argument may be DISK@A%B.
 * @either:     its first argument is a POOL or a POOL/DISK.
 * @names_new:  what follows @ in its arguments is a snapshot's name to be.
 * @plain:      it prints nothing, so --json says what was done to what.
 * @options:    names of the options that it takes, ended by NULL.
 */
struct command {
    const char *name, *args, *summary;
    enum needs needs;
    bool whole_pool, makes;
    unsigned min_args, max_args;
    const char *const *options;
    int (*run)(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
    bool moments, names_new, ranges, either;
    bool plain;
};
extern const struct command cvd_commands[];

/** target_other() - the slot of another POOL/DISK[@SNAPSHOT] or @SNAPSHOT in the same pool. */
int target_other(struct target *t, const char *text, uint32_t *slot, struct dt_error *err);
/** target_other_at() - or @{MOMENT}: @moment is PRESENT where none is named. */
int target_other_at(struct target *t, const char *text, uint32_t *slot, uint64_t *moment,
                    struct dt_error *err);
/**
 * target_new_name() - what another disk of the same pool is to be called, as NAME or POOL/NAME; or if the target is a
 * snapshot that gets another name, POOL/DISK@NAME or @NAME as well. Owned by the caller.
 */
int target_new_name(struct target *t, const char *text, char **name, struct dt_error *err);
/** target_split() - "POOL/DISK" into its halves, owned by the caller; the pool's is a path, though it may have been a name. */
int target_split(const char *text, char **path, char **name, struct dt_error *err);
/** target_name() - what its first argument @text names. */
int target_name(struct target *t, const struct command *c, const char *text, struct dt_error *err);
/** target_find() - its slot, in an open pool, if the command is about something that is there. */
int target_find(struct target *t, const struct command *c, struct dt_error *err);
/** target_open() - as the command @c needs it, for the first argument @text. */
int target_open(struct target *t, const struct command *c, const char *text, struct dt_error *err);
int target_close(struct target *t, int ret, struct dt_error *err);
/** target_look() - open it to look, for a command that was given it closed. */
int target_look(struct target *t, struct dt_error *err);
/** target_served_by() - a connection to the process that serves the pool at @path; 0 if there is none. */
int target_served_by(const char *path, struct dt_error *err);
/** target_ask() - cvd_ask() of that process, by a connection for this alone. -ENOENT: there is none. */
int target_ask(const char *path, json_t *request, int timeout_ms, json_t **result,
               struct dt_error *err);
/** target_pin() - have the process that @t->sock is connected to keep a root for us, for @what; it is in @root. */
int target_pin(struct target *t, const char *what, struct px_root *root, struct dt_error *err);
/** target_look_pinned() - open it anew, as of a root that is pinned, where it is served: 1; 0: that cannot be, and it is as it was. */
int target_look_pinned(struct target *t, struct dt_error *err);
/** pool_pin_ask() - who has a root of the pool at @path pinned, and what of the free space waits for that; NULL: nobody. Only the
 * process that serves the pool knows, which may have no time for us. pool_pin_print(): in a line. */
json_t *pool_pin_ask(const char *path);
void pool_pin_print(const json_t *pin);
/** target_data() - reads and writes become possible. */
int target_data(struct target *t, struct dt_error *err);
/** target_turn() - wait for something to happen on the loop. */
void target_turn(struct target *t);

/** command_refusal() - why the command of the first words is none here, or NULL. */
const char *command_refusal(char **argv);
/** aliases_each() - all other names of commands. */
void aliases_each(void (*each)(void *arg, const char *words, const struct command *c), void *arg);
/** command_find() - the command of the first words; advances past them. */
const struct command *command_find(char ***argv);
/** command_parse() - options into @o, which command_free() frees, and arguments: @argv keeps these alone. */
int command_parse(const struct command *c, struct cvd_options *o, char **argv, int *argc,
                  struct dt_error *err);
/** command_run() - carry it out, in an open pool if it needs one. */
int command_run(const struct command *c, struct target *t, const struct cvd_options *o, int argc,
                char **argv, struct dt_error *err);
void command_free(struct cvd_options *o);
void command_help(const struct command *c);
extern const struct dt_param cvd_option_table[];

/** uuid_text() - 16 bytes as people write them. */
#define UUID_TEXT 37u
void uuid_text(const uint8_t *id, char *text);
/** print_time() - ns since 1970 as text. is_visible() - is it of this kind, and not deleted? (tree.c) */
void print_time(uint64_t ns, char *text, size_t size);
bool is_visible(const struct px_record *r, enum px_kind kind);

/** progress() - how far a long job is, on a terminal. */
void progress(const char *what, uint64_t done, uint64_t total);
/** progress_amount() - the same where nobody knows how much there will be. */
void progress_amount(const char *what, uint64_t bytes);
void progress_end(void);
/** reclaim_all() - have given back what was deleted, with progress, where nobody serves the pool. */
int reclaim_all(struct target *t, struct dt_error *err);

int cmd_pool_create(struct target *t, const struct cvd_options *o, int argc, char **argv,
                    struct dt_error *err);
int cmd_pool_open(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err);
int cmd_pool_close(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err);
int cmd_info(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_pool_info(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err);
int cmd_pool_check(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err);
int cmd_pool_grow(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err);
int cmd_pool_share(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err);
int cmd_pool_preallocation(struct target *t, const struct cvd_options *o, int argc, char **argv,
                           struct dt_error *err);
/** preallocate_all() - what is still to be done, with progress. It needs no loop. */
int preallocate_all(struct pool *pool, struct dt_error *err);
int cmd_pool_data_cache(struct target *t, const struct cvd_options *o, int argc, char **argv,
                        struct dt_error *err);
/** data_cache_ask() - what `pool data-cache --json` says of the pool at @path; NULL where nobody serves it. */
json_t *data_cache_ask(const char *path);
/** share_choices - who looks for equal blocks, by enum px_share. */
extern const char *const share_choices[];
/** policies - what happens at a quota, by enum px_policy. */
extern const char *const policies[];
/** preallocation_choices - by enum px_preallocation. */
extern const char *const preallocation_choices[];
int cmd_create(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_dup(struct target *t, const struct cvd_options *o, int argc, char **argv,
            struct dt_error *err);
int cmd_snap(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_label(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err);
int cmd_unlabel(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err);
int cmd_rename(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_resize(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_weight(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_bench(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err);
int cmd_schedule(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err);
int cmd_pool_stats(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err);
int cmd_pool_latency(struct target *t, const struct cvd_options *o, int argc, char **argv,
                     struct dt_error *err);
int cmd_quota(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err);
int cmd_delete(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_collapse(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err);
int cmd_rollback(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err);
int cmd_sync(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_list(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_snaps(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err);
int cmd_tree(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_du(struct target *t, const struct cvd_options *o, int argc, char **argv,
           struct dt_error *err);
int cmd_diff(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_fill(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_export(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
/** history_usage() - what the target's history occupies, as a row of `cvd du`. */
int history_usage(struct target *t, struct table *table, json_t *list, struct dt_error *err);

int cmd_history(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err);
int cmd_log(struct target *t, const struct cvd_options *o, int argc, char **argv,
            struct dt_error *err);
int cmd_bisect(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_guest(struct target *t, const struct cvd_options *o, int argc, char **argv,
              struct dt_error *err);
int cmd_send(struct target *t, const struct cvd_options *o, int argc, char **argv,
             struct dt_error *err);
int cmd_receive(struct target *t, const struct cvd_options *o, int argc, char **argv,
                struct dt_error *err);
int cmd_receive_step(struct target *t, const struct cvd_options *o, int argc, char **argv,
                     struct dt_error *err);

#endif
