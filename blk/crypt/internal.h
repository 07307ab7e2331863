/* SPDX-License-Identifier: MIT */
/* internal.h - what the parts of the extension `crypt` share. */
#ifndef CRYPT_INTERNAL_H
#define CRYPT_INTERNAL_H

#include "base/base.h"
#include "blk/crypt/luks2.h"
#include "blk/crypt/secret.h"
#include <devtap/block.h>

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
 * xts_encrypt() - gather @bytes from @from, from its byte @first on, whose bytes others may be changing, into @to.
 * @iv: number of the first 512 bytes (plain64); grows by @unit / 512 with every unit.
 */
void xts_encrypt(struct xts *xts, uint64_t iv, const struct iovec *from, unsigned n, size_t first,
                 uint8_t *to, size_t bytes);
/** xts_decrypt() - decipher @bytes of @data, and scatter each unit once it is whole. */
void xts_decrypt(struct xts *xts, uint64_t iv, const uint8_t *data, size_t bytes,
                 const struct iovec *to, unsigned n, size_t first);

/* ---- The header (header.c) ----------------------------------------------------------------------- */

/**
 * struct volume - what a header says of its disk.
 * @offset:  first sector of the data, in the disk below.
 * @sectors: of the data; 0 = up to the end of the disk.
 * @iv:      added to a sector's number, both in units of 512 bytes.
 * @unit:    bytes of an encryption sector.
 * @key:     the volume key; while it changes, the old one.
 * @fresh:   while the key changes (@changing), the new one; @change is what the header said, and @header the bytes
 *           of one of its copies.
 */
struct volume {
    uint64_t offset, sectors, iv, header;
    uint32_t unit;
    bool changing;
    struct luks2_change change;
    struct secret key, fresh;
};
/**
 * header_unlock() - read the header, in the file @path or if that is NULL at the start of the disk
 * below, and open it with a passphrase.
 */
int header_unlock(struct dt_layer *layer, const char *path, const struct secret *passphrase,
                  struct volume *volume, struct dt_error *err);

/* ---- The layer -------------------------------------------------------------------------------- */

struct rekey;
/** struct crypt - the layer. @threads: contexts with the key, of each thread. */
struct crypt {
    const char *header;
    struct key_source source;
    bool discard;

    struct volume volume;
    size_t key_bytes;
    struct xts **threads;
    struct rekey *rekey; /* while the key changes */
};

enum crypt_counter { ENCRYPTED, DECRYPTED, REKEYED };

/** struct crypt_frame - what is kept in each request. @locked: @range is, because the key changes. */
struct crypt_frame {
    struct dt_range range;
    bool locked;
};

/* ---- A change of keys while the disk is used (rekey.c) ---- */

/** rekey_new() - all that it needs, with the keys of @crypt->volume. */
int rekey_new(struct dt_layer *layer, struct dt_error *err);
void rekey_free(struct crypt *crypt);
int rekey_start(struct dt_ctx *c);
void rekey_stop(struct dt_ctx *c);
void rekey_quiesce(struct dt_ctx *c, uint64_t deadline);
/** rekey_fresh() - the contexts with the new key, which holds for the sectors below *@until. */
struct xts *rekey_fresh(const struct rekey *rekey, uint64_t *until);

#endif
