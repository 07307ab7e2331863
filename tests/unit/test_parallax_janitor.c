/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_janitor.c - equal blocks are stored once, whoever has them is charged, and space comes back when
 * the last one goes; zeroes are not stored at all.
 */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 64u /* of each disk */

/* ---- Steps ---- */

/* Time stands still, so the janitor does what it is told and no more. */
static void begin(struct px_use *u, uint64_t blocks)
{
    px_begin(u, blocks);
    u->now = DT_S(1000);
}

static void share(struct px_use *u, enum px_share how)
{
    struct dt_error err;

    px_run(u);
    assert_int_equal(pool_set_share(u->pool, how, SHARE_LEAST_RATE, &err), 0);
}

/* A pool that shares, and a disk of it. */
static struct disk *begin_sharing(struct px_use *u, uint64_t blocks)
{
    begin(u, blocks);
    share(u, PX_SHARE_ON);
    return px_create(u, "a", BLOCKS);
}

/* All is as it should be. */
static void end(struct px_use *u, struct disk *d)
{
    rig_check(u->pool);
    disk_close(d);
    px_end(u);
}

static void janitor(struct px_use *u)
{
    while (pool_share_now(u->pool, 1 << 20) > 0)
        ;
}

static struct pool_share told(struct px_use *u)
{
    struct pool_share s;

    pool_share(u->pool, &s);
    return s;
}

static uint64_t used(struct px_use *u)
{
    struct pool_info info;

    pool_info(u->pool, &info);
    return info.used;
}

/* @fill makes the contents of a block. */
static void put(struct px_use *u, struct disk *disk, uint64_t block, void (*fill)(uint8_t *, int),
                int value)
{
    struct px_io io = {
        .req = {.op = DISK_WRITE, .offset = block * PX_BLOCK, .length = PX_BLOCK, .done = px_done}};

    io.req.buf = xaligned(PX_BLOCK, PX_BLOCK);
    fill(io.req.buf, value);
    disk_submit(disk, &io.req);
    px_run(u);
    assert_true(io.done && io.req.error == 0);
    free(io.req.buf);
}

static void fill_plain(uint8_t *block, int value)
{
    memset(block, value, PX_BLOCK);
}

/* All values have the same CRC: they differ by multiples of the polynomial. */
static void fill_alike(uint8_t *block, int value)
{
    memset(block, 0x55, PX_BLOCK);
    for (unsigned i = 0; i < 33; i++)
        if (0x11edc6f41u >> (32 - i) & 1)
            block[16 * value + i / 8] ^= (uint8_t)(1u << i % 8);
}

static void expect(struct px_use *u, const char *name, uint64_t block, void (*fill)(uint8_t *, int),
                   int value)
{
    _Alignas(4096) static uint8_t is[PX_BLOCK], should[PX_BLOCK];
    struct dt_error err = {""};

    fill(should, value);
    assert_int_equal(pool_read(u->pool, px_slot(u, name), block, 1, is, &err), 0);
    assert_memory_equal(is, should, PX_BLOCK);
}

static void delete_snapshot(struct px_use *u, const char *name)
{
    struct dt_error err;

    assert_int_equal(pool_delete_snapshot(u->pool, px_slot(u, name), &err), 0);
    assert_int_equal(pool_reclaim_all(u->pool, &err), 0);
}

static void checkpoint(struct px_use *u)
{
    struct dt_error err;

    px_run(u);
    assert_int_equal(pool_checkpoint(u->pool, &err), 0);
}

static uint64_t version(const struct px_use *u)
{
    uint64_t newest = 0;
    uint32_t found = 0;

    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++) {
        const struct px_root *root =
            (const struct px_root *)(u->store->bytes + (PX_ROOT_AT + i) * PX_BLOCK);

        if (root->seq > newest) {
            newest = root->seq;
            found = root->version;
        }
    }
    return found;
}

/* ---- Tests ---- */

static void zeroes_are_not_stored(void **state)
{
    struct px_use u;
    struct disk *d;
    uint64_t before;

    begin(&u, 2048);
    d = px_create(&u, "a", BLOCKS);
    before = px_charged(&u, "a");
    for (uint64_t i = 0; i < 8; i++)
        put(&u, d, i, fill_plain, 0);
    assert_int_equal(px_charged(&u, "a"), before);
    assert_int_equal(disk_counters(d)->zero_blocks, 8);
    put(&u, d, 3, fill_plain, 1);
    assert_int_equal(px_charged(&u, "a"), before + 1);
    put(&u, d, 3, fill_plain, 0); /* and what was there comes back */
    assert_int_equal(px_charged(&u, "a"), before);
    expect(&u, "a", 3, fill_plain, 0);
    end(&u, d);
}

