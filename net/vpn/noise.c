/* SPDX-License-Identifier: MIT */
/* noise.c - the handshake, Noise_IKpsk2: section 5.4 of the paper that wg.h names. */
#include "net/vpn/wg.h"

#include <sodium.h>

static const char construction[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
static const char identifier[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";

/* ---- Steps ---- */

static void label_key(uint8_t out[WG_KEY], const char *label, const uint8_t public_[WG_KEY])
{
    wg_hash(out, label, 8, public_, WG_KEY);
}

static void mix_hash(struct wg_handshake *hs, const void *data, size_t n)
{
    wg_hash(hs->hash, hs->hash, WG_KEY, data, n);
}

static void mix_ephemeral(struct wg_handshake *hs, const uint8_t public_[WG_KEY])
{
    wg_kdf(hs->chain, NULL, NULL, public_, WG_KEY);
    mix_hash(hs, public_, WG_KEY);
}

/* A point of small order gives zero, whatever our key: nothing would be secret. */
static int mix_dh(struct wg_handshake *hs, uint8_t *key, const uint8_t private_[WG_KEY],
                  const uint8_t public_[WG_KEY])
{
    uint8_t shared[WG_KEY];
    int ret = crypto_scalarmult(shared, private_, public_) < 0 ? -EBADMSG : 0;

    if (ret == 0)
        wg_kdf(hs->chain, key, NULL, shared, WG_KEY);
    sodium_memzero(shared, sizeof(shared));
    return ret;
}

/* Each key of a handshake is used once, with nonce 0. */
static const uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];

static void seal(struct wg_handshake *hs, const uint8_t key[WG_KEY], uint8_t *out, const void *data,
                 size_t n)
{
    crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, data, n, hs->hash, WG_KEY, NULL, nonce,
                                              key);
    mix_hash(hs, out, n + WG_TAG);
}

static int unseal(struct wg_handshake *hs, const uint8_t key[WG_KEY], void *out,
                  const uint8_t *data, size_t n)
{
    if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, data, n + WG_TAG, hs->hash,
                                                  WG_KEY, nonce, key) < 0)
        return -EBADMSG;
    mix_hash(hs, data, n + WG_TAG);
    return 0;
}

static void begin(struct wg_handshake *hs, const uint8_t responder[WG_KEY])
{
    wg_hash(hs->chain, construction, sizeof(construction) - 1, "", 0);
    wg_hash(hs->hash, hs->chain, WG_KEY, identifier, sizeof(identifier) - 1);
    mix_hash(hs, responder, WG_KEY);
}

/* ---- Static keys ---- */

void wg_self_init(struct wg_self *self)
{
    crypto_scalarmult_base(self->public_, self->private_);
    label_key(self->mac1_key, "mac1----", self->public_);
    label_key(self->cookie_key, "cookie--", self->public_);
}

int wg_remote_init(const struct wg_self *self, struct wg_remote *remote)
{
    label_key(remote->mac1_key, "mac1----", remote->public_);
    label_key(remote->cookie_key, "cookie--", remote->public_);
    return crypto_scalarmult(remote->shared, self->private_, remote->public_) < 0 ? -EINVAL : 0;
}

/* ---- Messages ---- */

int wg_initiation_make(const struct wg_self *self, const struct wg_remote *remote,
                       struct wg_handshake *hs, const uint8_t stamp[WG_STAMP],
                       struct wg_initiation *m)
{
    uint8_t key[WG_KEY];
    int ret;

    *m = (struct wg_initiation){.type = WG_INITIATION, .sender = hs->local};
    begin(hs, remote->public_);
    randombytes_buf(hs->ephemeral, WG_KEY);
    crypto_scalarmult_base(m->ephemeral, hs->ephemeral);
    mix_ephemeral(hs, m->ephemeral);
    ret = mix_dh(hs, key, hs->ephemeral, remote->public_);
    if (ret == 0) {
        seal(hs, key, m->static_, self->public_, WG_KEY);
        wg_kdf(hs->chain, key, NULL, remote->shared, WG_KEY);
        seal(hs, key, m->stamp, stamp, WG_STAMP);
    }
    sodium_memzero(key, sizeof(key));
    return ret;
}

