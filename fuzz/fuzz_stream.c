/* SPDX-License-Identifier: MIT */
/*
 * fuzz_stream.c - any bytes as a stream that 'cvd receive' reads, and changes to a good one with
 * its checksums repaired.
 *
 * The first byte of an input chooses: even, the rest is the stream; odd, the rest is a list of
 * changes, 2 bytes of offset and 1 of value each. Invariants: an error is a text; what is judged
 * good lies within the disk, in order, in whole blocks, and its data is there to be read.
 */
#include "tools/cvd/stream.h"

#define GOOD_MAX ((size_t)64 << 10)

struct input {
    const uint8_t *bytes;
    size_t size;
};

static uint8_t good[GOOD_MAX];
static size_t good_size;

static int put(void *arg, const void *bytes, size_t size)
{
    CHECK(good_size + size <= GOOD_MAX);
    memcpy(good + good_size, bytes, size);
    good_size += size;
    return 0;
}

static void make_good(void)
{
    struct stream_writer w = {.write = put, .zstd = true};
    struct stream_header h = {.flags = STREAM_INCREMENTAL,
                              .sector = 512,
                              .snapshot = {1},
                              .base = {2},
                              .size = 1 << 20,
                              .disk_name = "disk",
                              .snapshot_name = "snapshot",
                              .base_name = "base"};
    static uint8_t data[4 * PX_BLOCK];

    for (size_t i = 0; i < PX_BLOCK; i++)
        data[i] = (uint8_t)(i * i >> 3);
    CHECK(stream_begin(&w, &h) == 0);
    CHECK(stream_data(&w, 0, data, PX_BLOCK) == 0);
    CHECK(stream_data(&w, 2 * PX_BLOCK, data, sizeof(data)) == 0);
    CHECK(stream_zero(&w, 64 * PX_BLOCK, 32 * PX_BLOCK) == 0);
    CHECK(stream_finish(&w, h.size) == 0);
    stream_writer_free(&w);
}

/* No mutation would ever find a checksum. */
static void repair(uint8_t *bytes, size_t size)
{
    struct stream_header h;
    struct stream_record r;
    struct stream_end end;
    uint32_t crc;

    memcpy(&h, bytes, sizeof(h));
    stream_seal(&h);
    memcpy(bytes, &h, sizeof(h));
    for (size_t at = sizeof(h); at + sizeof(r) <= size;) {
        memcpy(&r, bytes + at, sizeof(r));
        if (r.bytes > size - at - sizeof(r))
            return;
        if (r.type == STREAM_END && r.bytes == sizeof(end)) {
            memcpy(&end, bytes + at + sizeof(r), sizeof(end));
            end.crc = crc32c(0, bytes, at);
            memcpy(bytes + at + sizeof(r), &end, sizeof(end));
        }
        r.crc = 0;
        crc = crc32c(crc32c(0, &r, sizeof(r)), bytes + at + sizeof(r), r.bytes);
        memcpy(bytes + at + 4, &crc, sizeof(crc));
        at += sizeof(r) + r.bytes;
    }
}

/* In pieces, as a pipe gives them. */
static ssize_t take(void *arg, void *bytes, size_t size)
{
    struct input *in = arg;
    size_t n = MIN(MIN(size, in->size), (size_t)1000);

    memcpy(bytes, in->bytes, n);
    in->bytes += n;
    in->size -= n;
    return (ssize_t)n;
}

static void read_all(const uint8_t *bytes, size_t size)
{
    struct input in = {bytes, size};
    struct stream_reader r = {.read = take, .arg = &in};
    struct dt_error err = {""};
    uint64_t reached = 0;
    int type = stream_open(&r, &err);

    while (type >= 0 && (type = stream_next(&r, &err)) > 0) {
        const struct stream_record *k = &r.record;

        CHECK(k->offset >= reached && k->offset >= r.header.start);
        CHECK(k->length && k->length % PX_BLOCK == 0 && k->offset % PX_BLOCK == 0);
        CHECK(k->offset + k->length <= r.header.size);
        CHECK(type == STREAM_ZERO || k->length <= STREAM_PIECE);
        if (type == STREAM_DATA)
            (void)crc32c(0, r.data, k->length);
        reached = k->offset + k->length;
    }
    CHECK(type == 0 || *err.text);
    stream_reader_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    _cleanup_free_ uint8_t *copy = NULL;

    if (!good_size)
        make_good();
    if (size == 0)
        return 0;
    if (!(input[0] & 1)) {
        read_all(input + 1, size - 1);
        return 0;
    }
    copy = xcalloc(1, good_size);
    memcpy(copy, good, good_size);
    for (input++, size--; size >= 3; input += 3, size -= 3)
        copy[(size_t)(input[0] | input[1] << 8) % good_size] = input[2];
    read_all(copy, good_size);
    repair(copy, good_size);
    read_all(copy, good_size);
    return 0;
}
