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

static const struct dt_param params[] = {
    {"header", DT_PARAM_PATH, .offset = offsetof(struct crypt, header),
     .help = "A file with the LUKS header, where the disk below has the data alone."},
    {"key-file", DT_PARAM_PATH, .offset = offsetof(struct crypt, source.file),
     .help = "The passphrase: all bytes of this file."},
    {"keyring", DT_PARAM_STRING, .offset = offsetof(struct crypt, source.keyring),
     .help =
         "The passphrase: a key of type 'user' with this description, in the kernel's keyring."},
    {"prompt", DT_PARAM_BOOL, .offset = offsetof(struct crypt, source.prompt), .initial = "off",
     .help = "Ask for the passphrase, once, at the terminal that devtap is started from."},
    {"discard", DT_PARAM_BOOL, .offset = offsetof(struct crypt, discard), .initial = "off",
     .help = "Pass discards on, which shows below what is unused."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [ENCRYPTED] = {"encrypted-bytes", "bytes", "Bytes enciphered."},
    [DECRYPTED] = {"decrypted-bytes", "bytes", "Bytes deciphered."},
    [REKEYED] = {"rekeyed-bytes", "bytes", "Bytes that were given the new key."},
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
    if (ret == 0 && crypt->volume.changing) {
        ret = rekey_new(layer, err);
        if (ret < 0)
            free_threads(crypt, dt_layer_threads(layer));
    }
    secret_free(&crypt->volume.key);
    secret_free(&crypt->volume.fresh);
    return ret;
}

static void crypt_close(struct dt_layer *layer)
{
    rekey_free(dt_layer_data(layer));
    free_threads(dt_layer_data(layer), dt_layer_threads(layer));
}

static int crypt_start(struct dt_ctx *c, struct dt_error *err)
{
    return rekey_start(c);
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

/* The bytes of a request that have the new key, from its first on; the others have the old. */
static size_t split(const struct crypt *crypt, const struct dt_req *req, struct xts **fresh)
{
    uint64_t until = 0;

    *fresh = likely(!crypt->rekey) ? NULL : rekey_fresh(crypt->rekey, &until);
    if (until <= req->sector)
        return 0;
    return MIN(until - req->sector, (uint64_t)req->sectors) << DT_SECTOR_SHIFT;
}

static void encrypt(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    uint64_t iv = req->sector + crypt->volume.iv;
    const struct iovec *plain;
    struct xts *fresh;
    unsigned n;
    uint8_t *below = dt_req_transform(c, req, &plain, &n);
    size_t first = split(crypt, req, &fresh), bytes = dt_req_bytes(req);

    if (unlikely(first))
        xts_encrypt(fresh, iv, plain, n, 0, below, first);
    xts_encrypt(crypt->threads[c->thread], iv + (first >> DT_SECTOR_SHIFT), plain, n, first,
                below + first, bytes - first);
    dt_count(c, ENCRYPTED, bytes);
}

static void decrypt(struct dt_ctx *c, struct dt_req *req, const uint8_t *below,
                    const struct iovec *plain, unsigned n)
{
    const struct crypt *crypt = c->layer_data;
    uint64_t iv = req->sector + crypt->volume.iv;
    struct xts *fresh;
    size_t first = split(crypt, req, &fresh), bytes = dt_req_bytes(req);

    if (unlikely(first))
        xts_decrypt(fresh, iv, below, first, plain, n, 0);
    xts_decrypt(crypt->threads[c->thread], iv + (first >> DT_SECTOR_SHIFT), below + first,
                bytes - first, plain, n, first);
    dt_count(c, DECRYPTED, bytes);
}

/* On its way: what is below the layer from here on is enciphered and moved. */
static void prepare(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    const struct iovec *plain;
    unsigned n;

    if (req->op == DT_OP_WRITE)
        encrypt(c, req);
    else if (req->op == DT_OP_READ)
        dt_req_transform(c, req, &plain, &n);
    req->sector += crypt->volume.offset;
}

static void granted(struct dt_ctx *c, struct dt_range *range)
{
    struct crypt_frame *frame = container_of(range, struct crypt_frame, range);
    struct dt_req *req = dt_frame_req(c, frame);

    prepare(c, req);
    dt_forward_one(c, req);
}

static enum dt_verdict crypt_request(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    struct crypt_frame *frame = dt_frame(c, req);

    frame->locked = false;
    if (req->op == DT_OP_FLUSH)
        return DT_PASS;
    if (req->op == DT_OP_WRITE_ZEROES || (req->op == DT_OP_DISCARD && !crypt->discard)) {
        req->error = -EOPNOTSUPP;
        return DT_DONE;
    }
    if (unlikely(crypt->rekey)) { /* not while its key changes */
        frame->locked = true;
        frame->range.granted = granted;
        if (!dt_range_lock(c, &frame->range, req->sector, req->sectors))
            return DT_HELD;
    }
    prepare(c, req);
    return DT_PASS;
}

static enum dt_verdict crypt_response(struct dt_ctx *c, struct dt_req *req)
{
    const struct crypt *crypt = c->layer_data;
    struct crypt_frame *frame = dt_frame(c, req);
    const struct iovec *plain;
    uint8_t *below;
    unsigned n;

    if (req->op == DT_OP_FLUSH)
        return DT_PASS;
    req->sector -= crypt->volume.offset;
    if (dt_req_has_data(req)) {
        below = dt_req_restore(c, req, &plain, &n);
        if (req->op == DT_OP_READ && req->error == 0)
            decrypt(c, req, below, plain, n);
    }
    if (unlikely(frame->locked))
        dt_range_unlock(c, &frame->range);
    return DT_PASS;
}

/* ---- Verbs --------------------------------------------------------------------------------------- */

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    const struct crypt *crypt = dt_layer_data(layer);
    uint64_t until;

    dt_reply(reply, "cipher", "aes-xts-plain64");
    dt_reply_u64(reply, "key-bits", 8 * crypt->key_bytes);
    dt_reply_u64(reply, "sector-size", crypt->volume.unit);
    dt_reply_u64(reply, "data-offset", crypt->volume.offset << DT_SECTOR_SHIFT);
    dt_reply(reply, "header", "%s", crypt->header ?: "in the disk");
    if (crypt->rekey) {
        rekey_fresh(crypt->rekey, &until);
        if (until)
            dt_reply_u64(reply, "rekeyed", until << DT_SECTOR_SHIFT);
    }
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "",
     "Tell the cipher, the size of its key and sectors, where the data starts, and how far a "
     "change of keys is.",
     run_status},
    {NULL},
};

const struct dt_block_ext blk_crypt = {
    DT_BLOCK_EXT_HEADER,
    .name = "crypt",
    .summary = "Encipher the disk as cryptsetup does (LUKS2, AES-XTS), with the key outside the VM",
    .help =
        "The disk below holds a LUKS header and enciphered data, or the data alone with header=. "
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
    .frame_size = sizeof(struct crypt_frame),
    .sub_requests = 1,
    .open = crypt_open,
    .close = crypt_close,
    .start = crypt_start,
    .stop = rekey_stop,
    .quiesce = rekey_quiesce,
    .info = crypt_info,
    .request = crypt_request,
    .response = crypt_response,
};
