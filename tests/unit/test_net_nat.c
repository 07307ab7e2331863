/* SPDX-License-Identifier: MIT */
/* test_net_nat.c - `nat`: every kind of packet, both ways. */
#include "tests/unit/nat_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* ---- ARP ---- */

static void test_arp(void **state)
{
    test_clock = DT_S(1000);
    rig_start(CARD " | wire");
    rig_turn();
    assert_int_equal(rig.wire.n, 2); /* we are here; where is the router? */
    assert_address(wire(0) + 28, OUTER);
    assert_address(wire(0) + 38, OUTER);
    assert_address(wire(1) + 38, "192.0.2.1");
    assert_memory_equal(wire(1) + 6, outer_mac, 6);
    rig_clear();

    packet(IS_UDP, GUEST, 1000, PEER, 53, 0, 10); /* nobody knows the router: nothing goes out */
    pass_time(1);
    from_guest();
    assert_int_equal(counter("unresolved"), 1);
    assert_int_equal(counter("created"), 0);
    assert_int_equal(rig.wire.n, 1); /* it is asked for again, once in a second */
    from_guest();
    assert_int_equal(rig.wire.n, 1);

    arp(1, guest_mac, GUEST, "10.0.2.1");
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    assert_memory_equal(guest(0), guest_mac, 6);
    assert_memory_equal(guest(0) + 22, gateway_mac, 6);
    assert_int_equal(guest(0)[21], 2);
    arp(1, guest_mac, GUEST, "10.0.2.77"); /* that is not us */
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    rig_clear();
    arp(1, router_mac, "192.0.2.1", OUTER);
    from_wire();
    assert_int_equal(rig.wire.n, 1);
    assert_memory_equal(wire(0), router_mac, 6);
    assert_memory_equal(wire(0) + 22, outer_mac, 6);
    assert_int_equal(rig.guest.n, 0); /* the guest hears nothing of it */
    arp(2, other_mac, OUTER, "192.0.2.1");
    from_wire();
    assert_int_equal(counter("conflicts"), 1);
    arp(2, other_mac, "192.0.2.44", "192.0.2.45"); /* nobody asked */
    from_wire();
    assert_true(out(IS_UDP, GUEST, 1000, PEER, 0) >= 1024);
    packet(IS_UDP, GUEST, 1000, "192.0.2.44", 53, 0,
           10); /* beside us: asked for, not sent to the router */
    from_guest();
    assert_int_equal(rig.wire.n, 1);
    assert_address(wire(0) + 38, "192.0.2.44");
    arp(2, other_mac, "192.0.2.44", OUTER);
    from_wire();
    rig_clear();
    packet(IS_UDP, GUEST, 1000, "192.0.2.44", 53, 0, 10);
    from_guest();
    assert_memory_equal(wire(0), other_mac, 6);
    rig_stop();
}

/* ---- Packets ---- */

struct shape {
    const char *name;
    uint32_t bytes;
    bool partial;
    uint16_t segment;
    unsigned frames;
};
static const struct shape shapes[] = {
    {"plain", 100, false, 0, 1},  {"odd", 101, false, 0, 1},      {"empty", 0, false, 0, 1},
    {"partial", 100, true, 0, 1}, {"super", 3000, true, 1000, 3},
};

static bool send_shape(const struct shape *s, enum kind kind, bool to_wire)
{
    struct dt_vnet_header v = {.flags = s->partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
                               .gso_type = !s->segment      ? 0
                                           : kind == IS_TCP ? VIRTIO_NET_HDR_GSO_TCPV4
                                                            : 5,
                               .gso_size = s->segment,
                               .csum_start = 34,
                               .csum_offset = kind == IS_TCP ? 16 : 6};

    if (s->partial && kind == IS_ECHO)
        return false;
    if (s->partial) /* the checksum is not there yet */
        store_be16(f.bytes + 34 + v.csum_offset, 0xabcd);
    if (to_wire)
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    else
        rig_arrive(f.bytes, f.n, &v);
    return true;
}

