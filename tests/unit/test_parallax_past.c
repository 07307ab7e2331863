/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_past.c - histories: each state that a disk went through is there, as long as it is
 * kept, and no longer.
 *
 * After each request the model remembers what all blocks hold, under the number of the last write.
 * Then any of these states is mounted and compared, with snapshots taken and deleted, crashes and
 * roots on the way.
 */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define POOL_BLOCKS 6000u
#define BLOCKS      600u /* three leaves */
#define STATES      400u

struct state {
    uint64_t number, time;
    uint8_t block[BLOCKS]; /* what each byte of it is */
};

struct past {
    struct rig_store *store;
    struct pool *pool;
    struct disk *disk;
    struct state *states;
    unsigned n;
    uint8_t now[BLOCKS];
    uint64_t clock;
    unsigned full;
    struct dt_rng rng;
};

static uint64_t the_time(void *arg)
{
    return ((struct past *)arg)->clock;
}

static void said(void *arg, uint32_t slot, const char *event, const char *text)
{
    if (strcmp(event, "full") == 0)
        ((struct past *)arg)->full++;
    else if (strcmp(event, "resumed"))
        fail_msg("%s: %s", event, text);
}

static uint32_t slot(struct past *p)
{
    struct dt_error err;
    uint32_t found = pool_find(p->pool, "d", &err);

    assert_int_not_equal(found, NO_SLOT);
    return found;
}

static void reopen(struct past *p, bool crash)
{
    struct pool_options o = {.event = said, .clock = the_time, .arg = p, .cache = 64 * 4200};
    struct dt_error err = {""};

    if (p->disk)
        disk_close(p->disk);
    if (p->pool && crash) {
        pool_turn(p->pool);
        p->store->pending_n = 0;
        pool_abandon(p->pool);
    } else if (p->pool) {
        while (!pool_idle(p->pool)) {
            rig_turn(p->store);
            pool_turn(p->pool);
        }
        assert_int_equal(pool_close(p->pool, &err), 0);
    }
    if (pool_open(&p->pool, &p->store->s, &o, &err) < 0)
        fail_msg("%s", err.text);
}

static void begin(struct past *p, uint64_t blocks, uint64_t seed)
{
    struct pool_create_options create = {0};
    struct dt_error err;

    *p = (struct past){.store = rig_store_new(blocks, seed), .clock = DT_S(1000000)};
    dt_rng_seed(&p->rng, seed);
    p->states = xcalloc(STATES, sizeof(*p->states));
    assert_int_equal(pool_create(&p->store->s, &create, &err), 0);
    reopen(p, false);
    assert_int_equal(pool_create_disk(p->pool, "d", (uint64_t)BLOCKS * PX_BLOCK, 512, &err), 0);
    assert_int_equal(disk_open(&p->disk, p->pool, slot(p), false, "writer", &err), 0);
}

static void end(struct past *p)
{
    disk_close(p->disk);
    p->store->pending_n = 0;
    pool_abandon(p->pool);
    rig_store_free(p->store);
    free(p->states);
}

/* ---- Requests ---- */

struct request {
    struct disk_req req;
    bool done;
};

static void done(struct disk_req *req)
{
    container_of(req, struct request, req)->done = true;
}

static void carry_out(struct past *p, struct disk *disk, enum disk_op op, unsigned first,
                      unsigned count, void *buf)
{
    struct request r = {.req = {.op = op,
                                .offset = (uint64_t)first * PX_BLOCK,
                                .length = (uint64_t)count * PX_BLOCK,
                                .buf = buf,
                                .done = done}};

    disk_submit(disk, &r.req);
    while (!r.done) {
        rig_turn(p->store);
        pool_turn(p->pool);
    }
    assert_int_equal(r.req.error, 0);
}

static void remember(struct past *p)
{
    struct state *s = &p->states[p->n++ % STATES];

    *s = (struct state){.number = pool_record(p->pool, slot(p))->writes, .time = p->clock};
    memcpy(s->block, p->now, sizeof(s->block));
}

