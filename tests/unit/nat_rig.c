/* SPDX-License-Identifier: MIT */
/* nat_rig.c - see nat_rig.h. */
#include "tests/unit/nat_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0, 0, 1};
const uint8_t other_mac[6] = {0x52, 0x54, 0, 0, 0, 9};
const uint8_t gateway_mac[6] = {2, 'i', 10, 0, 2, 1};
const uint8_t router_mac[6] = {0x52, 0x54, 0, 0, 0, 7};
const uint8_t outer_mac[6] = {2, 'o', 192, 0, 2, 10};
struct frame f;

void pass_time(uint64_t seconds)
{
    test_clock += DT_S(seconds);
    rig_turn();
}

uint64_t counter(const char *name)
{
    return rig_counter("nat", name);
}

/* ---- Frames ---- */

void to_gateway(const uint8_t from[6])
{
    memcpy(f.bytes, gateway_mac, 6);
    memcpy(f.bytes + 6, from, 6);
}

void to_outer(void)
{
    memcpy(f.bytes, outer_mac, 6);
    memcpy(f.bytes + 6, router_mac, 6);
}

void arp(uint16_t operation, const uint8_t mac[6], const char *sender, const char *target)
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

void packet(enum kind kind, const char *from, uint16_t sport, const char *to, uint16_t dport,
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

void from_guest(void)
{
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

void from_wire(void)
{
    rig_arrive(f.bytes, f.n, NULL);
}

const uint8_t *wire(unsigned i)
{
    assert_true(i < rig.wire.n);
    return rig.wire.frames[i].data;
}

const uint8_t *guest(unsigned i)
{
    assert_true(i < rig.guest.n);
    return rig.guest.frames[i].data;
}

void assert_address(const uint8_t *p, const char *address)
{
    char text[32];

    snprintf(text, sizeof(text), "%u.%u.%u.%u", p[0], p[1], p[2], p[3]);
    assert_string_equal(text, address);
}

void assert_sums(const struct rig_frame *frame)
{
    const uint8_t *ip = frame->data + 14;

    assert_true(frame_sums_right(frame->data, frame->length));
    if (ip[9] == 1 && !(load_be16(ip + 6) & 0x3fff))
        assert_int_equal(dt_checksum(ip + 20, frame->length - 34, 0), 0xffff);
}

const struct rig_frame *last(const struct rig_list *list)
{
    const struct rig_frame *frame = list->n ? &list->frames[list->n - 1] : NULL;

    return frame && load_be16(frame->data + 12) == 0x0800 ? frame : NULL;
}

uint16_t out(enum kind kind, const char *from, uint16_t port, const char *to, uint8_t flags)
{
    const struct rig_frame *frame;
    const uint8_t *p;
    uint16_t seen;

    packet(kind, from, port, to, 80, flags, 20);
    rig_clear();
    from_guest();
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

bool in(enum kind kind, uint16_t port, uint8_t flags)
{
    const struct rig_frame *frame;
    bool came;

    packet(kind, PEER, 80, OUTER, port, flags, 20);
    rig_clear();
    from_wire();
    frame = last(&rig.guest);
    came = frame != NULL;
    if (came)
        assert_sums(frame);
    rig_clear();
    return came;
}

void begin(const char *chain)
{
    test_clock = (test_clock / DT_S(1) + 100000) * DT_S(1);
    rig_start(chain);
    rig_turn();
    rig_clear();
    arp(2, router_mac, "192.0.2.1", OUTER);
    from_wire();
    arp(1, guest_mac, GUEST, "10.0.2.1");
    from_guest();
    arp(1, other_mac, OTHER, "10.0.2.1");
    from_guest();
    rig_clear();
}
