/* SPDX-License-Identifier: MIT */
/* test_parallax_pin.c - a root that stays readable while the pool goes on, and what a check of it finds. */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct pin {
    struct pool_pin pin;
    unsigned held, lost;
    char why[256];
};

static void held(struct pool_pin *pin, const struct px_root *root)
{
    assert_ptr_equal(root, &pin->root);
    container_of(pin, struct pin, pin)->held++;
}

static void lost(struct pool_pin *pin, const char *why)
{
    struct pin *p = container_of(pin, struct pin, pin);

    p->lost++;
    snprintf(p->why, sizeof(p->why), "%s", why);
}

static void pin_now(struct px_use *u, struct pin *p)
{
    struct dt_error err;

    *p = (struct pin){.pin = {.owner = "a check", .held = held, .lost = lost}};
    assert_int_equal(pool_pin(u->pool, &p->pin, &err), 0);
    assert_int_equal(p->held, 0); /* not before the root is durable */
    px_run(u);
    assert_int_equal(p->held, 1);
}

static uint64_t held_blocks(struct px_use *u)
{
    uint64_t blocks;

    pool_pinned(u->pool, &blocks);
    return blocks;
}

/* A disk of 256 blocks. */
static void write_whole(struct px_use *u, struct disk *disk)
{
    for (unsigned i = 0; i < 256; i += 32)
        assert_int_equal(px_do(u, disk, DISK_WRITE, i, 32), 0);
}

/* All of it is written over, snapshots come and go, and roots are made; what is not the root's is used again. */
static void nothing_of_it_is_used_again(void **state)
{
    struct dt_error err;
    struct pool_info before, after;
    struct disk *disk;
    struct px_use u;
    struct pin p;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    write_whole(&u, disk);
    px_snapshot(&u, "vm", "s");
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 64), 0);
    pin_now(&u, &p);
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "vm@s"), &err), 0);
    for (unsigned round = 0; round < 20; round++) {
        write_whole(&u, disk);
        assert_int_equal(pool_checkpoint(u.pool, &err), 0);
        rig_check_root(u.store, &p.pin.root);
    }
    assert_true(held_blocks(&u) >= 256 + 64); /* and not twenty times that */
    assert_true(held_blocks(&u) < 256 + 64 + 40);
    assert_int_equal(p.lost, 0);
    pool_info(u.pool, &before);
    pool_unpin(u.pool, &p.pin);
    pool_info(u.pool, &after);
    assert_int_equal(held_blocks(&u), 0);
    assert_true(after.free >= before.free + 256 + 64);
    rig_check(u.pool);
    disk_close(disk);
    px_end(&u);
}

/* The end of a pin before its root is durable. */
static void dropped_beside_a_root(void **state)
{
    struct pool_info before, after;
    struct dt_error err;
    struct disk *disk;
    struct px_use u;
    struct pin p;

    px_begin(&u, 4096);
    disk = px_create(&u, "vm", 256);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 60), 0);
    pin_now(&u, &p);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 60), 0);
    assert_int_equal(pool_checkpoint(u.pool, &err), 0);
    assert_true(held_blocks(&u) >= 60);
    assert_int_equal(px_do(&u, disk, DISK_WRITE, 0, 60), 0);
    pool_info(u.pool, &before);
    for (unsigned pins = 0; pins < 2;
         pins++) { /* a new pin asks for a root, and is dropped before that is durable */
        pool_unpin(u.pool, &p.pin);
        p.held = 0;
        assert_int_equal(pool_pin(u.pool, &p.pin, &err), 0);
        pool_turn(u.pool);
        assert_false(pool_idle(u.pool));
    }
    pool_unpin(u.pool, &p.pin);
    px_run(&u);
    assert_int_equal(p.held, 0);
    pool_info(u.pool, &after);
    assert_true(after.free >= before.free + 120);
    rig_check(u.pool);
    disk_close(disk);
    px_end(&u);
}

static void one_at_a_time(void **state)
{
    struct pin p, second = {.pin = {.owner = "another", .held = held, .lost = lost}};
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 1024);
    pin_now(&u, &p);
    assert_int_equal(pool_pin(u.pool, &second.pin, &err), -EBUSY);
    assert_non_null(strstr(err.text, "a check"));
    pool_unpin(u.pool, &second.pin); /* which has none: the first one stays */
    assert_ptr_equal(pool_pinned(u.pool, &(uint64_t){0}), &p.pin);
    pool_unpin(u.pool, &p.pin);
    pin_now(&u, &second);
    px_end(&u);
}

