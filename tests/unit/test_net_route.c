/* SPDX-License-Identifier: MIT */
/* test_net_route.c - `route` in a network namespace: what the guest is answered, what reaches the host's stack, and what comes. */
#include "net/route/internal.h"
#include "tests/unit/net_peer.h"

#include <arpa/inet.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>

#include <cmocka.h>

#define HOST "192.0.2.99"
#define MAKE                                                    \
    "{ ip link set lo up && ip addr add " HOST "/32 dev lo && " \
    "ip tuntap add dev probe0 mode tun && ip link del probe0; } 2>/dev/null"

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0, 0, 1}; /* as frame_ether() has it */
static struct frame f;
static int udp = -1, tcp = -1;

static bool made_namespace(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(53)};

    if ((unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) ||
        system(MAKE) != 0)
        return false;
    udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    tcp = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    return udp >= 0 && tcp >= 0 && bind(udp, (struct sockaddr *)&at, sizeof(at)) == 0;
}

static void start(const char *words)
{
    char chain[128];

    if (udp < 0)
        skip();
    snprintf(chain, sizeof(chain), "route address=10.0.0.5/32,2001:db8::5/128 %s", words);
    rig_start(chain);
}

static uint64_t counter(const char *name)
{
    return rig_counter("route", name);
}

static void from_guest(void)
{
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void datagram(const char *from, const char *to, uint32_t bytes)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, from, to);
    frame_udp(&f, 1000, 53);
    frame_pattern(&f, bytes);
    frame_end(&f);
}

/* ---- Questions ---- */

static void arp(const uint8_t sender[4], const uint8_t target[4])
{
    static const uint8_t head[] = {0, 1, 8, 0, 6, 4, 0, 1};

    frame_ether(&f, 0x0806);
    frame_bytes(&f, head, sizeof(head));
    frame_bytes(&f, guest_mac, 6);
    frame_bytes(&f, sender, 4);
    frame_bytes(&f, "\0\0\0\0\0\0", 6);
    frame_bytes(&f, target, 4);
}

static void test_arp(void **state)
{
    static const uint8_t own[4] = {10, 0, 0, 5}, none[4], gateway[4] = {10, 0, 0, 1};
    const uint8_t *p;

    start("");
    arp(own, gateway);
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    p = rig.guest.frames[0].data;
    assert_memory_equal(p, guest_mac, 6);
    assert_memory_equal(p + 6, route_gateway, 6);
    assert_int_equal(p[21], 2);
    assert_memory_equal(p + 22, route_gateway, 6);
    assert_memory_equal(p + 28, gateway, 4);
    assert_memory_equal(p + 32, guest_mac, 6);
    assert_memory_equal(p + 38, own, 4);
    arp(none, own); /* is it taken? */
    from_guest();
    arp(own, own); /* it is mine */
    from_guest();
    arp(own, gateway);
    f.bytes[21] = 2; /* an answer */
    from_guest();
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(counter("answered"), 4);
    assert_int_equal(rig.sent, 4);
    rig_stop();
}

static uint16_t sum6(const uint8_t *data)
{
    uint8_t pseudo[8] = {0, 0, 0, 32, 0, 0, 0, 58};
    uint16_t sum = dt_checksum(pseudo, 8, dt_checksum(data + 22, 32, 0));

    pseudo[3] = data[19];
    sum = dt_checksum(pseudo, 8, dt_checksum(data + 22, 32, 0));
    return dt_checksum(data + 54, data[19], sum);
}

static void solicit(const char *from, const char *target)
{
    static const uint8_t head[8] = {135};
    uint8_t address[16];

    assert_int_equal(inet_pton(AF_INET6, target, address), 1);
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 58, from, "ff02::1:ff00:1");
    f.bytes[21] = 255;
    frame_bytes(&f, head, 8);
    frame_bytes(&f, address, 16);
    frame_end(&f);
    store_be16(f.bytes + 56, (uint16_t)~sum6(f.bytes));
}

