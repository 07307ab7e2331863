/* SPDX-License-Identifier: MIT */
/* test_net_dgram.c - the back `dgram`, with a peer that sends datagrams of the test's choosing. */
#include "tests/unit/net_peer.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct frame f;
static uint8_t buffer[1 << 18];

static void expect_datagram(int fd)
{
    ssize_t n;

    TURN_UNTIL((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) >= 0);
    assert_int_equal(n, f.n);
    assert_memory_equal(buffer, f.bytes, f.n);
}

static int udp_socket(struct sockaddr_in *at)
{
    socklen_t size = sizeof(*at);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)at, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)at, &size), 0);
    return fd;
}

/* Returns the peer's socket; @ours is where the card reads. */
static int start_udp(struct sockaddr_in *ours, struct sockaddr_in *theirs)
{
    int free_one = udp_socket(ours), fd = udp_socket(theirs);
    char chain[200];

    close(free_one);
    snprintf(chain, sizeof(chain), "dgram local=udp:127.0.0.1:%u remote=udp:127.0.0.1:%u",
             ntohs(ours->sin_port), ntohs(theirs->sin_port));
    rig_start(chain);
    return fd;
}

static void send_to(int fd, const struct sockaddr_in *to, const void *data, size_t n)
{
    assert_int_equal(sendto(fd, data, n, 0, (const struct sockaddr *)to, sizeof(*to)), n);
}

static void test_udp(void **state)
{
    struct sockaddr_in ours, theirs, elsewhere;
    int fd = start_udp(&ours, &theirs), stranger = udp_socket(&elsewhere);
    static const uint32_t lengths[] = {14, 60, 1514, 65499};

    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        peer_frame(&f, lengths[i], (uint8_t)i);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        expect_datagram(fd);
        send_to(stranger, &ours, f.bytes, 100); /* never arrives */
        send_to(fd, &ours, f.bytes, f.n);
        peer_expect_guest(i, &f);
    }
    send_to(fd, &ours, f.bytes, 13);
    send_to(fd, &ours, f.bytes, 0);
    TURN_UNTIL(rig_counter("dgram", "rx-short") == 2);
    assert_int_equal(rig.guest.n, ARRAY_SIZE(lengths));
    peer_frame(&f, 65600, 1); /* more than a datagram holds */
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig_counter("dgram", "tx-down"), 1);
    rig_stop();
    close(fd);
    close(stranger);
}

/* An error of an earlier datagram costs no later one. */
static void test_udp_peer_away(void **state)
{
    struct sockaddr_in ours, theirs;
    int fd = start_udp(&ours, &theirs);

    close(fd);
    peer_frame(&f, 60, 1);
    for (unsigned i = 0; i < 10; i++) {
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        rig_turn();
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&theirs, sizeof(theirs)), 0);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    expect_datagram(fd);
    send_to(fd, &ours, f.bytes, f.n);
    peer_expect_guest(0, &f);
    assert_int_equal(rig.sent, 11);
    rig_stop();
    close(fd);
}

static void start_unix(void)
{
    char chain[300];

    snprintf(chain, sizeof(chain), "dgram local=unix:%s/ours remote=unix:%s/theirs", peer_folder(),
             peer_folder());
    rig_start(chain);
}

static void test_unix(void **state)
{
    int peer = peer_bind("theirs", SOCK_DGRAM), to;

    start_unix();
    to = peer_connect("ours", SOCK_DGRAM);
    peer_frame(&f, 1514, 1);
    peer_send(to, f.bytes, f.n);
    peer_expect_guest(0, &f);
    TURN_UNTIL(rig_send(f.bytes, f.n, NULL, 0) && recv(peer, buffer, 1, MSG_PEEK) == 1);
    expect_datagram(peer);
    peer_frame(&f, 100, 2); /* longer than any frame: as the message would be */
    memset(buffer, 0, 65601);
    peer_send(to, buffer, 65601);
    peer_send(to, f.bytes, f.n);
    peer_expect_guest(1, &f);
    assert_int_equal(rig_counter("dgram", "rx-long"), 1);
    rig_stop();
    close(peer);
    close(to);
}

/* Its queue is short: what it does not hold waits, and comes in order. */
static void test_unix_queue(void **state)
{
    int peer = peer_bind("theirs", SOCK_DGRAM);

    start_unix();
    peer_frame(&f, 60, 0);
    TURN_UNTIL(rig_send(f.bytes, f.n, NULL, 0) && recv(peer, buffer, 1, MSG_PEEK) == 1);
    while (recv(peer, buffer, sizeof(buffer), MSG_DONTWAIT) >= 0)
        ;
    rig.sent = 0;
    for (unsigned i = 0; i < 100; i++) {
        peer_frame(&f, 60, (uint8_t)i);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    }
    assert_in_range(rig.sent, 1, 99);
    for (unsigned i = 0; i < 100; i++) {
        peer_frame(&f, 60, (uint8_t)i);
        expect_datagram(peer);
    }
    assert_int_equal(rig.sent, 100);
    rig_stop();
    close(peer);
}

static void test_unix_peer_comes_back(void **state)
{
    int peer = peer_bind("theirs", SOCK_DGRAM);

    start_unix();
    for (unsigned i = 0; i < 3; i++) {
        peer_frame(&f, 60, (uint8_t)i);
        TURN_UNTIL(rig_send(f.bytes, f.n, NULL, 0) && recv(peer, buffer, 1, MSG_PEEK) == 1);
        expect_datagram(peer);
        close(peer);
        rig_turn();
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        peer = peer_bind("theirs", SOCK_DGRAM);
    }
    assert_true(rig_counter("dgram", "tx-down") > 0);
    rig_stop();
    close(peer);
}

static void test_bad_parameters(void **state)
{
    static const struct rig_refusal cases[] = {
        {"dgram local=udp:127.0.0.1:7000", "remote"},
        {"dgram local=udp:127.0.0.1:7000 remote=unix:/tmp/x", "same kind"},
        {"dgram local=tcp:127.0.0.1:7000 remote=tcp:127.0.0.1:7001", "same kind"},
        {"dgram local=udp:127.0.0.1 remote=udp:127.0.0.1:7001", "no address"},
        {"dgram local=udp:[::1 remote=udp:127.0.0.1:7001", "no address"},
        {"dgram local=udp:192.0.2.1:7000 remote=udp:127.0.0.1:7001", "192.0.2.1"},
        {"dgram local=unix:/no/such/x remote=unix:/tmp/x", "No such file"},
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
        cmocka_unit_test(test_udp),
        cmocka_unit_test(test_udp_peer_away),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_unix_queue),
        cmocka_unit_test(test_unix_peer_comes_back),
        cmocka_unit_test(test_bad_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, clean);
}
