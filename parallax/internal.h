/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of a pool share. */
#ifndef PARALLAX_INTERNAL_H
#define PARALLAX_INTERNAL_H

#include "base/fifo.h"
#include "parallax/parallax.h"

#define POOL_MAGIC 0x6c6f6f70u

/* ---- Nodes in memory (node.c) ---- */

enum tree_kind { TREE_DISK, TREE_PAST, TREE_FORWARD, TREE_CATALOG, TREE_SPACE, TREE_KINDS };

/**
 * struct node - a block of a tree in memory: at level 1 and above, pointers; at level 0 (of
 * catalogue, free maps and histories), what the tree maps.
 * @dirty: differs from the store, and was given its address since the last root: may be changed in
 * place by whom it belongs to. A clean one never is: it is moved to another address first.
 * @pins:  held by a walk; not to be evicted.
 */
struct node {
    uint64_t addr;
    struct node *hash_next;
    struct list list; /* of dirty ones by kind and level, or of clean ones */
    uint8_t kind, level;
    bool dirty, used;
    uint32_t pins;
    uint32_t crc; /* as it was written last */
    union {
        struct px_ptr ptrs[PX_FANOUT];
        uint8_t bytes[PX_BLOCK];
        struct px_record records[PX_RECORDS];
        struct px_past past;
        struct px_forward forwards[PX_FORWARDS];
    };
};

struct node_cache {
    struct node **hash;
    uint64_t mask, count, dirty_count, limit;
    struct list clean;
    struct list dirty[TREE_KINDS][PX_MAX_LEVELS + 1];
};

void node_cache_init(struct node_cache *cache, size_t bytes);
void node_cache_fini(struct node_cache *cache);
/** node_get() - the block that @ptr points to, read and judged if it is not there. -EBADMSG:
 * damaged, and told. */
int node_get(struct pool *pool, struct px_ptr ptr, enum tree_kind kind, unsigned level,
             struct node **node);
/** node_find() - the same, if it is in memory; else -ENOENT. */
int node_find(struct pool *pool, struct px_ptr ptr, enum tree_kind kind, unsigned level,
              struct node **node);
/** node_wanted() - it would have to be read, and could be. */
bool node_wanted(const struct pool *pool, struct px_ptr ptr);
/** node_on_store() - one that is not in memory: could it be read at all? */
bool node_on_store(const struct pool *pool, struct px_ptr ptr);
/** node_new() - a zeroed dirty one at @addr. */
struct node *node_new(struct pool *pool, uint64_t addr, enum tree_kind kind, unsigned level);
/** node_move() - a clean one to another address, dirty. */
void node_move(struct pool *pool, struct node *node, uint64_t addr);
/** node_drop() - forget what may be there of a block that was freed. */
void node_drop(struct pool *pool, uint64_t addr);
struct node *node_peek(const struct pool *pool, uint64_t addr);
/** node_cleaned() - it was written. */
void node_cleaned(struct pool *pool, struct node *node);
/** node_trim() - evict clean ones beyond the limit; pointers to unpinned nodes are void. */
void node_trim(struct pool *pool);

/* ---- Space (space.c) ---- */

/**
 * struct group - what is in use of PX_GROUP_BLOCKS blocks, as bits.
 * @map:     reached by what the next root will reach.
 * @busy:    may not be given out: mapped, being written, or mapped by the durable root.
 * @freed:   unmapped since the last root was begun. @freeing: before, but that root is not durable
 * yet.
 */
struct group {
    uint64_t *map, *busy, *freed, *freeing;
    bool dirty, has_freed, has_freeing;
};

struct space {
    struct group **groups;
    uint64_t n;
    uint64_t blocks, used, free; /* free: not busy */
    uint64_t pending;            /* freed or freeing */
    uint64_t data_at, node_at;   /* where to look next */
    uint64_t reserve, promised;  /* for metadata; for writes under way */
    uint64_t first;              /* block that may be given out at all */
};

int space_init(struct pool *pool, uint64_t blocks, uint64_t used);
void space_fini(struct pool *pool);
/** space_alloc() - up to @want consecutive blocks from @addr on, busy; how many, or -ENOSPC. */
int space_alloc(struct pool *pool, unsigned want, bool data, uint64_t *addr);
/** space_use() - these are mapped from now on. space_abandon(): they will not be. */
int space_use(struct pool *pool, uint64_t addr, unsigned count);
void space_abandon(struct pool *pool, uint64_t addr, unsigned count);
/** space_free() - not mapped any more. */
int space_free(struct pool *pool, uint64_t addr);
/** space_reserve_exact() - recovery: this block holds data of a write that will be replayed.
 * -EBADMSG: it is in use. */
