/* SPDX-License-Identifier: MIT */
/* test_net_vpn_frames.c - the back `vpn`: what happens to frames within sessions. */
#include "tests/unit/vpn_rig.h"

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* ---- Datagrams ---- */

static void test_replay_and_order(void **state)
{
    static uint8_t messages[5][400];
    size_t n = 0;

    start_two("");
    make_frame(MAC_A, GUEST, 200);
    for (unsigned i = 0; i < 5; i++)
        n = hand_seal(&a, messages[i], f.bytes, f.n);
    for (unsigned i = 5; i-- > 0;) {
        hand_send(&a, messages[i], n);
        expect_guest();
    }
    for (unsigned i = 0; i < 5; i++)
        hand_send(&a, messages[i], n);
    expect_count("rx-replayed", 5);
    n = hand_seal(&a, messages[0], f.bytes, f.n);
    for (size_t i = 8; i < n; i += 3) { /* from the counter on */
        messages[0][i] ^= 0x40;
        hand_send(&a, messages[0], n);
        messages[0][i] ^= 0x40;
        rig_turn();
    }
    hand_send(&a, messages[0], n - 1);
    expect_count("rx-forged", (n - 8 + 2) / 3 + 1);
    hand_send(&a, messages[0], n); /* none of these took its place */
    expect_guest();
    assert_int_equal(rig_counter("vpn", "rx-replayed"), 5);
    rig_stop();
}

static void test_window(void **state)
{
    static uint8_t old[400], older[400];
    size_t n;

    start_two("");
    make_frame(MAC_A, GUEST, 100);
    hand_seal(&a, older, f.bytes, f.n);
    n = hand_seal(&a, old, f.bytes, f.n);
    a.session.counter += (WG_WINDOW_WORDS - 1) * 64 - 2;
    hand_frame(&a, f.bytes, f.n);
    expect_guest();
    hand_send(&a, old, n);
    expect_guest();
    hand_send(&a, older, n);
    expect_count("rx-replayed", 1);
    a.session.counter += 1ull << 40; /* the whole window at once */
    hand_frame(&a, f.bytes, f.n);
    expect_guest();
    hand_send(&a, old, n);
    expect_count("rx-replayed", 2);
    rig_stop();
}

/* ---- Peers ---- */

static void test_addresses_are_bound(void **state)
{
    start_two("hold=10s");
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    from_hand(&b, MAC_A, GUEST);
    expect_count("rx-source", 1);
    from_guest(MAC_A); /* still a's */
    hand_expect_frame(&a, f.bytes, f.n);
    assert_true(hand_silent(&b));
    from_hand(&b, GUEST, ALL); /* nor the guest's own */
    expect_count("rx-source", 2);
    from_hand(&b, ALL, GUEST);
    expect_count("rx-source", 3);
    pass(DT_S(11));
    from_hand(&b, MAC_A, GUEST); /* a was silent for long enough */
    expect_guest();
    from_guest(MAC_A);
    hand_expect_frame(&b, f.bytes, f.n);
    rig_stop();
}

static void test_listed_addresses(void **state)
{
    add_conf("[Interface]\nPrivateKey = %s\nMACs = 52:54:00:00:00:01, 52:54:00:00:00:0c\n",
             own_text);
    add_peer(&a, true, "MACs = 52:54:00:00:00:0a,52:54:00:00:00:0c");
    add_peer(&b, false, "MACs = 52:54:00:00:00:0c");
    start("unknown=drop");
    hand_answer(&a);
    hand_initiate(&b);
    from_guest(MAC_A); /* known before it was seen */
    hand_expect_frame(&a, f.bytes, f.n);
    from_guest(MAC_B);
    expect_count("tx-down", 1);
    pass(DT_S(1000)); /* a list does not grow old, but sessions do */
    hand_initiate(&a);
    hand_initiate(&b);
    from_hand(&b, MAC_A, GUEST);
    from_hand(&b, MAC_B, GUEST); /* on nobody's list */
    expect_count("rx-source", 2);
    from_hand(&a, 0xc, ALL); /* on both: it moves at once, as a guest does */
    expect_guest();
    from_hand(&b, 0xc, ALL);
    expect_guest();
    from_guest(0xc);
    hand_expect_frame(&b, f.bytes, f.n);
    make_frame(MAC_A, ALL, 100); /* the guest has a list, too */
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    expect_count("tx-source", 1);
    rig_stop();
}

