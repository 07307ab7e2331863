/* SPDX-License-Identifier: MIT */
/* test_parallax_quota.c - what disks are charged for, and what happens when they reach their quota. */
#include "px_use.h"

#include "parallax/receive.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void set_quota(struct px_use *u, const char *disk, uint64_t blocks, enum px_policy policy)
{
    struct dt_error err = {""};

    if (pool_set_quota(u->pool, px_slot(u, disk), blocks * PX_BLOCK, policy, &err) < 0)
        fail_msg("%s", err.text);
}

static void what_a_disk_wrote_is_charged(void **state)
{
    struct dt_error err;
    struct px_use u;
    struct disk *base, *vm;

    px_begin(&u, 4096);
    base = px_create(&u, "base", 256);
    assert_int_equal(px_do(&u, base, DISK_WRITE, 0, 40), 0);
    assert_int_equal(px_charged(&u, "base"), 40);
    assert_int_equal(px_do(&u, base, DISK_WRITE, 20, 40), 0); /* 20 of them anew */
    assert_int_equal(px_charged(&u, "base"), 60);
    px_snapshot(&u, "base", "v1");
    assert_int_equal(pool_label(u.pool, px_slot(&u, "base@v1"), NULL, &err), 0);
    assert_int_equal(px_do(&u, base, DISK_WRITE, 0, 10), 0); /* the snapshot keeps the old ones */
    assert_int_equal(px_charged(&u, "base"), 70);
    assert_int_equal(pool_clone(u.pool, px_slot(&u, "base@v1"), "vm", 1, false, 0, &err), 0);
    vm = px_open(&u, "vm");
    assert_int_equal(px_charged(&u, "vm"), 0); /* it wrote nothing */
    assert_int_equal(px_do(&u, vm, DISK_WRITE, 0, 5), 0);
    assert_int_equal(px_do(&u, vm, DISK_DISCARD, 30, 20), 0); /* not its own */
    assert_int_equal(px_charged(&u, "vm"), 5);
    assert_int_equal(px_do(&u, vm, DISK_DISCARD, 3, 20), 0);
    assert_int_equal(px_charged(&u, "vm"), 3);
    rig_check(u.pool);
    disk_close(base);
    disk_close(vm);
    px_reopen(&u); /* from the journal */
    assert_int_equal(px_charged(&u, "base"), 70);
    assert_int_equal(px_charged(&u, "vm"), 3);
    rig_check(u.pool);
    px_reopen(&u); /* from the root */
    assert_int_equal(px_charged(&u, "base"), 70);
    assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "vm"), &err), 0);
    assert_int_equal(pool_unlabel(u.pool, px_slot(&u, "base@v1"), &err), 0);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "base@v1"), &err), 0);
    assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
    assert_int_equal(px_charged(&u, "base"), 60);
    rig_check(u.pool);
    px_end(&u);
}

/* Writes wait; what needs nothing, and other disks, go on; each way to make room lets them go on. */
static void hold(void **state)
{
    struct disk *disk, *other;
    struct px_io *io;
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    other = px_create(&u, "other", 256);
    set_quota(&u, "vm", 50, PX_HOLD);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 50), 0);
    io = px_submit(disk, DISK_WRITE, 100, 1);
    px_run(&u);
    assert_false(io->done);
    assert_int_equal(u.quota, 1);
    assert_non_null(strstr(u.last, "vm has reached its quota"));
    assert_int_equal(u.about, px_slot(&u, "vm"));
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 10, 40), 0);
    assert_int_equal(px_do(&u, disk, DISK_READ, 10, 40), 0);
    assert_int_equal(px_do(&u, disk, DISK_FLUSH, 0, 0), 0);
    assert_int_equal(px_do(&u, other, DISK_WRITE, 0, 60), 0);
    assert_false(io->done);
    assert_int_equal(px_do(&u, disk, DISK_DISCARD, 7, 1), 0);
    assert_int_equal(px_finish(io), 0);
    assert_int_equal(u.resumed, 1);
    assert_int_equal(px_charged(&u, "vm"), 50);

    px_snapshot(&u, "vm", "s"); /* now every block is a new one */
    io = px_submit(disk, DISK_WRITE, 0, 1);
    px_run(&u);
    assert_false(io->done);
    assert_int_equal(u.quota, 2);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "vm@s"), &err), 0);
    px_run(&u);
    assert_int_equal(px_finish(io), 0);

    io = px_submit(disk, DISK_WRITE, 200, 2);
    px_run(&u);
    assert_false(io->done);
    set_quota(&u, "vm", 52, PX_HOLD);
    px_run(&u);
    assert_int_equal(px_finish(io), 0);

    io = px_submit(disk, DISK_WRITE, 210, 1);
    px_run(&u);
    disk_cancel_held(disk, -ECANCELED);
    assert_int_equal(px_finish(io), -ECANCELED);
    assert_true(pool_idle(u.pool));
    assert_int_equal(disk_counters(disk)->over_held, 4);
    rig_check(u.pool);
    disk_close(disk);
    disk_close(other);
    px_end(&u);
}

/* Many at once: what they may add together is what counts. */
static void no_more_than_the_quota(void **state)
{
    struct px_io *ios[64];
    struct disk *disk;
    struct px_use u;
    unsigned done = 0;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    set_quota(&u, "vm", 30, PX_HOLD);
    for (unsigned i = 0; i < 64; i++)
        ios[i] = px_submit(disk, DISK_WRITE, i, 1);
    px_run(&u);
    for (unsigned i = 0; i < 64; i++)
        done += ios[i]->done;
    assert_int_equal(done, 30);
    assert_int_equal(px_charged(&u, "vm"), 30);
    set_quota(&u, "vm", 0, PX_HOLD);
    px_run(&u);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(px_finish(ios[i]), 0);
    disk_close(disk);
    px_end(&u);
}

