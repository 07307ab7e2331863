/* SPDX-License-Identifier: MIT */
/* test_net_nat_ports.c - `nat`: whose port is whose, for how long, and after a worker's death. */
#include "tests/unit/nat_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* ---- Whose port is whose ---- */

static void test_ports(void **state)
{
    uint16_t seen, again;

    begin("nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1 ports=2000-2999 | wire");
    assert_int_equal(out(IS_UDP, GUEST, 2345, PEER, 0), 2345);          /* its own */
    assert_int_equal(out(IS_UDP, GUEST, 2345, "203.0.113.9", 0), 2345); /* whoever it is for */
    seen = out(IS_UDP, OTHER, 2345, PEER, 0);                           /* taken */
    assert_true(seen != 2345 && seen >= 2000 && seen <= 2999 && seen % 2 == 1);
    assert_int_equal(out(IS_TCP, OTHER, 2345, PEER, 2), 2345); /* protocols are apart */
    again = out(IS_ECHO, GUEST, 50000, PEER, 0);               /* not of ours */
    assert_true(again >= 2000 && again <= 2999 && again % 2 == 0);
    assert_true(in(IS_ECHO, again, 0));
    assert_true(in(IS_UDP, seen, 0));
    assert_int_equal(counter("created"), 4);
    assert_false(in(IS_UDP, 2999, 0));
    assert_int_equal(counter("unsolicited"), 1);
    assert_false(in(IS_UDP, 3000, 0));
    assert_int_equal(counter("others"), 1);
    rig_stop();
}

static void test_shared(void **state)
{
    static const uint8_t group[6] = {3, 0, 0, 0, 0, 1};

    begin(CARD " mac=52:54:00:00:00:01 shared-mac=03:00:00:00:00:01 | wire");
    arp(1, router_mac, "192.0.2.1", OUTER);
    from_wire();
    assert_memory_equal(wire(0) + 6, guest_mac, 6);
    assert_memory_equal(wire(0) + 22, group, 6);
    rig_clear();
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    from_guest();
    assert_memory_equal(wire(0) + 6, guest_mac, 6);
    packet(IS_UDP, PEER, 80, OUTER, 4000, 0, 20);
    memcpy(f.bytes, group, 6);
    from_wire();
    assert_int_equal(rig.guest.n, 1);
    arp(2, group, OUTER, "192.0.2.1"); /* another card of the same address */
    from_wire();
    assert_int_equal(counter("conflicts"), 0);
    rig_stop();
}

static void test_forwards(void **state)
{
    begin(CARD " guest=10.0.2.15 forward=tcp:8080:80,udp:500-502:10.0.2.16:4500 | wire");
    assert_true(in(IS_TCP, 8080, 2));
    assert_false(in(IS_TCP, 8081, 2));
    packet(IS_UDP, PEER, 80, OUTER, 502, 0, 20);
    from_wire();
    assert_address(guest(0) + 30, OTHER);
    assert_int_equal(load_be16(guest(0) + 36), 4502);
    assert_int_equal(out(IS_TCP, GUEST, 80, PEER, 0x12), 8080);
    assert_int_equal(out(IS_UDP, OTHER, 4501, PEER, 0), 501);
    pass_time(100000); /* they have no age */
    assert_true(in(IS_TCP, 8080, 2));
    assert_int_equal(device_set(rig.dev, "nat", "forward", "tcp:8081:80", &rig.err), 0);
    assert_false(in(IS_TCP, 8080, 2));
    assert_true(in(IS_TCP, 8081, 2));
    assert_int_equal(
        device_set(rig.dev, "nat", "forward", "tcp:8082:80,tcp:9:10.9.9.9:1", &rig.err), -EINVAL);
    assert_true(in(IS_TCP, 8081, 2)); /* nothing has changed */
    rig_stop();
}

/* ---- For how long ---- */

enum { SYN = 2, ACK = 16, FIN = 17, RST = 4 };

static void open_tcp(uint16_t port)
{
    out(IS_TCP, GUEST, port, PEER, SYN);
    assert_true(in(IS_TCP, port, SYN | ACK));
    out(IS_TCP, GUEST, port, PEER, ACK);
}