static void test_split_horizon(void **state)
{
    start_two("");
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    from_hand(&b, MAC_B, ALL); /* for a, too; but that is between b and a */
    expect_guest();
    from_hand(&b, MAC_B, MAC_A);
    expect_guest();
    assert_true(hand_silent(&a));
    from_guest(ALL);
    hand_expect_frame(&a, f.bytes, f.n);
    hand_expect_frame(&b, f.bytes, f.n);
    from_guest(0x77); /* nobody knows */
    hand_expect_frame(&a, f.bytes, f.n);
    hand_expect_frame(&b, f.bytes, f.n);
    assert_int_equal(rig_counter("vpn", "flooded"), 2);
    from_guest(MAC_B);
    hand_expect_frame(&b, f.bytes, f.n);
    assert_true(hand_silent(&a));
    rig_stop();
}

static void test_one_peer_cannot_fill_the_table(void **state)
{
    unsigned learned;

    start_two("");
    for (unsigned i = 0; i < 1500; i++) {
        make_frame(MAC_A, GUEST, 60);
        f.bytes[8] = (uint8_t)(i >> 8);
        f.bytes[9] = (uint8_t)i;
        f.bytes[7] = 0x77;
        hand_frame(&a, f.bytes, f.n);
        rig_turn();
    }
    TURN_UNTIL(rig.guest.n + rig_counter("vpn", "rx-crowded") == 1500);
    learned = rig.guest.n;
    assert_in_range(learned, 900, 1024);
    from_hand(&b, MAC_B, GUEST);
    expect_guest();
    rig_stop();
}

/* ---- Bursts ---- */

static void make_tcp(uint32_t payload)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, IPPROTO_TCP, "10.77.0.2", "10.77.0.3");
    frame_tcp(&f, 1000, 5001, 1, 0x10);
    frame_pattern(&f, payload);
    frame_end(&f);
}

/* A super-frame becomes datagrams of one length and a shorter one, all of them by one call. */
static void test_super_frame(void **state)
{
    static const struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                            .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                            .hdr_len = 54,
                                            .gso_size = 1386,
                                            .csum_start = 34,
                                            .csum_offset = 16};
    static uint8_t payload[12000];
    size_t n = 0;

    start_two("");
    from_hand(&a, 2, ALL); /* whom frame_ether() calls the destination */
    expect_guest();
    make_tcp(sizeof(payload));
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    while (n < sizeof(payload)) {
        ssize_t length;

        hand_expect(&a, WG_TRANSPORT);
        length = wg_session_open(a.cipher, &a.session, a.bytes, a.n);
        assert_in_range(length, 55, 54 + 1386);
        assert_true(frame_sums_right(a.bytes + WG_HEADER, (uint32_t)length));
        memcpy(payload + n, a.bytes + WG_HEADER + 54, (size_t)length - 54);
        n += (size_t)length - 54;
    }
    assert_int_equal(n, sizeof(payload));
    assert_memory_equal(payload, f.bytes + 54, n);
    rig_stop();
}

/* What of this packet gets to a wire that takes no offloads. */
static void learn(struct rig_list *list, const struct dt_vnet_header *v)
{
    rig_start("plain-wire");
    assert_true(rig_send(f.bytes, f.n, v, DT_OFFLOAD_ALL));
    *list = rig.wire;
    rig.wire.n = 0;
    rig_stop();
}

/* What fragments of IPv6 are told apart by is anybody's guess, and another one each time. */
static void expect_piece(struct hand *h, const struct rig_frame *e)
{
    const uint8_t *taken = hand_take_frame(h, e->length);
    unsigned ip = e->data[12] == 0x81 ? 18 : 14;

    if (e->data[ip] >> 4 == 6 && e->data[ip + 6] == IPPROTO_FRAGMENT)
        memcpy(e->data + ip + 44, taken + ip + 44, 4);
    assert_memory_equal(taken, e->data, e->length);
}

/* There is no plain text without a checksum, and none of which only the beginning fits: every kind of packet goes to the
 * peers as it would go to a wire that takes no offloads; and one that comes from a peer has none. */
