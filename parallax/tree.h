/* SPDX-License-Identifier: MIT */
/* tree.h - trees of pointers to blocks (map.c). */
#ifndef PARALLAX_TREE_H
#define PARALLAX_TREE_H

#include "parallax/node.h"

/** struct tree_lost - @nodes that could not be read and were left out; @spoilt: the address of the first one of which something
 * was to be kept, or 0. */
struct tree_lost {
    uint64_t nodes, spoilt;
};

/** tree_spoil() - this one lacks something from now on. */
static inline void tree_spoil(struct tree_lost *lost, struct px_ptr ptr)
{
    lost->nodes++;
    lost->spoilt = lost->spoilt ?: ptr_addr(ptr);
}

/**
 * struct tree - a tree and whose it is.
 * @epoch:  birth of what is written.
 * @since:  what was born after this is the owner's alone...
 * @cursor, @since_before: ...and, before this index, after that.
 * @charged: of a disk: counts its blocks of data; or NULL.
 * @note:    what is replaced is kept in the disk's history, and not given back; or NULL.
 * @lost:    what cannot be read is left out: of a change, then its pointer bears PX_LOST_CRC; of what is given back, then that stays
 * marked as in use. NULL: it is an error.
 */
struct tree {
    struct px_ptr *root;
    uint8_t *levels;
    enum tree_kind kind;
    uint64_t epoch, since;
    uint64_t cursor, since_before;
    uint64_t *charged;
    const struct past_note *note;
    struct tree_lost *lost;
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
/** tree_leaf() - the node at level 1 above @index, changeable; made if it is not there. 1: it was left out. */
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
/** tree_cut() - of catalogue or free maps: the node above @index that cannot be read, and all below it, become a hole. Of
 * @count indices from @first on; 0: there is none. */
int tree_cut(struct pool *pool, const struct tree *t, uint64_t index, uint64_t *first,
             uint64_t *count);
/** tree_page() - of catalogue or free maps: the mapped block itself, changeable. */
int tree_page(struct pool *pool, const struct tree *t, uint64_t index, struct node **page);

/** tree_uncharge() - a block of data is given back. A damaged pool may count fewer than there are. */
static inline void tree_uncharge(uint64_t *charged)
{
    if (charged && *charged)
        --*charged;
}

#endif
