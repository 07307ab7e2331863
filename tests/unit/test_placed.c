/* SPDX-License-Identifier: MIT */
/*
 * test_placed.c - extensions in processes of their own work as in this process.
 */
#include "tests/unit/placed_common.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void assert_sound(void)
{
    assert_int_equal(rig.doubled, 0);
    assert_int_equal(rig.mismatches, 0);
    assert_int_equal(rig.completed, rig.submitted);
}

static uint64_t counter(const char *name)
{
    json_t *stats = device_stats(rig.dev);
    json_t *layer = json_array_get(json_object_get(stats, "layers"), 0);
    uint64_t n =
        (uint64_t)json_integer_value(json_object_get(json_object_get(layer, "counters"), name));

    json_decref(stats);
    return n;
}

/* ---- Service ---- */

static void every_kind_works(void **state)
{
    static const char *const names[] = {"down", "both",   "up",   "plus",
                                        "peek", "stable", "hold", "guard"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *chain = xasprintf("%s place=process", names[i]);

        rig_open(chain);
        disk_late(i % 2);
        rig_run(DT_MS(150));
        assert_true(rig_drain(DT_S(60)));
        assert_sound();
        assert_int_equal(rig.errors, 0);
        assert_true(rig.completed > 0);
        if (i < 2) {
            rig.stop = true;
            rig_run(DT_MS(600));
            assert_int_equal(counter("seen"), rig.completed);
        }
        rig_close();
    }
}

static void data_is_transformed_below(void **state)
{
    rig_open("plus place=process");
    assert_int_equal(rig_one(DT_OP_WRITE, 16, 8, DT_S(60)), 0);
    for (unsigned i = 0; i < BLOCK; i++)
        assert_int_equal(disk_block(2)[i], 1);
    rig_close();
}

static void long_requests_fit(void **state)
{
    rig_open("plus place=process");
    rig.max_blocks = 64;
    rig_run(DT_MS(200));
    assert_true(rig_drain(DT_S(60)));
    assert_sound();
    rig_close();
}

static void parameters_verbs_and_state_cross(void **state)
{
    struct dt_error err;
    json_t *reply;
    const char *five[] = {"5"};

    rig_open("bad place=process label='a \"b\"' tries=100");
    assert_int_equal(device_do(rig.dev, "bad", "mark", 1, five, &reply, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "marks")), 5);
    assert_int_equal(json_integer_value(json_object_get(reply, "pid")), rig_pid(NULL));
    assert_string_equal(json_string_value(json_object_get(reply, "label")), "a \"b\"");
    json_decref(reply);
    assert_int_equal(device_do(rig.dev, "bad", "mark", 0, NULL, &reply, &err), -EINVAL);
    assert_non_null(strstr(err.text, "one argument, please"));
    assert_int_equal(device_set(rig.dev, "bad", "sector", "13", &err), -EINVAL);
    assert_non_null(strstr(err.text, "bad luck"));
    assert_int_equal(device_set(rig.dev, "bad", "label", "new", &err), 0);

    /* The next process has the live value and the saved state. */
    assert_int_equal(device_do(rig.dev, "bad", "restart-process", 0, NULL, &reply, &err), 0);
    json_decref(reply);
    rig_run(DT_MS(300));
    assert_int_equal(device_do(rig.dev, "bad", "mark", 1, five, &reply, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "marks")), 10);
    assert_string_equal(json_string_value(json_object_get(reply, "label")), "new");
    json_decref(reply);
    assert_true(rig_drain(DT_S(60)));
    assert_sound();
    rig_close();
}

static void placement_is_checked(void **state)
{
    static const struct {
        const char *chain, *text;
    } cases[] = {
        {"down place=moon", "not one of in, process"},
        {"down place=in tries=3", "tries"},
        {"down place=process tries=0", "too small"},
        {"plus place=process on-crash=bypass", "read something else"},
        {"down place=process nonsense=1", "nonsense"},
        {"process", "cmd"},
        {"process cmd=/nonexistent/program", "could not be executed"},
        {"process cmd=true", "exited with status 0"},
        {"down place=process mem-limit=1M", "down"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct dt_error err = {""};

        if (rig_try(cases[i].chain, &err) == 0) {
#if defined(__SANITIZE_ADDRESS__)
            rig_close(); /* no limits there */
            continue;
#endif
            fail_msg("%s was accepted", cases[i].chain);
        }
        if (!strstr(err.text, cases[i].text))
            fail_msg("%s: %s", cases[i].chain, err.text);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_works),     cmocka_unit_test(data_is_transformed_below),
        cmocka_unit_test(long_requests_fit),    cmocka_unit_test(parameters_verbs_and_state_cross),
        cmocka_unit_test(placement_is_checked),
    };

    rig_register();
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    log_set_level(getenv("VERBOSE") ? DT_LOG_DEBUG : DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
