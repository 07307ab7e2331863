/* SPDX-License-Identifier: MIT */
/* test_net_filter.c - `filter`: which packets pass, plain and with offloads, tagged and not. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

extern const struct dt_net_ext net_filter;
static struct frame f;

static uint64_t counter(const char *name)
{
    return rig_counter("filter", name);
}

static void udp(uint16_t dport)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.7", "198.51.100.1");
    frame_udp(&f, 1000, dport);
    frame_pattern(&f, 50);
    frame_end(&f);
}

static void send(void)
{
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void arrive(void)
{
    rig_arrive(f.bytes, f.n, NULL);
}

static void test_deny(void **state)
{
    rig_start("filter match='udp dst port 53' | wire");
    udp(53);
    send();
    arrive();
    udp(54);
    send();
    arrive();
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(counter("denied-tx"), 1);
    assert_int_equal(counter("denied-rx"), 1);
    assert_int_equal(rig.sent, 2); /* the guest has its descriptors back */
    rig_stop();
}

static void test_allow(void **state)
{
    rig_start("filter match='udp dst port 53' action=allow direction=tx | wire");
    udp(54);
    send();
    arrive();
    assert_int_equal(rig.wire.n, 0);
    assert_int_equal(rig.guest.n, 1); /* that way all pass */
    assert_int_equal(counter("not-allowed-tx"), 1);
    udp(53);
    send();
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(device_set(rig.dev, "filter", "direction", "rx", &rig.err), 0);
    udp(54);
    send();
    arrive();
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(counter("not-allowed-rx"), 1);
    rig_stop();
}

/* An expression that is wrong changes nothing, and says why. */
static void test_live(void **state)
{
    rig_start("filter match='udp' | wire");
    udp(1);
    send();
    assert_int_equal(rig.wire.n, 0);
    assert_int_equal(device_set(rig.dev, "filter", "match", "udp and (", &rig.err), -EINVAL);
    assert_non_null(strstr(rig.err.text, "syntax error"));
    send();
    assert_int_equal(rig.wire.n, 0);
    assert_int_equal(device_set(rig.dev, "filter", "match", "tcp", &rig.err), 0);
    send();
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(device_set(rig.dev, "filter", "action", "allow", &rig.err), 0);
    send();
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
    assert_int_equal(rig_try("filter match='port port' | wire"), -EINVAL);
    assert_int_equal(rig_try("filter | wire"), -EINVAL);
}

/* Each kind of offload: judged once, with its own headers, and handed on as it came. */
static void test_offloads(void **state)
{
    rig_start("filter match='tcp or udp port 443' action=allow | wire");
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        for (uint16_t port = 442; port <= 443; port++) {
            struct dt_vnet_header v = frame_kind(&f, kind, port);

            frame_pattern(&f, 5000);
            frame_end(&f);
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        }
        assert_int_equal(rig.wire.n, kind & FRAME_TCP ? 2 : 1);
        assert_int_equal(rig.wire.frames[0].length, f.n);
        assert_int_equal(!!(rig.wire.frames[0].needs & DT_OFFLOAD_SUPER), !!(kind & FRAME_SUPER));
        rig_clear();
    }
    rig_stop();
}

/* Tags are in the frame; what is cut short matches what it has, and no more. */
static void test_tags_and_truncation(void **state)
{
    rig_start("filter match='vlan 5 and ip' | wire");
    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x8100, 5, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.7", "198.51.100.1");
    frame_udp(&f, 1, 2);
    frame_end(&f);
    send();
    assert_int_equal(rig.wire.n, 0);
    udp(1);
    send();
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(device_set(rig.dev, "filter", "match", "udp dst port 53", &rig.err), 0);
    udp(53);
    for (uint32_t n = 14; n <= f.n; n++) {
        rig_clear();
        rig_arrive(f.bytes, n, NULL);
        assert_int_equal(rig.guest.n, n < 38);
    }
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deny),
        cmocka_unit_test(test_allow),
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_tags_and_truncation),
    };

    CHECK(registry_add_net(&net_filter, &rig.err) == 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
