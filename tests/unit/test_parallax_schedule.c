/* SPDX-License-Identifier: MIT */
/* test_parallax_schedule.c - snapshots by schedule, by a clock of our own: months in a second. */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MINUTE 60ull
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define BEGIN  1800000000ull

static void set_schedule(struct px_use *u, const char *disk, uint32_t every,
                         const struct px_rule *rules, unsigned n)
{
    struct dt_error err = {""};

    if (pool_set_schedule(u->pool, px_slot(u, disk), every, rules, n, &err) < 0)
        fail_msg("%s", err.text);
}

static void at(struct px_use *u, uint64_t seconds)
{
    pool_run_schedules(u->pool, seconds * DT_S(1));
    px_run(u);
}

/* Snapshots from @youngest to @oldest seconds before @now. */
static unsigned count(struct px_use *u, const char *disk, uint64_t now, uint64_t youngest,
                      uint64_t oldest)
{
    unsigned n = 0;

    for (uint32_t s = pool_snapshot_before(u->pool, px_slot(u, disk)); s != NO_SLOT;
         s = pool_snapshot_before(u->pool, s)) {
        uint64_t created = pool_record(u->pool, s)->created / DT_S(1);

        n += created + youngest <= now && created + oldest > now;
    }
    return n;
}

static unsigned all(struct px_use *u, const char *disk)
{
    return count(u, disk, UINT64_MAX / 2, 0, UINT64_MAX / 2);
}

static void write_some(struct px_use *u, struct disk *disk)
{
    assert_int_equal(px_do(u, disk, DISK_WRITE, 0, 1), 0);
}

static void one_in_each_interval(void **state)
{
    struct px_use u;
    struct disk *disk;

    px_begin(&u, 2048);
    disk = px_create(&u, "vm", 64);
    set_schedule(&u, "vm", 30, NULL, 0);
    at(&u, BEGIN);
    assert_int_equal(all(&u, "vm"), 0); /* nothing was ever written */
    write_some(&u, disk);
    for (unsigned s = 1; s <= 300; s++) {
        at(&u, BEGIN + s);
        write_some(&u, disk);
    }
    assert_in_range(all(&u, "vm"), 10, 11);
    /* It does not change. */
    for (unsigned s = 301; s <= 1000; s++)
        at(&u, BEGIN + s);
    assert_in_range(all(&u, "vm"), 11, 12);
    set_schedule(&u, "vm", 0, NULL, 0);
    write_some(&u, disk);
    at(&u, BEGIN + 2000);
    assert_in_range(all(&u, "vm"), 11, 12);
    disk_close(disk);
    rig_check(u.pool);
    px_end(&u);
}

/* A restart forgets no schedule; what was missed is one snapshot; and none is taken twice. */
static void restarts(void **state)
{
    struct px_use u;
    struct disk *disk;

    px_begin(&u, 2048);
    disk = px_create(&u, "vm", 64);
    set_schedule(&u, "vm", HOUR, NULL, 0);
    write_some(&u, disk);
    at(&u, BEGIN);
    assert_int_equal(all(&u, "vm"), 1);
    write_some(&u, disk);
    disk_close(disk);
    px_reopen(&u);
    at(&u, BEGIN + 1);
    assert_in_range(all(&u, "vm"), 1, 2); /* 2 if an hour of this disk begins just there */
    disk = px_open(&u, "vm");
    write_some(&u, disk);
    disk_close(disk);
    px_reopen(&u);
    at(&u, BEGIN + 50 * HOUR);
    at(&u, BEGIN + 50 * HOUR + 1);
    assert_in_range(all(&u, "vm"), 2, 3);
    px_end(&u);
}

/* keep=1h:all,1d:1h,30d:1d, every ten minutes, for 40 days. */
static void thinned(void **state)
{
    static const struct px_rule rules[] = {{HOUR, 0}, {DAY, HOUR}, {30 * DAY, DAY}};
    uint64_t end = BEGIN + 40 * DAY;
    struct dt_error err;
    struct px_use u;
    struct disk *disk;
    const char *mine = "mine";
    uint32_t slot;

    px_begin(&u, 8192);
    disk = px_create(&u, "vm", 64);
    write_some(&u, disk);
    px_snapshot(&u, "vm", mine); /* is not the schedule's to delete */
    set_schedule(&u, "vm", 600, rules, ARRAY_SIZE(rules));
    write_some(&u, disk);
    at(&u, BEGIN);
    slot = pool_snapshot_before(u.pool, px_slot(&u, "vm"));
    assert_int_equal(pool_label(u.pool, slot, "kept", &err), 0);
    for (uint64_t now = BEGIN; now <= end; now += 600) {
        write_some(&u, disk);
        at(&u, now);
    }
    assert_in_range(count(&u, "vm", end, 0, HOUR), 6, 7);
    assert_in_range(count(&u, "vm", end, HOUR + 600, DAY), 22, 24);
    assert_in_range(count(&u, "vm", end, DAY + HOUR, 30 * DAY), 28, 30);
    assert_int_equal(count(&u, "vm", end, 31 * DAY, 60 * DAY), 1); /* the labelled one */
    assert_int_not_equal(px_slot(&u, "vm@mine"), NO_SLOT);
    assert_int_not_equal(px_slot(&u, "vm@kept"), NO_SLOT);
    assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
    rig_check(u.pool);
    disk_close(disk);
    px_end(&u);
}

static void refusals(void **state)
{
    static const struct px_rule falling[] = {{DAY, 0}, {HOUR, 60}}, none[] = {{0, 0}};
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 1024);
    disk_close(px_create(&u, "vm", 16));
    px_snapshot(&u, "vm", "s");
    assert_int_equal(pool_set_schedule(u.pool, px_slot(&u, "vm"), 30, falling, 2, &err), -EINVAL);
    assert_int_equal(pool_set_schedule(u.pool, px_slot(&u, "vm"), 30, none, 1, &err), -EINVAL);
    assert_int_equal(pool_set_schedule(u.pool, px_slot(&u, "vm"), 30, none, 7, &err), -EINVAL);
    assert_int_equal(pool_set_schedule(u.pool, px_slot(&u, "vm@s"), 30, NULL, 0, &err), -EINVAL);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_in_each_interval),
        cmocka_unit_test(restarts),
        cmocka_unit_test(thinned),
        cmocka_unit_test(refusals),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
