/* SPDX-License-Identifier: MIT */
/* test_net_nat.c - `nat`: every kind of packet both ways, whose port is whose, and for how long. */
#include "net/nat/internal.h"
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define OUTER "192.0.2.10"
#define GUEST "10.0.2.15"
#define OTHER "10.0.2.16"
#define PEER  "198.51.100.1"
#define CARD  "nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1"

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0, 0, 1};
static const uint8_t other_mac[6] = {0x52, 0x54, 0, 0, 0, 9};
static const uint8_t gateway_mac[6] = {2, 'i', 10, 0, 2, 1};
static const uint8_t router_mac[6] = {0x52, 0x54, 0, 0, 0, 7};
static const uint8_t outer_mac[6] = {2, 'o', 192, 0, 2, 10};
static struct frame f;

static void pass_time(uint64_t seconds)
{
    test_clock += DT_S(seconds);
    rig_turn();
}

static uint64_t counter(const char *name)
{
    return rig_counter("nat", name);
}

/* ---- Frames ---- */

static void to_gateway(const uint8_t from[6])
{
    memcpy(f.bytes, gateway_mac, 6);
    memcpy(f.bytes + 6, from, 6);
}

static void to_outer(void)
{
    memcpy(f.bytes, outer_mac, 6);
    memcpy(f.bytes + 6, router_mac, 6);
}

static void arp(uint16_t operation, const uint8_t mac[6], const char *sender, const char *target)
{
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4};
    struct frame addresses;

    frame_ether(&addresses, 0x0800);
    frame_ipv4(&addresses, 0, sender, target);
    frame_ether(&f, 0x0806);
    memset(f.bytes, 0xff, 6);
    memcpy(f.bytes + 6, mac, 6);
    frame_bytes(&f, head, sizeof(head));
    frame_bytes(&f, (uint8_t[]){0, (uint8_t)operation}, 2);
    frame_bytes(&f, mac, 6);
    frame_bytes(&f, addresses.bytes + 26, 4);
    frame_bytes(&f, "\0\0\0\0\0\0", 6);
    frame_bytes(&f, addresses.bytes + 30, 4);
}

static void icmp(uint8_t type, uint16_t id, uint32_t bytes)
{
    uint32_t at = f.n;

    frame_bytes(&f, (uint8_t[]){type, 0, 0, 0, (uint8_t)(id >> 8), (uint8_t)id, 0, 1}, 8);
    frame_pattern(&f, bytes);
    store_be16(f.bytes + at + 2, (uint16_t)~dt_checksum(f.bytes + at, f.n - at, 0));
}

enum kind { IS_TCP, IS_UDP, IS_ECHO, KINDS };

/* From @from and @sport to @to and @dport; an echo's identifier is the port of the guest's end. */
static void packet(enum kind kind, const char *from, uint16_t sport, const char *to, uint16_t dport,
                   uint8_t flags, uint32_t bytes)
{
    static const uint8_t protocol[] = {6, 17, 1};
    bool out = strncmp(from, "10.", 3) == 0;

    frame_ether(&f, 0x0800);
    frame_ipv4(&f, protocol[kind], from, to);
    if (kind == IS_TCP)
        frame_tcp(&f, sport, dport, 1000, flags);
    else if (kind == IS_UDP)
        frame_udp(&f, sport, dport);
    if (kind == IS_ECHO)
        icmp(out ? 8 : 0, out ? sport : dport, bytes);
    else
        frame_pattern(&f, bytes);
    frame_end(&f);
    if (out)
        to_gateway(guest_mac);
    else
        to_outer();
}

