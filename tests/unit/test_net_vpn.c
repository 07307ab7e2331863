/* SPDX-License-Identifier: MIT */
/* test_net_vpn.c - the back `vpn`: sessions and how they begin, in time, and configurations. */
#include "tests/unit/vpn_rig.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

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

/* Messages cross on the way: there are two sessions, each side may send in another one, and one of them renews. */
static void test_both_begin(void **state)
{
    struct wg_initiation ours;
    struct wg_session theirs;

    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    start("");
    hand_expect(&a, WG_INITIATION);
    memcpy(&ours, a.bytes, sizeof(ours));
    hand_initiate(&a);
    theirs = a.session;
    hand_respond(&a, &ours);
    from_guest(ALL);
    hand_expect_frame(&a, f.bytes, f.n);
    a.session = theirs; /* what they take for the newest */
    from_hand(&a, MAC_A, GUEST);
    expect_guest();
    assert_int_equal(rig_counter("vpn", "handshakes"), 2);
    pass(DT_S(121));
    hand_expect(&a, WG_INITIATION);
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
    hand_open(&moved, own.public_, &a.card);
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

    /* A clone of the guest begins with the same state: its numbers are the same, and its keys are not. */
    first = a.session;
    rig_start(chain_of(""));
    assert_int_equal(
        net_vpn.load(rig.dev->layers[rig.dev->nlayers], state_bytes, (size_t)size, 1, &err), 0);
    hand_answer(&a);
    assert_memory_not_equal(first.keys.receive, a.session.keys.receive, WG_KEY);
    assert_memory_not_equal(first.keys.send, a.session.keys.send, WG_KEY);
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
    assert_int_equal(rig_try(chain_of("mtu=67")), -EINVAL);
    assert_non_null(strstr(rig.err.text, "mtu=67"));
    rig_start(chain_of(""));
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_we_begin),
        TEST(test_they_begin),
        TEST(test_both_begin),
        TEST(test_preshared_key),
        TEST(test_strangers),
        TEST(test_renewal),
        TEST(test_signs_of_life),
        TEST(test_keepalive),
        TEST(test_roaming),
        TEST(test_restart),
        TEST(test_cookies),
        TEST(test_mtu),
        TEST(test_bad_configurations),
        TEST(test_open_to_others),
    };

    return cmocka_run_group_tests(tests, vpn_rig_begin, vpn_rig_clean);
}
