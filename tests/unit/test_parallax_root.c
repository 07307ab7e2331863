/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_root.c - roots that are made while requests go on, and free space that is given back to the file.
 *
 * What the pool holds is compared with what was written. The store destroys what is punched when the punch lands,
 * at any later moment, so what is written into it before that is found out.
 */
#include "parallax/internal.h"
#include "px_world.h"

#define LEAF 256u /* blocks that one leaf maps */
#define WORD 64u
#define MOST WORLD_BLOCKS

static void begin(struct world *w, uint64_t pool, uint64_t disk, uint64_t seed)
{
    memset(w->now, 0, sizeof(w->now));
    dt_rng_seed(&w->rng, seed);
    px_begin(&w->u, pool);
    dt_rng_seed(&w->u.store->rng, seed);
    w->disk = px_create(&w->u, "disk", disk);
    px_run(&w->u);
}

static void end(struct world *w)
{
    disk_close(w->disk);
    px_end(&w->u);
}

/* With other options, as after a crash. All must be flushed. */
static void reopen(struct world *w, unsigned dirty, unsigned slice)
{
    disk_close(w->disk);
    w->u.dirty = dirty;
    w->u.slice = slice;
    px_reopen(&w->u);
    w->disk = px_open(&w->u, "disk");
}

static struct pool_info info(struct world *w)
{
    struct pool_info i;

    pool_info(w->u.pool, &i);
    return i;
}

static void make_root(struct world *w)
{
    struct dt_error err;

    px_run(&w->u);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
}

/* ---- Roots ---- */

/* A node in each turn: while the root is made each leaf of it is written to again, and in the end the process dies. */
static void requests_go_on(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct world *w = xcalloc(1, sizeof(*w));
        uint64_t root, during = 0;
        unsigned turns = 0;

        begin(w, 4096, MOST, seed);
        for (unsigned leaf = 0; leaf < 64; leaf++)
            world_write_now(w, leaf * LEAF, 1);
        reopen(w, 60, 1);
        root = info(w).root_seq;
        for (unsigned i = 0; info(w).root_seq < root + 2; i++) {
            struct px_io *io = world_write(w, i % 64 * LEAF + i / 64 % 8, 1);

            while (!io->done) {
                rig_turn(w->u.store);
                pool_turn(w->u.pool);
                turns++;
            }
            assert_int_equal(px_finish(io), 0);
            during += info(w).root_seq == root && info(w).dirty_nodes < 60;
            assert_true(i < 2000);
        }
        assert_true(during > 64); /* writes that ended while the first root was being made */
        assert_true(turns > 128);
        if (seed % 2) {
            assert_int_equal(px_do(&w->u, w->disk, DISK_FLUSH, 0, 0), 0);
            reopen(w, 60, 1);
        }
        world_compare(w, MOST);
        rig_check(w->u.pool);
        end(w);
        free(w);
    }
}

/* Each turn of it a snapshot is taken or deleted, the disk written: the root has none of it, the next one all. */
static void snapshots_meanwhile(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    char name[16];

    begin(w, 2048, MOST, 3);
    reopen(w, 12, 1);
    for (unsigned i = 0; i < 900; i++) {
        struct px_io *io = world_write(w, (i * 7) % 64 * LEAF + i % 5, 1);
        uint32_t slot = px_slot(&w->u, "disk");

        snprintf(name, sizeof(name), "s%u", i);
        if (i % 3 == 0)
            px_snapshot(&w->u, "disk", name);
        if (i % 3 == 2 && i > 9)
            assert_int_equal(
                pool_delete_snapshot(w->u.pool, pool_snapshot_before(w->u.pool, slot), &err), 0);
        while (!io->done) {
            rig_turn(w->u.store);
            pool_turn(w->u.pool);
        }
        assert_int_equal(px_finish(io), 0);
        if (i % 97 == 96) {
            assert_int_equal(px_do(&w->u, w->disk, DISK_FLUSH, 0, 0), 0);
            reopen(w, 12, 1);
            rig_check(w->u.pool);
        }
    }
    px_run(&w->u);
    world_compare(w, MOST);
    rig_check(w->u.pool);
    end(w);
    free(w);
}

/* A root that is half made when its pool is closed, or another is wanted at once, is finished first. */
static void half_made(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    for (unsigned turns = 1; turns < 40; turns += 3) {
        uint64_t root;

        begin(w, 4096, MOST, turns);
        reopen(w, 8, 1);
        for (unsigned leaf = 0; leaf < 20; leaf++) {
            struct px_io *io = world_write(w, leaf * LEAF, 1);

            while (!io->done) /* the data lands; the root hardly moves */
                if (!rig_turn(w->u.store))
                    pool_turn(w->u.pool);
            assert_int_equal(px_finish(io), 0);
        }
        for (unsigned i = 0; i < turns; i++)
            pool_turn(w->u.pool);
        while (rig_turn(w->u.store))
            ;
        root = info(w).root_seq;
        if (pool_checkpoint(w->u.pool, &err) == 0)
            assert_true(info(w).root_seq > root && info(w).dirty_nodes == 0);
        rig_check(w->u.pool);
        world_compare(w, MOST);
        end(w);
    }
    free(w);
}

