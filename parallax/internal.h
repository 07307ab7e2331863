/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of a pool share. */
#ifndef PARALLAX_INTERNAL_H
#define PARALLAX_INTERNAL_H

#include "base/fifo.h"
#include "parallax/data-cache.h"
#include "parallax/parallax.h"

#define POOL_MAGIC 0x6c6f6f70u

/* ---- Nodes in memory (node.c) ---- */

enum tree_kind { TREE_DISK, TREE_PAST, TREE_FORWARD, TREE_CATALOG, TREE_SPACE, TREE_KINDS };

/**
 * struct node - a block of a tree in memory: at level 1 and above, pointers; at level 0 (of
 * catalogue, free maps and histories), what the tree maps.
 * @generation: of the cache when it was given its address; 0: it was read. node_changeable(), node_frozen().
 * @known:   its checksum is that of its contents: it was read, or handed to the store.
 * @dropped: of a frozen one: nothing else needs it.
 * @pins:    held by a walk; not to be evicted.
 */
struct node {
    uint64_t addr, generation;
    struct node *hash_next;
    struct list list; /* where the cache has it */
    uint8_t kind, level;
    bool known, dropped, used;
    uint32_t pins;
    uint32_t crc;
    union {
        struct px_ptr ptrs[PX_FANOUT];
        uint8_t bytes[PX_BLOCK];
        struct px_record records[PX_RECORDS];
        struct px_past past;
        struct px_forward forwards[PX_FORWARDS];
    };
};

/**
 * struct node_cache
 * @freezing: a root is being made of the nodes of the generation before this one, and refers to the one before that.
 * @clean:   may be evicted. @dirty: by kind and level, changed since the last freeze. @frozen: the same, to be
 * handed to the store. @written: and those that were. @kept: of the root before, for pointers that do
 * not tell their checksums yet. @dropped: to be forgotten.
 * @freezes: how many frozen ones there were at the last freeze.
 */
struct node_cache {
    struct node **hash;
    uint64_t mask, count, dirty_count, limit, generation, freezes;
    bool freezing;
    struct list clean, written, kept, dropped;
    struct list dirty[TREE_KINDS][PX_MAX_LEVELS + 1], frozen[TREE_KINDS][PX_MAX_LEVELS + 1];
};

/** node_changeable() - it may be changed in place by whom it belongs to: the last freeze was before. */
static inline bool node_changeable(const struct node_cache *cache, const struct node *node)
{
    return node->generation == cache->generation;
}
/** node_frozen() - the root that is being made reaches it, or needs its checksum: it may be neither changed nor moved. */
static inline bool node_frozen(const struct node_cache *cache, const struct node *node)
{
    return cache->freezing && node->generation + 2 >= cache->generation &&
           !node_changeable(cache, node);
}

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
/** node_new() - a zeroed one at @addr, changeable. node_copy(): with the contents of @node. */
struct node *node_new(struct pool *pool, uint64_t addr, enum tree_kind kind, unsigned level);
struct node *node_copy(struct pool *pool, uint64_t addr, const struct node *node);
/** node_move() - a clean one to another address, changeable. */
void node_move(struct pool *pool, struct node *node, uint64_t addr);
/** node_drop() - forget what may be there of a block that was freed. */
void node_drop(struct pool *pool, uint64_t addr);
struct node *node_peek(const struct pool *pool, uint64_t addr);
/** node_trim() - evict clean ones beyond the limit; pointers to unpinned nodes are void. */
void node_trim(struct pool *pool);

/* A root's nodes, in this order: */

/** node_freeze() - all that is dirty belongs to the root being made from now on. */
void node_freeze(struct pool *pool);
/** node_resolve() - let a pointer tell its checksum, if that is known. False: it is not. */
bool node_resolve(struct pool *pool, struct px_ptr *ptr);
/** node_resolve_all() - of all pointers in it. False: some are not known. */
bool node_resolve_all(struct pool *pool, struct node *node);
/** node_next_frozen() - the next one of a kind, from the leaves up; its checksum is known now. NULL: none is left. */
struct node *node_next_frozen(struct pool *pool, enum tree_kind kind);
/** node_thaw() - all were handed to the store: they may be moved again. */
void node_thaw(struct pool *pool);
/** node_sweep() - forget up to @budget of those that nothing reaches any more. True: there are more. */
bool node_sweep(struct pool *pool, unsigned budget);

/* ---- Space (space.c) ---- */

/**
 * struct group - what is in use of PX_GROUP_BLOCKS blocks, as bits.
 * @map:     reached by what the next root will reach.
 * @busy:    may not be given out: mapped, being written, mapped by the durable root, or being punched.
 * @freed:   unmapped since the last root was begun. @freeing: before, but that root is not durable
 * yet.
 * @dirty:   @map differs from what the last root has. @page: where the root being made will have it.
 * @stale:   words of blocks that are free, and have space in the file (punch.c). @young: of those, lately.
 * @born:    mapped since the pinned root was begun, so not reached by it. @held: free, but for that root.
 */
struct group {
    uint64_t index;
    uint64_t *map, *busy, *freed, *freeing, *born, *held;
    struct node *page;
    bool dirty, has_freed, has_freeing, has_held;
    struct list todo, release; /* in struct space */
    uint64_t stale[PX_GROUP_WORDS / 64], young[PX_GROUP_WORDS / 64];
    unsigned stale_n;
    uint64_t stale_since;
    struct list warm;
};