/* A write that needs the space ends the pin, and does not wait. */
static void a_full_pool_ends_it(void **state)
{
    struct disk *disk;
    struct px_use u;
    struct pin p;

    px_begin(&u, 1024);
    disk = px_create(&u, "vm", 256);
    write_whole(&u, disk);
    pin_now(&u, &p);
    for (unsigned round = 0; round < 5; round++)
        write_whole(&u, disk);
    assert_int_equal(p.lost, 1);
    assert_non_null(strstr(p.why, "full"));
    assert_null(pool_pinned(u.pool, &(uint64_t){0}));
    assert_int_equal(u.others, 0); /* no "full" was said */
    assert_int_equal(held_blocks(&u), 0);
    rig_check(u.pool);
    disk_close(disk);
    px_end(&u);
}

static void a_failed_pool_ends_it(void **state)
{
    struct dt_error err;
    struct px_use u;
    struct pin p;

    px_begin(&u, 1024);
    p = (struct pin){.pin = {.owner = "a check", .held = held, .lost = lost}};
    u.store->fail_flush = 1;
    assert_int_equal(pool_pin(u.pool, &p.pin, &err), 0);
    px_run(&u);
    assert_int_equal(p.held, 0);
    assert_int_equal(p.lost, 1);
    assert_true(pool_pin(u.pool, &p.pin, &err) < 0);
    px_end(&u);
}

/* ---- What a check finds ---- */

struct findings {
    unsigned n;
    char last[768];
    unsigned trust; /* so many questions are answered by yes */
};

static void say(void *arg, const char *text)
{
    struct findings *f = arg;

    f->n++;
    snprintf(f->last, sizeof(f->last), "%s", text);
}

static bool holds(void *arg)
{
    struct findings *f = arg;

    return f->trust && --f->trust;
}

/* Any number of passes finds the same. */
static void check_with(struct px_use *u, uint64_t memory, struct findings *f,
                       struct pool_check *check)
{
    struct dt_error err;

    *f = (struct findings){0};
    *check = (struct pool_check){.say = say, .arg = f, .data = true, .memory = memory};
    assert_int_equal(pool_check(u->pool, check, &err), 0);
}

static void rot_is_named(void **state)
{
    struct pool_check whole, parts;
    struct findings f;
    struct disk *disk;
    struct px_use u;

    px_begin(&u, 1024);
    disk = px_create(&u, "vm", 256);
    write_whole(&u, disk);
    px_snapshot(&u, "vm", "s");
    check_with(&u, 0, &f, &whole);
    assert_int_equal(f.n, 0);
    check_with(&u, 512, &f, &parts);
    assert_int_equal(f.n, 0);
    assert_int_equal(whole.nodes, parts.nodes);
    assert_int_equal(whole.blocks, parts.blocks);
    assert_int_equal(whole.blocks, 256);
    for (uint64_t at = PX_BLOCK * 80; at < 1024 * PX_BLOCK; at += PX_BLOCK) {
        if (u.store->bytes[at] == 0)
            continue; /* never written */
        u.store->bytes[at + 77] ^= 4;
        check_with(&u, 0, &f, &whole);
        check_with(&u, 512, &f, &parts);
        u.store->bytes[at + 77] ^= 4;
        assert_int_equal(whole.damaged, parts.damaged);
        if (whole.damaged && whole.blocks == 256) {
            char where[64];

            snprintf(where, sizeof(where), "block %u at", (unsigned)(at / PX_BLOCK));
            assert_non_null(strstr(f.last, where));
            assert_non_null(strstr(f.last, "vm"));
            assert_non_null(strstr(f.last, "vm@s"));
            (*(unsigned *)*state)++;
        }
    }
    assert_int_equal(*(unsigned *)*state, 256);
    disk_close(disk);
    px_end(&u);
}

/* What is read when the root is not held any more is no finding. */
static void what_changed_is_no_rot(void **state)
{
    struct pool_check check;
    struct dt_error err;
    struct findings f;
    struct disk *disk;
    struct px_use u;

    px_begin(&u, 1024);
    disk = px_create(&u, "vm", 256);
    write_whole(&u, disk);
    assert_int_equal(pool_checkpoint(u.pool, &err), 0);
    memset(u.store->bytes + 600ul * PX_BLOCK, 0x5a, 8ul * PX_BLOCK);
    memset(u.store->bytes + 100ul * PX_BLOCK, 0x5a, 300ul * PX_BLOCK);
    check_with(&u, 0, &f, &check);
    assert_true(f.n > 0);
    f = (struct findings){.trust = 2};
    check = (struct pool_check){.say = say, .holds = holds, .arg = &f, .data = true};
    assert_int_equal(pool_check(u.pool, &check, &err), -ESTALE);
    assert_int_equal(f.n, 0);
    disk_close(disk);
    px_end(&u);
}

int main(void)
{
    unsigned named = 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_of_it_is_used_again),
        cmocka_unit_test(dropped_beside_a_root),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(a_full_pool_ends_it),
        cmocka_unit_test(a_failed_pool_ends_it),
        cmocka_unit_test_prestate(rot_is_named, &named),
        cmocka_unit_test(what_changed_is_no_rot),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
