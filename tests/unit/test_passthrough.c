/* SPDX-License-Identifier: MIT */
/*
 * test_passthrough.c - the guest's rings go to the rear and come back, in one process: a driver
 * before a tap before a soft disk. Whatever the mode is, the disk is the same.
 */
#include "tests/unit/soft_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define DEPTH  8u
#define BYTES  4096u
#define ROUNDS 20u /* of 2 * DEPTH requests each */

static struct soft_disk rear, tap;
static struct vblk *driver;

static void begin(const char *options, bool packed)
{
    const struct vblk_config config = {.path = tap.socket,
                                       .queues = 1,
                                       .depth = DEPTH,
                                       .bytes = BYTES,
                                       .packed = packed,
                                       .timeout_ms = 10000};
    struct dt_error err;
    char chain[160];

    soft_disk_start(&rear, "mem size=16M");
    snprintf(chain, sizeof(chain), "vhost-user path=%s %s", rear.socket, options);
    soft_disk_start(&tap, chain);
    if (vblk_open(&driver, &config, &err) < 0)
        fail_msg("%s", err.text);
}

static void end(void)
{
    vblk_close(driver);
    soft_disk_stop(&tap);
    soft_disk_stop(&rear);
}

/* ---- The modes ------------------------------------------------------------------------------- */

struct look {
    json_t *show;
};

static void run_look(void *arg)
{
    ((struct look *)arg)->show = front_show(tap.front);
}

static bool mode_is(const char *mode)
{
    struct look look;
    bool is;

    loop_call(tap.loop, run_look, &look);
    is = strcmp(json_string_value(json_object_get(look.show, "mode")), mode) == 0;
    json_decref(look.show);
    return is;
}

static uint64_t passed_through(void)
{
    struct look look;
    uint64_t n;

    loop_call(tap.loop, run_look, &look);
    n = (uint64_t)json_integer_value(json_object_get(look.show, "passed_through"));
    json_decref(look.show);
    return n;
}

static int wish(const char *mode, struct dt_error *err)
{
    json_t *reply = NULL;
    int ret = device_do(tap.dev, "vhost-user", "mode", 1, &mode, &reply, err);

    json_decref(reply);
    return ret;
}

/* ---- A guest that checks --------------------------------------------------------------------- */

static void reap(unsigned want)
{
    struct vblk_queue *q = vblk_queue(driver, 0);
    uint64_t end_at = dt_clock_ns() + DT_S(20);

    while (want > 0) {
        struct vblk_request *done[DEPTH];
        int n = vblk_reap(q, done, DEPTH);

        if (n < 0)
            fail_msg("%s", vblk_fault(q));
        for (int i = 0; i < n; i++)
            assert_int_equal(done[i]->status, VIRTIO_BLK_S_OK);
        want -= (unsigned)n;
        if (n == 0)
            vblk_wait(q, 100);
        assert_true(dt_clock_ns() < end_at);
    }
}

static void run_all(uint32_t type, unsigned round)
{
    struct vblk_queue *q = vblk_queue(driver, 0);

    for (unsigned i = 0; i < DEPTH; i++) {
        struct vblk_request *r = vblk_request(q, i);

        r->type = type;
        r->sector = (uint64_t)((round * DEPTH + i) % 4000) * 8;
        r->bytes = BYTES;
        memset(r->data, type == VIRTIO_BLK_T_OUT ? (int)(round + i) & 0xff : 0, BYTES);
        vblk_submit(q, r);
    }
    vblk_publish(q);
    reap(DEPTH);
}

static void check_round(unsigned round)
{
    struct vblk_queue *q = vblk_queue(driver, 0);

    run_all(VIRTIO_BLK_T_OUT, round);
    run_all(VIRTIO_BLK_T_IN, round);
    for (unsigned i = 0; i < DEPTH; i++)
        for (unsigned b = 0; b < BYTES; b += 512)
            assert_int_equal(vblk_request(q, i)->data[b], (round + i) & 0xff);
}

static void check_until(const char *mode, unsigned *round)
{
    uint64_t end_at = dt_clock_ns() + DT_S(20);

    do {
        check_round((*round)++);
        assert_true(dt_clock_ns() < end_at);
    } while (!mode_is(mode));
}

static void back_and_forth(bool packed)
{
    unsigned round = 0;
    uint64_t passed;
    json_t *stats;

    begin("", packed);
    for (unsigned i = 0; i < 6; i++) {
        const char *mode = i % 2 ? "interpose" : "passthrough";

        assert_int_equal(wish(mode, NULL), 0);
        check_until(mode, &round);
        passed = passed_through();
        for (unsigned n = 0; n < ROUNDS; n++)
            check_round(round++);
        assert_int_equal(passed_through() - passed, i % 2 ? 0 : ROUNDS * 2 * DEPTH);
    }
    stats = device_stats(tap.dev);
    assert_non_null(stats);
    json_decref(stats);
    end();
}

static void test_split(void **state)
{
    back_and_forth(false);
}

static void test_packed(void **state)
{
    back_and_forth(true);
}

/* The driver leaves while the rear has its ring. */
static void test_detach(void **state)
{
    unsigned round = 0;

    begin("", false);
    assert_int_equal(wish("passthrough", NULL), 0);
    check_until("passthrough", &round);
    end();
}

static void test_refused(void **state)
{
    struct dt_error err = {""};

    begin("", false);
    assert_int_equal(wish("sideways", &err), -EINVAL);
    assert_true(mode_is("interpose"));
    vblk_close(driver);
    soft_disk_stop(&tap);
    soft_disk_start(&tap, "mem size=1M");
    assert_true(device_do(tap.dev, "mem", "mode", 0, NULL, NULL, &err) < 0);
    soft_disk_stop(&tap);
    soft_disk_stop(&rear);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_detach),
        cmocka_unit_test(test_refused),
    };

    blk_register_builtin();
    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
