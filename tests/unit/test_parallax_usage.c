/* SPDX-License-Identifier: MIT */
/* test_parallax_usage.c - what is said to hold space is what comes back when it goes. */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 700u /* two levels and a bit */

static struct pool_line line_of(struct px_use *u, const char *disk)
{
    struct pool_line line = {.mapped = true};
    struct dt_error err;

    assert_int_equal(pool_line(u->pool, px_slot(u, disk), &line, &err), 0);
    return line;
}

static const struct disk_usage *row(struct px_use *u, const struct pool_line *line,
                                    const char *name)
{
    for (uint32_t i = 0; i < line->rows_n; i++)
        if (line->rows[i].slot == px_slot(u, name))
            return &line->rows[i].usage;
    fail_msg("%s has no row", name);
    return NULL;
}

static uint64_t together(struct px_use *u, const struct pool_line *line, const char *first,
                         const char *last)
{
    for (uint32_t i = 0; i < line->together_n; i++)
        if (line->rows[line->together[i].first].slot == px_slot(u, first) &&
            line->rows[line->together[i].last].slot == px_slot(u, last))
            return line->together[i].blocks;
    return 0;
}

static void it_says_who_has_what(void **state)
{
    struct pool_line line;
    struct dt_error err;
    struct px_use u;
    struct disk *disk;

    px_begin(&u, 8192);
    disk = px_create(&u, "a", BLOCKS);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 50), 0);
    px_snapshot(&u, "a", "s1");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 300, 20), 0);
    px_snapshot(&u, "a", "s2");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 10), 0);
    px_snapshot(&u, "a", "s3");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 15), 0);
    assert_int_equal(px_do(&u, disk, DISK_DISCARD, 300, 7), 0);
    line = line_of(&u, "a");
    assert_int_equal(line.rows_n, 4);
    assert_int_equal(row(&u, &line, "a")->mapped, 63);
    assert_int_equal(row(&u, &line, "a")->held, 15);
    assert_int_equal(row(&u, &line, "a@s3")->mapped, 70);
    assert_int_equal(row(&u, &line, "a@s3")->held, 10); /* what s3 alone still has */
    assert_int_equal(row(&u, &line, "a@s2")->held, 0);
    assert_int_equal(row(&u, &line, "a@s1")->mapped, 50);
    assert_int_equal(row(&u, &line, "a@s1")->held, 0);
    assert_int_equal(together(&u, &line, "a@s1", "a@s2"), 10);
    assert_int_equal(together(&u, &line, "a@s1", "a@s3"), 5);
    assert_int_equal(together(&u, &line, "a@s2", "a@s3"), 7);
    assert_int_equal(together(&u, &line, "a@s1", "a"), 35);
    assert_int_equal(together(&u, &line, "a@s2", "a"), 13);
    assert_int_equal(line.blocks, px_charged(&u, "a"));
    pool_line_free(&line);
    /* What is being given back has gone. */
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "a@s2"), &err), 0);
    line = line_of(&u, "a");
    assert_int_equal(row(&u, &line, "a@s1")->held, 10);
    assert_int_equal(row(&u, &line, "a@s3")->held, 17);
    assert_int_equal(line.rows_n, 3);
    pool_line_free(&line);
    disk_close(disk);
    px_end(&u);
}

static void a_clone_has_what_it_wrote(void **state)
{
    struct pool_line line;
    struct dt_error err;
    struct px_use u;
    struct disk *disk;

    px_begin(&u, 8192);
    disk = px_create(&u, "base", BLOCKS);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 60), 0);
    disk_close(disk);
    px_snapshot(&u, "base", "v1");
    assert_int_equal(pool_label(u.pool, px_slot(&u, "base@v1"), NULL, &err), 0);
    assert_int_equal(pool_clone(u.pool, px_slot(&u, "base@v1"), "vm", 1, false, 0, &err), 0);
    disk = px_open(&u, "vm");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 10, 5), 0);
    px_snapshot(&u, "vm", "s");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 10, 2), 0);
    assert_int_equal(px_do(&u, disk, DISK_DISCARD, 20, 30), 0);
    disk_close(disk);
    line = line_of(&u, "vm");
    assert_int_equal(row(&u, &line, "vm")->mapped, 30);
    assert_int_equal(row(&u, &line, "vm")->held, 2);
    assert_int_equal(row(&u, &line, "vm@s")->mapped, 60);
    assert_int_equal(row(&u, &line, "vm@s")->held, 2);
    assert_int_equal(together(&u, &line, "vm@s", "vm"), 3);
    assert_int_equal(line.blocks, 7);
    pool_line_free(&line);
    /* A disk that was deleted leaves its labelled snapshot, which has all of that now. */
    assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "base"), &err), 0);
    assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
    line = line_of(&u, "base");
    assert_int_equal(line.rows_n, 1);
    assert_int_equal(line.rows[0].usage.held, 60);
    pool_line_free(&line);
    px_end(&u);
}

/* ---- At random ---- */

#define SNAPSHOTS 12u

static void nodes_and_blocks(struct px_use *u, uint64_t *nodes, uint64_t *blocks)
{
    struct pool_check check = {.data = false};
    struct dt_error err;

    assert_int_equal(pool_reclaim_all(u->pool, &err), 0);
    assert_int_equal(pool_checkpoint(u->pool, &err), 0);
    assert_int_equal(pool_check(u->pool, &check, &err), 0);
    *nodes = check.nodes;
    *blocks = px_charged(u, "a");
}

static void change(struct px_use *u, struct dt_rng *rng, struct disk *disk)
{
    for (unsigned i = 0; i < 6; i++) {
        unsigned at = (unsigned)dt_rng_below(rng, BLOCKS - 60);
        unsigned count = 1 + (unsigned)dt_rng_below(rng, 60);

        assert_int_equal(
            px_do(u, disk, dt_rng_below(rng, 4) ? DISK_WRITE : DISK_DISCARD, at, count), 0);
    }
}

