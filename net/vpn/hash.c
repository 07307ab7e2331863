/* SPDX-License-Identifier: MIT */
/* hash.c - BLAKE2s as WireGuard uses it, by OpenSSL; libsodium has BLAKE2b alone. See wg.h. */
#include "net/vpn/wg.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sodium.h>

/* Of the process; they do not change once they are there. */
static EVP_MD *blake2s;
static EVP_MAC *keyed, *hmac;

static void fetch(void)
{
    blake2s = EVP_MD_fetch(NULL, "BLAKE2S-256", NULL);
    keyed = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
}

int wg_hash_init(struct dt_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint8_t out[WG_KEY];

    pthread_once(&once, fetch);
    if (sodium_init() < 0)
        return dt_fail(err, -ENOSYS, "libsodium finds no source of random numbers");
    if (!blake2s || !keyed || !hmac)
        return dt_fail(err, -ENOTSUP, "OpenSSL has no BLAKE2s here; is it in FIPS mode?");
    wg_hash(out, "", 0, "", 0); /* what the library loads at first use is loaded now */
    return 0;
}

void wg_hash(uint8_t out[WG_KEY], const void *a, size_t na, const void *b, size_t nb)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    CHECK(ctx && EVP_DigestInit_ex(ctx, blake2s, NULL) && EVP_DigestUpdate(ctx, a, na) &&
          EVP_DigestUpdate(ctx, b, nb) && EVP_DigestFinal_ex(ctx, out, NULL));
    EVP_MD_CTX_free(ctx);
}

static void mac(EVP_MAC *kind, const OSSL_PARAM *params, uint8_t *out, size_t nout,
                const uint8_t *key, size_t nkey, const void *data, size_t n)
{
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(kind);

    CHECK(ctx && EVP_MAC_init(ctx, key, nkey, params) && EVP_MAC_update(ctx, data, n) &&
          EVP_MAC_final(ctx, out, NULL, nout));
    EVP_MAC_CTX_free(ctx);
}

void wg_mac(uint8_t out[WG_MAC], const uint8_t *key, size_t nkey, const void *data, size_t n)
{
    size_t size = WG_MAC;
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                                 OSSL_PARAM_construct_end()};

    mac(keyed, params, out, WG_MAC, key, nkey, data, n);
}

static void hmac_of(uint8_t out[WG_KEY], const uint8_t key[WG_KEY], const void *data, size_t n)
{
    char digest[] = "BLAKE2S-256";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                 OSSL_PARAM_construct_end()};

    mac(hmac, params, out, WG_KEY, key, WG_KEY, data, n);
}

void wg_kdf(uint8_t chain[WG_KEY], uint8_t *second, uint8_t *third, const void *input, size_t n)
{
    uint8_t secret[WG_KEY], block[WG_KEY + 1];

    hmac_of(secret, chain, input, n);
    block[0] = 1;
    hmac_of(chain, secret, block, 1);
    memcpy(block, chain, WG_KEY);
    if (second) {
        block[WG_KEY] = 2;
        hmac_of(second, secret, block, sizeof(block));
        memcpy(block, second, WG_KEY);
    }
    if (third) {
        block[WG_KEY] = 3;
        hmac_of(third, secret, block, sizeof(block));
    }
    sodium_memzero(secret, sizeof(secret));
    sodium_memzero(block, sizeof(block));
}
