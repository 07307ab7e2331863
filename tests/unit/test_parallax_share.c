/* SPDX-License-Identifier: MIT */
/*
 * test_parallax_share.c - disks that keep the pool busy get requests served in proportion to their
 * weights, and an account of it.
 */
#include "px_use.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 256u

/** struct load - a disk that always has @depth requests of @count blocks waiting. */
struct load {
    struct disk *disk;
    enum disk_op op;
    unsigned count, depth, waiting;
    uint64_t next, served;
    bool on;
};

struct load_req {
    struct disk_req req;
    struct load *load;
};

static void submit(struct load *l);

static void served(struct disk_req *req)
{
    struct load_req *q = container_of(req, struct load_req, req);
    struct load *l = q->load;

    assert_int_equal(req->error, 0);
    l->served++;
    l->waiting--;
    free(req->buf);
    free(q);
    if (l->on)
        submit(l);
}

static void submit(struct load *l)
{
    struct load_req *q = xcalloc(1, sizeof(*q));

    q->load = l;
    q->req = (struct disk_req){.op = l->op,
                               .offset = l->next * PX_BLOCK,
                               .length = (uint64_t)l->count * PX_BLOCK,
                               .done = served};
    q->req.buf = xaligned(PX_BLOCK, q->req.length);
    memset(q->req.buf, 1, q->req.length);
    l->next = (l->next + l->count) % (BLOCKS - l->count);
    l->waiting++;
    disk_submit(l->disk, &q->req);
}

static void turn_on(struct load *l)
{
    l->on = true;
    while (l->waiting < l->depth)
        submit(l);
}

/* Until @l has been served @n times more. */
static void run(struct px_use *u, const struct load *l, uint64_t n)
{
    for (uint64_t end = l->served + n, turns = 0; l->served < end;)
        if (!rig_turn(u->store) || ++turns % 8 == 0)
            pool_turn(u->pool);
}

static void turn_off(struct px_use *u, struct load *loads, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        loads[i].on = false;
    px_run(u);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(loads[i].waiting, 0);
}

/* Two disks, `a` and `b`, both filled. */
static void begin(struct px_use *u, struct load loads[2])
{
    px_begin(u, 4096);
    loads[0].disk = px_create(u, "a", BLOCKS);
    loads[1].disk = px_create(u, "b", BLOCKS);
    for (unsigned i = 0; i < 2; i++)
        for (unsigned b = 0; b < BLOCKS; b += 32)
            assert_int_equal(px_do(u, loads[i].disk, DISK_WRITE, b, 32), 0);
}

static void end(struct px_use *u, struct load loads[2])
{
    turn_off(u, loads, 2);
    disk_close(loads[0].disk);
    disk_close(loads[1].disk);
    px_end(u);
}

static void near(uint64_t a, uint64_t b, double ratio)
{
    double is = (double)a / (double)b;

    if (is < ratio * 0.9 || is > ratio * 1.1)
        fail_msg("%llu to %llu is %.2f, not %.2f", (unsigned long long)a, (unsigned long long)b, is,
                 ratio);
}

static void set_weight(struct px_use *u, const char *name, unsigned weight)
{
    struct dt_error err;

    assert_int_equal(pool_set_weight(u->pool, px_slot(u, name), weight, &err), 0);
}

static void three_to_one(void **state)
{
    struct load loads[2] = {{.op = DISK_READ, .count = 1, .depth = 64},
                            {.op = DISK_READ, .count = 1, .depth = 64}};
    struct px_use u;

    begin(&u, loads);
    set_weight(&u, "a", 300);
    turn_on(&loads[0]);
    turn_on(&loads[1]);
    run(&u, &loads[1], 100);
    loads[0].served = loads[1].served = 0;
    run(&u, &loads[1], 1000);
    near(loads[0].served, loads[1].served, 3);
    /* While they run. */
    set_weight(&u, "b", 600);
    loads[0].served = loads[1].served = 0;
    run(&u, &loads[0], 1000);
    near(loads[1].served, loads[0].served, 2);
    /* One of them for this mount alone. */
    disk_set_weight(loads[1].disk, 300);
    loads[0].served = loads[1].served = 0;
    run(&u, &loads[0], 1000);
    near(loads[1].served, loads[0].served, 1);
    end(&u, loads);
}

