/* SPDX-License-Identifier: MIT */
/*
 * parallax.h - pools of cluster virtual disks: thousands of disks from a few templates, snapshots
 * and clones in constant time, space that comes back. The format: devtap-pool(5).
 *
 * Everything of a pool happens on one thread, that of its store's loop. Nothing here blocks but
 * what says so, and what needs a part of the pool's own structures that is not in memory.
 */
#ifndef PARALLAX_H
#define PARALLAX_H

#include "parallax/store.h"

struct pool;
struct disk;

/* ---- Pools ---- */

/** struct pool_create_options - @journal: blocks; 0 chooses. @share, @share_rate: as in pool_set_share(). @preallocation: as in
 * pool_set_preallocation(), nothing of which is done yet. */
struct pool_create_options {
    uint64_t journal, share_rate;
    enum px_share share;
    enum px_preallocation preallocation;
};
/** pool_create() - make a pool of the whole store. It may not be one already. Blocks. */
int pool_create(struct store *store, const struct pool_create_options *o, struct dt_error *err);

/**
 * struct pool_options
 * @kick:  call pool_turn() at the end of this turn, at the latest before sleeping. NULL: whoever
 * calls the pool calls that, too.
 * @event: something a person should know: "full", "resumed", "damage", "quota", "preallocation"; of the disk or snapshot in @slot,
 * or with NO_SLOT of the whole pool.
 * @clock: ns since 1970 for the history; NULL = the system's.
 * @cache: bytes of nodes to keep in memory; 0 = 256 MiB. @data_cache: as in pool_set_data_cache().
 * @dirty: a root is begun when so many nodes have changed; 0 = 16384. @slice: of these, how many are written in a turn;
 * 0 = as many as take about 100 us. For tests.
 * @lazy: what a crash left is replayed, but the root that ends that is made in turns, while the pool is used already. For who serves it.
 * @holder: who has the pool open, for others who would; NULL = this process. Stays in place.
 * @repair: find out what is in use, and write the free maps and charges anew. Its @say tells what was wrong. Else NULL.
 * @root: with @read_only: the pool as this root reaches it, which somebody has pinned, and no journal is looked at.
 * NULL: as it is now.
 */
struct pool_options {
    bool read_only, lazy;
    const struct px_root *root;
    struct pool_check *repair;
    void (*kick)(void *arg);
    void (*event)(void *arg, uint32_t slot, const char *event, const char *text);
    uint64_t (*clock)(void *arg);
    void *arg;
    size_t cache;
    uint64_t data_cache;
    unsigned dirty, slice;
    const char *holder;
};
/** pool_open() - open, and recover what a crash left. Blocks. The pool owns the store from then on,
 * if it succeeds. */
int pool_open(struct pool **pool, struct store *store, const struct pool_options *o,
              struct dt_error *err);
/** pool_close() - in good order, with a last root; no request or flush may be under way. Blocks. */
int pool_close(struct pool *pool, struct dt_error *err);
/** pool_abandon() - as if the process ended here. */
void pool_abandon(struct pool *pool);

/** pool_release() - the same, but the store is not closed: it is the caller's again. */
struct store *pool_release(struct pool *pool);

/** pool_turn() - finish what this turn began, and do a piece of what goes on in the background.
 * True: there is more of that, call again soon. */
bool pool_turn(struct pool *pool);
/** pool_wait() - it is to be called again after so many ns, if nothing happens before. */
uint64_t pool_wait(const struct pool *pool);
/** pool_is_full() - writes wait, or the next root does, for space that nothing under way gives back. */
bool pool_is_full(const struct pool *pool);
/** pool_idle() - no request, flush or root is under way: it may be closed. */
bool pool_idle(const struct pool *pool);
/** pool_sync() - all changes so far are durable when it returns. Blocks. */
int pool_sync(struct pool *pool, struct dt_error *err);
/**
 * struct pool_waiter - somebody who waits for that; embed it.
 * @done: with 0 or -EIO, on the pool's thread, never before pool_when_durable() returns.
 */
