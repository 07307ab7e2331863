/* SPDX-License-Identifier: MIT */
/*
 * session.c - datagrams of a session, and which of them came already. See wg.h.
 *
 * The cipher is OpenSSL's here: libsodium's takes half as long again for a full frame. Its contexts are of the
 * thread, not of sessions, and get the key with each datagram, which costs little with this cipher; so keys stay where
 * we keep them.
 */
#include "net/vpn/wg.h"

#include <openssl/evp.h>

#define WORD_BITS 64u

/** struct header - of a transport message. */
struct header {
    uint32_t type, receiver;
    uint64_t counter;
};
_Static_assert(sizeof(struct header) == WG_HEADER, "as on the wire");

static void make_nonce(uint8_t nonce[12], uint64_t counter)
{
    memset(nonce, 0, 4);
    memcpy(nonce + 4, &counter, sizeof(counter));
}

struct wg_cipher {
    EVP_CIPHER_CTX *seal, *open;
};

struct wg_cipher *wg_cipher_new(void)
{
    struct wg_cipher *c = xcalloc(1, sizeof(*c));
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);

    c->seal = EVP_CIPHER_CTX_new();
    c->open = EVP_CIPHER_CTX_new();
    if (!cipher || !c->seal || !c->open || !EVP_EncryptInit_ex(c->seal, cipher, NULL, NULL, NULL) ||
        !EVP_DecryptInit_ex(c->open, cipher, NULL, NULL, NULL)) {
        wg_cipher_free(c);
        c = NULL;
    }
    EVP_CIPHER_free(cipher);
    return c;
}

void wg_cipher_free(struct wg_cipher *c)
{
    if (!c)
        return;
    EVP_CIPHER_CTX_free(c->seal);
    EVP_CIPHER_CTX_free(c->open);
    free(c);
}

static void encrypt(EVP_CIPHER_CTX *ctx, const uint8_t *key, const uint8_t *nonce, uint8_t *to,
                    const uint8_t *from, size_t n)
{
    int done;

    CHECK(EVP_EncryptInit_ex(ctx, NULL, NULL, key, nonce) &&
          EVP_EncryptUpdate(ctx, to, &done, from, (int)n) &&
          EVP_EncryptFinal_ex(ctx, to + n, &done) &&
          EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, WG_TAG, to + n));
}

/* In place. What it leaves there of a forged one means nothing. */
static bool decrypt(EVP_CIPHER_CTX *ctx, const uint8_t *key, const uint8_t *nonce, uint8_t *text,
                    size_t n)
{
    int done;

    CHECK(EVP_DecryptInit_ex(ctx, NULL, NULL, key, nonce) &&
          EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, WG_TAG, text + n) &&
          EVP_DecryptUpdate(ctx, text, &done, text, (int)n));
    return EVP_DecryptFinal_ex(ctx, text + n, &done) > 0;
}

size_t wg_session_seal(struct wg_cipher *c, struct wg_session *s, uint8_t *message,
                       const uint8_t *plain, size_t n)
{
    const struct header h = {WG_TRANSPORT, s->remote, s->counter};
    uint8_t nonce[12];

    if (unlikely(s->counter >= WG_LAST_COUNTER))
        return 0;
    s->counter++; /* before anything can go wrong: it must never be used again */
    make_nonce(nonce, h.counter);
    encrypt(c->seal, s->keys.send, nonce, message + WG_HEADER, plain, n);
    memcpy(message, &h, sizeof(h));
    return n + WG_OVERHEAD;
}

/* ---- The replay window ---- */

static uint64_t *word_of(struct wg_session *s, uint64_t counter)
{
    return &s->window[counter / WORD_BITS % WG_WINDOW_WORDS];
}

/* A word of the ring is being filled, so that the others are what can be looked back at. */
static bool is_fresh(struct wg_session *s, uint64_t counter)
{
    if (counter >= s->newest)
        return true;
    if (s->newest - 1 - counter >= (WG_WINDOW_WORDS - 1) * (uint64_t)WORD_BITS)
        return false;
    return !(*word_of(s, counter) >> counter % WORD_BITS & 1);
}

static void mark(struct wg_session *s, uint64_t counter)
{
    if (counter >= s->newest) {
        uint64_t from = s->newest ? (s->newest - 1) / WORD_BITS : 0;
        uint64_t words = MIN(counter / WORD_BITS - from, (uint64_t)WG_WINDOW_WORDS);

        for (uint64_t i = 1; i <= words; i++)
            s->window[(from + i) % WG_WINDOW_WORDS] = 0;
        s->newest = counter + 1;
    }
    *word_of(s, counter) |= 1ull << counter % WORD_BITS;
}

ssize_t wg_session_open(struct wg_cipher *c, struct wg_session *s, uint8_t *message, size_t n)
{
    struct header h;
    uint8_t nonce[12];

    if (n < WG_OVERHEAD)
        return -EBADMSG;
    memcpy(&h, message, sizeof(h));
    if (h.counter >= WG_LAST_COUNTER)
        return -EBADMSG;
    if (!is_fresh(s, h.counter)) /* a look only: nothing is marked before it is proven */
        return -EALREADY;
    make_nonce(nonce, h.counter);
    if (!decrypt(c->open, s->keys.receive, nonce, message + WG_HEADER, n - WG_OVERHEAD))
        return -EBADMSG;
    mark(s, h.counter);
    return (ssize_t)(n - WG_OVERHEAD);
}
