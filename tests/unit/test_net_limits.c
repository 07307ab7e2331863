/* SPDX-License-Identifier: MIT */
/* test_net_limits.c - `limits`: each allowance alone, by a clock that the test turns, and connections' lives. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct frame f;

static void pass_time(uint64_t ns)
{
    test_clock += ns;
    rig_turn();
}

static uint64_t exceeded(const char *name)
{
    char counter[64];

    snprintf(counter, sizeof(counter), "%s-allowance-exceeded", name);
    return rig_counter("limits", counter);
}

static void udp(const char *to, uint16_t port, uint32_t bytes)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.7", to);
    frame_udp(&f, port, 53);
    frame_pattern(&f, bytes);
    frame_end(&f);
}

static void tcp(bool out, uint16_t port, uint8_t flags)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, out ? "192.0.2.7" : "198.51.100.1", out ? "198.51.100.1" : "192.0.2.7");
    frame_tcp(&f, out ? port : 80, out ? 80 : port, 1, flags);
    frame_end(&f);
}

static void send(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static int64_t status(const char *key)
{
    json_t *reply;
    int64_t value;

    assert_int_equal(device_do(rig.dev, "limits", "status", 0, NULL, &reply, &rig.err), 0);
    value = json_integer_value(json_object_get(reply, key));
    json_decref(reply);
    return value;
}

/* Over ten seconds exactly what is allowed passes, and the rest has its counter. */
static void test_rates(void **state)
{
    static const struct {
        const char *name, *chain;
        bool in;
    } cases[] = {
        {"bw-out", "limits bw-out=800k burst=1ms | wire",
         false}, /* 100 frames of 1000 bytes a second */
        {"bw-in", "limits bw-in=800k burst=1ms | wire", true},
        {"pps", "limits pps=100 burst=1ms | wire", false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned passed;

        rig_start(cases[i].chain);
        udp("198.51.100.1", 1, 1000 - 42);
        for (unsigned n = 0; n < 2000; n++) {
            if (cases[i].in)
                rig_arrive(f.bytes, f.n, NULL);
            else
                send(1);
            pass_time(DT_MS(5));
        }
        passed = cases[i].in ? rig.guest.n : rig.wire.n;
        assert_in_range(passed, 999, 1002);
        assert_int_equal(exceeded(cases[i].name), 2000 - passed);
        rig_stop();
    }
}

/* Both ways share the packets; a super-frame is its segments. */
static void test_shared(void **state)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_size = 1000};

    rig_start("limits pps=1000 burst=10ms | wire");
    pass_time(DT_S(1));
    udp("198.51.100.1", 1, 10);
    send(5);
    for (unsigned i = 0; i < 10; i++)
        rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(rig.wire.n + rig.guest.n, 11); /* what accumulates in 10 ms, and one */
    for (unsigned kind = 0; kind < 4; kind++) {
        bool v6 = kind & 1, is_tcp = kind & 2;

        rig_clear();
        pass_time(DT_S(1));
        v.gso_type = !is_tcp ? 5 : v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
        v.csum_start = v6 ? 54 : 34;
        v.csum_offset = is_tcp ? 16 : 6;
        frame_ether(&f, v6 ? 0x86dd : 0x0800);
        if (v6)
            frame_ipv6(&f, is_tcp ? 6 : 17, "2001:db8::7", "2001:db8::1");
        else
            frame_ipv4(&f, is_tcp ? 6 : 17, "192.0.2.7", "198.51.100.1");
        if (is_tcp)
            frame_tcp(&f, 1, 2, 3, 0x10);
        else
            frame_udp(&f, 1, 2);
        frame_pattern(&f, 5000);
        frame_end(&f);
        for (unsigned i = 0; i < 5; i++)
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.n, 3); /* 11 - 5 - 5 - 5 */
    }
    rig_stop();
}

static void test_linklocal(void **state)
{
    rig_start("limits linklocal=10 burst=1ms | wire");
    udp("169.254.169.254", 1, 10);
    send(5);
    udp("169.253.169.254", 1, 10);
    send(5);
    assert_int_equal(rig.wire.n, 6);
    assert_int_equal(exceeded("linklocal"), 4);
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, "fe80::1", "fea0::1");
    frame_udp(&f, 1, 2);
    frame_end(&f);
    send(1);
    assert_int_equal(exceeded("linklocal"), 5);
    rig_arrive(f.bytes, f.n, NULL); /* to the guest is not from it */
    assert_int_equal(rig.guest.n, 1);
    rig_stop();
}