static void equal_ones_are_merged(void **state)
{
    struct disk_usage usage;
    struct px_use u;
    struct disk *a, *b;
    struct dt_error err;
    uint64_t before;

    a = begin_sharing(&u, 2048);
    b = px_create(&u, "b", BLOCKS);
    for (uint64_t i = 0; i < 20; i++) {
        put(&u, a, i, fill_plain, 1 + (int)i % 5);
        put(&u, b, i, fill_plain, 1 + (int)i % 5);
    }
    checkpoint(&u);
    before = used(&u);
    janitor(&u);
    assert_int_equal(told(&u).counters.merged, 35);
    assert_int_equal(told(&u).shared, 35);
    checkpoint(&u);
    assert_in_range(before - used(&u), 35 - 4, 35); /* the table takes some */
    assert_int_equal(px_charged(&u, "a"), 20);
    assert_int_equal(px_charged(&u, "b"), 20);
    assert_int_equal(pool_usage(u.pool, px_slot(&u, "a"), &usage, &err), 0);
    assert_true(usage.mapped == 20 && usage.shared == 20 && usage.held == 0);
    janitor(&u); /* nothing is left */
    assert_int_equal(told(&u).counters.merged, 35);
    for (uint64_t i = 0; i < 20; i++)
        expect(&u, "b", i, fill_plain, 1 + (int)i % 5);
    rig_check(u.pool);
    disk_close(a);
    disk_close(b);
    px_reopen(&u); /* as if the process had died */
    assert_int_equal(told(&u).shared, 35);
    rig_check(u.pool);
    px_end(&u);
}

/* The block that the others lead to goes first; all go, one after the other. */
static void the_last_one_frees(void **state)
{
    struct px_use u;
    struct disk *d;
    uint64_t before;

    d = begin_sharing(&u, 2048);
    for (uint64_t i = 0; i < 10; i++)
        put(&u, d, i, fill_plain, 7);
    janitor(&u);
    assert_int_equal(told(&u).shared, 9);
    checkpoint(&u);
    before = used(&u);
    for (uint64_t i = 0; i < 10; i++) {
        assert_int_equal(px_do(&u, d, DISK_ZERO, i, 1), 0);
        assert_int_equal(told(&u).shared, i < 9 ? 8 - i : 0);
        if (i < 9)
            expect(&u, "a", 9, fill_plain, 7);
        rig_check(u.pool);
    }
    checkpoint(&u);
    assert_true(before - used(&u) >= 1);
    assert_int_equal(px_charged(&u, "a"), 0);
    end(&u, d);
}

static void checksums_prove_nothing(void **state)
{
    struct px_use u;
    struct disk *d;
    uint8_t one[PX_BLOCK], other[PX_BLOCK];

    fill_alike(one, 1);
    fill_alike(other, 2);
    assert_int_equal(crc32c(0, one, PX_BLOCK), crc32c(0, other, PX_BLOCK));
    d = begin_sharing(&u, 2048);
    for (uint64_t i = 0; i < 6; i++)
        put(&u, d, i, fill_alike, (int)i % 2);
    janitor(&u);
    assert_true(told(&u).counters.different >= 3);
    for (uint64_t i = 0; i < 6; i++)
        expect(&u, "a", i, fill_alike, (int)i % 2);
    end(&u, d);
}

