/* SPDX-License-Identifier: MIT */
/* test_param.c - parameters of every type: parsing, refusals as a person reads them, printing. */
#include "core/core.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct data {
    const char *label, *out, *key;
    bool sync;
    uint64_t iops, block, wait;
    double rate;
    unsigned mode;
    uint32_t ops;
};

static const char *const modes[] = {"fast", "safe", "mixed", NULL};

#define FIELD(f) .offset = offsetof(struct data, f), .help = "A sentence."
static const struct dt_param params[] = {
    {.name = "label", .type = DT_PARAM_STRING, .flags = DT_PARAM_LIVE, FIELD(label)},
    {.name = "out", .type = DT_PARAM_PATH, FIELD(out)},
    {.name = "key", .type = DT_PARAM_STRING, .flags = DT_PARAM_SECRET, FIELD(key)},
    {.name = "sync", .type = DT_PARAM_BOOL, .initial = "on", FIELD(sync)},
    {.name = "iops",
     .type = DT_PARAM_UINT,
     .initial = "5000",
     FIELD(iops),
     .min = 10,
     .max = 1000000},
    {.name = "block",
     .type = DT_PARAM_SIZE,
     .initial = "4K",
     FIELD(block),
     .min = 512,
     .max = 1 << 20},
    {.name = "wait", .type = DT_PARAM_DURATION, .initial = "5ms", FIELD(wait)},
    {.name = "rate", .type = DT_PARAM_FRACTION, .initial = "1%", FIELD(rate)},
    {.name = "mode", .type = DT_PARAM_ENUM, .initial = "safe", FIELD(mode), .choices = modes},
    {.name = "ops", .type = DT_PARAM_OPS, .initial = "read,write", FIELD(ops)},
    {NULL},
};

static int apply(const struct dt_param *table, struct data *d, const char *text,
                 struct dt_error *err)
{
    struct chain_spec spec;
    int ret = chain_parse(&spec, text, err);

    if (ret == 0) {
        ret = param_apply_all(table, d, &spec.layers[0], err);
        chain_spec_free(&spec);
    }
    return ret;
}

static void test_defaults(void **state)
{
    struct data d = {0};
    struct dt_error err = {""};

    assert_int_equal(apply(params, &d, "throttle", &err), 0);
    assert_null(d.label);
    assert_null(d.out);
    assert_true(d.sync);
    assert_int_equal(d.iops, 5000);
    assert_int_equal(d.block, 4096);
    assert_int_equal(d.wait, DT_MS(5));
    assert_true(d.rate == 0.01);
    assert_int_equal(d.mode, 1);
    assert_int_equal(d.ops, 1 << DT_OP_READ | 1 << DT_OP_WRITE);
    param_free_all(params, &d);
}

static void test_given(void **state)
{
    struct data d = {0};
    struct dt_error err = {""};
    char cwd[PATH_MAX], path[PATH_MAX + 8];

    assert_int_equal(apply(params, &d,
                           "throttle label='a b' out=./x/y key=k sync=off iops=20k block=64K "
                           "wait=1.5s rate=0.5 mode=mixed ops=all",
                           &err),
                     0);
    assert_string_equal(d.label, "a b");
    snprintf(path, sizeof(path), "%s/x/y", getcwd(cwd, sizeof(cwd)));
    assert_string_equal(d.out, path);
    assert_false(d.sync);
    assert_int_equal(d.iops, 20000);
    assert_int_equal(d.block, 65536);
    assert_int_equal(d.wait, DT_MS(1500));
    assert_true(d.rate == 0.5);
    assert_int_equal(d.mode, 2);
    assert_int_equal(d.ops, 31);
    param_free_all(params, &d);
    assert_null(d.label);
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"iops=5x00", "iops=5x00: not a number (such as 5000, 20k or 3M)"},
        {"iops=5", "iops=5: too small: the least is 10"},
        {"iops=2M", "iops=2M: too large: the most is 1M"},
        {"iops=99999999999999999999", "iops=99999999999999999999: too large a number"},
        {"block=2M", "block=2M: too large: the most is 1M"},
        {"block=a", "block=a: not a size (such as 4096, 64K or 10G)"},
        {"wait=5", "wait=5: a duration needs its unit: 5us, 5ms or 5s?"},
        {"wait=soon", "wait=soon: not a duration (such as 10us, 5ms or 1s)"},
        {"rate=2", "rate=2: a fraction lies between 0 and 1 (or 0% and 100%)"},
        {"rate=often", "rate=often: not a fraction (such as 0.01 or 1%)"},
        {"sync=maybe", "sync=maybe: neither on nor off"},
        {"mode=fats", "mode=fats: not one of fast, safe, mixed; did you mean 'fast'?"},
        {"mode=", "mode=: not one of fast, safe, mixed"},
        {"ops=read,wirte", "ops=read,wirte: 'wirte' is no operation (read, write, flush, "
                           "discard, write-zeroes or all); did you mean 'write'?"},
        {"out=", "out=: a path is missing"},
        {"iosp=5", "no parameter is named 'iosp'; did you mean 'iops'?"},
        {"colour=red", "no parameter is named 'colour'; it takes label, out, key, sync, "
                       "iops, block, wait, rate, mode, ops"},
        {"iops=50 label=x iops=50", "'iops' is given twice"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct data d = {0};
        struct dt_error err = {""};
        char text[256];

        snprintf(text, sizeof(text), "throttle %s", cases[i][0]);
        assert_true(apply(params, &d, text, &err) < 0);
        assert_string_equal(err.text, cases[i][1]);
        assert_null(d.label); /* nothing stays allocated */
    }
}