static void change(struct past *p)
{
    unsigned first = (unsigned)dt_rng_below(&p->rng, BLOCKS), most = MIN(BLOCKS - first, 40u);
    unsigned count = 1 + (unsigned)dt_rng_below(&p->rng, most);
    enum disk_op op = dt_rng_below(&p->rng, 4) ? DISK_WRITE : DISK_ZERO;
    uint8_t value = (uint8_t)(1 + dt_rng_below(&p->rng, 255));
    _cleanup_free_ uint8_t *buf = xaligned(PX_BLOCK, (size_t)count * PX_BLOCK);

    if (dt_rng_below(&p->rng, 12) == 0) { /* whole leaves go at once */
        op = DISK_DISCARD;
        first = first / 2;
        count = BLOCKS / 2;
    }
    for (unsigned i = 0; i < count; i++) {
        /* Some of it zeroes: a request becomes several records. */
        p->now[first + i] = op != DISK_WRITE || dt_rng_below(&p->rng, 8) == 0 ? 0 : value;
        if (op == DISK_WRITE)
            memset(buf + (size_t)i * PX_BLOCK, p->now[first + i], PX_BLOCK);
    }
    p->clock += DT_S(1) / 2;
    carry_out(p, p->disk, op, first, count, op == DISK_WRITE ? buf : NULL);
    remember(p);
}

/* Blocks of zeroes are not mapped, and all others are. */
static void compare_map(struct disk *view, const struct state *s)
{
    for (uint64_t at = 0, run = 0; at < BLOCKS; at += run) {
        int mapped = disk_map(view, at, BLOCKS - at, &run);

        assert_true(mapped >= 0 && run > 0 && run <= BLOCKS - at);
        for (uint64_t i = at; i < at + run; i++)
            assert_int_equal(s->block[i] != 0, mapped);
    }
}

static void compare(struct past *p, struct disk *view, const struct state *s)
{
    _cleanup_free_ uint8_t *buf = xaligned(PX_BLOCK, (size_t)50 * PX_BLOCK);

    for (unsigned first = 0; first < BLOCKS; first += 50) {
        carry_out(p, view, DISK_READ, first, 50, buf);
        for (size_t i = 0; i < (size_t)50 * PX_BLOCK; i += 512)
            if (buf[i] != s->block[first + i / PX_BLOCK])
                fail_msg("after write %llu block %zu is %u, not %u", (unsigned long long)s->number,
                         first + i / PX_BLOCK, buf[i], s->block[first + i / PX_BLOCK]);
    }
    compare_map(view, s);
}

/* By its number or by its time. */
static struct disk *look(struct past *p, const struct state *s)
{
    char name[64];
    struct dt_error err = {""};
    struct disk *view;
    uint64_t number;
    uint32_t at;

    if (dt_rng_below(&p->rng, 2))
        snprintf(name, sizeof(name), "d@{write %llu}", (unsigned long long)s->number);
    else
        snprintf(name, sizeof(name), "d@{1970-01-12T%02llu:%02llu:%02llu.%03lluZ}",
                 (unsigned long long)(s->time / DT_S(3600) % 24),
                 (unsigned long long)(s->time / DT_S(60) % 60),
                 (unsigned long long)(s->time / DT_S(1) % 60),
                 (unsigned long long)(s->time % DT_S(1) / 1000000));
    if (pool_moment(p->pool, name, &at, &number, &err) < 0 ||
        disk_open_at(&view, p->pool, at, number, "looker", &err) < 0)
        fail_msg("%s: %s", name, err.text);
    assert_true(number <=
                s->number); /* a write that changes nothing is known by its number alone */
    return view;
}

static void disturb(struct past *p)
{
    unsigned what = (unsigned)dt_rng_below(&p->rng, 8);
    uint32_t at = slot(p), newest = pool_snapshot_before(p->pool, at);
    struct dt_error err = {""};

    if (what < 2) {
        assert_int_equal(pool_snapshot(p->pool, &at, 1, NULL, NULL, &err), 0);
    } else if (what < 4 && newest != NO_SLOT) {
        assert_int_equal(pool_delete_snapshot(p->pool, newest, &err), 0);
    } else if (what == 4) {
        pool_history_turn(p->pool);
    } else if (what == 5) {
        reopen(p, dt_rng_below(&p->rng, 2));
        assert_int_equal(disk_open(&p->disk, p->pool, slot(p), false, "another", &err), 0);
    } else if (what == 6 && pool_idle(p->pool)) {
        assert_int_equal(pool_checkpoint(p->pool, &err), 0);
    }
    pool_turn(p->pool);
}