/* Out and back, in each shape: with all offloads left to the wire, and with none. */
static void shape_both_ways(const struct shape *s, enum kind kind, bool plain)
{
    uint32_t at = kind == IS_ECHO ? 38 : 34;
    const uint8_t *p;

    packet(kind, GUEST, 4000, PEER, 80, 0x10, s->bytes);
    if (!send_shape(s, kind, true))
        return;
    assert_int_equal(rig.wire.n, plain ? s->frames : 1);
    for (unsigned i = 0; i < rig.wire.n; i++) {
        p = wire(i);
        assert_memory_equal(p, router_mac, 6);
        assert_memory_equal(p + 6, outer_mac, 6);
        assert_address(p + 26, OUTER);
        assert_address(p + 30, PEER);
        assert_int_equal(load_be16(p + at), 4000);
        assert_int_equal(p[22], 63);
        assert_int_equal(rig.wire.frames[i].needs != 0, s->partial && !plain);
        if (!rig.wire.frames[i].needs)
            assert_sums(&rig.wire.frames[i]);
    }
    packet(kind, PEER, 80, OUTER, 4000, 0x10, s->bytes);
    send_shape(s, kind, false);
    assert_int_equal(rig.guest.n, 1);
    p = guest(0);
    assert_memory_equal(p, guest_mac, 6);
    assert_memory_equal(p + 6, gateway_mac, 6);
    assert_address(p + 26, PEER);
    assert_address(p + 30, GUEST);
    assert_int_equal(load_be16(p + (kind == IS_ECHO ? 38 : 36)), 4000);
    if (!rig.guest.frames[0].needs)
        assert_sums(&rig.guest.frames[0]);
    rig_clear();
}

static void test_shapes(void **state)
{
    for (unsigned plain = 0; plain < 2; plain++) {
        begin(plain ? CARD " | plain-wire" : CARD " | wire");
        for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
            for (enum kind kind = IS_TCP; kind < KINDS; kind++)
                shape_both_ways(&shapes[i], kind, plain);
        assert_int_equal(counter("created"), KINDS);
        rig_stop();
    }
}

/* A checksum that was wrong stays wrong; a datagram of UDP without one stays so. */
static void test_sums_kept(void **state)
{
    begin(CARD " | wire");
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 50);
    store_be16(f.bytes + 40, 0);
    from_guest();
    assert_int_equal(load_be16(wire(0) + 40), 0);
    packet(IS_TCP, GUEST, 4000, PEER, 80, 2, 50);
    f.bytes[60] ^= 1;
    from_guest();
    assert_false(frame_sums_right(rig.wire.frames[1].data, rig.wire.frames[1].length));
    rig_stop();
}

/* Every cut of a good packet ends here, and what is tagged, foreign or of another protocol does. */
static void test_refused(void **state)
{
    static struct frame whole;
    static const struct {
        const char *from, *to, *counter;
    } cases[] = {{"10.0.3.15", PEER, "foreign"},
                 {"10.0.2.1", PEER, "foreign"},
                 {GUEST, OTHER, "foreign"},
                 {GUEST, "224.0.0.1", "foreign"},
                 {GUEST, "255.255.255.255", "foreign"},
                 {GUEST, "127.0.0.1", "foreign"}};
    uint64_t malformed;

    begin(CARD " | wire");
    for (enum kind kind = IS_TCP; kind < KINDS; kind++) {
        packet(kind, GUEST, 4000, PEER, 80, 2, 20);
        whole = f;
        for (uint32_t n = 14; n < whole.n; n++)
            assert_true(rig_send(whole.bytes, n, NULL, 0));
    }
    assert_int_equal(rig.wire.n, 0);
    malformed = counter("malformed");
    assert_true(malformed > 100);
    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x8100, 5, 0x0800);
    frame_ipv4(&f, 17, GUEST, PEER);
    frame_udp(&f, 1, 2);
    frame_end(&f);
    to_gateway(guest_mac);
    from_guest();
    assert_int_equal(counter("foreign"), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t before = counter(cases[i].counter);

        packet(IS_UDP, cases[i].from, 4000, cases[i].to, 80, 0, 20);
        to_gateway(guest_mac);
        from_guest();
        assert_int_equal(counter(cases[i].counter), before + 1);
    }
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[23] = 47;
    from_guest();
    packet(IS_ECHO, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[34] = 13; /* timestamps are nobody's */
    from_guest();
    assert_int_equal(counter("unknown"), 2);
    packet(IS_UDP, PEER, 80, "192.0.2.11", 4000, 0, 20);
    from_wire();
    packet(IS_UDP, "10.0.2.99", 80, OUTER, 4000, 0, 20);
    to_outer();
    from_wire();
    packet(IS_UDP, PEER, 80, OUTER, 4000, 0, 20);
    from_wire();
    assert_int_equal(counter("unsolicited"), 1);
    assert_int_equal(rig.wire.n + rig.guest.n, 0);
    assert_int_equal(counter("created"), 0);
    packet(IS_ECHO, GUEST, 7, "10.0.2.1", 0, 0, 33); /* the gateway is there */
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    assert_sums(&rig.guest.frames[0]);
    assert_address(guest(0) + 26, "10.0.2.1");
    assert_int_equal(guest(0)[34], 0);
    rig_stop();
}

