/* SPDX-License-Identifier: MIT */
/*
 * crypt.c - a disk that is enciphered below and plain above, in the format of cryptsetup (LUKS).
 *
 * Theory of operation: all that needs files, memory and time happens in open(): the passphrase, the
 * header, the derivation of the key. What remains are contexts with the expanded key, one pair for each
 * thread, and four numbers; the key itself is wiped. A request is shifted by the header's size on the
 * way down and back on the way up. Writes are enciphered into the private buffer that core reserved for the
 * request; reads arrive in one and are deciphered there. Two threads share nothing that changes.
 *
 * Zeroes are not zeroes below, so the disk cannot write them. A discard would tell whoever holds the disk
 * below which parts are free, so it is refused unless asked for, as by cryptsetup.
 */
#include "blk/crypt/internal.h"

#include <stdio.h>
#include <sys/resource.h>

struct crypt {
    const char *header;
    struct key_source source;
    bool discard;

    struct volume volume;
    size_t key_bytes;
    struct xts **threads;
};

static const struct dt_param params[] = {
    {"header", DT_PARAM_PATH, .offset = offsetof(struct crypt, header),
     .help = "A file with the LUKS header, where the disk below has the data alone."},
    {"key-file", DT_PARAM_PATH, .offset = offsetof(struct crypt, source.file),
     .help = "The passphrase: all bytes of this file."},
    {"keyring", DT_PARAM_STRING, .offset = offsetof(struct crypt, source.keyring),
     .help = "The passphrase: a key of type 'user' with this description, in the kernel's keyring."},
    {"prompt", DT_PARAM_BOOL, .offset = offsetof(struct crypt, source.prompt), .initial = "off",
     .help = "Ask for the passphrase at the terminal (devtap run --single only)."},
    {"discard", DT_PARAM_BOOL, .offset = offsetof(struct crypt, discard), .initial = "off",
     .help = "Pass discards on, which shows below what is unused."},
    {NULL},
};

enum { ENCRYPTED, DECRYPTED };
static const struct dt_counter counters[] = {
    [ENCRYPTED] = {"encrypted-bytes", "bytes", "Bytes enciphered."},
    [DECRYPTED] = {"decrypted-bytes", "bytes", "Bytes deciphered."},
    {NULL},
};

/* ---- Life ------------------------------------------------------------------------------------- */

/* Keys and plain text would be in it. With 1 byte the kernel writes neither a file nor to a
 * pipe; with 0 it would still write to a pipe (core(5)). */
static void forbid_core_dumps(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_cur > 1) {
        limit.rlim_cur = 1;
        setrlimit(RLIMIT_CORE, &limit);
    }
}

static void free_threads(struct crypt *crypt, unsigned n)
{
    for (unsigned t = 0; t < n && crypt->threads; t++)
        xts_free(crypt->threads[t]);
    free(crypt->threads);
    crypt->threads = NULL;
}

static int make_threads(struct crypt *crypt, unsigned n, struct dt_error *err)
{
    const struct volume *v = &crypt->volume;
    int ret = 0;

    crypt->threads = xcalloc(n, sizeof(struct xts *));
    for (unsigned t = 0; ret == 0 && t < n; t++)
        ret = xts_new(&crypt->threads[t], v->key.bytes, v->key.length, v->unit, err);
    if (ret < 0)
        free_threads(crypt, n);
    return ret;
}

static int crypt_open(struct dt_layer *layer, struct dt_error *err)
{
    struct crypt *crypt = dt_layer_data(layer);
    struct secret passphrase;
    int ret;

    forbid_core_dumps();
    ret = key_obtain(&crypt->source, dt_layer_device(layer), &passphrase, err);
    if (ret < 0)
        return ret;
    ret = header_unlock(layer, crypt->header, &passphrase, &crypt->volume, err);
    secret_free(&passphrase);
    if (ret < 0)
        return ret;
    crypt->key_bytes = crypt->volume.key.length;
    ret = make_threads(crypt, dt_layer_threads(layer), err);
    secret_free(&crypt->volume.key);
    return ret;
}

static void crypt_close(struct dt_layer *layer)
{
    free_threads(dt_layer_data(layer), dt_layer_threads(layer));
}

