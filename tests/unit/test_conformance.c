/* SPDX-License-Identifier: MIT */
/*
 * test_conformance.c - the conformance harness passes good extensions and finds out broken ones.
 * The directories of the examples and of tests/broken are given by meson.
 */
#include "tools/conformance/conformance.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define SEED 20240229

/* Half of it is the deadline of a layer that is to come to rest, on a machine however busy; who is to fail is not
 * waited for that long. */
#define GOOD_PATIENCE   DT_S(40)
#define BROKEN_PATIENCE DT_S(4)

static json_t *run(const char *chain, const char *property, uint64_t duration, uint64_t patience,
                   int *failed)
{
    struct conformance_config config = {
        .chain = chain,
        .seed = SEED,
        .property = property,
        .duration = duration,
        .patience = patience,
    };
    struct dt_error err = {""};
    json_t *report = NULL;

    *failed = conformance_run(&config, &report, &err);
    if (*failed < 0)
        fail_msg("%s: %s", chain, err.text);
    return report;
}

static const char *field(json_t *report, const char *property, const char *key)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(report, "properties"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "name")), property) == 0)
            return json_string_value(json_object_get(item, key));
    }
    return "(not run)";
}

static void print_failures(json_t *report)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(report, "properties"), i, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "outcome")), "failed") == 0)
            print_error("%s: %s\n%s", json_string_value(json_object_get(item, "name")),
                        json_string_value(json_object_get(item, "text")),
                        json_string_value(json_object_get(item, "log")));
    }
}

/* The chain passes; what it must not skip is named. */
static void check_good(const char *chain, const char *const *not_skipped)
{
    int failed;
    json_t *report = run(chain, NULL, DT_MS(150), GOOD_PATIENCE, &failed);

    print_failures(report);
    assert_int_equal(failed, 0);
    for (; *not_skipped; not_skipped++)
        assert_string_equal(field(report, *not_skipped, "outcome"), "passed");
    json_decref(report);
}

/* @name may have parameters: "steady flaw=set". */
static void check_broken(const char *name, const char *property, const char *reason)
{
    int length = (int)strcspn(name, " ");
    _cleanup_free_ char *chain = xasprintf("%s/%.*s.so%s", BROKEN_DIR, length, name, name + length);
    int failed;
    /* The first finding ends it, however long that takes on a busy machine; but these two
     * properties judge at the end. */
    bool at_end = strcmp(property, "neutral") == 0 || strstr(reason, "never came back");
    json_t *report = run(chain, property, at_end ? DT_S(1) : DT_S(10), BROKEN_PATIENCE, &failed);

    assert_int_equal(failed, 1);
    assert_string_equal(field(report, property, "outcome"), "failed");
    if (!strstr(field(report, property, "text"), reason))
        fail_msg("%s: %s: %s", name, property, field(report, property, "text"));
    json_decref(report);
}

static void test_watchpoint(void **state)
{
    static const char *const run[] = {"open",    "content", "neutral", "errors", "quiesce",
                                      "restart", "live",    "threads", "kill",   NULL};

    check_good(EXAMPLES_DIR "/watchpoint.so start=100 count=1000", run);
}

static void test_xor(void **state)
{
    static const char *const run[] = {"open",    "content", "errors", "quiesce",
                                      "restart", "threads", "kill",   NULL};

    check_good(EXAMPLES_DIR "/xor.so key=42", run);
}

static void test_two_together(void **state)
{
    static const char *const run[] = {"content", "errors", "threads", "kill", NULL};

    check_good(EXAMPLES_DIR "/watchpoint.so | " EXAMPLES_DIR "/xor.so | " EXAMPLES_DIR
                            "/xor.so key=7",
               run);
}

