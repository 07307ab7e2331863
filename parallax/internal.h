/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of a pool share. */
#ifndef PARALLAX_INTERNAL_H
#define PARALLAX_INTERNAL_H

#include "base/fifo.h"
#include "parallax/catalog.h"
#include "parallax/data-cache.h"
#include "parallax/forward.h"
#include "parallax/parallax.h"
#include "parallax/space.h"

#define POOL_MAGIC 0x6c6f6f70u

/* ---- Nodes that requests wait for (fetch.c) ---- */

#define FETCH_BUCKETS 64u

struct fetch;

/**
 * struct fetches - nodes that the store is reading, by their addresses.
 * @arrived: the one that those who waited for it are looking at now, or NULL.
 */
struct fetches {
    struct fetch *bucket[FETCH_BUCKETS];
    struct fetch *arrived, *free;
};

/** fetch_possible() - may a request wait for it, instead of the whole pool? */
bool fetch_possible(const struct pool *pool, struct px_ptr ptr);
/** fetch_take() - @block gets what @ptr points to, if it has just arrived. */
bool fetch_take(struct pool *pool, struct px_ptr ptr, void *block);
void fetch_fini(struct pool *pool);

/* ---- Janitor (janitor.c) ---- */

struct janitor;

/** janitor_written() - these blocks of a disk were written: compare them with others soon. */
void janitor_written(struct pool *pool, uint32_t slot, uint64_t index, uint64_t addr,
                     unsigned count, const uint32_t *crc);
/** janitor_turn() - look for equal blocks, at the rate that was set. True: there is more to do now. */
bool janitor_turn(struct pool *pool);
/** janitor_wait() - it is to be called after so many ns. */
uint64_t janitor_wait(const struct pool *pool);
void janitor_fini(struct pool *pool);
/** share_judge() - could a pool be told so? */
int share_judge(enum px_share share, uint64_t rate, struct dt_error *err);

/* ---- Preallocation (prealloc.c) ---- */

/** prealloc_judge() - could a pool on this store be told so? */
int prealloc_judge(const struct store *store, enum px_preallocation how, struct dt_error *err);

/* ---- Journal (journal.c) ---- */

struct journal {
    uint64_t first, blocks; /* where it is */
    uint64_t generation;
    uint64_t seq;      /* of the block being filled */
    uint64_t start;    /* first that the durable root needs */
    uint64_t flushed;  /* all below are durable */
    uint32_t previous; /* CRC of the block before, as it was put last */
    bool dirty;        /* the block being filled has records that were not put */
    struct px_journal *block;
};

#define JOURNAL_SPARE 6u /* blocks kept for changes of the catalogue */

void journal_init(struct pool *pool, uint64_t generation, uint64_t seq);
/** journal_has_room() - for @bytes of records besides what is promised, leaving @spare blocks free.
 */
bool journal_has_room(const struct pool *pool, size_t bytes, unsigned spare);
/** journal_add() - room for a record, its header filled in. journal_has_room() must have been
 * asked. */
void *journal_add(struct pool *pool, enum px_entry_type type, uint32_t slot, size_t bytes);
/** journal_together() - the next @bytes of records will be in one block. */
void journal_together(struct pool *pool, size_t bytes);
/** journal_put() - hand all records to the store: they outlive this process. */
int journal_put(struct pool *pool);
/** journal_seal() - the same, and begin another block. Return: all below this number are sealed. */
int journal_seal(struct pool *pool, uint64_t *seq);
/** journal_judge() - is this block what it should be? */
bool journal_judge(const struct px_journal *block, uint64_t generation, uint64_t seq);

/* ---- Changes (change-check.c, change.c) ---- */

/** change_check() - could it be carried out? */
int change_check(struct pool *pool, const struct px_change *change, struct dt_error *err);
/** change_apply() - carry out a change, asked for now or read from a journal: all is checked.
 * Errors change nothing. */
int change_apply(struct pool *pool, const struct px_change *change, struct dt_error *err);

/* ---- Probes (probe.c) ---- */

