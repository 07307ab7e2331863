/* SPDX-License-Identifier: MIT */
/* session.c - datagrams of a session, and which of them came already. See wg.h. */
#include "net/vpn/wg.h"

#include <sodium.h>

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

size_t wg_session_seal(struct wg_session *s, uint8_t *message, const uint8_t *plain, size_t n)
{
    const struct header h = {WG_TRANSPORT, s->remote, s->counter};
    uint8_t nonce[12];

    if (unlikely(s->counter >= WG_LAST_COUNTER))
        return 0;
    s->counter++; /* before anything can go wrong: it must never be used again */
    make_nonce(nonce, h.counter);
    crypto_aead_chacha20poly1305_ietf_encrypt(message + WG_HEADER, NULL, plain, n, NULL, 0, NULL,
                                              nonce, s->keys.send);
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

ssize_t wg_session_open(struct wg_session *s, uint8_t *message, size_t n)
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
    if (crypto_aead_chacha20poly1305_ietf_decrypt(message + WG_HEADER, NULL, NULL,
                                                  message + WG_HEADER, n - WG_HEADER, NULL, 0,
                                                  nonce, s->keys.receive) < 0)
        return -EBADMSG;
    mark(s, h.counter);
    return (ssize_t)(n - WG_OVERHEAD);
}
