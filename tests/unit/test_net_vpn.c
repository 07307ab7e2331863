/* SPDX-License-Identifier: MIT */
/* test_net_vpn.c - the back `vpn`, with two peers that do what the test says. Its time is the test's. */
#include "net/vpn/vpn.h"
#include "tests/unit/net_peer.h"
#include "tests/unit/vpn_hand.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

extern const struct dt_net_ext net_vpn;

static struct hand a, b;
static struct sockaddr_in card;
static struct wg_self own;
static char own_text[45], own_public[45], conf_path[200], conf_text[4000];
static struct frame f;

/* ---- A card ---- */

static void free_port(struct sockaddr_in *at)
{
    socklen_t size = sizeof(*at);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)at, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)at, &size), 0);
    close(fd);
}

static int setup(void **state)
{
    struct dt_error err;

    assert_int_equal(wg_hash_init(&err), 0);
    hand_keys(own.private_, own_text, own_public);
    wg_self_init(&own);
    free_port(&card);
    hand_open(&a, own.public_, &card);
    hand_open(&b, own.public_, &card);
    conf_text[0] = '\0';
    test_clock = DT_S(1000);
    return 0;
}

static int teardown(void **state)
{
    hand_close(&a);
    hand_close(&b);
    test_clock = 0;
    return 0;
}

static void write_conf(mode_t mode)
{
    int fd;

    snprintf(conf_path, sizeof(conf_path), "%s/vpn.conf", peer_folder());
    unlink(conf_path);
    fd = open(conf_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(write(fd, conf_text, strlen(conf_text)), strlen(conf_text));
    close(fd);
}

static void add_conf(const char *fmt, ...)
{
    size_t n = strlen(conf_text);
    va_list args;

    va_start(args, fmt);
    vsnprintf(conf_text + n, sizeof(conf_text) - n, fmt, args);
    va_end(args);
}

static void add_peer(const struct hand *h, bool endpoint, const char *more)
{
    add_conf("[Peer]\nPublicKey = %s\n", hand_public(h));
    if (endpoint)
        add_conf("Endpoint = 127.0.0.1:%u\n", ntohs(h->at.sin_port));
    add_conf("%s\n", more);
}

static const char *chain_of(const char *options)
{
    static char chain[400];

    snprintf(chain, sizeof(chain), "vpn conf=%s local=127.0.0.1:%u %s", conf_path,
             ntohs(card.sin_port), options);
    return chain;
}

static void start(const char *options)
{
    write_conf(0600);
    rig_start(chain_of(options));
}

/* Both peers, of which we begin with a. */
static void start_two(const char *options)
{
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    add_peer(&b, false, "");
    start(options);
    hand_answer(&a);
    hand_initiate(&b);
}

static void pass(uint64_t ns)
{
    test_clock += ns;
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
}

/* ---- Frames ---- */

#define GUEST 1
#define MAC_A 0xa
#define MAC_B 0xb
#define ALL   0xff

static void put_mac(uint8_t *at, uint8_t number)
{
    static const uint8_t prefix[] = {0x52, 0x54, 0, 0, 0};

    memcpy(at, prefix, 5);
    at[5] = number;
    if (number == ALL)
        memset(at, 0xff, 6);
}

static void make_frame(uint8_t from, uint8_t to, uint32_t length)
{
    frame_ether(&f, 0x88b5);
    put_mac(f.bytes, to);
    put_mac(f.bytes + 6, from);
    while (f.n < length)
        f.bytes[f.n++] = (uint8_t)randombytes_random();
    f.n = length;
}

static void from_guest(uint8_t to)
{
    make_frame(GUEST, to, 200);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void from_hand(struct hand *h, uint8_t from, uint8_t to)
{
    make_frame(from, to, 200);
    hand_frame(h, f.bytes, f.n);
}

static void expect_guest(void)
{
    unsigned n = rig.guest.n;

    TURN_UNTIL(rig.guest.n > n);
    assert_int_equal(rig.guest.frames[n].length, f.n);
    assert_memory_equal(rig.guest.frames[n].data, f.bytes, f.n);
}

static void expect_count(const char *counter, uint64_t n)
{
    TURN_UNTIL(rig_counter("vpn", counter) >= n);
    assert_int_equal(rig_counter("vpn", counter), n);
}

static uint16_t mtu(void)
{
    return device_net_info(rig.dev)->mtu;
}

/* ---- Sessions ---- */

static void test_we_begin(void **state)
{
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    start("");
    assert_int_equal(mtu(), 1426);
    from_guest(ALL); /* never in plaintext */
    assert_int_equal(rig_counter("vpn", "tx-down"), 1);
    hand_answer(&a);
    from_guest(ALL);
    hand_expect_frame(&a, f.bytes, f.n);
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    expect_count("handshakes", 1);
    make_frame(GUEST, ALL, 1426 + 14);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    hand_expect_frame(&a, f.bytes, f.n);
    assert_int_equal(rig_counter("vpn", "tx-fragments"), 0);
    make_frame(GUEST, ALL, 1514); /* of a guest that was not told */
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    hand_expect_frame(&a, f.bytes, f.n);
    make_frame(GUEST, ALL, 1514 + 8 + 1);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    expect_count("tx-long", 1);
    assert_int_equal(rig_counter("vpn", "tx-fragments"), 1);
    rig_stop();
}

/* An address counts when the session is used: an initiation may be a recording. */
static void test_they_begin(void **state)
{
    struct wg_initiation m;

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, false, "");
    start("");
    hand_initiation(&a, &m);
    hand_send(&a, &m, sizeof(m));
    hand_expect(&a, WG_RESPONSE);
    hand_take_response(&a);
    from_guest(ALL);
    expect_count("tx-down", 1);
    assert_int_equal(rig_counter("vpn", "handshakes"), 0);
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    from_guest(MAC_A);
    hand_expect_frame(&a, f.bytes, f.n);
    hand_send(&a, &m, sizeof(m));
    expect_count("rx-replayed", 1);
    rig_stop();
}

static void test_preshared_key(void **state)
{
    char line[80], text[45], unused[45];
    struct wg_initiation m;
    struct wg_response r;
    struct wg_keys keys;

    hand_keys(a.remote.psk, text, unused);
    snprintf(line, sizeof(line), "PresharedKey = %s", text);
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, false, line);
    add_peer(&b, true, line);
    start("");
    hand_initiate(&a);
    hand_expect(&b, WG_INITIATION); /* b does not have it */
    hand_initiation(&b, &m);
    hand_send(&b, &m, sizeof(m));
    hand_expect(&b, WG_RESPONSE);
    memcpy(&r, b.bytes, sizeof(r));
    assert_int_equal(wg_response_read(&b.self, &b.remote, &b.handshake, &r, &keys), -EBADMSG);
    rig_stop();
}