int wg_initiation_read(const struct wg_self *self, const struct wg_initiation *m,
                       struct wg_handshake *hs, uint8_t public_[WG_KEY])
{
    uint8_t key[WG_KEY];
    int ret;

    *hs = (struct wg_handshake){.remote = m->sender};
    memcpy(hs->ephemeral, m->ephemeral, WG_KEY);
    begin(hs, self->public_);
    mix_ephemeral(hs, m->ephemeral);
    ret = mix_dh(hs, key, self->private_, m->ephemeral);
    ret = ret ?: unseal(hs, key, public_, m->static_, WG_KEY);
    sodium_memzero(key, sizeof(key));
    return ret;
}

int wg_initiation_prove(const struct wg_remote *remote, const struct wg_initiation *m,
                        struct wg_handshake *hs, uint8_t stamp[WG_STAMP])
{
    uint8_t key[WG_KEY];
    int ret;

    wg_kdf(hs->chain, key, NULL, remote->shared, WG_KEY);
    ret = unseal(hs, key, stamp, m->stamp, WG_STAMP);
    sodium_memzero(key, sizeof(key));
    return ret;
}

static void mix_psk(struct wg_handshake *hs, const struct wg_remote *remote, uint8_t key[WG_KEY])
{
    uint8_t tau[WG_KEY];

    wg_kdf(hs->chain, tau, key, remote->psk, WG_KEY);
    mix_hash(hs, tau, WG_KEY);
    sodium_memzero(tau, sizeof(tau));
}

/* @first: what the initiator sends with. */
static void derive(struct wg_handshake *hs, uint8_t first[WG_KEY], uint8_t second[WG_KEY])
{
    wg_kdf(hs->chain, second, NULL, "", 0);
    memcpy(first, hs->chain, WG_KEY);
}

int wg_response_make(const struct wg_remote *remote, struct wg_handshake *hs, struct wg_response *m,
                     struct wg_keys *keys)
{
    uint8_t private_[WG_KEY], key[WG_KEY];
    int ret;

    *m = (struct wg_response){.type = WG_RESPONSE, .sender = hs->local, .receiver = hs->remote};
    randombytes_buf(private_, WG_KEY);
    crypto_scalarmult_base(m->ephemeral, private_);
    mix_ephemeral(hs, m->ephemeral);
    ret = mix_dh(hs, NULL, private_, hs->ephemeral);
    ret = ret ?: mix_dh(hs, NULL, private_, remote->public_);
    if (ret == 0) {
        mix_psk(hs, remote, key);
        seal(hs, key, m->nothing, "", 0);
        derive(hs, keys->receive, keys->send);
    }
    sodium_memzero(private_, sizeof(private_));
    sodium_memzero(key, sizeof(key));
    sodium_memzero(hs, sizeof(*hs));
    return ret;
}

int wg_response_read(const struct wg_self *self, const struct wg_remote *remote,
                     const struct wg_handshake *pending, const struct wg_response *m,
                     struct wg_keys *keys)
{
    struct wg_handshake hs = *pending; /* what is forged must not spoil what is awaited */
    uint8_t key[WG_KEY], nothing[1];
    int ret;

    mix_ephemeral(&hs, m->ephemeral);
    ret = mix_dh(&hs, NULL, hs.ephemeral, m->ephemeral);
    ret = ret ?: mix_dh(&hs, NULL, self->private_, m->ephemeral);
    if (ret == 0) {
        mix_psk(&hs, remote, key);
        ret = unseal(&hs, key, nothing, m->nothing, 0);
    }
    if (ret == 0)
        derive(&hs, keys->send, keys->receive);
    sodium_memzero(key, sizeof(key));
    sodium_memzero(&hs, sizeof(hs));
    return ret;
}