struct pool_waiter {
    void (*done)(struct pool_waiter *waiter, int error);
    struct pool_waiter *next;
    uint64_t since; /* the pool's */
};
/** pool_when_durable() - the same without blocking: with the next flush, of whatever disks it is for. */
void pool_when_durable(struct pool *pool, struct pool_waiter *waiter);
/** pool_checkpoint() - a new root now. Blocks. -EAGAIN: the store has something of one that is being made. */
int pool_checkpoint(struct pool *pool, struct dt_error *err);
/** pool_reclaim() - give back a piece of what was deleted. 1: there is more. Blocks. */
int pool_reclaim(struct pool *pool, struct dt_error *err);
/** pool_reclaim_all() - give back all that was deleted. Blocks for long. */
int pool_reclaim_all(struct pool *pool, struct dt_error *err);
/** pool_grow() - the store has grown: use it. Blocks. */
int pool_grow(struct pool *pool, struct dt_error *err);
struct store *pool_store(struct pool *pool);

/** struct pool_times - the longest of each since the pool was opened, ns. @root: until it was durable. @slice: of the
 * turns that make it, during each of which requests wait. @flush: of any. @wait: of a waiter, before its flush began. */
struct pool_times {
    uint64_t root, slice, flush, wait;
};

/** struct pool_info - counts in blocks. @stale: free, with space in the file; @punched: given back to it since
 * the pool was opened. @reserve: of what is free, what only deletions may use. @preallocated: blocks before this one have space in the file, or where @preallocation is PX_THIN, are
 * still to be looked through for space to give back. And since the pool was opened: @lost: nodes that could not be read when what they
 * lead to was to be given back; @lost_maps: free maps that cannot be read. @damaged: disks that are not written any more. */
struct pool_info {
    uint8_t uuid[16];
    uint64_t created, blocks, used, free, reserve, dying, journal, journal_used, root_seq;
    uint64_t disks, snapshots, dirty_nodes, cached_nodes;
    uint64_t stale, punched, lost, lost_maps, damaged, preallocated;
    enum px_preallocation preallocation;
    struct pool_times times;
    bool recovered; /* the last opening replayed a journal... */
    bool
        again; /* ...of which a part had been replayed before, by who served the pool and made no root */
    bool rootless; /* and the root that ends that is not durable yet */
};
void pool_info(const struct pool *pool, struct pool_info *info);

/* ---- Preallocation: free space that the file has already ---- */

/**
 * pool_set_preallocation() - have space in the file for all of the pool, from now on and as it grows.
 * @how: PX_FALLOC: the file system has allocated it; PX_FULL: and zeroes were written there; PX_THIN: what is free is given back.
 *
 * What there is to do is done in turns, in the background, or by pool_preallocate(); the mark in pool_info() tells how far it
 * is, and it goes on whenever the pool is open. When it cannot go on, an event "preallocation" says so; it is tried again when
 * this is called, or the pool opened. Blocks.
 */
int pool_set_preallocation(struct pool *pool, enum px_preallocation how, struct dt_error *err);
/** pool_preallocate() - a piece of that. 1: there is more. Blocks; the store need have no loop. */
int pool_preallocate(struct pool *pool, struct dt_error *err);

/* ---- The data cache: blocks that several disks have in common are read once ---- */

#define DATA_CACHE_LEAST ((uint64_t)64 << 10)
#define DATA_CACHE_MOST  ((uint64_t)1 << 40)
/**
 * pool_set_data_cache() - keep blocks of data that disks have in common in @bytes of memory, 0: in none. What another one held is
 * forgotten. All of it is mapped at once, and taken as it is filled.
 *
 * In common are what a labelled snapshot has, and blocks that were found to be equal. Not so what
 * only one disk has: whoever reads it keeps it.
 */
int pool_set_data_cache(struct pool *pool, uint64_t bytes, struct dt_error *err);

/**
 * struct pool_cache_counters - in blocks, since the pool was opened.
 * @hits:    copied from the cache. @waits: the same, after waiting for somebody else's read.
 * @misses:  read, and kept.
 * @failed:  of these, could not be read: whoever waited reads for itself.
 * @passed:  read and not kept, because all of the cache was being filled.
 * @evicted: left to make room. @dropped: because they were given back.
 * @read:    read for disks from the pool, in common or not.
 */
struct pool_cache_counters {
    uint64_t hits, waits, misses, failed, passed, evicted, dropped, read;
};
/** struct pool_data_cache - @bytes: as it was set. @most, @held: in blocks: what it can have, and has. */
struct pool_data_cache {
    uint64_t bytes, most, held;
    struct pool_cache_counters counters;
};
void pool_data_cache(const struct pool *pool, struct pool_data_cache *cache);