static void test_kinds(void **state)
{
    static struct rig_list expected[FRAME_KINDS];
    struct dt_vnet_header v;

    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        v = frame_kind(&f, kind, 80);
        frame_pattern(&f, kind & FRAME_SUPER ? 3501 : 1000);
        frame_end(&f);
        learn(&expected[kind], &v);
        assert_int_equal(expected[kind].n, kind & FRAME_SUPER ? 4 : 1);
    }
    start_two("");
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        v = frame_kind(&f, kind, 80);
        frame_pattern(&f, kind & FRAME_SUPER ? 3501 : 1000);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        for (unsigned i = 0; i < expected[kind].n; i++) { /* flooded: nobody knows the address */
            const struct rig_frame *e = &expected[kind].frames[i];

            assert_true(frame_sums_right(e->data, e->length));
            expect_piece(&a, e);
            expect_piece(&b, e);
        }
        frame_kind(&f, kind, 80);
        f.bytes[11] = MAC_A; /* not the guest's own */
        frame_pattern(&f, 1000);
        frame_end(&f);
        hand_frame(&a, f.bytes, f.n);
        expect_guest();
        assert_int_equal(rig.guest.frames[rig.guest.n - 1].needs, 0);
        while (expected[kind].n > 0)
            free(expected[kind].frames[--expected[kind].n].data);
    }
    rig_stop();
}

/* What its kernel puts together comes apart again, whatever the lengths are. */
static void test_many_at_once(void **state)
{
    static uint8_t messages[64 * 400];
    const int size = 201;
    struct wg_initiation m;
    size_t n = 0;

    start_two("");
    assert_int_equal(setsockopt(a.fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)), 0);
    for (unsigned i = 0; i < 40; i++) {
        make_frame(MAC_A, GUEST, 201 - WG_OVERHEAD);
        n += hand_seal(&a, messages + n, f.bytes, f.n);
    }
    hand_initiation(&a, &m); /* the last may be shorter, and of another kind */
    memcpy(messages + n, &m, sizeof(m));
    hand_send(&a, messages, n + sizeof(m));
    TURN_UNTIL(rig.guest.n == 40);
    assert_memory_equal(rig.guest.frames[39].data, f.bytes, f.n);
    hand_expect(&a, WG_RESPONSE);
    assert_int_equal(rig_counter("vpn", "rx-malformed"), 0);
    rig_stop();
}

/* The card's socket, which fails that many times with this error. */
static struct {
    int fd, error;
    unsigned sends, bursts;
} failing;

static bool fails(int fd, unsigned *times)
{
    if (fd != failing.fd || *times == 0)
        return false;
    (*times)--;
    errno = failing.error;
    return true;
}

ssize_t __real_sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to,
                      socklen_t size);
ssize_t __wrap_sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to,
                      socklen_t size);
ssize_t __wrap_sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to,
                      socklen_t size)
{
    return fails(fd, &failing.sends) ? -1 : __real_sendto(fd, data, n, flags, to, size);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
    return fails(fd, &failing.bursts) ? -1 : __real_sendmsg(fd, m, flags);
}

/* Frames to a, of these lengths, by one call of the layer's, and what comes of them. */
static void send_batch(const uint32_t *lengths, unsigned n)
{
    static struct frame frames[16];
    struct dt_packet *packets[16];

    for (unsigned i = 0; i < n; i++) {
        struct packet *p = net_packet_new(rig.lane, lengths[i]);

        make_frame(GUEST, MAC_A, lengths[i]);
        frames[i] = f;
        memcpy(p->pub.data, f.bytes, f.n);
        p->slot = &rig;
        packets[i] = &p->pub;
    }
    rig.sent = 0;
    net_transmit(rig.lane, packets, n);
    for (unsigned i = 0; i < n; i++)
        hand_expect_frame(&a, frames[i].bytes, frames[i].n);
    TURN_UNTIL(rig.sent == n);
}

