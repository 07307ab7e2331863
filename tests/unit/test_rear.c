/* SPDX-License-Identifier: MIT */
/*
 * test_rear.c - the back `vhost-user` before a rear that does what it should, goes away, comes back
 * as something else, or lies.
 */
#include "tests/unit/fake_rear.h"
#include "tests/unit/fds.h"
#include "tests/unit/tap_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define LONG 60000u /* ms; a busy machine takes its time, and only a failing test waits so long */

static struct fake_rear rear;
static struct tap_rig rig;

static void make_rear(void)
{
    rear = (struct fake_rear){.features = FAKE_FEATURES,
                              .protocol = FAKE_PROTOCOL,
                              .disk = {.capacity = FAKE_SECTORS, .blk_size = 512, .seg_max = 126}};
    fake_rear_start(&rear);
}

static int try_open(const char *before, const char *options, struct dt_error *err)
{
    char chain[256];

    snprintf(chain, sizeof(chain), "%s vhost-user path=%s timeout=2s %s", before, rear.path,
             options);
    return tap_open(&rig, chain, err);
}

static void begin(const char *before, const char *options)
{
    struct dt_error err = {""};

    make_rear();
    if (try_open(before, options, &err) < 0)
        fail_msg("%s", err.text);
}

static void end(void)
{
    tap_close(&rig);
    fake_rear_stop(&rear);
}

static int wait_slot(unsigned slot)
{
    int ret = tap_wait(&rig, &rig.slots[slot], LONG);

    fake_rear_settle(&rear);
    return ret;
}

static int run(unsigned slot, enum dt_op op, uint64_t sector, uint32_t sectors, unsigned flags)
{
    tap_submit(&rig, slot, op, sector, sectors, flags);
    return wait_slot(slot);
}

/* ---- A rear that does what it should --------------------------------------------------------- */

static void check_data(unsigned slot)
{
    uint8_t *data = rig.slots[slot].data;

    for (unsigned i = 0; i < 8192; i++)
        data[i] = (uint8_t)(i * 7 + slot);
    assert_int_equal(run(slot, DT_OP_WRITE, 16, 16, 0), 0);
    assert_memory_equal(rear.data + 16 * 512, data, 8192);
    memset(data, 0, 8192);
    assert_int_equal(run(slot, DT_OP_READ, 16, 16, 0), 0);
    assert_memory_equal(rear.data + 16 * 512, data, 8192);
}

static void test_guest_memory(void **state)
{
    begin("", "");
    tap_give_memory(&rig, 0x10000000);
    check_data(0);
    assert_int_equal(tap_counter(&rig, "bounced"), 0);
    check_data(2); /* in one piece */
    assert_int_equal(tap_counter(&rig, "bounced"), 0);
    check_data(1); /* elsewhere */
    check_data(3);
    check_data(0); /* in a place of the ring that had one piece before */
    assert_int_equal(tap_counter(&rig, "bounced"), 4);
    assert_int_equal(run(0, DT_OP_FLUSH, 0, 0, 0), 0);
    assert_int_equal(rear.flushes, 1);
    assert_int_equal(run(0, DT_OP_DISCARD, 0, 8, 0), -EOPNOTSUPP); /* the rear says so */
    end();
}

static void test_memory_changes(void **state)
{
    begin("", "");
    check_data(0); /* before there is any */
    assert_int_equal(tap_counter(&rig, "bounced"), 2);
    tap_give_memory(&rig, 0x10000000);
    check_data(0);
    tap_give_memory(&rig, 0x20000000);
    check_data(0);
    assert_int_equal(tap_counter(&rig, "bounced"), 2);
    tap_give_memory(&rig, 1ull << 47); /* where the rings are: they have to move */
    check_data(0);
    assert_int_equal(rear.sessions, 2);
    tap_give_memory(&rig, 0);
    check_data(0);
    assert_int_equal(tap_counter(&rig, "bounced"), 4);
    end();
}

static void test_plain_ring(void **state)
{
    make_rear();
    rear.features &= ~(1ull << VIRTIO_RING_F_INDIRECT_DESC);
    rear.protocol &= ~(1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_REPLY_ACK);
    assert_int_equal(try_open("", "queue-size=16", &(struct dt_error){""}), 0);
    assert_int_equal(device_info(rig.dev)->max_segments, 14);
    tap_give_memory(&rig, 0x10000000);
    check_data(0);
    for (unsigned i = 0; i < TAP_SLOTS; i++) /* more than the ring holds */
        tap_submit(&rig, i, DT_OP_READ, i, 4, 0);
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        assert_int_equal(wait_slot(i), 0);
    end();
}