/* ---- Pins: what a root reaches stays as it is, for a reader beside ---- */

/**
 * struct pool_pin - a root that somebody reads; embed it. The pool has one at most.
 * @owner: for people; stays in place.
 * @held:  @root is durable, and from now on nothing that it reaches is written over. @root is there until this returns.
 * @lost:  that ends, because of @why: before anything is written. The pool has forgotten the pin.
 * Both are called from within the pool, which may not be called from there.
 */
struct pool_pin {
    const char *owner;
    void (*held)(struct pool_pin *pin, const struct px_root *root);
    void (*lost)(struct pool_pin *pin, const char *why);
    uint64_t since; /* ns since 1970: set by pool_pin() */
    struct px_root root;
};
/** pool_pin() - pin the next root, which is made soon. -EBUSY: there is a pin, and whose. */
int pool_pin(struct pool *pool, struct pool_pin *pin, struct dt_error *err);
/** pool_unpin() - end it, if it did not end by itself. */
void pool_unpin(struct pool *pool, struct pool_pin *pin);
/** pool_pinned() - the pin, or NULL. @held: blocks that are free but for it. */
const struct pool_pin *pool_pinned(const struct pool *pool, uint64_t *held);
/** pool_root() - the durable one, of a pool that was just opened. */
const struct px_root *pool_root(const struct pool *pool);

/* ---- Sharing: equal blocks are stored once ---- */

#define SHARE_RATE       ((uint64_t)16 << 20) /* unless told */
#define SHARE_LEAST_RATE ((uint64_t)64 << 10)
#define SHARE_MOST_RATE  ((uint64_t)1 << 40)
/**
 * pool_set_share() - who looks for equal blocks from now on.
 * @share: nobody, a janitor in the background, or it and whoever writes. What is shared stays so.
 * @rate:  what it may read of maps and data, bytes per second.
 *
 * A pool that was told once to share cannot be opened by programs that do not know how. Blocks.
 */
int pool_set_share(struct pool *pool, enum px_share share, uint64_t rate, struct dt_error *err);
/** pool_share_now() - a piece of the janitor's work, of @bytes. 1: there is more in this round; 0; -errno. Blocks. */
int pool_share_now(struct pool *pool, uint64_t bytes);

/**
 * struct pool_share_counters - since the pool was opened, in blocks.
 * @looked: looked up by their checksums. @compared: with another one; @different: and were not equal, or not
 * readable. @merged: stored no longer, because there is an equal one. @missed: written, and not looked up, because there were too many: the
 * janitor finds them later. @rounds: times that it went through the pool.
 */
struct pool_share_counters {
    uint64_t looked, compared, different, merged, missed, rounds;
};
/** struct pool_share - @shared: how many blocks more there would be if none were shared. */
struct pool_share {
    enum px_share share;
    uint64_t rate, shared;
    struct pool_share_counters counters;
};
void pool_share(const struct pool *pool, struct pool_share *share);

/* ---- The catalogue: POOL/DISK[@SNAPSHOT] ---- */

#define NO_SLOT UINT32_MAX
/** pool_find() - the slot of "disk" or "disk@snapshot", or NO_SLOT with @err. */
uint32_t pool_find(struct pool *pool, const char *name, struct dt_error *err);
/** pool_record() - of a slot in use, else NULL. */
const struct px_record *pool_record(const struct pool *pool, uint32_t slot);
/** pool_slots() - slots are below this. */
uint32_t pool_slots(const struct pool *pool);
/** pool_snapshot_before() - the newest snapshot of a disk, or the one before a snapshot; NO_SLOT at
 * the end. Those that are being deleted are left out. */
uint32_t pool_snapshot_before(const struct pool *pool, uint32_t slot);
/** pool_clones() - how many disks stand on this snapshot. */
uint32_t pool_clones(const struct pool *pool, uint32_t slot);
/** pool_full_name() - "disk" or "disk@snapshot" of a slot in use, into @text of 2 * PX_NAME. */
void pool_full_name(const struct pool *pool, uint32_t slot, char *text);
bool pool_mounted(const struct pool *pool, uint32_t slot);

/*
 * Changes. Each happens at once and is durable after pool_sync(). Names: 1 to 63 letters, digits,
 * '.', '-',
 * '_', ':', '+'.
 */
int pool_create_disk(struct pool *pool, const char *name, uint64_t size, uint32_t sector,
                     struct dt_error *err);