int space_reserve_exact(struct pool *pool, uint64_t addr);
bool space_is_used(struct pool *pool, uint64_t addr, int *error);
/** space_checkpoint() - the maps of all changed groups into the tree of the free maps. */
int space_checkpoint(struct pool *pool);
/** space_durable() - the root that was begun last is: what it dropped may be given out. */
void space_durable(struct pool *pool);
int space_grow(struct pool *pool, uint64_t blocks);
/** space_set_reserve() - what writes leave free, as the pool's size and features are now. */
void space_set_reserve(struct pool *pool);

/* ---- Trees (map.c) ---- */

/**
 * struct tree - a tree and whose it is.
 * @epoch:  birth of what is written.
 * @since:  what was born after this is the owner's alone...
 * @cursor, @since_before: ...and, before this index, after that.
 * @charged: of a disk: counts its blocks of data; or NULL.
 * @note:    what is replaced is kept in the disk's history, and not given back; or NULL.
 */
struct tree {
    struct px_ptr *root;
    uint8_t *levels;
    enum tree_kind kind;
    uint64_t epoch, since;
    uint64_t cursor, since_before;
    uint64_t *charged;
    const struct past_note *note;
};

static inline uint64_t tree_span(unsigned level)
{
    return 1ull << (PX_FAN_SHIFT * level);
}
static inline unsigned tree_levels_for(uint64_t count)
{
    unsigned levels = 1;

    while (tree_span(levels) < count)
        levels++;
    return levels;
}
/** tree_owned() - is what was born at @birth, and ends at index @end, the owner's alone? */
static inline bool tree_owned(const struct tree *t, uint64_t birth, uint64_t end)
{
    return birth > (end <= t->cursor ? t->since_before : t->since);
}
/** tree_lookup() - the pointers of @count indices from @index on. */
int tree_lookup(struct pool *pool, const struct tree *t, uint64_t index, unsigned count,
                struct px_ptr *ptrs);
/** struct absent - a node that is not in memory, and its level. */
struct absent {
    struct px_ptr ptr;
    unsigned level;
};
/** tree_look() - as tree_lookup(), but where it would have to wait for the store, 1 and what for. */
int tree_look(struct pool *pool, const struct tree *t, uint64_t index, unsigned count,
              struct px_ptr *ptrs, struct absent *absent);
/** tree_hint() - the node at @level above @index will be needed: have the store read it meanwhile. */
int tree_hint(struct pool *pool, const struct tree *t, uint64_t index, unsigned level);
/** tree_above() - what leads to the node at @level above @index, or a hole; 0: to the mapped block
 * itself. */
int tree_above(struct pool *pool, const struct tree *t, uint64_t index, unsigned level,
               struct px_ptr *ptr);
/** tree_leaf() - the node at level @bottom + 1 above @index, changeable; made if it is not there.
 */
int tree_leaf(struct pool *pool, const struct tree *t, uint64_t index, struct node **leaf);
/** tree_set() - map @count indices from @index on to the blocks from @addr on, which are in use,
 * and give back what they replace. */
int tree_set(struct pool *pool, const struct tree *t, uint64_t index, unsigned count, uint64_t addr,
             const uint32_t *crc);
/** tree_zero() - unmap [@from, @to). */
int tree_zero(struct pool *pool, const struct tree *t, uint64_t from, uint64_t to);
/** tree_free_below() - give back what is below @ptr, at @level, from index @base on, and it itself, as far as
 * it is the owner's alone. */
int tree_free_below(struct pool *pool, const struct tree *t, struct px_ptr ptr, unsigned level,
                    uint64_t base);
/** tree_free_all() - give back all that is the owner's alone. The root pointer is left as it is. */
int tree_free_all(struct pool *pool, const struct tree *t);
/** tree_grow() - as many levels as @count indices need. */
int tree_grow(struct pool *pool, const struct tree *t, uint64_t count);
/** tree_page() - of catalogue or free maps: the mapped block itself, changeable. */
int tree_page(struct pool *pool, const struct tree *t, uint64_t index, struct node **page);

/** tree_uncharge() - a block of data is given back. A damaged pool may count fewer than there are. */
static inline void tree_uncharge(uint64_t *charged)
{
    if (charged && *charged)
        --*charged;
}

/* ---- Forwards (forward.c) ---- */

