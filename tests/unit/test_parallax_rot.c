/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_rot.c - bits rot in the pool's own structures, and nobody turns them back: what needs them fails or is told, and
 * all else goes on, now and after the pool was opened again.
 */
#include "parallax/internal.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define DISK_BLOCKS 1024u /* of each disk: four leaves and a node above */
#define LEAF        256u

static void *block_at(struct px_use *u, uint64_t addr)
{
    return u->store->bytes + addr * PX_BLOCK;
}

static void flip(struct px_use *u, uint64_t addr)
{
    assert_true(addr > 0 && addr < u->store->s.blocks);
    ((uint8_t *)block_at(u, addr))[1234] ^= 16;
}

/* What a tree on the store maps @index to; @level 0, or the node above it at that level. */
static uint64_t find_in(struct px_use *u, struct px_ptr ptr, unsigned levels, uint64_t index,
                        unsigned level)
{
    for (; levels > level; levels--)
        ptr = ((struct px_ptr *)block_at(
            u, ptr_addr(ptr)))[index >> (PX_FAN_SHIFT * (levels - 1)) & (PX_FANOUT - 1)];
    return ptr_addr(ptr);
}

/* A node of the map of a disk, as the durable root has it. */
static uint64_t node_of(struct px_use *u, const char *disk, uint64_t index, unsigned level)
{
    const struct px_record *r = pool_record(u->pool, px_slot(u, disk));

    return find_in(u, r->root, r->levels, index, level);
}

static void make_durable(struct px_use *u)
{
    struct dt_error err;

    assert_int_equal(pool_checkpoint(u->pool, &err), 0);
}

static void write_all(struct px_use *u, struct disk *disk)
{
    for (unsigned i = 0; i < DISK_BLOCKS; i += 64)
        assert_int_equal(px_do(u, disk, DISK_WRITE, i, 64), 0);
}

/* Two disks, full, all of it in a root, and nothing in memory. */
static void begin(struct px_use *u)
{
    const char *names[] = {"a", "b"};

    px_begin(u, 8192);
    for (unsigned i = 0; i < 2; i++) {
        struct disk *disk = px_create(u, names[i], DISK_BLOCKS);

        write_all(u, disk);
        disk_close(disk);
    }
    make_durable(u);
    px_reopen(u);
    u->others = 0;
}

/* The other disk has all it had, can be written, and roots are made. */
static void others_go_on(struct px_use *u)
{
    struct disk *b = px_open(u, "b");

    assert_int_equal(px_do(u, b, DISK_READ, 0, 64), 0);
    assert_int_equal(px_do(u, b, DISK_WRITE, 700, 8), 0);
    assert_int_equal(px_do(u, b, DISK_ZERO, 100, 300), 0);
    assert_int_equal(px_do(u, b, DISK_FLUSH, 0, 0), 0);
    for (unsigned i = 0; i < DISK_BLOCKS; i += 64)
        assert_int_equal(px_do(u, b, DISK_READ, i, 64), 0);
    make_durable(u);
    disk_close(b);
}

static struct pool_check check(struct px_use *u)
{
    struct pool_check c = {.data = true};
    struct dt_error err;

    assert_int_equal(pool_check(u->pool, &c, &err), 0);
    return c;
}

/* Whatever needs it fails with an error of its own and is named, before anything is changed. */
static void a_leaf(void **state)
{
    static const struct {
        enum disk_op op;
        uint64_t block;
        unsigned count;
    } needs[] = {{DISK_READ, 300, 8},     {DISK_WRITE, 300, 8},    {DISK_WRITE, 250, 12},
                 {DISK_ZERO, 0, 1024},    {DISK_ZERO, 300, 1},     {DISK_ZERO, 100, 300},
                 {DISK_DISCARD, 0, 1024}, {DISK_DISCARD, 256, 256}};
    struct disk *a;
    struct px_use u;

    begin(&u);
    flip(&u, node_of(&u, "a", 300, 1));
    a = px_open(&u, "a");
    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++) {
        u.others = 0;
        assert_int_equal(px_do(&u, a, needs[i].op, needs[i].block, needs[i].count), -EIO);
        assert_true(u.others >= 2); /* which block of the pool, and which of the disk */
        assert_int_equal(u.about, px_slot(&u, "a"));
        assert_non_null(strstr(u.last, "map of a at"));
    }
    for (unsigned i = 0; i < DISK_BLOCKS; i += 64)
        assert_int_equal(px_do(&u, a, DISK_READ, i, 64), i / LEAF == 1 ? -EIO : 0);
    assert_int_equal(px_do(&u, a, DISK_WRITE, 0, 64), 0);
    assert_int_equal(px_do(&u, a, DISK_ZERO, 512, 512), 0);
    disk_close(a);
    others_go_on(&u);
    px_reopen(&u);
    others_go_on(&u);
    assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->damaged, 0);
    assert_int_equal(check(&u).damaged, 1);
    px_end(&u);
}

