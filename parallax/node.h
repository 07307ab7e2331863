/* SPDX-License-Identifier: MIT */
/* node.h - nodes of trees in memory (node.c). */
#ifndef PARALLAX_NODE_H
#define PARALLAX_NODE_H

#include "parallax/format.h"
#include "parallax/parallax.h"

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
 * @evicted: nodes that left the memory and may be needed again, in all.
 * @freezes: how many frozen ones there were at the last freeze.
 */
struct node_cache {
    struct node **hash;
    uint64_t mask, count, dirty_count, limit, generation, freezes, evicted;
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

#endif
