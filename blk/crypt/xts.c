/* SPDX-License-Identifier: MIT */
/*
 * xts.c - AES-XTS with plain64 numbers, over vectors.
 *
 * Theory of operation: the unit of encryption is a sector of 512 to 4096 bytes, each with its number as
 * tweak. A thread has one context for each direction, with the key expanded once, and gives each unit
 * its tweak; nothing is allocated. EVP_CipherInit_ex2() takes longer to pass on 16 bytes than AES does for a sector of 512,
 * so they are written to where the context keeps them, if a trial shows that this is what counts. Encryption reads the guest's buffer directly: whatever it
 * changes meanwhile, it gets back what it wrote last or garbage of its own making. Decryption goes from the private buffer
 * that the back filled into one of a single unit, and is copied out while that is in the nearest cache: no
 * byte that is not plain text is ever in the guest's memory. A unit that lies in several vectors is gathered.
 */
#include "blk/crypt/internal.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

/**
 * struct way - one direction.
 * @tweak: of the next unit, within the context; NULL where it must be passed on.
 */
struct way {
    EVP_CIPHER_CTX *ctx;
    uint64_t *tweak;
};

struct xts {
    EVP_CIPHER *cipher;
    struct way encrypt, decrypt;
    uint32_t unit;
    uint8_t gather[XTS_MAX_UNIT] CACHE_ALIGNED;
};

static int openssl_failed(struct dt_error *err)
{
    char why[256] = "no reason given";
    unsigned long code = ERR_get_error();

    if (code)
        ERR_error_string_n(code, why, sizeof(why));
    return dt_fail(err, -EIO, "OpenSSL does not give AES-XTS: %s", why);
}

/* With valid contexts and lengths neither call can fail; wrong data must not leave if one does. */
static inline void run(const struct way *way, uint64_t iv, const uint8_t *from, uint8_t *to,
                       uint32_t unit)
{
    uint64_t tweak[2] = {iv, 0}; /* plain64: little-endian */
    int done;

    if (likely(way->tweak != NULL))
        memcpy(way->tweak, tweak, sizeof(tweak));
    else
        CHECK(EVP_CipherInit_ex2(way->ctx, NULL, NULL, (const uint8_t *)tweak, -1, NULL) == 1);
    CHECK(EVP_CipherUpdate(way->ctx, to, &done, from, (int)unit) == 1);
}

/*
 * OpenSSL gives a pointer to the tweak that a context works with (EVP_CIPHER_CTX_iv_noconst() is its older name),
 * and other versions or providers may give one to a copy: tried with two numbers.
 */
static void find_tweak(struct way *way)
{
    static const uint8_t plain[32];
    uint8_t passed[2][32], written[2][32];
    const struct way slow = {.ctx = way->ctx};
    void *at = NULL;
    OSSL_PARAM params[] = {OSSL_PARAM_octet_ptr(OSSL_CIPHER_PARAM_UPDATED_IV, &at, 0),
                           OSSL_PARAM_END};

    if (EVP_CIPHER_CTX_get_params(way->ctx, params) != 1 || !at || params[0].return_size != 16)
        return;
    for (unsigned i = 0; i < 2; i++)
        run(&slow, i + 5, plain, passed[i], sizeof(plain));
    way->tweak = at;
    for (unsigned i = 0; i < 2; i++)
        run(way, i + 5, plain, written[i], sizeof(plain));
    if (memcmp(passed, written, sizeof(passed)) != 0)
        way->tweak = NULL;
}

static bool way_new(struct way *way, const EVP_CIPHER *cipher, const uint8_t *key, bool encrypt)
{
    static const uint8_t tweak[16];

    way->ctx = EVP_CIPHER_CTX_new();
    if (!way->ctx || EVP_CipherInit_ex2(way->ctx, cipher, key, tweak, encrypt, NULL) != 1)
        return false;
    find_tweak(way);
    return true;
}

int xts_new(struct xts **out, const uint8_t *key, size_t bytes, uint32_t unit, struct dt_error *err)
{
    struct xts *xts = xaligned(CACHE_LINE, sizeof(*xts));

    CHECK(bytes == 32 || bytes == 64);
    CHECK(unit >= DT_SECTOR_SIZE && unit <= XTS_MAX_UNIT);
    xts->unit = unit;
    xts->cipher = EVP_CIPHER_fetch(NULL, bytes == 64 ? "AES-256-XTS" : "AES-128-XTS", NULL);
    if (!xts->cipher || !way_new(&xts->encrypt, xts->cipher, key, true) ||
        !way_new(&xts->decrypt, xts->cipher, key, false)) {
        xts_free(xts);
        return openssl_failed(err);
    }
    *out = xts;
    return 0;
}

void xts_free(struct xts *xts)
{
    if (!xts)
        return;
    EVP_CIPHER_CTX_free(xts->encrypt.ctx); /* wipes the expanded key */
    EVP_CIPHER_CTX_free(xts->decrypt.ctx);
    EVP_CIPHER_free(xts->cipher);
    explicit_bzero(xts->gather, sizeof(xts->gather));
    free(xts);
}

/* A position in a vector. */
struct cursor {
    const struct iovec *iov;
    unsigned n;
    size_t at;
};

/* Where the next @unit bytes lie if that is in one piece, else NULL; does not move. */
static inline uint8_t *piece(struct cursor *c, uint32_t unit)
{
    while (c->n && c->at == c->iov->iov_len) {
        c->iov++;
        c->n--;
        c->at = 0;
    }
    if (likely(c->n && c->iov->iov_len - c->at >= unit))
        return (uint8_t *)c->iov->iov_base + c->at;
    return NULL;
}

/* Past @bytes, over any number of vectors. */
static void skip(struct cursor *c, size_t bytes)
{
    while (bytes) {
        size_t step = MIN(bytes, c->iov->iov_len - c->at);

        c->at += step;
        bytes -= step;
        if (c->at == c->iov->iov_len) {
            c->iov++;
            c->n--;
            c->at = 0;
        }
    }
}

void xts_encrypt(struct xts *xts, uint64_t iv, const struct iovec *from, unsigned n, size_t first,
                 uint8_t *to, size_t bytes)
{
    struct cursor c = {from, n, 0};
    uint32_t unit = xts->unit;

    skip(&c, first);
    for (size_t at = 0; at < bytes; at += unit, iv += unit >> DT_SECTOR_SHIFT) {
        const uint8_t *plain = piece(&c, unit);

        if (likely(plain != NULL)) {
            c.at += unit;
        } else {
            CHECK(dt_iov_read(c.iov, c.n, c.at, xts->gather, unit) == unit);
            skip(&c, unit);
            plain = xts->gather;
        }
        run(&xts->encrypt, iv, plain, to + at, unit);
    }
}

void xts_decrypt(struct xts *xts, uint64_t iv, const uint8_t *data, size_t bytes,
                 const struct iovec *to, unsigned n, size_t first)
{
    struct cursor c = {to, n, 0};
    uint32_t unit = xts->unit;

    skip(&c, first);
    for (size_t at = 0; at < bytes; at += unit, iv += unit >> DT_SECTOR_SHIFT) {
        uint8_t *plain = piece(&c, unit);

        run(&xts->decrypt, iv, data + at, xts->gather, unit);
        if (likely(plain != NULL)) {
            memcpy(plain, xts->gather, unit);
            c.at += unit;
        } else {
            CHECK(dt_iov_write(c.iov, c.n, c.at, xts->gather, unit) == unit);
            skip(&c, unit);
        }
    }
}
