/* SPDX-License-Identifier: MIT */
/*
 * stream.h - a snapshot on its way from one pool to another: devtap-pool-stream(5).
 *
 * Codec alone: it knows neither pools nor files. Whatever it reads is hostile until judged.
 */
#ifndef CVD_STREAM_H
#define CVD_STREAM_H

#include "parallax/format.h"

#define STREAM_VERSION 1u
#define STREAM_PIECE   ((size_t)256 << 10) /* of the disk, in one record */

enum stream_flags { STREAM_INCREMENTAL = 1, STREAM_FLAGS = 1 };

struct stream_header {
    char magic[8];
    uint32_t version, crc;
    uint32_t flags, sector;
    uint8_t snapshot[16], base[16];
    uint64_t size, created, start;
    char disk_name[PX_NAME], snapshot_name[PX_NAME], base_name[PX_NAME];
    uint8_t reserved[48];
};
_Static_assert(sizeof(struct stream_header) == 320, "");

enum stream_type { STREAM_DATA = 1, STREAM_ZSTD, STREAM_ZERO, STREAM_END };

#define STREAM_MAGIC 0x72735850u /* "PXsr" */
struct stream_record {
    uint32_t magic, crc;
    uint8_t type, reserved[3];
    uint32_t bytes;
    uint64_t offset, length;
};
_Static_assert(sizeof(struct stream_record) == 32, "");

struct stream_end {
    uint64_t records;
    uint32_t crc, reserved;
};
_Static_assert(sizeof(struct stream_end) == 16, "");

/** stream_seal() - fill in magic, version and CRC. */
void stream_seal(struct stream_header *h);
/** stream_judge() - is this a header? -EBADMSG or -ENOTSUP with @err. */
int stream_judge(const struct stream_header *h, struct dt_error *err);

#define STREAM_UUID_TEXT 37
void stream_uuid_text(const uint8_t *uuid, char *text);
/** stream_token() - "UUID:OFFSET" taken apart. -EINVAL. */
int stream_token(const char *text, uint8_t *uuid, uint64_t *offset);

/* ---- Writing ---- */

/**
 * struct stream_writer
 * @write: all of @size bytes; 0 or -errno.
 * @zstd:  compress what gets shorter by it.
 */
struct stream_writer {
    int (*write)(void *arg, const void *bytes, size_t size);
    void *arg;
    bool zstd;
    uint32_t crc;
    uint64_t records, bytes;
    void *packed, *context;
};
int stream_begin(struct stream_writer *w, struct stream_header *h);
/** stream_data() - @length bytes at @offset of the disk; at most STREAM_PIECE. */
int stream_data(struct stream_writer *w, uint64_t offset, const void *data, size_t length);
int stream_zero(struct stream_writer *w, uint64_t offset, uint64_t length);
int stream_finish(struct stream_writer *w, uint64_t size);
void stream_writer_free(struct stream_writer *w);

/* ---- Reading ---- */

/**
 * struct stream_reader
 * @read: up to @size bytes; how many, 0 at the end, or -errno.
 * @header, @record: what was read last, judged.
 * @data: of a record of data, record.length bytes.
 */
struct stream_reader {
    ssize_t (*read)(void *arg, void *bytes, size_t size);
    void *arg;
    struct stream_header header;
    struct stream_record record;
    void *data, *packed;
    uint32_t crc;
    uint64_t records, bytes, reached;
};
/** stream_open() - read the header. */
int stream_open(struct stream_reader *r, struct dt_error *err);
/** stream_next() - the next record: its type STREAM_DATA or STREAM_ZERO, 0 at a good end, or
 * -errno: -EBADMSG damaged, -ENODATA it ends early. */
int stream_next(struct stream_reader *r, struct dt_error *err);
void stream_reader_free(struct stream_reader *r);

#endif
