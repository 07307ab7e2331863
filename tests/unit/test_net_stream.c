/* SPDX-License-Identifier: MIT */
/* test_net_stream.c - the back `stream`, with a peer that sends bytes of the test's choosing. */
#include "tests/unit/net_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct frame f;
static uint8_t buffer[1 << 18];

static void start(const char *name, const char *more)
{
    char chain[200];

    snprintf(chain, sizeof(chain), "stream address=unix:%s/%s %s", peer_folder(), name, more);
    rig_start(chain);
}

/* A card that is connected to us. */
static int joined(void)
{
    int listener = peer_bind("s", SOCK_STREAM), fd;

    start("s", "");
    fd = peer_accept(listener);
    close(listener);
    TURN_UNTIL(rig_counter("stream", "connects") == 1);
    return fd;
}

static void send_framed(int fd, const void *frame, uint32_t length)
{
    store_be32(buffer, length);
    memcpy(buffer + 4, frame, length);
    peer_send(fd, buffer, 4 + length);
}

static void expect_frame(int fd, const uint8_t *frame, uint32_t length)
{
    peer_receive(fd, buffer, 4);
    assert_int_equal(load_be32(buffer), length);
    peer_receive(fd, buffer, length);
    assert_memory_equal(buffer, frame, length);
}

static void test_both_ways(void **state)
{
    static const uint32_t lengths[] = {14, 60, 1514, 9014, 65600};
    int fd = joined();

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        peer_frame(&f, lengths[i], (uint8_t)i);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        expect_frame(fd, f.bytes, f.n);
        send_framed(fd, f.bytes, f.n);
        peer_expect_guest(i, &f);
    }
    TURN_UNTIL(rig.sent == ARRAY_SIZE(lengths));
    rig_stop();
    close(fd);
}

/* However the bytes are cut. */
static void test_pieces(void **state)
{
    int fd = joined();

    peer_frame(&f, 70, 1);
    store_be32(buffer, f.n);
    memcpy(buffer + 4, f.bytes, f.n);
    for (unsigned i = 0; i < 4 + f.n; i++) {
        assert_int_equal(rig.guest.n, 0);
        peer_send(fd, buffer + i, 1);
        rig_turn();
    }
    peer_expect_guest(0, &f);
    rig_clear();
    for (unsigned i = 0; i < 1000; i++) /* more than a burst at once */
        memcpy(buffer + i * (4 + f.n), buffer, 4 + f.n);
    peer_send(fd, buffer, 1000 * (4 + f.n));
    TURN_UNTIL(rig.guest.n == 1000);
    for (unsigned i = 0; i < 1000; i++)
        assert_memory_equal(rig.guest.frames[i].data, f.bytes, f.n);
    rig_stop();
    close(fd);
}

static void test_short_frames(void **state)
{
    int fd = joined();

    peer_frame(&f, 60, 2);
    send_framed(fd, f.bytes, 0);
    send_framed(fd, f.bytes, 13);
    send_framed(fd, f.bytes, f.n);
    peer_expect_guest(0, &f);
    assert_int_equal(rig_counter("stream", "rx-short"), 2);
    rig_stop();
    close(fd);
}

static void test_hostile_length(void **state)
{
    static const uint32_t lengths[] = {65601, 0x7fffffff, 0xffffffff, 0x47455420};

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        int listener = peer_bind("s", SOCK_STREAM), fd;

        start("s", "");
        fd = peer_accept(listener);
        peer_frame(&f, 100, 3);
        send_framed(fd, f.bytes, f.n);
        store_be32(buffer, lengths[i]);
        peer_send(fd, buffer, 64);
        TURN_UNTIL(recv(fd, buffer, 1, 0) == 0 || errno == ECONNRESET);
        peer_expect_guest(0, &f); /* what came before is no worse for it */
        close(fd);
        fd = peer_accept(listener); /* it comes back, in step */
        send_framed(fd, f.bytes, f.n);
        peer_expect_guest(1, &f);
        assert_int_equal(rig_counter("stream", "connects"), 2);
        rig_stop();
        close(fd);
        close(listener);
    }
}

