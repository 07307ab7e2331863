/* SPDX-License-Identifier: MIT */
/*
 * test_placed_memory.c - an extension in a process that is trusted with the guest's memory: its requests carry no
 * copies, whatever becomes of the process and of the memory.
 */
#include "tests/unit/placed_common.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>

static void assert_sound(void)
{
    assert_int_equal(rig.doubled, 0);
    assert_int_equal(rig.mismatches, 0);
    assert_int_equal(rig.errors, 0);
    assert_int_equal(rig.completed, rig.submitted);
}

/* What the extension counts, once its process has said so. */
static uint64_t vectors(void)
{
    json_t *stats;
    uint64_t n;

    rig.stop = true;
    rig_run(DT_MS(400));
    rig.stop = false;
    stats = device_stats(rig.dev);
    n = (uint64_t)json_integer_value(json_object_get(
        json_object_get(json_array_get(json_object_get(stats, "layers"), 0), "counters"),
        "vectors"));
    json_decref(stats);
    return n;
}

static uint64_t run_for(uint64_t ns)
{
    uint64_t before = rig.completed;

    rig_run(ns);
    assert_true(rig_drain(DT_S(60)));
    assert_sound();
    return rig.completed - before;
}

static void every_kind_works(void **state)
{
    static const char *const names[] = {"peek", "plus", "stable", "hold", "guard"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *chain = xasprintf("%s place=process trust=memory", names[i]);

        rig_open(chain);
        rig_set_memory(2);
        disk_late(i % 2);
        assert_true(run_for(DT_MS(150)) > 0);
        rig_close();
    }
}

static void data_is_transformed_below(void **state)
{
    rig_open("plus place=process trust=memory");
    rig_set_memory(2);
    assert_int_equal(rig_one(DT_OP_WRITE, 16, 8, DT_S(60)), 0);
    for (unsigned i = 0; i < BLOCK; i++)
        assert_int_equal(disk_block(2)[i], 1);
    rig_close();
}

/* A copy is one vector; the load's requests are three (and flushes none, one in 64). */
static void nothing_is_copied(void **state)
{
    uint64_t before = 0, n;

    rig_open("peek place=process");
    rig_set_memory(2);
    n = run_for(DT_MS(100));
    assert_in_range(vectors(), 1, 2 * n); /* down and up */
    rig_close();

    rig_open("peek place=process trust=memory");
    n = run_for(DT_MS(100)); /* there is no memory yet */
    before = vectors();
    assert_in_range(before, 1, 2 * n);
    for (unsigned i = 0; i < 5; i++) {
        rig_set_memory(2);
        n = run_for(DT_MS(50));
        assert_true(vectors() - before > 4 * n);
        rig_set_memory(i % 2); /* of one piece, some are copied */
        n = run_for(DT_MS(50));
        before = vectors();
    }
    rig_close();

    rig_open("stable place=process trust=memory");
    rig_set_memory(2);
    n = run_for(DT_MS(100));
    assert_in_range(vectors(), 1,
                    2 * n); /* the guest could change what it looks at: so it is copied */
    rig_close();
}

static void killed_processes_lose_nothing(void **state)
{
    static const char *const names[] = {"peek", "plus", "guard"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *chain =
            xasprintf("%s place=process trust=memory tries=100000", names[i]);
        unsigned restarts = 0;

        rig_open(chain);
        disk_late(true);
        for (unsigned k = 0; k < 20; k++) {
            if (k % 5 == 0) {
                assert_true(rig_drain(DT_S(60)));
                rig_set_memory(k % 3);
            }
            rig_run(DT_US(200) + dt_rng_below(&rig.rng, DT_MS(4)));
            if (rig_pid(NULL) > 0)
                kill(rig_pid(NULL), SIGKILL);
            for (unsigned before = restarts; k % 4 == 0 && restarts == before; rig_pid(&restarts))
                rig_turn();
        }
        assert_true(rig_drain(DT_S(60)));
        assert_sound();
        rig_close();
    }
}

/* One that only reads has the memory to read. */
static void the_right_is_kept(void **state)
{
    rig_open("scribble place=process tries=1000");
    rig_set_memory(2);
    assert_int_equal(rig_one(DT_OP_WRITE, 16, 8, DT_S(60)), 0);
    assert_int_equal(disk_block(2)[0], 0); /* it was a copy */
    rig_close();

    rig_open("scribble place=process trust=memory tries=1000");
    rig_set_memory(2);
    assert_int_equal(rig_one(DT_OP_WRITE, 16, 8, DT_S(60)), -EIO);
    rig_close();
}

static void programs_must_know_of_it(void **state)
{
    _cleanup_free_ char *chain =
        xasprintf("process cmd='python3 %s/fault.py' trust=memory", getenv("EXAMPLES"));
    struct dt_error err = {""};

    assert_int_equal(rig_try(chain, &err), -EINVAL);
    assert_non_null(strstr(err.text, "copies of data alone"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_works),  cmocka_unit_test(data_is_transformed_below),
        cmocka_unit_test(nothing_is_copied), cmocka_unit_test(killed_processes_lose_nothing),
        cmocka_unit_test(the_right_is_kept), cmocka_unit_test(programs_must_know_of_it),
    };

    rig_register();
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    log_set_level(getenv("VERBOSE") ? DT_LOG_DEBUG : DT_LOG_ERROR);
    return cmocka_run_group_tests_name("placed_memory", tests, NULL, NULL);
}