/* Nodes of what is being deleted point to what is gone already, and was never written. */
static void half_deleted(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    begin(w, 4096, MOST, 1);
    for (unsigned leaf = 0; leaf < 40; leaf++)
        world_write_now(w, leaf * LEAF, 1);
    px_snapshot(&w->u, "disk", "s");
    for (unsigned leaf = 0; leaf < 40; leaf++)
        world_write_now(w, leaf * LEAF, 1);
    assert_int_equal(pool_delete_snapshot(
                         w->u.pool, pool_snapshot_before(w->u.pool, px_slot(&w->u, "disk")), &err),
                     0);
    pool_turn(w->u.pool);
    assert_int_equal(info(w).dying, 1);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
    rig_check(w->u.pool);
    reopen(w, 0, 0);
    px_run(&w->u);
    assert_int_equal(info(w).dying, 0);
    world_compare(w, MOST);
    rig_check(w->u.pool);
    end(w);
    free(w);
}

/* A pool that has failed does nothing any more, and asks for no turns in which to do it. */
static void failed_at_rest(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    struct px_io *io;

    begin(w, 4096, MOST, 1);
    for (unsigned leaf = 0; leaf < 40; leaf++)
        world_write_now(w, leaf * LEAF, 1);
    px_snapshot(&w->u, "disk", "s");
    for (unsigned leaf = 0; leaf < 40; leaf++)
        world_write_now(w, leaf * LEAF, 1);
    assert_int_equal(pool_delete_snapshot(
                         w->u.pool, pool_snapshot_before(w->u.pool, px_slot(&w->u, "disk")), &err),
                     0);
    io = px_submit(w->disk, DISK_FLUSH, 0, 0);
    w->u.store->fail_flush = 1;
    pool_turn(w->u.pool);
    while (rig_turn(w->u.store))
        ;
    assert_int_equal(px_finish(io), -EIO);
    assert_int_equal(info(w).dying, 1);
    assert_false(pool_turn(w->u.pool));
    end(w);
    free(w);
}

/* ---- Flushes ---- */

struct wanted {
    struct pool_waiter waiter;
    bool done;
};

static void now_durable(struct pool_waiter *waiter, int error)
{
    assert_int_equal(error, 0);
    container_of(waiter, struct wanted, waiter)->done = true;
}

static unsigned flushes(const struct world *w)
{
    unsigned n = 0;

    for (unsigned i = 0; i < w->u.store->pending_n; i++)
        n += w->u.store->pending[i].kind == RIG_FLUSH;
    return n;
}

/* Who asks while a flush is under way does not wait for its end; those after that share one. */
static void one_flush_each(void **state)
{
    struct wanted all[5] = {0};
    struct world *w = xcalloc(1, sizeof(*w));

    begin(w, 1024, 64, 1);
    world_write_now(w, 0, 4);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        all[i].waiter.done = now_durable;
        pool_when_durable(w->u.pool, &all[i].waiter);
        pool_turn(w->u.pool);
        assert_int_equal(flushes(w), MIN(i + 1, 2u));
    }
    px_run(&w->u);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
        assert_true(all[i].done);
    end(w);
    free(w);
}

/* ---- Free space ---- */

/* What was given back is written again, and not punched before. */
static void written_again(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    uint64_t before, first, most = 0;
    struct px_io *io;

    begin(w, 65536, 4096, 1);
    io = world_write(w, 0, 64);
    first = w->u.store->pending[0].addr;
    px_run(&w->u);
    assert_int_equal(px_finish(io), 0);
    world_write_now(w, 64, 64);
    world_write_now(w, 128, 64);
    make_root(w);
    world_discard(w, 0, 192);
    make_root(w);
    before = info(w).stale;
    assert_true(before >= 128 && before <= 192);
    for (unsigned i = 0; i < 2; i++) {
        io = world_write(w, 1024 + i * 64, 64);
        for (unsigned k = 0; k < w->u.store->pending_n; k++)
            most = MAX(most, w->u.store->pending[k].addr);
        px_run(&w->u);
        assert_int_equal(px_finish(io), 0);
    }
    assert_true(most < first + 256);
    assert_true(info(w).stale + 128 <= before);
    assert_int_equal(w->u.store->punches, 0);
    world_compare(w, 4096);
    end(w);
    free(w);
}