/* A packet whose time is over: the guest is told, with what it sent, and nobody outside is. */
static void test_time_to_live(void **state)
{
    begin(CARD " | wire");
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[22] = 1;
    from_guest();
    assert_int_equal(rig.wire.n, 0);
    assert_int_equal(rig.guest.n, 1);
    assert_sums(&rig.guest.frames[0]);
    assert_memory_equal(guest(0), guest_mac, 6);
    assert_address(guest(0) + 26, "10.0.2.1");
    assert_address(guest(0) + 30, GUEST);
    assert_int_equal(guest(0)[34], 11);
    assert_memory_equal(guest(0) + 42, f.bytes + 14, f.n - 14);
    for (unsigned i = 0; i < 300; i++)
        from_guest();
    assert_int_equal(rig.guest.n, 100); /* in one second */
    rig_clear();
    pass_time(1);
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 3000);
    f.bytes[22] = 0;
    from_guest();
    assert_int_equal(rig.guest.frames[0].length, 14 + 576);
    memcpy(f.bytes, guest(0), 300); /* an error about an error */
    f.n = 300;
    store_be16(f.bytes + 16, 286);
    memcpy(f.bytes + 26, "\x0a\x00\x02\x0f\xc6\x33\x64\x01", 8);
    f.bytes[22] = 1;
    to_gateway(guest_mac);
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    packet(IS_UDP, PEER, 80, OUTER, 4000, 0, 20);
    f.bytes[22] = 1;
    from_wire();
    assert_int_equal(counter("ttl"), 304);
    assert_int_equal(rig.guest.n + rig.wire.n, 1);
    rig_stop();
}

/* A packet of @kind, both ways. */
static void send_kind(unsigned kind, const char *chain)
{
    struct dt_vnet_header v;

    begin(chain);
    v = frame_kind(&f, kind, 80);
    frame_pattern(&f, 3501);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    rig_arrive(f.bytes, f.n, &v);
}

/* Every kind over IPv6 is refused, or let through as it is: whole where the wire takes all that, else as its segments. */
static void ipv6_kind(unsigned kind, bool plain)
{
    bool partial = kind & (FRAME_SUPER | FRAME_CSUM);

    send_kind(kind, plain ? CARD " | plain-wire" : CARD " | wire");
    assert_int_equal(counter("ipv6"), 2);
    assert_int_equal(rig.wire.n + rig.guest.n, 0);
    rig_stop();
    send_kind(kind, plain ? CARD " ipv6=pass | plain-wire" : CARD " ipv6=pass | wire");
    assert_int_equal(rig.wire.n, plain && kind & FRAME_SUPER ? 4 : 1);
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(rig.wire.frames[0].needs != 0, partial && !plain);
    assert_int_equal(rig.guest.frames[0].needs != 0, partial);
    for (unsigned i = 0; i < rig.wire.n && !rig.wire.frames[i].needs; i++)
        assert_sums(&rig.wire.frames[i]);
    if (!partial)
        assert_memory_equal(wire(0), f.bytes, f.n);
    rig_stop();
}

static void test_ipv6(void **state)
{
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++)
        for (unsigned plain = 0; kind & FRAME_V6 && plain < 2; plain++)
            ipv6_kind(kind, plain);
}

/* ---- Fragments ---- */

