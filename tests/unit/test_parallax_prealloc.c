/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_prealloc.c - pools that have space in the file for what is not written yet.
 *
 * The store destroys what it gives space to when that lands, at any later moment: so what was in use then, or is
 * given out before, is found out.
 */
#include "parallax/internal.h"
#include "px_world.h"

#define POOL  65536u /* two groups */
#define DISK  4096u
#define TURNS 2000u

static void begin(struct world *w, uint64_t pool)
{
    memset(w, 0, sizeof(*w));
    px_begin(&w->u, pool);
    w->disk = px_create(&w->u, "disk", DISK);
    px_run(&w->u);
}

static void end(struct world *w)
{
    disk_close(w->disk);
    px_end(&w->u);
}

static void reopen(struct world *w)
{
    disk_close(w->disk);
    px_reopen(&w->u);
    w->disk = px_open(&w->u, "disk");
}

static struct pool_info info(const struct world *w)
{
    struct pool_info i;

    pool_info(w->u.pool, &i);
    return i;
}

static void set(struct world *w, enum px_preallocation how)
{
    struct dt_error err;

    px_run(&w->u);
    assert_int_equal(pool_set_preallocation(w->u.pool, how, &err), 0);
}

static void make_root(struct world *w)
{
    struct dt_error err;

    px_run(&w->u);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
}

static void compare(struct world *w)
{
    world_compare(w, DISK);
    rig_check(w->u.pool);
}

/* A turn, and no rest after a piece. */
static void turn(struct world *w)
{
    w->u.pool->space.prealloc.next = 0;
    rig_turn(w->u.store);
    pool_turn(w->u.pool);
}

static void until(struct world *w, uint64_t mark)
{
    for (unsigned i = 0; info(w).preallocated != mark; i++) {
        assert_true(i < TURNS);
        turn(w);
    }
}

static bool destroyed(const struct world *w, uint64_t addr)
{
    const uint8_t *at = w->u.store->bytes + addr * PX_BLOCK;

    return at[0] == 0xdb && memcmp(at, at + 1, PX_BLOCK - 1) == 0;
}

/* ---- What has space ---- */

/* All that is free got it, nothing that is in use was touched, and nothing of it is given back. */
static void all_that_is_free(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    uint64_t free_blocks, touched = 0;
    struct dt_error err;

    begin(w, POOL);
    for (unsigned i = 0; i < 8; i++)
        world_write_now(w, i * 64, 64);
    set(w, PX_FULL);
    until(w, POOL);
    free_blocks = info(w).free;
    for (uint64_t i = 0; i < POOL; i++)
        touched += destroyed(w, i);
    assert_in_range(touched, free_blocks - 64, free_blocks + 64); /* roots move some nodes */
    assert_int_equal(w->u.store->full, w->u.store->allocated);
    compare(w);
    world_discard(w, 0, 512);
    make_root(w);
    make_root(w);
    assert_int_equal(info(w).stale, 0);
    disk_close(w->disk);
    assert_int_equal(pool_close(w->u.pool, &err), 0);
    w->u.pool = NULL;
    assert_int_equal(w->u.store->punches, 0);
    px_reopen(&w->u);
    w->disk = px_open(&w->u, "disk");
    assert_int_equal(info(w).preallocation, PX_FULL);
    assert_int_equal(info(w).preallocated, POOL);
    compare(w);
    end(w);
    free(w);
}

/* While pieces are under way writes get other blocks. */
static void never_what_is_used(void **state)
{
    uint64_t during = 0;

    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world *w = xcalloc(1, sizeof(*w));
        struct px_io *io[32];

        begin(w, 8192);
        dt_rng_seed(&w->u.store->rng, seed);
        set(w, seed % 2 ? PX_FALLOC : PX_FULL);
        for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
            io[i] = world_write(w, i * 64 + seed % 7, 48);
            rig_turn(w->u.store);
            pool_turn(w->u.pool);
            during += w->u.pool->space.prealloc.count > 0;
        }
        px_run(&w->u);
        for (unsigned i = 0; i < ARRAY_SIZE(io); i++)
            assert_int_equal(px_finish(io[i]), 0);
        until(w, 8192);
        compare(w);
        end(w);
        free(w);
    }
    assert_true(during > 100);
}

/* ---- How far it is ---- */

/* A crash costs what was done since the last root; a pool that grows goes on. */
static void it_goes_on(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    uint64_t before;

    w->u.store = rig_store_new(POOL, 5);
    w->u.store->s.blocks = POOL / 2; /* of the memory that there is */
    assert_int_equal(pool_create(&w->u.store->s,
                                 &(struct pool_create_options){.preallocation = PX_FALLOC}, &err),
                     0);
    px_reopen(&w->u);
    w->disk = px_create(&w->u, "disk", DISK);
    assert_int_equal(info(w).preallocated, 0);
    for (unsigned i = 0; info(w).preallocated < 4096 && i < TURNS; i++)
        turn(w);
    before = info(w).preallocated;
    assert_in_range(before, 4096, POOL / 2 - 1);
    make_root(w);
    before = info(w).preallocated;
    reopen(w);
    assert_int_equal(info(w).preallocation, PX_FALLOC);
    assert_int_equal(info(w).preallocated, before);
    until(w, POOL / 2);
    assert_int_equal(w->u.store->full, 0);
    px_run(&w->u);
    w->u.store->s.blocks = POOL;
    assert_int_equal(pool_grow(w->u.pool, &err), 0);
    until(w, POOL);
    assert_in_range(w->u.store->allocated, POOL - 4096, POOL + 4096);
    compare(w);
    end(w);
    free(w);
}

