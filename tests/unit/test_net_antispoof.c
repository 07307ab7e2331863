/* SPDX-License-Identifier: MIT */
/* test_net_antispoof.c - every known trick, one row each, beside what is honest; and what is written wrong. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* The builder's frames come from 52:54:00:00:00:01, whose link-local address is fe80::5054:ff:fe00:1. */
#define CHAIN  "antispoof mac=52:54:00:00:00:01 ip4=192.0.2.7,10.1.0.0/16 ip6=2001:db8::7 | wire"
#define OWN_LL "fe80::5054:ff:fe00:1"

static struct frame f;
static const uint8_t own_mac[] = {0x52, 0x54, 0, 0, 0, 1}, other_mac[] = {0x52, 0x54, 0, 0, 0, 9};

/* ---- What the rows are made of ---- */

static void arp(uint16_t operation, const uint8_t *mac, uint32_t address)
{
    uint8_t a[28] = {0, 1, 8, 0, 6, 4, 0, (uint8_t)operation};

    memcpy(a + 8, mac, 6);
    store_be32(a + 14, address);
    frame_ether(&f, 0x0806);
    frame_bytes(&f, a, sizeof(a));
}

static void udp4(const char *from, const char *to, uint16_t sport, uint16_t dport)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, from, to);
    frame_udp(&f, sport, dport);
    frame_pattern(&f, 30);
    frame_end(&f);
}

/* A client's message: @type, and @option of its length, or NULL. */
static void dhcp4(const char *from, const char *to, const uint8_t *chaddr, uint8_t type,
                  const uint8_t *option)
{
    uint8_t m[300] = {1, 1, 6};
    uint8_t options[] = {0x63, 0x82, 0x53, 0x63, 53, 1, type};

    memcpy(m + 28, chaddr, 6);
    memcpy(m + 236, options, sizeof(options));
    if (option)
        memcpy(m + 236 + sizeof(options), option, option[1] + 2u);
    m[236 + sizeof(options) + (option ? option[1] + 2u : 0)] = 255;
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, from, to);
    frame_udp(&f, 68, 67);
    frame_bytes(&f, m, sizeof(m));
    frame_end(&f);
}

#define DHCP_AT (14 + 20 + 8) /* of the message */

static void tcp4(const char *from)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, from, "198.51.100.1");
    frame_tcp(&f, 1000, 80, 1, 2);
    frame_end(&f);
}

static void options4(const uint8_t option[4])
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.7", "198.51.100.1");
    f.bytes[14] = 0x46;
    frame_bytes(&f, option, 4);
    frame_udp(&f, 1, 2);
    frame_end(&f);
}

static void udp6(const char *from, uint16_t sport, uint16_t dport)
{
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, from, "2001:db8::1");
    frame_udp(&f, sport, dport);
    frame_end(&f);
}

static void dhcp6(uint8_t type)
{
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, OWN_LL, "ff02::1:2");
    frame_udp(&f, 546, 547);
    frame_bytes(&f, (uint8_t[]){type, 1, 2, 3}, 4);
    frame_end(&f);
}

/* @extensions: bytes of extension headers before it; the first is of type @next. */
static void icmp6_behind(uint8_t next, const uint8_t *extensions, uint32_t n, const char *from,
                         uint8_t type, const char *target, uint8_t option, const uint8_t *mac)
{
    uint8_t body[32] = {type};
    uint32_t length = 8;

    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, next, from, "ff02::1");
    f.bytes[14 + 7] = 255;
    frame_bytes(&f, extensions, n);
    if (target) {
        struct frame t = {.n = 0};

        frame_ipv6(&t, 0, target, "::");
        memcpy(body + 8, t.bytes + 8, 16);
        length = 24;
    }
    frame_bytes(&f, body, length);
    if (option) {
        uint8_t o[8] = {option, 1};

        memcpy(o + 2, mac, 6);
        frame_bytes(&f, o, sizeof(o));
    }
    frame_end(&f);
}

