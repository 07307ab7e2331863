/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `cvd-local` share. */
#ifndef CVD_LOCAL_INTERNAL_H
#define CVD_LOCAL_INTERNAL_H

#include "base/patience.h"
#include "blk/cvd-local/shared.h"
#include "core/core.h"

enum cvd_counter {
    HELD,
    PARTIAL,
    ZERO_BLOCKS,
    CHECKSUM_ERRORS,
    RETRIED,
    QUOTA_HELD,
    QUOTA_FAILED,
    MAP_READS
};

/**
 * struct shared - a pool, once for all disks of this process that are in it.
 * @users: disks, and the host.
 * @peek:  before the fence: a look at it without a lock, for the sizes of disks.
 * @running: users that are started; all are on @loop's thread.
 * @holder, @event, @arg: the host's; without one events are those of the disks concerned.
 */
struct shared {
    struct shared *next;
    char *path;
    const char *holder;
    unsigned users, running;
    struct store *store;
    struct pool *peek, *pool;
    struct loop *loop;
    struct loop_deferred turn;
    struct dt_timer timer, schedules;
    void (*event)(void *arg, uint32_t slot, const char *event, const char *text);
    void *arg;
    struct list disks;
};

/** struct cvd - the layer. */
struct cvd {
    const char *path, *name;
    bool read_only;
    uint64_t cache, data_cache, weight;

    struct shared *shared;
    struct dt_layer *layer;
    struct list node; /* among the pool's */
    struct disk *disk;
    uint64_t size;
    uint32_t sector;
    struct disk_counters seen; /* what was added to the layer's counters already */
    struct dt_timer give_up;
    struct dt_ctx *c;
};

/** struct cvd_io - a request's frame. */
struct cvd_io {
    struct disk_req req;
    struct dt_ctx *c;
    void *bounce;
};

/** shared_get() - the pool at @path, opened for a look if it is not open. */
int shared_get(struct shared **shared, const char *path, struct dt_error *err);
/** shared_put() - close it with the last user. */
int shared_put(struct shared *shared, struct dt_error *err);
/** shared_lock() - take the pool's lock, recover it. */
int shared_lock(struct shared *s, size_t cache, uint64_t data_cache, uint64_t deadline,
                struct dt_error *err);
/** shared_start(), shared_stop() - on the thread. */
int shared_start(struct shared *s, struct loop *loop, struct dt_error *err);
void shared_stop(struct shared *s);
/** shared_look() - the pool, or what is known of it before the fence. */
static inline struct pool *shared_look(struct shared *s)
{
    return s->pool ?: s->peek;
}

/** cvd_resized() - the pool's record of it has another size. */
void cvd_resized(struct cvd *d);

/** cvd_status() - the layer's status(). */
void cvd_status(struct dt_layer *layer, struct dt_extent *extent);

extern const struct dt_verb cvd_verbs[];

#endif
