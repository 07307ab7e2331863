/* SPDX-License-Identifier: MIT */
/*
 * shared.h - a pool within a process, for its disks there and for whoever administers it.
 *
 * A process may *host* a pool: then the pool stays open whatever disks come and go, all on the thread
 * of one loop. Without a host the first disk opens it and the last one closes it.
 */
#ifndef CVD_LOCAL_SHARED_H
#define CVD_LOCAL_SHARED_H

#include "parallax/parallax.h"

struct shared;

/**
 * struct shared_config - a pool to be hosted.
 * @loop:     which is turned by the calling thread, or will be.
 * @deadline: until when whoever has the lock is waited for, ns.
 * @holder, @event, @cache, @data_cache: as in struct pool_options.
 */
struct shared_config {
    const char *path, *holder;
    struct loop *loop;
    size_t cache;
    uint64_t data_cache;
    uint64_t deadline;
    void (*event)(void *arg, uint32_t slot, const char *event, const char *text);
    void *arg;
};
/** shared_host() - open the pool, recover it, and serve it. Blocks. */
int shared_host(struct shared **shared, const struct shared_config *config, struct dt_error *err);
/** shared_unhost() - no disk may be open. Blocks. */
int shared_unhost(struct shared *shared, struct dt_error *err);
struct pool *shared_pool(struct shared *shared);
/** shared_resized() - a disk has another size: tell those that have it open. */
void shared_resized(struct shared *shared, uint32_t slot);

#endif
