/* SPDX-License-Identifier: MIT */
/* px_use.h - a pool in memory, used step by step: for tests that know what they want of it. */
#ifndef TESTS_PX_USE_H
#define TESTS_PX_USE_H

#include "px_rig.h"

#include <stdio.h>
#include <time.h>

/**
 * struct px_use - how often each event was said; @last: the text of the last, @about: its slot. @now: the pool's clock;
 * 0: the system's. @dirty, @slice, @cache: as in struct pool_options; with @slice the cache is small, too. @kicks: turns
 * that the pool asked for. @lazy: as in struct pool_options.
 */
struct px_use {
    struct rig_store *store;
    struct pool *pool;
    unsigned quota, dropped, resumed, others;
    char last[256];
    uint32_t about;
    uint64_t now;
    unsigned dirty, slice, kicks;
    size_t cache;
    bool lazy;
};

static inline void px_said(void *arg, uint32_t slot, const char *event, const char *text)
{
    struct px_use *u = arg;

    if (strcmp(event, "quota") == 0)
        u->quota++;
    else if (strcmp(event, "dropped") == 0)
        u->dropped++;
    else if (strcmp(event, "resumed") == 0)
        u->resumed++;
    else
        u->others++;
    snprintf(u->last, sizeof(u->last), "%s", text);
    u->about = slot;
}

static inline uint64_t px_clock(void *arg)
{
    const struct px_use *u = arg;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return u->now ?: (uint64_t)now.tv_sec * DT_S(1) + (uint64_t)now.tv_nsec;
}

static inline void px_kick(void *arg)
{
    struct px_use *u = arg;

    u->kicks++;
}

static inline void px_reopen(struct px_use *u)
{
    struct pool_options o = {.cache = u->slice ? 64 * 4200 : u->cache,
                             .lazy = u->lazy,
                             .dirty = u->dirty,
                             .slice = u->slice,
                             .kick = px_kick,
                             .event = px_said,
                             .clock = px_clock,
                             .arg = u};
    struct dt_error err = {""};

    if (u->pool) {
        u->store->pending_n = 0;
        pool_abandon(u->pool);
    }
    if (pool_open(&u->pool, &u->store->s, &o, &err) < 0) {
        log_error("%s", err.text);
        CHECK(!"it opens");
    }
}

static inline void px_begin(struct px_use *u, uint64_t blocks)
{
    struct pool_create_options create = {0};
    struct dt_error err;

    *u = (struct px_use){.store = rig_store_new(blocks, 5)};
    CHECK(pool_create(&u->store->s, &create, &err) == 0);
    px_reopen(u);
}

static inline void px_end(struct px_use *u)
{
    u->store->pending_n = 0;
    pool_abandon(u->pool);
    rig_store_free(u->store);
}

/** px_run() - until nothing moves any more. */
static inline void px_run(struct px_use *u)
{
    for (unsigned still = 0; still < 4;)
        still = rig_turn(u->store) || pool_turn(u->pool) ? 0 : still + 1;
}

static inline uint32_t px_slot(struct px_use *u, const char *name)
{
    struct dt_error err;
    uint32_t slot = pool_find(u->pool, name, &err);

    CHECK(slot != NO_SLOT);
    return slot;
}

static inline struct disk *px_open(struct px_use *u, const char *name)
{
    struct dt_error err;
    struct disk *disk;

    CHECK(disk_open(&disk, u->pool, px_slot(u, name), false, "test", &err) == 0);
    return disk;
}

static inline struct disk *px_create(struct px_use *u, const char *name, uint64_t blocks)
{
    struct dt_error err;

    CHECK(pool_create_disk(u->pool, name, blocks * PX_BLOCK, 512, &err) == 0);
    return px_open(u, name);
}

static inline void px_snapshot(struct px_use *u, const char *disk, const char *name)
{
    uint32_t slot = px_slot(u, disk);
    struct dt_error err;

    CHECK(pool_snapshot(u->pool, &slot, 1, &name, NULL, &err) == 0);
}

static inline uint64_t px_charged(struct px_use *u, const char *disk)
{
    return pool_record(u->pool, px_slot(u, disk))->charged;
}

/** struct px_io - a request of its own memory. */
struct px_io {
    struct disk_req req;
    bool done;
};

static inline void px_done(struct disk_req *req)
{
    container_of(req, struct px_io, req)->done = true;
}

/** px_submit() - of @count blocks from @block on, each a different one where it is written. */
static inline struct px_io *px_submit(struct disk *disk, enum disk_op op, uint64_t block,
                                      unsigned count)
{
    static uint32_t stamp;
    struct px_io *io = xcalloc(1, sizeof(*io));

    io->req = (struct disk_req){.op = op,
                                .offset = block * PX_BLOCK,
                                .length = (uint64_t)count * PX_BLOCK,
                                .done = px_done};
    if (op == DISK_WRITE || op == DISK_READ)
        io->req.buf = xaligned(PX_BLOCK, (size_t)count * PX_BLOCK);
    for (unsigned i = 0; op == DISK_WRITE && i < count; i++)
        memset((char *)io->req.buf + (size_t)i * PX_BLOCK, (int)(1 + stamp++ % 255), PX_BLOCK);
    disk_submit(disk, &io->req);
    return io;
}

static inline int px_finish(struct px_io *io)
{
    int error = io->req.error;

    CHECK(io->done);
    free(io->req.buf);
    free(io);
    return error;
}

/** px_do() - the same, and its error. It must end. */
static inline int px_do(struct px_use *u, struct disk *disk, enum disk_op op, uint64_t block,
                        unsigned count)
{
    struct px_io *io = px_submit(disk, op, block, count);

    px_run(u);
    return px_finish(io);
}

#endif
