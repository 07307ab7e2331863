/* SPDX-License-Identifier: MIT */
/* test_spin.c - when a spinning thread gives way, with a clock and a processor that are ours. */
#include "base/spin.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t now, away; /* how long a yield takes */
static unsigned yields;

int __wrap_sched_yield(void);
int __wrap_sched_yield(void)
{
    yields++;
    now += away;
    return 0;
}

uint64_t __wrap_dt_clock_ns(void);
uint64_t __wrap_dt_clock_ns(void)
{
    return now;
}

/* Nothing is found for @ns, looked for every 100 ns. Return: what others had. */
static uint64_t idle(struct spin *s, uint64_t ns)
{
    uint64_t lent = 0;

    for (uint64_t spent = 0; spent < ns; spent += 100) {
        now += 100;
        lent += spin_idle(s, now);
    }
    return lent;
}

static int setup(void **state)
{
    now = DT_S(1);
    away = 300;
    yields = 0;
    return 0;
}

static void who_is_alone_yields_seldom(void **state)
{
    struct spin s = {0};

    assert_int_equal(idle(&s, DT_MS(1)), 0);
    assert_in_range(yields, DT_MS(1) / SPIN_LONG - 1, DT_MS(1) / SPIN_LONG + 8);
}

static void who_finds_something_starts_anew(void **state)
{
    struct spin s = {0};

    idle(&s, DT_MS(1));
    yields = 0;
    for (unsigned i = 0; i < 100; i++) {
        idle(&s, SPIN_LONG / 2);
        spin_found(&s);
    }
    assert_int_equal(yields, 0);
}

static void who_shares_yields_often(void **state)
{
    struct spin s = {0};
    uint64_t lent;

    away = DT_US(10);
    lent = idle(&s, DT_US(100));
    assert_in_range(yields, 80, 100);
    assert_int_equal(lent, yields * away);
}

static void a_thief_is_left_alone(void **state)
{
    struct spin s = {0};

    away = DT_MS(3);
    idle(&s, SPIN_REST);
    assert_int_equal(yields, 1);
    idle(&s, DT_US(10));
    assert_int_equal(yields, 2);
    idle(&s, 2 * SPIN_REST - DT_US(100));
    assert_int_equal(yields, 2);
    away = DT_US(10);
    idle(&s, DT_MS(1));
    assert_true(yields > 100); /* it has gone, and the other end of the ring is there */
    assert_int_equal(s.rest, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(who_is_alone_yields_seldom, setup),
        cmocka_unit_test_setup(who_finds_something_starts_anew, setup),
        cmocka_unit_test_setup(who_shares_yields_often, setup),
        cmocka_unit_test_setup(a_thief_is_left_alone, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