static void icmp6(const char *from, uint8_t type, const char *target, uint8_t option,
                  const uint8_t *mac)
{
    icmp6_behind(58, NULL, 0, from, type, target, option, mac);
}

/* ---- The rows ---- */

#define MAKE(n) static void make_##n(void)

MAKE(tcp)
{
    tcp4("192.0.2.7");
}
MAKE(prefix)
{
    tcp4("10.1.200.3");
}
MAKE(dhcp)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 1, (uint8_t[]){61, 7, 1, 0x52, 0x54, 0, 0, 0, 1});
}
MAKE(dhcp_of_a_drawn_number)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 3, (uint8_t[]){61, 8, 255, 1, 2, 3, 4, 0, 2, 9});
}
MAKE(dhcp_renewal)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 3, NULL);
    memcpy(f.bytes + DHCP_AT + 12, (uint8_t[]){192, 0, 2, 7}, 4);
    frame_end(&f);
}
MAKE(dhcp6_solicit)
{
    dhcp6(1);
}
MAKE(arp_request)
{
    arp(1, own_mac, 0xc0000207);
}
MAKE(arp_reply)
{
    arp(2, own_mac, 0xc0000207);
}
MAKE(arp_probe)
{
    arp(1, own_mac, 0);
}
MAKE(udp6_own)
{
    udp6("2001:db8::7", 1000, 2000);
}
MAKE(link_local)
{
    udp6(OWN_LL, 1000, 2000);
}
MAKE(solicit)
{
    icmp6(OWN_LL, 135, "2001:db8::1", 1, own_mac);
}
MAKE(advertise)
{
    icmp6(OWN_LL, 136, "2001:db8::7", 2, own_mac);
}
MAKE(dad)
{
    icmp6("::", 135, "2001:db8::7", 0, NULL);
}
MAKE(router_solicit)
{
    icmp6(OWN_LL, 133, NULL, 1, own_mac);
}
MAKE(mld)
{
    icmp6_behind(0, (uint8_t[]){58, 0, 5, 2, 0, 0, 1, 0}, 8, "::", 143, NULL, 0, NULL);
}
MAKE(rarp)
{
    arp(3, own_mac, 0);
    store_be16(f.bytes + 12, 0x8035);
    memcpy(f.bytes + 14 + 18, own_mac, 6);
}
MAKE(router_alert_option)
{
    options4((uint8_t[]){148, 4, 0, 0});
}
MAKE(fragment4)
{
    udp4("192.0.2.7", "198.51.100.1", 1, 2);
    store_be16(f.bytes + 20, 100); /* a later one */
    frame_end(&f);
}