static void test_timeouts(void **state)
{
    begin(CARD " | wire");
    out(IS_TCP, GUEST, 4000, PEER, SYN);
    open_tcp(4001);
    out(IS_UDP, GUEST, 4000, PEER, 0);
    out(IS_ECHO, GUEST, 4000, PEER, 0);
    pass_time(61);
    assert_false(in(IS_ECHO, 4000, 0));
    assert_true(in(IS_TCP, 4000, SYN | ACK));
    pass_time(180); /* 241 */
    assert_false(in(IS_TCP, 4000, SYN | ACK));
    assert_true(in(IS_UDP, 4000, 0)); /* the first answer makes it younger, */
    pass_time(299);
    assert_true(in(IS_UDP, 4000, 0)); /* and no other */
    pass_time(2);
    assert_false(in(IS_UDP, 4000, 0));
    pass_time(6000);
    assert_true(in(IS_TCP, 4001, ACK));
    out(IS_TCP, GUEST, 4001, PEER, ACK);
    pass_time(7000);
    assert_true(in(IS_TCP, 4001, FIN));
    out(IS_TCP, GUEST, 4001, PEER, FIN);
    pass_time(239);
    assert_true(in(IS_TCP, 4001, ACK));
    pass_time(2);
    assert_false(in(IS_TCP, 4001, ACK));
    open_tcp(4002);
    assert_true(in(IS_TCP, 4002, RST));  /* forged: */
    out(IS_TCP, GUEST, 4002, PEER, ACK); /* its data says so */
    pass_time(1000);
    assert_true(in(IS_TCP, 4002, ACK));
    assert_int_equal(counter("expired"), 4);
    rig_stop();
}

/* A scan from inside, and one from outside: what was answered stays. */
static void test_scans(void **state)
{
    begin(CARD " mappings=256 | wire");
    for (unsigned i = 0; i < 100; i++)
        open_tcp((uint16_t)(20000 + i));
    for (unsigned i = 0; i < 2000; i++)
        out(IS_TCP, GUEST, (uint16_t)(30000 + i), PEER, SYN);
    assert_int_equal(counter("forgotten"), 2000 - 156);
    assert_int_equal(counter("refused"), 0);
    assert_true(in(IS_TCP, 31999, SYN | ACK)); /* the youngest is there, the oldest not */
    assert_false(in(IS_TCP, 30000, SYN | ACK));
    for (unsigned i = 0; i < 2000; i++)
        in(IS_TCP, (uint16_t)(40000 + i), SYN);
    for (unsigned i = 0; i < 100; i++)
        assert_true(in(IS_TCP, (uint16_t)(20000 + i), ACK));
    for (unsigned i = 0; i < 156; i++)
        open_tcp((uint16_t)(21000 + i));
    assert_int_equal(out(IS_UDP, GUEST, 1, PEER, 0), 0); /* all are in use, and answered */
    assert_int_equal(counter("refused"), 1);
    rig_stop();
}

/* All ports of a range in use: the oldest gives its own. */
static void test_exhausted(void **state)
{
    begin("nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1 ports=2000-2009 | wire");
    for (unsigned i = 0; i < 30; i++) {
        pass_time(1);
        assert_in_range(out(IS_UDP, GUEST, (uint16_t)(5000 + i), PEER, 0), 2000, 2009);
    }
    assert_int_equal(counter("forgotten"), 20);
    for (uint16_t port = 2000; port < 2010; port++)
        assert_true(in(IS_UDP, port, 0));
    assert_int_equal(out(IS_UDP, OTHER, 1, PEER, 0), 0);
    assert_int_equal(counter("refused"), 1);
    rig_stop();
}

/* ---- State ---- */

static uint8_t blob[1 << 20], bad[1 << 20];

static struct dt_layer *layer(void)
{
    return rig.dev->layers[1];
}

static void test_state(void **state)
{
    const struct dt_net_ext *ext;
    struct dt_error err;
    uint16_t port;
    int64_t n;

    begin(CARD " forward=tcp:8080:10.0.2.15:80 | wire");
    ext = registry_net(layer()->ext);
    open_tcp(4000);
    out(IS_UDP, GUEST, 700, PEER, 0);
    port = out(IS_UDP, GUEST, 701, PEER, 0);
    out(IS_TCP, GUEST, 4001, PEER, SYN);
    pass_time(100);
    n = ext->save(layer(), blob, sizeof(blob));
    assert_true(n > 0);
    rig_stop();

    test_clock -= DT_S(1); /* rig_stop() */
    rig_start(CARD " forward=tcp:8080:10.0.2.15:80 | wire");
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 1, &err), 0);
    rig_turn();
    assert_true(in(IS_TCP, 4000, ACK)); /* nobody was asked for anything */
    assert_true(in(IS_UDP, port, 0));
    assert_true(in(IS_TCP, 8080, SYN));
    assert_int_equal(out(IS_UDP, GUEST, 701, PEER, 0), port);
    assert_int_equal(counter("created"), 0);
    pass_time(141);
    assert_false(in(IS_TCP, 4001, SYN | ACK)); /* its age went on */
    assert_true(in(IS_TCP, 4000, ACK));
    for (int64_t cut = 0; cut < n; cut++)
        assert_int_equal(ext->load(layer(), blob, (size_t)cut, 1, &err), -EBADMSG);
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 2, &err), -EBADMSG);
    for (int64_t i = 40; i < n; i++) { /* anything else is left out, or does no harm */
        memcpy(bad, blob, (size_t)n);
        bad[i] ^= 0xff;
        ext->load(layer(), bad, (size_t)n, 1, &err);
        out(IS_TCP, GUEST, 4000, PEER, ACK);
    }
    n = ext->save(layer(), bad, 100); /* little room */
    assert_true(n == -ENOSPC || n <= 100);
    rig_stop();

    test_clock += DT_S(10); /* another address: nothing of before is of use */
    rig_start("nat outer=192.0.2.11/24 inner=10.0.2.1/24 router=192.0.2.1 | wire");
    assert_int_equal(ext->load(layer(), blob, sizeof(blob), 1, &err), -EBADMSG);
    rig_stop();
}

