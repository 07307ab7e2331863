/* SPDX-License-Identifier: MIT */
/*
 * cookie.c - what a handshake must prove before it costs us two multiplications on the curve: see wg.h.
 *
 * Theory of operation: mac1 is keyed with our public key, which a stranger does not know. While more handshakes than
 * LOAD come in a second, mac2 is asked for, too: keyed with a cookie that we sent to the address the message came from,
 * and that we recompute from a secret, so that nothing is stored for strangers. An address that answers
 * cookies is let through PER_SOURCE times a second; sources share one of WG_SOURCES counts by a keyed hash.
 */
#include "net/vpn/wg.h"

#include <sodium.h>

#define LOAD         50u
#define PER_SOURCE   10u
#define COOKIE_LASTS DT_S(120)

static void cookie_of(struct wg_guard *g, const uint8_t *source, size_t n, uint64_t now,
                      uint8_t out[WG_MAC])
{
    if (now >= g->secret_until) {
        randombytes_buf(g->secret, sizeof(g->secret));
        g->secret_until = now + COOKIE_LASTS;
    }
    wg_mac(out, g->secret, WG_KEY, source, n);
}

static bool under_load(struct wg_guard *g, uint64_t now)
{
    uint64_t second = now / DT_S(1);

    if (second != g->second) {
        g->second = second;
        g->seen = 0;
        memset(g->from, 0, sizeof(g->from));
    }
    return ++g->seen > LOAD;
}

static bool source_admitted(struct wg_guard *g, const uint8_t *source, size_t nhost)
{
    uint8_t hash[WG_MAC];

    wg_mac(hash, g->secret, WG_KEY, source, nhost);
    if (g->from[hash[0]] >= PER_SOURCE)
        return false;
    g->from[hash[0]]++;
    return true;
}

static const struct wg_macs *macs_of(const void *message, size_t n)
{
    return (const void *)((const uint8_t *)message + n - sizeof(struct wg_macs));
}

enum wg_verdict wg_guard_judge(struct wg_guard *g, const struct wg_self *self, const void *message,
                               size_t n, const uint8_t *source, size_t nsource, size_t nhost,
                               uint64_t now)
{
    const struct wg_macs *macs = macs_of(message, n);
    uint8_t mac[WG_MAC], cookie[WG_MAC];

    wg_mac(mac, self->mac1_key, WG_KEY, message, n - sizeof(*macs));
    if (sodium_memcmp(mac, macs->mac1, WG_MAC) != 0)
        return WG_REFUSE;
    if (!under_load(g, now))
        return WG_GO_ON;
    cookie_of(g, source, nsource, now, cookie);
    wg_mac(mac, cookie, WG_MAC, message, n - WG_MAC);
    if (sodium_memcmp(mac, macs->mac2, WG_MAC) != 0)
        return WG_ASK_COOKIE;
    return source_admitted(g, source, nhost) ? WG_GO_ON : WG_REFUSE;
}

void wg_cookie_make(struct wg_guard *g, const struct wg_self *self, uint32_t receiver,
                    const struct wg_macs *macs, const uint8_t *source, size_t nsource, uint64_t now,
                    struct wg_cookie *m)
{
    uint8_t cookie[WG_MAC];

    *m = (struct wg_cookie){.type = WG_COOKIE, .receiver = receiver};
    cookie_of(g, source, nsource, now, cookie);
    randombytes_buf(m->nonce, sizeof(m->nonce));
    crypto_aead_xchacha20poly1305_ietf_encrypt(m->cookie, NULL, cookie, WG_MAC, macs->mac1, WG_MAC,
                                               NULL, m->nonce, self->cookie_key);
}

int wg_cookie_read(struct wg_pass *pass, const struct wg_remote *remote, const struct wg_cookie *m,
                   uint64_t now)
{
    uint8_t cookie[WG_MAC];

    if (crypto_aead_xchacha20poly1305_ietf_decrypt(cookie, NULL, NULL, m->cookie, sizeof(m->cookie),
                                                   pass->mac1, WG_MAC, m->nonce,
                                                   remote->cookie_key) < 0)
        return -EBADMSG;
    memcpy(pass->cookie, cookie, WG_MAC);
    pass->until = now + COOKIE_LASTS;
    return 0;
}

void wg_stamp_macs(struct wg_pass *pass, const struct wg_remote *remote, void *message, size_t n,
                   uint64_t now)
{
    struct wg_macs *macs = (void *)((uint8_t *)message + n - sizeof(*macs));

    wg_mac(macs->mac1, remote->mac1_key, WG_KEY, message, n - sizeof(*macs));
    memcpy(pass->mac1, macs->mac1, WG_MAC);
    if (now < pass->until)
        wg_mac(macs->mac2, pass->cookie, WG_MAC, message, n - WG_MAC);
    else
        memset(macs->mac2, 0, WG_MAC);
}