MAKE(other_source_mac)
{
    tcp4("192.0.2.7");
    memcpy(f.bytes + 6, other_mac, 6);
}
MAKE(vlan)
{
    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x8100, 5, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.7", "198.51.100.1");
    frame_tcp(&f, 1, 2, 3, 2);
    frame_end(&f);
}
MAKE(qinq)
{
    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x88a8, 1, 0x8100);
    frame_vlan(&f, 0x8100, 5, 0x0800);
    frame_pattern(&f, 40);
}
MAKE(priority_tag)
{
    frame_ether(&f, 0x0806);
    frame_vlan(&f, 0x8100, 0, 0x0806);
    frame_pattern(&f, 40);
}
MAKE(snap)
{
    frame_ether(&f, 48);
    frame_bytes(&f, (uint8_t[]){0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, 8);
    frame_pattern(&f, 40);
}
MAKE(bpdu)
{
    frame_ether(&f, 38);
    memcpy(f.bytes, (uint8_t[]){1, 0x80, 0xc2, 0, 0, 0}, 6);
    frame_bytes(&f, (uint8_t[]){0x42, 0x42, 3}, 3);
    frame_pattern(&f, 40);
}
MAKE(lldp)
{
    frame_ether(&f, 0x88cc);
    frame_pattern(&f, 40);
}
MAKE(pause_frame)
{
    frame_ether(&f, 0x8808);
    memcpy(f.bytes, (uint8_t[]){1, 0x80, 0xc2, 0, 0, 1}, 6);
    frame_pattern(&f, 46);
}
MAKE(pppoe)
{
    frame_ether(&f, 0x8864);
    frame_pattern(&f, 46);
}
MAKE(arp_for_other)
{
    arp(2, own_mac, 0xc0000201);
}
MAKE(arp_request_as_other)
{
    arp(1, own_mac, 0xc0000201);
}
MAKE(arp_other_hardware)
{
    arp(2, other_mac, 0xc0000207);
}
MAKE(arp_reply_from_nobody)
{
    arp(2, own_mac, 0);
}
MAKE(arp_cut)
{
    arp(1, own_mac, 0xc0000207);
    f.n -= 10;
}
MAKE(arp_inverse)
{
    arp(8, own_mac, 0xc0000207);
}
MAKE(rarp_other)
{
    arp(3, own_mac, 0);
    store_be16(f.bytes + 12, 0x8035);
    memcpy(f.bytes + 14 + 18, other_mac, 6);
}
MAKE(source4)
{
    tcp4("192.0.2.8");
}
MAKE(source4_outside_prefix)
{
    tcp4("10.2.0.1");
}
MAKE(nobody4)
{
    tcp4("0.0.0.0");
}
MAKE(dhcp_elsewhere)
{
    dhcp4("0.0.0.0", "198.51.100.1", own_mac, 1, NULL);
}
MAKE(dhcp_in_fragments)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 1, NULL);
    store_be16(f.bytes + 20, 0x2000);
    frame_end(&f);
}
MAKE(dhcp_server)
{
    udp4("192.0.2.7", "255.255.255.255", 67, 68);
}
MAKE(dhcp_server_from_elsewhere)
{
    udp4("192.0.2.7", "255.255.255.255", 1000, 68);
}
MAKE(dhcp6_server_from_elsewhere)
{
    udp6(OWN_LL, 1000, 546);
}
MAKE(dhcp_of_other)
{
    dhcp4("0.0.0.0", "255.255.255.255", other_mac, 1, NULL);
}
MAKE(dhcp_id_of_other)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 1, (uint8_t[]){61, 7, 1, 0x52, 0x54, 0, 0, 0, 9});
}
MAKE(dhcp_id_in_parts)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 1, (uint8_t[]){61, 4, 1, 0x52, 0x54, 0});
    memcpy(f.bytes + DHCP_AT + 236 + 7 + 6, (uint8_t[]){61, 3, 0, 0, 9, 255}, 6);
    frame_end(&f);
}
MAKE(dhcp_overloaded)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 1, (uint8_t[]){52, 1, 1});
}
MAKE(dhcp_offer_as_client)
{
    dhcp4("0.0.0.0", "255.255.255.255", own_mac, 2, NULL);
}
MAKE(dhcp_reply_as_client)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 1, NULL);
    f.bytes[DHCP_AT] = 2;
    frame_end(&f);
}
MAKE(dhcp_release_of_other)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 7, NULL);
    memcpy(f.bytes + DHCP_AT + 12, (uint8_t[]){192, 0, 2, 8}, 4);
    frame_end(&f);
}
MAKE(dhcp_relay)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 1, NULL);
    memcpy(f.bytes + DHCP_AT + 24, (uint8_t[]){192, 0, 2, 7}, 4);
    frame_end(&f);
}
MAKE(dhcp_relay_information)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 1, (uint8_t[]){82, 3, 1, 1, 5});
}
MAKE(dhcp_first_fragment)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 1, NULL);
    store_be16(f.bytes + 20, 0x2000);
    frame_end(&f);
}
MAKE(dhcp_cut)
{
    udp4("192.0.2.7", "192.0.2.1", 68, 67);
}
MAKE(dhcp_option_too_long)
{
    dhcp4("192.0.2.7", "192.0.2.1", own_mac, 1, (uint8_t[]){12, 1, 'a'});
    f.bytes[DHCP_AT + 236 + 7 + 1] = 200;
    frame_end(&f);
}
MAKE(dhcp6_relay)
{
    dhcp6(12);
}
MAKE(dhcp6_reply_to_server)
{
    dhcp6(7);
}
MAKE(source_route)
{
    options4((uint8_t[]){131, 3, 4, 0});
}
MAKE(strict_route_behind_nop)
{
    options4((uint8_t[]){1, 137, 3, 4});
}
MAKE(option_without_end)
{
    options4((uint8_t[]){1, 1, 1, 68});
}
MAKE(later_fragment4_of_other)
{
    udp4("192.0.2.8", "198.51.100.1", 1, 2);
    store_be16(f.bytes + 20, 100);
    frame_end(&f);
}
MAKE(tiny_fragment)
{
    tcp4("192.0.2.7");
    f.n = 14 + 20 + 8;
    store_be16(f.bytes + 20, 0x2000);
    frame_end(&f);
}
MAKE(length_lies)
{
    tcp4("192.0.2.7");
    store_be16(f.bytes + 16, 4000);
}
MAKE(source6)
{
    udp6("2001:db8::8", 1000, 2000);
}
MAKE(link_local_of_other)
{
    udp6("fe80::5054:ff:fe00:9", 1000, 2000);
}
MAKE(nobody6)
{
    udp6("::", 1000, 2000);
}
MAKE(dhcp6_server)
{
    udp6(OWN_LL, 547, 546);
}
/* Of ICMP or IGMP. */
static void message4(uint8_t protocol, uint8_t type)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, protocol, "192.0.2.7", "224.0.0.1");
    frame_bytes(&f, (uint8_t[]){type, 0, 0, 0, 1, 2, 0, 30}, 8);
    frame_end(&f);
}
MAKE(ping4)
{
    message4(1, 8);
}
MAKE(igmp_report)
{
    message4(2, 0x16);
}
MAKE(igmp3_report)
{
    message4(2, 0x22);
}
MAKE(igmp_later_fragment)
{
    message4(2, 0x11);
    store_be16(f.bytes + 20, 100);
    frame_end(&f);
}
MAKE(redirect4)
{
    message4(1, 5);
}
MAKE(router_advertisement4)
{
    message4(1, 9);
}
MAKE(router_advertisement4_first_fragment)
{
    message4(1, 9);
    store_be16(f.bytes + 20, 0x2000);
    frame_end(&f);
}
MAKE(igmp_query)
{
    message4(2, 0x11);
}
MAKE(igmp_router_discovery)
{
    message4(2, 0x30);
}
MAKE(igmp_empty)
{
    message4(2, 0x16);
    f.n = 14 + 20;
    frame_end(&f);
}
MAKE(router_advertisement)
{
    icmp6(OWN_LL, 134, NULL, 1, own_mac);
}
MAKE(redirect)
{
    icmp6(OWN_LL, 137, "2001:db8::1", 2, own_mac);
}
MAKE(mld_query)
{
    icmp6(OWN_LL, 130, NULL, 0, NULL);
}
MAKE(advertise_other)
{
    icmp6(OWN_LL, 136, "2001:db8::1", 2, own_mac);
}
MAKE(advertise_other_mac)
{
    icmp6(OWN_LL, 136, "2001:db8::7", 2, other_mac);
}
MAKE(solicit_other_mac)
{
    icmp6(OWN_LL, 135, "2001:db8::1", 1, other_mac);
}
MAKE(dad_with_mac)
{
    icmp6("::", 135, "2001:db8::7", 1, own_mac);
}
MAKE(hop_limit)
{
    icmp6(OWN_LL, 136, "2001:db8::7", 2, own_mac);
    f.bytes[14 + 7] = 64;
}
MAKE(ra_behind_options)
{
    icmp6_behind(60, (uint8_t[]){58, 0, 1, 4, 0, 0, 0, 0}, 8, OWN_LL, 134, NULL, 0, NULL);
}
MAKE(ra_in_atomic_fragment)
{
    icmp6_behind(44, (uint8_t[]){58, 0, 0, 0, 0, 0, 0, 1}, 8, OWN_LL, 134, NULL, 0, NULL);
}
MAKE(ra_in_later_fragment)
{
    icmp6_behind(44, (uint8_t[]){58, 0, 0, 9, 0, 0, 0, 1}, 8, OWN_LL, 134, NULL, 0, NULL);
}
MAKE(ra_behind_cut_options)
{
    icmp6_behind(44, (uint8_t[]){60, 0, 0, 1, 0, 0, 0, 1, 58, 9, 0, 0, 0, 0, 0, 0}, 16, OWN_LL, 134,
                 NULL, 0, NULL);
}
MAKE(routing_header)
{
    icmp6_behind(43, (uint8_t[]){58, 2, 0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8,
                                 0,  0, 0, 0, 0, 0, 0, 0, 0,    0, 0,   1},
                 24, OWN_LL, 128, NULL, 0, NULL);
}
MAKE(endless_options)
{
    uint8_t chain[20 * 8] = {0};

    for (unsigned i = 0; i < 19; i++)
        chain[i * 8] = 60;
    chain[19 * 8] = 58;
    icmp6_behind(60, chain, sizeof(chain), OWN_LL, 134, NULL, 0, NULL);
}
MAKE(option_of_no_length)
{
    icmp6(OWN_LL, 135, "2001:db8::1", 1, own_mac);
    f.bytes[f.n - 7] = 0;
}

