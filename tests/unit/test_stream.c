/* SPDX-License-Identifier: MIT */
/* test_stream.c - streams of snapshots: what is read is what was written, or an error, never
 * something else. */
#include "tools/cvd/stream.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE ((size_t)1 << 20)

struct pipe {
    uint8_t *bytes;
    size_t have, at, room;
};

static int put(void *arg, const void *bytes, size_t size)
{
    struct pipe *p = arg;

    assert_true(p->have + size <= p->room);
    memcpy(p->bytes + p->have, bytes, size);
    p->have += size;
    return 0;
}

static ssize_t take(void *arg, void *bytes, size_t size)
{
    struct pipe *p = arg;
    size_t n = MIN(size, p->have - p->at);

    memcpy(bytes, p->bytes + p->at, n);
    p->at += n;
    return (ssize_t)n;
}

static struct stream_header header(uint64_t start)
{
    return (struct stream_header){.sector = 512,
                                  .snapshot = {9},
                                  .size = SIZE,
                                  .start = start,
                                  .disk_name = "disk",
                                  .snapshot_name = "snap"};
}

/* Blocks 1 to 3 hold text, which gets shorter; block 8 noise, which does not; 16 to 31 are zero. */
static void write_stream(struct pipe *p, bool zstd)
{
    struct stream_writer w = {.write = put, .arg = p, .zstd = zstd};
    struct stream_header h = header(0);
    static uint8_t text[3 * PX_BLOCK], noise[PX_BLOCK];
    struct dt_rng rng;

    dt_rng_seed(&rng, 5);
    memset(text, 't', sizeof(text));
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)dt_rng_next(&rng);
    *p = (struct pipe){.bytes = xcalloc(1, SIZE), .room = SIZE};
    assert_int_equal(stream_begin(&w, &h), 0);
    assert_int_equal(stream_data(&w, PX_BLOCK, text, sizeof(text)), 0);
    assert_int_equal(stream_data(&w, 8 * PX_BLOCK, noise, sizeof(noise)), 0);
    assert_int_equal(stream_zero(&w, 16 * PX_BLOCK, 16 * PX_BLOCK), 0);
    assert_int_equal(stream_finish(&w, SIZE), 0);
    assert_int_equal(w.bytes, p->have);
    stream_writer_free(&w);
}

/* The disk's contents, or an error. */
static int read_stream(struct pipe *p, uint8_t *disk, struct dt_error *err)
{
    struct stream_reader r = {.read = take, .arg = p};
    int type;

    p->at = 0;
    memset(disk, 0xee, SIZE);
    type = stream_open(&r, err);
    while (type >= 0 && (type = stream_next(&r, err)) > 0) {
        if (type == STREAM_ZERO)
            memset(disk + r.record.offset, 0, r.record.length);
        else
            memcpy(disk + r.record.offset, r.data, r.record.length);
    }
    stream_reader_free(&r);
    return type;
}

static void both_ways(void **state)
{
    _cleanup_free_ uint8_t *disk = malloc(SIZE), *packed = malloc(SIZE);
    struct dt_error err;
    struct pipe plain, zstd;

    write_stream(&plain, false);
    write_stream(&zstd, true);
    assert_true(zstd.have < plain.have - 2 * PX_BLOCK);
    assert_int_equal(read_stream(&plain, disk, &err), 0);
    assert_int_equal(read_stream(&zstd, packed, &err), 0);
    assert_memory_equal(disk, packed, SIZE);
    assert_int_equal(disk[PX_BLOCK], 't');
    assert_int_equal(disk[4 * PX_BLOCK - 1], 't');
    assert_int_equal(disk[4 * PX_BLOCK], 0xee); /* nothing is said of it */
    assert_int_equal(disk[31 * PX_BLOCK], 0);
    free(plain.bytes);
    free(zstd.bytes);
}

static void any_flipped_bit_is_found(void **state)
{
    _cleanup_free_ uint8_t *disk = malloc(SIZE);
    struct dt_error err;
    struct pipe p;

    write_stream(&p, true);
    for (size_t at = 0; at < p.have; at += at < 512 ? 1 : 7) {
        p.bytes[at] ^= (uint8_t)(1u << at % 8);
        if (read_stream(&p, disk, &err) >= 0)
            fail_msg("a flipped bit in byte %zu was not found", at);
        p.bytes[at] ^= (uint8_t)(1u << at % 8);
    }
    free(p.bytes);
}

static void any_end_is_early(void **state)
{
    _cleanup_free_ uint8_t *disk = malloc(SIZE);
    struct dt_error err;
    struct pipe p;
    size_t whole;

    write_stream(&p, true);
    whole = p.have;
    for (p.have = 0; p.have < whole; p.have += 3)
        assert_int_equal(read_stream(&p, disk, &err), -ENODATA);
    free(p.bytes);
}

/* Records that were left out or exchanged have good checksums each. */
static void a_missing_record_is_found(void **state)
{
    _cleanup_free_ uint8_t *disk = malloc(SIZE);
    size_t first = sizeof(struct stream_header), n;
    struct stream_record r;
    struct dt_error err;
    struct pipe p;

    write_stream(&p, false);
    memcpy(&r, p.bytes + first, sizeof(r));
    n = sizeof(r) + r.bytes;
    memmove(p.bytes + first, p.bytes + first + n, p.have - first - n);
    p.have -= n;
    assert_int_equal(read_stream(&p, disk, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "not all that was sent"));
    free(p.bytes);
}

static void tokens(void **state)
{
    uint8_t uuid[16];
    uint64_t offset;
    static const char *const bad[] = {"",
                                      "x",
                                      "01020304-0506-0708-090a-0b0c0d0e0f10",
                                      "01020304-0506-0708-090a-0b0c0d0e0f10:",
                                      "01020304-0506-0708-090a-0b0c0d0e0f10:-4096",
                                      "01020304-0506-0708-090a-0b0c0d0e0f10:1",
                                      "0102030405060708090a0b0c0d0e0f10:0",
                                      "01020304-0506-0708-090a-0b0c0d0e0fzz:0",
                                      "01020304-0506-0708-090a-0b0c0d0e0f10:99999999999999999999"};

    assert_int_equal(stream_token("01020304-0506-0708-090a-0b0c0d0e0f10:8192", uuid, &offset), 0);
    assert_int_equal(uuid[0], 1);
    assert_int_equal(uuid[15], 16);
    assert_int_equal(offset, 8192);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(stream_token(bad[i], uuid, &offset), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),        cmocka_unit_test(any_flipped_bit_is_found),
        cmocka_unit_test(any_end_is_early), cmocka_unit_test(a_missing_record_is_found),
        cmocka_unit_test(tokens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
