/* SPDX-License-Identifier: MIT */
/* test_options.c - command lines from the declaration of their options; tables; numbers for people.
 */
#include "tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct data {
    const char *path, *name;
    uint64_t depth, time;
    bool json, live;
    unsigned kind;
};

static const char *const kinds[] = {"red", "green", NULL};

#define OPTION(n, t, field) \
    .name = n, .type = t, .offset = offsetof(struct data, field), .help = "Some help."
static const struct dt_param options[] = {
    {OPTION("socket", DT_PARAM_STRING, path), .flags = DT_PARAM_REQUIRED},
    {OPTION("name", DT_PARAM_STRING, name), .initial = "nobody"},
    {OPTION("depth", DT_PARAM_UINT, depth), .initial = "16", .min = 1, .max = 64},
    {OPTION("time", DT_PARAM_DURATION, time), .initial = "5s"},
    {OPTION("json", DT_PARAM_BOOL, json)},
    {OPTION("live", DT_PARAM_BOOL, live)},
    {OPTION("kind", DT_PARAM_ENUM, kind), .initial = "red", .choices = kinds},
    {NULL},
};
static const struct option_group groups[] = {{"Options", options}, {NULL}};

static struct data data;
static struct dt_error err;

static int parse(char **argv)
{
    param_free_all(options, &data);
    memset(&data, 0, sizeof(data));
    err.text[0] = '\0';
    return options_parse(groups, &data, argv, &err);
}
#define PARSE(...) parse((char *[]){__VA_ARGS__, NULL})

static void test_forms(void **state)
{
    char *argv[] = {"one",    "--socket", "/s",    "--depth=20", "two",
                    "--json", "--kind",   "green", NULL};

    assert_int_equal(parse(argv), 0);
    assert_string_equal(argv[0], "one");
    assert_string_equal(argv[1], "two");
    assert_null(argv[2]);
    assert_string_equal(data.path, "/s");
    assert_string_equal(data.name, "nobody");
    assert_int_equal(data.depth, 20);
    assert_int_equal(data.time, DT_S(5));
    assert_true(data.json);
    assert_false(data.live);
    assert_int_equal(data.kind, 1);
}

static void test_flags_take_a_value_only_with_equals(void **state)
{
    char *argv[] = {"--socket=/s", "--json", "on", "--live=off", NULL};

    assert_int_equal(parse(argv), 0);
    assert_true(data.json);
    assert_false(data.live);
    assert_string_equal(argv[0], "on");
}

static void test_dashes(void **state)
{
    char *argv[] = {"--socket=/s", "-", "--", "--depth", "--", NULL};

    assert_int_equal(parse(argv), 0);
    assert_string_equal(argv[0], "-");
    assert_string_equal(argv[1], "--depth");
    assert_string_equal(argv[2], "--");
    assert_null(argv[3]);
}

static void test_errors(void **state)
{
    assert_int_equal(PARSE("--socket=/s", "--dept", "3"), -EINVAL);
    assert_non_null(strstr(err.text, "did you mean '--depth'?"));
    assert_int_equal(PARSE("--socket=/s", "--depth"), -EINVAL);
    assert_string_equal(err.text, "--depth needs a value");
    assert_true(PARSE("--socket=/s", "--depth", "65") < 0);
    assert_non_null(strstr(err.text, "--depth=65: too large: the most is 64"));
    assert_true(PARSE("--socket=/s", "--time=5") < 0);
    assert_non_null(strstr(err.text, "needs its unit"));
    assert_int_equal(PARSE("--socket=/s", "-j"), -EINVAL);
    assert_non_null(strstr(err.text, "two dashes"));
    assert_int_equal(PARSE("--depth=3"), -EINVAL);
    assert_non_null(strstr(err.text, "--socket is missing"));
    assert_int_equal(PARSE("--kind=blue", "--socket=/s"), -EINVAL);
    assert_non_null(strstr(err.text, "not one of red, green"));
}

static void test_statuses(void **state)
{
    assert_int_equal(exit_status_of(0), 0);
    assert_int_equal(exit_status_of(-EIO), 1);
    assert_int_equal(exit_status_of(-EINVAL), 2);
    assert_int_equal(exit_status_of(-ENODEV), 3);
    assert_int_equal(exit_status_of(-ENOENT), 3);
    assert_int_equal(exit_status_of(-EADDRINUSE), 4);
    assert_int_equal(exit_status_of(-EBUSY), 4);
    assert_int_equal(exit_status_of(-EACCES), 5);
    assert_int_equal(exit_status_of(-EBADMSG), 6);
}

static void test_human(void **state)
{
    assert_string_equal(human_count(0), "0");
    assert_string_equal(human_count(999), "999");
    assert_string_equal(human_count(999.7), "1.00k");
    assert_string_equal(human_count(12345), "12.3k");
    assert_string_equal(human_count(4.5e6), "4.50M");
    assert_string_equal(human_ns(950), "950ns");
    assert_string_equal(human_ns(12345), "12.3us");
    assert_string_equal(human_ns(2500000000), "2.50s");
    assert_string_equal(human_bytes(512), "512B");
    assert_string_equal(human_bytes(4096), "4K");
    assert_string_equal(human_bytes(1536), "1.5K");
    assert_string_equal(human_bytes(20ull << 30), "20G");
}

static char *drawn(const struct table *table)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    table_print(table, out);
    fclose(out);
    return text;
}

static void test_table(void **state)
{
    struct table *table = table_new("NAME >SIZE WHAT");
    char *text;

    table_cell(table, "%s", "a");
    table_cell(table, "%d", 12345);
    table_cell(table, "x");
    table_cell(table, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9");
    table_cell(table, "1");
    table_cell(table, "y");
    text = drawn(table);
    assert_string_equal(text, "NAME    SIZE  WHAT\n"
                              "a      12345  x\n"
                              "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9      1  y\n");
    free(text);
    table_free(table);
}

static int finish(void **state)
{
    param_free_all(options, &data);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),    cmocka_unit_test(test_flags_take_a_value_only_with_equals),
        cmocka_unit_test(test_dashes),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_statuses), cmocka_unit_test(test_human),
        cmocka_unit_test(test_table),
    };

    return cmocka_run_group_tests(tests, NULL, finish);
}
