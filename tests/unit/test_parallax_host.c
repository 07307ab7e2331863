/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_host.c - pools on a store that has no space for their holes.
 *
 * The store gives space to so many blocks and no more, to each when it is first written or allocated. Writes that get
 * none must wait, everything else must go on, and the pool must open again at any moment, with all that it had.
 */
#include "parallax/internal.h"
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define POOL   4096u
#define DISK   1024u /* blocks */
#define DISKS  2u
#define FLIGHT 6u

/** struct world - disks, and what each of their blocks was filled with, or may have been at a kill (@maybe). */
struct world {
    struct px_use u;
    struct disk *disks[DISKS];
    uint8_t now[DISKS][DISK], maybe[DISKS][DISK];
    struct flight {
        struct px_io *io;
        unsigned disk, block, count;
    } flights[FLIGHT];
    unsigned held, killed, waited;
    struct dt_rng rng;
};

static const char *name_of(unsigned disk)
{
    return disk ? "b" : "a";
}

static struct world *begin(uint64_t seed, uint64_t room)
{
    struct world *w = xcalloc(1, sizeof(*w));
    struct pool_create_options create = {0};
    struct dt_error err;

    dt_rng_seed(&w->rng, seed);
    w->u.store = rig_store_new(POOL, seed);
    rig_limit(w->u.store, POOL);
    assert_int_equal(pool_create(&w->u.store->s, &create, &err), 0);
    w->u.store->room = room;
    px_reopen(&w->u);
    for (unsigned i = 0; i < DISKS; i++)
        w->disks[i] = px_create(&w->u, name_of(i), DISK);
    px_run(&w->u);
    return w;
}

static void end(struct world *w)
{
    for (unsigned i = 0; i < DISKS; i++)
        if (w->disks[i])
            disk_close(w->disks[i]);
    px_end(&w->u);
    free(w);
}

/* As if the pause before the store is asked again was over. */
static void ask_again(struct world *w)
{
    w->u.pool->space.spare.retry_at = 0;
    w->u.pool->ckpt.retry_at = 0;
    px_run(&w->u);
}

static void give_room(struct world *w, uint64_t blocks)
{
    w->u.store->room += blocks;
    ask_again(w);
}

static bool is_full(const struct world *w)
{
    return w->u.pool->space.spare.host_full;
}

/* Writes to disk 0, one block after the other, until one is held. */
static struct px_io *fill(struct world *w, unsigned *block)
{
    for (*block = 0; *block < DISK; ++*block) {
        struct px_io *io = px_submit(w->disks[0], DISK_WRITE, *block, 1);

        px_run(&w->u);
        if (!io->done)
            return io;
        w->now[0][*block] = *(const uint8_t *)io->req.buf;
        assert_int_equal(px_finish(io), 0);
    }
    fail_msg("there is space for everything");
    return NULL;
}

static void compare(struct world *w)
{
    for (unsigned d = 0; d < DISKS; d++)
        for (unsigned at = 0; w->disks[d] && at < DISK; at += 64) {
            struct px_io *io = px_submit(w->disks[d], DISK_READ, at, 64);
            const uint8_t *got = io->req.buf;

            px_run(&w->u);
            assert_true(io->done);
            for (unsigned i = 0; i < 64; i++) {
                uint8_t is = got[(size_t)i * PX_BLOCK + 77];

                if (w->maybe[d][at + i] && is == w->maybe[d][at + i])
                    w->now[d][at + i] = is;
                w->maybe[d][at + i] = 0;
                assert_int_equal(is, w->now[d][at + i]);
            }
            assert_int_equal(px_finish(io), 0);
        }
}

/* Nothing that is under way lands. */
static void stop(struct world *w)
{
    struct rig_store *r = w->u.store;

    for (unsigned i = 0; i < DISKS; i++)
        if (w->disks[i])
            disk_cancel_held(w->disks[i], -ECANCELED);
    while (w->u.pool->in_flight) {
        while (r->pending_n) {
            struct store_io *sio = r->pending[--r->pending_n].sio;

            sio->done(sio, -EIO);
        }
        pool_turn(w->u.pool);
    }
}

static void reopen(struct world *w)
{
    stop(w);
    for (unsigned i = 0; i < DISKS; i++)
        if (w->disks[i])
            disk_close(TAKE_PTR(w->disks[i]));
    px_reopen(&w->u);
    for (unsigned i = 0; i < DISKS; i++)
        w->disks[i] = px_open(&w->u, name_of(i));
}