/**
 * struct forwards - the table of a pool that shares blocks.
 * @root, @levels: of its tree, as the next root will have it.
 * @shared:  how many blocks there would be more.
 * @relived: entries with a target and another life than 0.
 * @nodes:   that the whole table may have; 0 where the pool shares nothing.
 */
struct forwards {
    struct px_ptr root;
    uint8_t levels;
    uint64_t shared, relived, nodes;
};

/** forward_possible() - could this be a page of the table? */
bool forward_possible(const struct pool *pool, const struct px_forward *page);
/** forward_begin() - the pool was opened, or begins to share blocks. */
void forward_begin(struct pool *pool);
/** forward_grow() - it has more blocks. */
int forward_grow(struct pool *pool);
/** forward_entry() - of pointers to @addr with a life; all zero for most. */
int forward_entry(struct pool *pool, uint64_t addr, unsigned life, struct px_forward *entry);
/** forward_pages() - the lives that the table knows something of, for addresses near this one. */
int forward_pages(struct pool *pool, uint64_t addr, uint32_t *lives);
/** forward_shared() - 1: others lead to the same block as this pointer. 0; -errno. */
int forward_shared(struct pool *pool, struct px_ptr ptr);
/** forward_follow() - pointers to data become pointers to where it is, for reading alone. */
int forward_follow(struct pool *pool, unsigned count, struct px_ptr *ptrs);
/** forward_life() - of a pointer to what is written at @addr now, as a pointer's flags. */
int forward_life(struct pool *pool, uint64_t addr, uint32_t *flags);
/** forward_free() - the owner of a block of data gives it back. */
int forward_free(struct pool *pool, struct px_ptr ptr);
/** forward_mergeable() - 1: of two different blocks, one can be forwarded. 0: not, or they share one. */
int forward_mergeable(struct pool *pool, struct px_ptr a, struct px_ptr b);
/** forward_merge() - the same, and do so: both are in use, and their contents are equal. */
int forward_merge(struct pool *pool, struct px_ptr a, struct px_ptr b);

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
void janitor_fini(struct pool *pool);
/** share_judge() - could a pool be told so? */
int share_judge(enum px_share share, uint64_t rate, struct dt_error *err);

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

/* ---- Catalogue (catalog.c) ---- */

/** struct slot_info - what is known of a slot besides its record. @next: the snapshot after this
 * one or NO_SLOT. */
struct slot_info {
    uint32_t next, clones, hash_next, readers;
    bool dead; /* free, but not to be used before the next root is durable: the journal speaks of it
                */
    struct disk *writer;
};

struct catalog {
    struct px_record **blocks; /* of PX_RECORDS each */
    bool *dirty;
    struct slot_info *info;
    uint32_t slots, room; /* multiples of PX_RECORDS */
    uint32_t *hash;
    uint32_t hash_mask, named;
    uint32_t free_hint; /* no slot before it may be used */
    uint64_t dying;
    uint32_t *dead; /* slots, those that the root being made leaves out first */
    uint32_t dead_n, dead_room, dead_frozen;
    uint32_t *logs; /* slots of the histories that there are */
    uint32_t logs_n, logs_room;
    uint32_t *doomed; /* slots that were, and may still be, being deleted; the newest last */
    uint32_t doomed_n, doomed_room;
};

int catalog_load(struct pool *pool, struct dt_error *err);
void catalog_fini(struct pool *pool);
struct px_record *catalog_record(const struct pool *pool, uint32_t slot);
void catalog_touch(struct pool *pool, uint32_t slot);
/** catalog_claim() - put @record into a free @slot and make it known. */
int catalog_claim(struct pool *pool, uint32_t slot, const struct px_record *record);
/** catalog_release() - the slot is empty; used again after the next root. */
void catalog_release(struct pool *pool, uint32_t slot);
/** catalog_doom() - the slot is being deleted: catalog_doomed() is the one for which that was said last. */
void catalog_doom(struct pool *pool, uint32_t slot);
uint32_t catalog_doomed(struct pool *pool);
/** catalog_unname(), catalog_name() - around a change of name, parent or state. */
void catalog_unname(struct pool *pool, uint32_t slot);
void catalog_name(struct pool *pool, uint32_t slot);
uint32_t catalog_disk(const struct pool *pool, const char *name, size_t length);
uint32_t catalog_snapshot(const struct pool *pool, uint32_t disk, const char *name);
/** catalog_free_run() - the first of @count free slots in a row. */
uint32_t catalog_free_run(struct pool *pool, uint64_t count);
/** catalog_checkpoint() - changed blocks into the catalogue's tree. */
int catalog_checkpoint(struct pool *pool);
/** catalog_durable() - the root that was begun last is. */
void catalog_durable(struct pool *pool);
/** catalog_before() - epoch of what came before this snapshot or disk in its line. */
uint64_t catalog_epoch_before(const struct pool *pool, uint32_t slot);
/** catalog_tree() - how a slot's tree is to be changed. */
struct tree catalog_tree(struct pool *pool, uint32_t slot);
struct tree pool_catalog_tree(struct pool *pool);
struct tree pool_space_tree(struct pool *pool);

