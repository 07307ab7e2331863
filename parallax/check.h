/* SPDX-License-Identifier: MIT */
/* check.h - what the parts of a check share. */
#ifndef PARALLAX_CHECK_H
#define PARALLAX_CHECK_H

#include "parallax/internal.h"

struct check_forwards;

struct checking {
    struct pool *pool;
    struct pool_check *c;
    uint32_t *prints;  /* of each block; 0 = not reached */
    uint64_t *charges; /* of each slot */
    uint32_t slot;     /* whose tree is being gone through, */
    uint64_t after;    /* but for what was not born after this */
    uint8_t *buffer;
    const char *where;
    uint64_t cursor; /* of the tree that is being gone through */
    struct check_forwards *forwards;
};

/** check_found() - count a finding, and say it. */
void check_found(struct checking *k, uint64_t *counter, const char *fmt, ...) DT_PRINTF(3, 4);

/* check-forward.c */

/** check_forwards_new() - NULL: the pool shares nothing. */
struct check_forwards *check_forwards_new(const struct pool *pool);
void check_forwards_free(struct check_forwards *f);
/** check_forwarded() - a pointer to data is reached; @print tells where. -1: it is not forwarded. 1: it is, @ptr is where
 * to now, and it was reached for the first time. 0: nothing remains to be done. */
int check_forwarded(struct checking *k, struct px_ptr *ptr, uint32_t print);
/** check_forwards() - when all pointers were reached: compare the table with them. */
void check_forwards(struct checking *k);

#endif