/* A guest that reads it all the time is told each time; people are told that it did. */
static void again_and_again(void **state)
{
    uint64_t begun = dt_clock_ns(), seconds;
    struct disk *a;
    struct px_use u;

    begin(&u);
    flip(&u, node_of(&u, "a", 300, 1));
    a = px_open(&u, "a");
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(px_do(&u, a, DISK_READ, 300, 8), -EIO);
    seconds = (dt_clock_ns() - begun) / DT_S(1) + 2;
    assert_in_range(u.others, 2, 65 * seconds);
    u.pool->damage.second = 0; /* as if it was over */
    u.pool->damage.left_out = 7;
    u.others = 0;
    assert_int_equal(px_do(&u, a, DISK_READ, 300, 8), -EIO);
    assert_true(u.others >= 3);
    disk_close(a);
    others_go_on(&u);
    px_end(&u);
}

/* What was read when a write began is damaged, and no longer in memory, when its data has landed. */
static void between(void **state)
{
    struct px_io *io;
    struct disk *a;
    struct px_use u;

    begin(&u);
    u.cache = 1; /* byte: what is clean does not stay */
    px_reopen(&u);
    a = px_open(&u, "a");
    io = px_submit(a, DISK_WRITE, 300, 4);
    while (u.store->pending_n && u.store->fetched < 2) /* both nodes of its map */
        rig_turn(u.store);
    rig_turn(u.store);
    for (unsigned i = 0; i < 8; i++)
        pool_turn(u.pool);
    assert_int_equal(u.store->pending_n, 1);
    flip(&u, node_of(&u, "a", 300, 1));
    px_run(&u);
    assert_int_equal(px_finish(io), -EIO);
    assert_non_null(strstr(u.last, "map of a at"));
    disk_close(a);
    others_go_on(&u);
    assert_int_equal(check(&u).leaked,
                     LEAF); /* as far as a check can tell; and no more than these */
    px_end(&u);
}

static void delete_now(struct px_use *u, const char *disk)
{
    struct pool_info info;
    struct dt_error err;

    assert_int_equal(pool_delete_disk(u->pool, px_slot(u, disk), &err), 0);
    px_run(u);
    make_durable(u);
    pool_info(u->pool, &info);
    assert_int_equal(info.dying, 0);
}

/* A damaged disk can be deleted: all comes back but what is below the node. */
static void deleted(void **state)
{
    for (unsigned level = 1; level <= 2; level++) {
        struct pool_check c;
        struct px_use u;

        begin(&u);
        flip(&u, node_of(&u, "a", 300, level));
        delete_now(&u, "a");
        assert_non_null(strstr(u.last, "of what a had, 1 nodes"));
        others_go_on(&u);
        px_reopen(&u);
        others_go_on(&u);
        c = check(&u);
        assert_int_equal(c.damaged, 0);
        assert_int_equal(c.leaked, level == 1 ? LEAF + 1 : DISK_BLOCKS + 4 + 1);
        px_end(&u);
    }
}