/* The peer takes no offloads. */
static void test_super_frame(void **state)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                               .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                               .gso_size = 1448,
                               .hdr_len = 54,
                               .csum_start = 34,
                               .csum_offset = 16};
    int fd = joined();

    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.1", "192.0.2.2");
    frame_tcp(&f, 1, 2, 1000, 0x18);
    frame_pattern(&f, 10 * 1448);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    for (unsigned i = 0; i < 10; i++) {
        uint32_t length;

        peer_receive(fd, buffer, 4);
        length = load_be32(buffer);
        assert_int_equal(length, 54 + 1448);
        peer_receive(fd, buffer, length);
        assert_true(frame_sums_right(buffer, length));
    }
    rig_stop();
    close(fd);
}

/* With its header before it a super-frame stays one, both ways; one that lies is dropped. */
static void test_vnet(void **state)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                               .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                               .gso_size = 1448,
                               .hdr_len = 54,
                               .csum_start = 34,
                               .csum_offset = 16,
                               .num_buffers = 1};
    int listener = peer_bind("s", SOCK_STREAM), fd;

    start("s", "vnet=on");
    fd = peer_accept(listener);
    TURN_UNTIL(rig_counter("stream", "connects") == 1);
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.1", "192.0.2.2");
    frame_tcp(&f, 1, 2, 1000, 0x18);
    frame_pattern(&f, 60000);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    peer_receive(fd, buffer, 4);
    assert_int_equal(load_be32(buffer), f.n + sizeof(v));
    peer_receive(fd, buffer, f.n + sizeof(v));
    assert_memory_equal(buffer, &v, sizeof(v));
    memmove(buffer + 4, buffer, f.n + sizeof(v));
    store_be32(buffer, f.n + (uint32_t)sizeof(v));
    peer_send(fd, buffer, 4 + f.n + sizeof(v));
    TURN_UNTIL(rig.guest.n == 1);
    assert_int_equal(rig.guest.frames[0].length, f.n);
    assert_int_equal(rig.guest.frames[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    assert_int_equal(rig.guest.frames[0].segment, 1448);
    buffer[4 + 1] = VIRTIO_NET_HDR_GSO_TCPV6;
    peer_send(fd, buffer, 4 + f.n + sizeof(v));
    store_be32(buffer, 25); /* a header and no frame */
    peer_send(fd, buffer, 4 + 25);
    TURN_UNTIL(rig_counter("stream", "rx-short") == 1);
    assert_int_equal(rig_counter("stream", "rx-header"), 1);
    assert_int_equal(rig.guest.n, 1);
    rig_stop();
    close(fd);
    close(listener);
}

/* Sends until the socket is full, and a few more; returns how many. */
static unsigned fill_up(void)
{
    unsigned n = 0;

    for (unsigned more = 20; more > 0;) {
        unsigned before = rig.sent;

        peer_frame(&f, 9000, (uint8_t)n++);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        more -= rig.sent == before;
        assert_true(n < 1000);
    }
    return n;
}

static void test_back_pressure(void **state)
{
    int fd = joined();
    unsigned n = fill_up();

    assert_true(rig.sent < n); /* the VM's ring bears the rest */
    for (unsigned i = 0; i < n; i++) {
        peer_frame(&f, 9000, (uint8_t)i);
        expect_frame(fd, f.bytes, f.n);
    }
    assert_int_equal(rig.sent, n);
    assert_int_equal(rig_counter("stream", "tx-full"), 0);
    rig_stop();
    close(fd);
}

static void test_patience(void **state)
{
    unsigned n, held, went = 0;
    int fd;

    fd = joined();
    test_clock = real_now();
    rig_turn();
    n = fill_up();
    held = n - rig.sent;
    for (unsigned i = 0; i < 12; i++) {
        test_clock += DT_MS(100);
        rig_turn();
    }
    assert_int_equal(rig.sent, n); /* given up */
    assert_int_equal(rig_counter("stream", "tx-full"), held);
    peer_frame(&f, 60, 7);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("stream", "tx-full"), held + 1); /* nobody waits any more */
    assert_true(recv(fd, buffer, 1, MSG_PEEK) == 1);
    for (; went < n - held; went++) { /* what had begun to go goes on to its end */
        peer_frame(&f, 9000, (uint8_t)went);
        expect_frame(fd, f.bytes, f.n);
    }
    rig_turn();
    peer_frame(&f, 60, 8);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    expect_frame(fd, f.bytes, f.n);
    rig_stop();
    test_clock = 0;
    close(fd);
}