/* A successor that has the key alone chooses the same port. */
static void test_same_port(void **state)
{
    const struct dt_net_ext *ext;
    struct dt_error err;
    uint16_t port;
    int64_t n;

    begin(CARD " | wire");
    ext = registry_net(layer()->ext);
    n = ext->save(layer(), blob, sizeof(blob));
    port = out(IS_UDP, GUEST, 80, PEER, 0);
    rig_stop();
    rig_start(CARD " | wire");
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 1, &err), 0);
    assert_int_equal(out(IS_UDP, GUEST, 80, PEER, 0), port);
    rig_stop();
}

/* ---- Parameters and verbs ---- */

static void test_bad_params(void **state)
{
    static const struct {
        const char *words, *said;
    } cases[] = {
        {"outer=192.0.2.10 inner=10.0.2.1/24", "outer '192.0.2.10' is no address with"},
        {"outer=192.0.2.10/33 inner=10.0.2.1/24", "outer '192.0.2.10/33'"},
        {"outer=192.0.2.10/24x inner=10.0.2.1/24", "outer '192.0.2.10/24x'"},
        {"outer=192.0.2.10/24 inner=::1/24", "inner '::1/24'"},
        {"outer=10.0.2.10/24 inner=10.0.2.1/24", "in one network"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 ports=5-1", "ports '5-1'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 ports=0-9", "ports '0-9'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 mac=03:00:00:00:00:01", "mac '03:"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 shared-mac=02:00:00:00:00:01", "group address"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.10", "router '192.0.2.10'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 router=10.0.2.7", "router '10.0.2.7'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:1:2", "names no guest"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 guest=10.0.3.1 forward=tcp:1:2",
         "no guest of the inner"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 guest=x forward=tcp:1:2", "guest 'x'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=sctp:1:10.0.2.2:2", "forward 'sctp:"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:70000:10.0.2.2:2",
         "forward 'tcp:70000"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:1-9:10.0.2.2:2x", "forward 'tcp:1-9"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp", "forward 'tcp'"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:1-5000:10.0.2.2:1", "more than 4096"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:1:10.0.2.2:1,tcp:1:10.0.2.3:1", "way"},
        {"outer=192.0.2.10/24 inner=10.0.2.1/24 forward=tcp:1:10.0.2.2:1,tcp:2:10.0.2.2:1", "way"},
    };
    char chain[256];

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        snprintf(chain, sizeof(chain), "nat %s | wire", cases[i].words);
        assert_int_equal(rig_try(chain), -EINVAL);
        if (!strstr(rig.err.text, cases[i].said))
            fail_msg("%s: %s", cases[i].words, rig.err.text);
    }
}

static void test_verbs(void **state)
{
    const char *const argv[] = {"udp", "4000"};
    json_t *reply;

    begin(CARD " | wire");
    open_tcp(4000);
    out(IS_UDP, GUEST, 4000, PEER, 0);
    assert_int_equal(device_do(rig.dev, "nat", "status", 0, NULL, &reply, &rig.err), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "tcp-open")), 1);
    assert_int_equal(json_integer_value(json_object_get(reply, "udp")), 1);
    assert_string_equal(json_string_value(json_object_get(reply, "router")), "known");
    json_decref(reply);
    assert_int_equal(device_do(rig.dev, "nat", "owner", 2, argv, &reply, &rig.err), 0);
    assert_string_equal(json_string_value(json_object_get(reply, "guest")), GUEST);
    json_decref(reply);
    assert_int_equal(device_do(rig.dev, "nat", "owner", 1, argv, &reply, &rig.err), -EINVAL);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ports),      cmocka_unit_test(test_shared),
        cmocka_unit_test(test_forwards),   cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_scans),      cmocka_unit_test(test_exhausted),
        cmocka_unit_test(test_state),      cmocka_unit_test(test_same_port),
        cmocka_unit_test(test_bad_params), cmocka_unit_test(test_verbs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
