/* SPDX-License-Identifier: MIT */
/* forward.h - where blocks lead that were found to be equal (forward.c). */
#ifndef PARALLAX_FORWARD_H
#define PARALLAX_FORWARD_H

#include "parallax/format.h"
#include "parallax/parallax.h"

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
/** forward_free() - the owner of a block of data gives it back. Where the table cannot be read it stays marked as in use. */
int forward_free(struct pool *pool, struct px_ptr ptr);
/** forward_mergeable() - 1: of two different blocks, one can be forwarded. 0: not, or they share one. */
int forward_mergeable(struct pool *pool, struct px_ptr a, struct px_ptr b);
/** forward_merge() - the same, and do so: both are in use, and their contents are equal. */
int forward_merge(struct pool *pool, struct px_ptr a, struct px_ptr b);

#endif