/* A request costs 16 KiB and its bytes: so one of 64 KiB costs four times one of 4 KiB. */
static void bytes_count_too(void **state)
{
    struct load loads[2] = {{.op = DISK_READ, .count = 16, .depth = 64},
                            {.op = DISK_READ, .count = 1, .depth = 64}};
    struct px_use u;

    begin(&u, loads);
    turn_on(&loads[0]);
    turn_on(&loads[1]);
    run(&u, &loads[0], 100); /* those that began before there was another disk */
    loads[0].served = loads[1].served = 0;
    run(&u, &loads[0], 500);
    near(loads[1].served, loads[0].served, 4);
    turn_off(&u, loads, 2);
    rig_check(u.pool);
    end(&u, loads);
}

/* What one leaves, the other uses: nothing is kept for a disk that asks for little. */
static void work_conserving(void **state)
{
    struct load loads[2] = {{.op = DISK_READ, .count = 1, .depth = 64},
                            {.op = DISK_READ, .count = 1, .depth = 1}};
    struct px_use u;

    begin(&u, loads);
    set_weight(&u, "b", 10000);
    turn_on(&loads[0]);
    turn_on(&loads[1]);
    run(&u, &loads[1], 200);
    assert_true(loads[0].served > loads[1].served * 5);
    turn_off(&u, loads, 2);
    /* Alone, it is not limited: all of its requests are under way. */
    turn_on(&loads[0]);
    assert_int_equal(u.store->pending_n, 64);
    end(&u, loads);
}

static void keep(void *arg, const struct disk_account *a)
{
    struct disk_account *to = arg;

    if (strcmp(a->owner, "test") == 0)
        to[a->slot] = *a;
}

/* A disk that waits for its quota takes no place; accounts tell who waited. */
static void held_ones_take_no_place(void **state)
{
    struct load loads[2] = {{.op = DISK_WRITE, .count = 1, .depth = 64},
                            {.op = DISK_READ, .count = 1, .depth = 64}};
    struct disk_account accounts[16] = {{0}};
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 4096);
    loads[0].disk = px_create(&u, "a", BLOCKS); /* empty */
    loads[1].disk = px_create(&u, "b", BLOCKS);
    assert_int_equal(px_do(&u, loads[1].disk, DISK_WRITE, 0, 64), 0);
    assert_int_equal(pool_set_quota(u.pool, px_slot(&u, "a"), PX_BLOCK, PX_HOLD, &err), 0);
    turn_on(&loads[0]);
    turn_on(&loads[1]);
    run(&u, &loads[1], 1000);
    assert_int_equal(loads[0].served, 1);
    pool_accounts(u.pool, keep, accounts);
    assert_int_equal(accounts[px_slot(&u, "a")].in_flight, 64);
    assert_true(accounts[px_slot(&u, "b")].requests >= 1001);
    assert_int_equal(accounts[px_slot(&u, "b")].weight, 100);
    assert_int_equal(accounts[px_slot(&u, "b")].bytes,
                     (accounts[px_slot(&u, "b")].requests - 1) * PX_BLOCK + 64 * PX_BLOCK);
    assert_true(accounts[px_slot(&u, "b")].busy_ns > 0);
    assert_int_equal(pool_set_quota(u.pool, px_slot(&u, "a"), 0, PX_HOLD, &err), 0);
    run(&u, &loads[0], 100);
    pool_accounts(u.pool, keep, accounts);
    assert_true(accounts[px_slot(&u, "a")].waited > 0);
    end(&u, loads);
}

static void refusals(void **state)
{
    struct dt_error err;
    struct px_use u;

    px_begin(&u, 1024);
    disk_close(px_create(&u, "vm", 16));
    px_snapshot(&u, "vm", "s");
    assert_int_equal(pool_set_weight(u.pool, px_slot(&u, "vm"), 0, &err), -EINVAL);
    assert_int_equal(pool_set_weight(u.pool, px_slot(&u, "vm"), 10001, &err), -EINVAL);
    assert_int_equal(pool_set_weight(u.pool, px_slot(&u, "vm@s"), 5, &err), -EINVAL);
    assert_int_equal(pool_set_weight(u.pool, px_slot(&u, "vm"), 7, &err), 0);
    pool_turn(u.pool);
    px_reopen(&u);
    assert_int_equal(pool_record(u.pool, px_slot(&u, "vm"))->weight, 7);
    px_end(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_to_one),    cmocka_unit_test(bytes_count_too),
        cmocka_unit_test(work_conserving), cmocka_unit_test(held_ones_take_no_place),
        cmocka_unit_test(refusals),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
