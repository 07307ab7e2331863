/* SPDX-License-Identifier: MIT */
/* check.h - what the parts of a check share. */
#ifndef PARALLAX_CHECK_H
#define PARALLAX_CHECK_H

#include "parallax/internal.h"

struct check_forwards;

#define CHECK_RUN 64u

/** struct check_run - blocks of data at consecutive addresses, to be read at once. */
struct check_run {
    uint64_t addr;
    unsigned n;
    struct {
        uint64_t index;
        struct px_ptr ptr; /* that was found there; it may be forwarded */
    } of[CHECK_RUN];
    uint8_t *buffer;
};

/**
 * struct checking
 * @first, @end: the blocks that this pass is about.
 * @prints:  of each of them; 0 = not reached. @visited: a bit for each other node that was gone through; NULL in
 * the only pass.
 * @charges: of each slot.
 * @slot:    whose tree is being gone through, but for what was not born after @after, and lies before @cursor.
 * @used:    marked as in use; @unread: but for parts of the free maps that could not be read.
 * @of_maps: findings of damage in free maps; @spoilt: of nodes that recovery has given up.
 * @ended:   the root is not held any more.
 */
struct checking {
    struct pool *pool;
    struct pool_check *c;
    uint64_t first, end;
    uint32_t *prints;
    uint64_t *visited;
    uint64_t *charges;
    uint32_t slot;
    uint64_t after, cursor;
    const char *where;
    struct check_run run;
    struct check_forwards *forwards;
    uint64_t used, of_maps, spoilt;
    bool unread, ended;
    unsigned asked; /* check_others() */
    char others[512];
};

static inline bool check_here(const struct checking *k, uint64_t addr)
{
    return addr >= k->first && addr < k->end;
}

/** check_then() - as pool_check(), of the pool as it is in memory; @then is called when all is known, if it was one pass. */
int check_then(struct pool *pool, struct pool_check *check,
               int (*then)(struct checking *k, struct dt_error *err), struct dt_error *err);

/** check_found() - count a finding, and say it. */
void check_found(struct checking *k, uint64_t *counter, const char *fmt, ...) DT_PRINTF(3, 4);

/* check-data.c */

/** check_data() - have the block at @addr read, soon, to which @ptr leads. */
void check_data(struct checking *k, struct px_ptr ptr, uint64_t addr, uint64_t index);
/** check_data_now() - those that wait, before @where changes. */
void check_data_now(struct checking *k);

/* check-names.c */

/** check_others() - "; also in NAME, ...": who else has @ptr there, as far as that is soon told. */
const char *check_others(struct checking *k, struct px_ptr ptr, unsigned level, uint64_t index);

/* check-forward.c */

/** check_forwards_new() - NULL: the pool shares nothing. */
struct check_forwards *check_forwards_new(const struct pool *pool, uint64_t window);
void check_forwards_free(struct check_forwards *f);
/** check_forwards_cost() - bytes of memory for each block of a pass. */
uint64_t check_forwards_cost(const struct pool *pool);
/** check_forwards_begin() - another pass. */
void check_forwards_begin(struct check_forwards *f, uint64_t window);
/** check_forwarded() - a pointer to data is reached; @print tells where. -1: it is not forwarded. 1: it is, @ptr is where
 * to now, and it was reached for the first time. 0: nothing remains to be done. */
int check_forwarded(struct checking *k, struct px_ptr *ptr, uint32_t print);
/** check_forwards() - when all pointers were reached: compare this pass's part of the table with them. */
void check_forwards(struct checking *k);
/** check_forwards_end() - after the last pass. */
void check_forwards_end(struct checking *k);

#endif