static void test_steady(void **state)
{
    static const char *const run[] = {"open",    "content", "neutral", "stable", "errors",
                                      "quiesce", "cancel",  "restart", "state",  "live",
                                      "map",     "kill",    NULL};

    check_good(BROKEN_DIR "/steady.so", run);
    check_broken("steady flaw=cancel", "cancel", "said that it cancelled a");
    check_broken("steady flaw=version", "state", "took a blob of version 4; it knows 3");
    check_broken("steady flaw=empty", "state", "took an empty blob; its own has 8 bytes");
    check_broken("steady flaw=overrun", "state", "save() of layer steady wrote behind a buffer");
    check_broken("steady flaw=map", "map", "is said to be a hole, but holds its version");
    check_broken("steady flaw=set every=1", "live", "without a reason");
}

static void test_twice(void **state)
{
    check_broken("twice", "content", "contract violated: layer twice completed a request");
}

static void test_lose(void **state)
{
    check_broken("lose", "content", "never came back; lose holds ");
}

static void test_corrupt(void **state)
{
    check_broken("corrupt", "content", "wrong data: read of ");
}

static void test_moved(void **state)
{
    check_broken("moved", "content", "came back moved");
}

static void test_deaf(void **state)
{
    check_broken("deaf", "quiesce", "quiesce: 2000 ms were not enough: deaf holds 1");
}

static void test_scribble(void **state)
{
    check_broken("scribble", "content", "layer scribble wrote behind its frame");
}

static void test_whitewash(void **state)
{
    check_broken("whitewash", "errors", "layer whitewash turned an error into success");
}

static void test_eager(void **state)
{
    check_broken("eager", "kill", "a write was lost: ");
}

static void test_inplace(void **state)
{
    check_broken("inplace", "content", "the guest's own buffer of a write");
}

static void test_undeclared(void **state)
{
    check_broken("undeclared", "neutral", "needs DT_CONTENT_BEARING");
}

/* Of a network card: @property finds it out, saying @why. */
static void check_broken_net(const char *name, const char *property, const char *why)
{
    char chain[512];
    struct conformance_config config = {.chain = chain,
                                        .net = true,
                                        .seed = SEED,
                                        .property = property,
                                        .duration = DT_S(10), /* the first finding ends it */
                                        .patience = BROKEN_PATIENCE};
    struct dt_error err = {""};
    json_t *report = NULL;

    snprintf(chain, sizeof(chain), "%s/%s.so", BROKEN_DIR, name);
    assert_true(conformance_run(&config, &report, &err) > 0);
    assert_string_equal(field(report, property, "outcome"), "failed");
    if (!strstr(field(report, property, "text"), why))
        fail_msg("%s", field(report, property, "text"));
    json_decref(report);
}

static void test_net_keep(void **state)
{
    check_broken_net("net-keep", "quiesce", "it does not come to rest");
}

static void test_net_closed(void **state)
{
    check_broken_net("net-closed", "kill", "saved when it was killed is refused");
}

static void test_net_spoil(void **state)
{
    check_broken_net("net-spoil", "offloads", "left with a wrong checksum");
}

static void test_what_cannot_be_tested(void **state)
{
    struct conformance_config config = {.chain = "nothing-like-it"};
    struct dt_error err;
    json_t *report;

    assert_int_equal(conformance_run(&config, &report, &err), -ENOENT);
    config = (struct conformance_config){.chain = "x", .property = "kil"};
    assert_int_equal(conformance_run(&config, &report, &err), -EINVAL);
    assert_string_equal(err.text, "no property is named 'kil'; did you mean 'kill'?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watchpoint),   cmocka_unit_test(test_xor),
        cmocka_unit_test(test_two_together), cmocka_unit_test(test_steady),
        cmocka_unit_test(test_twice),        cmocka_unit_test(test_lose),
        cmocka_unit_test(test_corrupt),      cmocka_unit_test(test_deaf),
        cmocka_unit_test(test_moved),        cmocka_unit_test(test_scribble),
        cmocka_unit_test(test_whitewash),    cmocka_unit_test(test_eager),
        cmocka_unit_test(test_inplace),      cmocka_unit_test(test_undeclared),
        cmocka_unit_test(test_net_keep),     cmocka_unit_test(test_net_closed),
        cmocka_unit_test(test_net_spoil),    cmocka_unit_test(test_what_cannot_be_tested),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
