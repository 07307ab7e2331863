/* SPDX-License-Identifier: MIT */
/* px_world.h - one disk of a pool in memory, and what was written to it. */
#ifndef TESTS_PX_WORLD_H
#define TESTS_PX_WORLD_H

#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define WORLD_BLOCKS 16384u /* at most */

/** struct world - a disk, and what each of its blocks was filled with. @rng: the test's. */
struct world {
    struct px_use u;
    struct disk *disk;
    uint8_t now[WORLD_BLOCKS];
    struct dt_rng rng;
};

/** world_write() - it is under way; the caller has to finish it. */
static inline struct px_io *world_write(struct world *w, uint64_t block, unsigned count)
{
    struct px_io *io = px_submit(w->disk, DISK_WRITE, block, count);

    for (unsigned i = 0; i < count; i++)
        w->now[block + i] = ((const uint8_t *)io->req.buf)[(size_t)i * PX_BLOCK];
    return io;
}

static inline void world_write_now(struct world *w, uint64_t block, unsigned count)
{
    struct px_io *io = world_write(w, block, count);

    px_run(&w->u);
    assert_int_equal(px_finish(io), 0);
}

static inline void world_discard(struct world *w, uint64_t block, unsigned count)
{
    assert_int_equal(px_do(&w->u, w->disk, DISK_DISCARD, block, count), 0);
    memset(&w->now[block], 0, count);
}

/** world_compare() - the first @blocks, a multiple of 64, are as they were written. */
static inline void world_compare(struct world *w, uint64_t blocks)
{
    for (uint64_t at = 0; at < blocks; at += 64) {
        struct px_io *io = px_submit(w->disk, DISK_READ, at, 64);
        const uint8_t *got = io->req.buf;

        px_run(&w->u);
        for (unsigned i = 0; i < 64; i++)
            assert_int_equal(got[(size_t)i * PX_BLOCK + 77], w->now[at + i]);
        assert_int_equal(px_finish(io), 0);
    }
}

#endif