/** pool_snapshot() - of @n disks at one cut. @names: one for each, or NULL for the time. @slots:
 * set to them, or NULL. */
int pool_snapshot(struct pool *pool, const uint32_t *disks, unsigned n, const char *const *names,
                  uint32_t *slots, struct dt_error *err);
/** pool_clone() - @count disks of a labelled snapshot, all or none; with @numbered, @name is
 * followed by numbers from
 *  @first on. */
int pool_clone(struct pool *pool, uint32_t snapshot, const char *name, uint64_t count,
               bool numbered, uint64_t first, struct dt_error *err);
/** pool_label() - name a snapshot and keep it; @name NULL: keeps its name. pool_unlabel(): the
 * reverse. */
int pool_label(struct pool *pool, uint32_t snapshot, const char *name, struct dt_error *err);
int pool_unlabel(struct pool *pool, uint32_t snapshot, struct dt_error *err);
/** pool_rename() - not while it is mounted. */
int pool_rename(struct pool *pool, uint32_t slot, const char *name, struct dt_error *err);
int pool_resize(struct pool *pool, uint32_t disk, uint64_t size, struct dt_error *err);
/** pool_set_schedule() - take a snapshot each @every seconds, 0 = none, and keep them by @n rules. */
int pool_set_schedule(struct pool *pool, uint32_t disk, uint32_t every, const struct px_rule *rules,
                      unsigned n, struct dt_error *err);
/** pool_run_schedules() - take and delete what is due at @now, ns of wall clock; call it about each second. */
void pool_run_schedules(struct pool *pool, uint64_t now);
#define DISK_WEIGHT     100u /* unless told */
#define DISK_MAX_WEIGHT 10000u
/** pool_set_weight() - its share of the pool, relative to others that have requests at the same time. */
int pool_set_weight(struct pool *pool, uint32_t disk, unsigned weight, struct dt_error *err);
/** pool_set_quota() - what the disk and its snapshots may occupy; 0 = any. What is there already stays. */
int pool_set_quota(struct pool *pool, uint32_t disk, uint64_t bytes, enum px_policy policy,
                   struct dt_error *err);
/** pool_delete_snapshot(), pool_collapse(), pool_delete_disk() - space comes back in the
 * background. */
int pool_delete_snapshot(struct pool *pool, uint32_t snapshot, struct dt_error *err);
/** pool_delete_range() - snapshots @first to @last of a line, the older first; all or none, but for a crash on the way, and -EAGAIN: then those between them may be
 * gone, and it can be asked for again. */
int pool_delete_range(struct pool *pool, uint32_t first, uint32_t last, struct dt_error *err);
/** pool_collapse() - all from @parent on, up to and without @child. */
int pool_collapse(struct pool *pool, uint32_t parent, uint32_t child, struct dt_error *err);
/** pool_delete_disk() - with its snapshots back to the last labelled one. */
int pool_delete_disk(struct pool *pool, uint32_t disk, struct dt_error *err);
/** pool_rollback() - the disk returns to its newest snapshot, which @snapshot must be: -EBUSY names later ones. Not while it
 * is mounted. What it was stays in its history, if it has one. */
int pool_rollback(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err);
/** pool_rollback_past() - the same, with later snapshots deleted, as pool_delete_snapshot() would; where one of them cannot be, nothing
 * is done. After a crash the disk is as it was, or as it was to be, and may have fewer of them. */
int pool_rollback_past(struct pool *pool, uint32_t disk, uint32_t snapshot, struct dt_error *err);

/* ---- What a disk was: its history ---- */

#define PRESENT UINT64_MAX
/** pool_history() - keep what is written over for @seconds; 0: no longer. Of more than @most bytes the oldest goes
 * first; 0: any. */
int pool_history(struct pool *pool, uint32_t disk, uint32_t seconds, uint64_t most,
                 struct dt_error *err);
/** pool_history_turn() - let go what is too old. The pool does so itself about each second. */
void pool_history_turn(struct pool *pool);
/**
 * pool_moment() - as pool_find(), and "disk@{write N}", "disk@{2026-11-21T12:00:00}" (UTC), "disk@{-5min}".
 * @number: after which write; PRESENT if no moment is named.
 */
int pool_moment(struct pool *pool, const char *name, uint32_t *slot, uint64_t *number,
                struct dt_error *err);