static void test_solicitations(void **state)
{
    static const struct {
        const char *from, *target;
        bool answered;
    } cases[] = {
        {"2001:db8::5", "2001:db8::1", true},  {"fe80::5", "fe80::1", true},
        {"::", "2001:db8::77", true}, /* not the guest's: somebody has it */
        {"2001:db8::5", "2001:db8::5", false}, {"::", "2001:db8::5", false},
        {"::", "fe80::5054:ff:fe00:1", false}, /* may be the guest's */
        {"2001:db8::5", "ff02::1", false},
    };
    unsigned answers = 0;

    start("");
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const uint8_t *p;

        solicit(cases[i].from, cases[i].target);
        from_guest();
        if (!cases[i].answered) {
            assert_int_equal(rig.guest.n, answers);
            continue;
        }
        assert_int_equal(rig.guest.n, ++answers);
        p = rig.guest.frames[answers - 1].data;
        assert_int_equal(p[54], 136);
        assert_int_equal(p[21], 255);
        assert_int_equal(sum6(p), 0xffff);
        assert_memory_equal(p + 22, f.bytes + 62, 16); /* the target says so, */
        assert_memory_equal(p + 62, f.bytes + 62, 16); /* of itself */
        assert_memory_equal(p + 80, route_gateway, 6);
        assert_int_equal(p[58], cases[i].from[1] == ':' ? 0xa0 : 0xe0);
    }
    solicit("2001:db8::5", "2001:db8::1");
    f.bytes[21] = 64; /* from beyond a router */
    from_guest();
    solicit("2001:db8::5", "2001:db8::1");
    f.bytes[60] ^= 1; /* damaged */
    from_guest();
    assert_int_equal(rig.guest.n, answers);
    rig_stop();
}

/* ---- Packets ---- */

static void test_both_ways(void **state)
{
    static const uint32_t sizes[] = {0, 1, 500, 1400};
    struct sockaddr_in from;
    uint8_t got[2048];

    start("");
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct dt_vnet_header v = {
            .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
        socklen_t length = sizeof(from);
        ssize_t n;
        const struct rig_frame *answer;

        datagram("10.0.0.5", HOST, sizes[i]);
        frame_bytes(&f, "padding", 7); /* is not sent along */
        if (i & 1)
            store_be16(f.bytes + 40, 0x1234);
        assert_true(rig_send(f.bytes, f.n, i & 1 ? &v : NULL, DT_OFFLOAD_ALL));
        TURN_UNTIL((n = recvfrom(udp, got, sizeof(got), 0, (struct sockaddr *)&from, &length)) >=
                   0);
        assert_int_equal(n, sizes[i]);
        assert_memory_equal(got, f.bytes + 42, sizes[i]);
        assert_int_equal(ntohl(from.sin_addr.s_addr), 0x0a000005);
        assert_int_equal(sendto(udp, got, sizes[i], 0, (struct sockaddr *)&from, length), sizes[i]);
        TURN_UNTIL(rig.guest.n > i);
        answer = &rig.guest.frames[i];
        assert_memory_equal(answer->data, guest_mac, 6);
        assert_memory_equal(answer->data + 6, route_gateway, 6);
        assert_int_equal(answer->length, 42 + sizes[i]);
        assert_memory_equal(answer->data + 42, got, sizes[i]);
        if (!answer->needs)
            assert_true(frame_sums_right(answer->data, answer->length));
    }
    rig_stop();
}

/* A super-frame is one for the host's stack, too. */
static void test_super(void **state)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                               .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                               .gso_size = 1000,
                               .csum_start = 34,
                               .csum_offset = 16};
    uint8_t got[4096];
    ssize_t n;

    start("");
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.5", HOST);
    frame_tcp(&f, 1000, 81, 1, 0x10);
    frame_pattern(&f, 3000);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    TURN_UNTIL((n = recv(tcp, got, sizeof(got), 0)) >= 0);
    assert_int_equal(n, 3040);
    assert_memory_equal(got + 40, f.bytes + 54, 3000);
    TURN_UNTIL(rig.guest.n > 0); /* nobody listens: a reset */
    assert_int_equal(rig.guest.frames[0].data[47] & 4, 4);
    rig_stop();
}

/* A datagram to be cut into fragments is whole for the host's stack, which checks its length and checksum. */
static void test_datagram_in_fragments(void **state)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                               .gso_type = VIRTIO_NET_HDR_GSO_UDP,
                               .gso_size = 1480,
                               .csum_start = 34,
                               .csum_offset = 6};
    uint8_t got[8192];
    ssize_t n;

    start("");
    for (unsigned whole = 0; whole < 2; whole++) {
        datagram("10.0.0.5", HOST, 5000);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, whole ? DT_OFFLOAD_ALL : 0) == whole);
    }
    TURN_UNTIL((n = recv(udp, got, sizeof(got), 0)) >= 0);
    assert_int_equal(n, 5000);
    assert_memory_equal(got, f.bytes + 42, 5000);
    assert_int_equal(recv(udp, got, sizeof(got), 0), -1); /* and there is one only */
    rig_stop();
}