/* The same of a snapshot, where the disk's own map is damaged: nobody can tell what that has in common with it. */
static void snapshot_deleted(void **state)
{
    struct pool_info info;
    struct dt_error err;
    struct disk *a;
    struct px_use u;

    begin(&u);
    px_snapshot(&u, "a", "s");
    a = px_open(&u, "a");
    assert_int_equal(px_do(&u, a, DISK_WRITE, 300, 64), 0);
    assert_int_equal(px_do(&u, a, DISK_WRITE, 600, 64), 0);
    disk_close(a);
    make_durable(&u);
    px_reopen(&u);
    flip(&u, node_of(&u, "a", 300, 1));
    assert_int_equal(pool_delete_snapshot(u.pool, px_slot(&u, "a@s"), &err), 0);
    px_run(&u);
    make_durable(&u);
    pool_info(u.pool, &info);
    assert_int_equal(info.dying, 0);
    others_go_on(&u);
    a = px_open(&u, "a");
    assert_int_equal(px_do(&u, a, DISK_READ, 600, 64), 0);
    assert_int_equal(px_do(&u, a, DISK_WRITE, 600, 64), 0);
    assert_int_equal(px_do(&u, a, DISK_READ, 300, 64), -EIO);
    disk_close(a);
    assert_int_equal(check(&u).unmarked, 0);
    px_end(&u);
}

/* The journal tells of a write to a map that cannot be read any more. The disk is read as far as it is whole, and what was there
 * before that write never comes back, even if the node does. */
static void replayed(void **state)
{
    for (unsigned level = 1; level <= 2; level++) {
        struct dt_error err;
        struct disk *a, *b;
        struct px_use u;
        uint64_t node;

        begin(&u);
        px_snapshot(&u, "a", "s");
        make_durable(&u);
        node = node_of(&u, "a", 300, level);
        a = px_open(&u, "a");
        b = px_open(&u, "b");
        assert_int_equal(px_do(&u, a, DISK_WRITE, 300, 8), 0);
        assert_int_equal(px_do(&u, b, DISK_WRITE, 0, 8), 0);
        assert_int_equal(px_do(&u, a, DISK_WRITE, 310, 8), 0);
        assert_int_equal(px_do(&u, a, DISK_WRITE, 600, 8), 0);
        assert_int_equal(px_do(&u, b, DISK_FLUSH, 0, 0), 0);
        disk_close(a);
        disk_close(b);
        flip(&u, node);
        px_reopen(&u);
        assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->damaged, node);
        for (unsigned round = 0; round < 2; round++) {
            a = px_open(&u, "a");
            assert_int_equal(px_do(&u, a, DISK_READ, 300, 8), -EIO);
            assert_int_equal(px_do(&u, a, DISK_READ, 600, 8), level == 1 ? 0 : -EIO);
            assert_int_equal(px_do(&u, a, DISK_WRITE, 0, 8), -EROFS);
            assert_non_null(strstr(u.last, "writes to a fail"));
            assert_int_equal(px_do(&u, a, DISK_DISCARD, 0, 1024), -EROFS);
            assert_int_equal(px_do(&u, a, DISK_FLUSH, 0, 0), 0);
            disk_close(a);
            others_go_on(&u);
            assert_int_equal(check(&u).damaged, 1 + (round == 0));
            if (round == 0)
                flip(&u, node); /* the medium has come round */
            px_reopen(&u);
        }
        assert_int_equal(check(&u).leaked, 0);
        /* The snapshot lacks nothing. */
        assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s"), &err), 0);
        a = px_open(&u, "a");
        for (unsigned i = 0; i < DISK_BLOCKS; i += 64)
            assert_int_equal(px_do(&u, a, DISK_READ, i, 64), 0);
        write_all(&u, a);
        disk_close(a);
        assert_int_equal(check(&u).damaged, 0);
        px_end(&u);
    }
}