#define OK(n)              \
    {                      \
#n, NULL, make_##n \
    }
#define BAD(n, why)       \
    {                     \
#n, why, make_##n \
    }
static const struct row {
    const char *name, *counter;
    void (*make)(void);
} rows[] = {
    OK(tcp),
    OK(prefix),
    OK(dhcp),
    OK(dhcp_of_a_drawn_number),
    OK(dhcp_renewal),
    OK(dhcp6_solicit),
    OK(arp_request),
    OK(arp_reply),
    OK(arp_probe),
    OK(udp6_own),
    OK(link_local),
    OK(solicit),
    OK(advertise),
    OK(dad),
    OK(router_solicit),
    OK(ping4),
    OK(igmp_report),
    OK(igmp3_report),
    OK(igmp_later_fragment),
    OK(mld),
    OK(rarp),
    OK(router_alert_option),
    OK(fragment4),
    BAD(other_source_mac, "mac"),
    BAD(vlan, "vlan"),
    BAD(qinq, "vlan"),
    BAD(priority_tag, "vlan"),
    BAD(snap, "type"),
    BAD(bpdu, "type"),
    BAD(lldp, "type"),
    BAD(pause_frame, "type"),
    BAD(pppoe, "type"),
    BAD(arp_for_other, "arp"),
    BAD(arp_request_as_other, "arp"),
    BAD(arp_other_hardware, "arp"),
    BAD(arp_reply_from_nobody, "arp"),
    BAD(arp_cut, "malformed"),
    BAD(arp_inverse, "arp"),
    BAD(rarp_other, "arp"),
    BAD(source4, "ip"),
    BAD(source4_outside_prefix, "ip"),
    BAD(nobody4, "ip"),
    BAD(dhcp_elsewhere, "ip"),
    BAD(dhcp_in_fragments, "ip"),
    BAD(dhcp_server, "dhcp-server"),
    BAD(dhcp_server_from_elsewhere, "dhcp-server"),
    BAD(dhcp6_server_from_elsewhere, "dhcp-server"),
    BAD(dhcp_of_other, "dhcp"),
    BAD(dhcp_id_of_other, "dhcp"),
    BAD(dhcp_id_in_parts, "dhcp"),
    BAD(dhcp_overloaded, "dhcp"),
    BAD(dhcp_offer_as_client, "dhcp"),
    BAD(dhcp_reply_as_client, "dhcp"),
    BAD(dhcp_release_of_other, "dhcp"),
    BAD(dhcp_relay, "dhcp"),
    BAD(dhcp_relay_information, "dhcp"),
    BAD(dhcp_first_fragment, "dhcp"),
    BAD(dhcp_cut, "dhcp"),
    BAD(dhcp_option_too_long, "dhcp"),
    BAD(dhcp6_relay, "dhcp"),
    BAD(dhcp6_reply_to_server, "dhcp"),
    BAD(source_route, "options"),
    BAD(strict_route_behind_nop, "options"),
    BAD(option_without_end, "options"),
    BAD(later_fragment4_of_other, "ip"),
    BAD(tiny_fragment, "malformed"),
    BAD(length_lies, "malformed"),
    BAD(source6, "ip"),
    BAD(link_local_of_other, "ip"),
    BAD(nobody6, "ip"),
    BAD(dhcp6_server, "dhcp-server"),
    BAD(redirect4, "router"),
    BAD(router_advertisement4, "router"),
    BAD(router_advertisement4_first_fragment, "router"),
    BAD(igmp_query, "router"),
    BAD(igmp_router_discovery, "router"),
    BAD(igmp_empty, "router"),
    BAD(router_advertisement, "router"),
    BAD(redirect, "router"),
    BAD(mld_query, "router"),
    BAD(advertise_other, "neighbour"),
    BAD(advertise_other_mac, "neighbour"),
    BAD(solicit_other_mac, "neighbour"),
    BAD(dad_with_mac, "neighbour"),
    BAD(hop_limit, "neighbour"),
    BAD(ra_behind_options, "router"),
    BAD(ra_in_atomic_fragment, "fragment"),
    BAD(ra_in_later_fragment, "fragment"),
    BAD(ra_behind_cut_options, "malformed"),
    BAD(routing_header, "options"),
    BAD(endless_options, "malformed"),
    BAD(option_of_no_length, "neighbour"),
};