static void test_rest_while_held(void **state)
{
    int fd = joined();
    unsigned n = fill_up();

    rig_stop(); /* comes to rest, although the peer takes nothing */
    assert_int_equal(rig.sent, n);
    close(fd);
}

static void test_guest_without_buffers(void **state)
{
    int fd = joined();

    net_set_room(rig.lane, true, 0);
    peer_frame(&f, 500, 4);
    for (unsigned i = 0; i < 20; i++)
        send_framed(fd, f.bytes, f.n);
    for (unsigned i = 0; i < 20; i++)
        rig_turn();
    assert_int_equal(rig.guest.n, 0);
    net_set_room(rig.lane, true, 5); /* and so each turn gives five; the rest is in the buffer */
    net_resume(rig.lane);
    TURN_UNTIL(rig.guest.n == 20);
    rig_stop();
    close(fd);
}

static void test_listens(void **state)
{
    int first, second;

    start("l", "listen=on");
    assert_int_equal(device_net_info(rig.dev)->link, DT_LINK_DOWN);
    peer_frame(&f, 60, 5);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("stream", "tx-down"), 1);
    first = peer_connect("l", SOCK_STREAM);
    send_framed(first, f.bytes, f.n);
    peer_expect_guest(0, &f);
    TURN_UNTIL(device_net_info(rig.dev)->link == DT_LINK_UP);
    second = peer_connect("l", SOCK_STREAM);
    send_framed(second, f.bytes, f.n);
    for (unsigned i = 0; i < 20; i++)
        rig_turn();
    assert_int_equal(rig.guest.n, 1); /* one at a time */
    close(first);
    peer_expect_guest(1, &f);
    assert_int_equal(rig_counter("stream", "connects"), 2);
    rig_stop();
    start("l", "listen=on"); /* a socket that nobody serves is replaced */
    first = peer_connect("l", SOCK_STREAM);
    send_framed(first, f.bytes, f.n);
    peer_expect_guest(0, &f);
    rig_stop();
    close(first);
    close(second);
}

static void test_peer_comes_late(void **state)
{
    int listener, fd;

    start("late", "");
    peer_frame(&f, 60, 6);
    for (unsigned i = 0; i < 50; i++)
        rig_turn();
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("stream", "tx-down"), 1);
    TURN_UNTIL(device_net_info(rig.dev)->link == DT_LINK_DOWN);
    listener = peer_bind("late", SOCK_STREAM);
    fd = peer_accept(listener);
    TURN_UNTIL(rig_counter("stream", "connects") == 1);
    TURN_UNTIL(device_net_info(rig.dev)->link == DT_LINK_UP);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    expect_frame(fd, f.bytes, f.n);
    close(fd);
    TURN_UNTIL(device_net_info(rig.dev)->link == DT_LINK_DOWN);
    rig_stop();
    close(listener);
}

static void test_bad_parameters(void **state)
{
    static const struct rig_refusal cases[] = {
        {"stream", "address"},
        {"stream address=/run/x", "no address"},
        {"stream address=unix-dgram:/x", "for datagrams"},
        {"stream address=tcp:127.0.0.1:0", "no address"},
        {"stream address=unix:/no/such/folder/x listen=on", "No such file"},
        {"stream address=tcp:192.0.2.1:7 listen=on", "cannot listen"},
        {"stream address=unix:/tmp/x mtu=60", "mtu"},
        {"stream address=fd:0", "say listen=on"},
        {"stream address=fd:0 listen=on", "no Unix socket that listens"},
        {"stream address=fd:987654 listen=on", "no Unix socket that listens"},
        {"stream address=fd:x listen=on", "no Unix socket that listens"},
    };

    rig_refuses(cases, ARRAY_SIZE(cases));
}

static int clean(void **state)
{
    peer_clean();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),       cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_short_frames),    cmocka_unit_test(test_hostile_length),
        cmocka_unit_test(test_super_frame),     cmocka_unit_test(test_vnet),
        cmocka_unit_test(test_back_pressure),   cmocka_unit_test(test_patience),
        cmocka_unit_test(test_rest_while_held), cmocka_unit_test(test_guest_without_buffers),
        cmocka_unit_test(test_listens),         cmocka_unit_test(test_peer_comes_late),
        cmocka_unit_test(test_bad_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, clean);
}