static void test_durable(void **state)
{
    begin("", "");
    assert_int_equal(run(1, DT_OP_WRITE, 0, 4, DT_REQ_FUA), 0);
    assert_int_equal(rear.flushes, 1);
    end();
}

/* Many at once come back at once, and each flush takes the place of one of them in the ring. */
static void test_durable_together(void **state)
{
    begin("", "");
    tap_give_memory(&rig, 0x10000000);
    assert_int_equal(run(0, DT_OP_WRITE, 0, 4, 0), 0);
    for (unsigned i = 0; i < TAP_SLOTS; i++) {
        memset(rig.slots[i].data, (int)i + 1, 2048);
        tap_submit(&rig, i, DT_OP_WRITE, 4 * i, 4, DT_REQ_FUA);
    }
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        assert_int_equal(wait_slot(i), 0);
    assert_int_equal(rear.flushes, TAP_SLOTS);
    assert_int_equal(tap_counter(&rig, "rear-lies"), 0);
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        assert_int_equal(rear.data[i * 2048], i + 1);
    end();
}

static void lie_later(struct fake_rear *r, uint32_t *id, uint32_t *len, uint16_t *idx)
{
    if (r->served == 4)
        __atomic_store_n(&r->lie, LIE_STATUS, __ATOMIC_SEQ_CST);
}

static unsigned served(void)
{
    return __atomic_load_n(&rear.served, __ATOMIC_RELAXED);
}

/* What came back before a lie is not yet durable, and goes to whom comes next, as all that was in flight. */
static void test_durable_before_a_lie(void **state)
{
    struct dt_error err = {""};

    make_rear();
    rear.mangle_used = lie_later;
    if (try_open("", "", &err) < 0)
        fail_msg("%s", err.text);
    tap_give_memory(&rig, 0x10000000);
    assert_int_equal(run(0, DT_OP_WRITE, 0, 4, 0), 0); /* the rear has the memory */
    for (unsigned i = 0; i < TAP_SLOTS; i++) {
        memset(rig.slots[i].data, (int)i + 1, 2048);
        tap_submit(&rig, i, DT_OP_WRITE, 4 * i, 4, DT_REQ_FUA);
    }
    loop_turn(rig.loop, false);
    for (unsigned i = 0; i < LONG && served() < 1 + TAP_SLOTS; i++)
        usleep(1000); /* so that they are seen together */
    assert_int_equal(served(), 1 + TAP_SLOTS);
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        assert_int_equal(wait_slot(i), 0);
    assert_int_equal(tap_counter(&rig, "rear-lies"), 1);
    assert_true(rear.flushes >= TAP_SLOTS);
    for (unsigned i = 0; i < TAP_SLOTS; i++)
        assert_int_equal(rear.data[i * 2048], i + 1);
    end();
}

static void test_resize(void **state)
{
    begin("", "");
    assert_int_equal(run(1, DT_OP_READ, 0, 4, 0), 0);
    fake_rear_resize(&rear, 2 * FAKE_SECTORS);
    for (unsigned i = 0; i < LONG / 10 && !rig.resized; i++)
        tap_turn(&rig, 10);
    assert_int_equal(device_info(rig.dev)->sectors, 2 * FAKE_SECTORS);
    end();
}

/* ---- A rear that goes away ------------------------------------------------------------------- */

static void wait_for_event(const char *event)
{
    for (unsigned i = 0; i < LONG / 10 && !strstr(rig.events, event); i++)
        tap_turn(&rig, 10);
    fake_rear_settle(&rear);
    if (!strstr(rig.events, event))
        fail_msg("no event %s in '%s'", event, rig.events);
}

/* A rear that served and went away. */
static void begin_and_lose(const char *options)
{
    begin("", options);
    assert_int_equal(run(1, DT_OP_WRITE, 0, 4, 0), 0);
    fake_rear_stop(&rear);
    wait_for_event("rear-lost");
}

/* A read that nobody answers for so long. */
static struct tap_slot *held_read(unsigned ms)
{
    struct tap_slot *slot = tap_submit(&rig, 3, DT_OP_READ, 0, 4, 0);

    assert_int_equal(tap_wait(&rig, slot, ms), -ETIME);
    return slot;
}