static void test_tricks(void **state)
{
    rig_start(CHAIN);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *r = &rows[i];
        uint64_t before = r->counter ? rig_counter("antispoof", r->counter) : 0;

        r->make();
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        if (rig.wire.n != !r->counter)
            fail_msg("%s %s", r->name, rig.wire.n ? "passed" : "was dropped");
        if (r->counter && rig_counter("antispoof", r->counter) != before + 1)
            fail_msg("%s was not counted as %s", r->name, r->counter);
        rig_clear();
    }
    rig_stop();
}

/* Offloads hide nothing: each kind, honest and not. */
static void test_offloads(void **state)
{
    rig_start(CHAIN);
    for (unsigned i = 0; i < 8; i++) {
        bool lies = i & 4;
        unsigned kind = (i & (FRAME_V6 | FRAME_TCP)) | FRAME_SUPER;
        struct dt_vnet_header v = frame_kind(&f, kind, 2);

        f.bytes[kind & FRAME_V6 ? 37 : 29] += lies; /* the last byte of its address */
        frame_pattern(&f, 5000);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        v.gso_type = 0;
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.n, lies ? 0 : 2);
        rig_clear();
    }
    rig_stop();
}

/* ---- With the card's own addresses written ---- */

#define STAMP "antispoof stamp=on mac=52:54:00:00:00:01 ip4=192.0.2.7 ip6=2001:db8::7 | "