/** probe_set() - all that mapping these blocks of a disk will read can be read, and is in memory until nodes are trimmed. */
int probe_set(struct pool *pool, uint32_t slot, uint64_t index, uint64_t count);
/** probe_zero() - the same of unmapping [@from, @to). */
int probe_zero(struct pool *pool, uint32_t slot, uint64_t from, uint64_t to);
/** probe_past() - and of adding to its history, if it has one. */
int probe_past(struct pool *pool, uint32_t slot);

/* ---- Walks (walk.c) ---- */

/**
 * struct walk - goes through what @a reaches and @b does not.
 * @after:   only what was born after this epoch.
 * @cursor:  begin at this index, and end there when @budget nodes were visited; -EAGAIN then.
 * @block, @node: what was found; @node after all that is below it. @node may be NULL.
 * @lost:   nodes that could not be read and were left out; NULL: that is an error.
 */
struct walk {
    struct pool *pool;
    struct px_ptr a, b;
    unsigned a_levels, b_levels;
    uint64_t after;
    uint64_t cursor, end;
    uint64_t budget;
    int (*block)(struct walk *w, uint64_t index, struct px_ptr a, struct px_ptr b);
    int (*node)(struct walk *w, struct px_ptr a);
    void *arg;
    struct tree_lost *lost;
    bool holes; /* @block also for what only @b maps */
};
int walk_run(struct walk *w);
/** walk_against() - set up a walk of what deleting @slot gives back. */
void walk_against(struct pool *pool, uint32_t slot, struct walk *w);

/** usage_hidden() - add to @usage, of a hidden snapshot, what it is the last one to have and none before it has that people see
 * (usage.c). */
int usage_hidden(struct pool *pool, uint32_t slot, struct disk_usage *usage);

/* ---- Reclaim (reclaim.c) ---- */

/** reclaim_step() - visit about @budget nodes of what is being deleted. 1: there is more; 0:
 * nothing; -errno. */
int reclaim_step(struct pool *pool, uint64_t budget);
/** reclaim_find() - after opening: the one that was being given back. */
void reclaim_find(struct pool *pool);

/* ---- Pins (pin.c) ---- */

/** pin_written() - @root is as it will be on the store. pin_durable(): and it is there. */
void pin_written(struct pool *pool, const struct px_root *root);
void pin_durable(struct pool *pool);
/** pin_yield() - give up the pin if space waits for it. False: none does. */
bool pin_yield(struct pool *pool);
/** pin_turn() - give it up where it must be. */
void pin_turn(struct pool *pool);

/* ---- The pool ---- */

struct request_list {
    struct op *head, **tail;
};

/** enum checkpoint_state - in this order. PREPARE, WRITE and RELEASE go on in turns; the others wait for the store. */
enum checkpoint_state {
    CKPT_IDLE,
    CKPT_PREPARE,
    CKPT_WRITE,
    CKPT_LAND,
    CKPT_BODY,
    CKPT_ROOT,
    CKPT_RELEASE
};

struct batch;

/**
 * struct checkpoint - the root that is being made.
 * @journal: from here on it is not in this root. @begun: when it was frozen, or the one before.
 * @kind, @cursor: how far it is.
 * @under_way: batches of nodes on their way; @open: one that is being filled.
 * @blocking: somebody waits for it: nothing is left under way.
 * @again:    batches for which the store had no space. @waits: it tries again at @retry_at, these or the root itself.
 */
struct checkpoint {
    enum checkpoint_state state;
    struct px_root root;
    struct store_io io;
    uint64_t journal, begun, flush_begun;
    enum tree_kind kind;
    uint32_t cursor;
    struct batch *batches, *free, *open, *again;
    uint8_t *memory;
    unsigned under_way;
    int error;
    bool blocking, waits;
    uint64_t retry_at;
};

/** struct flush - of requests and waiters; @seq: the journal before it is durable then. */
struct flush {
    struct store_io io;
    struct pool *pool;
    bool under_way;
    uint64_t seq, begun;
    struct request_list requests;
    struct pool_waiter *waiters;
};
#define POOL_FLUSHES 2u

FIFO(disk_queue, disk_req)

/**
 * struct share - who may begin the next request (share.c).
 * @waiting: @disks disks with queues.
 * @busy:    disks with a queue or with requests under way.
 */
