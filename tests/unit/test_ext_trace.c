/* SPDX-License-Identifier: MIT */
/* test_ext_trace.c - what the trace writes, the reader reads; and what it makes of damage. */
#include "base/histogram.h"
#include "blk/trace/summary.h"
#include "ext_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static char path[64];
static uint8_t data[64 << 10];

static int fresh_path(void **state)
{
    static unsigned serial;

    snprintf(path, sizeof(path), "ext-trace-%d-%u.tmp", getpid(), serial++);
    unlink(path);
    return 0;
}

static int remove_path(void **state)
{
    unlink(path);
    return 0;
}

static void summarize(struct trace_summary *s)
{
    _cleanup_close_ int fd = open(path, O_RDONLY);
    struct trace_reader *reader;
    struct dt_error err;

    if (trace_reader_new(&reader, fd, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(trace_summarize(reader, s), 0);
    trace_reader_free(reader);
}

/* A thousand requests of a known kind. */
static void record(const char *more)
{
    disk_open("trace out=%s %s | error ops=discard | mem size=4M", path, more);
    for (unsigned i = 0; i < 500; i++)
        disk_do(DT_OP_WRITE, DT_REQ_FUA, i * 8 % 4096, 8, data);
    for (unsigned i = 0; i < 400; i++)
        disk_do(DT_OP_READ, 0, i * 37 % 1000, 1 + i % 7, data);
    for (unsigned i = 0; i < 90; i++)
        disk_do(DT_OP_FLUSH, 0, 0, 0, NULL);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EIO);
    disk_close();
}

static void what_happened_is_recorded(void **state)
{
    static const char *const flagged = "trace";
    struct trace_reader *reader;
    struct trace_entry e;
    struct dt_error err;
    uint64_t before = dt_clock_ns();
    unsigned n = 0;

    record("");
    _cleanup_close_ int fd = open(path, O_RDONLY);
    assert_int_equal(trace_reader_new(&reader, fd, &err), 0);
    while (trace_reader_next(reader, &e) > 0) {
        if (n < 500) {
            assert_int_equal(e.record.op, DT_OP_WRITE);
            assert_int_equal(e.record.sector, n * 8 % 4096);
            assert_int_equal(e.record.sectors, 8);
            assert_int_equal(e.record.flags, DT_REQ_FUA);
        } else if (n >= 990) {
            assert_int_equal(e.record.op, DT_OP_DISCARD);
            assert_int_equal(e.record.error, EIO);
        }
        assert_int_equal(e.record.depth, 1);
        assert_in_range(e.segment->start_monotonic + e.record.time, before, dt_clock_ns());
        assert_true(e.record.latency < DT_S(5));
        assert_string_equal(e.segment->device, "t");
        assert_string_equal(e.segment->layer, flagged);
        assert_int_equal(e.segment->disk_sectors, 8192);
        n++;
    }
    assert_int_equal(n, 1000);
    assert_int_equal(trace_reader_reading(reader)->damaged_bytes, 0);
    assert_int_equal(trace_reader_reading(reader)->dropped, 0);
    trace_reader_free(reader);
}

static void a_summary_adds_up(void **state)
{
    struct trace_summary s;

    record("");
    summarize(&s);
    assert_int_equal(s.reading.records, 1000);
    assert_int_equal(s.ops[DT_OP_WRITE].requests, 500);
    assert_int_equal(s.ops[DT_OP_WRITE].bytes, 500 * 4096);
    assert_int_equal(s.ops[DT_OP_WRITE].sizes[3], 500);
    assert_true(s.ops[DT_OP_WRITE].sequential >= 498);
    assert_true(s.ops[DT_OP_READ].sequential < 100);
    assert_int_equal(s.ops[DT_OP_FLUSH].requests, 90);
    assert_int_equal(s.ops[DT_OP_DISCARD].errors, 10);
    assert_true(s.ops[DT_OP_READ].p50 <= s.ops[DT_OP_READ].p99);
    assert_true(s.ops[DT_OP_READ].p99 <= s.ops[DT_OP_READ].max);
    assert_true(s.ops[DT_OP_READ].iops > 0);
    assert_int_equal(s.ranges, 2);
    assert_int_equal(s.top[0].sector, 0);
    assert_int_equal(s.top[0].requests + s.top[1].requests, 910);
    json_t *json = trace_summary_json(&s);
    assert_non_null(json);
    assert_int_equal(json_integer_value(json_object_get(
                         json_object_get(json_object_get(json, "ops"), "write"), "requests")),
                     500);
    json_decref(json);
}

static void runs_are_continued(void **state)
{
    struct trace_summary s;
    struct stat st;

    record("");
    assert_int_equal(stat(path, &st), 0);
    /* A crash in the middle of a block, at an odd place. */
    assert_int_equal(truncate(path, st.st_size - 1003), 0);
    record("");
    summarize(&s);
    assert_int_equal(s.reading.segments, 2);
    assert_in_range(s.reading.records, 1000, 1999);
    assert_true(s.reading.damaged_bytes > 0);
    /* Two at once would overwrite each other; another file is none of ours. */
    disk_open("trace out=%s | null", path);
    struct disk first = disk;
    assert_int_equal(disk_try("trace out=%s | null", path), -EBUSY);
    assert_error_says("is being written by another trace");
    struct dt_error err = disk.err;
    disk = first;
    disk.err = err;
    disk_close();
    assert_int_equal(disk_try("trace out=/dev/null | null"), -EINVAL);
    assert_error_says("not a regular file");
    int fd = open(path, O_RDWR | O_TRUNC);
    assert_int_equal(write(fd, "some text of mine", 17), 17);
    close(fd);
    assert_int_equal(disk_try("trace out=%s | null", path), -EEXIST);
    assert_error_says("is not a trace");
}

static void damage_is_skipped(void **state)
{
    struct trace_summary s;
    struct stat st;
    uint8_t byte;

    record("");
    assert_int_equal(stat(path, &st), 0);
    for (unsigned i = 0; i < 200; i++) {
        _cleanup_close_ int fd = open(path, O_RDWR);
        off_t at = 256 + (off_t)i * 997 % (st.st_size - 256);

        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        summarize(&s);
        assert_true(s.reading.records < 1000);
        assert_true(s.reading.damaged_bytes > 0);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    summarize(&s);
    assert_int_equal(s.reading.records, 1000);
    /* Every length. */
    for (off_t n = st.st_size - 1; n > 8; n -= 331) {
        assert_int_equal(truncate(path, n), 0);
        summarize(&s);
        assert_true(s.reading.records < 1000);
    }
}

static void a_full_buffer_never_blocks(void **state)
{
    struct trace_summary s;
    uint64_t written, dropped, n = 2000000;

    disk_open("trace out=%s buffer=64K | null size=1M", path);
    for (uint64_t i = 0; i < n; i++)
        disk_submit(DT_OP_READ, 0, 0, 8, data);
    dropped = disk_counter("trace", "dropped");
    disk_close();
    summarize(&s);
    written = s.reading.records;
    assert_int_equal(written + dropped, n);
    assert_int_equal(s.reading.dropped, dropped);
    assert_int_equal(s.reading.missing_blocks, 0);
}

static void a_limit_holds(void **state)
{
    struct trace_summary s;
    struct stat st;

    disk_open("trace out=%s limit=100K | null size=1M", path);
    for (unsigned i = 0; i < 10000; i++)
        disk_submit(DT_OP_READ, 0, 0, 8, data);
    for (uint64_t end = dt_clock_ns() + DT_S(60); dt_clock_ns() < end;)
        if (disk_counter("trace", "written") + disk_counter("trace", "unwritten") == 10000)
            break;
    assert_true(disk_counter("trace", "unwritten") > 0);
    disk_close();
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size <= 100 << 10);
    summarize(&s);
    assert_int_equal(s.reading.damaged_bytes, 0);
}

static void data_is_hashed_as_it_passed(void **state)
{
    struct iovec halves[2] = {{data, 1000}, {data + 1000, 8 * 512 - 1000}};
    struct trace_reader *reader;
    struct trace_entry e;
    struct dt_error err;
    uint32_t hash;

    for (unsigned i = 0; i < 8 * 512; i++)
        data[i] = (uint8_t)(i * 7);
    hash = (uint32_t)XXH3_64bits(data, 8 * 512);
    disk_open("trace out=%s hash=xxh3 | error ops=discard | mem size=1M", path);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 8, 8, data), 0);
    memset(data, 0, 8 * 512);
    disk_wait(disk_submit_iov(DT_OP_READ, 0, 8, 8, halves, 2));
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EIO);
    disk_close();
    _cleanup_close_ int fd = open(path, O_RDONLY);
    assert_int_equal(trace_reader_new(&reader, fd, &err), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(trace_reader_next(reader, &e), 1);
        assert_int_equal(trace_entry_hashed(&e), i < 2);
        assert_int_equal(e.record.data_hash, i < 2 ? hash : 0);
    }
    trace_reader_free(reader);
    /* What is not asked for is neither computed nor claimed. */
    disk_open("trace out=%s | mem size=1M", path);
    assert_int_equal(disk_do(DT_OP_READ, 0, 8, 8, data), 0);
    disk_close();
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(trace_reader_new(&reader, fd, &err), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(trace_reader_next(reader, &e), 1);
    assert_false(trace_entry_hashed(&e));
    assert_int_equal(e.record.data_hash, 0);
    trace_reader_free(reader);
}