static void test_held(void **state)
{
    struct tap_slot *slot;

    begin_and_lose("");
    slot = held_read(200);
    fake_rear_start(&rear);
    assert_int_equal(tap_wait(&rig, slot, LONG), 0);
    assert_int_equal(tap_counter(&rig, "held"), 1);
    assert_int_equal(tap_counter(&rig, "rear-losses"), 1);
    end();
}

static void test_failed(void **state)
{
    struct tap_slot *slot;

    begin_and_lose("on-rear-loss=fail");
    assert_int_equal(run(3, DT_OP_READ, 0, 4, 0), -EIO);
    assert_int_equal(device_set(rig.dev, "vhost-user", "on-rear-loss", "hold", NULL), 0);
    slot = held_read(100);
    assert_int_equal(device_set(rig.dev, "vhost-user", "on-rear-loss", "fail", NULL), 0);
    assert_int_equal(tap_wait(&rig, slot, LONG), -EIO);
    fake_rear_start(&rear);
    wait_for_event("rear-back");
    assert_int_equal(run(3, DT_OP_READ, 0, 4, 0), 0);
    end();
}

/* A rest that came in time lets go of nothing later, though the rear is gone again by then. */
static void test_quiet_in_time(void **state)
{
    struct tap_slot *slot;
    uint64_t deadline, now;

    begin_and_lose("");
    slot = tap_submit(&rig, 3, DT_OP_READ, 0, 4, 0);
    deadline = dt_clock_ns() + DT_S(6);
    lane_release(device_lane(rig.dev, 0), deadline);
    fake_rear_start(&rear);
    assert_int_equal(tap_wait(&rig, slot, LONG), 0);
    fake_rear_stop(&rear);
    rig.events[0] = '\0';
    wait_for_event("rear-lost");
    now = dt_clock_ns();
    slot = held_read(100 + (now < deadline ? (unsigned)((deadline - now) / DT_MS(1)) : 0));
    fake_rear_start(&rear);
    assert_int_equal(tap_wait(&rig, slot, LONG), 0);
    end();
}

/* Whoever wants the device quiet does not wait for the rear. */
static void test_quiet(void **state)
{
    struct tap_slot *slot;

    begin_and_lose("");
    slot = tap_submit(&rig, 3, DT_OP_READ, 0, 4, 0);
    lane_release(device_lane(rig.dev, 0), dt_clock_ns() + DT_MS(100));
    assert_int_equal(tap_wait(&rig, slot, LONG), -ECANCELED);
    fake_rear_start(&rear);
    end();
}

static void at_rest(void *arg, const char *late)
{
    *(const char **)arg = late ? "late" : "in time";
}

/* What a layer above forwards for the sake of the rest does not end it. */
static void test_quiet_below_others(void **state)
{
    const char *rests = NULL;
    struct tap_slot *held, *forwarded;

    begin_and_lose("");
    held = tap_submit(&rig, 3, DT_OP_READ, 0, 4, 0);
    device_quiesce(rig.dev, dt_clock_ns() + DT_S(4), at_rest, &rests);
    tap_turn(&rig, 10);
    forwarded = tap_submit(&rig, 5, DT_OP_READ, 0, 4, 0);
    assert_int_equal(tap_wait(&rig, held, LONG), -ECANCELED);
    assert_int_equal(tap_wait(&rig, forwarded, LONG), -ECANCELED);
    tap_turn(&rig, 10);
    assert_string_equal(rests, "in time");
    fake_rear_start(&rear);
    end();
}

static void test_comes_back_as_another(void **state)
{
    struct tap_slot *slot;

    begin("", "");
    assert_int_equal(run(1, DT_OP_WRITE, 0, 4, 0), 0);
    fake_rear_stop(&rear);
    rear.disk.blk_size = 4096;
    fake_rear_start(&rear);
    wait_for_event("rear-lost");
    slot = held_read(500);
    rear.disk.blk_size = 512;
    assert_int_equal(tap_wait(&rig, slot, LONG), 0);
    end();
}

/* ---- A rear that lies ------------------------------------------------------------------------ */

static const struct {
    enum fake_lie lie;
    const char *said;
} lies[] = {
    {LIE_STATUS, "answered with status 7"},
    {LIE_UNSET, "answered with status 255"},
    {LIE_SHORT, "succeeded with 1 bytes written"},
    {LIE_LONG, "bytes written, but 2049 were offered"},
    {LIE_ID, "is not outstanding"},
    {LIE_RANGE, "is not outstanding"},
    {LIE_INDEX, "ahead of"},
    {LIE_HANG_UP, "the connection ended"},
};