struct share {
    struct list waiting;
    unsigned disks, busy, under_way;
    bool choosing;
};

/** struct schedule - the disks that have one, once they are @known. */
struct schedule {
    struct plan *plans;
    uint32_t n, room;
    bool known;
};

/**
 * struct recovery - what the opening found, and what is left to do of it.
 * @blocks, @bytes: of the journal that was replayed: so many blocks count, and so much of the last of them.
 * @again:    it was of two generations already. @damage: something could not be read meanwhile.
 * @rootless: the root that ends it is not durable yet (reopen.c).
 */
struct recovery {
    uint32_t blocks, bytes;
    bool again, damage, rootless;
};

struct pool {
    uint32_t magic;
    struct store *store;
    struct pool_options o;
    uint8_t uuid[16];
    uint64_t created;
    struct px_root root; /* its trees as they are; the rest as the last one had it */
    struct node_cache nodes;
    struct fetches fetches;
    struct space space;
    struct journal journal;
    struct catalog catalog;
    struct forwards forwards;
    struct janitor *janitor;       /* or NULL: it did nothing yet */
    struct pool_pin *pin;          /* or NULL */
    struct data_cache *data_cache; /* or NULL */
    struct list data_caches;       /* and those that something began with */
    struct pool_cache_counters cached;
    struct list disks;
    uint64_t past_time; /* of the last stamp: time does not go back */
    uint64_t past_look; /* when histories were looked at last */
    uint32_t past_due;  /* the disk, plus 1, whose history got a page more and has a limit; or 0 */
    int failed;    /* a flush or the pool's own structures failed: nothing is changed any more */
    uint64_t lost; /* nodes that were left out when something was given back, since it was opened */
    struct pool_damage {
        uint64_t second;
        unsigned told, left_out; /* events, in this second */
    } damage;
    bool recovered, replaying, kicked, full, resuming;

    struct recovery recovery;
    struct checkpoint ckpt;
    uint64_t changes; /* since the last root was begun */
    struct flush flushes[POOL_FLUSHES];
    struct request_list flush_next; /* for the next of them */
    struct pool_waiter *wait_next;
    struct pool_times times;

    struct request_list acked;   /* complete them once the journal was put */
    struct request_list stalled; /* wait for space or for room in the journal */
    uint64_t over;               /* requests that wait for the quota of their disk */
    struct share share;
    struct schedule schedule;
    struct op *free_ops;
    uint64_t in_flight;
    uint64_t journal_promised; /* bytes of records of writes under way */
    uint32_t reclaiming;       /* the slot that is being given back, or NO_SLOT: one at a time */
    bool reclaim_maybe;
};

/** pool_is_thin() - is what is free given back to the file? */
static inline bool pool_is_thin(const struct pool *pool)
{
    return pool->root.preallocation == PX_THIN;
}
/** data_free() - the owner of a block of data gives it back. */
static inline int data_free(struct pool *pool, struct px_ptr ptr)
{
    return likely(!pool->root.features) ? space_free(pool, ptr_addr(ptr)) : forward_free(pool, ptr);
}
static inline struct tree pool_forward_tree(struct pool *pool)
{
    return (struct tree){.root = &pool->forwards.root,
                         .levels = &pool->forwards.levels,
                         .kind = TREE_FORWARD,
                         .epoch = pool->root.seq + 1};
}

/** pool_fail() - something of the pool's own broke: no changes from now on. Returns @error. */
int pool_fail(struct pool *pool, int error, const char *what);
void pool_say(struct pool *pool, const char *event, const char *fmt, ...) DT_PRINTF(3, 4);
/** pool_say_of() - of one disk or snapshot; pool_say() is of all. */
void pool_say_of(struct pool *pool, uint32_t slot, const char *event, const char *fmt, ...)
    DT_PRINTF(4, 5);
/** pool_lost() - what these nodes lead to, of what @slot had, could not be given back. */
void pool_lost(struct pool *pool, uint32_t slot, const struct tree_lost *lost);
/** pool_kick() - pool_turn() is needed. */
void pool_kick(struct pool *pool);
/** label_make() - @label of a new pool, which gets its geometry; label_put() writes it and its copy, label_refuse() where there is a
 * pool already. */