/* Snapshots and clones have the same pointers, and what they stand for goes with the last owner. */
static void snapshots_and_clones(void **state)
{
    struct px_use u;
    struct disk *a, *c;
    struct dt_error err;

    a = begin_sharing(&u, 2048);
    put(&u, a, 0, fill_plain, 3);
    put(&u, a, 1, fill_plain, 3);
    px_snapshot(&u, "a", "one");
    put(&u, a, 2, fill_plain, 3);
    px_snapshot(&u, "a", "two");
    assert_int_equal(pool_label(u.pool, px_slot(&u, "a@two"), NULL, &err), 0);
    assert_int_equal(pool_clone(u.pool, px_slot(&u, "a@two"), "c", 1, false, 0, &err), 0);
    c = px_open(&u, "c");
    put(&u, c, 5, fill_plain, 3);
    janitor(&u);
    assert_int_equal(told(&u).shared, 3);
    put(&u, a, 0, fill_plain, 4); /* the snapshots have the old one */
    assert_int_equal(told(&u).shared, 3);
    delete_snapshot(&u, "a@one");
    assert_int_equal(told(&u).shared, 3); /* @two has all that it had */
    rig_check(u.pool);
    assert_int_equal(px_do(&u, c, DISK_ZERO, 5, 1), 0);
    assert_int_equal(told(&u).shared, 2);
    disk_close(c);
    assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "c"), &err), 0);
    assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
    assert_int_equal(pool_unlabel(u.pool, px_slot(&u, "a@two"), &err), 0);
    delete_snapshot(&u, "a@two"); /* the disk has blocks 1 and 2 */
    assert_int_equal(told(&u).shared, 1);
    expect(&u, "a", 0, fill_plain, 4);
    expect(&u, "a", 1, fill_plain, 3);
    expect(&u, "a", 2, fill_plain, 3);
    assert_int_equal(px_charged(&u, "a"), 3);
    end(&u, a);
}

/* A disk much larger than the pool, all of it the same block: each address is used again and again. */
static void addresses_live_again(void **state)
{
    struct px_use u;
    struct disk *d;
    struct dt_error err;

    begin(&u, 512);
    share(&u, PX_SHARE_ON);
    assert_int_equal(pool_create_disk(u.pool, "a", (uint64_t)4096 * PX_BLOCK, 512, &err), 0);
    d = px_open(&u, "a");
    for (uint64_t at = 0; at < 2048; at += 32) {
        for (uint64_t i = at; i < at + 32; i++)
            put(&u, d, i, fill_plain, 9);
        janitor(&u);
        checkpoint(&u);
    }
    assert_int_equal(px_charged(&u, "a"), 2048);
    assert_true(used(&u) < 150 && told(&u).shared == 2047);
    for (uint64_t i = 0; i < 2048; i += 97)
        expect(&u, "a", i, fill_plain, 9);
    rig_check(u.pool);
    assert_int_equal(px_do(&u, d, DISK_ZERO, 0, 2048), 0);
    assert_int_equal(told(&u).shared, 0);
    end(&u, d);
}

static bool holds(const struct px_use *u, uint64_t at, int value)
{
    const uint8_t *block = u->store->bytes + at * PX_BLOCK;

    return block[0] == value && memcmp(block, block + 1, PX_BLOCK - 1) == 0;
}

/* How many blocks of the store hold @value. */
static unsigned copies(const struct px_use *u, int value)
{
    unsigned n = 0;

    for (uint64_t at = 0; at < u->store->s.blocks; at++)
        n += holds(u, at, value);
    return n;
}

/* Other data is written, with roots on the way, until the place of one of two equal blocks has been used again. */
static void use_again(struct px_use *u, struct disk *d, int value)
{
    for (unsigned i = 0; copies(u, value) > 1; i++) {
        assert_true(i < 2000);
        put(u, d, 10 + i % 20, fill_plain, 100 + (int)i % 100);
        if (i % 20 == 19)
            checkpoint(u);
    }
}

/* The snapshot's pointer and the disk's, at the same index, bear the same address and different lives. */
static void the_same_place_again(void **state)
{
    for (uint64_t i = 0; i < 2; i++) { /* one of them was forwarded */
        struct px_use u;
        struct disk *d;

        d = begin_sharing(&u, 512);
        put(&u, d, 0, fill_plain, 5);
        put(&u, d, 1, fill_plain, 5);
        px_snapshot(&u, "a", "s");
        janitor(&u);
        checkpoint(&u);
        disk_close(d);
        px_reopen(&u); /* after this, the lowest free block is given out first */
        d = px_open(&u, "a");
        put(&u, d, i, fill_plain, 6);
        expect(&u, "a@s", i, fill_plain, 5);
        rig_check(u.pool);
        delete_snapshot(&u, "a@s");
        assert_int_equal(told(&u).shared, 0);
        end(&u, d);
    }
}