static void send(void)
{
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void arrive(void)
{
    rig_arrive(f.bytes, f.n, NULL);
}

static const uint8_t *wire(unsigned i)
{
    assert_true(i < rig.wire.n);
    return rig.wire.frames[i].data;
}

static const uint8_t *guest(unsigned i)
{
    assert_true(i < rig.guest.n);
    return rig.guest.frames[i].data;
}

static void assert_address(const uint8_t *p, const char *address)
{
    char text[32];

    snprintf(text, sizeof(text), "%u.%u.%u.%u", p[0], p[1], p[2], p[3]);
    assert_string_equal(text, address);
}

static void assert_sums(const struct rig_frame *frame)
{
    const uint8_t *ip = frame->data + 14;

    assert_true(frame_sums_right(frame->data, frame->length));
    if (ip[9] == 1 && !(load_be16(ip + 6) & 0x3fff))
        assert_int_equal(dt_checksum(ip + 20, frame->length - 34, 0), 0xffff);
}

/* The IPv4 packet that came last; whoever was not heard of for a minute is asked for before it. NULL = none. */
static const struct rig_frame *last(const struct rig_list *list)
{
    const struct rig_frame *frame = list->n ? &list->frames[list->n - 1] : NULL;

    return frame && load_be16(frame->data + 12) == 0x0800 ? frame : NULL;
}

/* The guest's packet of @kind goes out; returns the port that the wire sees. */
static uint16_t out(enum kind kind, const char *from, uint16_t port, const char *to, uint8_t flags)
{
    const struct rig_frame *frame;
    const uint8_t *p;
    uint16_t seen;

    packet(kind, from, port, to, 80, flags, 20);
    rig_clear();
    send();
    frame = last(&rig.wire);
    if (!frame)
        return 0;
    p = frame->data;
    assert_sums(frame);
    assert_address(p + 26, OUTER);
    assert_address(p + 30, to);
    seen = load_be16(p + (kind == IS_ECHO ? 38 : 34));
    rig_clear();
    return seen;
}

/* True if an answer to @port reaches the guest. */
static bool in(enum kind kind, uint16_t port, uint8_t flags)
{
    const struct rig_frame *frame;
    bool came;

    packet(kind, PEER, 80, OUTER, port, flags, 20);
    rig_clear();
    arrive();
    frame = last(&rig.guest);
    came = frame != NULL;
    if (came)
        assert_sums(frame);
    rig_clear();
    return came;
}

static void begin(const char *chain)
{
    test_clock = (test_clock / DT_S(1) + 100000) * DT_S(1);
    rig_start(chain);
    rig_turn();
    rig_clear();
    arp(2, router_mac, "192.0.2.1", OUTER);
    arrive();
    arp(1, guest_mac, GUEST, "10.0.2.1");
    send();
    arp(1, other_mac, OTHER, "10.0.2.1");
    send();
    rig_clear();
}

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
    send();
    assert_int_equal(counter("unresolved"), 1);
    assert_int_equal(counter("created"), 0);
    assert_int_equal(rig.wire.n, 1); /* it is asked for again, once in a second */
    send();
    assert_int_equal(rig.wire.n, 1);

    arp(1, guest_mac, GUEST, "10.0.2.1");
    send();
    assert_int_equal(rig.guest.n, 1);
    assert_memory_equal(guest(0), guest_mac, 6);
    assert_memory_equal(guest(0) + 22, gateway_mac, 6);
    assert_int_equal(guest(0)[21], 2);
    arp(1, guest_mac, GUEST, "10.0.2.77"); /* that is not us */
    send();
    assert_int_equal(rig.guest.n, 1);
    rig_clear();
    arp(1, router_mac, "192.0.2.1", OUTER);
    arrive();
    assert_int_equal(rig.wire.n, 1);
    assert_memory_equal(wire(0), router_mac, 6);
    assert_memory_equal(wire(0) + 22, outer_mac, 6);
    assert_int_equal(rig.guest.n, 0); /* the guest hears nothing of it */
    arp(2, other_mac, OUTER, "192.0.2.1");
    arrive();
    assert_int_equal(counter("conflicts"), 1);
    arp(2, other_mac, "192.0.2.44", "192.0.2.45"); /* nobody asked */
    arrive();
    assert_true(out(IS_UDP, GUEST, 1000, PEER, 0) >= 1024);
    packet(IS_UDP, GUEST, 1000, "192.0.2.44", 53, 0,
           10); /* beside us: asked for, not sent to the router */
    send();
    assert_int_equal(rig.wire.n, 1);
    assert_address(wire(0) + 38, "192.0.2.44");
    arp(2, other_mac, "192.0.2.44", OUTER);
    arrive();
    rig_clear();
    packet(IS_UDP, GUEST, 1000, "192.0.2.44", 53, 0, 10);
    send();
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
    send();
    assert_int_equal(load_be16(wire(0) + 40), 0);
    packet(IS_TCP, GUEST, 4000, PEER, 80, 2, 50);
    f.bytes[60] ^= 1;
    send();
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
    send();
    assert_int_equal(counter("foreign"), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t before = counter(cases[i].counter);

        packet(IS_UDP, cases[i].from, 4000, cases[i].to, 80, 0, 20);
        to_gateway(guest_mac);
        send();
        assert_int_equal(counter(cases[i].counter), before + 1);
    }
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[22] = 1;
    send();
    assert_int_equal(counter("ttl"), 1);
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[23] = 47;
    send();
    packet(IS_ECHO, GUEST, 4000, PEER, 80, 0, 20);
    f.bytes[34] = 13; /* timestamps are nobody's */
    send();
    assert_int_equal(counter("unknown"), 2);
    packet(IS_UDP, PEER, 80, "192.0.2.11", 4000, 0, 20);
    arrive();
    packet(IS_UDP, "10.0.2.99", 80, OUTER, 4000, 0, 20);
    to_outer();
    arrive();
    packet(IS_UDP, PEER, 80, OUTER, 4000, 0, 20);
    arrive();
    assert_int_equal(counter("unsolicited"), 1);
    assert_int_equal(rig.wire.n + rig.guest.n, 0);
    assert_int_equal(counter("created"), 0);
    packet(IS_ECHO, GUEST, 7, "10.0.2.1", 0, 0, 33); /* the gateway is there */
    send();
    assert_int_equal(rig.guest.n, 1);
    assert_sums(&rig.guest.frames[0]);
    assert_address(guest(0) + 26, "10.0.2.1");
    assert_int_equal(guest(0)[34], 0);
    rig_stop();
}

