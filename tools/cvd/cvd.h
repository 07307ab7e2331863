/* SPDX-License-Identifier: MIT */
/* cvd.h - what the commands of cvd share: POOL/DISK[@SNAPSHOT], opening and ending, output. */
#ifndef CVD_TOOL_H
#define CVD_TOOL_H

#include "parallax/parallax.h"
#include "tools/tools.h"

/** struct cvd_options - the options of all commands; each names those that it takes. */
struct cvd_options {
    bool json, data, force, text;
    uint64_t size, sector, journal, count, first;
    const char *name, *from, *format;
};

/** enum needs - how a command uses the pool of its first argument. */
enum needs { NEEDS_NOTHING, NEEDS_LOOK, NEEDS_CHANGE };

/**
 * struct target - a pool that was opened, and what in it was meant.
 * @slot: of @name, or NO_SLOT where the command makes it.
 */
struct target {
    struct pool *pool;
    struct loop *loop;
    char *path, *name;
    uint32_t slot;
};

/**
 * struct command
 * @whole_pool: its first argument is a POOL, not POOL/DISK.
 * @makes:      its first argument need not exist.
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
};
extern const struct command cvd_commands[];

/** target_other() - the slot of another POOL/DISK[@SNAPSHOT] or @SNAPSHOT in the same pool. */
int target_other(struct target *t, const char *text, uint32_t *slot, struct dt_error *err);
/** target_split() - "POOL/DISK" into its halves, owned by the caller. */
int target_split(const char *text, char **path, char **name, struct dt_error *err);
/** target_data() - reads and writes become possible. */
int target_data(struct target *t, struct dt_error *err);
/** target_turn() - wait for something to happen on the loop. */
void target_turn(struct target *t);

/** progress() - how far a long job is, on a terminal. */
void progress(const char *what, uint64_t done, uint64_t total);
void progress_end(void);

int cmd_pool_create(struct target *t, const struct cvd_options *o, int argc, char **argv,
                    struct dt_error *err);
int cmd_pool_info(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err);
int cmd_pool_check(struct target *t, const struct cvd_options *o, int argc, char **argv,
                   struct dt_error *err);
int cmd_pool_grow(struct target *t, const struct cvd_options *o, int argc, char **argv,
                  struct dt_error *err);
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
int cmd_delete(struct target *t, const struct cvd_options *o, int argc, char **argv,
               struct dt_error *err);
int cmd_collapse(struct target *t, const struct cvd_options *o, int argc, char **argv,
                 struct dt_error *err);
int cmd_rollback(struct target *t, const struct cvd_options *o, int argc, char **argv,
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

#endif