/* What is received counts, before it is the disk's; and nothing is lost by a refusal. */
static void receiving(void **state)
{
    struct pool_received what = {
        .size = 256 * PX_BLOCK, .sector = 512, .snapshot = {7}, .name = "r", .base_name = "s"};
    struct dt_error err = {""};
    struct disk *disk, *staged;
    struct px_use u;
    uint64_t at;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 40), 0);
    px_snapshot(&u, "vm", "s");
    disk_close(disk);
    set_quota(&u, "vm", 70, PX_DROP_OLDEST);
    memcpy(what.base, pool_record(u.pool, px_slot(&u, "vm@s"))->uuid, sizeof(what.base));
    assert_int_equal(pool_receive_begin(u.pool, "vm", &what, false, &at, &err), 0);
    staged = px_open(&u, "vm~");
    assert_int_equal(px_do(&u, staged, DISK_WRITE, 0, 30), 0);
    assert_int_equal(pool_receive_progress(u.pool, "vm", 30ul * PX_BLOCK, &err), 0);
    assert_int_equal(px_do(&u, staged, DISK_WRITE, 30, 1), 0);
    assert_int_equal(pool_receive_progress(u.pool, "vm", 31ul * PX_BLOCK, &err), -EDQUOT);
    assert_non_null(strstr(err.text, "by 4 KiB"));
    disk_close(staged);
    assert_int_equal(pool_receive_end(u.pool, "vm", &what, &err), -EDQUOT);
    set_quota(&u, "vm", 71, PX_DROP_OLDEST);
    assert_int_equal(pool_receive_begin(u.pool, "vm", &what, true, &at, &err), 0);
    assert_int_equal(at, 30 * PX_BLOCK);
    assert_int_equal(pool_receive_end(u.pool, "vm", &what, &err), 0);
    assert_int_equal(px_charged(&u, "vm"), 71);
    rig_check(u.pool);
    px_end(&u);
}

static void fail_at_once(void **state)
{
    struct disk *disk;
    struct px_use u;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    set_quota(&u, "vm", 20, PX_FAIL);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 20), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(px_do(&u, disk, DISK_WRITE, 20, 1), -ENOSPC);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 3, 1), 0);
    assert_int_equal(u.quota, 1); /* said once, not five times */
    assert_int_equal(disk_counters(disk)->over_failed, 5);
    disk_close(disk);
    px_reopen(&u);
    disk = px_open(&u, "vm");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 20, 1), -ENOSPC);
    disk_close(disk);
    px_end(&u);
}

static bool there(struct px_use *u, const char *name)
{
    struct dt_error err;

    return pool_find(u->pool, name, &err) != NO_SLOT;
}

/* The oldest goes first; what is labelled or mounted stays; when nothing is left, writes wait. */
static void drop_oldest(void **state)
{
    struct disk *disk, *look;
    struct dt_error err;
    struct px_io *io;
    struct px_use u;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    for (unsigned i = 0; i < 5; i++) {
        char name[8];

        assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 10), 0);
        snprintf(name, sizeof(name), "s%u", i);
        px_snapshot(&u, "vm", name);
    }
    assert_int_equal(pool_label(u.pool, px_slot(&u, "vm@s0"), NULL, &err), 0);
    assert_int_equal(disk_open(&look, u.pool, px_slot(&u, "vm@s2"), true, "look", &err), 0);
    assert_int_equal(px_charged(&u, "vm"), 50);
    set_quota(&u, "vm", 50, PX_DROP_OLDEST);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 10), 0);
    assert_int_equal(u.dropped, 1);
    assert_false(there(&u, "vm@s1"));
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 10, 10), 0);
    assert_int_equal(u.dropped, 2);
    assert_false(there(&u, "vm@s3"));
    assert_true(there(&u, "vm@s0") && there(&u, "vm@s2") && there(&u, "vm@s4"));
    io = px_submit(disk, DISK_WRITE, 20, 11);
    px_run(&u);
    assert_false(io->done);
    assert_false(there(&u, "vm@s4"));
    assert_true(there(&u, "vm@s0") && there(&u, "vm@s2"));
    assert_int_equal(u.quota, 1);
    disk_cancel_held(disk, -ECANCELED);
    assert_int_equal(px_finish(io), -ECANCELED);
    rig_check(u.pool);
    disk_close(look);
    disk_close(disk);
    px_end(&u);
}

static void refusals(void **state)
{
    struct dt_error err;
    struct disk *disk;
    struct px_use u;

    px_begin(&u, 1024);
    disk = px_create(&u, "vm", 16);
    px_snapshot(&u, "vm", "s");
    assert_int_equal(pool_set_quota(u.pool, px_slot(&u, "vm@s"), 4096, PX_HOLD, &err), -EINVAL);
    assert_int_equal(pool_set_quota(u.pool, px_slot(&u, "vm"), 1ull << 60, PX_HOLD, &err), -EINVAL);
    assert_int_equal(pool_set_quota(u.pool, px_slot(&u, "vm"), 4096, PX_POLICIES, &err), -EINVAL);
    disk_close(disk);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_disk_wrote_is_charged),
        cmocka_unit_test(hold),
        cmocka_unit_test(no_more_than_the_quota),
        cmocka_unit_test(receiving),
        cmocka_unit_test(fail_at_once),
        cmocka_unit_test(drop_oldest),
        cmocka_unit_test(refusals),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