static void test_refused(void **state)
{
    start("");
    datagram("10.0.0.6", HOST, 10);
    from_guest();
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 17, "2001:db8::6", "2001:db8::99");
    frame_udp(&f, 1, 2);
    frame_end(&f);
    from_guest();
    assert_int_equal(counter("foreign"), 2);
    datagram("10.0.0.5", "224.0.0.1", 10);
    from_guest();
    datagram("10.0.0.5", "255.255.255.255", 10);
    from_guest();
    assert_int_equal(counter("group"), 2);
    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x8100, 5, 0x0800);
    frame_ipv4(&f, 17, "10.0.0.5", HOST);
    frame_udp(&f, 1, 2);
    frame_end(&f);
    from_guest();
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 100);
    from_guest();
    datagram("10.0.0.5", HOST, 10);
    for (uint32_t n = 14; n < f.n; n++)
        assert_true(rig_send(f.bytes, n, NULL, 0));
    assert_int_equal(counter("unknown"), 2 + f.n - 14);
    assert_int_equal(recv(udp, &(char){0}, 1, 0), -1);
    rig_stop();
}

/* To a guest that nobody has heard of nothing goes; its successor knows. */
static void test_state(void **state)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7)};
    const struct dt_net_ext *ext;
    struct dt_error err;
    uint8_t blob[6];

    start("");
    ext = registry_net(rig.dev->layers[1]->ext);
    inet_pton(AF_INET, "10.0.0.5", &to.sin_addr);
    assert_int_equal(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
    TURN_UNTIL(counter("rx-nobody") == 1);
    datagram("10.0.0.5", HOST, 10);
    from_guest();
    assert_int_equal(ext->save(rig.dev->layers[1], blob, sizeof(blob)), 6);
    assert_memory_equal(blob, guest_mac, 6);
    rig_stop();
    start("");
    assert_int_equal(ext->load(rig.dev->layers[1], blob, 6, 1, &err), 0);
    assert_int_equal(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
    TURN_UNTIL(rig.guest.n == 1);
    assert_memory_equal(rig.guest.frames[0].data, guest_mac, 6);
    assert_int_equal(ext->load(rig.dev->layers[1], blob, 5, 1, &err), -EBADMSG);
    assert_int_equal(ext->load(rig.dev->layers[1], blob, 6, 2, &err), -EBADMSG);
    blob[0] = 1;
    assert_int_equal(ext->load(rig.dev->layers[1], blob, 6, 1, &err), -EBADMSG);
    rig_stop();
    start("mac=52:54:00:00:00:99");
    assert_int_equal(sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
    TURN_UNTIL(rig.guest.n == 1);
    assert_int_equal(rig.guest.frames[0].data[5], 0x99);
    rig_stop();
}

static void test_addresses(void **state)
{
    static const struct rig_refusal cases[] = {
        {"route address=10.0.0.5/33", "'10.0.0.5/33': an IPv4 prefix has 0 to 32 bits"},
        {"route address=10.0.0.5/-1", "'10.0.0.5/-1': an IPv4 prefix has 0 to 32 bits"},
        {"route address=2001:db8::5/129", "'2001:db8::5/129': an IPv6 prefix has 0 to 128 bits"},
        {"route address=10.0.0.256/32", "'10.0.0.256' is no IPv4 address"},
        {"route address=10.0.0.5/0", "a guest cannot have all addresses"}};

    rig_refuses(cases, ARRAY_SIZE(cases));
}

static int drain(void **state)
{
    uint8_t rest[64];

    while (udp >= 0 &&
           (recv(udp, rest, sizeof(rest), 0) >= 0 || recv(tcp, rest, sizeof(rest), 0) >= 0))
        ;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_arp, drain),
        cmocka_unit_test_teardown(test_solicitations, drain),
        cmocka_unit_test_teardown(test_both_ways, drain),
        cmocka_unit_test_teardown(test_super, drain),
        cmocka_unit_test_teardown(test_datagram_in_fragments, drain),
        cmocka_unit_test_teardown(test_refused, drain),
        cmocka_unit_test_teardown(test_state, drain),
        cmocka_unit_test(test_addresses),
    };

    if (!made_namespace())
        udp = -1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
