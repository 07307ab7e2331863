/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the extension `crypt` share. */
#ifndef CRYPT_INTERNAL_H
#define CRYPT_INTERNAL_H

#include "base/base.h"
#include <devtap/block.h>

/* ---- Secrets (secret.c) ------------------------------------------------------------------------ */

/** struct secret - bytes in pages of their own: locked, in no core dump, wiped when freed. */
struct secret {
    uint8_t *bytes;
    size_t length, room;
};
/** secret_new() - room for @room bytes, all zero; @length is 0. */
int secret_new(struct secret *secret, size_t room, struct dt_error *err);
/** secret_free() - wipe; harmless on one that is all zero. */
void secret_free(struct secret *secret);

/* ---- Passphrases (key.c) ------------------------------------------------------------------------ */

/** struct key_source - where the passphrase comes from; exactly one is given. */
struct key_source {
    const char *file, *keyring;
    bool prompt;
};
/** key_obtain() - the passphrase; @what names the disk in a prompt. */
int key_obtain(const struct key_source *source, const char *what, struct secret *passphrase,
               struct dt_error *err);

/* ---- AES-XTS (xts.c) ---------------------------------------------------------------------------- */

#define XTS_MAX_UNIT 4096u

struct xts;
/**
 * xts_new() - contexts of one thread.
 * @key:  two keys, one after the other: 32 bytes for AES-128, 64 for AES-256.
 * @unit: bytes enciphered as one, 512 to 4096: the encryption sector.
 */
int xts_new(struct xts **xts, const uint8_t *key, size_t bytes, uint32_t unit,
            struct dt_error *err);
void xts_free(struct xts *xts);
/**
 * xts_encrypt() - gather @bytes from @from, whose bytes others may be changing, into @to.
 * @iv: number of the first 512 bytes (plain64); grows by @unit / 512 with every unit.
 */
void xts_encrypt(struct xts *xts, uint64_t iv, const struct iovec *from, unsigned n, uint8_t *to,
                 size_t bytes);
/** xts_decrypt() - decipher @bytes in place in @data, and scatter each unit once it is whole. */
void xts_decrypt(struct xts *xts, uint64_t iv, uint8_t *data, size_t bytes,
                 const struct iovec *to, unsigned n);

/* ---- The header (header.c) ----------------------------------------------------------------------- */

/**
 * struct volume - what a header says of its disk.
 * @offset:  first sector of the data, in the disk below.
 * @sectors: of the data; 0 = up to the end of the disk.
 * @iv:      added to a sector's number, both in units of 512 bytes.
 * @unit:    bytes of an encryption sector.
 * @key:     the volume key.
 */
struct volume {
    uint64_t offset, sectors, iv;
    uint32_t unit;
    struct secret key;
};
/**
 * header_unlock() - read the header, in the file @path or if that is NULL at the start of the disk
 * below, and open it with a passphrase.
 */
int header_unlock(struct dt_layer *layer, const char *path, const struct secret *passphrase,
                  struct volume *volume, struct dt_error *err);

#endif
