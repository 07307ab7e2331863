/* SPDX-License-Identifier: MIT */
/*
 * header.c - a LUKS header, read and judged by libcryptsetup.
 *
 * Theory of operation: libcryptsetup wants a file, and the header may lie in a disk that only the layers
 * below can read. So its bytes are copied into a file in memory as large as that disk, a hole but for
 * the header, and libcryptsetup works on the copy: no parser of ours sees them, and what it
 * repairs (LUKS2 keeps two copies) it repairs there. The key slots end where the data starts, which is known
 * once the header is loaded; so there are two steps. A detached header goes the same way.
 */
#include "blk/crypt/internal.h"

#include <fcntl.h>
#include <jansson.h>
#include <libcryptsetup.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define HEAD_BYTES (8u << 20)   /* both copies of the largest LUKS2 header */
#define AREA_MAX   (256u << 20) /* more than any key slots need: LUKS2 allows 128 MiB of them */
#define COPY_BYTES (1u << 20)
#define KEY_ROOM   512u

/**
 * struct header - while it is read.
 * @said: libcryptsetup's last error, for ours.
 */
struct header {
    struct dt_layer *layer;
    const char *path;
    int fd, copy;
    uint64_t size;
    struct crypt_device *cd;
    char said[200];
};

/* ---- Its bytes --------------------------------------------------------------------------------- */