static void test_strangers(void **state)
{
    struct wg_initiation m;
    uint8_t junk[200] = {WG_TRANSPORT};

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, false, "");
    start("");
    hand_initiation(&b, &m); /* no peer of ours */
    hand_send(&b, &m, sizeof(m));
    expect_count("rx-stranger", 1);
    hand_initiation(&a, &m);
    m.stamp[0] ^= 1; /* mac1 tells */
    hand_send(&a, &m, sizeof(m));
    expect_count("rx-forged", 1);
    wg_stamp_macs(&a.pass, &a.remote, &m, sizeof(m), 0);
    hand_send(&a, &m, sizeof(m)); /* and if it does not, the cipher does */
    expect_count("rx-forged", 2);
    hand_send(&a, junk, sizeof(junk)); /* there is no session */
    expect_count("rx-stranger", 2);
    for (unsigned n = 0; n < WG_OVERHEAD; n++)
        hand_send(&a, junk, n);
    hand_send(&a, &m, sizeof(m) - 1);
    junk[0] = 5;
    hand_send(&a, junk, sizeof(junk));
    expect_count("rx-malformed", WG_OVERHEAD + 2);
    rig_stop();
}

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

/* ---- Time ---- */

static void test_renewal(void **state)
{
    struct wg_session first;
    static uint8_t late[400];
    size_t n;

    start_two("");
    first = a.session;
    pass(DT_S(121));
    hand_answer(&a);
    assert_memory_not_equal(&first.keys, &a.session.keys, sizeof(first.keys));
    from_guest(ALL);
    hand_expect_frame(&a, f.bytes, f.n);
    make_frame(MAC_A, GUEST, 100);
    n = wg_session_seal(a.cipher, &first, late, f.bytes, f.n); /* what was on its way */
    hand_send(&a, late, n);
    expect_guest();
    pass(DT_S(60));
    n = wg_session_seal(a.cipher, &first, late, f.bytes, f.n);
    hand_send(&a, late, n);
    expect_count("rx-stranger", 1);
    rig_stop();
}