static void percentiles_are_close(void **state)
{
    struct histogram *h = xcalloc(1, sizeof(*h));

    assert_int_equal(histogram_percentile(h, 50), 0);
    for (uint64_t v = 1; v <= 100000; v++)
        histogram_add(h, v * 10);
    for (unsigned p = 1; p < 100; p++)
        assert_in_range(histogram_percentile(h, p), p * 10000, p * 10000 * 104 / 100);
    assert_int_equal(histogram_percentile(h, 100), 1000000);
    histogram_add(h, UINT64_MAX);
    histogram_add(h, 0);
    assert_true(histogram_percentile(h, 100) == UINT64_MAX);
    assert_int_equal(h->min, 0);
    free(h);
}

int main(void)
{
#define TRACE_TEST(f) cmocka_unit_test_setup_teardown(f, fresh_path, remove_path)
    const struct CMUnitTest tests[] = {
        TRACE_TEST(what_happened_is_recorded),   TRACE_TEST(a_summary_adds_up),
        TRACE_TEST(runs_are_continued),          TRACE_TEST(damage_is_skipped),
        TRACE_TEST(a_full_buffer_never_blocks),  TRACE_TEST(a_limit_holds),
        TRACE_TEST(data_is_hashed_as_it_passed), cmocka_unit_test(percentiles_are_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
