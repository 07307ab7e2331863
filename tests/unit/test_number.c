/* SPDX-License-Identifier: MIT */
/* test_number.c - numbers as people write them, the reverse, and the nearest name. */
#include "core/core.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct number_case {
    const char *text;
    int ret;
    uint64_t value;
};

static void check_cases(int (*parse)(const char *, uint64_t *), const struct number_case *cases,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t value = 42;
        int ret = parse(cases[i].text, &value);

        if (ret != cases[i].ret || value != (ret ? 42 : cases[i].value))
            fail_msg("'%s' gave %d, %llu", cases[i].text, ret, (unsigned long long)value);
    }
}

static void test_uint(void **state)
{
    static const struct number_case cases[] = {
        {"0", 0, 0},
        {"5000", 0, 5000},
        {"20k", 0, 20000},
        {"3M", 0, 3000000},
        {"1.5G", 0, 1500000000},
        {"1.500k", 0, 1500},
        {"2.0", 0, 2},
        {"2.000000000000000000000000", 0, 2},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE},
        {"18446744073709551615k", -ERANGE},
        {"0.0005k", -EINVAL},
        {"1.5", -EINVAL},
        {"", -EINVAL},
        {"k", -EINVAL},
        {"-1", -EINVAL},
        {"+1", -EINVAL},
        {" 1", -EINVAL},
        {"1 ", -EINVAL},
        {"1.", -EINVAL},
        {".5k", -EINVAL},
        {"5x00", -EINVAL},
        {"5kk", -EINVAL},
        {"0x10", -EINVAL},
        {"5m", -EINVAL}, /* milli, or million? */
    };

    check_cases(parse_uint, cases, ARRAY_SIZE(cases));
}

static void test_size(void **state)
{
    static const struct number_case cases[] = {
        {"512", 0, 512},       {"64K", 0, 65536},
        {"64k", 0, 65536},     {"64KiB", 0, 65536},
        {"1.5M", 0, 1572864},  {"10g", 0, 10ull << 30},
        {"1T", 0, 1ull << 40}, {"16383P", 0, 16383ull << 50},
        {"16384P", -ERANGE},   {"64KB", -EINVAL},
        {"0.3K", -EINVAL},     {"1.5", -EINVAL},
    };

    check_cases(parse_size, cases, ARRAY_SIZE(cases));
}

static void test_duration(void **state)
{
    static const struct number_case cases[] = {
        {"10us", 0, 10000},     {"5ms", 0, 5000000},   {"1.5s", 0, 1500000000},
        {"2min", 0, DT_S(120)}, {"1h", 0, DT_S(3600)}, {"0.5ns", -EINVAL},
        {"5", -EINVAL},         {"0s", 0, 0},          {"600000000h", -ERANGE},
        {"5 ms", -EINVAL},
    };

    uint64_t unused;

    check_cases(parse_duration, cases, ARRAY_SIZE(cases));
    assert_int_equal(parse_duration("0", &unused), -EINVAL);
}

static void test_fraction(void **state)
{
    static const struct {
        const char *text;
        int ret;
        double value;
    } cases[] = {
        {"0", 0, 0},      {"1", 0, 1},         {"0.01", 0, 0.01},   {"1%", 0, 0.01},
        {"100%", 0, 1},   {"1e-6", 0, 1e-6},   {"12.5%", 0, 0.125}, {"101%", -ERANGE},
        {"1.1", -ERANGE}, {"1e9", -ERANGE},    {"-0", -EINVAL},     {"nan", -EINVAL},
        {"inf", -EINVAL}, {"0x1p-1", -EINVAL}, {"", -EINVAL},       {"%", -EINVAL},
        {"1%%", -EINVAL}, {"0.5x", -EINVAL},   {"1-1", -EINVAL},    {"1e400", -ERANGE},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        double value = 42;

        if (parse_fraction(cases[i].text, &value) != cases[i].ret ||
            value != (cases[i].ret ? 42 : cases[i].value))
            fail_msg("'%s' gave %g", cases[i].text, value);
    }
}

static void test_bool(void **state)
{
    bool value = false;

    assert_int_equal(parse_bool("on", &value), 0);
    assert_true(value);
    assert_int_equal(parse_bool("no", &value), 0);
    assert_false(value);
    assert_int_equal(parse_bool("On", &value), -EINVAL);
    assert_int_equal(parse_bool("", &value), -EINVAL);
}

static void check_format(char *(*format)(uint64_t), int (*parse)(const char *, uint64_t *),
                         uint64_t n, const char *expected)
{
    _cleanup_free_ char *text = format(n);
    uint64_t back = ~n;

    if (expected)
        assert_string_equal(text, expected);
    assert_int_equal(parse(text, &back), 0);
    assert_true(back == n);
}

static void test_format(void **state)
{
    struct dt_rng rng;

    check_format(format_count, parse_uint, 5000, "5000");
    check_format(format_count, parse_uint, 20000, "20k");
    check_format(format_count, parse_uint, 20001, "20001");
    check_format(format_size, parse_size, 0, "0");
    check_format(format_size, parse_size, 65536, "64K");
    check_format(format_size, parse_size, 1ull << 63, "8192P");
    check_format(format_duration, parse_duration, 0, "0s");
    check_format(format_duration, parse_duration, DT_MS(1500), "1500ms");
    dt_rng_seed(&rng, 1);
    for (int i = 0; i < 10000; i++) {
        uint64_t n = dt_rng_next(&rng) >> dt_rng_below(&rng, 64);

        n <<= dt_rng_below(&rng, 2) * dt_rng_below(&rng, 30);
        check_format(format_count, parse_uint, n, NULL);
        check_format(format_size, parse_size, n, NULL);
        check_format(format_duration, parse_duration, n, NULL);
    }
}

static const char *nearest_of(const char *wanted)
{
    static const char *const known[] = {"trace", "throttle", "error", "delay", "file", "null"};
    struct nearest nearest = {.wanted = wanted};

    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        nearest_offer(&nearest, known[i]);
    return nearest.best;
}

static void test_nearest(void **state)
{
    assert_string_equal(nearest_of("throtle"), "throttle");
    assert_string_equal(nearest_of("trcae"), "trace"); /* neighbours swapped */
    assert_string_equal(nearest_of("errors"), "error");
    assert_string_equal(nearest_of("fil"), "file");
    assert_null(nearest_of("qcow2"));
    assert_null(nearest_of(""));
    assert_null(nearest_of("a-name-that-is-longer-than-all-that-can-be-compared"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uint),     cmocka_unit_test(test_size),
        cmocka_unit_test(test_duration), cmocka_unit_test(test_fraction),
        cmocka_unit_test(test_bool),     cmocka_unit_test(test_format),
        cmocka_unit_test(test_nearest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
