/* SPDX-License-Identifier: MIT */
/* copypool.h - a buddy allocator over one range of memory; its bookkeeping lies outside of it. */
#ifndef CORE_COPYPOOL_H
#define CORE_COPYPOOL_H

#include "base/base.h"

/*
 * Pieces of 4 KiB to 1 MiB, contiguous and
 * page-aligned. Pages are touched when used, so an idle pool costs nothing.
 */
#define COPYPOOL_MIN_SHIFT 12u
#define COPYPOOL_MAX_SHIFT 20u
#define COPYPOOL_ORDERS    (COPYPOOL_MAX_SHIFT - COPYPOOL_MIN_SHIFT + 1)
struct copypool {
    uint8_t *base;
    size_t size;
    size_t free_bytes;
    void *mapping; /* of its own, which holds its memory; or NULL */
    size_t mapped;
    bool huge;                          /* huge pages were asked for */
    int32_t free_head[COPYPOOL_ORDERS]; /* page index of the first free piece, -1 = none */
    struct copypool_page {
        int32_t next, prev;
        int8_t free_order; /* order of the free piece that begins here, or -1 */
        int8_t used_order; /* order of the piece in use that begins here, or -1 */
    } * pages;
};
int copypool_init(struct copypool *pool, size_t bytes);
/** copypool_init_at() - over memory of the caller: whole MiBs, page-aligned, shared with others or not. */
void copypool_init_at(struct copypool *pool, void *base, size_t bytes);
void copypool_fini(struct copypool *pool);
/** copypool_abandon() - as copypool_fini(), whatever is still in use. */
void copypool_abandon(struct copypool *pool);
/** copypool_get() - @bytes <= 1 MiB, leaving @reserve bytes free for others; NULL if it cannot. */
void *copypool_get(struct copypool *pool, size_t bytes, size_t reserve);
void copypool_put(struct copypool *pool, void *piece);

#endif
