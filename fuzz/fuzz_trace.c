/* SPDX-License-Identifier: MIT */
/*
 * fuzz_trace.c - any bytes as a trace, as they are and once more with all checksums repaired,
 * because no mutation would ever find those.
 *
 * Invariants: what is returned is possible; the counts of the reading agree with what was returned
 * and with the summary; every byte is accounted for within the file's size; the summary becomes
 * JSON.
 */
#include "blk/trace/summary.h"
#include "fuzz/input.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static void check_entry(const struct trace_entry *e)
{
    CHECK(e->record.op < DT_OP_COUNT);
    CHECK(e->record.sector + e->record.sectors <= UINT64_MAX >> DT_SECTOR_SHIFT);
    CHECK(e->record.time + e->record.latency >= e->record.time);
    CHECK(memchr(e->segment->device, 0, sizeof(e->segment->device)));
    CHECK(memchr(e->segment->layer, 0, sizeof(e->segment->layer)));
}

/* Returns the records, or -1 when it is no trace. */
static int64_t read_all(int fd, size_t size)
{
    struct trace_reader *reader;
    struct trace_entry entry;
    struct dt_error err;
    uint64_t n = 0;

    if (trace_reader_new(&reader, fd, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return -1;
    }
    while (trace_reader_next(reader, &entry) > 0) {
        check_entry(&entry);
        n++;
    }
    const struct trace_reading *r = trace_reader_reading(reader);

    CHECK(r->records == n);
    CHECK(r->damaged_bytes + r->segments * sizeof(struct trace_header) +
              r->blocks * sizeof(struct trace_block) +
              (r->records + r->invalid_records) * sizeof(struct trace_record) ==
          size);
    trace_reader_free(reader);
    return (int64_t)n;
}

static void sum_up(int fd, uint64_t records)
{
    static struct trace_summary s;
    struct trace_reader *reader;
    uint64_t requests = 0;
    json_t *json;

    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    CHECK(trace_reader_new(&reader, fd, NULL) == 0);
    CHECK(trace_summarize(reader, &s) == 0);
    trace_reader_free(reader);
    for (unsigned i = 0; i < DT_OP_COUNT; i++) {
        const struct trace_op_summary *op = &s.ops[i];

        requests += op->requests;
        CHECK(op->sequential <= op->requests && op->errors <= op->requests);
        CHECK(op->min <= op->p50 && op->p50 <= op->p99 && op->p99 <= op->max);
    }
    CHECK(requests == records);
    json = trace_summary_json(&s);
    CHECK(json != NULL);
    json_decref(json);
}

static void check_file(const uint8_t *bytes, size_t size)
{
    char path[64];
    _cleanup_close_ int fd = input_file(bytes, size, size, path);
    int64_t records = read_all(fd, size);

    if (records >= 0)
        sum_up(fd, (uint64_t)records);
}

static void repair(uint8_t *bytes, size_t size)
{
    for (size_t at = 0; at + sizeof(struct trace_block) <= size; at += TRACE_ALIGN) {
        struct trace_block block;
        struct trace_header header;

        if (memcmp(bytes + at, TRACE_HEADER_MAGIC, 8) == 0 && at + sizeof(header) <= size) {
            memcpy(&header, bytes + at, sizeof(header));
            header.hash = XXH3_64bits(&header, offsetof(struct trace_header, hash));
            memcpy(bytes + at, &header, sizeof(header));
        }
        if (memcmp(bytes + at, TRACE_BLOCK_MAGIC, 8))
            continue;
        memcpy(&block, bytes + at, sizeof(block));
        size_t records = (size_t)block.records * sizeof(struct trace_record);
        XXH3_state_t state;

        if (block.records > TRACE_BLOCK_MAX || at + sizeof(block) + records > size)
            continue;
        XXH3_64bits_reset(&state);
        XXH3_64bits_update(&state, bytes + at, offsetof(struct trace_block, hash));
        XXH3_64bits_update(&state, bytes + at + sizeof(block), records);
        block.hash = XXH3_64bits_digest(&state);
        memcpy(bytes + at, &block, sizeof(block));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    return input_twice(bytes, size, check_file, repair);
}
