/* SPDX-License-Identifier: MIT */
/*
 * test_lane.c - requests on their way through chains: order of layers, per-request forms, private copies,
 * transformation, requests of a layer's own, range locks, splitting, admission, quiesce.
 */
#include "lane_layers.h"

/* ---- Helpers ---- */

static void open_chain(const char *text)
{
    struct loop_config config = {.spin_ns = 0};
    struct chain_spec spec;
    struct dt_error err;

    assert_int_equal(loop_new(&loop, &config, &err), 0);
    assert_int_equal(chain_parse(&spec, text, &err), 0);
    if (device_new(
            &dev,
            &(struct device_config){.name = "t", .chain = &spec, .loops = &loop, .threads = 1},
            &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&spec);
    assert_int_equal(device_start(dev, &front, NULL, &err), 0);
    slots = xaligned(CACHE_LINE, SLOTS * sizeof(*slots));
    completed = woken = ndeferred = guarded_now = guarded_most = 0;
    keep.n = 0;
    keep.holding = true;
    keep.admits = UINT32_MAX;
    order[0] = '\0';
}

static void close_chain(void)
{
    device_stop(dev);
    device_free(dev);
    while (loop_turn(loop, false))
        ;
    loop_free(loop);
    for (unsigned i = 0; i < SLOTS; i++)
        free(slots[i].data);
    free(slots);
    disk_max_sectors = 0;
    disk_defers = false;
}

static void turn_until(unsigned n)
{
    for (unsigned i = 0; i < 1000 && completed < n; i++)
        loop_turn(loop, false);
    assert_int_equal(completed, n);
}

static struct slot *submit(unsigned i, enum dt_op op, uint64_t sector, uint32_t sectors, int fill)
{
    struct slot *s = &slots[i];
    struct request *r = &s->req;
    size_t bytes = (size_t)sectors * DT_SECTOR_SIZE;

    free(s->data);
    s->data = xcalloc(1, bytes + 1);
    memset(s->data, fill, bytes);
    s->done = false;
    /* Three uneven vectors, as guests make them. */
    s->iov[0] = (struct iovec){s->data, bytes / 3};
    s->iov[1] = (struct iovec){s->data + bytes / 3, 1};
    s->iov[2] = (struct iovec){s->data + bytes / 3 + 1, bytes - bytes / 3 - 1};
    r->pub = (struct dt_req){.op = (uint8_t)op, .sector = sector, .sectors = sectors};
    r->iov = s->iov;
    r->niov = bytes ? 3 : 0;
    lane_submit(device_lane(dev, 0), &r, 1);
    return s;
}

static void check_disk(uint64_t sector, uint32_t sectors, int value)
{
    for (size_t i = 0; i < sectors * DT_SECTOR_SIZE; i++)
        assert_int_equal(disk[sector * DT_SECTOR_SIZE + i], value & 0xff);
}

/* ---- Tests ---- */

static void layers_are_crossed_in_order(void **state)
{
    open_chain("a | up | b | disk");
    submit(0, DT_OP_READ, 0, 1, 0);
    turn_until(1);
    assert_string_equal(order, "a>b><b<b<a");
    order[0] = '\0';
    assert_int_equal(submit(1, DT_OP_DISCARD, 0, 8, 0)->error, -EOPNOTSUPP);
    assert_string_equal(order, "a>b><b<a"); /* done in b: up and a see it */
    close_chain();
}

static void what_lies_outside_is_refused(void **state)
{
    open_chain("disk");
    assert_int_equal(submit(0, DT_OP_READ, DISK_SECTORS, 1, 0)->error, -EINVAL);
    assert_int_equal(submit(1, DT_OP_READ, UINT64_MAX, 1, 0)->error, -EINVAL);
    assert_int_equal(submit(2, DT_OP_WRITE, DISK_SECTORS - 1, 2, 0)->error, -EINVAL);
    assert_int_equal(submit(3, DT_OP_READ, DISK_SECTORS - 1, 1, 0)->error, 0);
    assert_int_equal(submit(4, DT_OP_FLUSH, 0, 0, 0)->error, 0);
    close_chain();
}

static void transformed_data_comes_back(void **state)
{
    open_chain("plus | plus | disk");
    submit(0, DT_OP_WRITE, 8, 8, 0x40);
    turn_until(1);
    check_disk(8, 8, 0x42);
    struct slot *s = submit(1, DT_OP_READ, 8, 8, 0);
    turn_until(2);
    for (unsigned i = 0; i < 8 * DT_SECTOR_SIZE; i++)
        assert_int_equal(s->data[i], 0x40);
    for (unsigned i = 0; i < 8 * DT_SECTOR_SIZE; i++)
        assert_int_equal(slots[0].data[i], 0x40); /* the guest's own buffer is untouched */
    close_chain();
}

static void stable_data_does_not_change(void **state)
{
    disk_defers = true;
    open_chain("stable | disk");
    struct slot *w = submit(0, DT_OP_WRITE, 0, 4, 0x11);
    memset(w->data, 0x99, 4 * DT_SECTOR_SIZE); /* the guest scribbles while it is in flight */
    disk_serve(disk_ctx, deferred[0]);
    check_disk(0, 4, 0x11);
    struct slot *r = submit(1, DT_OP_READ, 0, 4, 0);
    disk_serve(disk_ctx, deferred[1]);
    turn_until(2);
    assert_int_equal(r->data[0], 0x11);
    close_chain();
}

static void memory_runs_out_and_comes_back(void **state)
{
    disk_defers = true;
    open_chain("stable | disk"); /* 8 MiB, a quarter of it for sub-requests */
    for (unsigned i = 0; i < 12; i++)
        submit(i, DT_OP_WRITE, 0, 2048, (int)i);
    assert_int_equal(ndeferred, 6);
    assert_int_equal(lane_admit(device_lane(dev, 0), 1), 0);
    for (unsigned i = 0; i < 12; i++) {
        disk_serve(disk_ctx, deferred[i]);
        loop_turn(loop, false);
    }
    assert_int_equal(completed, 12);
    assert_int_equal(lane_admit(device_lane(dev, 0), 7), 7);
    assert_true(woken > 0);
    check_disk(0, 2048, 11);
    close_chain();
}

/* Nine private buffers of the whole request would be more than the pool has. */
static void deep_chains_fit_the_pool(void **state)
{
    open_chain("plus | plus | plus | plus | plus | plus | plus | plus | plus | disk");
    submit(0, DT_OP_WRITE, 0, 2048, 0x20);
    turn_until(1);
    assert_int_equal(slots[0].error, 0);
    check_disk(0, 2048, 0x29);
    close_chain();
}

static void ranges_exclude_each_other(void **state)
{
    disk_defers = true;
    open_chain("guard | disk");
    for (unsigned i = 0; i < 16; i++)
        submit(i, DT_OP_WRITE, i % 4, 2, (int)i); /* each overlaps its neighbours */
    for (unsigned turn = 0; turn < 100 && completed < 16; turn++) {
        unsigned n = ndeferred;
        struct dt_req *now[SLOTS * 4];

        memcpy(now, deferred, n * sizeof(now[0]));
        ndeferred = 0;
        for (unsigned i = n; i-- > 0;) /* in reverse */
            disk_serve(disk_ctx, now[i]);
        loop_turn(loop, false);
    }
    assert_int_equal(completed, 16);
    assert_true(guarded_most <= 2); /* sectors 0..4 hold two disjoint pairs at the most */
    assert_int_equal(guarded_now, 0);
    close_chain();
}

static void long_requests_are_split(void **state)
{
    disk_max_sectors = 7;
    open_chain("a | disk");
    submit(0, DT_OP_WRITE, 100, 100, 0x5a);
    turn_until(1);
    assert_int_equal(slots[0].error, 0);
    check_disk(100, 100, 0x5a);
    for (unsigned i = 1; i < SLOTS; i++)
        submit(i, DT_OP_READ, 100, 50, 0);
    turn_until(SLOTS);
    for (unsigned i = 1; i < SLOTS; i++)
        for (unsigned k = 0; k < 50 * DT_SECTOR_SIZE; k++)
            assert_int_equal(slots[i].data[k], 0x5a);
    close_chain();
}

static char *late_text;
static bool quiesced;

static void on_quiesced(void *arg, const char *late)
{
    quiesced = true;
    late_text = late ? xstrdup(late) : NULL;
}

static void quiesce(uint64_t ns)
{
    quiesced = false;
    device_quiesce(dev, dt_clock_ns() + ns, on_quiesced, NULL);
    while (!quiesced)
        loop_turn(loop, true);
}

static void held_requests_are_let_go(void **state)
{
    open_chain("keep | disk");
    for (unsigned i = 0; i < 5; i++)
        submit(i, DT_OP_READ, 0, 1, 0);
    loop_turn(loop, false);
    assert_int_equal(completed, 0);
    quiesce(DT_S(10));
    assert_null(late_text);
    assert_int_equal(completed, 5);

    keep.for_good = true;
    submit(5, DT_OP_READ, 0, 1, 0);
    quiesce(DT_MS(5));
    assert_string_equal(late_text, "keep holds 1");
    free(late_text);
    keep.for_good = false;
    quiesce(DT_S(10));
    assert_int_equal(completed, 6);
    close_chain();
}

static void admission_is_the_least_of_all(void **state)
{
    open_chain("keep | keep | disk");
    keep.admits = 3;
    assert_int_equal(lane_admit(device_lane(dev, 0), 32), 3);
    keep.admits = 0;
    assert_int_equal(lane_admit(device_lane(dev, 0), 32), 0);
    close_chain();
}

static void statistics_tell_what_passed(void **state)
{
    json_t *stats, *layers;

    open_chain("up | b | disk");
    for (unsigned i = 0; i < 10; i++)
        submit(i, DT_OP_WRITE, i, 1, 0);
    submit(10, DT_OP_DISCARD, 0, 8, 0);
    stats = device_stats(dev);
    layers = json_object_get(stats, "layers");
    for (unsigned i = 0; i < 3; i++) {
        json_t *ops = json_object_get(json_array_get(layers, i), "ops");
        json_t *writes = json_object_get(ops, "write"), *discards = json_object_get(ops, "discard");

        assert_int_equal(json_integer_value(json_object_get(writes, "requests")), 10);
        assert_int_equal(json_integer_value(json_object_get(writes, "bytes")), 10 * 512);
        assert_int_equal(json_integer_value(json_object_get(discards, "requests")), i < 2);
        assert_int_equal(json_integer_value(json_object_get(discards, "errors")), i < 2);
    }
    json_decref(stats);
    close_chain();
}

static void bad_chains_are_refused(void **state)
{
    static const struct {
        const char *chain, *why;
    } cases[] = {
        {"a | b", "must end with a back"},
        {"disk | a", "must be the last"},
        {"a | nothing | disk", "nothing"},
        {"a x=1 | disk", "x"},
    };
    struct loop_config config = {0};

    assert_int_equal(loop_new(&loop, &config, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct chain_spec spec;
        struct dt_error err;

        assert_int_equal(chain_parse(&spec, cases[i].chain, &err), 0);
        assert_true(device_new(&dev,
                               &(struct device_config){
                                   .name = "t", .chain = &spec, .loops = &loop, .threads = 1},
                               &err) < 0);
        assert_non_null(strstr(err.text, cases[i].why));
        chain_spec_free(&spec);
    }
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_crossed_in_order),
        cmocka_unit_test(what_lies_outside_is_refused),
        cmocka_unit_test(transformed_data_comes_back),
        cmocka_unit_test(stable_data_does_not_change),
        cmocka_unit_test(memory_runs_out_and_comes_back),
        cmocka_unit_test(deep_chains_fit_the_pool),
        cmocka_unit_test(ranges_exclude_each_other),
        cmocka_unit_test(long_requests_are_split),
        cmocka_unit_test(held_requests_are_let_go),
        cmocka_unit_test(admission_is_the_least_of_all),
        cmocka_unit_test(statistics_tell_what_passed),
        cmocka_unit_test(bad_chains_are_refused),
    };

    for (unsigned i = 0; i < ARRAY_SIZE(lane_layers); i++) {
        struct dt_error err;

        if (registry_add(lane_layers[i], &err) < 0) {
            log_error("%s", err.text);
            return 1;
        }
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