/* The same without turns, as where nobody serves the pool. */
static void all_at_once(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;
    unsigned pieces = 0;
    int ret;

    begin(w, POOL);
    world_write_now(w, 100, 64);
    px_run(&w->u);
    assert_int_equal(pool_set_preallocation(w->u.pool, PX_FULL, &err), 0);
    while ((ret = pool_preallocate(w->u.pool, &err)) > 0)
        pieces++;
    assert_int_equal(ret, 0);
    assert_true(pieces >= 3);
    assert_int_equal(info(w).preallocated, POOL);
    compare(w);
    end(w);
    free(w);
}

/* The file system is full: said once, writes go on, and it goes on when it is told again. */
static void it_is_given_up(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    begin(w, POOL);
    w->u.store->fail_allocate = 3;
    set(w, PX_FALLOC);
    for (unsigned i = 0; i < TURNS && !w->u.others; i++)
        turn(w);
    assert_int_equal(w->u.others, 1);
    assert_non_null(strstr(w->u.last, "does not go on: No space left"));
    assert_int_equal(prealloc_wait(w->u.pool), UINT64_MAX);
    world_write_now(w, 0, 64);
    assert_int_equal(w->u.others, 1);
    set(w, PX_FALLOC);
    until(w, POOL);
    compare(w);
    end(w);
    free(w);
}

/* A root is being written: who is told to try again has changed nothing, and when he is told that it is done, a crash keeps it. */
static void asked_for_again(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    begin(w, POOL);
    world_write_now(w, 0, 64);
    while (checkpoint_turn(w->u.pool, true))
        ;
    assert_true(checkpoint_under_way(w->u.pool));
    assert_int_equal(pool_set_preallocation(w->u.pool, PX_FALLOC, &err), -EAGAIN);
    assert_int_equal(info(w).preallocation, PX_THIN);
    set(w, PX_FALLOC);
    reopen(w);
    assert_int_equal(info(w).preallocation, PX_FALLOC);
    until(w, POOL);
    compare(w);
    end(w);
    free(w);
}

/* ---- Back to a thin pool ---- */

/* What is free is found, and given back. */
static void given_back(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    begin(w, POOL);
    for (unsigned i = 0; i < 4; i++)
        world_write_now(w, i * 64, 64);
    set(w, PX_FULL);
    until(w, POOL);
    px_run(&w->u);
    set(w, PX_THIN);
    assert_int_equal(info(w).preallocated, POOL);
    until(w, 0);
    assert_true(info(w).stale + w->u.pool->space.punch.count + info(w).punched >
                info(w).free * 9 / 10);
    px_run(&w->u);
    disk_close(w->disk);
    assert_int_equal(pool_close(w->u.pool, &err), 0);
    w->u.pool = NULL;
    assert_true(w->u.store->punches > 0);
    px_reopen(&w->u);
    w->disk = px_open(&w->u, "disk");
    compare(w);
    end(w);
    free(w);
}

/* A piece that was begun for a mark that is no more moves no mark. */
static void told_otherwise_meanwhile(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    begin(w, POOL);
    set(w, PX_FALLOC);
    pool_turn(w->u.pool);
    assert_true(w->u.pool->space.prealloc.count > 0);
    assert_int_equal(pool_set_preallocation(w->u.pool, PX_FULL, &err), 0);
    while (rig_turn(w->u.store))
        ;
    assert_int_equal(info(w).preallocated, 0);
    until(w, POOL);
    assert_true(w->u.store->full > POOL * 9ull / 10);
    compare(w);
    end(w);
    free(w);
}

/* A root tells a kind that there is none of, or a mark behind the pool's end. */
static void impossible_roots(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct pool_options o = {.read_only = true};
    struct dt_error err;
    struct pool *pool;

    begin(w, 1024);
    make_root(w);
    for (unsigned kind = 0; kind < 2; kind++) {
        struct px_root root = w->u.pool->root;

        memcpy(&root, w->u.store->bytes + (PX_ROOT_AT + 2 * (root.seq % PX_ROOT_SLOTS)) * PX_BLOCK,
               sizeof(root));
        root.seq += 1 + kind;
        if (kind)
            root.preallocated = root.blocks + 1;
        else
            root.preallocation = PX_PREALLOCATIONS;
        root.crc = 0;
        root.crc = crc32c(0, &root, sizeof(root));
        memcpy(w->u.store->bytes + (PX_ROOT_AT + 2 * (root.seq % PX_ROOT_SLOTS)) * PX_BLOCK, &root,
               sizeof(root));
        assert_int_equal(pool_open(&pool, &w->u.store->s, &o, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "is damaged: its root"));
    }
    end(w);
    free(w);
}

/* What cannot go on asks for no turns: there is no room, or the pool has failed. */
static void no_turns_in_vain(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct dt_error err;

    begin(w, POOL);
    assert_int_equal(pool_set_preallocation(w->u.pool, PX_FALLOC, &err), 0);
    assert_int_equal(pool_wait(w->u.pool), 0);
    w->u.pool->space.promised += info(w).free;
    assert_true(pool_wait(w->u.pool) > 0);
    w->u.pool->space.promised -= info(w).free;
    assert_int_equal(pool_wait(w->u.pool), 0);
    w->u.pool->failed = -EIO;
    assert_true(pool_wait(w->u.pool) > 0);
    w->u.pool->failed = 0;
    end(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_is_free), cmocka_unit_test(never_what_is_used),
        cmocka_unit_test(it_goes_on),       cmocka_unit_test(all_at_once),
        cmocka_unit_test(it_is_given_up),   cmocka_unit_test(asked_for_again),
        cmocka_unit_test(given_back),       cmocka_unit_test(told_otherwise_meanwhile),
        cmocka_unit_test(impossible_roots), cmocka_unit_test(no_turns_in_vain),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
