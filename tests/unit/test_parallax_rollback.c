/* SPDX-License-Identifier: MIT */
/* test_parallax_rollback.c - a disk returns to a snapshot, and newer ones go with what it was. */
#include "parallax/receive.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 64u

static uint64_t hash_of(struct px_use *u, const char *name)
{
    uint8_t *bytes = xaligned(PX_BLOCK, BLOCKS * PX_BLOCK);
    struct dt_error err;
    uint64_t hash;

    assert_int_equal(pool_read(u->pool, px_slot(u, name), 0, BLOCKS, bytes, &err), 0);
    hash = crc32c(0, bytes, BLOCKS * PX_BLOCK);
    free(bytes);
    return hash;
}

/* Disk "a" with snapshots s0 to s@n-1, each with other contents; its own are others again. */
static void begin(struct px_use *u, unsigned n, uint32_t history, uint64_t *hashes)
{
    struct disk *disk;
    struct dt_error err;
    char name[16];

    px_begin(u, 16384);
    disk = px_create(u, "a", BLOCKS);
    if (history)
        assert_int_equal(pool_history(u->pool, px_slot(u, "a"), history, 0, &err), 0);
    for (unsigned i = 0; i <= n; i++) {
        assert_int_equal(px_do(u, disk, DISK_WRITE, i % (BLOCKS - 4), 4), 0);
        if (i == n)
            break;
        snprintf(name, sizeof(name), "s%u", i);
        px_snapshot(u, "a", name);
        hashes[i] = hash_of(u, "a");
    }
    hashes[n] = hash_of(u, "a");
    disk_close(disk);
}

static unsigned snapshots(struct px_use *u)
{
    unsigned n = 0;

    for (uint32_t s = px_slot(u, "a"); (s = pool_snapshot_before(u->pool, s)) != NO_SLOT;)
        n++;
    return n;
}

static int back_to(struct px_use *u, const char *name, struct dt_error *err)
{
    return pool_rollback_past(u->pool, px_slot(u, "a"), px_slot(u, name), err);
}

static void newer_ones_are_named(void **state)
{
    uint64_t hashes[8];
    struct dt_error err;
    struct px_use u;

    begin(&u, 7, 0, hashes);
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s4"), &err), -EBUSY);
    assert_non_null(strstr(err.text, "'s6', 's5' ("));
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s0"), &err), -EBUSY);
    assert_non_null(strstr(err.text, "'s6', 's5', 's4', 's3' and 2 more"));
    assert_int_equal(snapshots(&u), 7);
    assert_int_equal(hash_of(&u, "a"), hashes[7]);
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s6"), &err), 0);
    assert_int_equal(hash_of(&u, "a"), hashes[6]);
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a"), &err), -EINVAL);
    px_end(&u);
}

static void newer_ones_go(void **state)
{
    for (uint32_t history = 0; history <= 3600; history += 3600) {
        uint64_t hashes[8];
        struct dt_error err = {""};
        struct px_use u;
        struct disk *disk;

        begin(&u, 7, history, hashes);
        assert_int_equal(back_to(&u, "a@s2", &err), 0);
        assert_int_equal(snapshots(&u), 3);
        assert_int_equal(hash_of(&u, "a"), hashes[2]);
        disk = px_open(&u, "a"); /* while what was deleted is given back */
        assert_int_equal(px_do(&u, disk, DISK_WRITE, 3, 9), 0);
        hashes[7] = hash_of(&u, "a");
        rig_check(u.pool);
        disk_close(disk);
        px_reopen(&u); /* from the journal */
        assert_int_equal(snapshots(&u), 3);
        assert_int_equal(hash_of(&u, "a"), hashes[7]);
        assert_int_equal(back_to(&u, "a@s0", &err), 0);
        assert_int_equal(hash_of(&u, "a"), hashes[0]);
        assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
        rig_check(u.pool);
        px_reopen(&u);
        assert_int_equal(hash_of(&u, "a"), hashes[0]);
        assert_int_equal(snapshots(&u), 1);
        if (!history)
            assert_int_equal(px_charged(&u, "a"), 4);
        px_end(&u);
    }
}

static void refused(struct px_use *u, const char *to, const char *because, uint64_t hash)
{
    struct dt_error err;
    unsigned n = snapshots(u);

    assert_int_equal(back_to(u, to, &err), -EBUSY);
    if (!strstr(err.text, because))
        fail_msg("'%s' does not name %s", err.text, because);
    assert_int_equal(snapshots(u), n);
    assert_int_equal(hash_of(u, "a"), hash);
}