static void test_signs_of_life(void **state)
{
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    start("");
    hand_answer(&a);
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    pass(DT_S(9));
    assert_true(recv(a.fd, a.bytes, 1, MSG_DONTWAIT) < 0);
    pass(DT_S(2));
    hand_expect_frame(&a, "", 0);
    from_guest(MAC_A); /* and nothing comes back: a new session is tried, and then it is down */
    hand_expect_frame(&a, f.bytes, f.n);
    pass(DT_S(14));
    assert_true(recv(a.fd, a.bytes, 1, MSG_DONTWAIT) < 0);
    pass(DT_S(2));
    hand_expect(&a, WG_INITIATION);
    for (unsigned i = 0; i < 4; i++)
        pass(DT_S(2));
    from_guest(MAC_A);
    expect_count("tx-down", 1);
    while (recv(a.fd, a.bytes, sizeof(a.bytes), MSG_DONTWAIT) >= 0)
        ;
    pass(DT_S(2));
    hand_answer(&a); /* it is back */
    from_guest(MAC_A);
    hand_expect_frame(&a, f.bytes, f.n);
    rig_stop();
}

static void test_keepalive(void **state)
{
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "PersistentKeepalive = 25");
    start("");
    hand_answer(&a);
    for (unsigned i = 0; i < 3; i++) {
        pass(DT_S(26));
        hand_expect_frame(&a, "", 0);
    }
    rig_stop();
}

/* A peer that moves is followed, but only where it proves itself. */
static void test_roaming(void **state)
{
    struct hand moved;
    static uint8_t message[400];
    size_t n;

    start_two("");
    hand_open(&moved, own.public_, &card);
    make_frame(MAC_A, GUEST, 100);
    n = hand_seal(&a, message, f.bytes, f.n);
    message[n - 1] ^= 1;
    hand_send(&moved, message, n);
    expect_count("rx-forged", 1);
    from_guest(ALL);
    hand_expect_frame(&a, f.bytes, f.n);
    make_frame(MAC_A, GUEST, 100);
    moved.session = a.session;
    hand_frame(&moved, f.bytes, f.n);
    expect_guest();
    from_guest(MAC_A);
    hand_expect_frame(&moved, f.bytes, f.n);
    assert_true(hand_silent(&a));
    hand_close(&moved);
    rig_stop();
}

/* ---- A new process ---- */

static void test_restart(void **state)
{
    static uint8_t state_bytes[64 << 10], old[400];
    struct wg_initiation recorded;
    struct wg_session first;
    struct dt_error err;
    int64_t size;
    size_t n;

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    add_peer(&b, false, "");
    start("");
    hand_answer(&a);
    hand_initiation(&b, &recorded);
    b.stamp = 0;
    hand_initiate(&b);
    first = a.session;
    size = net_vpn.save(rig.dev->layers[rig.dev->nlayers], state_bytes, sizeof(state_bytes));
    assert_true(size > 0);
    for (int64_t i = 0; i + WG_KEY <= size; i++) {
        assert_memory_not_equal(state_bytes + i, own.private_, WG_KEY);
        assert_memory_not_equal(state_bytes + i, first.keys.send, WG_KEY);
        assert_memory_not_equal(state_bytes + i, first.keys.receive, WG_KEY);
    }
    rig_stop();

    rig_start(chain_of(""));
    assert_int_equal(
        net_vpn.load(rig.dev->layers[rig.dev->nlayers], state_bytes, (size_t)size, 1, &err), 0);
    assert_int_equal(
        net_vpn.load(rig.dev->layers[rig.dev->nlayers], state_bytes, (size_t)size - 1, 1, &err),
        -EBADMSG);
    make_frame(MAC_A, GUEST, 100);
    n = wg_session_seal(a.cipher, &first, old, f.bytes, f.n); /* of the session before */
    hand_send(&a, old, n);
    expect_count("rx-stranger", 1);
    hand_send(&b, &recorded, sizeof(recorded));
    expect_count("rx-replayed", 1);
    hand_answer(&a); /* which it asks for without having anything to send */
    assert_memory_not_equal(first.keys.receive, a.session.keys.receive, WG_KEY);
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    rig_stop();
}

/* ---- Floods ---- */

static void test_cookies(void **state)
{
    struct wg_initiation m;
    struct wg_cookie c;

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, false, "");
    start("");
    hand_initiation(&b, &m); /* whoever knows our public key can make these */
    for (unsigned i = 0; i < 60; i++) {
        hand_send(&b, &m, sizeof(m));
        rig_turn();
    }
    expect_count("rx-stranger", 50);
    expect_count("cookies", 10);
    hand_initiation(&a, &m);
    hand_send(&a, &m, sizeof(m));
    hand_expect(&a, WG_COOKIE);
    memcpy(&c, a.bytes, sizeof(c));
    assert_int_equal(c.receiver, m.sender);
    assert_int_equal(wg_cookie_read(&a.pass, &a.remote, &c, 0), 0);
    hand_initiate(&a); /* with the cookie it is let through */
    hand_initiation(&a, &m);
    hand_send(&b, &m, sizeof(m)); /* which is good from its own address alone */
    expect_count("cookies", 12);
    from_hand(&a, MAC_A, GUEST);
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

