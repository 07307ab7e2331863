/* SPDX-License-Identifier: MIT */
/*
 * px_rig.h - pools in memory for tests: a store that keeps a log of all that reached it and can be
 * brought back to what any crash might have left, and a model of what disks and snapshots hold.
 */
#ifndef TESTS_PX_RIG_H
#define TESTS_PX_RIG_H

#include "parallax/parallax.h"

/** struct rig_write - one entry of the log: a write that landed, or a flush. */
struct rig_write {
    uint64_t addr;
    uint32_t count;  /* 0: a flush */
    bool failed;     /* it was one that did */
    uint64_t issued; /* entries of the log when it was begun */
    uint64_t states; /* of the model, that were kept when it landed */
    uint64_t blocks; /* that the store had then */
    uint8_t *data;
};

/** struct rig_store - @rng: decides the order in which I/O lands. @punches: pieces that were. @fail_flush: that many flushes
 * on, with all that are under way then; @flush_failed: one has. @allocated: blocks that got space, @full: of which by being written. @fail_allocate: as @fail_flush. @reads: blocks that were read as data. @spoil_reads, @fail_reads: so many of the next ones bring something else, or an
 * error. */
struct rig_store {
    struct store s;
    uint8_t *bytes;
    struct rig_write *log;
    uint64_t log_n, log_room, fetched;
    bool logging;
    int fail_flush, fail_allocate;
    bool flush_failed;
    uint64_t allocated, full;
    uint64_t reads;
    unsigned spoil_reads, fail_reads;
    uint8_t *has; /* rig_limit(): which blocks have space. NULL: all */
    uint64_t room;
    uint64_t punches;
    const uint64_t *states;
    struct rig_pending {
        struct store_io *sio;
        void *buf;
        uint64_t addr, issued;
        uint64_t count;
        bool fails;
        enum { RIG_READ, RIG_WRITE, RIG_FLUSH, RIG_PUNCH, RIG_ALLOCATE } kind;
    } pending[512];
    unsigned pending_n;
    struct dt_rng rng;
    unsigned refs; /* closed by the pool, freed by rig_store_free() */
};

struct rig_store *rig_store_new(uint64_t blocks, uint64_t seed);
void rig_store_free(struct rig_store *r);
/** rig_limit() - it has holes from now on, and space for @blocks of them. @room may be changed at any time. */
void rig_limit(struct rig_store *r, uint64_t blocks);
/** rig_extend() - it has @more blocks. */
void rig_extend(struct rig_store *r, uint64_t more);
void rig_log_clear(struct rig_store *r);
/** rig_turn() - let one I/O land, chosen by chance. False: none was under way. */
bool rig_turn(struct rig_store *r);

/** rig_check_root() - what is on the store now, as @root reaches it: a check must find nothing. */
void rig_check_root(const struct rig_store *r, const struct px_root *root);

/** enum rig_crash - the process is killed, or the power fails. */
enum rig_crash { RIG_KILL, RIG_POWER };
/** rig_crash() - @into, which is as large, gets what a crash before entry @at of @from's log leaves of @base. After a flush
 * that failed what was not durable may be lost without a loss of power. */
void rig_crash(struct rig_store *into, const uint8_t *base, const struct rig_store *from,
               uint64_t at, enum rig_crash kind, struct dt_rng *rng);

/* ---- The model ---- */

#define RIG_BLOCKS  48u /* of each disk */
#define RIG_SECTORS (RIG_BLOCKS * 8)
#define RIG_THINGS  24u

/** struct rig_thing - a disk or snapshot: for each sector, what was written to it last; 0 = zeroes.
 * @blocks: its size; what lies behind RIG_BLOCKS is never written. @wide: its sectors have 4096 bytes.
 */
struct rig_thing {
    bool used, snapshot, labelled, headless, wide;
    unsigned blocks;
    enum px_policy policy;
    unsigned disk;   /* of a snapshot */
    unsigned origin; /* of a clone, plus 1 */
    uint64_t quota;  /* in blocks */
    uint64_t order;  /* of snapshots, in time */
    char name[2 * PX_NAME];
    uint32_t sector[RIG_SECTORS];
};