static void test_lies(void **state)
{
    begin("", "");
    memset(rear.data, 0x5a, sizeof(rear.data));
    for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
        rig.events[0] = '\0';
        rig.slots[1].data[7] = 0;
        __atomic_store_n(&rear.lie, lies[i].lie, __ATOMIC_SEQ_CST);
        if (run(1, DT_OP_READ, 0, 4, 0) != 0) /* asked again, it tells the truth */
            fail_msg("lie %u: never answered; %s", lies[i].lie, rig.events);
        assert_int_equal(rig.slots[1].data[7], 0x5a);
        if (!strstr(rig.events, lies[i].said))
            fail_msg("lie %u: no '%s' in '%s'", lies[i].lie, lies[i].said, rig.events);
    }
    assert_int_equal(tap_counter(&rig, "rear-losses"), ARRAY_SIZE(lies));
    assert_int_equal(tap_counter(&rig, "rear-lies"), ARRAY_SIZE(lies) - 1);
    assert_int_equal(rear.sessions, ARRAY_SIZE(lies) + 1);
    end();
}

/* The request is answered, and what comes after it is a lie. */
static void test_twice(void **state)
{
    begin("", "");
    __atomic_store_n(&rear.lie, LIE_TWICE, __ATOMIC_SEQ_CST);
    assert_int_equal(run(1, DT_OP_READ, 0, 4, 0), 0);
    wait_for_event("rear-broken");
    assert_int_equal(run(1, DT_OP_READ, 0, 4, 0), 0);
    end();
}

static const struct {
    const char *name;
    uint64_t without, without_protocol;
    struct virtio_blk_config disk;
    const char *options, *said;
} refused[] = {
    {"no size", 0, 0, {.blk_size = 512}, "", "0 sectors"},
    {"huge", 0, 0, {.capacity = UINT64_MAX, .blk_size = 512}, "", "sectors"},
    {"odd blocks", 0, 0, {.capacity = 8, .blk_size = 700}, "", "block size of 700"},
    {"no blocks", 0, 0, {.capacity = 8}, "", "block size of 0"},
    {"old", 1ull << VIRTIO_F_VERSION_1, 0, {.capacity = 8, .blk_size = 512}, "", "lacks features"},
    {"mute", 0, 1ull << VHOST_F_CONFIG, {.capacity = 8, .blk_size = 512}, "", "CONFIG"},
    {"packed", 0, 0, {.capacity = 8, .blk_size = 512}, "packed=on", "no packed rings"},
    {"ring", 0, 0, {.capacity = 8, .blk_size = 512}, "queue-size=100", "power of two"},
};

static void test_refused(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++) {
        struct dt_error err = {""};

        make_rear();
        rear.features &= ~refused[i].without;
        rear.protocol &= ~refused[i].without_protocol;
        rear.disk = refused[i].disk;
        assert_true(try_open("", refused[i].options, &err) < 0);
        if (!strstr(err.text, refused[i].said))
            fail_msg("%s: %s", refused[i].name, err.text);
        fake_rear_stop(&rear);
    }
}

static bool say_nothing(struct fake_rear *r, struct vhost_message *m)
{
    return m->header.request != VHOST_GET_CONFIG;
}

static void test_silent(void **state)
{
    struct dt_error err = {""};

    make_rear();
    rear.mangle = say_nothing;
    assert_true(try_open("", "", &err) < 0);
    assert_non_null(strstr(err.text, "no answer"));
    fake_rear_stop(&rear);
    assert_true(try_open("", "", &err) < 0);
    assert_non_null(strstr(err.text, "cannot connect"));
}

static void test_nothing_is_left(void **state)
{
    unsigned before = count_fds();

    test_memory_changes(state);
    test_held(state);
    test_twice(state);
    assert_int_equal(count_fds(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guest_memory),
        cmocka_unit_test(test_memory_changes),
        cmocka_unit_test(test_plain_ring),
        cmocka_unit_test(test_durable),
        cmocka_unit_test(test_durable_together),
        cmocka_unit_test(test_durable_before_a_lie),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_failed),
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_quiet_in_time),
        cmocka_unit_test(test_quiet_below_others),
        cmocka_unit_test(test_comes_back_as_another),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_silent),
        cmocka_unit_test(test_nothing_is_left),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
