/* SPDX-License-Identifier: MIT */
/* test_net_fault.c - `fault`: each fault alone, by a clock that the test turns, and what a seed promises. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define FRAMES 1000u

static struct frame f;

static void send_numbered(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        frame_ether(&f, 0x88b5);
        frame_pattern(&f, 50);
        store_be16(f.bytes + 14, (uint16_t)i);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    }
}

static unsigned number_of(const struct rig_list *list, unsigned i)
{
    return load_be16(list->frames[i].data + 14);
}

static void pass_time(uint64_t ns)
{
    for (unsigned i = 0; i < 100; i++) {
        test_clock += ns / 100;
        rig_turn();
    }
}

static void test_loss_by_seed(void **state)
{
    unsigned first[FRAMES], n;

    rig_start("fault loss=30% seed=7 | wire");
    send_numbered(FRAMES);
    n = rig.wire.n;
    assert_in_range(n, 650, 750);
    assert_int_equal(rig_counter("fault", "lost"), FRAMES - n);
    assert_int_equal(rig_ops("fault", "transmit", "errors"), FRAMES - n);
    for (unsigned i = 0; i < n; i++)
        first[i] = number_of(&rig.wire, i);
    rig_stop();
    rig_start("fault loss=30% seed=7 | wire");
    send_numbered(FRAMES);
    assert_int_equal(rig.wire.n, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(number_of(&rig.wire, i), first[i]);
    rig_stop();
    rig_start("fault loss=30% seed=8 | wire");
    send_numbered(FRAMES);
    for (n = 0; n < rig.wire.n && number_of(&rig.wire, n) == first[n]; n++)
        ;
    assert_in_range(n, 0, 50); /* another fate */
    rig_stop();
}

static void test_duplicates(void **state)
{
    rig_start("fault duplicate=100% | wire");
    send_numbered(10);
    assert_int_equal(rig.wire.n, 20);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(number_of(&rig.wire, i), i / 2);
    assert_int_equal(rig.sent, 10); /* a twin is not the guest's */
    rig_stop();
}

/* One bit, and not one that a checksum completed later would cover up. */
static void test_damage(void **state)
{
    struct dt_vnet_header v = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    unsigned wrong = 0;

    rig_start("fault corrupt=100% | wire");
    for (unsigned i = 0; i < 50; i++) {
        unsigned bits = 0;

        frame_ether(&f, 0x0800);
        frame_ipv4(&f, 17, "192.0.2.1", "192.0.2.2");
        frame_udp(&f, 1, 2);
        frame_pattern(&f, 1000);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        for (unsigned b = 0; b < f.n; b++)
            bits += (unsigned)__builtin_popcount(f.bytes[b] ^ rig.wire.frames[i].data[b]);
        assert_int_equal(bits, 1);
        wrong += !frame_sums_right(rig.wire.frames[i].data, f.n);
    }
    assert_in_range(wrong, 40, 50); /* those in the Ethernet header are the others */
    rig_stop();
}

static void test_delay(void **state)
{
    rig_start("fault delay=100ms | wire");
    send_numbered(5);
    rig_arrive(f.bytes, f.n, NULL);
    pass_time(DT_MS(99));
    assert_int_equal(rig.wire.n + rig.guest.n, 0);
    assert_int_equal(rig.sent, 0); /* the VM bears the queue */
    pass_time(DT_MS(2));
    assert_int_equal(rig.wire.n, 5);
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(rig.sent, 5);
    send_numbered(3);
    rig_stop(); /* goes on at once: checked by the rest that it comes to */
    assert_int_equal(rig.sent, 8);
}

static void test_jitter_keeps_order(void **state)
{
    uint64_t before = test_clock, last = 0;
    bool varies = false;

    rig_start("fault delay=50ms jitter=40ms | wire");
    for (unsigned i = 0; i < 100; i++) {
        frame_ether(&f, 0x88b5);
        frame_bytes(&f, (uint8_t[]){0, (uint8_t)i, 0, 0}, 4);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        pass_time(DT_MS(1));
    }
    pass_time(DT_MS(100));
    assert_int_equal(rig.wire.n, 100);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t late = rig.wire.frames[i].at - before - i * DT_MS(1);

        assert_int_equal(number_of(&rig.wire, i), i);
        assert_in_range(late, DT_MS(9), DT_MS(92));
        varies |= i && late != last;
        last = late;
    }
    assert_true(varies);
    rig_stop();
}

static void test_reorder(void **state)
{
    rig_start("fault delay=10ms reorder=25% direction=tx | wire");
    send_numbered(100);
    assert_in_range(rig.wire.n, 10, 40);
    assert_int_equal(rig.wire.n, rig_counter("fault", "overtook"));
    rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(rig.guest.n, 1); /* the other direction is spared */
    pass_time(DT_MS(11));
    assert_int_equal(rig.wire.n, 100);
    rig_stop();
}

static void test_overflow(void **state)
{
    rig_start("fault delay=1s | wire");
    send_numbered(1600);
    assert_int_equal(rig_counter("fault", "overflowed"), 100);
    pass_time(DT_MS(1100));
    assert_int_equal(rig.wire.n, 1500);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_by_seed),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_jitter_keeps_order),
        cmocka_unit_test(test_reorder),
        cmocka_unit_test(test_overflow),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