/**
 * struct pool_past - the history of a disk.
 * @first, @last: the earliest and the latest write after which its state is known. @begin: time of the first.
 * @most, @counted: bytes, that it may occupy (0: any), and that are counted for that, where there is a limit.
 * @entries: how many changes of blocks are kept; @held: blocks kept for nothing else; @maps: and in maps and pages.
 */
struct pool_past {
    uint32_t keep;
    uint64_t first, last, begin, most, counted, entries, held, maps;
};
/** pool_past() - all but @entries, @held and @maps, which pool_past_usage() counts by reading all of it. */
int pool_past(struct pool *pool, uint32_t disk, struct pool_past *past, struct dt_error *err);
int pool_past_usage(struct pool *pool, uint32_t disk, struct pool_past *past, struct dt_error *err);

/** struct pool_write - a change of @count blocks from @index on: by write @number of @owner at @time. */
struct pool_write {
    uint64_t number, time, index, count;
    const char *owner;
};
/** pool_past_writes() - all that the history knows of blocks [@from, @to), oldest first. */
int pool_past_writes(struct pool *pool, uint32_t disk, uint64_t from, uint64_t to,
                     int (*tell)(void *arg, const struct pool_write *w), void *arg,
                     struct dt_error *err);
/** pool_birth() - the epoch in which a block of a disk or snapshot was written; 0: never. */
int pool_birth(struct pool *pool, uint32_t slot, uint64_t index, uint64_t *epoch,
               struct dt_error *err);

/* ---- Questions that read trees. They block. ---- */

/** struct disk_usage - in blocks. @shared: of those mapped, with equal ones elsewhere. @held: what deleting this one alone would give
 * back, but for shared ones. */
struct disk_usage {
    uint64_t mapped, shared, held, held_nodes;
};
int pool_usage(struct pool *pool, uint32_t slot, struct disk_usage *usage, struct dt_error *err);

/** struct pool_line_row - a disk or snapshot of a line. */
struct pool_line_row {
    uint32_t slot;
    struct disk_usage usage;
};
/** struct pool_together - what snapshots @first (the oldest) to @last have, all of them, and nothing else: places in rows, so
 * @first is the larger number. */
struct pool_together {
    uint32_t first, last;
    uint64_t blocks, nodes;
};
/**
 * struct pool_line - what a disk and its snapshots occupy.
 * @mapped:   tell also what each maps, and shares; takes time in the order of that.
 * @progress: or NULL.
 * @rows:     the newest first. A disk that was deleted is not there, though snapshots may be.
 * @together: what comes back only when several of them have gone, by the last one and then the first, the newest first.
 * @blocks, @nodes: of all: what comes back when all have gone, but for a history.
 */
struct pool_line {
    bool mapped;
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
    struct pool_line_row *rows;
    struct pool_together *together;
    uint32_t rows_n, together_n;
    uint64_t blocks, nodes;
};
/** pool_line() - find out; pool_line_free() frees it. In the order of what snapshots differ in. */
int pool_line(struct pool *pool, uint32_t disk, struct pool_line *line, struct dt_error *err);
void pool_line_free(struct pool_line *line);
/** pool_held_between() - what comes back when all from slot @first to slot @last go, the older first. -EINVAL: they are in another order, or none. */
int pool_held_between(const struct pool_line *line, uint32_t first, uint32_t last, uint64_t *blocks,
                      uint64_t *nodes);
/** pool_diff() - calls @range for each run of blocks that differs between two of one line; @older
 * NO_SLOT: all that is mapped. @mapped: false where @newer has a hole. */
int pool_diff(struct pool *pool, uint32_t older, uint32_t newer,
              int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped), void *arg,
              struct dt_error *err);

/** pool_read() - @count blocks of a disk or snapshot from @index on, compared with their checksums.
 * Beside a process that writes to the pool: of a snapshot that nobody can delete meanwhile. */
int pool_read(struct pool *pool, uint32_t slot, uint64_t index, unsigned count, void *buf,
              struct dt_error *err);

/** pool_diff_at() - the same between two states, of which histories may have one or both. */
int pool_diff_at(struct pool *pool, uint32_t older, uint64_t older_number, uint32_t newer,
                 uint64_t newer_number,
                 int (*range)(void *arg, uint64_t index, uint64_t count, bool mapped), void *arg,
                 struct dt_error *err);

