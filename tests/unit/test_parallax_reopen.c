/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_reopen.c - pools that are served before the root that ends their recovery, and what such a root tells.
 */
#include "parallax/internal.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 200u /* of the disk: its map is one leaf */

static struct pool_info info(const struct px_use *u)
{
    struct pool_info told;

    pool_info(u->pool, &told);
    return told;
}

/* On the store. */
static struct px_root *newest(const struct px_use *u)
{
    struct px_root *found = NULL;

    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++) {
        struct px_root *root = (struct px_root *)(u->store->bytes + (PX_ROOT_AT + i) * PX_BLOCK);

        if (!found || root->seq > found->seq)
            found = root;
    }
    return found;
}

/* What block @at begins with. */
static uint8_t read_one(struct px_use *u, struct disk *disk, uint64_t at)
{
    struct px_io *io = px_submit(disk, DISK_READ, at, 1);
    uint8_t found;

    px_run(u);
    found = *(const uint8_t *)io->req.buf;
    assert_int_equal(px_finish(io), 0);
    return found;
}

/* Writes it, and waits for no more than that; what it was filled with. */
static uint8_t write_one(struct px_use *u, struct disk *disk, uint64_t at)
{
    struct px_io *io = px_submit(disk, DISK_WRITE, at, 1);
    uint8_t written = *(const uint8_t *)io->req.buf;

    for (unsigned i = 0; !io->done && i < 1000; i++)
        if (!rig_turn(u->store))
            pool_turn(u->pool);
    assert_int_equal(px_finish(io), 0);
    return written;
}

/* A pool that was killed after some blocks of its disk were written. */
static uint8_t begin(struct px_use *u)
{
    struct dt_error err;
    struct disk *disk;
    uint8_t written;

    px_begin(u, 4096);
    u->lazy = true;
    disk = px_create(u, "disk", BLOCKS);
    assert_int_equal(px_do(u, disk, DISK_WRITE, 0, 64), 0);
    assert_int_equal(pool_checkpoint(u->pool, &err), 0);
    written = write_one(u, disk, 1);
    write_one(u, disk, 2);
    disk_close(disk);
    return written;
}

/* It is there at once, and the root comes by and by. */
static void served_before_its_root(void **state)
{
    struct disk *disk;
    struct px_use u;
    uint8_t written = begin(&u);
    uint64_t seq;

    px_reopen(&u);
    assert_true(info(&u).recovered && info(&u).rootless && !info(&u).again);
    assert_true(info(&u).journal_used > 0);
    assert_int_equal(newest(&u)->version, PX_ROOT_REOPEN); /* others refuse it */
    seq = newest(&u)->seq;
    disk = px_open(&u, "disk");
    assert_int_equal(read_one(&u, disk, 1), written);
    written = write_one(&u, disk, 3);
    px_run(&u);
    assert_false(info(&u).rootless);
    assert_true(newest(&u)->seq > seq);
    assert_int_equal(newest(&u)->version, PX_ROOT_PLAIN);
    assert_int_equal(read_one(&u, disk, 3), written);
    disk_close(disk);
    rig_check(u.pool);
    px_reopen(&u);
    assert_false(info(&u).rootless || info(&u).again);
    px_end(&u);
}

/* Killed before there is a root: both parts of the journal are replayed, and then a root comes first. */
static void killed_before_its_root(void **state)
{
    struct disk *disk;
    struct px_use u;
    uint8_t first = begin(&u), second;

    u.slice = 1;
    px_reopen(&u);
    disk = px_open(&u, "disk");
    second = write_one(&u, disk, 3);
    assert_true(info(&u).rootless);
    disk_close(disk);
    px_reopen(&u);
    assert_true(info(&u).recovered && info(&u).again && !info(&u).rootless);
    disk = px_open(&u, "disk");
    assert_int_equal(read_one(&u, disk, 1), first);
    assert_int_equal(read_one(&u, disk, 3), second);
    first = write_one(&u, disk, 4);
    disk_close(disk);
    px_reopen(&u); /* and the next one need not wait for it */
    assert_true(info(&u).rootless && !info(&u).again);
    disk = px_open(&u, "disk");
    assert_int_equal(read_one(&u, disk, 4), first);
    assert_int_equal(read_one(&u, disk, 3), second);
    disk_close(disk);
    rig_check(u.pool);
    px_end(&u);
}

