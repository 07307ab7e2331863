/* SPDX-License-Identifier: MIT */
/*
 * test_parallax.c - pools against a trivial model, with pools closed, killed and checked on the
 * way.
 *
 * PARALLAX_STEPS sets how many random steps each run takes; each is up to four requests.
 */
#include "px_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t steps(uint64_t initial)
{
    const char *text = getenv("PARALLAX_STEPS");

    return text ? strtoull(text, NULL, 10) : initial;
}

static uint64_t lifted, dropped, holes, merged, fetched, again;
static struct rig_counts counts;

static void add_counts(const struct rig_counts *more)
{
    counts.larger += more->larger;
    counts.smaller += more->smaller;
    counts.grown += more->grown;
    counts.resized += more->resized;
    counts.refused += more->refused;
    counts.wide += more->wide;
    counts.full += more->full;
    counts.made += more->made;
}

/* What is not mapped holds zeroes. */
static void compare_map(const struct rig_thing *thing, struct disk *d)
{
    uint64_t blocks = MIN(thing->blocks, RIG_BLOCKS);

    for (uint64_t at = 0, run = 0; at < blocks; at += run) {
        int mapped = disk_map(d, at, blocks - at, &run);

        assert_true(mapped >= 0 && run > 0 && run <= blocks - at);
        for (uint64_t i = at * 8; !mapped && i < (at + run) * 8; i++)
            assert_int_equal(thing->sector[i], 0);
        holes += mapped ? 0 : run;
    }
}

static void compare_maps(const struct rig *rig)
{
    for (unsigned i = 0; i < RIG_THINGS; i++)
        if (rig->disks[i])
            compare_map(&rig->things[i], rig->disks[i]);
}

/* It is killed, and once more before there is a root. */
static void kill_twice(struct rig *rig)
{
    rig->lazy = true;
    rig_reopen(rig, true);
    rig_compare(rig);
    rig_step(rig);
    rig_reopen(rig, true);
    rig->lazy = false;
}

/* @more: blocks by which the pool may grow. */
static void play(uint64_t blocks, uint64_t more, uint64_t journal, uint64_t seed, uint64_t n,
                 bool share)
{
    struct pool_share told;
    struct dt_error err;
    struct rig rig;

    rig_new(&rig, blocks, journal, seed);
    rig.most = blocks + more;
    if (share)
        rig_share(&rig);
    for (uint64_t i = 0; i < n; i++) {
        rig_step(&rig);
        if (i % 97 == 96) {
            rig_compare(&rig);
            compare_maps(&rig);
        }
        if (i % 211 == 210) {
            pool_share(rig.pool, &told);
            merged += told.counters.merged;
            if (i % 422 == 421)
                kill_twice(&rig);
            else
                rig_reopen(&rig, false);
            rig_compare(&rig);
            rig_check(rig.pool);
        }
    }
    assert_int_equal(rig.errors, 0);
    rig_reopen(&rig, false);
    assert_int_equal(pool_reclaim_all(rig.pool, &err), 0);
    rig_compare(&rig);
    rig_check(rig.pool);
    lifted += rig.lifted;
    dropped += rig.dropped;
    fetched += rig.store->fetched;
    add_counts(&rig.counts);
    again += rig.again;
    rig_free(&rig);
}

static void like_a_model(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        play(4096, 600, 0, seed, steps(2000), seed % 2);
    assert_true(lifted > 0 && dropped > 0); /* quotas were reached */
    assert_true(holes > 0);
    assert_true(counts.larger > 50 && counts.smaller > 50 && counts.grown > 10);
    assert_true(counts.resized > 0 && counts.refused > 50 && counts.wide > 500);
    assert_true(again > 0);      /* a journal of two generations was replayed */
    assert_true(fetched > 1000); /* requests waited for maps, which others changed meanwhile */
}

static void with_a_short_journal(void **state)
{
    play(4096, 0, PX_JOURNAL_MIN, 11, steps(2000), false);
}

static void across_groups(void **state)
{
    counts.grown = 0;
    play(PX_GROUP_BLOCKS - 100, 800, 0, 21, steps(800), true);
    assert_true(counts.grown > 3); /* into the second */
}

/* Little space, so that addresses are used again while pointers to them are forwarded. */
static void sharing(void **state)
{
    merged = 0;
    for (uint64_t seed = 31; seed <= 34; seed++)
        play(640, 0, PX_JOURNAL_MIN, seed, steps(1500), true);
    assert_true(merged > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_a_model),
        cmocka_unit_test(with_a_short_journal),
        cmocka_unit_test(across_groups),
        cmocka_unit_test(sharing),
    };

    log_set_level(DT_LOG_WARNING);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
