/* SPDX-License-Identifier: MIT */
/*
 * reopen.c - serving a pool before the root that ends its recovery is there.
 *
 * Theory of operation: when the journal has been replayed, the pool in memory is what the process before could have had there when
 * it ended: all that the journal speaks of is marked, and nothing is given out that the root reaches or the journal names. So it
 * can go on as if it was that process, and the root, which means writing all that was changed, is made in slices
 * as any other. Until then the journal goes on behind what was replayed. But it must be a journal of this opening: behind
 * its end there may be blocks of the process before, which were found not to belong to it. So it goes on in a generation of
 * its own, and where that begins is told by the old root, written once more with nothing else changed: of the first generation so many
 * blocks count, and so much of the last of them, and all of that is durable.
 *
 * A process that ends before its root is there leaves a journal of two generations. Who replays that makes a root before it serves: so
 * the journal of a pool whose process ends again and again does not grow without end, and a root needs to tell of two generations only.
 *
 * What could not be read when the journal was replayed has decided something that the journal does not tell; there, too, a root comes first.
 */
#include "parallax/internal.h"

bool reopen_possible(const struct pool *pool)
{
    const struct recovery *r = &pool->recovery;

    return pool->o.lazy && !pool->o.repair && r->bytes && !r->again && !r->damage &&
           r->blocks + JOURNAL_SPARE < pool->journal.blocks;
}

/* The root as it was, and where the journal goes on. */
static void tell(struct pool *pool, uint64_t generation)
{
    struct px_root *root = &pool->ckpt.root;

    *root = pool->root;
    root->version = PX_ROOT_REOPEN;
    root->seq++;
    root->next_generation = generation;
    root->closed_blocks = pool->recovery.blocks;
    root->closed_bytes = (uint16_t)pool->recovery.bytes;
}

int reopen_pool(struct pool *pool)
{
    uint64_t start = pool->journal.start, generation = pool_random() | 1;
    struct store *store = pool->store;
    int ret = store->sync(store); /* what is said to be there */

    if (ret < 0)
        return ret;
    tell(pool, generation);
    ret = checkpoint_put(pool);
    if (store_is_full(ret))
        return 1;
    ret = ret ?: store->sync(store);
    if (ret < 0)
        return ret;
    journal_init(pool, generation, start + pool->recovery.blocks);
    pool->journal.start = start;
    pool->recovery.rootless = true;
    return 0;
}
