/* SPDX-License-Identifier: MIT */
/* vpn_hand.c - see vpn_hand.h. */
#include "tests/unit/vpn_hand.h"

#include "tests/unit/net_peer.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

void hand_keys(uint8_t private_[WG_KEY], char text[45], char public_[45])
{
    struct wg_self self;

    randombytes_buf(private_, WG_KEY);
    memcpy(self.private_, private_, WG_KEY);
    wg_self_init(&self);
    sodium_bin2base64(text, 45, private_, WG_KEY, sodium_base64_VARIANT_ORIGINAL);
    sodium_bin2base64(public_, 45, self.public_, WG_KEY, sodium_base64_VARIANT_ORIGINAL);
}

void hand_open(struct hand *h, const uint8_t public_[WG_KEY], const struct sockaddr_in *card)
{
    socklen_t size = sizeof(h->at);

    memset(h, 0, sizeof(*h));
    h->card = *card;
    h->cipher = wg_cipher_new();
    h->at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    h->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(h->fd, (struct sockaddr *)&h->at, size), 0);
    assert_int_equal(getsockname(h->fd, (struct sockaddr *)&h->at, &size), 0);
    randombytes_buf(h->self.private_, WG_KEY);
    wg_self_init(&h->self);
    memcpy(h->remote.public_, public_, WG_KEY);
    assert_int_equal(wg_remote_init(&h->self, &h->remote), 0);
}

void hand_close(struct hand *h)
{
    close(h->fd);
    wg_cipher_free(h->cipher);
}

const char *hand_public(const struct hand *h)
{
    static char text[45];

    return sodium_bin2base64(text, sizeof(text), h->self.public_, WG_KEY,
                             sodium_base64_VARIANT_ORIGINAL);
}

void hand_send(struct hand *h, const void *message, size_t n)
{
    assert_int_equal(sendto(h->fd, message, n, 0, (struct sockaddr *)&h->card, sizeof(h->card)), n);
}

static bool receive(struct hand *h)
{
    ssize_t n = recv(h->fd, h->bytes, sizeof(h->bytes), 0);

    h->n = n < 0 ? 0 : (size_t)n;
    return n >= 0;
}

static uint32_t type_of(const struct hand *h)
{
    uint32_t type;

    memcpy(&type, h->bytes, sizeof(type));
    return type;
}

void hand_expect(struct hand *h, uint32_t type)
{
    TURN_UNTIL(receive(h) && type_of(h) == type);
}

bool hand_silent(struct hand *h)
{
    for (unsigned i = 0; i < 20; i++) {
        rig_turn();
        while (receive(h))
            if (type_of(h) == WG_TRANSPORT && h->n > WG_OVERHEAD)
                return false;
    }
    return true;
}

static void begin(struct hand *h, const struct wg_keys *keys, uint32_t local, uint32_t remote)
{
    h->session = (struct wg_session){.live = true, .local = local, .remote = remote, .keys = *keys};
}

void hand_answer(struct hand *h)
{
    struct wg_initiation m;

    hand_expect(h, WG_INITIATION);
    assert_int_equal(h->n, sizeof(m));
    memcpy(&m, h->bytes, sizeof(m));
    hand_respond(h, &m);
}

void hand_respond(struct hand *h, const struct wg_initiation *m)
{
    uint8_t public_[WG_KEY], stamp[WG_STAMP];
    struct wg_response r;
    struct wg_handshake hs;
    struct wg_keys keys;

    assert_int_equal(wg_initiation_read(&h->self, m, &hs, public_), 0);
    assert_memory_equal(public_, h->remote.public_, WG_KEY);
    assert_int_equal(wg_initiation_prove(&h->remote, m, &hs, stamp), 0);
    hs.local = randombytes_random();
    assert_int_equal(wg_response_make(&h->remote, &hs, &r, &keys), 0);
    begin(h, &keys, r.sender, r.receiver);
    wg_stamp_macs(&h->pass, &h->remote, &r, sizeof(r), 0);
    hand_send(h, &r, sizeof(r));
    hand_expect_frame(h, "", 0);
}

void hand_initiation(struct hand *h, struct wg_initiation *m)
{
    uint8_t stamp[WG_STAMP] = {0x40};

    h->stamp++;
    for (unsigned i = 0; i < 8; i++)
        stamp[WG_STAMP - 1 - i] = (uint8_t)(h->stamp >> 8 * i);
    h->handshake.local = randombytes_random();
    assert_int_equal(wg_initiation_make(&h->self, &h->remote, &h->handshake, stamp, m), 0);
    wg_stamp_macs(&h->pass, &h->remote, m, sizeof(*m), 0);
}

void hand_take_response(struct hand *h)
{
    struct wg_response r;
    struct wg_keys keys;

    assert_int_equal(h->n, sizeof(r));
    memcpy(&r, h->bytes, sizeof(r));
    assert_int_equal(r.receiver, h->handshake.local);
    assert_int_equal(wg_response_read(&h->self, &h->remote, &h->handshake, &r, &keys), 0);
    begin(h, &keys, r.receiver, r.sender);
}

void hand_initiate(struct hand *h)
{
    struct wg_initiation m;
    uint64_t before = rig_counter("vpn", "handshakes");

    hand_initiation(h, &m);
    hand_send(h, &m, sizeof(m));
    hand_expect(h, WG_RESPONSE);
    hand_take_response(h);
    hand_frame(h, "", 0);
    TURN_UNTIL(rig_counter("vpn", "handshakes") == before + 1);
}

size_t hand_seal(struct hand *h, uint8_t *message, const void *frame, size_t n)
{
    return wg_session_seal(h->cipher, &h->session, message, frame, n);
}

void hand_frame(struct hand *h, const void *frame, size_t n)
{
    static uint8_t message[HAND_BYTES];

    hand_send(h, message, hand_seal(h, message, frame, n));
}

const uint8_t *hand_take_frame(struct hand *h, size_t n)
{
    do {
        hand_expect(h, WG_TRANSPORT);
    } while (n && h->n == WG_OVERHEAD); /* a sign of life */
    assert_int_equal(h->n, n + WG_OVERHEAD);
    assert_int_equal(wg_session_open(h->cipher, &h->session, h->bytes, h->n), n);
    return h->bytes + WG_HEADER;
}

void hand_expect_frame(struct hand *h, const void *frame, size_t n)
{
    const uint8_t *taken = hand_take_frame(h, n);

    if (n)
        assert_memory_equal(taken, frame, n);
}