/* A read that was on its way to a block when that went to another address. */
static void reads_on_their_way(void **state)
{
    struct rig_pending late;
    struct px_use u;
    struct px_io *io;
    struct disk *d;

    d = begin_sharing(&u, 512);
    put(&u, d, 0, fill_plain, 5);
    put(&u, d, 1, fill_plain, 5);
    checkpoint(&u);
    io = px_submit(d, DISK_READ, 0, 2);
    assert_int_equal(u.store->pending_n, 1);
    late = u.store->pending[--u.store->pending_n];
    janitor(&u);
    assert_int_equal(told(&u).shared, 1);
    use_again(&u, d, 5);
    u.store->pending[u.store->pending_n++] = late;
    px_run(&u);
    for (unsigned i = 0; i < 2 * PX_BLOCK; i++)
        assert_int_equal(((uint8_t *)io->req.buf)[i], 5);
    assert_int_equal(px_finish(io), 0);
    assert_int_equal(disk_counters(d)->checksum_errors, 0);
    end(&u, d);
}

/* What a history keeps is where it was forwarded to, too. */
static void histories(void **state)
{
    struct disk *d, *was;
    struct pool_past past;
    struct px_use u;
    struct px_io *io;
    struct dt_error err = {""};

    d = begin_sharing(&u, 512);
    assert_int_equal(pool_history(u.pool, px_slot(&u, "a"), 1000, 0, &err), 0);
    put(&u, d, 0, fill_plain, 5);
    put(&u, d, 1, fill_plain, 5);
    assert_int_equal(pool_past(u.pool, px_slot(&u, "a"), &past, &err), 0);
    checkpoint(&u);
    janitor(&u);
    assert_int_equal(told(&u).shared, 1);
    put(&u, d, 0, fill_plain, 6);
    put(&u, d, 1, fill_plain, 7);
    for (unsigned i = 0; i < 2; i++) { /* the second time, the place of one has been used again */
        rig_check(u.pool);
        assert_int_equal(disk_open_at(&was, u.pool, px_slot(&u, "a"), past.last, "reader", &err),
                         0);
        io = px_submit(was, DISK_READ, 0, 2);
        px_run(&u);
        for (unsigned k = 0; k < 2 * PX_BLOCK; k++)
            assert_int_equal(((uint8_t *)io->req.buf)[k], 5);
        assert_int_equal(px_finish(io), 0);
        disk_close(was);
        if (i == 0) { /* after opening, the lowest free block is given out first */
            checkpoint(&u);
            disk_close(d);
            px_reopen(&u);
            d = px_open(&u, "a");
            use_again(&u, d, 5);
        }
    }
    assert_int_equal(pool_history(u.pool, px_slot(&u, "a"), 0, 0, &err), 0);
    assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
    assert_int_equal(told(&u).shared, 0);
    end(&u, d);
}

/* What rotted is not put in the place of what is good. */
static void rot_does_not_spread(void **state)
{
    struct px_use u;
    struct disk *d;

    d = begin_sharing(&u, 2048);
    put(&u, d, 0, fill_plain, 5);
    put(&u, d, 1, fill_plain, 5);
    for (uint64_t at = 0; at < 2048; at++) {
        uint8_t *block = u.store->bytes + at * PX_BLOCK;

        if (holds(&u, at, 5))
            block[100] ^= 1; /* both, in the same way */
    }
    janitor(&u);
    assert_int_equal(told(&u).counters.merged, 0);
    assert_int_equal(told(&u).counters.different, 1);
    disk_close(d);
    px_end(&u);
}

/* With writes, nothing but what was written lately is looked at before the first root. */
static void what_was_written_is_looked_up(void **state)
{
    struct px_use u;
    struct disk *d;

    begin(&u, 2048);
    share(&u, PX_SHARE_WRITES);
    janitor(&u);
    d = px_create(&u, "a", BLOCKS);
    for (uint64_t i = 0; i < 8; i++)
        put(&u, d, i, fill_plain, 6);
    assert_true(pool_share_now(u.pool, 64 * 8) >= 0); /* not enough for a walk */
    assert_int_equal(told(&u).counters.looked, 8);
    pool_share_now(u.pool, 7 * 2 * PX_BLOCK);
    assert_int_equal(told(&u).counters.merged, 7);
    share(&u, PX_SHARE_OFF);
    put(&u, d, 20, fill_plain, 6);
    px_run(&u);
    assert_int_equal(told(&u).shared, 7); /* what is shared stays so */
    end(&u, d);
}

