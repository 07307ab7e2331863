/* SPDX-License-Identifier: MIT */
/* test_ext_bucket.c - token buckets against a simulated clock, at rates from 1 to 10 million. */
#include "base/bucket.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define START DT_S(1000)

/* Takes whatever there is, @per at a time, looking every @step ns or when the bucket says; returns
 * the tokens taken in @time. */
static uint64_t run(uint64_t rate, uint64_t burst, uint64_t time, uint64_t step, uint64_t per)
{
    struct bucket b = {0};
    uint64_t now = START, taken = 0;

    bucket_set(&b, rate, burst, now);
    while (now < START + time) {
        uint64_t tokens, when;

        bucket_refill(&b, now);
        tokens = bucket_tokens(&b);
        assert_int_equal(bucket_empty(&b), tokens == 0);
        if (tokens) {
            tokens = MAX(tokens, per); /* more than there is: debt */
            bucket_take(&b, tokens);
            taken += tokens;
        }
        when = bucket_when(&b, 1);
        assert_true(when > now || bucket_tokens(&b));
        now = MAX(when, now + step);
    }
    return taken;
}

static void assert_near(uint64_t got, uint64_t expected, uint64_t slack)
{
    if (got + slack < expected || got > expected + slack)
        fail_msg("%llu is not within %llu of %llu", (unsigned long long)got,
                 (unsigned long long)slack, (unsigned long long)expected);
}

static void rates_are_exact(void **state)
{
    static const uint64_t rates[] = {1,    3,      7,      10,      333,     1000,
                                     4999, 100000, 999983, 3000001, 10000000};

    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        uint64_t step = DT_US(1);

        /* Ten seconds: what is due, and the one token of the start; looking late loses nothing. */
        assert_near(run(rates[i], DT_MS(100), DT_S(10), step, 0), rates[i] * 10,
                    1 + rates[i] * step / DT_S(1));
        assert_near(run(rates[i], DT_MS(100), DT_S(10), 777777, 0), rates[i] * 10,
                    1 + rates[i] * 777777 / DT_S(1));
    }
}

static void debt_is_paid(void **state)
{
    /* A megabyte at a time at 5 MB/s, and at a rate below one a second. */
    assert_near(run(5000000, DT_MS(100), DT_S(100), DT_US(20), 1 << 20), 500000000, 1 << 20);
    assert_near(run(1000, DT_MS(100), DT_S(10000), DT_US(20), 4096), 10000000, 4096);
}

static void nothing_drifts(void **state)
{
    struct bucket b = {0};
    uint64_t now = START, taken = 0;

    /* A billion nanoseconds in steps that no rate divides, for an hour. */
    bucket_set(&b, 999983, DT_MS(100), now);
    while (now < START + DT_S(3600)) {
        now += 1234567;
        bucket_refill(&b, now);
        taken += bucket_tokens(&b);
        bucket_take(&b, bucket_tokens(&b));
    }
    assert_near(taken, 999983ull * 3600, 1 + 999983 * 1234567ull / DT_S(1));
}

static void a_burst_is_what_was_saved(void **state)
{
    struct bucket b = {0};

    bucket_set(&b, 1000, DT_MS(100), START);
    assert_int_equal(bucket_tokens(&b), 1);
    bucket_refill(&b, START + DT_S(50));
    assert_int_equal(bucket_tokens(&b), 101);
    assert_int_equal(bucket_capacity(&b), 101);
    bucket_take(&b, 101);
    assert_int_equal(bucket_when(&b, 1), START + DT_S(50) + DT_MS(1));
    bucket_refill(&b, START); /* back in time */
    assert_int_equal(bucket_tokens(&b), 0);
}

static void changes_keep_what_is_owed(void **state)
{
    struct bucket b = {0};

    assert_true(bucket_tokens(&b) == UINT64_MAX);
    bucket_take(&b, 1 << 30); /* unlimited: costs nothing */
    bucket_set(&b, 10, 0, START);
    bucket_take(&b, 21);                      /* owes 20 */
    bucket_set(&b, 1000, 0, START + DT_S(1)); /* 10 were paid at the old rate */
    assert_int_equal(bucket_when(&b, 1), START + DT_S(1) + DT_MS(11));
    bucket_set(&b, 0, 0, START + DT_S(2));
    assert_true(bucket_tokens(&b) == UINT64_MAX);
}

static void extremes_do_not_overflow(void **state)
{
    struct bucket b = {0};

    bucket_set(&b, UINT64_MAX, DT_S(3600), 0);
    bucket_refill(&b, UINT64_MAX);
    assert_true(bucket_tokens(&b) == UINT64_MAX);
    bucket_take(&b, UINT64_MAX);
    bucket_set(&b, 1, DT_S(3600), UINT64_MAX);
    bucket_take(&b, UINT64_MAX);
    bucket_take(&b, UINT64_MAX);
    assert_int_equal(bucket_tokens(&b), 0);
    assert_true(bucket_when(&b, 1) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_exact),
        cmocka_unit_test(debt_is_paid),
        cmocka_unit_test(nothing_drifts),
        cmocka_unit_test(a_burst_is_what_was_saved),
        cmocka_unit_test(changes_keep_what_is_owed),
        cmocka_unit_test(extremes_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
