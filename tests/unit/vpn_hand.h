/* SPDX-License-Identifier: MIT */
/* vpn_hand.h - a peer of the back `vpn` that does what the test says: any message, any number of times. */
#ifndef TESTS_VPN_HAND_H
#define TESTS_VPN_HAND_H

#include "net/vpn/wg.h"

#include <netinet/in.h>

#define HAND_BYTES 70000u

/**
 * struct hand - @card: where the card reads. @remote: the card. @bytes, @n: the last message that came.
 */
struct hand {
    int fd;
    struct sockaddr_in at, card;
    struct wg_self self;
    struct wg_remote remote;
    struct wg_pass pass;
    struct wg_handshake handshake;
    struct wg_session session;
    struct wg_cipher *cipher;
    uint64_t stamp;
    uint8_t bytes[HAND_BYTES];
    size_t n;
};

/** hand_keys() - a private key, and base64 of it and of its public one. */
void hand_keys(uint8_t private_[WG_KEY], char text[45], char public_[45]);
/** hand_open() - a socket and a key of its own. @public_: of the card. */
void hand_open(struct hand *h, const uint8_t public_[WG_KEY], const struct sockaddr_in *card);
void hand_close(struct hand *h);
/** hand_public() - its key as a configuration has it. */
const char *hand_public(const struct hand *h);

void hand_send(struct hand *h, const void *message, size_t n);
/** hand_expect() - wait for a message of @type, forgetting others; then see @bytes. */
void hand_expect(struct hand *h, uint32_t type);
/** hand_silent() - nothing came, or only signs of life. */
bool hand_silent(struct hand *h);

/** hand_answer() - await an initiation and answer it, then await the proof that it worked. */
void hand_answer(struct hand *h);
/** hand_respond() - the same with one that came before. */
void hand_respond(struct hand *h, const struct wg_initiation *m);
/** hand_initiation() - one that would begin a session, for hand_send(). */
void hand_initiation(struct hand *h, struct wg_initiation *m);
/** hand_initiate() - begin a session, and use it once. */
void hand_initiate(struct hand *h);
/** hand_take_response() - what came is one. */
void hand_take_response(struct hand *h);

/** hand_seal() - a message with this frame. Return: its length. */
size_t hand_seal(struct hand *h, uint8_t *message, const void *frame, size_t n);
/** hand_frame() - send a frame. */
void hand_frame(struct hand *h, const void *frame, size_t n);
/** hand_take_frame() - one of @n bytes came. Return: its content, until the next message. */
const uint8_t *hand_take_frame(struct hand *h, size_t n);
/** hand_expect_frame() - one with exactly this content came. */
void hand_expect_frame(struct hand *h, const void *frame, size_t n);

#endif