/* Whatever the socket says, and whatever the lengths are: all come, once, in their order. */
static void test_failing_socket(void **state)
{
    static const uint32_t same[] = {900, 900, 900, 900, 900, 500}, mixed[] = {60, 900, 60, 60, 900},
                          one[] = {100};
    static const int errors[] = {EAGAIN, EINVAL};
    struct vpn *v;

    start_two("");
    v = dt_layer_data(rig.dev->layers[rig.dev->nlayers]);
    failing.fd = v->fd;
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    for (unsigned i = 0; i < 4 * ARRAY_SIZE(errors); i++) {
        failing.error = errors[i / 4];
        failing.sends = failing.error == EAGAIN ? i % 4 : 0;
        failing.bursts = i % 4;
        send_batch(same, ARRAY_SIZE(same));
        failing.bursts = i % 4;
        send_batch(one, ARRAY_SIZE(one));
        failing.bursts = i % 4;
        send_batch(mixed, ARRAY_SIZE(mixed));
    }
    assert_int_equal(rig_counter("vpn", "tx-full") + rig_counter("vpn", "tx-down"), 0);
    failing.error = ENETUNREACH;
    failing.sends = 1;
    from_guest(MAC_A);
    expect_count("tx-down", 1);
    failing.fd = -1;
    rig_stop();
}

/* Peers are heard while the guest takes nothing; its frames are dropped then. */
static void test_deaf_guest(void **state)
{
    start_two("");
    net_set_room(rig.lane, true, 0);
    from_hand(&a, MAC_A, GUEST);
    rig_turn();
    assert_int_equal(rig_counter("vpn", "rx-full"), 0);
    pass(DT_MS(30));
    expect_count("rx-full", 1);
    hand_send(&b, "?", 1);
    pass(DT_MS(30));
    expect_count("rx-malformed", 1);
    from_hand(&a, MAC_A, GUEST);
    rig_turn();
    net_set_room(rig.lane, true, 10);
    net_resume(rig.lane);
    expect_guest();
    rig_stop();
}

/* ---- GRE ---- */

static size_t gre_frame(uint8_t *packet, const char *from, const char *to)
{
    make_frame(MAC_A, GUEST, 100);
    vpn_gre_make(packet, inet_addr(from), inet_addr(to), f.n);
    memcpy(packet + VPN_GRE, f.bytes, f.n);
    return VPN_GRE + f.n;
}

static void test_gre(void **state)
{
    uint8_t packet[300] = {0};
    struct dt_headers h;
    size_t n;

    add_conf("[Interface]\nPrivateKey = %s\nAddress = 10.9.0.1/24\n", own_text);
    add_peer(&a, true, "AllowedIPs = 10.9.0.2/32");
    start("");
    assert_int_equal(mtu(), 1402);
    hand_answer(&a);
    n = gre_frame(packet, "10.9.0.2", "10.9.0.1");
    hand_frame(&a, packet, n);
    expect_guest();
    hand_frame(&a, packet, n + 12); /* padded, as WireGuard does */
    expect_guest();
    for (unsigned i = 0; i < VPN_GRE; i++) { /* no byte of the headers may be another */
        packet[i] ^= 0x20;
        hand_frame(&a, packet, n);
        packet[i] ^= 0x20;
    }
    hand_frame(&a, packet, VPN_GRE + 13);
    n = gre_frame(packet, "10.9.0.3", "10.9.0.1");
    hand_frame(&a, packet, n);
    expect_count("rx-malformed", VPN_GRE + 2);
    from_guest(MAC_A);
    n = VPN_GRE + f.n;
    vpn_gre_make(packet, inet_addr("10.9.0.1"), inet_addr("10.9.0.2"), f.n);
    memcpy(packet + VPN_GRE, f.bytes, f.n);
    hand_expect_frame(&a, packet, n);
    memmove(packet + 14, packet, n); /* as our own parser sees it */
    packet[12] = 8;
    packet[13] = 0;
    dt_parse(&h, packet, (uint32_t)n + 14);
    assert_int_equal(h.protocol, IPPROTO_GRE);
    assert_int_equal(h.end, n + 14);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_replay_and_order),    TEST(test_window),
        TEST(test_addresses_are_bound), TEST(test_listed_addresses),
        TEST(test_split_horizon),       TEST(test_one_peer_cannot_fill_the_table),
        TEST(test_super_frame),         TEST(test_kinds),
        TEST(test_many_at_once),        TEST(test_failing_socket),
        TEST(test_deaf_guest),          TEST(test_gre),
    };

    return cmocka_run_group_tests(tests, vpn_rig_begin, vpn_rig_clean);
}