/** enum pin_state - of a pin: the next root that is begun; the one that is being made; a durable one. */
enum pin_state { PIN_NONE, PIN_WANTED, PIN_BEGUN, PIN_HOLDS };

/**
 * struct space
 * @dirty: groups, without a page yet. @paged: with one. @release: that have blocks which the durable root dropped.
 * @frozen: a root is being made, and has the maps of those that are paged as they are now.
 * @warm: groups with stale words, @stale in all; the first one's have been so for the longest time.
 */
struct space {
    struct group **groups;
    uint64_t n;
    uint64_t blocks, used, free; /* free: not busy */
    uint64_t pending;            /* freed or freeing */
    uint64_t data_at, node_at;   /* where to look next */
    uint64_t reserve, promised;  /* for metadata; for writes under way */
    uint64_t first;              /* block that may be given out at all */
    enum pin_state pin;
    uint64_t held; /* for the pin */
    struct list dirty, paged, release;
    bool frozen;
    struct list warm;
    uint64_t stale;
    struct punch {
        struct store_io sio;
        uint64_t addr, count, begun, next; /* @count 0: none is under way; @next: not before */
        uint64_t total;                    /* blocks */
    } punch;
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
/** space_map() - the map of a group into @bits, of a block's size. */
int space_map(struct pool *pool, uint64_t index, uint64_t *bits);
/** space_unpin() - what is held may be given out. */
void space_unpin(struct pool *pool);
/** space_prepare() - have pages for the maps of up to *@budget changed groups. 1: there are more. */
int space_prepare(struct pool *pool, unsigned *budget);
/** space_freeze() - the rest; the root being made has the maps as they are now. */
int space_freeze(struct pool *pool);
/** space_capture() - put up to *@budget of these maps into their pages. True: there are more. */
bool space_capture(struct pool *pool, unsigned *budget);
/** space_durable() - that root is durable: what it dropped may be given out. Of up to *@budget groups; true: there are
 * more. */
bool space_durable(struct pool *pool, unsigned *budget);
int space_grow(struct pool *pool, uint64_t blocks);
/** space_set_reserve() - what writes leave free, as the pool's size and features are now. */
void space_set_reserve(struct pool *pool);

/* ---- Punching (punch.c) ---- */

/** punch_freed() - a word of a group is free, and may have space in the file. punch_used(): some of it is used now. */
void punch_freed(struct space *s, struct group *g, unsigned word);
void punch_used(struct space *s, struct group *g, unsigned first, unsigned last);
/** punch_warm() - where to go on giving out blocks, if it is not to be @at. */
uint64_t punch_warm(const struct space *s, uint64_t at, unsigned want);
/** punch_turn() - give space back to the file if it is time. */
void punch_turn(struct pool *pool);
/** punch_wait() - it is to be called after so many ns. */
uint64_t punch_wait(const struct pool *pool);
/** punch_all() - all that is stale. Blocks. */
void punch_all(struct pool *pool);

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
/** forward_follow_marked() - the same, and those whose block others lead to as well become PX_PTR_MERGED. */
int forward_follow_marked(struct pool *pool, unsigned count, struct px_ptr *ptrs);
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
/** janitor_wait() - it is to be called after so many ns. */
uint64_t janitor_wait(const struct pool *pool);
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

/** enum catalog_state - of a block: @CATALOG_DIRTY: changed since the last root was begun. @CATALOG_FROZEN: the root being made
 * has it, and its pointers here do not tell all checksums yet. */
enum catalog_state { CATALOG_DIRTY = 1, CATALOG_FROZEN = 2 };

struct catalog {
    struct px_record **blocks; /* of PX_RECORDS each */
    uint8_t *state;            /* of each block: enum catalog_state */
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
/** catalog_prepare() - have pages for up to *@budget changed blocks, from block *@cursor on. 1: there are more. */
int catalog_prepare(struct pool *pool, uint32_t *cursor, unsigned *budget);
/** catalog_freeze() - the root being made has the catalogue as it is now. */
int catalog_freeze(struct pool *pool);
/** catalog_resolve() - its trees are written: let up to *@budget blocks tell their checksums. True: there are more. */
bool catalog_resolve(struct pool *pool, uint32_t *cursor, unsigned *budget);
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
 */
struct checkpoint {
    enum checkpoint_state state;
    struct px_root root;
    struct store_io io;
    uint64_t journal, begun, flush_begun;
    enum tree_kind kind;
    uint32_t cursor;
    struct batch *batches, *free, *open;
    uint8_t *memory;
    unsigned under_way;
    int error;
    bool blocking;
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
    int failed; /* a flush or the pool's own structures failed: nothing is changed any more */
    bool recovered, replaying, kicked, full;

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
/** checkpoint_turn() - a slice of the root being made; begin one if it is time, or @now there is anything to
 * gain. True: there is more to do. */
bool checkpoint_turn(struct pool *pool, bool now);
/** checkpoint_under_way() - has the store anything of it? */
bool checkpoint_under_way(const struct pool *pool);
void checkpoint_fini(struct pool *pool);

/* recover.c */
int recover(struct pool *pool, struct dt_error *err);

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
    uint64_t common;
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
