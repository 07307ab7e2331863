/* SPDX-License-Identifier: MIT */
/* test_net_packet.c - the back `packet` on one end of a veth pair, in a network namespace of the test's own; the other
 * end is in the test's hands. */
#include "tests/unit/net_peer.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include <cmocka.h>

#define HEADER 10u /* of the kernel's virtio header */
#define MAKE                                                                           \
    "{ ip link add card0 type veth peer name far0 && ip link set card0 mtu 3000 && "   \
    "ethtool -K card0 rxvlan off && "                                                  \
    "ip link set far0 mtu 3000 && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; " \
    "ip link set card0 up && ip link set far0 up && "                                  \
    "until ip link show card0 | grep -q 'state UP'; do sleep 0.01; done; } 2>/dev/null"

static struct frame f;
static uint8_t buffer[1 << 18];
static int far_end = -1;
static bool xdp; /* by AF_XDP, where that is possible */

extern const struct dt_net_ext net_packet;

static bool made_namespace(void)
{
    const int on = 1;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};

    if ((unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) ||
        system(MAKE) != 0)
        return false;
    far_end = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    at.sll_ifindex = (int)if_nametoindex("far0");
    setsockopt(far_end, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on));
    setsockopt(far_end, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on));
    return far_end >= 0 && bind(far_end, (struct sockaddr *)&at, sizeof(at)) == 0;
}

static void start(void)
{
    if (far_end < 0)
        skip();
    rig_start(xdp ? "packet ifname=card0 xdp=on" : "packet ifname=card0");
}

static int set_xdp(void **state)
{
    xdp = true;
    return 0;
}

static int tear_down(void **state)
{
    xdp = false;
    while (far_end >= 0 && recv(far_end, buffer, sizeof(buffer), 0) >= 0)
        ;
    return 0;
}

/* What came out at the far end; other frames than ours may come, of protocols that the kernel has. */
static ssize_t next_at_far_end(uint16_t type)
{
    ssize_t n;

    do
        TURN_UNTIL((n = recv(far_end, buffer, sizeof(buffer), 0)) >= 0);
    while (load_be16(buffer + HEADER + 12) != type);
    return n - HEADER;
}

static void send_from_far_end(const struct dt_vnet_header *v)
{
    uint8_t bytes[HEADER + sizeof(f.bytes)] = {0};

    if (v)
        memcpy(bytes, v, HEADER);
    memcpy(bytes + HEADER, f.bytes, f.n);
    assert_int_equal(send(far_end, bytes, HEADER + f.n, 0), HEADER + f.n);
}

static void expect_guest(unsigned i)
{
    TURN_UNTIL(rig.guest.n > i);
    assert_int_equal(rig.guest.frames[i].length, f.n);
    assert_memory_equal(rig.guest.frames[i].data, f.bytes, f.n);
}

static void test_both_ways(void **state)
{
    static const uint32_t payloads[] = {46, 1000, 3000};

    start();
    for (unsigned i = 0; i < ARRAY_SIZE(payloads); i++) {
        frame_ether(&f, 0x88b5);
        frame_pattern(&f, payloads[i]);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        assert_int_equal(next_at_far_end(0x88b5), f.n);
        assert_memory_equal(buffer + HEADER, f.bytes, f.n);
        send_from_far_end(NULL);
        expect_guest(i); /* and not what it sent itself */
    }
    assert_int_equal(rig.guest.n, ARRAY_SIZE(payloads));
    assert_int_equal(rig.sent, ARRAY_SIZE(payloads));
    assert_int_equal(dt_layer_net_info(rig.dev->layers[1])->mtu, 3000);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(rig_counter("packet", i ? "xdp-sent" : "xdp-received"),
                         xdp ? ARRAY_SIZE(payloads) : 0);
    rig_stop();
}

/* The kernel takes the tag out and tells of it beside the frame. */
static void test_vlan(void **state)
{
    start();
    frame_ether(&f, 0);
    frame_vlan(&f, 0x8100, 0x2064, 0x88b5);
    frame_pattern(&f, 200);
    send_from_far_end(NULL);
    expect_guest(0);
    frame_ether(&f, 0); /* and of the outer one of two */
    frame_vlan(&f, 0x88a8, 0x0007, 0);
    frame_vlan(&f, 0x8100, 0x0064, 0x88b5);
    frame_pattern(&f, 200);
    send_from_far_end(NULL);
    expect_guest(1);
    rig_stop();
}