/**
 * struct rig_counts - what has happened. @larger, @smaller: disks that were resized; @grown: and pools. @resized: streams that brought
 * another size. @refused: writes that a quota has failed. @wide: writes to disks with sectors of 4096 bytes. @full: times
 * that writes waited for space; @made: things that were deleted for it.
 */
struct rig_counts {
    uint64_t larger, smaller, grown, resized, refused, wide, full, made;
};

/**
 * struct rig - a pool beside its model.
 * @most: blocks that it may grow to.
 * @hashes: of all states of the model, in the order in which they came about.
 * @branches: times that a disk with a history was rolled back or received.
 * @lifted: times that quotas had to be, for anything to go on; @dropped: snapshots that they cost.
 * @kept: how many of these states outlive the process; the later ones tell of what the next turn puts into the journal.
 * @drops: snapshots that quotas cost while requests were under way, which may have been entered before. @hash: of the snapshot;
 * @at: the first state without it; @until: the first that all these requests were done in.
 * @lazy:   it is opened so (struct pool_options). @again: times that a recovery was itself ended by a crash, before its root.
 * @durable: how many of them the pool has promised to keep, whatever happens.
 */
struct rig {
    struct rig_store *store;
    struct pool *pool;
    struct rig_thing things[RIG_THINGS];
    struct disk *disks[RIG_THINGS];
    uint64_t *hashes, states, hashes_room, kept, durable;
    struct rig_mark {
        uint64_t at, durable;
    } * marks;
    uint64_t marks_n, marks_room;
    struct rig_drop {
        uint64_t hash, at, until;
    } drops[256];
    unsigned drops_n;
    uint32_t stamp;
    uint64_t hash, order;
    unsigned in_flight, errors, busy[RIG_THINGS];
    uint64_t most;
    struct rig_counts counts;
    bool over; /* something waits for a quota */
    bool shares, lazy;
    uint64_t again;
    uint64_t lifted, dropped, histories, branches;
    uint64_t now; /* the pool's clock: each step takes a second */
    struct pool_pin pin;
    enum { RIG_FREE, RIG_PINNING, RIG_PINNED } pinned;
    uint64_t pins, pins_lost, pins_checked;
    struct durable *waiting; /* for what they did to be durable */
    struct dt_rng rng;
};

void rig_new(struct rig *rig, uint64_t blocks, uint64_t journal, uint64_t seed);
void rig_free(struct rig *rig);
/** rig_share() - the pool shares blocks from now on, and steps include its janitor. */
void rig_share(struct rig *rig);
/** rig_fill() - disks are written until the pool has less than @leave blocks free. */
void rig_fill(struct rig *rig, uint64_t leave);
/** rig_step() - one random operation, or a few writes at once; the model follows. */
void rig_step(struct rig *rig);
void rig_reopen(struct rig *rig, bool crash);
/** rig_hash_pool() - of what the pool holds; 0 with an error in @err when it cannot be read. */
uint64_t rig_hash_pool(struct rig_store *store, struct pool *pool, struct dt_error *err);
/** rig_read_past() - of each disk with a history, any state of it, and the last, which must be as the disk. How many were read; -1
 * with an error in @err. */
int rig_read_past(struct rig_store *store, struct pool *pool, struct dt_rng *rng,
                  struct dt_error *err);
/** rig_compare() - the pool with the model; ends the test where they differ. */
void rig_compare(struct rig *rig);
/** rig_check() - pool_check() must find nothing. */
void rig_check(struct pool *pool);
/** rig_held() - did the model hold what @hash is of, in its state @i? What went on at once may have been entered in another order than
 * it was told of. */
bool rig_held(const struct rig *rig, uint64_t i, uint64_t hash);
uint64_t rig_durable_at(const struct rig *rig, uint64_t at);

#endif