/* Of many, which take several blocks of the journal, none is deleted either. */
static void all_or_nothing(void **state)
{
    static uint64_t hashes[81];
    struct dt_error err;
    struct disk *disk;
    struct px_use u;

    begin(&u, 80, 0, hashes);
    assert_int_equal(pool_label(u.pool, px_slot(&u, "a@s5"), NULL, &err), 0);
    refused(&u, "a@s2", "'s5' is labelled", hashes[80]);
    assert_int_equal(pool_clone(u.pool, px_slot(&u, "a@s5"), "vm", 1, false, 0, &err), 0);
    refused(&u, "a@s4", "'s5'", hashes[80]);
    assert_int_equal(disk_open(&disk, u.pool, px_slot(&u, "a@s30"), true, "a reader", &err), 0);
    refused(&u, "a@s10", "a@s30 is in use", hashes[80]);
    disk_close(disk);
    disk = px_open(&u, "a");
    refused(&u, "a@s10", "a is in use by test", hashes[80]);
    disk_close(disk);
    assert_int_equal(back_to(&u, "a@s5", &err), 0); /* the one that is labelled is not newer */
    assert_int_equal(snapshots(&u), 6);
    assert_int_equal(hash_of(&u, "a"), hashes[5]);
    px_run(&u);
    rig_check(u.pool);
    px_end(&u);
}

/* Killed at once, after some turns, or when all is durable: the disk is what it was, or what it was to be. */
static void a_kill_leaves_either(void **state)
{
    for (unsigned n = 10; n <= 80; n += 35)
        for (unsigned turns = 0; turns < 24; turns++) {
            static uint64_t hashes[81];
            struct dt_error err = {""};
            struct px_use u;
            unsigned left;

            begin(&u, n, turns % 2 ? 3600 : 0, hashes);
            assert_int_equal(pool_sync(u.pool, &err), 0);
            assert_int_equal(back_to(&u, "a@s1", &err), 0);
            for (unsigned i = 0; i < turns / 2; i++)
                (void)(pool_turn(u.pool) || rig_turn(u.store));
            px_reopen(&u);
            left = snapshots(&u);
            if (hash_of(&u, "a") == hashes[1])
                assert_int_equal(left, 2);
            else
                assert_int_equal(hash_of(&u, "a"), hashes[n]);
            assert_true(left >= 2 && left <= n);
            assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
            rig_check(u.pool);
            px_end(&u);
        }
}

/* What arrives is based on the newest snapshot that is left, and the process ends before a root tells that the newer one has gone. */
static void one_that_arrives_outlives_a_kill(void **state)
{
    struct pool_received what = {.size = BLOCKS * PX_BLOCK,
                                 .created = 1,
                                 .sector = 512,
                                 .snapshot = {7},
                                 .name = "r",
                                 .base_name = "s0"};
    struct disk *disk;
    struct dt_error err;
    struct px_use u;
    uint64_t hash, at;

    px_begin(&u, 16384);
    disk = px_create(&u, "a", BLOCKS);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 4), 0);
    disk_close(disk);
    hash = hash_of(&u, "a");
    px_snapshot(&u, "a", "s0");
    px_snapshot(&u, "a", "s1");
    assert_int_equal(pool_checkpoint(u.pool, &err), 0);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "a@s1"), &err), 0);
    for (unsigned i = 0; i < 100; i++)
        pool_turn(u.pool);
    memcpy(what.base, pool_record(u.pool, px_slot(&u, "a@s0"))->uuid, sizeof(what.base));
    assert_int_equal(pool_receive_begin(u.pool, "a", &what, false, &at, &err), 0);
    assert_int_equal(pool_receive_end(u.pool, "a", &what, &err), 0);
    pool_turn(u.pool);
    px_reopen(&u);
    assert_true(hash_of(&u, "a") == hash && hash_of(&u, "a@r") == hash);
    assert_int_equal(snapshots(&u), 2);
    rig_check(u.pool);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newer_ones_are_named),
        cmocka_unit_test(newer_ones_go),
        cmocka_unit_test(all_or_nothing),
        cmocka_unit_test(a_kill_leaves_either),
        cmocka_unit_test(one_that_arrives_outlives_a_kill),
    };

    return cmocka_run_group_tests_name("parallax rollback", tests, NULL, NULL);
}