/* A datagram of 1600 bytes in pieces of 800: @piece 0 or 1 goes into f. Returns the whole one's checksum field. */
static void fragment(bool outward, unsigned piece, uint16_t id)
{
    static struct frame whole;

    packet(IS_UDP, outward ? GUEST : PEER, outward ? 4000 : 80, outward ? PEER : OUTER,
           outward ? 80 : 4000, 0, 1592);
    whole = f;
    f.n = 34;
    frame_bytes(&f, whole.bytes + 34 + piece * 800, 800);
    store_be16(f.bytes + 16, 820);
    store_be16(f.bytes + 18, id);
    store_be16(f.bytes + 20, piece ? 100 : 0x2000);
    store_be16(f.bytes + 24, 0);
    store_be16(f.bytes + 24, (uint16_t)~dt_checksum(f.bytes + 14, 20, 0));
}

/* Both pieces, put together as the receiver does. */
static void assert_datagram(const struct rig_frame *first, const struct rig_frame *second)
{
    static struct frame whole;

    assert_int_equal(load_be16(first->data + 18), load_be16(second->data + 18));
    assert_memory_equal(first->data, second->data, 14);
    assert_memory_equal(first->data + 26, second->data + 26, 8);
    assert_true(frame_sums_right(second->data, second->length));
    whole.n = 0;
    frame_bytes(&whole, first->data, first->length);
    frame_bytes(&whole, second->data + 34, 800);
    store_be16(whole.bytes + 16, 1620);
    store_be16(whole.bytes + 20, 0);
    store_be16(whole.bytes + 24, 0);
    store_be16(whole.bytes + 24, (uint16_t)~dt_checksum(whole.bytes + 14, 20, 0));
    assert_true(frame_sums_right(whole.bytes, whole.n));
}

static void test_fragments(void **state)
{
    uint16_t first_id;

    begin(CARD " | wire");
    fragment(true, 1, 7);
    from_guest();
    assert_int_equal(counter("fragments-early"), 1);
    for (unsigned i = 0; i < 2; i++) {
        fragment(true, i, 7);
        from_guest();
    }
    assert_int_equal(rig.wire.n, 2);
    assert_datagram(&rig.wire.frames[0], &rig.wire.frames[1]);
    assert_address(wire(1) + 26, OUTER);
    first_id = load_be16(wire(0) + 18);
    for (unsigned i = 0; i < 2; i++) {
        fragment(false, i, 7);
        from_wire();
    }
    assert_int_equal(rig.guest.n, 2);
    assert_datagram(&rig.guest.frames[0], &rig.guest.frames[1]);
    assert_address(guest(1) + 30, GUEST);
    assert_int_equal(load_be16(guest(0) + 18), 7);
    rig_clear();
    fragment(true, 0, 8); /* another datagram is another one outside */
    from_guest();
    assert_int_not_equal(load_be16(wire(0) + 18), first_id);
    pass_time(60);
    fragment(true, 1, 8);
    from_guest();
    assert_int_equal(counter("fragments-early"), 2);
    for (unsigned i = 0; i < 2 * FRAGMENTS; i++) { /* bounded, and counted */
        fragment(true, 0, (uint16_t)(1000 + i));
        from_guest();
    }
    assert_int_equal(counter("fragments-forgotten"), FRAGMENTS);
    rig_stop();
}

/* ---- To the outer address ---- */

static void test_hairpin(void **state)
{
    const uint8_t *p;

    begin(CARD " forward=tcp:8080:10.0.2.16:80 | wire");
    packet(IS_TCP, GUEST, 4000, OUTER, 8080, 2, 20);
    from_guest();
    assert_int_equal(rig.wire.n, 0);
    assert_int_equal(rig.guest.n, 1);
    p = guest(0);
    assert_sums(&rig.guest.frames[0]);
    assert_memory_equal(p, other_mac, 6);
    assert_address(p + 26, OUTER);
    assert_address(p + 30, OTHER);
    assert_int_equal(load_be16(p + 34), 4000);
    assert_int_equal(load_be16(p + 36), 80);
    packet(IS_TCP, OTHER, 80, OUTER, 4000, 0x12, 20);
    from_guest();
    p = guest(1);
    assert_sums(&rig.guest.frames[1]);
    assert_memory_equal(p, guest_mac, 6);
    assert_int_equal(load_be16(p + 34), 8080);
    assert_int_equal(load_be16(p + 36), 4000);
    packet(IS_TCP, GUEST, 4000, OUTER, 9999, 2, 20);
    from_guest();
    assert_int_equal(counter("unsolicited"), 1);
    assert_int_equal(counter("hairpin"), 3);
    assert_int_equal(rig.sent, 2 + 3); /* each descriptor came back */
    rig_stop();
}

