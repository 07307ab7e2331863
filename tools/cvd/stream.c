/* SPDX-License-Identifier: MIT */
/*
 * stream.c - writing and reading streams: devtap-pool-stream(5).
 *
 * Theory of operation: each record has a checksum, so that what is damaged is never applied, and
 * the end has one over all, so that no record is missing or moved. A reader never believes a
 * length: what it keeps in memory is one record of at most STREAM_PIECE bytes, whatever the stream
 * says.
 */
#include "tools/cvd/stream.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <zstd.h>

#define MAGIC "PXstream"
#define LEVEL 3

/* ---- Headers and names ---- */

static uint32_t header_crc(const struct stream_header *h)
{
    struct stream_header copy = *h;

    copy.crc = 0;
    return crc32c(0, &copy, sizeof(copy));
}

void stream_seal(struct stream_header *h)
{
    memcpy(h->magic, MAGIC, sizeof(h->magic));
    h->version = STREAM_VERSION;
    h->crc = header_crc(h);
}

static bool all_zero(const void *bytes, size_t n)
{
    const uint8_t *b = bytes;

    while (n && *b == 0)
        b++, n--;
    return n == 0;
}

/* As names of the catalogue are: what is printed of them can do no harm. */
static bool good_name(const char *name)
{
    size_t n = strnlen(name, PX_NAME);

    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr(".-_:+", name[i]))
            return false;
    return n > 0 && n < PX_NAME;
}

static bool possible(const struct stream_header *h)
{
    bool incremental = h->flags & STREAM_INCREMENTAL;

    return !(h->flags & ~(uint32_t)STREAM_FLAGS) && (h->sector == 512 || h->sector == 4096) &&
           h->size > 0 && h->size % PX_BLOCK == 0 && h->size <= PX_MAX_SIZE &&
           h->start % PX_BLOCK == 0 && h->start <= h->size && good_name(h->disk_name) &&
           good_name(h->snapshot_name) && !all_zero(h->snapshot, sizeof(h->snapshot)) &&
           all_zero(h->base, sizeof(h->base)) == !incremental &&
           (incremental ? good_name(h->base_name) : all_zero(h->base_name, PX_NAME)) &&
           all_zero(h->reserved, sizeof(h->reserved));
}

int stream_judge(const struct stream_header *h, struct dt_error *err)
{
    if (memcmp(h->magic, MAGIC, sizeof(h->magic)))
        return dt_fail(err, -EBADMSG, "this is no stream of 'cvd send'");
    if (h->version != STREAM_VERSION)
        return dt_fail(err, -ENOTSUP, "the stream has version %u; this program knows version %u",
                       h->version, STREAM_VERSION);
    if (header_crc(h) != h->crc || !possible(h))
        return dt_fail(err, -EBADMSG, "the stream is damaged: its header");
    return 0;
}

