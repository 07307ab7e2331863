/* SPDX-License-Identifier: MIT */
/* test_parallax_place.c - which blocks writes get, as the store sees it: how far a pool grows, and in how many pieces. */
#include "parallax/internal.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define POOL 65536u
#define DISK 4096u

/** struct world - @highest: of the addresses where data was written; @pieces: writes of the store. */
struct world {
    struct px_use u;
    struct disk *disk;
    uint64_t highest;
    unsigned pieces;
    struct dt_rng rng;
};

static void begin(struct world *w)
{
    px_begin(&w->u, POOL);
    w->disk = px_create(&w->u, "disk", DISK);
    px_run(&w->u);
    dt_rng_seed(&w->rng, 7);
}

static void end(struct world *w)
{
    disk_close(w->disk);
    rig_check(w->u.pool);
    px_end(&w->u);
    free(w);
}

static void write_at(struct world *w, uint64_t block, unsigned count)
{
    const struct rig_store *store = w->u.store;
    struct px_io *io;

    px_run(&w->u); /* what is under way after this is the write's alone */
    io = px_submit(w->disk, DISK_WRITE, block, count);
    w->pieces = store->pending_n;
    for (unsigned i = 0; i < store->pending_n; i++)
        w->highest = MAX(w->highest, store->pending[i].addr + store->pending[i].count - 1);
    px_run(&w->u);
    assert_int_equal(px_finish(io), 0);
}

static void fill(struct world *w)
{
    for (unsigned i = 0; i < DISK; i += 64)
        write_at(w, i, 64);
}

/* All of the disk many times, in any order, with a root now and then. */
static void write_over(struct world *w, unsigned count, unsigned each)
{
    struct dt_error err;

    for (unsigned i = 0; i < count; i++) {
        write_at(w, dt_rng_below(&w->rng, DISK - each), each);
        if (i % 512 == 511) {
            px_run(&w->u);
            assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
        }
    }
}

/* The pool is sixteen times as large as its disk, and most of it is never touched. */
static void overwrites_do_not_spread(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    begin(w);
    fill(w);
    write_over(w, 30000, 1);
    assert_in_range(w->highest, DISK, DISK * 5 / 4 + PX_GROUP_BLOCKS / 4 + 2 * DISK);
    end(w);
}

/* After that large writes find room for all of them. */
static void large_writes_in_one_piece(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    unsigned pieces = 0;

    begin(w);
    fill(w);
    write_over(w, 30000, 1);
    for (unsigned i = 0; i < DISK; i += 64) {
        write_at(w, i, 64);
        pieces += w->pieces;
    }
    assert_int_equal(pieces, DISK / 64);
    end(w);
}

/* Holes are too small for some; these get a place of their own instead of being laid apart. */
static void middle_ones_too(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    unsigned pieces = 0;

    begin(w);
    fill(w);
    write_over(w, 20000, 1);
    for (unsigned i = 0; i < 1000; i++) {
        write_at(w, dt_rng_below(&w->rng, DISK - 8), 2 + i % 7);
        pieces += w->pieces;
    }
    assert_in_range(pieces, 1000, 1010);
    end(w);
}

/* A pool that is nearly full has nothing but holes: all of them are found, for large writes as well. */
static void every_hole_is_found(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    uint64_t free_blocks;

    px_begin(&w->u, 8192);
    w->disk = px_create(&w->u, "disk", 16384);
    px_run(&w->u);
    for (unsigned i = 0; i < 7000; i += 4)
        assert_int_equal(px_do(&w->u, w->disk, DISK_WRITE, i, 4), 0);
    for (unsigned i = 0; i < 7000; i += 8)
        assert_int_equal(px_do(&w->u, w->disk, DISK_DISCARD, i, 3), 0);
    px_run(&w->u);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
    free_blocks = w->u.pool->space.free - w->u.pool->space.reserve;
    assert_true(free_blocks > 2500);
    for (unsigned i = 0; i < free_blocks - 128; i += 48)
        assert_int_equal(px_do(&w->u, w->disk, DISK_WRITE, 8000 + i, 48), 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overwrites_do_not_spread),
        cmocka_unit_test(large_writes_in_one_piece),
        cmocka_unit_test(middle_ones_too),
        cmocka_unit_test(every_hole_is_found),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