static int open_source(struct header *h, struct dt_error *err)
{
    struct stat st;

    h->size = dt_layer_info(h->layer)->sectors << DT_SECTOR_SHIFT;
    if (!h->path)
        return 0;
    h->fd = open(h->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (h->fd < 0)
        return dt_fail(err, -errno, "header=%s: %s", h->path, strerror(errno));
    if (fstat(h->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return dt_fail(err, -EINVAL, "header=%s is not a regular file", h->path);
    h->size = (uint64_t)st.st_size;
    return 0;
}

static int read_source(struct header *h, uint64_t at, uint8_t *data, size_t bytes,
                       struct dt_error *err)
{
    ssize_t n;

    if (!h->path)
        return dt_layer_read_below(h->layer, at >> DT_SECTOR_SHIFT,
                                   (uint32_t)(bytes >> DT_SECTOR_SHIFT), data, err);
    n = pread(h->fd, data, bytes, (off_t)at);
    if (n != (ssize_t)bytes)
        return dt_fail(err, n < 0 ? -errno : -EBADMSG, "header=%s: %s", h->path,
                       n < 0 ? strerror(errno) : "it became shorter");
    return 0;
}

static int copy_bytes(struct header *h, uint64_t from, uint64_t to, struct dt_error *err)
{
    uint8_t *data = xaligned(PAGE_SIZE_4K, COPY_BYTES);
    int ret = 0;

    for (uint64_t at = from; ret == 0 && at < to; at += COPY_BYTES) {
        size_t n = MIN(to - at, (uint64_t)COPY_BYTES);

        ret = read_source(h, at, data, n, err);
        if (ret == 0 && pwrite(h->copy, data, n, (off_t)at) != (ssize_t)n)
            ret = dt_fail(err, -EIO, "no memory for a copy of the header");
    }
    if (ret != -ETIMEDOUT) /* the read may still come */
        free(data);
    return ret;
}

static int make_copy(struct header *h, struct dt_error *err)
{
    h->copy = memfd_create("devtap-crypt-header", MFD_CLOEXEC);
    if (h->copy < 0 || ftruncate(h->copy, (off_t)h->size) < 0)
        return dt_fail(err, -errno, "no memory for a copy of the header: %s", strerror(errno));
    return copy_bytes(h, 0, MIN(h->size, (uint64_t)HEAD_BYTES), err);
}

/* ---- What libcryptsetup says ------------------------------------------------------------------- */

static void on_log(int level, const char *text, void *arg)
{
    struct header *h = arg;
    size_t n = strcspn(text, "\n");

    if (level == CRYPT_LOG_ERROR)
        snprintf(h->said, sizeof(h->said), "%.*s", (int)n, text);
    log_debug("crypt: libcryptsetup: %.*s", (int)n, text);
}

static const char *where(const struct header *h)
{
    return h->path ?: "the disk below";
}

static int load(struct header *h, struct dt_error *err)
{
    char name[64];
    int ret;

    snprintf(name, sizeof(name), "/proc/self/fd/%d", h->copy);
    ret = crypt_init(&h->cd, name);
    if (ret < 0)
        return dt_fail(err, ret, "libcryptsetup cannot start: %s", strerror(-ret));
    crypt_set_log_callback(h->cd, on_log, h);
    crypt_metadata_locking(h->cd, 0); /* the copy is ours alone */
    ret = crypt_load(h->cd, CRYPT_LUKS, NULL);
    if (ret < 0)
        return dt_fail(err, -EBADMSG,
                       "%s has no LUKS header that can be read%s%s ('cryptsetup luksFormat' makes "
                       "one, 'cryptsetup repair' looks at a damaged one)",
                       where(h), h->said[0] ? ": " : "", h->said);
    return 0;
}

/* ---- What can be served ------------------------------------------------------------------------ */

static int judge_cipher(struct header *h, struct dt_error *err)
{
    const char *cipher = crypt_get_cipher(h->cd), *mode = crypt_get_cipher_mode(h->cd);
    int key = crypt_get_volume_key_size(h->cd), unit = crypt_get_sector_size(h->cd);

    if (!cipher || !mode || strcmp(cipher, "aes") != 0 || strcmp(mode, "xts-plain64") != 0)
        return dt_fail(err, -ENOTSUP,
                       "%s is enciphered with %s-%s; this layer does aes-xts-plain64", where(h),
                       cipher ?: "nothing", mode ?: "none");
    if (key != 32 && key != 64)
        return dt_fail(err, -ENOTSUP,
                       "%s has a volume key of %d bits; AES-XTS with 256 or 512 is supported",
                       where(h), 8 * key);
    if (unit != 512 && unit != 1024 && unit != 2048 && unit != 4096)
        return dt_fail(err, -EBADMSG, "%s: a sector of %d bytes is not possible", where(h), unit);
    return 0;
}

/* Where the key changes: can that go on here, and what is needed for it? */
static int judge_change(struct header *h, json_t *json, struct volume *v, struct dt_error *err)
{
    const char *why = "its header is apart";
    uint8_t size[8];
    int ret = h->path ? -ENOTSUP : luks2_change(json, &v->change, &why);

    if (ret == 1 && dt_layer_threads(h->layer) > 1) {
        why = "that needs a disk with one thread (threads=1)";
        ret = -ENOTSUP;
    }
    if (ret < 0)
        return dt_fail(err, -EBUSY,
                       "%s is being re-encrypted, which cannot go on here: %s; finish it with "
                       "'cryptsetup reencrypt --resume-only'",
                       where(h), why);
    if (pread(h->copy, size, sizeof(size), 8) != sizeof(size))
        return dt_fail(err, -EIO, "the copy of the header cannot be read");
    for (unsigned i = 0; i < sizeof(size); i++)
        v->header = v->header << 8 | size[i];
    v->changing = ret == 1;
    return 0;
}

/* One segment, without integrity. */
static int judge_segments(struct header *h, json_t *json, struct volume *v, struct dt_error *err)
{
    json_t *segment = json_object_get(json_object_get(json, "segments"), "0");
    const char *size = json_string_value(json_object_get(segment, "size")) ?: "";

    if (json_object_size(json_object_get(json, "segments")) != 1 || !segment)
        return dt_fail(err, -ENOTSUP, "%s has several segments; this layer serves one", where(h));
    if (json_object_get(segment, "integrity"))
        return dt_fail(err, -ENOTSUP,
                       "%s keeps integrity tags, which only the kernel's dm-integrity can serve",
                       where(h));
    if (strcmp(size, "dynamic") != 0)
        v->sectors = strtoull(size, NULL, 10) >> DT_SECTOR_SHIFT;
    return 0;
}

static int judge_text(struct header *h, struct volume *v, json_t **json, struct dt_error *err)
{
    const char *text = NULL;

    if (strcmp(crypt_get_type(h->cd), CRYPT_LUKS2) != 0)
        return 0;
    if (crypt_dump_json(h->cd, &text, 0) < 0 || !(*json = json_loads(text, 0, NULL)))
        return dt_fail(err, -EBADMSG, "%s: its description cannot be read", where(h));
    return crypt_reencrypt_status(h->cd, NULL) == CRYPT_REENCRYPT_NONE
               ? judge_segments(h, *json, v, err)
               : judge_change(h, *json, v, err);
}

static int describe(struct header *h, struct volume *v, struct dt_error *err)
{
    uint64_t below = dt_layer_info(h->layer)->sectors;
    uint32_t block;

    v->offset = crypt_get_data_offset(h->cd);
    v->iv = crypt_get_iv_offset(h->cd);
    v->unit = (uint32_t)crypt_get_sector_size(h->cd);
    block = MAX(v->unit, dt_layer_info(h->layer)->logical_block) >> DT_SECTOR_SHIFT;
    if (v->offset >= below || v->sectors > below - v->offset)
        return dt_fail(err, -EBADMSG,
                       "%s says that the data lies in sectors %llu to %llu, but the disk below "
                       "has %llu: it was cut off, or the header is another disk's",
                       where(h), (unsigned long long)v->offset,
                       (unsigned long long)(v->offset + MAX(v->sectors, (uint64_t)1) - 1),
                       (unsigned long long)below);
    if (v->offset % (dt_layer_info(h->layer)->logical_block >> DT_SECTOR_SHIFT) ||
        v->sectors % block)
        return dt_fail(err, -EBADMSG, "%s: the data is not aligned to blocks of %u bytes", where(h),
                       block << DT_SECTOR_SHIFT);
    return 0;
}

/* ---- The key ------------------------------------------------------------------------------------ */

/* @slots: which of them may open, as bits; 0 = any. */
static int unlock(struct header *h, const struct secret *passphrase, uint32_t slots,
                  struct secret *key, struct dt_error *err)
{
    int ret = secret_new(key, KEY_ROOM, err), slot = CRYPT_ANY_SLOT;
    size_t length;

    if (ret < 0)
        return ret;
    do {
        if (slots) {
            slot = __builtin_ctz(slots);
            slots &= slots - 1;
        }
        length = KEY_ROOM;
        ret = crypt_volume_key_get(h->cd, slot, (char *)key->bytes, &length,
                                   (const char *)passphrase->bytes, passphrase->length);
    } while (ret < 0 && slots);
    if (ret == -EPERM)
        return dt_fail(err, -EACCES, "this key opens no key slot of %s", where(h));
    if (ret < 0)
        return dt_fail(err, ret == -ENOENT ? -EBADMSG : ret, "no key slot of %s opens: %s",
                       where(h), h->said[0] ? h->said : strerror(-ret));
    key->length = length;
    if (length != 32 && length != 64)
        return dt_fail(err, -ENOTSUP, "%s has a volume key of %zu bits", where(h), 8 * length);
    return 0;
}

static int unlock_all(struct header *h, json_t *json, const struct secret *passphrase,
                      struct volume *v, struct dt_error *err)
{
    uint32_t old, fresh;
    int ret;

    if (!v->changing)
        return unlock(h, passphrase, 0, &v->key, err);
    old = luks2_slots(json, v->change.old);
    fresh = luks2_slots(json, v->change.fresh);
    if (!old || !fresh)
        return dt_fail(err, -EBADMSG, "%s has no key slot for the old key or the new one",
                       where(h));
    ret = unlock(h, passphrase, old, &v->key, err);
    ret = ret ?: unlock(h, passphrase, fresh, &v->fresh, err);
    if (ret < 0)
        dt_fail_prefix(err, "the key changes, and this must open the old and the new");
    return ret;
}

int header_unlock(struct dt_layer *layer, const char *path, const struct secret *passphrase,
                  struct volume *volume, struct dt_error *err)
{
    struct header h = {.layer = layer, .path = path, .fd = -1, .copy = -1};
    json_t *json = NULL;
    uint64_t area;
    int ret = open_source(&h, err);

    *volume = (struct volume){0};
    ret = ret ?: make_copy(&h, err);
    ret = ret ?: load(&h, err);
    ret = ret ?: judge_cipher(&h, err);
    ret = ret ?: judge_text(&h, volume, &json, err);
    ret = ret ?: describe(&h, volume, err);
    if (ret == 0) {
        area = path ? h.size : MIN(h.size, volume->offset << DT_SECTOR_SHIFT);
        ret = copy_bytes(&h, HEAD_BYTES, MIN(area, (uint64_t)AREA_MAX), err);
    }
    ret = ret ?: unlock_all(&h, json, passphrase, volume, err);
    json_decref(json);
    crypt_free(h.cd);
    if (h.copy >= 0)
        close(h.copy);
    if (h.fd >= 0)
        close(h.fd);
    if (ret < 0) {
        secret_free(&volume->key);
        secret_free(&volume->fresh);
    }
    return ret;
}