/* ---- One after the other ---- */

static void held_until_there_is_space(void **state)
{
    struct world *w = begin(1, 400);
    unsigned block;
    struct px_io *io = fill(w, &block);

    assert_true(block > 50);
    assert_non_null(strstr(w->u.last, "the file system of memory is full"));
    assert_int_equal(w->u.others, 1);
    /* What needs no space goes on. */
    assert_int_equal(px_do(&w->u, w->disks[1], DISK_READ, 0, 64), 0);
    assert_int_equal(px_do(&w->u, w->disks[1], DISK_FLUSH, 0, 0), 0);
    ask_again(w);
    assert_false(io->done);
    give_room(w, 2000);
    assert_true(io->done);
    w->now[0][block] = *(const uint8_t *)io->req.buf;
    assert_int_equal(px_finish(io), 0);
    assert_int_equal(w->u.resumed, 1);
    assert_int_equal(w->u.others, 1);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* What a flush follows is put, and waits all the same. */
static void flushed_writes_too(void **state)
{
    struct world *w = begin(6, 400);
    struct px_io *io;
    unsigned block;

    for (block = 0;; block++) {
        assert_int_equal(px_do(&w->u, w->disks[0], DISK_FLUSH, 0, 0), 0);
        assert_true(block < DISK);
        io = px_submit(w->disks[0], DISK_WRITE, block, 1);
        px_run(&w->u);
        if (!io->done)
            break;
        w->now[0][block] = *(const uint8_t *)io->req.buf;
        assert_int_equal(px_finish(io), 0);
    }
    assert_true(is_full(w));
    assert_int_equal(px_do(&w->u, w->disks[0], DISK_FLUSH, 0, 0), 0);
    give_room(w, 2000);
    assert_true(io->done);
    w->now[0][block] = *(const uint8_t *)io->req.buf;
    assert_int_equal(px_finish(io), 0);
    reopen(w);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* A pool that has all its space needs no spare blocks. Should its file system want more for it all the same, its writes and its roots
 * wait, and go on by themselves. */
static void a_preallocated_one(void **state)
{
    struct world *w = begin(7, 2 * POOL);
    struct rig_store *r = w->u.store;
    struct dt_error err;
    struct px_io *io;
    int ret;

    assert_int_equal(pool_set_preallocation(w->u.pool, PX_FALLOC, &err), 0);
    while ((ret = pool_preallocate(w->u.pool, &err)) > 0)
        ;
    assert_int_equal(ret, 0);
    r->room = 0;
    for (unsigned i = 0; i < DISK; i += 8) /* none of this is missing anywhere */
        assert_int_equal(px_do(&w->u, w->disks[1], DISK_WRITE, i, 8), 0);
    assert_int_equal(px_do(&w->u, w->disks[1], DISK_DISCARD, 0, DISK), 0);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
    assert_false(is_full(w));
    for (uint64_t i = w->u.pool->space.first; i < POOL; i++)
        r->has[i] = 0;
    io = px_submit(w->disks[0], DISK_WRITE, 3, 1);
    px_run(&w->u);
    assert_true(!io->done && is_full(w));
    assert_true(pool_wait(w->u.pool) < DT_S(2));
    r->room = POOL;
    w->u.pool->space.spare.retry_at = 0;
    while (pool_turn(w->u.pool) || rig_turn(r))
        ;
    assert_true(io->done);
    w->now[0][3] = *(const uint8_t *)io->req.buf;
    assert_int_equal(px_finish(io), 0);
    px_run(&w->u);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* Where the pool, too, has hardly anything left, its file system is asked for that. */
static void at_both_ends(void **state)
{
    struct world *w = begin(8, POOL);
    const struct space *s = &w->u.pool->space;
    struct disk *big = px_create(&w->u, "big", POOL);
    struct px_io *io;
    unsigned block = 0;

    while (s->free > s->reserve + 40)
        assert_int_equal(px_do(&w->u, big, DISK_WRITE, block++, 1), 0);
    w->u.store->room = 0;
    for (;;) {
        io = px_submit(big, DISK_WRITE, block++, 1);
        px_run(&w->u);
        if (!io->done)
            break;
        assert_int_equal(px_finish(io), 0);
    }
    assert_true(is_full(w) && s->free > s->reserve);
    give_room(w, POOL);
    assert_true(io->done);
    assert_int_equal(px_finish(io), 0);
    disk_close(big);
    rig_check(w->u.pool);
    end(w);
}

/* What is held while nobody moves costs no turns. */
static void holding_rests(void **state)
{
    struct world *w = begin(1, 400);
    unsigned block;
    struct px_io *io = fill(w, &block);

    pool_turn(w->u.pool);
    assert_false(w->u.pool->kicked);
    assert_true(pool_wait(w->u.pool) > 0);
    disk_cancel_held(w->disks[0], -ECANCELED);
    assert_int_equal(px_finish(io), -ECANCELED);
    end(w);
}

static void deleting_gives_space(void **state)
{
    struct world *w = begin(2, 500);
    struct dt_error err;
    unsigned block;
    struct px_io *io = fill(w, &block);

    disk_cancel_held(w->disks[0], -ECANCELED);
    px_finish(io);
    io = px_submit(w->disks[1], DISK_WRITE, 7, 1);
    px_run(&w->u);
    assert_false(io->done);
    disk_close(TAKE_PTR(w->disks[0]));
    assert_int_equal(pool_delete_disk(w->u.pool, px_slot(&w->u, "a"), &err), 0);
    px_run(&w->u);
    assert_true(io->done);
    w->now[1][7] = *(const uint8_t *)io->req.buf;
    assert_int_equal(px_finish(io), 0);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* Once there is a little above what is kept, overwriting takes no more than it gives back. */
static void overwriting_goes_on(void **state)
{
    struct world *w = begin(3, 400);
    unsigned block;
    struct px_io *io = fill(w, &block);

    disk_cancel_held(w->disks[0], -ECANCELED);
    px_finish(io);
    assert_int_equal(px_do(&w->u, w->disks[0], DISK_DISCARD, block - 16, 16), 0);
    memset(&w->now[0][block - 16], 0, 16);
    block -= 16;
    w->u.store->room = 0;
    for (unsigned i = 0; i < 3 * block; i++) {
        io = px_submit(w->disks[0], DISK_WRITE, i % block, 1);
        px_run(&w->u);
        assert_true(io->done);
        w->now[0][i % block] = *(const uint8_t *)io->req.buf;
        assert_int_equal(px_finish(io), 0);
    }
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* It is opened by whoever does not know what has space, with what was done since the last root. */
static void opens_when_full(void **state)
{
    struct world *w = begin(4, 1000);
    struct dt_error err;
    unsigned block;
    struct px_io *io = fill(w, &block);

    w->u.store->room = 0;
    for (unsigned i = 0; i < 10; i++) {
        disk_cancel_held(w->disks[0], -ECANCELED);
        if (i == 0)
            px_finish(io);
        assert_int_equal(px_do(&w->u, w->disks[0], DISK_DISCARD, 5 * i, 1), 0);
        w->now[0][5 * i] = 0;
        w->u.store->room = 0;
        reopen(w);
        compare(w);
        rig_check(w->u.pool);
    }
    disk_close(TAKE_PTR(w->disks[0]));
    assert_int_equal(pool_delete_disk(w->u.pool, px_slot(&w->u, "a"), &err), 0);
    px_run(&w->u);
    assert_int_equal(px_do(&w->u, w->disks[1], DISK_WRITE, 0, 32), 0);
    disk_close(TAKE_PTR(w->disks[1]));
    assert_int_equal(pool_close(w->u.pool, &err), 0);
    w->u.pool = NULL;
    assert_true(w->u.store->room > 0); /* others can use it */
    px_reopen(&w->u);
    rig_check(w->u.pool);
    end(w);
}

static void verbs_refuse(void **state)
{
    struct world *w = begin(5, 400);
    struct dt_error err = {""};
    struct pool_info before, after;
    unsigned block;
    struct px_io *io = fill(w, &block);
    uint32_t slot = px_slot(&w->u, "a");
    int ret = 0;

    w->u.store->room = 0;
    w->u.pool->space.spare.retry_at = UINT64_MAX;
    for (unsigned i = 0; i < 500 && ret == 0; i++) {
        pool_info(w->u.pool, &before);
        ret = pool_snapshot(w->u.pool, &slot, 1, NULL, NULL, &err);
        px_run(&w->u);
    }
    pool_info(w->u.pool, &after);
    if (ret == 0) /* few changes need no more than there is; many at once do */
        ret = pool_label(w->u.pool, pool_snapshot_before(w->u.pool, slot), "l", &err)
                  ?: pool_clone(w->u.pool, pool_snapshot_before(w->u.pool, slot), "c", 60000, true,
                                1, &err);
    assert_int_equal(ret, -ENOSPC);
    assert_true(after.disks == 2);
    disk_cancel_held(w->disks[0], -ECANCELED);
    px_finish(io);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* Nothing can be allocated ahead; some writes, and then there is no space. */
static struct world *begin_without_spare(void)
{
    struct world *w = begin(6, 3000);
    struct spare *sp = &w->u.pool->space.spare;
    uint64_t addr;

    while (sp->blocks && spare_alloc(w->u.pool, 1024, false, &addr) > 0 && sp->blocks)
        ;
    sp->off = true;
    for (unsigned i = 0; i < 40; i++) {
        struct px_io *io = px_submit(w->disks[0], DISK_WRITE, i * 16, 1);

        px_run(&w->u);
        assert_true(io->done);
        w->now[0][i * 16] = *(const uint8_t *)io->req.buf;
        assert_int_equal(px_finish(io), 0);
    }
    w->u.store->room = 0;
    return w;
}

/* The root waits, and nothing fails. */
static void a_root_waits(void **state)
{
    struct world *w = begin_without_spare();
    struct dt_error err = {""};

    assert_int_equal(pool_checkpoint(w->u.pool, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "the file system of memory is full"));
    assert_int_equal(w->u.pool->failed, 0);
    px_run(&w->u);
    assert_int_equal(w->u.others, 1);
    assert_true(pool_idle(w->u.pool));
    compare(w);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), -ENOSPC);
    give_room(w, 200);
    assert_int_equal(w->u.pool->ckpt.state, CKPT_IDLE);
    assert_int_equal(w->u.resumed, 1);
    assert_int_equal(pool_checkpoint(w->u.pool, &err), 0);
    compare(w);
    end(w);
}

/* Of what the store has of a root, one piece finds no space, while others are still under way. */
static void a_root_that_waits_is_not_idle_yet(void **state)
{
    struct world *w = begin_without_spare();

    while (checkpoint_turn(w->u.pool, true))
        ;
    assert_true(w->u.store->pending_n > 1);
    assert_true(rig_turn(w->u.store));
    assert_true(checkpoint_waits(w->u.pool) > 0);
    assert_false(pool_idle(w->u.pool));
    while (rig_turn(w->u.store))
        ;
    assert_true(pool_idle(w->u.pool));
    give_room(w, 200);
    assert_int_equal(w->u.pool->ckpt.state, CKPT_IDLE);
    compare(w);
    rig_check(w->u.pool);
    end(w);
}

/* ---- By chance ---- */

static bool overlaps(const struct world *w, unsigned disk, unsigned block, unsigned count)
{
    for (unsigned i = 0; i < FLIGHT; i++) {
        const struct flight *f = &w->flights[i];

        if (f->io && f->disk == disk && block < f->block + f->count && f->block < block + count)
            return true;
    }
    return false;
}

static void reap(struct world *w)
{
    for (unsigned i = 0; i < FLIGHT; i++) {
        struct flight *f = &w->flights[i];

        if (!f->io || !f->io->done)
            continue;
        for (unsigned k = 0; k < f->count; k++)
            w->now[f->disk][f->block + k] =
                f->io->req.buf ? ((const uint8_t *)f->io->req.buf)[(size_t)k * PX_BLOCK] : 0;
        assert_int_equal(px_finish(TAKE_PTR(f->io)), 0);
    }
}

static void submit(struct world *w)
{
    unsigned disk = (unsigned)dt_rng_below(&w->rng, DISKS);
    unsigned count = 1 + (unsigned)dt_rng_below(&w->rng, 24);
    unsigned block = (unsigned)dt_rng_below(&w->rng, DISK - count);
    bool discards = dt_rng_below(&w->rng, 6) == 0;

    for (unsigned i = 0; i < FLIGHT; i++)
        if (!w->flights[i].io && !overlaps(w, disk, block, count)) {
            w->flights[i] = (struct flight){
                px_submit(w->disks[disk], discards ? DISK_DISCARD : DISK_WRITE, block, count), disk,
                block, count};
            return;
        }
}

/* What was under way may be there, or not. */
static void kill_and_reopen(struct world *w)
{
    for (unsigned i = 0; i < FLIGHT; i++) {
        struct flight *f = &w->flights[i];

        for (unsigned k = 0; f->io && k < f->count; k++)
            w->maybe[f->disk][f->block + k] =
                f->io->req.buf ? ((const uint8_t *)f->io->req.buf)[(size_t)k * PX_BLOCK] : 0;
    }
    reopen(w);
    for (unsigned i = 0; i < FLIGHT; i++)
        if (w->flights[i].io)
            (void)px_finish(TAKE_PTR(w->flights[i].io));
    w->killed++;
    px_run(&w->u);
    compare(w);
    rig_check(w->u.pool);
}

static void change_room(struct world *w)
{
    uint64_t n = dt_rng_below(&w->rng, 80);

    if (dt_rng_below(&w->rng, 2)) /* somebody else's file grows, or gets smaller */
        w->u.store->room -= MIN(n, w->u.store->room);
    else
        w->u.store->room += n;
    w->u.pool->space.spare.retry_at = 0;
    w->u.pool->ckpt.retry_at = 0;
}

static void snapshot_or_delete(struct world *w)
{
    uint32_t slot = px_slot(&w->u, name_of((unsigned)dt_rng_below(&w->rng, DISKS)));
    uint32_t last = pool_snapshot_before(w->u.pool, slot);
    struct dt_error err;
    int ret;

    if (last == NO_SLOT || dt_rng_below(&w->rng, 3) == 0)
        ret = pool_snapshot(w->u.pool, &slot, 1, NULL, NULL, &err);
    else
        ret = pool_delete_snapshot(w->u.pool, last, &err);
    assert_true(ret == 0 || ret == -ENOSPC || ret == -EAGAIN);
}

/* What is written next is put, as another flush may follow (io-write.c). */
static void flush_twice(struct world *w)
{
    struct disk *disk = w->disks[dt_rng_below(&w->rng, DISKS)];

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(px_do(&w->u, disk, DISK_FLUSH, 0, 0), 0);
}

static void step(struct world *w)
{
    unsigned what = (unsigned)dt_rng_below(&w->rng, 100);

    if (what < 60)
        submit(w);
    else if (what < 64)
        snapshot_or_delete(w);
    else if (what < 68)
        change_room(w);
    else if (what == 68)
        flush_twice(w);
    else if (what == 99)
        kill_and_reopen(w);
    for (unsigned i = 0; i < dt_rng_below(&w->rng, 6); i++)
        if (!rig_turn(w->u.store))
            pool_turn(w->u.pool);
    pool_turn(w->u.pool);
    assert_int_equal(w->u.pool->failed, 0);
    w->held += is_full(w) && io_stalled(w->u.pool);
    w->waited += checkpoint_waits(w->u.pool) != 0;
    reap(w);
}

static void whatever_happens(void **state)
{
    unsigned held = 0, killed = 0, waited = 0;

    for (uint64_t seed = 1; seed <= 15; seed++) {
        struct world *w = begin(seed, 300 + seed * 20);
        struct dt_error err;

        if (seed % 5 == 0) /* which does not come to its end */
            assert_int_equal(pool_set_preallocation(w->u.pool, PX_FALLOC, &err), 0);

        w->u.dirty = seed % 3 ? 0 : 30;
        w->u.slice = seed % 2;
        for (unsigned i = 0; i < 700; i++)
            step(w);
        give_room(w, POOL);
        ask_again(w);
        reap(w);
        for (unsigned i = 0; i < FLIGHT; i++)
            assert_null(w->flights[i].io);
        compare(w);
        rig_check(w->u.pool);
        kill_and_reopen(w);
        held += w->held;
        killed += w->killed;
        waited += w->waited;
        end(w);
    }
    assert_true(held > 1000 && killed > 60);
    assert_int_equal(waited, 0); /* nodes had spare blocks at all times */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_until_there_is_space),
        cmocka_unit_test(flushed_writes_too),
        cmocka_unit_test(a_preallocated_one),
        cmocka_unit_test(at_both_ends),
        cmocka_unit_test(holding_rests),
        cmocka_unit_test(deleting_gives_space),
        cmocka_unit_test(overwriting_goes_on),
        cmocka_unit_test(opens_when_full),
        cmocka_unit_test(verbs_refuse),
        cmocka_unit_test(a_root_waits),
        cmocka_unit_test(a_root_that_waits_is_not_idle_yet),
        cmocka_unit_test(whatever_happens),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
