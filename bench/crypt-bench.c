/* SPDX-License-Identifier: MIT */
/*
 * crypt-bench.c - what the extension crypt makes of OpenSSL's AES-XTS: its encryption and decryption of 64 KiB
 * requests on one core, beside one call of OpenSSL on the same 64 KiB, which is what `openssl speed
 * -evp aes-256-xts -bytes 65536` measures. Short alternating rounds in processor time of this thread, so that other
 * work on the machine disturbs little; medians, of the rounds' ratios too. The processor's clock and its other thread still
 * change under us: over many rounds that meets all alike.
 *
 *     crypt-bench [ROUNDS]
 */
#include "blk/crypt/internal.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <time.h>

#define BYTES      65536u
#define ROUND_NS   DT_MS(2)
#define MAX_ROUNDS 2001u

static uint8_t *plain, *cipher, *out;
static EVP_CIPHER_CTX *ctx;

enum way { WHOLE, ENCRYPT, DECRYPT, WAYS };

static void one(enum way way, struct xts *xts, uint64_t n)
{
    struct iovec iov = {plain, BYTES};
    uint64_t tweak[2] = {n, 0};
    int length;

    switch (way) {
    case WHOLE:
        CHECK(EVP_CipherInit_ex(ctx, NULL, NULL, NULL, (uint8_t *)tweak, -1) == 1);
        CHECK(EVP_CipherUpdate(ctx, cipher, &length, plain, BYTES) == 1);
        break;
    case ENCRYPT:
        xts_encrypt(xts, n, &iov, 1, 0, cipher, BYTES);
        break;
    default:
        iov.iov_base = out;
        xts_decrypt(xts, n, cipher, BYTES, &iov, 1, 0);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * DT_S(1) + (uint64_t)t.tv_nsec;
}

static double gigabytes(enum way way, struct xts *xts)
{
    uint64_t start = cpu_ns(), now, n = 0;

    do {
        for (unsigned i = 0; i < 16; i++)
            one(way, xts, n++);
        now = cpu_ns();
    } while (now - start < ROUND_NS);
    return (double)n * BYTES / (double)(now - start);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void compare(const uint8_t *key, size_t bytes, uint32_t unit, unsigned rounds)
{
    static double values[WAYS][MAX_ROUNDS], ratios[WAYS][MAX_ROUNDS];
    struct dt_error err;
    struct xts *xts;

    CHECK(xts_new(&xts, key, bytes, unit, &err) == 0);
    ctx = EVP_CIPHER_CTX_new();
    CHECK(EVP_EncryptInit_ex(ctx, bytes == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts(), NULL, key,
                             plain) == 1);
    for (unsigned r = 0; r < rounds; r++)
        for (enum way way = 0; way < WAYS; way++) {
            values[way][r] = gigabytes(way, xts);
            ratios[way][r] = values[way][r] / values[WHOLE][r];
        }
    for (enum way way = 0; way < WAYS; way++) {
        qsort(values[way], rounds, sizeof(double), by_size);
        qsort(ratios[way], rounds, sizeof(double), by_size);
    }
    printf("| %zu | %u | %.2f | %.2f | %.2f | %.2f | %.2f |\n", bytes * 4, unit,
           values[WHOLE][rounds / 2], values[ENCRYPT][rounds / 2], ratios[ENCRYPT][rounds / 2],
           values[DECRYPT][rounds / 2], ratios[DECRYPT][rounds / 2]);
    EVP_CIPHER_CTX_free(ctx);
    xts_free(xts);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)MIN(strtoul(argv[1], NULL, 10), MAX_ROUNDS) : 201;
    uint8_t key[64];

    plain = xaligned(PAGE_SIZE_4K, BYTES);
    cipher = xaligned(PAGE_SIZE_4K, BYTES);
    out = xaligned(PAGE_SIZE_4K, BYTES);
    for (unsigned i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)(i * 37 + 11);
    puts("GB/s on one core, 64 KiB at a time:\n");
    puts("| AES | sector | OpenSSL, all at once | encrypt | ratio | decrypt | ratio |");
    puts("|---|---|---|---|---|---|---|");
    for (size_t bytes = 32; bytes <= 64; bytes += 32)
        for (uint32_t unit = 512; unit <= 4096; unit *= 8)
            compare(key, bytes, unit, MAX(rounds, 1u));
    free(plain);
    free(cipher);
    free(out);
    return 0;
}