/* ---- Opening ---- */

static void test_mtu(void **state)
{
    static const struct {
        const char *options, *endpoint;
        uint16_t mtu;
    } cases[] = {
        {"", "127.0.0.1:9", 1426},
        {"path-mtu=9000", "127.0.0.1:9", 8926},
        {"path-mtu=1492", "127.0.0.1:9", 1418},
        {"mtu=1280", "127.0.0.1:9", 1280},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        conf_text[0] = '\0';
        add_conf("[Interface]\nPrivateKey = %s\n[Peer]\nPublicKey = %s\nEndpoint = %s\n", own_text,
                 hand_public(&a), cases[i].endpoint);
        start(cases[i].options);
        assert_int_equal(mtu(), cases[i].mtu);
        rig_stop();
    }
}

static void test_bad_configurations(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no PrivateKey"},
        {"[Interface]\nPrivateKey = @\n", "no [Peer]"},
        {"PrivateKey = @\n", ":1: neither a section"},
        {"[Interface]\nPrivateKey = short\n", ":2: no key"},
        {"[Interface]\nPrivateKey = @=\n", ":2: no key"},
        {"[Interface]\nPrivateKey = @\nPostUp = iptables\n", ":3: 'PostUp' is not known"},
        {"[Interface]\nPublicKey = @\n", "not known in [Interface]"},
        {"[Interface]\nPrivateKey = @\n[Peer]\n", ":3: this peer has no PublicKey"},
        {"[Interface]\nPrivateKey = @\n[Router]\n", ":3: neither [Interface]"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = %\n[Peer]\nPublicKey = %\n",
         ":5: another peer has the same"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = %\nAllowedIPs = 10.9.0.2/32\n",
         "no Address"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = %\nAllowedIPs = 0.0.0.0/0\n",
         ":5: one IPv4 address"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = %\nMACs = 01:00:5e:00:00:01\n",
         ":5: no list"},
        {"[Interface]\nPrivateKey = @\nListenPort = 65536\n", ":3: no number"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = %\nEndpoint = 127.0.0.1\n",
         "no address"},
        {"[Interface]\nPrivateKey = @\n[Peer]\nPublicKey = $\n", ":3: this peer has our own key"},
        {"[Interface]\nPrivateKey = @\n[Peer]\n"
         "PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
         "no point of the curve"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        conf_text[0] = '\0';
        for (const char *p = cases[i].text; *p; p++)
            if (*p == '@' || *p == '%' || *p == '$')
                add_conf("%s", *p == '@' ? own_text : *p == '%' ? hand_public(&a) : own_public);
            else
                add_conf("%c", *p);
        write_conf(0600);
        if (rig_try(chain_of("")) == 0)
            fail_msg("%s was taken", cases[i].text);
        if (!strstr(rig.err.text, cases[i].says))
            fail_msg("%s: %s", cases[i].text, rig.err.text);
        assert_null(strstr(rig.err.text, own_text));
    }
}

static void test_open_to_others(void **state)
{
    static const mode_t modes[] = {0644, 0602, 0620};

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        write_conf(modes[i]);
        assert_int_equal(rig_try(chain_of("")), -EPERM);
        assert_non_null(strstr(rig.err.text, "chmod 600"));
    }
    write_conf(0640);
    rig_start(chain_of(""));
    rig_stop();
}

static int clean(void **state)
{
    peer_clean();
    return 0;
}

static int make_known(void **state)
{
    struct dt_error err;

    return registry_add_net(&net_vpn, &err);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_we_begin),
        TEST(test_they_begin),
        TEST(test_preshared_key),
        TEST(test_strangers),
        TEST(test_replay_and_order),
        TEST(test_window),
        TEST(test_addresses_are_bound),
        TEST(test_listed_addresses),
        TEST(test_split_horizon),
        TEST(test_one_peer_cannot_fill_the_table),
        TEST(test_renewal),
        TEST(test_signs_of_life),
        TEST(test_keepalive),
        TEST(test_roaming),
        TEST(test_restart),
        TEST(test_cookies),
        TEST(test_gre),
        TEST(test_mtu),
        TEST(test_bad_configurations),
        TEST(test_open_to_others),
    };

    return cmocka_run_group_tests(tests, make_known, clean);
}