/* Whatever is left to do on them, and by whom: the sums that a receiver sees are right. */
static void test_stamp(void **state)
{
    static const uint8_t own4[] = {192, 0, 2, 7},
                         own6[] = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7};

    for (unsigned plain = 0; plain < 2; plain++) {
        rig_start(plain ? STAMP "plain-wire" : STAMP "wire");
        for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
            struct dt_vnet_header v = frame_kind(&f, kind, 2);
            bool six = kind & FRAME_V6;

            memcpy(f.bytes + 6, other_mac, 6);
            f.bytes[six ? 37 : 29] ^= 0x5a;
            frame_pattern(&f, kind & FRAME_SUPER ? 5000 : 100);
            frame_end(&f);
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
            assert_true(rig.wire.n > 0);
            for (unsigned i = 0; i < rig.wire.n; i++) {
                const struct rig_frame *out = &rig.wire.frames[i];

                assert_memory_equal(out->data + 6, own_mac, 6);
                assert_memory_equal(out->data + (six ? 22 : 26), six ? own6 : own4, six ? 16 : 4);
                if (!out->needs && !frame_sums_right(out->data, out->length))
                    fail_msg("kind %u: wrong sums", kind);
            }
            rig_clear();
        }
        assert_int_equal(rig_counter("antispoof", "stamped"), FRAME_KINDS);
        rig_stop();
    }
}