void label_make(struct pool *pool, struct px_label *label, uint64_t journal);
int label_put(struct store *store, const struct px_label *label);
int label_refuse(struct store *store, struct dt_error *err);
/** label_read() - of a pool that is opened: its geometry. */
int label_read(struct pool *pool, struct dt_error *err);
uint64_t pool_random(void);

/* checkpoint.c */
/** checkpoint_turn() - a slice of the root being made; begin one if it is time, or @now there is anything to
 * gain. True: there is more to do. */
bool checkpoint_turn(struct pool *pool, bool now);
/** checkpoint_under_way() - has the store anything of it? */
bool checkpoint_under_way(const struct pool *pool);
/** checkpoint_waits() - for space in the store: it tries again in so many ns; 0: it does not. */
uint64_t checkpoint_waits(const struct pool *pool);
/** checkpoint_put() - the root that is told becomes the newest on the store. Blocks. */
int checkpoint_put(struct pool *pool);
void checkpoint_fini(struct pool *pool);

/* repair.c */
/** repair() - write free maps and charges anew, as pool_options.repair tells; with the next root. */
int repair(struct pool *pool, struct dt_error *err);

/* recover.c */
int recover(struct pool *pool, struct dt_error *err);

/* reopen.c */
/** reopen_possible() - may the pool be served before the root that ends its recovery? */
bool reopen_possible(const struct pool *pool);
/** reopen_pool() - from now on: all that was replayed is durable, and the journal goes on behind it. Blocks.
 * 1: there is no space to say so, and nothing has changed. */
int reopen_pool(struct pool *pool);

/* io.c */
void pool_times_flush(struct pool *pool, uint64_t begun);
void io_turn(struct pool *pool);
/** io_resume() - there may be space or room in the journal again. */
void io_resume(struct pool *pool);
bool io_stalled(const struct pool *pool);
bool io_flushing(const struct pool *pool);

#include "parallax/past.h"

/** disk_mount() - as disk_open(), hidden snapshots too. */
int disk_mount(struct disk **disk, struct pool *pool, uint32_t slot, bool read_only,
               const char *owner, struct dt_error *err);

/* io-common.c */
/** common_mounted() - find out what the disk has in common with others. */
void common_mounted(struct disk *disk);
/** common_labelled() - the snapshot has been labelled. */
void common_labelled(struct pool *pool, uint32_t snapshot);

/* quota.c */
void quota_turn(struct pool *pool);

/* schedule.c, manage.c */
bool schedule_rules_good(const struct px_rule *rules, unsigned n);
int schedule_snapshot(struct pool *pool, uint32_t disk, uint64_t now, struct dt_error *err);
void schedule_fini(struct pool *pool);

/* share.c */
/** share_admit() - may it begin now? Else it waits for its turn. */
bool share_admit(struct disk *disk, struct disk_req *req);
/** share_next() - let those begin that may now. */
void share_next(struct pool *pool);

/**
 * struct disk - a mount.
 * @record:   of @slot: it stays in its place as long as the pool is open.
 * @past:     of what it was, or NULL; then @slot is the snapshot that this stands on.
 * @queue:    what waits for its turn; @deficit: bytes that it may spend yet in this round.
 * @weight:   0: what the catalogue says.
 * @common:   what was born up to this epoch, others may have, too.
 * @unflushed: blocks written since its last flush, and before that one since the one before, @flushed (io-write.c).
 * @over:     writes that wait for its quota; @promised: blocks that others may add to what it is charged for.
 * @damage_told: that its writes fail was said.
 * @over_told: that they wait was said. @over_look: when to look again for a snapshot to drop, or to speak.
 */
struct disk {
    struct list list;
    struct pool *pool;
    struct px_record *record;
    uint32_t slot;
    bool read_only, over_told, damage_told;
    struct past_view *past;
    uint64_t common;
    uint64_t unflushed, flushed;
    char owner[64];
    uint64_t in_flight;
    struct request_list over;
    uint64_t promised, over_look;
    struct list waiting; /* in struct share */
    struct disk_queue queue;
    unsigned weight;
    uint64_t deficit, queued, busy_since;
    struct disk_account account;
    struct disk_counters counters;
};

#endif