/* What became zeroes needs no map; nor does what a rollback replaces. */
static void healed(void **state)
{
    struct dt_error err;
    struct disk *a;
    struct px_use u;
    uint64_t node;

    begin(&u);
    node = node_of(&u, "a", 300, 1);
    a = px_open(&u, "a");
    assert_int_equal(px_do(&u, a, DISK_ZERO, 256, 256), 0);
    disk_close(a);
    flip(&u, node);
    px_reopen(&u);
    assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->damaged, 0);
    a = px_open(&u, "a");
    write_all(&u, a);
    disk_close(a);
    others_go_on(&u);
    assert_int_equal(check(&u).damaged, 0);
    assert_int_equal(check(&u).leaked, LEAF + 1);

    px_snapshot(&u, "a", "s");
    a = px_open(&u, "a");
    assert_int_equal(px_do(&u, a, DISK_WRITE, 300, 8), 0);
    disk_close(a);
    make_durable(&u);
    px_reopen(&u);
    flip(&u, node_of(&u, "a", 300, 1));
    assert_int_equal(pool_resize(u.pool, px_slot(&u, "a"), 300 * PX_BLOCK, &err), -EIO);
    assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), px_slot(&u, "a@s"), &err), 0);
    a = px_open(&u, "a");
    write_all(&u, a);
    disk_close(a);
    others_go_on(&u);
    assert_int_equal(check(&u).damaged, 0);
    px_end(&u);
}

/* The last page of the history of a disk, or the node above it. */
static uint64_t page_of(struct px_use *u, const char *disk, unsigned level)
{
    const struct px_record *r = pool_record(u->pool, px_slot(u, disk));
    const struct px_record *log = pool_record(u->pool, r->log - 1);

    return find_in(u, log->root, log->levels, log->next - 1, level);
}

static void begin_history(struct px_use *u)
{
    struct dt_error err;
    struct disk *a;

    begin(u);
    assert_int_equal(pool_history(u->pool, px_slot(u, "a"), 3600, 0, &err), 0);
    a = px_open(u, "a");
    for (unsigned i = 0; i < 3; i++) /* more than a page */
        assert_int_equal(px_do(u, a, DISK_WRITE, 300, 64), 0);
    assert_int_equal(px_do(u, a, DISK_ZERO, 512, 512), 0);
    disk_close(a);
    make_durable(u);
    px_reopen(u);
}

/* A history that cannot be added to fails writes until it is turned off; replaying one that cannot be, it ends. */
static void history(void **state)
{
    for (unsigned level = 0; level < 2; level++) {
        struct pool_info info;
        struct dt_error err;
        struct disk *a;
        struct px_use u;
        uint64_t page;

        begin_history(&u);
        flip(&u, page_of(&u, "a", level));
        a = px_open(&u, "a");
        if (level == 0) { /* else all of it is gone, so that writes go on with another */
            assert_int_equal(px_do(&u, a, DISK_WRITE, 0, 8), -EIO);
            assert_int_equal(px_do(&u, a, DISK_ZERO, 0, 512), -EIO);
        }
        assert_int_equal(px_do(&u, a, DISK_READ, 0, 64), 0);
        disk_close(a);
        others_go_on(&u);
        assert_int_equal(pool_history(u.pool, px_slot(&u, "a"), 0, 0, &err), 0);
        px_run(&u);
        make_durable(&u);
        pool_info(u.pool, &info);
        assert_int_equal(info.dying, 0);
        assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->log, 0);
        a = px_open(&u, "a");
        write_all(&u, a);
        disk_close(a);
        px_reopen(&u);
        assert_int_equal(check(&u).damaged, 0);
        assert_true(check(&u).leaked > 0);
        px_end(&u);

        begin_history(&u);
        page = page_of(&u, "a", level);
        a = px_open(&u, "a");
        assert_int_equal(px_do(&u, a, DISK_WRITE, 100, 8), 0);
        disk_close(a);
        flip(&u, page);
        px_reopen(&u);
        assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->past_keep, 0);
        assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->damaged, 0);
        a = px_open(&u, "a");
        assert_int_equal(px_do(&u, a, DISK_READ, 100, 8), 0);
        write_all(&u, a);
        disk_close(a);
        others_go_on(&u);
        assert_int_equal(check(&u).damaged, 0);
        px_end(&u);
    }
}