/* New ones are refused, old ones go on, in both directions; what ended or is silent makes room. */
static void test_connections(void **state)
{
    rig_start("limits conntrack=3 timeout=10s tcp-timeout=100s | wire");
    for (uint16_t port = 1; port <= 5; port++) {
        tcp(true, port, 2);
        send(1);
    }
    assert_int_equal(rig.wire.n, 3);
    assert_int_equal(exceeded("conntrack"), 2);
    assert_int_equal(status("connections"), 3);
    assert_int_equal(status("conntrack-allowance-available"), 0);
    tcp(false, 3, 0x12); /* the answer to the third */
    rig_arrive(f.bytes, f.n, NULL);
    tcp(false, 4, 0x12);
    rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(rig.guest.n, 1);
    frame_ether(&f, 0x0806); /* no connection */
    frame_pattern(&f, 46);
    send(1);
    assert_int_equal(rig.wire.n, 4);

    tcp(true, 3, 0x11); /* the end of the third: it lives ten seconds more, */
    send(1);
    pass_time(DT_S(9));
    tcp(true, 4, 2);
    send(1);
    assert_int_equal(rig.wire.n, 5);
    pass_time(DT_S(2));
    send(1); /* and then there is room */
    assert_int_equal(rig.wire.n, 6);
    assert_int_equal(status("connections"), 3);
    pass_time(DT_S(60));
    tcp(true, 1, 0x10);
    send(1);
    pass_time(DT_S(60)); /* the second and the fourth were silent, the first was not */
    assert_int_equal(status("connections"), 1);
    pass_time(DT_S(10));
    assert_int_equal(status("connections"), 1);
    pass_time(DT_S(40));
    assert_int_equal(status("connections"), 0);
    assert_int_equal(device_set(rig.dev, "limits", "conntrack", "0", &rig.err), 0);
    for (uint16_t port = 1; port <= 10; port++) {
        udp("198.51.100.1", port, 10);
        send(1);
    }
    assert_int_equal(status("connections"), 0);
    rig_stop();
}

/* What is dropped for one allowance uses nothing of another. */
static void test_nothing_used(void **state)
{
    rig_start("limits conntrack=1 pps=10 burst=1ms | wire");
    udp("198.51.100.1", 1, 10);
    send(1);
    pass_time(DT_MS(101));
    udp("198.51.100.1", 2, 10);
    send(5);
    assert_int_equal(exceeded("conntrack"), 5);
    udp("198.51.100.1", 1, 10);
    send(2);
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(exceeded("pps"), 1);
    rig_stop();
    assert_int_equal(rig_try("limits conntrack=5M | wire"), -ERANGE);
}

/* ---- State ---- */

static uint8_t blob[1 << 16];

static struct dt_layer *layer(void)
{
    return rig.dev->layers[1];
}

static int load(const void *bytes, int64_t n, uint32_t version)
{
    return registry_net(layer()->ext)->load(layer(), bytes, (size_t)n, version, &rig.err);
}

/* Stops the card as a kill would, and gives what was saved to another one @later. */
static void succeed(const char *chain, uint64_t later)
{
    int64_t n = registry_net(layer()->ext)->save(layer(), blob, sizeof(blob));
    uint64_t then = test_clock;

    assert_true(n > 0);
    rig_stop();
    test_clock = then + later;
    rig_start(chain);
    assert_int_equal(load(blob, n, 1), 0);
    rig_turn();
}

/* A worker's death neither gives a burst anew nor takes one: ten a second are ten a second. */
static void test_rates_inherited(void **state)
{
    static const char chain[] = "limits pps=10 burst=500ms | wire";

    rig_start(chain);
    pass_time(DT_S(1));
    udp("198.51.100.1", 1, 10);
    send(20);
    assert_int_equal(rig.wire.n, 6); /* a burst of five, and one */
    succeed(chain, 0);
    send(20);
    assert_int_equal(rig.wire.n, 0);
    succeed(chain, DT_MS(200)); /* what flowed in while nobody served */
    send(20);
    assert_int_equal(rig.wire.n, 2);
    succeed("limits pps=100 burst=10ms | wire", 0); /* another rate from now on */
    send(20);
    assert_int_equal(rig.wire.n, 0);
    pass_time(DT_MS(10));
    send(20);
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

/* A connection that there was goes on where no new one may begin. */
static void test_connections_inherited(void **state)
{
    static const char chain[] = "limits conntrack=2 | wire";

    rig_start(chain);
    tcp(true, 1000, 0x10);
    send(1);
    udp("198.51.100.1", 1, 10);
    send(1);
    pass_time(DT_S(20));
    succeed(chain, DT_S(1));
    assert_int_equal(status("connections"), 2);
    udp("198.51.100.1", 2, 10);
    send(1);
    assert_int_equal(exceeded("conntrack"), 1);
    tcp(true, 1000, 0x10);
    send(1);
    assert_int_equal(rig.wire.n, 1);
    pass_time(DT_S(11)); /* and its age went on */
    assert_int_equal(status("connections"), 1);
    rig_stop();
}

/* What is no state is refused; whatever else is in one, the card serves on. */
static void test_bad_state(void **state)
{
    static uint8_t bad[sizeof(blob)];
    int64_t n;

    rig_start("limits pps=1000 bw-out=10M conntrack=10 | wire");
    udp("198.51.100.1", 1, 10);
    send(1);
    n = registry_net(layer()->ext)->save(layer(), blob, sizeof(blob));
    for (int64_t cut = 0; cut < n; cut++)
        assert_int_equal(load(blob, cut, 1), -EBADMSG);
    assert_int_equal(load(blob, n, 2), -EBADMSG);
    for (int64_t i = 0; i < n; i++) {
        memcpy(bad, blob, (size_t)n);
        bad[i] ^= 0xff;
        load(bad, n, 1);
        udp("198.51.100.1", 1, 10);
        send(1);
    }
    pass_time(DT_S(120)); /* no debt lasts */
    assert_int_equal(load(blob, n, 1), 0);
    rig_clear();
    send(1);
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_linklocal),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_nothing_used),
        cmocka_unit_test(test_rates_inherited),
        cmocka_unit_test(test_connections_inherited),
        cmocka_unit_test(test_bad_state),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