/* With more blocks the table has more levels. */
static void it_grows(void **state)
{
    struct dt_error err = {""};
    struct px_use u;
    struct disk *d;
    uint8_t *more;

    d = begin_sharing(&u, 1024);
    for (uint64_t i = 0; i < 10; i++)
        put(&u, d, i, fill_plain, 8);
    janitor(&u);
    checkpoint(&u);
    more = xaligned(PX_BLOCK, (size_t)8192 * PX_BLOCK);
    memcpy(more, u.store->bytes, (size_t)1024 * PX_BLOCK);
    free(u.store->bytes);
    u.store->bytes = more;
    u.store->s.blocks = 8192;
    assert_int_equal(pool_grow(u.pool, &err), 0);
    put(&u, d, 20, fill_plain, 8);
    janitor(&u);
    assert_int_equal(told(&u).shared, 10);
    rig_check(u.pool);
    disk_close(d);
    px_reopen(&u);
    rig_check(u.pool);
    expect(&u, "a", 9, fill_plain, 8);
    px_end(&u);
}

/* Writes wait for space, the janitor makes some, and they go on. */
static void a_full_pool(void **state)
{
    struct dt_error err = {""};
    struct px_io *io[440];
    struct px_use u;
    struct disk *d;

    begin(&u, 512);
    share(&u, PX_SHARE_ON);
    assert_int_equal(pool_create_disk(u.pool, "a", (uint64_t)4096 * PX_BLOCK, 512, &err), 0);
    d = px_open(&u, "a");
    for (unsigned i = 0; i < 440; i++) { /* 255 different ones */
        io[i] = px_submit(d, DISK_WRITE, i, 1);
        px_run(&u);
    }
    assert_true(!io[439]->done && u.others == 1); /* it was said */
    for (unsigned i = 0; i < 440 && !io[439]->done; i++) {
        janitor(&u);
        px_run(&u);
    }
    for (unsigned i = 0; i < 440; i++)
        assert_int_equal(px_finish(io[i]), 0);
    assert_int_equal(px_charged(&u, "a"), 440);
    end(&u, d);
}

static void refuses(struct px_use *u, int error, const char *text)
{
    struct pool_options o = {0};
    struct dt_error err = {""};
    struct pool *pool;

    assert_int_equal(pool_open(&pool, &u->store->s, &o, &err), error);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

/* Pools that share nothing stay what older programs can read; features of later ones are named. */
static void formats(void **state)
{
    struct dt_error err = {""};
    struct px_use u;

    begin(&u, 2048);
    checkpoint(&u);
    assert_int_equal(version(&u), 2);
    assert_int_equal(pool_share_now(u.pool, 1 << 20), -EROFS);
    assert_true(pool_set_share(u.pool, PX_SHARES, SHARE_RATE, &err) == -EINVAL && *err.text);
    assert_true(pool_set_share(u.pool, PX_SHARE_ON, 100, &err) == -EINVAL && *err.text);
    assert_int_equal(pool_set_share(u.pool, PX_SHARE_OFF, SHARE_RATE, &err), 0);
    checkpoint(&u);
    assert_int_equal(version(&u), 2);
    share(&u, PX_SHARE_ON);
    assert_int_equal(version(&u), 3);
    share(&u, PX_SHARE_OFF);
    px_reopen(&u);
    checkpoint(&u);
    assert_int_equal(version(&u), 3);
    for (unsigned i = 0; i < 2 * PX_ROOT_SLOTS; i++) {
        struct px_root *root = (struct px_root *)(u.store->bytes + (PX_ROOT_AT + i) * PX_BLOCK);

        root->features |= 0x40;
        root->crc = 0;
        root->crc = crc32c(0, root, PX_BLOCK);
    }
    refuses(&u, -ENOTSUP, "features (0x40)");
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeroes_are_not_stored),
        cmocka_unit_test(equal_ones_are_merged),
        cmocka_unit_test(the_last_one_frees),
        cmocka_unit_test(checksums_prove_nothing),
        cmocka_unit_test(snapshots_and_clones),
        cmocka_unit_test(addresses_live_again),
        cmocka_unit_test(the_same_place_again),
        cmocka_unit_test(reads_on_their_way),
        cmocka_unit_test(histories),
        cmocka_unit_test(rot_does_not_spread),
        cmocka_unit_test(what_was_written_is_looked_up),
        cmocka_unit_test(it_grows),
        cmocka_unit_test(a_full_pool),
        cmocka_unit_test(formats),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