static void play(struct past *p, unsigned requests)
{
    for (unsigned i = 0; i < requests; i++) {
        change(p);
        if (dt_rng_below(&p->rng, 6) == 0)
            disturb(p);
    }
}

static void each_state_is_there(void **state)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct dt_error err;
        struct past p;

        begin(&p, 2 * POOL_BLOCKS, seed);
        play(&p, 5);
        p.n = 0;
        assert_int_equal(pool_history(p.pool, slot(&p), 100000, &err), 0);
        remember(&p);
        play(&p, 150);
        for (unsigned i = 0; i < 25; i++) {
            const struct state *s = &p.states[dt_rng_below(&p.rng, p.n)];
            struct disk *view = look(&p, s);

            compare(&p, view, s);
            change(&p); /* the disk goes on beside it */
            compare(&p, view, s);
            disk_close(view);
        }
        rig_check(p.pool);
        end(&p);
    }
}

/* What is too old goes, and nothing that is not; and at the end all of it comes back. */
static void it_is_let_go(void **state)
{
    struct pool_past past;
    struct dt_error err;
    struct past p;
    struct disk *view;

    begin(&p, 2 * POOL_BLOCKS, 77);
    assert_int_equal(pool_history(p.pool, slot(&p), 60, &err), 0);
    play(&p, 390); /* 195 s */
    for (unsigned i = 0; i < 40; i++) {
        pool_history_turn(p.pool);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    }
    assert_int_equal(pool_past_usage(p.pool, slot(&p), &past, &err), 0);
    assert_true(past.begin + DT_S(60) <= p.clock && past.begin + DT_S(80) > p.clock);
    for (unsigned i = 0; i < p.n; i++) {
        const struct state *s = &p.states[i];

        if (s->time + DT_S(60) >= p.clock && dt_rng_below(&p.rng, 4) == 0) {
            view = look(&p, s);
            compare(&p, view, s);
            disk_close(view);
        } else if (s->number < past.first) {
            assert_int_equal(disk_open_at(&view, p.pool, slot(&p), s->number, "x", &err), -ENOENT);
        }
    }
    /* Somebody looks: then it stays, however old it gets. */
    view = look(&p, &p.states[p.n - 1]);
    play(&p, 9);
    p.clock += DT_S(1000);
    for (unsigned i = 0; i < 9; i++)
        pool_history_turn(p.pool);
    assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    compare(&p, view, &p.states[p.n - 10]);
    assert_int_equal(pool_history(p.pool, slot(&p), 0, &err), -EBUSY);
    disk_close(view);
    assert_int_equal(pool_history(p.pool, slot(&p), 0, &err), 0);
    assert_int_equal(disk_open_at(&view, p.pool, slot(&p), p.states[p.n - 1].number, "x", &err),
                     -ENOENT);
    while (pool_snapshot_before(p.pool, slot(&p)) != NO_SLOT)
        assert_int_equal(pool_delete_snapshot(p.pool, pool_snapshot_before(p.pool, slot(&p)), &err),
                         0);
    assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
    {
        uint64_t mapped = 0;
        struct pool_info info;

        for (unsigned i = 0; i < BLOCKS; i++)
            mapped += p.now[i] != 0;
        assert_int_equal(pool_record(p.pool, slot(&p))->charged, mapped);
        pool_info(p.pool, &info);
        assert_int_equal(info.dying, 0);
        assert_int_equal(pool_past_usage(p.pool, slot(&p), &past, &err), 0);
        assert_int_equal(past.held + past.maps, 0);
    }
    rig_check(p.pool);
    end(&p);
}

/* A pool that is full lets go its histories before a write waits for anybody. */
static void writes_come_first(void **state)
{
    struct pool_past past;
    struct dt_error err;
    struct past p;

    begin(&p, 2000, 5);
    assert_int_equal(pool_history(p.pool, slot(&p), 1000000, &err), 0);
    for (unsigned i = 0; i < 380; i++)
        change(&p);
    assert_int_equal(p.full, 0);
    assert_int_equal(pool_past(p.pool, slot(&p), &past, &err), 0);
    assert_true(past.first > p.states[0].number);
    rig_check(p.pool);
    end(&p);
}