static void full_counts_agree(struct px_use *u, const struct pool_line *line)
{
    struct disk_usage usage;
    struct dt_error err;

    for (uint32_t i = 0; i < line->rows_n; i++) {
        assert_int_equal(pool_usage(u->pool, line->rows[i].slot, &usage, &err), 0);
        assert_int_equal(usage.mapped, line->rows[i].usage.mapped);
        assert_int_equal(usage.held, line->rows[i].usage.held);
        assert_int_equal(usage.held_nodes, line->rows[i].usage.held_nodes);
    }
}

/* Two of its rows, the older first; and never the disk itself. */
static void choose(struct px_use *u, struct dt_rng *rng, const struct pool_line *line,
                   uint32_t *first, uint32_t *last)
{
    uint32_t a = 1 + (uint32_t)dt_rng_below(rng, line->rows_n - 1);
    uint32_t b = 1 + (uint32_t)dt_rng_below(rng, line->rows_n - 1);

    *first = line->rows[MAX(a, b)].slot;
    *last = line->rows[MIN(a, b)].slot;
}

static void delete_range(struct px_use *u, uint32_t first, uint32_t last)
{
    struct dt_error err;

    while (last != first) {
        uint32_t before = pool_snapshot_before(u->pool, last);

        assert_int_equal(pool_delete_snapshot(u->pool, last, &err), 0);
        last = before;
    }
    assert_int_equal(pool_delete_snapshot(u->pool, first, &err), 0);
}

static void what_was_said_comes_back(void **state)
{
    for (unsigned seed = 1; seed <= 60; seed++) {
        uint64_t nodes[2], blocks[2], said_nodes, said_blocks;
        struct dt_rng rng;
        struct px_use u;
        struct disk *disk;

        dt_rng_seed(&rng, seed);
        px_begin(&u, 16384);
        disk = px_create(&u, "a", seed % 3 ? BLOCKS : 200);
        if (seed % 3 == 0) { /* its tree gets higher on the way */
            struct dt_error err;

            assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 60), 0);
            px_snapshot(&u, "a", "small");
            assert_int_equal(pool_resize(u.pool, px_slot(&u, "a"), BLOCKS * PX_BLOCK, &err), 0);
        }
        for (unsigned i = 0; i < SNAPSHOTS; i++) {
            char name[16];

            change(&u, &rng, disk);
            snprintf(name, sizeof(name), "s%u", i);
            px_snapshot(&u, "a", name);
        }
        change(&u, &rng, disk);
        for (unsigned i = 0; i < 5; i++) {
            struct pool_line line = line_of(&u, "a");
            uint32_t first, last;

            full_counts_agree(&u, &line);
            if (line.rows_n < 2) {
                pool_line_free(&line);
                break;
            }
            choose(&u, &rng, &line, &first, &last);
            if (first != last)
                assert_int_equal(pool_held_between(&line, last, first, &said_blocks, &said_nodes),
                                 -EINVAL);
            assert_int_equal(pool_held_between(&line, first, last, &said_blocks, &said_nodes), 0);
            nodes_and_blocks(&u, &nodes[0], &blocks[0]);
            assert_int_equal(line.blocks, blocks[0]);
            delete_range(&u, first, last);
            nodes_and_blocks(&u, &nodes[1], &blocks[1]);
            assert_int_equal(blocks[0] - blocks[1], said_blocks);
            assert_int_equal(nodes[0] - nodes[1], said_nodes);
            pool_line_free(&line);
        }
        disk_close(disk);
        rig_check(u.pool);
        px_end(&u);
    }
}

/* ---- Histories ---- */

/* What hidden snapshots have together is the history's, too: nothing of the pool is left out. */
static void a_history_has_the_rest(void **state)
{
    struct pool_past past = {0};
    struct pool_line line;
    struct dt_error err;
    struct px_use u;
    struct disk *disk;

    px_begin(&u, 8192);
    disk = px_create(&u, "a", BLOCKS);
    assert_int_equal(pool_history(u.pool, px_slot(&u, "a"), 3600, 0, &err), 0);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 40), 0);
    px_snapshot(&u, "a", "s1");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 100, 20), 0);
    px_snapshot(&u, "a", "s2");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 30), 0);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 100, 5), 0);
    px_snapshot(&u, "a", "s3");
    line = line_of(&u, "a");
    assert_int_equal(together(&u, &line, "a@s1", "a@s2"), 30);
    assert_int_equal(row(&u, &line, "a@s2")->held, 5);
    pool_line_free(&line);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "a@s1"), &err), 0);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "a@s2"), &err), 0);
    line = line_of(&u, "a");
    assert_int_equal(pool_past_usage(u.pool, px_slot(&u, "a"), &past, &err), 0);
    assert_int_equal(past.held, 35);
    assert_int_equal(line.blocks, 60);
    assert_int_equal(line.blocks + past.held, px_charged(&u, "a"));
    pool_line_free(&line);
    disk_close(disk);
    /* A branch has what it alone has. */
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s3"), &err), 0);
    disk = px_open(&u, "a");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 200, 9), 0);
    disk_close(disk);
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s3"), &err), 0);
    assert_int_equal(pool_past_usage(u.pool, px_slot(&u, "a"), &past, &err), 0);
    assert_int_equal(past.held, 44);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_who_has_what),
        cmocka_unit_test(a_clone_has_what_it_wrote),
        cmocka_unit_test(what_was_said_comes_back),
        cmocka_unit_test(a_history_has_the_rest),
    };

    return cmocka_run_group_tests_name("parallax usage", tests, NULL, NULL);
}
