/* SPDX-License-Identifier: MIT */
/*
 * data-cache.h - blocks of data in memory, for disks that have them in common.
 *
 * A block is known by its address in the pool. It belongs to the pool's thread, and knows nothing of disks:
 * who asks decides what is worth keeping (io-common.c).
 */
#ifndef PARALLAX_DATA_CACHE_H
#define PARALLAX_DATA_CACHE_H

#include "parallax/parallax.h"

struct data_cache;

/** data_cache_new() - of @bytes, tables included, one of @all of a pool. What happens is counted in @counters, which outlive it.
 * -EINVAL: too little for a cache; -ENOMEM. */
int data_cache_new(struct data_cache **cache, uint64_t bytes, struct pool_cache_counters *counters,
                   struct list *all);
/** data_cache_free_all() - whatever is under way is forgotten. */
void data_cache_free_all(struct list *all);
/** data_cache_retire() - nobody begins anything with it any more: it is freed once all that was begun has ended. NULL is none. */
void data_cache_retire(struct data_cache *cache);

/**
 * enum cached - what came of a look.
 * @CACHE_HIT:  the block was copied.
 * @CACHE_WAIT: somebody is reading it.
 * @CACHE_FILL: the caller has to read it, and to end with data_cache_filled(); others wait for that.
 * @CACHE_PASS: the caller has to read it for itself.
 */
enum cached { CACHE_HIT, CACHE_WAIT, CACHE_FILL, CACHE_PASS };
/**
 * data_cache_get() - the block at @addr with the checksum @crc, into @sio->iov.
 * @sio: of CACHE_WAIT: its done() is called, never before this returns, with 0 when the block was copied, or with -EAGAIN: read it without the cache.
 * @fill: of CACHE_FILL: for data_cache_filled().
 */
enum cached data_cache_get(struct data_cache *cache, uint64_t addr, uint32_t crc,
                           struct store_io *sio, uint32_t *fill);
/** data_cache_filled() - the caller has read the block, and compared it with its checksum; @bytes NULL: that failed. Whoever waits
 * goes on at once. */
void data_cache_filled(struct data_cache *cache, uint32_t fill, const void *bytes);
/** data_cache_drop() - the block at @addr is given back: what is there belongs to nobody. */
void data_cache_drop(struct data_cache *cache, uint64_t addr);

/** data_cache_held() - how many blocks it has. data_cache_most(): how many it can have. */
uint32_t data_cache_held(const struct data_cache *cache);
uint32_t data_cache_most(const struct data_cache *cache);

#endif
