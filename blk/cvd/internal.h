/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the back `cvd` share. */
#ifndef CVD_INTERNAL_H
#define CVD_INTERNAL_H

#include "base/patience.h"
#include "parallax/parallax.h"
#include <devtap/block.h>

enum cvd_counter { HELD, PARTIAL, ZERO_BLOCKS, CHECKSUM_ERRORS, RETRIED };

/**
 * struct shared - a pool, once for all disks of this process that are in it.
 * @peek: before the fence: a look at it without a lock, for the sizes of disks.
 * @ctxs: threads' ends of disks; all are on @loop's thread.
 */
struct shared {
    struct shared *next;
    char *path;
    unsigned disks, ctxs;
    struct store *store;
    struct pool *peek, *pool;
    struct loop *loop;
    struct loop_deferred turn;
    struct dt_timer timer;
    struct dt_layer *layer; /* one of them, to speak for all */
    bool running;
};

/** struct cvd - the layer. */
struct cvd {
    const char *path, *name;
    bool read_only;
    uint64_t cache;

    struct shared *shared;
    struct disk *disk;
    uint64_t size;
    uint32_t sector;
    bool is_snapshot;
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

/** shared_get() - the pool at @path, opened for a look. shared_put(): close it with the last user.
 */
int shared_get(struct cvd *d, struct dt_layer *layer, struct dt_error *err);
void shared_put(struct cvd *d, struct dt_layer *layer);
/** shared_lock() - take the pool's lock, recover it. */
int shared_lock(struct cvd *d, uint64_t deadline, struct dt_error *err);
/** shared_start(), shared_stop() - on the thread. */
int shared_start(struct cvd *d, struct dt_ctx *c, struct dt_error *err);
void shared_stop(struct cvd *d);

extern const struct dt_verb cvd_verbs[];

#endif