static uint32_t history_with_snapshot(struct px_use *u)
{
    struct dt_error err;
    uint32_t a, snapshot;
    struct disk *disk;

    begin_history(u);
    a = px_slot(u, "a");
    assert_int_equal(pool_snapshot(u->pool, &a, 1, NULL, &snapshot, &err), 0);
    disk = px_open(u, "a");
    assert_int_equal(px_do(u, disk, DISK_WRITE, 0, 8), 0);
    disk_close(disk);
    assert_int_equal(pool_rollback(u->pool, a, snapshot, &err),
                     0); /* with a root of its own, the first time */
    make_durable(u);
    px_reopen(u);
    return snapshot;
}

/* A rollback goes on with the history: it is refused where that cannot be, and if it was made before, the history ends. */
static void history_rolled_back(void **state)
{
    for (unsigned also = 0; also < 2;
         also++) { /* a write, which ends it before the rollback comes */
        struct pool_info info;
        struct dt_error err;
        struct disk *disk;
        struct px_use u;
        uint32_t snapshot;
        uint64_t page;

        snapshot = history_with_snapshot(&u);
        flip(&u, page_of(&u, "a", 0));
        assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), snapshot, &err), -EIO);
        assert_non_null(strstr(err.text, "history"));
        others_go_on(&u);
        assert_int_equal(pool_history(u.pool, px_slot(&u, "a"), 0, 0, &err), 0);
        assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), snapshot, &err), 0);
        px_end(&u);

        snapshot = history_with_snapshot(&u);
        page = page_of(&u, "a", 0);
        if (also) {
            disk = px_open(&u, "a");
            assert_int_equal(px_do(&u, disk, DISK_WRITE, 8, 8), 0);
            disk_close(disk);
        }
        assert_int_equal(pool_rollback(u.pool, px_slot(&u, "a"), snapshot, &err), 0);
        px_run(&u);
        flip(&u, page);
        px_reopen(&u);
        assert_int_equal(pool_record(u.pool, px_slot(&u, "a"))->past_keep, 0);
        others_go_on(&u);
        assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
        assert_int_equal(pool_delete_disk(u.pool, px_slot(&u, "a"), &err), 0);
        assert_int_equal(pool_reclaim_all(u.pool, &err), 0);
        pool_info(u.pool, &info);
        assert_int_equal(info.dying, 0);
        make_durable(&u);
        px_reopen(&u);
        assert_int_equal(check(&u).damaged, 0);
        px_end(&u);
    }
}

/* ---- Free maps and the catalogue ---- */

/* The pool has a second, small group. */
static void begin_groups(struct px_use *u)
{
    struct disk *disk;

    px_begin(u, PX_GROUP_BLOCKS + 4000);
    disk = px_create(u, "b", DISK_BLOCKS);
    write_all(u, disk);
    disk_close(disk);
    make_durable(u);
    px_reopen(u);
}

/* Of a tree of the root: the catalogue, or with @space the free maps. */
static uint64_t root_node(struct px_use *u, bool space, unsigned level)
{
    const struct px_root *root = pool_root(u->pool);

    return find_in(u, space ? root->spacemap : root->catalog,
                   space ? root->spacemap_levels : root->catalog_levels, 0, level);
}

static void free_map(void **state)
{
    for (unsigned level = 0; level < 1; level++) {
        struct pool_info before, after;
        struct disk *b;
        struct px_use u;

        begin_groups(&u);
        pool_info(u.pool, &before);
        flip(&u, root_node(&u, true, level));
        px_reopen(&u);
        pool_info(u.pool, &after);
        assert_true(after.free <= 4000 && after.free > 3900);
        others_go_on(&u);
        b = px_open(&u, "b");
        for (unsigned i = 0; i < 10; i++)
            write_all(&u, b); /* what is freed comes back, wherever it was */
        disk_close(b);
        px_reopen(&u);
        others_go_on(&u);
        assert_int_equal(check(&u).damaged, 0);
        assert_int_equal(check(&u).unmarked, 0);
        assert_true(check(&u).leaked > PX_GROUP_BLOCKS - 3 * DISK_BLOCKS - 2048);
        px_end(&u);
    }
}

