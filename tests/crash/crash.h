/* SPDX-License-Identifier: MIT */
/*
 * crash.h - crash states of a chain that keeps files: what the disk may be after power was lost
 * at any moment, made one by one, opened again and compared with what the guest was promised.
 * README.md says how to add a layer.
 *
 * Theory of operation: the test's program is linked with -Wl,--wrap, so that every write, flush,
 * allocation and truncation of the chain's files passes files.c. There it is performed on real files
 * of a memory file system, in an order drawn from the seed (so that completions overtake each
 * other), and logged with two stamps of one clock: when it was asked for and when it was done.
 * The guest's requests carry stamps of the same clock (model.c). A crash state is a moment and a choice: what
 * a flush covered before it is on the disk; all else that was asked for may be there, in part, or not.
 */
#ifndef TESTS_CRASH_H
#define TESTS_CRASH_H

#include "base/base.h"

#define CRASH_FILES 8u
#define CRASH_NEVER UINT64_MAX

/** crash_clock() - the next stamp; of files and guest alike. */
uint64_t crash_clock(void);

/* ---- files.c: the files of the chain ---- */

enum crash_kind { CRASH_WRITE, CRASH_ZERO, CRASH_TRUNCATE };

/**
 * struct crash_op - a change of a file.
 * @issued, @done: stamps. The log is in order of @done.
 * @stable: the stamp of the flush that made it durable; CRASH_NEVER.
 * @lost: a flush after it failed: the kernel forgot that it was not written.
 */
struct crash_op {
    enum crash_kind kind;
    unsigned file;
    uint64_t offset, length;
    uint8_t *data;
    uint64_t issued, done, stable;
    bool lost;
};

struct crash_image {
    uint8_t *bytes;
    uint64_t size, room;
};

/**
 * struct crash_log - what happened to the files.
 * @start: their contents before.
 * @boot: what boot_id() said; after a power loss it says another.
 */
struct crash_log {
    struct crash_image start[CRASH_FILES];
    struct crash_op *ops;
    unsigned count, room;
    uint64_t end;
    uint8_t boot;
};

/** crash_files_set() - the directory and the names, ending with NULL, of the files to watch. */
void crash_files_set(const char *dir, const char *const *names);
/** crash_log_begin() - from now on changes are logged to @log. */
void crash_log_begin(struct crash_log *log);
void crash_log_end(struct crash_log *log);
void crash_log_free(struct crash_log *log);
/** crash_seed() - of the order in which asynchronous I/O is done; the clock starts again. */
void crash_seed(uint64_t seed);
/** crash_pump() - do one I/O that waits, chosen by the seed; false if there is none. */
bool crash_pump(void);
/** crash_fail_sync() - the @n-th flush of any file from now on fails with EIO; 0 = none. */
void crash_fail_sync(unsigned n);

/** enum crash_choice - what of that which no flush covered is there. */
enum crash_choice {
    CRASH_KILLED,  /* all that was done: the process died, and machine and guest live on */
    CRASH_NOTHING, /* nothing */
    CRASH_SOME,    /* of what was asked for, each operation or not */
    CRASH_TORN,    /* each sector or not */
    CRASH_FEW,     /* one in eight, torn */
    CRASH_CHOICES,
};
/** crash_state_make() - put the files into the state of a crash at @when. */
void crash_state_make(const struct crash_log *log, uint64_t when, enum crash_choice choice,
                      struct dt_rng *rng);

/* ---- model.c: what the guest was promised ---- */

/**
 * struct crash_version - what a sector may hold.
 * @id:     0 = zeroes; else that of the write, which fills the sector with crash_fill().
 * @issued: stamp of the request; @ended: of its completion, CRASH_NEVER while under way.
 * @good:   it ended without an error: it must be there from then on, and after a flush for ever.
 * @doubted: a flush has failed since: a successor need not have it.
 */
struct crash_version {
    uint64_t id, issued, ended, stable;
    bool good, doubted;
};
struct crash_sector {
    struct crash_version *versions;
    unsigned count, room;
};
struct crash_model {
    struct crash_sector *sectors;
    uint32_t count;
};

void crash_model_init(struct crash_model *m, uint32_t sectors, uint64_t initial_id);
void crash_model_free(struct crash_model *m);
struct crash_moment;
/** crash_model_after() - of a disk after a crash: each sector is one of those it may be. */
void crash_model_after(struct crash_model *m, const struct crash_model *before,
                       const struct crash_moment *crash);
void crash_model_begin(struct crash_model *m, uint64_t sector, uint32_t n, uint64_t id,
                       uint64_t issued);
/** crash_model_ended() - the request @id with the stamp @issued is done. @good: without an error,
 *  and what it did must be seen. @fua: and must last. */
void crash_model_ended(struct crash_model *m, uint64_t sector, uint32_t n, uint64_t issued,
                       bool good, bool fua);
/** crash_model_flushed() - a flush that was asked for at @issued is done. */
void crash_model_flushed(struct crash_model *m, uint64_t issued);
/** crash_model_flush_failed() - the guest knows that what it wrote may be gone. */
void crash_model_flush_failed(struct crash_model *m);
/** crash_model_seen() - what a reader got is what is there from now on. */
void crash_model_seen(struct crash_model *m, uint64_t sector, uint32_t n, const uint8_t *data);
/** crash_fill() - the content of @n sectors from @sector on in the version @id. */
void crash_fill(uint8_t *data, uint64_t sector, uint32_t n, uint64_t id);
/**
 * struct crash_moment - when somebody looks.
 * @kind: at the running disk, with a read asked for at @when; or at what a crash at @when left: of
 *        the process, whose successor must know all that was acknowledged, or of the machine.
 */
struct crash_moment {
    enum { CRASH_RUNNING, CRASH_AFTER_KILL, CRASH_AFTER_LOSS } kind;
    uint64_t when;
};
/** crash_model_check() - may a reader see @data? @why is set to what is wrong. */
bool crash_model_check(const struct crash_model *m, uint64_t sector, uint32_t n,
                       const uint8_t *data, struct crash_moment moment, char why[256]);

/* ---- run.c ---- */

/**
 * struct crash_setup - a chain to be tried.
 * @chain:   as written, with '@' for the directory of its files.
 * @files:   their names, ending with NULL; those not there at the start may be made by @prepare.
 * @sectors, @block: of the disk, and of its logical block, in sectors.
 * @initial: the version that the disk holds at first, written by @prepare; 0 = zeroes.
 * @prepare: make the files in @dir.
 * @ops, @depth: requests of the guest in a run, and how many at a time.
 * @no_discard: do not send discards and writes of zeroes.
 * @power_only: the machine crashes, never the process alone.
 */
struct crash_setup {
    const char *name, *chain;
    const char *const *files;
    uint32_t sectors, block;
    uint64_t initial;
    void (*prepare)(const char *dir);
    unsigned ops, depth;
    bool no_discard, power_only;
};

/** crash_states_wanted() - $CRASH_STATES, or @quick. */
unsigned crash_states_wanted(unsigned quick);
/**
 * crash_run() - try @states states of the chain.
 * @failed: text with seed and state, if one of them is wrong.
 * Return: how many were tried; the last is the wrong one, if any.
 */
unsigned crash_run(const struct crash_setup *setup, unsigned states, char failed[512]);
/** crash_test() - the same, as a test of cmocka. */
void crash_test(const struct crash_setup *setup, unsigned quick);

#endif
