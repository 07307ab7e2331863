/* SPDX-License-Identifier: MIT */
/* test_placed_program.c - programs as extensions: the Python example, in service and killed. */
#include "tests/unit/placed_common.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static char *chain_of(const char *settings)
{
    return xasprintf("process cmd='python3 %s/fault.py' %s", getenv("EXAMPLES"), settings);
}

static void its_parameters_are_checked_here(void **state)
{
    static const struct {
        const char *settings, *text;
    } cases[] = {
        {"rate=2", "between 0 and 1"},
        {"ops=reed", "did you mean 'read'"},
        {"rat=1%", "did you mean 'rate'"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *chain = chain_of(cases[i].settings);
        struct dt_error err = {""};

        assert_true(rig_try(chain, &err) < 0);
        if (!strstr(err.text, cases[i].text))
            fail_msg("%s", err.text);
    }
}

static void it_fails_what_it_is_told_to(void **state)
{
    _cleanup_free_ char *chain = chain_of("rate=10% ops=write seed=3");
    struct dt_error err;

    rig_open(chain);
    rig_run(DT_MS(300));
    assert_true(rig_drain(DT_S(60)));
    assert_true(rig.errors > 0 && rig.errors < rig.completed / 4);
    assert_int_equal(rig.mismatches, 0);
    rig.errors = 0;
    assert_int_equal(device_set(rig.dev, "fault", "rate", "0%", &err), 0);
    rig_run(DT_MS(100));
    assert_true(rig_drain(DT_S(60)));
    assert_int_equal(rig.errors, 0);
    assert_int_equal(device_set(rig.dev, "fault", "rate", "200%", &err), -ERANGE);
    assert_int_equal(device_set(rig.dev, "fault", "rate", "1", &err), 0);
    assert_int_equal(rig_one(DT_OP_WRITE, 0, 8, DT_S(60)), -EIO);
    assert_int_equal(rig_one(DT_OP_READ, 0, 8, DT_S(60)), 0);
    rig_close();
}

static void killed_it_loses_nothing(void **state)
{
    _cleanup_free_ char *chain = chain_of("rate=0% tries=10000");
    unsigned restarts = 0;

    rig_open(chain);
    for (unsigned i = 0; i < 10; i++) {
        rig_run(DT_MS(10));
        kill(rig_pid(NULL), SIGKILL);
        for (unsigned before = restarts; restarts == before; rig_pid(&restarts))
            rig_turn();
    }
    assert_true(rig_drain(DT_S(60)));
    assert_int_equal(rig.errors + rig.mismatches + rig.doubled, 0);
    assert_int_equal(rig.completed, rig.submitted);
    rig_close();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_parameters_are_checked_here),
        cmocka_unit_test(it_fails_what_it_is_told_to),
        cmocka_unit_test(killed_it_loses_nothing),
    };

    rig_register();
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    log_set_level(getenv("VERBOSE") ? DT_LOG_DEBUG : DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