/* They rot while all that they tell is in memory: they are written again. */
static void in_use(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct dt_error err;
        struct disk *b;
        struct px_use u;

        begin_groups(&u);
        b = px_open(&u, "b");
        assert_int_equal(px_do(&u, b, DISK_WRITE, 0, 8), 0);
        make_durable(&u);
        flip(&u, root_node(&u, i & 1, i / 2));
        for (unsigned k = 0; k < 4096; k++) /* until nothing of it is in memory but what is used */
            pool_turn(u.pool);
        assert_int_equal(px_do(&u, b, DISK_WRITE, 100, 8), 0);
        disk_close(b);
        assert_int_equal(pool_create_disk(u.pool, "c", PX_BLOCK, 512, &err), 0);
        make_durable(&u);
        others_go_on(&u);
        px_reopen(&u);
        others_go_on(&u);
        px_slot(&u, "c");
        assert_int_equal(check(&u).damaged, 0);
        px_end(&u);
    }
}

/* ---- Repair ---- */

static unsigned told;

static void count_told(void *arg, const char *text)
{
    told++;
}

static int open_repaired(struct px_use *u, struct dt_error *err)
{
    struct pool_check what = {.say = count_told};
    struct pool_options o = {.event = px_said, .arg = u, .repair = &what};

    told = 0;
    u->store->pending_n = 0;
    if (u->pool)
        pool_abandon(u->pool);
    u->pool = NULL;
    return pool_open(&u->pool, &u->store->s, &o, err);
}

static void nothing_is_wrong(struct px_use *u)
{
    px_reopen(u);
    others_go_on(u);
    rig_check(u->pool);
}

/* The only free map there is: nothing can be given out, so the pool is not opened before. The journal loses nothing. */
static void maps_made_anew(void **state)
{
    for (unsigned level = 0; level < 2; level++) {
        struct pool_options o = {.event = px_said};
        struct dt_error err;
        struct px_use u;
        struct disk *a;

        begin(&u);
        o.arg = &u;
        a = px_open(&u, "a");
        assert_int_equal(px_do(&u, a, DISK_WRITE, 300, 64), 0);
        disk_close(a);
        flip(&u, root_node(&u, true, level));
        pool_abandon(u.pool);
        u.pool = NULL;
        assert_int_equal(pool_open(&u.pool, &u.store->s, &o, &err), -ENOSPC);
        assert_non_null(strstr(err.text, "--repair"));
        assert_int_equal(open_repaired(&u, &err), 0);
        assert_true(told > 0);
        a = px_open(&u, "a");
        for (unsigned i = 0; i < DISK_BLOCKS; i += 64)
            assert_int_equal(px_do(&u, a, DISK_READ, i, 64), 0);
        disk_close(a);
        nothing_is_wrong(&u);
        assert_int_equal(open_repaired(&u, &err), 0);
        assert_int_equal(told, 0);
        px_end(&u);
    }
}

static uint64_t free_now(struct px_use *u)
{
    struct pool_info info;

    pool_info(u->pool, &info);
    return info.free;
}

/* What was below a map that could not be read comes back when nothing else is damaged. */
static void leaks_given_back(void **state)
{
    struct dt_error err;
    struct px_use u;
    uint64_t before;

    begin(&u);
    flip(&u, node_of(&u, "a", 300, 1));
    assert_int_equal(open_repaired(&u, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "1 nodes"));
    assert_int_equal(told, 0);
    px_reopen(&u);
    others_go_on(&u);
    delete_now(&u, "a");
    before = free_now(&u);
    assert_int_equal(open_repaired(&u, &err), 0);
    assert_int_equal(told, 1);
    assert_true(free_now(&u) >= before + LEAF);
    nothing_is_wrong(&u);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_leaf),
        cmocka_unit_test(again_and_again),
        cmocka_unit_test(between),
        cmocka_unit_test(deleted),
        cmocka_unit_test(snapshot_deleted),
        cmocka_unit_test(replayed),
        cmocka_unit_test(healed),
        cmocka_unit_test(history),
        cmocka_unit_test(history_rolled_back),
        cmocka_unit_test(maps_made_anew),
        cmocka_unit_test(leaks_given_back),
        cmocka_unit_test(free_map),
        cmocka_unit_test(in_use),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
