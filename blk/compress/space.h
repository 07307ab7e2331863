/* SPDX-License-Identifier: MIT */
/* space.h - which blocks of the store are in use. It is written nowhere: the map says it at the
 * start. */
#ifndef COMPRESS_SPACE_H
#define COMPRESS_SPACE_H

#include "base/base.h"

/**
 * struct compress_space - a bit for each block: named by an entry, being written, or not free yet.
 * @limit: how many there can be. @end: none behind it was ever used. @next: where to look next.
 * @tight: growing has failed: look at all that there is before it is tried again.
 */
struct compress_space {
    uint64_t *busy;
    uint64_t limit, end, next, used;
    bool tight;
};

/** compress_space_init() - memory is taken when it is first used. */
int compress_space_init(struct compress_space *s, uint64_t limit);
void compress_space_fini(struct compress_space *s);
/** compress_space_take() - these are in use; false if one is already. */
bool compress_space_take(struct compress_space *s, uint64_t block, uint32_t count);
/** compress_space_alloc() - @count blocks in a row; -ENOSPC. */
int compress_space_alloc(struct compress_space *s, uint32_t count, uint64_t *block);
void compress_space_free(struct compress_space *s, uint64_t block, uint32_t count);

/** struct compress_extent - blocks in a row. @discarded: their space is to be given back. */
struct compress_extent {
    uint64_t block;
    uint32_t count;
    bool discarded;
};

struct compress_extents {
    struct compress_extent *at;
    uint64_t n, room, blocks;
};

/** compress_extents_add() - joins it to the last one where it can. */
void compress_extents_add(struct compress_extents *e, struct compress_extent extent);
/** compress_extents_move() - all of @from to @to. */
void compress_extents_move(struct compress_extents *to, struct compress_extents *from);
void compress_extents_fini(struct compress_extents *e);

#endif