/* Deleted with its history, in the middle of whatever. */
static void a_disk_goes_with_it(void **state)
{
    for (uint64_t seed = 20; seed < 25; seed++) {
        struct dt_error err;
        struct past p;
        uint32_t at;

        begin(&p, 2 * POOL_BLOCKS, seed);
        assert_int_equal(pool_history(p.pool, slot(&p), 1000, &err), 0);
        play(&p, 60);
        at = slot(&p);
        disk_close(p.disk);
        assert_int_equal(pool_delete_disk(p.pool, at, &err), 0);
        for (unsigned i = 0; i < seed; i++)
            pool_turn(p.pool);
        p.disk = NULL;
        reopen(&p, true);
        assert_int_equal(pool_reclaim_all(p.pool, &err), 0);
        rig_check(p.pool);
        for (uint32_t s = 0; s < pool_slots(p.pool); s++)
            assert_null(pool_record(p.pool, s));
        assert_int_equal(pool_create_disk(p.pool, "d", (uint64_t)BLOCKS * PX_BLOCK, 512, &err), 0);
        assert_int_equal(disk_open(&p.disk, p.pool, slot(&p), false, "writer", &err), 0);
        end(&p);
    }
}

/* What a view points to is written by a root that is made later, and then it is not kept in memory. */
static void views_outlive_roots(void **state)
{
    static _Alignas(4096) uint8_t block[PX_BLOCK], was[PX_BLOCK];
    struct disk *big, *view;
    struct dt_error err;
    uint64_t number;
    struct past p;

    begin(&p, 2 * POOL_BLOCKS, 30);
    assert_int_equal(pool_history(p.pool, slot(&p), 1000, &err), 0);
    memset(block, 7, sizeof(block));
    carry_out(&p, p.disk, DISK_WRITE, 300, 1, block);
    number = pool_record(p.pool, slot(&p))->writes;
    carry_out(&p, p.disk, DISK_DISCARD, 256, 256, NULL); /* all that its leaf has */
    assert_int_equal(disk_open_at(&view, p.pool, slot(&p), number, "reader", &err), 0);

    assert_int_equal(
        pool_create_disk(p.pool, "big", (uint64_t)1000 * PX_FANOUT * PX_BLOCK, 512, &err), 0);
    assert_int_equal(disk_open(&big, p.pool, pool_find(p.pool, "big", &err), false, "writer", &err),
                     0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned leaf = 0; leaf < 300; leaf++) /* more than are kept in memory */
            carry_out(&p, big, DISK_WRITE, (300 * round + leaf) * PX_FANOUT, 1, block);
        assert_int_equal(pool_checkpoint(p.pool, &err), 0);
    }
    carry_out(&p, view, DISK_READ, 300, 1, was);
    assert_memory_equal(was, block, PX_BLOCK);
    disk_close(view);
    disk_close(big);
    end(&p);
}

static void moments(void **state)
{
    static const char *const bad[] = {"d@{}",
                                      "d@{write}",
                                      "d@{write -1}",
                                      "d@{-5}",
                                      "d@{yesterday}",
                                      "d@{2026-13-40T00:00:00}",
                                      "d@{write 1",
                                      "d@{1969-01-01T00:00:00}",
                                      "d@{2999-01-01T00:00:00}",
                                      "d@{-99999999999999999999s}"};
    struct dt_error err;
    uint64_t number;
    struct past p;
    uint32_t at;

    begin(&p, POOL_BLOCKS, 3);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), -ENOENT);
    assert_non_null(strstr(err.text, "has no history"));
    assert_int_equal(pool_history(p.pool, slot(&p), 1000, &err), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(pool_moment(p.pool, bad[i], &at, &number, &err), -EINVAL);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), -ENOENT);
    assert_int_equal(pool_moment(p.pool, "none@{-5min}", &at, &number, &err), -ENOENT);
    change(&p);
    change(&p);
    p.clock += DT_S(300);
    assert_int_equal(pool_moment(p.pool, "d@{-5min}", &at, &number, &err), 0);
    assert_int_equal(number, p.states[1].number);
    assert_int_equal(pool_moment(p.pool, "d", &at, &number, &err), 0);
    assert_int_equal(number, PRESENT);
    end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_state_is_there), cmocka_unit_test(it_is_let_go),
        cmocka_unit_test(writes_come_first),   cmocka_unit_test(a_disk_goes_with_it),
        cmocka_unit_test(views_outlive_roots), cmocka_unit_test(moments),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