static void test_secret_stays_secret(void **state)
{
    static const struct dt_param secret[] = {
        {.name = "iops", .type = DT_PARAM_UINT, .flags = DT_PARAM_SECRET, FIELD(iops)},
        {NULL},
    };
    struct data d = {.key = xstrdup("hunter2")};
    struct dt_error err = {""};
    _cleanup_free_ char *shown = param_format(&params[2], &d);

    assert_string_equal(shown, "(secret)");
    assert_int_equal(param_apply(secret, &d, "hunter2", &err), -EINVAL);
    assert_null(strstr(err.text, "hunter2"));
    param_free_all(params, &d);
}

static void test_required(void **state)
{
    static const struct dt_param required[] = {
        {.name = "path",
         .type = DT_PARAM_PATH,
         .flags = DT_PARAM_REQUIRED,
         .offset = offsetof(struct data, out),
         .help = "The image file."},
        {NULL},
    };
    struct data d = {0};
    struct dt_error err = {""};

    assert_int_equal(apply(required, &d, "file", &err), -EINVAL);
    assert_string_equal(err.text, "'path' is missing: The image file.");
    assert_int_equal(apply(NULL, &d, "null", &err), 0);
    assert_int_equal(apply(NULL, &d, "null size=1", &err), -EINVAL);
    assert_string_equal(err.text, "it takes no parameters, but 'size' was given");
}

static void test_live_change(void **state)
{
    struct data d = {0};
    struct dt_error err = {""};
    int label = param_find(params, "label"), iops = param_find(params, "iops");

    assert_int_equal(param_find(params, "nothing"), -ENOENT);
    assert_int_equal(param_apply(&params[label], &d, "one", &err), 0);
    assert_int_equal(param_apply(&params[label], &d, "two", &err), 0);
    assert_string_equal(d.label, "two");
    assert_int_equal(param_apply(&params[iops], &d, "20", &err), 0);
    assert_int_equal(param_apply(&params[iops], &d, "2", &err), -ERANGE);
    assert_int_equal(d.iops, 20);
    param_free_all(params, &d);
}

static void test_refused_change_restores(void **state)
{
    struct data d = {.label = xstrdup("one"), .iops = 20};
    const struct dt_param *label = &params[param_find(params, "label")];
    const struct dt_param *iops = &params[param_find(params, "iops")];
    struct param_old old;
    struct dt_error err;

    assert_int_equal(param_change(label, &d, "two", &old, &err), 0);
    assert_string_equal(d.label, "two");
    param_change_end(label, &d, &old, false);
    assert_string_equal(d.label, "one");
    assert_int_equal(param_change(label, &d, "three", &old, &err), 0);
    param_change_end(label, &d, &old, true);
    assert_string_equal(d.label, "three");
    assert_int_equal(param_change(iops, &d, "5x", &old, &err), -EINVAL);
    assert_int_equal(param_change(iops, &d, "50", &old, &err), 0);
    param_change_end(iops, &d, &old, false);
    assert_int_equal(d.iops, 20);
    param_free_all(params, &d);
}

static void check_format(const struct data *d, const char *name, const char *expected)
{
    _cleanup_free_ char *text = param_format(&params[param_find(params, name)], d);

    if (expected)
        assert_string_equal(text, expected);
    else
        assert_null(text);
}

static void test_format(void **state)
{
    struct data d = {.label = "a b",
                     .sync = true,
                     .iops = 20000,
                     .block = 65536,
                     .wait = DT_MS(5),
                     .rate = 0.1,
                     .mode = 2,
                     .ops = 1 << DT_OP_FLUSH | 1 << DT_OP_READ};

    check_format(&d, "label", "a b");
    check_format(&d, "out", NULL);
    check_format(&d, "sync", "on");
    check_format(&d, "iops", "20k");
    check_format(&d, "block", "64K");
    check_format(&d, "wait", "5ms");
    check_format(&d, "rate", "0.1");
    check_format(&d, "mode", "mixed");
    check_format(&d, "ops", "read,flush");
    d.ops = 0;
    check_format(&d, "ops", "none");
    assert_string_equal(param_type_name(&params[4]), "number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_given),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_secret_stays_secret),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_live_change),
        cmocka_unit_test(test_refused_change_restores),
        cmocka_unit_test(test_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