/* ---- Changes (change-check.c, change.c) ---- */

/** change_check() - could it be carried out? */
int change_check(struct pool *pool, const struct px_change *change, struct dt_error *err);
/** change_apply() - carry out a change, asked for now or read from a journal: all is checked.
 * Errors change nothing. */
int change_apply(struct pool *pool, const struct px_change *change, struct dt_error *err);

/* ---- Walks (walk.c) ---- */

/**
 * struct walk - goes through what @a reaches and @b does not.
 * @after:   only what was born after this epoch.
 * @cursor:  begin at this index, and end there when @budget nodes were visited; -EAGAIN then.
 * @block, @node: what was found; @node after all that is below it. @node may be NULL.
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
    bool holes; /* @block also for what only @b maps */
};
int walk_run(struct walk *w);
/** walk_against() - set up a walk of what deleting @slot gives back. */
void walk_against(struct pool *pool, uint32_t slot, struct walk *w);

/* ---- Reclaim (reclaim.c) ---- */

/** reclaim_step() - visit about @budget nodes of what is being deleted. 1: there is more; 0:
 * nothing; -errno. */
int reclaim_step(struct pool *pool, uint64_t budget);
/** reclaim_find() - after opening: the one that was being given back. */
void reclaim_find(struct pool *pool);

/* ---- The pool ---- */

enum checkpoint_state { CKPT_IDLE, CKPT_BODY, CKPT_ROOT };

struct request_list {
    struct op *head, **tail;
};

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

struct pool {
    uint32_t magic;
    struct store *store;
    struct pool_options o;
    uint8_t uuid[16];
    uint64_t created;
    struct px_root root; /* the durable one, then the one being made */
    struct node_cache nodes;
    struct fetches fetches;
    struct space space;
    struct journal journal;
    struct catalog catalog;
    struct forwards forwards;
    struct janitor *janitor; /* or NULL: it did nothing yet */
    struct list disks;
    uint64_t past_time; /* of the last stamp: time does not go back */
    uint64_t past_look; /* when histories were looked at last */
    int failed; /* a flush or the pool's own structures failed: nothing is changed any more */
    bool recovered, replaying, kicked, full;

    /* Checkpoints. */
    enum checkpoint_state ckpt;
    struct store_io ckpt_io;
    uint64_t ckpt_journal; /* the journal from here on is not in the root being made */
    uint64_t ckpt_time;
    uint64_t changes; /* since the last one was begun */

    /* Flushes. */
    struct store_io flush_io;
    bool flushing;
    uint64_t flush_seq;
    struct request_list flush_now, flush_next;
    struct pool_waiter *wait_now, *wait_next;

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
/** pool_kick() - pool_turn() is needed. */
void pool_kick(struct pool *pool);
uint64_t pool_random(void);

/* checkpoint.c */
int checkpoint_begin(
    struct pool *pool); /* then flush, checkpoint_root(), flush, checkpoint_end() */
int checkpoint_root(struct pool *pool);
void checkpoint_end(struct pool *pool);
/** checkpoint_maybe() - start one if it is time. */
void checkpoint_maybe(struct pool *pool, bool now);

/* recover.c */
int recover(struct pool *pool, struct dt_error *err);

/* io.c */
void io_turn(struct pool *pool);
/** io_resume() - there may be space or room in the journal again. */
void io_resume(struct pool *pool);
bool io_stalled(const struct pool *pool);

#include "parallax/past.h"

/** disk_mount() - as disk_open(), hidden snapshots too. */
int disk_mount(struct disk **disk, struct pool *pool, uint32_t slot, bool read_only,
               const char *owner, struct dt_error *err);

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
 * @over:     writes that wait for its quota; @promised: blocks that others may add to what it is charged for.
 * @over_told: that they wait was said. @over_look: when to look again for a snapshot to drop, or to speak.
 */
struct disk {
    struct list list;
    struct pool *pool;
    struct px_record *record;
    uint32_t slot;
    bool read_only, over_told;
    struct past_view *past;
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