static void test_ipv6(void **state)
{
    begin(CARD " | wire");
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, "2001:db8::1", "2001:db8::2");
    frame_udp(&f, 1, 2);
    frame_end(&f);
    send();
    assert_int_equal(counter("ipv6"), 1);
    rig_stop();
    begin(CARD " ipv6=pass | wire");
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, "2001:db8::1", "2001:db8::2");
    frame_udp(&f, 1, 2);
    frame_end(&f);
    send();
    arrive();
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(rig.guest.n, 1);
    assert_memory_equal(wire(0), f.bytes, f.n);
    rig_stop();
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
    send();
    assert_int_equal(counter("fragments-early"), 1);
    for (unsigned i = 0; i < 2; i++) {
        fragment(true, i, 7);
        send();
    }
    assert_int_equal(rig.wire.n, 2);
    assert_datagram(&rig.wire.frames[0], &rig.wire.frames[1]);
    assert_address(wire(1) + 26, OUTER);
    first_id = load_be16(wire(0) + 18);
    for (unsigned i = 0; i < 2; i++) {
        fragment(false, i, 7);
        arrive();
    }
    assert_int_equal(rig.guest.n, 2);
    assert_datagram(&rig.guest.frames[0], &rig.guest.frames[1]);
    assert_address(guest(1) + 30, GUEST);
    assert_int_equal(load_be16(guest(0) + 18), 7);
    rig_clear();
    fragment(true, 0, 8); /* another datagram is another one outside */
    send();
    assert_int_not_equal(load_be16(wire(0) + 18), first_id);
    pass_time(60);
    fragment(true, 1, 8);
    send();
    assert_int_equal(counter("fragments-early"), 2);
    for (unsigned i = 0; i < 2 * FRAGMENTS; i++) { /* bounded, and counted */
        fragment(true, 0, (uint16_t)(1000 + i));
        send();
    }
    assert_int_equal(counter("fragments-forgotten"), FRAGMENTS);
    rig_stop();
}

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
    arrive();
    assert_memory_equal(wire(0) + 6, guest_mac, 6);
    assert_memory_equal(wire(0) + 22, group, 6);
    rig_clear();
    packet(IS_UDP, GUEST, 4000, PEER, 80, 0, 20);
    send();
    assert_memory_equal(wire(0) + 6, guest_mac, 6);
    packet(IS_UDP, PEER, 80, OUTER, 4000, 0, 20);
    memcpy(f.bytes, group, 6);
    arrive();
    assert_int_equal(rig.guest.n, 1);
    arp(2, group, OUTER, "192.0.2.1"); /* another card of the same address */
    arrive();
    assert_int_equal(counter("conflicts"), 0);
    rig_stop();
}