static void make_super(struct dt_vnet_header *v, bool tagged)
{
    unsigned l3 = tagged ? 18 : 14;

    frame_ether(&f, 0x0800);
    if (tagged)
        frame_vlan(&f, 0x8100, 100, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.1", "192.0.2.2");
    frame_tcp(&f, 1, 2, 1000, 0x18);
    frame_pattern(&f, 20000);
    frame_end(&f);
    *v = (struct dt_vnet_header){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                 .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                 .gso_size = 1400,
                                 .hdr_len = (uint16_t)(l3 + 40),
                                 .csum_start = (uint16_t)(l3 + 20),
                                 .csum_offset = 16};
}

/* A super-frame stays one in both directions, tagged or not. */
static void test_offloads(void **state)
{
    start();
    for (unsigned tagged = 0; tagged < 2; tagged++) {
        struct dt_vnet_header v, seen = {0};

        make_super(&v, tagged);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        if (!tagged) {
            assert_int_equal(next_at_far_end(0x0800), f.n);
            memcpy(&seen, buffer, HEADER);
            assert_int_equal(seen.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
            assert_int_equal(seen.gso_size, 1400);
        }
        if (xdp) /* the other end of a veth with a program in its driver cuts them itself */
            continue;
        send_from_far_end(&v);
        TURN_UNTIL(rig.guest.n > tagged);
        assert_int_equal(rig.guest.frames[tagged].length, f.n);
        assert_int_equal(rig.guest.frames[tagged].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
        assert_int_equal(rig.guest.frames[tagged].segment, 1400);
        assert_memory_equal(rig.guest.frames[tagged].data, f.bytes, 34);
    }
    rig_stop();
}

/* Too long for the interface is the interface's to refuse; down is an event, and over when it is up. */
static void test_refused(void **state)
{
    start();
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 4000);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("packet", "tx-refused"), 1);
    assert_int_equal(system("ip link set card0 down"), 0);
    rig_turn();
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 60);
    for (unsigned i = 0; i < 1u + xdp; i++) /* by AF_XDP the first is in the ring when that shows */
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("packet", "tx-refused"), 2);
    assert_int_equal(rig.sent, 2 + xdp);
    assert_int_equal(system("ip link set card0 up && "
                            "until ip link show far0 | grep -q 'state UP'; do sleep 0.01; done"),
                     0);
    if (xdp)
        TURN_UNTIL(next_at_far_end(0x88b5) == f.n);
    send_from_far_end(NULL);
    expect_guest(0);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(next_at_far_end(0x88b5), f.n);
    rig_stop();
}

static void test_guest_without_buffers(void **state)
{
    start();
    net_set_room(rig.lane, true, 0);
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 100);
    for (unsigned i = 0; i < 20; i++)
        send_from_far_end(NULL);
    for (unsigned i = 0; i < 20; i++)
        rig_turn();
    assert_int_equal(rig.guest.n, 0);
    net_set_room(rig.lane, true, 5);
    net_resume(rig.lane);
    TURN_UNTIL(rig.guest.n == 20);
    rig_stop();
}

/* Sends the guest a frame for @to; returns how many bytes another program on the interface gets of it. */
static ssize_t heard_by_host(int host, const uint8_t to[6], unsigned i)
{
    frame_ether(&f, 0x88b5);
    memcpy(f.bytes, to, 6);
    frame_pattern(&f, 100);
    send_from_far_end(NULL);
    expect_guest(i);
    return recv(host, buffer, sizeof(buffer), MSG_DONTWAIT);
}

/* AF_XDP takes only what is for neither this host nor a group, and only as long as there is a process. */
static void test_xdp_leaves_the_host_its_own(void **state)
{
    static const uint8_t guest[] = {0x52, 0x54, 0, 0, 0, 2}, group[] = {1, 0, 0x5e, 0, 0, 1};
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
    struct ifreq own = {.ifr_name = "card0"};
    int host = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

    start();
    at.sll_ifindex = (int)if_nametoindex("card0");
    assert_int_equal(bind(host, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(ioctl(host, SIOCGIFHWADDR, &own), 0);
    assert_int_equal(heard_by_host(host, guest, 0), -1);
    assert_int_equal(heard_by_host(host, group, 1), f.n);
    assert_int_equal(heard_by_host(host, (uint8_t *)own.ifr_hwaddr.sa_data, 2), f.n);
    assert_int_equal(rig_counter("packet", "xdp-received"), 1);
    assert_int_equal(system("ip -d link show card0 | grep -q prog/xdp"), 0);
    rig_stop();
    assert_int_not_equal(system("ip -d link show card0 | grep -q prog/xdp"), 0);
    close(host);
}

/* What goes by AF_XDP goes with its checksum, TCP and UDP, IPv4 and IPv6. */
static void test_xdp_completes_checksums(void **state)
{
    start();
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 7);
        ssize_t n;

        if (!(kind & FRAME_CSUM) || kind & FRAME_SUPER)
            continue;
        frame_pattern(&f, 77);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        n = next_at_far_end(load_be16(f.bytes + 12));
        assert_int_equal(n, f.n);
        assert_int_equal(buffer[0], 0); /* nothing is left to do */
        assert_true(frame_sums_right(buffer + HEADER, (uint32_t)n));
    }
    assert_int_equal(rig_counter("packet", "xdp-sent"), FRAME_KINDS / 4);
    rig_stop();
}