/* ---- ICMP errors ---- */

/* An error about the packet in f, from @from to @to, with @bytes of it. */
static void error_about(const char *from, const char *to, uint32_t bytes)
{
    static struct frame about;
    uint32_t at;

    about = f;
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 1, from, to);
    at = f.n;
    frame_bytes(&f, (uint8_t[]){3, 4, 0, 0, 0, 0, 5, 0}, 8);
    frame_bytes(&f, about.bytes + 14, MIN(bytes, about.n - 14));
    store_be16(f.bytes + at + 2, (uint16_t)~dt_checksum(f.bytes + at, f.n - at, 0));
    frame_end(&f);
}

/* The quoted packet is right in itself, if it is whole. */
static void assert_quoted(const struct rig_frame *frame, uint32_t bytes)
{
    static struct frame whole;

    frame_ether(&whole, 0x0800);
    frame_bytes(&whole, frame->data + 42, bytes);
    assert_true(frame_sums_right(whole.bytes, whole.n));
}

static void test_errors(void **state)
{
    uint16_t port;

    begin("nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1 ports=2000-2999 | wire");
    for (enum kind kind = IS_TCP; kind < KINDS; kind++)
        for (unsigned whole = 0; whole < 2; whole++) {
            uint32_t bytes = whole ? 1000 : 28;

            port = out(kind, GUEST, 4000, PEER, 2);
            packet(kind, GUEST, 4000, PEER, 80, 2, 20);
            from_guest();
            memcpy(f.bytes, wire(0), rig.wire.frames[0].length);
            rig_clear();
            error_about("203.0.113.1", OUTER, bytes);
            to_outer();
            from_wire();
            assert_int_equal(rig.guest.n, 1);
            assert_sums(&rig.guest.frames[0]);
            assert_address(guest(0) + 30, GUEST);
            assert_address(guest(0) + 42 + 12, GUEST);
            assert_address(guest(0) + 42 + 16, PEER);
            assert_int_equal(load_be16(guest(0) + 42 + 20 + (kind == IS_ECHO ? 4 : 0)), 4000);
            if (whole)
                assert_quoted(&rig.guest.frames[0], rig.guest.frames[0].length - 42);
            f.bytes[f.n - 1] ^= 1; /* RFC 5508, 4.1: one that is damaged */
            from_wire();
            assert_int_equal(rig.guest.n, 1);
            rig_clear();
        }
    /* From the guest, about what came to it. */
    port = out(IS_UDP, GUEST, 4000, PEER, 0);
    packet(IS_UDP, PEER, 80, OUTER, port, 0, 20);
    from_wire();
    memcpy(f.bytes, guest(0), rig.guest.frames[0].length);
    rig_clear();
    error_about(GUEST, PEER, 1000);
    to_gateway(guest_mac);
    from_guest();
    assert_int_equal(rig.wire.n, 1);
    assert_sums(&rig.wire.frames[0]);
    assert_address(wire(0) + 26, OUTER);
    assert_address(wire(0) + 42 + 16, OUTER);
    assert_int_equal(load_be16(wire(0) + 42 + 22), port);
    assert_quoted(&rig.wire.frames[0], rig.wire.frames[0].length - 42);
    rig_clear();
    packet(IS_UDP, PEER, 80, GUEST, 4001, 0, 20); /* about nothing that came */
    error_about(GUEST, PEER, 1000);
    to_gateway(guest_mac);
    from_guest();
    assert_int_equal(rig.wire.n, 0);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arp),          cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_sums_kept),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_time_to_live), cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_fragments),    cmocka_unit_test(test_hairpin),
        cmocka_unit_test(test_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
