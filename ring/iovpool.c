/* SPDX-License-Identifier: MIT */
/*
 * iovpool.c - long vectors for the chains that do not fit their slot.
 *
 * Lists are reserved address space: a page costs memory once it was used, and the list given
 * back last is given out first, so a quiet guest never touches most of them.
 */
#include "ring/internal.h"

#include <sys/mman.h>

#define LIST_BYTES (VIRTQ_MAX_IOV * sizeof(struct iovec))

struct iovpool {
    uint8_t *lists;
    unsigned count, nfree;
    unsigned free[];
};

/** iovpool_new() - a pool of @lists lists; owned by the caller, iovpool_free() it. */
struct iovpool *iovpool_new(unsigned lists)
{
    struct iovpool *pool = xcalloc(1, sizeof(*pool) + lists * sizeof(pool->free[0]));

    pool->count = pool->nfree = lists;
    for (unsigned i = 0; i < lists; i++)
        pool->free[i] = lists - 1 - i;
    if (lists > 0) {
        pool->lists = mmap(NULL, lists * LIST_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(pool->lists != MAP_FAILED);
    }
    return pool;
}

/** iovpool_free() - all lists must have come back. NULL is allowed. */
void iovpool_free(struct iovpool *pool)
{
    if (!pool)
        return;
    CHECK(pool->nfree == pool->count);
    if (pool->count > 0)
        munmap(pool->lists, pool->count * LIST_BYTES);
    free(pool);
}

struct iovec *iovpool_get(struct iovpool *pool)
{
    if (pool->nfree == 0)
        return NULL;
    return (struct iovec *)(void *)(pool->lists + pool->free[--pool->nfree] * LIST_BYTES);
}

void iovpool_put(struct iovpool *pool, struct iovec *list)
{
    size_t at = (size_t)((uint8_t *)list - pool->lists) / LIST_BYTES;

    CHECK(at < pool->count && pool->nfree < pool->count);
    pool->free[pool->nfree++] = (unsigned)at;
}