/* More than a part of the pool is punched, while writes look for free space from there on. */
static void never_what_is_used(void **state)
{
    uint64_t punches = 0;

    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct world *w = xcalloc(1, sizeof(*w));
        struct px_io *io[40];

        begin(w, 4096, 1024, seed);
        for (unsigned i = 0; i < 16; i++)
            world_write_now(w, i * 64, 64);
        world_discard(w, 0, 1024);
        make_root(w);
        pool_turn(w->u.pool);
        w->u.pool->space.hole_at = w->u.pool->space.run_at = 0;
        for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
            io[i] = world_write(w, i * 16, 12 + (unsigned)dt_rng_below(&w->rng, 5));
            if (dt_rng_below(&w->rng, 4) == 0)
                rig_turn(w->u.store);
            pool_turn(w->u.pool);
        }
        px_run(&w->u);
        for (unsigned i = 0; i < ARRAY_SIZE(io); i++)
            assert_int_equal(px_finish(io[i]), 0);
        punches += w->u.store->punches;
        world_compare(w, 1024);
        rig_check(w->u.pool);
        end(w);
        free(w);
    }
    assert_true(punches >= 60);
}

/* Writes that wait for space are counted once, and nobody looks after them until there may be some. */
static void waiting_at_rest(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct px_io *io[16];
    uint64_t held;

    begin(w, 512, 1024, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(io); i++)
        io[i] = world_write(w, i * 32, 32);
    px_run(&w->u);
    assert_true(io_stalled(w->u.pool));
    assert_int_equal(w->u.others, 1); /* that it is full */
    held = disk_counters(w->disk)->held;
    assert_in_range(held, 1, 2 * ARRAY_SIZE(io));
    w->u.kicks = 0;
    for (unsigned i = 0; i < 100; i++)
        assert_false(pool_turn(w->u.pool));
    assert_int_equal(w->u.kicks, 0);
    assert_true(pool_wait(w->u.pool) > 0);
    assert_int_equal(disk_counters(w->disk)->held, held);
    world_discard(w, 0, 256);
    for (unsigned i = 0; i < ARRAY_SIZE(io); i++)
        assert_int_equal(px_finish(io[i]), 0);
    world_compare(w, 512);
    end(w);
    free(w);
}

/* What may not be punched is nothing to turn for. */
static void no_turns_in_vain(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    begin(w, 4096, 1024, 1);
    for (unsigned i = 0; i < 16; i++)
        world_write_now(w, i * 64, 64);
    world_discard(w, 0, 1024);
    make_root(w);
    assert_int_equal(pool_wait(w->u.pool), 0); /* more than a part of the pool */
    w->u.pool->space.promised += info(w).free;
    assert_true(pool_wait(w->u.pool) > DT_S(1));
    w->u.pool->space.promised -= info(w).free;
    w->u.pool->failed = -EIO;
    assert_true(pool_wait(w->u.pool) > DT_S(1));
    assert_false(pool_turn(w->u.pool));
    assert_int_equal(w->u.store->pending_n, 0);
    end(w);
    free(w);
}

/* Nothing that is free stays in the file when a pool is closed in good order. */
static void closing_punches(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    uint64_t destroyed = 0;

    begin(w, 65536, 4096, 1);
    for (unsigned i = 0; i < 8; i++)
        world_write_now(w, i * 64, 64);
    make_root(w);
    world_discard(w, 0, 512);
    px_run(&w->u);
    assert_int_equal(w->u.store->punches, 0);
    disk_close(w->disk);
    assert_int_equal(pool_close(w->u.pool, &err), 0);
    w->u.pool = NULL;
    for (uint64_t i = 0; i < 65536; i++)
        destroyed += w->u.store->bytes[i * PX_BLOCK] == 0xdb &&
                     memcmp(&w->u.store->bytes[i * PX_BLOCK], &w->u.store->bytes[i * PX_BLOCK + 1],
                            PX_BLOCK - 1) == 0;
    assert_true(destroyed >= 448);
    px_reopen(&w->u);
    w->disk = px_open(&w->u, "disk");
    world_compare(w, 4096);
    rig_check(w->u.pool);
    end(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_go_on),   cmocka_unit_test(snapshots_meanwhile),
        cmocka_unit_test(half_made),        cmocka_unit_test(half_deleted),
        cmocka_unit_test(failed_at_rest),   cmocka_unit_test(waiting_at_rest),
        cmocka_unit_test(no_turns_in_vain), cmocka_unit_test(one_flush_each),
        cmocka_unit_test(written_again),    cmocka_unit_test(never_what_is_used),
        cmocka_unit_test(closing_punches),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