/* What names others in other ways is given our name, or is dropped still. */
static void test_stamp_names(void **state)
{
    static const struct {
        void (*make)(void);
        bool passes;
    } cases[] = {{make_arp_request_as_other, true},
                 {make_arp_other_hardware, true},
                 {make_arp_for_other, true},
                 {make_arp_probe, true},
                 {make_solicit_other_mac, true},
                 {make_advertise_other_mac, true},
                 {make_link_local_of_other, true},
                 {make_later_fragment4_of_other, true},
                 {make_dhcp, true},
                 {make_dad, true},
                 {make_other_source_mac, true},
                 {make_nobody4, false},
                 {make_advertise_other, false},
                 {make_dhcp_of_other, false},
                 {make_router_advertisement, false},
                 {make_length_lies, false},
                 {make_option_of_no_length, false},
                 {make_vlan, false}};

    rig_start(STAMP "wire");
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        cases[i].make();
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        if (rig.wire.n != cases[i].passes)
            fail_msg("case %u %s", i, rig.wire.n ? "passed" : "was dropped");
        if (rig.wire.n && cases[i].make != make_later_fragment4_of_other &&
            rig.wire.frames[0].data[12] == 0x86 &&
            !frame_sums_right(rig.wire.frames[0].data, rig.wire.frames[0].length))
            fail_msg("case %u: wrong sums", i);
        rig_clear();
    }
    make_arp_request_as_other();
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(load_be32(rig.wire.frames[0].data + 28), 0xc0000207);
    rig_stop();
}

/* A prefix is no address: nothing is written, and what is not within it is dropped. */
static void test_stamp_prefix(void **state)
{
    rig_start("antispoof stamp=on mac=52:54:00:00:00:01 ip4=10.1.0.0/16 | wire");
    tcp4("10.1.200.3");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 1);
    assert_memory_equal(rig.wire.frames[0].data, f.bytes, f.n);
    tcp4("192.0.2.7");
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

static void test_parameters(void **state)
{
    static const char *const wrong[] = {"mac=52:54:00:00:00",
                                        "mac=53:54:00:00:00:01",
                                        "mac=52:54:00:00:00:01x",
                                        "mac=52:54:00:00:00:01 ip4=1.2.3",
                                        "mac=52:54:00:00:00:01 ip4=1.2.3.4/33",
                                        "mac=52:54:00:00:00:01 ip4=1.2.3.4/-1",
                                        "mac=52:54:00:00:00:01 ip4=2001:db8::1",
                                        "mac=52:54:00:00:00:01 ip6=1.2.3.4",
                                        "ip4=1.2.3.4"};
    char chain[128];

    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        snprintf(chain, sizeof(chain), "antispoof %s | wire", wrong[i]);
        if (rig_try(chain) != -EINVAL)
            fail_msg("%s was taken", wrong[i]);
    }
    rig_start(CHAIN);
    make_source4();
    assert_int_equal(device_set(rig.dev, "antispoof", "ip4", "192.0.2.8", &rig.err), 0);
    assert_int_equal(device_set(rig.dev, "antispoof", "ip4", "192.0.2.300", &rig.err), -EINVAL);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tricks),       cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_stamp),        cmocka_unit_test(test_stamp_names),
        cmocka_unit_test(test_stamp_prefix), cmocka_unit_test(test_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