/* Nothing was written between, so there is nothing of a second generation. */
static void killed_at_once(void **state)
{
    struct pool_options plain = {.read_only = true};
    struct dt_error err;
    struct pool *pool;
    struct px_use u;
    uint8_t written = begin(&u);
    struct disk *disk;

    px_reopen(&u);
    assert_true(info(&u).rootless);
    pool_abandon(u.pool);
    assert_int_equal(pool_open(&pool, &u.store->s, &plain, &err), 0); /* a reader beside */
    u.pool = pool;
    disk = NULL;
    assert_int_equal(disk_open(&disk, pool, px_slot(&u, "disk"), true, "test", &err), 0);
    assert_int_equal(read_one(&u, disk, 1), written);
    disk_close(disk);
    px_reopen(&u);
    assert_true(info(&u).again && !info(&u).rootless);
    disk = px_open(&u, "disk");
    assert_int_equal(read_one(&u, disk, 1), written);
    disk_close(disk);
    rig_check(u.pool);
    px_end(&u);
}

/* A pool that is closed has its root. */
static void closed_with_its_root(void **state)
{
    struct dt_error err;
    struct px_use u;

    begin(&u);
    px_reopen(&u);
    assert_int_equal(pool_close(u.pool, &err), 0);
    assert_int_equal(newest(&u)->version, PX_ROOT_PLAIN);
    u.pool = NULL;
    px_reopen(&u);
    assert_false(info(&u).recovered);
    px_end(&u);
}

/* What could not be read has decided something that no journal tells. */
static void damage_waits_for_a_root(void **state)
{
    struct px_use u;
    uint64_t leaf;

    begin(&u);
    px_reopen(&u);
    px_run(&u);
    leaf = ptr_addr(pool_record(u.pool, px_slot(&u, "disk"))->root);
    struct disk *disk = px_open(&u, "disk");

    write_one(&u, disk, 5);
    disk_close(disk);
    u.store->bytes[leaf * PX_BLOCK] ^= 1;
    px_reopen(&u);
    assert_true(info(&u).recovered && !info(&u).rootless);
    assert_int_equal(info(&u).damaged, 1);
    px_end(&u);
}

static int opens(struct px_use *u, struct dt_error *err)
{
    struct pool_options o = {.read_only = true};
    struct pool *pool;
    int ret = pool_open(&pool, &u->store->s, &o, err);

    if (ret == 0)
        pool_release(pool);
    return ret;
}

static void set_root(struct px_use *u, const struct px_root *root)
{
    struct px_root *to = newest(u), copy = *root;

    copy.crc = 0;
    copy.crc = crc32c(0, &copy, sizeof(copy));
    for (unsigned i = 0; i < 2; i++)
        to[i] = copy;
}

/* Whatever such a root tells is judged, and what it says is there must be there. */
static void told_what_cannot_be(void **state)
{
    struct px_root good, bad;
    struct dt_error err;
    struct px_use u;
    uint8_t *block;

    begin(&u);
    px_reopen(&u);
    good = *newest(&u);
    assert_int_equal(opens(&u, &err), 0);
    for (unsigned i = 0; i < 5; i++) {
        bad = good;
        if (i == 0)
            bad.next_generation = 0;
        else if (i == 1)
            bad.closed_blocks = 0;
        else if (i == 2)
            bad.closed_blocks = UINT32_MAX;
        else if (i == 3)
            bad.closed_bytes = 0;
        else
            bad.closed_bytes = 4049;
        set_root(&u, &bad);
        assert_int_equal(opens(&u, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "its root"));
    }
    for (unsigned i = 0; i < 2; i++) { /* more than there is, and in the middle of a record */
        bad = good;
        if (i == 0)
            bad.closed_blocks++;
        else
            bad.closed_bytes -= 8;
        set_root(&u, &bad);
        assert_int_equal(opens(&u, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "of its journal"));
    }
    set_root(&u, &good);
    assert_int_equal(opens(&u, &err), 0);
    block = u.store->bytes + (PX_JOURNAL_AT + good.journal_seq % u.pool->journal.blocks) * PX_BLOCK;
    block[100] ^= 1;
    assert_int_equal(opens(&u, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "was flushed and is not there"));
    block[100] ^= 1;
    px_end(&u);
}

/* Who serves nobody makes a root at once. */
static void not_asked_for(void **state)
{
    struct px_use u;

    begin(&u);
    u.lazy = false;
    px_reopen(&u);
    assert_true(info(&u).recovered && !info(&u).rootless);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(served_before_its_root),  cmocka_unit_test(killed_before_its_root),
        cmocka_unit_test(killed_at_once),          cmocka_unit_test(closed_with_its_root),
        cmocka_unit_test(damage_waits_for_a_root), cmocka_unit_test(told_what_cannot_be),
        cmocka_unit_test(not_asked_for),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
