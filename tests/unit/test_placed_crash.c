/* SPDX-License-Identifier: MIT */
/*
 * test_placed_crash.c - processes of extensions are killed, crash, hang and leak, without a request
 * lost, doubled or falsified.
 */
#include "tests/unit/placed_common.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void assert_sound(void)
{
    assert_int_equal(rig.doubled, 0);
    assert_int_equal(rig.mismatches, 0);
    assert_int_equal(rig.completed, rig.submitted);
}

static void kill_often(const char *chain, unsigned kills, bool late)
{
    unsigned restarts = 0;

    rig_open(chain);
    disk_late(late);
    for (unsigned i = 0; i < kills; i++) {
        rig_run(DT_US(200) + dt_rng_below(&rig.rng, DT_MS(4)));
        if (rig_pid(NULL) > 0)
            kill(rig_pid(NULL), SIGKILL);
        if (i % 4 == 0) /* and otherwise while it starts */
            for (unsigned before = restarts; restarts == before; rig_pid(&restarts))
                rig_turn();
    }
    assert_true(rig_drain(DT_S(60)));
    rig_pid(&restarts);
    printf("# %s: %u restarts, %llu requests\n", chain, restarts,
           (unsigned long long)rig.completed);
    assert_true(restarts >= kills / 4);
    assert_sound();
    assert_int_equal(rig.errors, 0);
    rig_close();
}

static void killed_processes_lose_nothing(void **state)
{
    kill_often("down place=process tries=100000", 40, false);
    kill_often("both place=process tries=100000", 60, true);
    kill_often("plus place=process tries=100000", 60, true);
    kill_often("peek place=process tries=100000", 40, true);
    kill_often("stable place=process tries=100000", 40, true);
    kill_often("hold place=process tries=100000", 40, true);
    kill_often("guard place=process tries=100000", 60, true);
}

static void a_poison_request_fails_alone(void **state)
{
    static const char *const how[] = {"segv", "abort", "exit"};

    for (unsigned i = 0; i < ARRAY_SIZE(how); i++) {
        _cleanup_free_ char *chain =
            xasprintf("bad place=process how=%s sector=80 tries=100000", how[i]);

        rig_open(chain);
        rig.depth = 16;
        rig_run(DT_MS(20));
        rig.stop = true; /* others are in flight with it */
        assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_S(60)), -EIO);
        assert_true(rig_drain(DT_S(60)));
        assert_int_equal(rig_one(DT_OP_WRITE, 88, 8, DT_S(60)), 0);
        assert_sound();
        rig_close();
    }
}

static void hanging_and_leaking_is_death(void **state)
{
    static const char *const how[] = {
        "hang",
        "lose",
#if !defined(__SANITIZE_ADDRESS__)
        "leak",
#endif
    };

    for (unsigned i = 0; i < ARRAY_SIZE(how); i++) {
        _cleanup_free_ char *chain = xasprintf(
            "bad place=process how=%s sector=8000000 tries=100 deadline=2s mem-limit=200M", how[i]);
        struct dt_error err;
        unsigned restarts;

        rig_open(chain);
        rig_run(DT_MS(20));
        assert_true(rig_drain(DT_S(60)));
        assert_int_equal(device_set(rig.dev, "bad", "sector", "80", &err), 0);
        assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_S(60)), -EIO);
        assert_int_equal(rig_one(DT_OP_WRITE, 88, 8, DT_S(60)), 0);
        rig_pid(&restarts);
        assert_int_equal(restarts, 2);
        assert_sound();
        rig_close();
    }
}

static bool given_up;

static void hear(const struct device_event *event)
{
    given_up |= strcmp(event->event, "extension-given-up") == 0;
}

static void the_policy_holds_passes_or_fails(void **state)
{
    struct dt_error err;
    json_t *reply;

    device_events(hear);

    /* Killed by its own request again and again, from outside as it seems. */
    rig_open("bad place=process how=kill sector=80 tries=3 on-crash=hold");
    assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_MS(300)), 1);
    rig.stop = true; /* however long it takes, no other request is to join it */
    for (unsigned i = 0; i < 500 && !given_up; i++)
        rig_run(DT_MS(20));
    rig.stop = false;
    assert_true(given_up);
    device_events(NULL);
    assert_int_equal(rig.in_flight, 1);
    assert_int_equal(device_set(rig.dev, "bad", "sector", "8000000", &err), 0);
    assert_int_equal(device_do(rig.dev, "bad", "restart-process", 0, NULL, &reply, &err), 0);
    json_decref(reply);
    assert_true(rig_drain(DT_S(60)));
    assert_int_equal(rig.errors, 0);
    assert_sound();
    rig_close();

    rig_open("bad place=process how=kill sector=80 tries=3 on-crash=bypass");
    assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_S(60)), 0);
    rig_run(DT_MS(20));
    assert_true(rig_drain(DT_S(60)));
    assert_int_equal(rig.errors, 0);
    rig_close();

    rig_open("bad place=process how=kill sector=80 tries=3 on-crash=fail");
    assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_S(60)), -EIO);
    assert_int_equal(rig_one(DT_OP_READ, 0, 8, DT_S(60)), -EIO);
    rig_close();

    /* A change of mind takes effect at once. */
    rig_open("bad place=process how=kill sector=80 tries=3 on-crash=hold");
    assert_int_equal(rig_one(DT_OP_WRITE, 80, 8, DT_MS(200)), 1);
    assert_int_equal(device_set(rig.dev, "bad", "on-crash", "bypass", &err), 0);
    assert_true(rig_drain(DT_S(60)));
    assert_int_equal(rig.errors, 0);
    rig_close();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_processes_lose_nothing),
        cmocka_unit_test(a_poison_request_fails_alone),
        cmocka_unit_test(hanging_and_leaking_is_death),
        cmocka_unit_test(the_policy_holds_passes_or_fails),
    };

    rig_register();
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    log_set_level(getenv("VERBOSE") ? DT_LOG_DEBUG : DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