void stream_uuid_text(const uint8_t *uuid, char *text)
{
    for (unsigned i = 0; i < 16; i++)
        text += sprintf(text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

int stream_token(const char *text, uint8_t *uuid, uint64_t *offset)
{
    char *end;

    for (unsigned i = 0; i < 16; i++, text += 2) {
        unsigned byte;

        if (i == 4 || i == 6 || i == 8 || i == 10)
            if (*text++ != '-')
                return -EINVAL;
        if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
            sscanf(text, "%2x", &byte) != 1)
            return -EINVAL;
        uuid[i] = (uint8_t)byte;
    }
    if (text[0] != ':' || !isdigit((unsigned char)text[1]))
        return -EINVAL;
    errno = 0;
    *offset = strtoull(text + 1, &end, 10);
    return *end || errno || *offset % PX_BLOCK ? -EINVAL : 0;
}

/* ---- Writing ---- */

static int put(struct stream_writer *w, const void *bytes, size_t size)
{
    w->crc = crc32c(w->crc, bytes, size);
    w->bytes += size;
    return w->write(w->arg, bytes, size);
}

static int put_record(struct stream_writer *w, struct stream_record *r, const void *payload)
{
    int ret;

    r->magic = STREAM_MAGIC;
    r->crc = 0;
    r->crc = crc32c(crc32c(0, r, sizeof(*r)), payload, r->bytes);
    w->records++;
    ret = put(w, r, sizeof(*r));
    return ret ?: r->bytes ? put(w, payload, r->bytes) : 0;
}

int stream_begin(struct stream_writer *w, struct stream_header *h)
{
    if (w->zstd) {
        w->context = ZSTD_createCCtx();
        w->packed = malloc(STREAM_PIECE);
        CHECK(w->context && w->packed);
    }
    stream_seal(h);
    return put(w, h, sizeof(*h));
}

int stream_data(struct stream_writer *w, uint64_t offset, const void *data, size_t length)
{
    struct stream_record r = {
        .type = STREAM_DATA, .bytes = (uint32_t)length, .offset = offset, .length = length};
    size_t n;

    CHECK(length <= STREAM_PIECE);
    if (!w->zstd)
        return put_record(w, &r, data);
    n = ZSTD_compressCCtx(w->context, w->packed, length - 1, data, length, LEVEL);
    if (ZSTD_isError(n)) /* it did not get shorter */
        return put_record(w, &r, data);
    r.type = STREAM_ZSTD;
    r.bytes = (uint32_t)n;
    return put_record(w, &r, w->packed);
}

int stream_zero(struct stream_writer *w, uint64_t offset, uint64_t length)
{
    struct stream_record r = {.type = STREAM_ZERO, .offset = offset, .length = length};

    return put_record(w, &r, "");
}

int stream_finish(struct stream_writer *w, uint64_t size)
{
    const struct stream_end end = {.records = w->records, .crc = w->crc};
    struct stream_record r = {.type = STREAM_END, .bytes = sizeof(end), .offset = size};

    return put_record(w, &r, &end);
}

void stream_writer_free(struct stream_writer *w)
{
    ZSTD_freeCCtx(w->context);
    free(w->packed);
}

/* ---- Reading ---- */

static int damaged(const struct stream_reader *r, const char *why, struct dt_error *err)
{
    return dt_fail(err, -EBADMSG, "the stream is damaged before byte %" PRIu64 ": %s", r->bytes,
                   why);
}

static int get(struct stream_reader *r, void *bytes, size_t size, struct dt_error *err)
{
    size_t have = 0;

    while (have < size) {
        ssize_t n = r->read(r->arg, (char *)bytes + have, size - have);

        if (n < 0)
            return dt_fail(err, (int)n, "the stream cannot be read: %s", strerror((int)-n));
        if (n == 0)
            return dt_fail(err, -ENODATA, "the stream ends early, after %" PRIu64 " bytes",
                           r->bytes + have);
        have += (size_t)n;
    }
    r->bytes += size;
    return 0;
}

int stream_open(struct stream_reader *r, struct dt_error *err)
{
    int ret;

    r->data = xaligned(PX_BLOCK, STREAM_PIECE);
    r->packed = xaligned(PX_BLOCK, STREAM_PIECE);
    ret = get(r, &r->header, sizeof(r->header), err);
    ret = ret ?: stream_judge(&r->header, err);
    r->crc = crc32c(0, &r->header, sizeof(r->header));
    r->reached = r->header.start;
    return ret;
}

static bool fits(const struct stream_reader *r)
{
    const struct stream_record *k = &r->record;

    if (k->magic != STREAM_MAGIC || !all_zero(k->reserved, sizeof(k->reserved)))
        return false;
    if (k->type == STREAM_END)
        return k->offset == r->header.size && k->length == 0 &&
               k->bytes == sizeof(struct stream_end);
    if (k->offset % PX_BLOCK || k->length % PX_BLOCK || k->length == 0 || k->offset < r->reached ||
        k->offset > r->header.size || k->length > r->header.size - k->offset)
        return false;
    if (k->type == STREAM_ZERO)
        return k->bytes == 0;
    if (k->length > STREAM_PIECE)
        return false;
    return k->type == STREAM_DATA ? k->bytes == k->length
                                  : k->type == STREAM_ZSTD && k->bytes < k->length;
}

static int take_end(struct stream_reader *r, struct dt_error *err)
{
    struct stream_end end;

    memcpy(&end, r->packed, sizeof(end));
    if (end.records != r->records || end.crc != r->crc || end.reserved)
        return damaged(r, "what was read before its end is not all that was sent", err);
    return 0;
}

int stream_next(struct stream_reader *r, struct dt_error *err)
{
    struct stream_record *k = &r->record, plain;
    void *payload;
    uint32_t crc;
    int ret = get(r, k, sizeof(*k), err);

    if (ret < 0)
        return ret;
    if (!fits(r))
        return damaged(r, "a record that cannot be", err);
    payload = k->type == STREAM_DATA ? r->data : r->packed;
    ret = get(r, payload, k->bytes, err);
    if (ret < 0)
        return ret;
    plain = *k;
    plain.crc = 0;
    crc = crc32c(crc32c(0, &plain, sizeof(plain)), payload, k->bytes);
    if (crc != k->crc)
        return damaged(r, "a record differs from its checksum", err);
    if (k->type == STREAM_END)
        return take_end(r, err);
    if (k->type == STREAM_ZSTD &&
        ZSTD_decompress(r->data, k->length, payload, k->bytes) != k->length)
        return damaged(r, "a record cannot be decompressed", err);
    r->crc = crc32c(crc32c(r->crc, k, sizeof(*k)), payload, k->bytes);
    r->records++;
    r->reached = k->offset + k->length;
    return k->type == STREAM_ZERO ? STREAM_ZERO : STREAM_DATA;
}

void stream_reader_free(struct stream_reader *r)
{
    free(r->data);
    free(r->packed);
}