static void test_hairpin(void **state)
{
    const uint8_t *p;

    begin(CARD " forward=tcp:8080:10.0.2.16:80 | wire");
    packet(IS_TCP, GUEST, 4000, OUTER, 8080, 2, 20);
    send();
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
    send();
    p = guest(1);
    assert_sums(&rig.guest.frames[1]);
    assert_memory_equal(p, guest_mac, 6);
    assert_int_equal(load_be16(p + 34), 8080);
    assert_int_equal(load_be16(p + 36), 4000);
    packet(IS_TCP, GUEST, 4000, OUTER, 9999, 2, 20);
    send();
    assert_int_equal(counter("unsolicited"), 1);
    assert_int_equal(counter("hairpin"), 3);
    assert_int_equal(rig.sent, 2 + 3); /* each descriptor came back */
    rig_stop();
}

static void test_forwards(void **state)
{
    begin(CARD " guest=10.0.2.15 forward=tcp:8080:80,udp:500-502:10.0.2.16:4500 | wire");
    assert_true(in(IS_TCP, 8080, 2));
    assert_false(in(IS_TCP, 8081, 2));
    packet(IS_UDP, PEER, 80, OUTER, 502, 0, 20);
    arrive();
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
            send();
            memcpy(f.bytes, wire(0), rig.wire.frames[0].length);
            rig_clear();
            error_about("203.0.113.1", OUTER, bytes);
            to_outer();
            arrive();
            assert_int_equal(rig.guest.n, 1);
            assert_sums(&rig.guest.frames[0]);
            assert_address(guest(0) + 30, GUEST);
            assert_address(guest(0) + 42 + 12, GUEST);
            assert_address(guest(0) + 42 + 16, PEER);
            assert_int_equal(load_be16(guest(0) + 42 + 20 + (kind == IS_ECHO ? 4 : 0)), 4000);
            if (whole)
                assert_quoted(&rig.guest.frames[0], rig.guest.frames[0].length - 42);
            f.bytes[f.n - 1] ^= 1; /* RFC 5508, 4.1: one that is damaged */
            arrive();
            assert_int_equal(rig.guest.n, 1);
            rig_clear();
        }
    /* From the guest, about what came to it. */
    port = out(IS_UDP, GUEST, 4000, PEER, 0);
    packet(IS_UDP, PEER, 80, OUTER, port, 0, 20);
    arrive();
    memcpy(f.bytes, guest(0), rig.guest.frames[0].length);
    rig_clear();
    error_about(GUEST, PEER, 1000);
    to_gateway(guest_mac);
    send();
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
    send();
    assert_int_equal(rig.wire.n, 0);
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
        cmocka_unit_test(test_arp),        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_sums_kept),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ipv6),       cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_ports),      cmocka_unit_test(test_shared),
        cmocka_unit_test(test_hairpin),    cmocka_unit_test(test_forwards),
        cmocka_unit_test(test_errors),     cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_scans),      cmocka_unit_test(test_exhausted),
        cmocka_unit_test(test_state),      cmocka_unit_test(test_same_port),
        cmocka_unit_test(test_bad_params), cmocka_unit_test(test_verbs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