/* More than the rings hold, both ways: every packet arrives, or is counted as missed. */
static void test_xdp_rings_go_round(void **state)
{
    start();
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 100);
    for (unsigned i = 0; i < 3000; i++) {
        send_from_far_end(NULL);
        TURN_UNTIL(rig.guest.n > i);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        assert_int_equal(next_at_far_end(0x88b5), f.n);
    }
    net_set_room(rig.lane, true, 0);
    for (unsigned i = 0; i < 1500; i++)
        send_from_far_end(NULL);
    rig_turn();
    net_set_room(rig.lane, true, 32);
    net_resume(rig.lane);
    TURN_UNTIL(rig_counter("packet", "xdp-missed") > 0);
    assert_int_equal(rig.guest.n - 3000 + rig_counter("packet", "xdp-missed"), 1500);
    rig_stop();
}

/* Frames that lost their VLAN tag on the way must not pass for untagged ones. */
static void test_xdp_is_refused(void **state)
{
    static const struct rig_refusal hidden[] = {{"packet ifname=card0 xdp=on", "rxvlan off"}};

    if (far_end < 0)
        skip();
    assert_int_equal(system("ethtool -K card0 rxvlan on"), 0);
    rig_refuses(hidden, 1);
    rig_start("packet ifname=card0 xdp=auto");
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 100);
    send_from_far_end(NULL);
    expect_guest(0);
    assert_int_equal(rig_counter("packet", "xdp-received"), 0);
    rig_stop();
    assert_int_equal(system("ethtool -K card0 rxvlan off"), 0);
}

/* It is there while both ends are up. */
static void test_link(void **state)
{
    const struct dt_net_info *info;

    start();
    info = device_net_info(rig.dev);
    assert_int_equal(info->link, DT_LINK_UP);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(system(i < 2 ? "ip link set far0 down" : "ip link set card0 down"), 0);
        TURN_UNTIL(info->link == DT_LINK_DOWN);
        assert_int_equal(system("ip link set far0 up && ip link set card0 up"), 0);
        TURN_UNTIL(info->link == DT_LINK_UP);
    }
    rig_stop();
    assert_int_equal(system("ip link set card0 down"), 0); /* as it is at the start */
    start();
    info = device_net_info(rig.dev);
    assert_int_equal(info->link, DT_LINK_DOWN);
    assert_int_equal(system("ip link set card0 up"), 0);
    TURN_UNTIL(info->link == DT_LINK_UP);
    rig_stop();
}

static void test_bad_parameters(void **state)
{
    static const struct rig_refusal cases[] = {
        {"packet", "ifname"},
        {"packet ifname=nobody0", "'nobody0': No such device"},
        {"packet ifname=a-name-that-is-too-long", "1 to 15 characters"},
        {"packet ifname=lo", "not an Ethernet"},
        {"packet ifname=card0 xdp=maybe", "xdp"},
    };

    if (far_end < 0)
        skip();
    rig_refuses(cases, ARRAY_SIZE(cases));
}

#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
#define TEST_XDP(name)                                     \
    {                                                      \
#name " by AF_XDP", name, set_xdp, tear_down, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_both_ways),
        TEST(test_vlan),
        TEST(test_offloads),
        TEST(test_refused),
        TEST(test_guest_without_buffers),
        TEST_XDP(test_both_ways),
        TEST_XDP(test_vlan),
        TEST_XDP(test_offloads),
        TEST_XDP(test_refused),
        TEST_XDP(test_guest_without_buffers),
        TEST_XDP(test_xdp_leaves_the_host_its_own),
        TEST_XDP(test_xdp_completes_checksums),
        TEST_XDP(test_xdp_rings_go_round),
        cmocka_unit_test(test_xdp_is_refused),
        TEST(test_link),
        cmocka_unit_test(test_bad_parameters),
    };

    CHECK(registry_add_net(&net_packet, &rig.err) == 0);
    if (!made_namespace())
        print_message("no network namespace or no iproute2 here: nothing is tested\n");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