static int crypt_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct crypt *crypt = dt_layer_data(layer);
    const struct volume *v = &crypt->volume;

    info->logical_block = MAX(info->logical_block, v->unit);
    info->physical_block = MAX(info->physical_block, info->logical_block);
    if (info->sectors <= v->offset || v->sectors > info->sectors - v->offset)
        return dt_fail(err, -ENOSPC, "the disk below has %llu sectors, fewer than the header says",
                       (unsigned long long)info->sectors);
    info->sectors = v->sectors ?: info->sectors - v->offset;
    info->sectors -= info->sectors % (info->logical_block >> DT_SECTOR_SHIFT);
    info->can_write_zeroes = info->write_zeroes_unmaps = false;
    info->can_discard &= crypt->discard;
    return 0;
}

/* ---- Requests ----------------------------------------------------------------------------------- */

static enum dt_verdict refuse(struct dt_req *req)
{
    req->error = -EOPNOTSUPP;
    return DT_DONE;
}

static enum dt_verdict crypt_request(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    const struct iovec *plain;
    uint8_t *below;
    unsigned n;

    switch (req->op) {
    case DT_OP_READ:
        dt_req_transform(c, req, &plain, &n);
        break;
    case DT_OP_WRITE:
        below = dt_req_transform(c, req, &plain, &n);
        xts_encrypt(crypt->threads[c->thread], req->sector + crypt->volume.iv, plain, n, below,
                    dt_req_bytes(req));
        dt_count(c, ENCRYPTED, dt_req_bytes(req));
        break;
    case DT_OP_FLUSH:
        return DT_PASS;
    case DT_OP_DISCARD:
        if (!crypt->discard)
            return refuse(req);
        break;
    default:
        return refuse(req);
    }
    req->sector += crypt->volume.offset;
    return DT_PASS;
}

static enum dt_verdict crypt_response(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    const struct iovec *plain;
    uint8_t *below;
    unsigned n;

    if (req->op == DT_OP_FLUSH)
        return DT_PASS;
    req->sector -= crypt->volume.offset;
    if (!dt_req_has_data(req))
        return DT_PASS;
    below = dt_req_restore(c, req, &plain, &n);
    if (req->op == DT_OP_READ && req->error == 0) {
        xts_decrypt(crypt->threads[c->thread], req->sector + crypt->volume.iv, below,
                    dt_req_bytes(req), plain, n);
        dt_count(c, DECRYPTED, dt_req_bytes(req));
    }
    return DT_PASS;
}

/* ---- Verbs --------------------------------------------------------------------------------------- */

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    const struct crypt *crypt = dt_layer_data(layer);

    dt_reply(reply, "cipher", "aes-xts-plain64");
    dt_reply_u64(reply, "key-bits", 8 * crypt->key_bytes);
    dt_reply_u64(reply, "sector-size", crypt->volume.unit);
    dt_reply_u64(reply, "data-offset", crypt->volume.offset << DT_SECTOR_SHIFT);
    dt_reply(reply, "header", "%s", crypt->header ?: "in the disk");
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "Tell the cipher, the size of its key and sectors, and where the data starts.",
     run_status},
    {NULL},
};

const struct dt_block_ext blk_crypt = {
    DT_BLOCK_EXT_HEADER,
    .name = "crypt",
    .summary = "Encipher the disk as cryptsetup does (LUKS2, AES-XTS), with the key outside the VM",
    .help = "The disk below holds a LUKS header and enciphered data, or the data alone with header=. "
            "Made by 'cryptsetup luksFormat', and whatever this layer writes opens with cryptsetup. "
            "The passphrase comes from key-file=, keyring= or prompt=on, never from the command "
            "line. What is read is deciphered in memory that the guest cannot see.",
    .flags = DT_PER_QUEUE | DT_CONTENT_BEARING,
    .read_data = DT_DATA_TRANSFORM,
    .write_data = DT_DATA_TRANSFORM,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct crypt),
    .open = crypt_open,
    .close = crypt_close,
    .info = crypt_info,
    .request = crypt_request,
    .response = crypt_response,
};