/**
 * struct pool_check - what a check found.
 * @say:    called with each finding; all are also counted.
 * @holds:  is what was read until now still what it was? Asked before each finding and now and then; NULL: always.
 * @memory: of what is noted of blocks, about; 0: any. With less than all need, maps are read several times.
 */
struct pool_check {
    void (*say)(void *arg, const char *text);
    void (*progress)(void *arg, uint64_t done, uint64_t total);
    bool (*holds)(void *arg);
    void *arg;
    bool data; /* read all data and compare it with its checksums */
    uint64_t memory;
    uint64_t nodes, blocks, damaged, leaked, unmarked, doubly, mischarged, miscounted;
};
/**
 * A pool is repaired when it is opened (struct pool_options), before its journal is replayed: so it has not to give out any
 * block before. -EBADMSG: maps of disks are damaged, too: what they lead to cannot be told from
 * what nothing leads to, and nothing was changed.
 */
/** pool_check() - read the whole pool; repairs nothing. 0 if it could be carried out, whatever it
 * found. -ESTALE: @holds has ended it. */
int pool_check(struct pool *pool, struct pool_check *check, struct dt_error *err);

/* ---- Disks ---- */

/** disk_open() - mount a disk (one writer at a time), or with @read_only a disk or snapshot. */
int disk_open(struct disk **disk, struct pool *pool, uint32_t slot, bool read_only,
              const char *owner, struct dt_error *err);
/** disk_open_at() - what a disk was after write @number; PRESENT: as disk_open(), to read. Where nothing marks that
 * moment a hidden snapshot is taken, so that it stays as it is. */
int disk_open_at(struct disk **disk, struct pool *pool, uint32_t slot, uint64_t number,
                 const char *owner, struct dt_error *err);
/** disk_close() - nothing may be under way. */
void disk_close(struct disk *disk);
uint32_t disk_slot(const struct disk *disk);
/** disk_about() - the same; of what a disk was, that disk's. Events name it. */
uint32_t disk_about(const struct disk *disk);
struct pool *disk_pool(const struct disk *disk);

/**
 * disk_map() - what the @count blocks from @index on hold; not 0.
 * @run: for so many of them it is the answer: 1: they are mapped; 0: they are holes; -errno: the tree is damaged.
 * It looks at few blocks of the pool, whatever @count is.
 */
int disk_map(struct disk *disk, uint64_t index, uint64_t count, uint64_t *run);

#define DISK_MAX_BLOCKS 64u /* of one request; any offset within a block may be added */

enum disk_op { DISK_READ, DISK_WRITE, DISK_ZERO, DISK_DISCARD, DISK_FLUSH };

/**
 * struct disk_req - a request; embed it.
 * @offset, @length: bytes, multiples of 512 within the disk; READ and WRITE: at most
 * DISK_MAX_BLOCKS blocks.
 * @buf:  private memory, which does not change until @done; aligned to 4096.
 * @done: with @error; never before disk_submit() returns... unless there is nothing to wait for.
 *
 * DISCARD leaves alone what is not a whole block; ZERO does not.
 */
struct disk_req {
    enum disk_op op;
    bool fua;
    int error;
    uint64_t offset, length;
    void *buf;
    void (*done)(struct disk_req *req);
    struct disk_req *next;
};
void disk_submit(struct disk *disk, struct disk_req *req);
/** disk_set_weight() - for this mount, instead of what the catalogue says; 0: that again. */
void disk_set_weight(struct disk *disk, unsigned weight);
/** disk_cancel_held() - fail what waits for space, or for the disk's quota. */
void disk_cancel_held(struct disk *disk, int error);
/** struct disk_counters - since it was mounted. */
struct disk_counters {
    uint64_t held, partial, zero_blocks, checksum_errors, retried, over_held, over_failed,
        map_reads;
};
const struct disk_counters *disk_counters(const struct disk *disk);

/**
 * struct disk_account - what a mount got of the pool.
 * @requests, @bytes: that ended; bytes of reads and writes.
 * @busy_ns: during which it had requests under way.
 * @waited:  requests that waited for their turn; @queued do now.
 */
struct disk_account {
    uint32_t slot;
    const char *owner;
    bool read_only;
    unsigned weight;
    uint64_t requests, bytes, busy_ns, waited, in_flight, queued;
    const struct disk_counters *counters;
};
/** pool_accounts() - of each mount. */
void pool_accounts(struct pool *pool, void (*each)(void *arg, const struct disk_account *account),
                   void *arg);

#endif
