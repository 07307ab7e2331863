/* SPDX-License-Identifier: MIT */
/*
 * reader.h - read a trace (devtap-trace(5)) that may be torn, damaged or hostile.
 *
 * Only what passed every check is returned; the rest is skipped and counted. Memory is bounded by
 * one block, whatever the file says.
 */
#ifndef TRACE_READER_H
#define TRACE_READER_H

#include "blk/trace/trace-format.h"
#include <devtap/block.h>

#define TRACE_THREADS_MAX 64u

struct trace_reader;

/** struct trace_segment - a header, checked; names end with a zero byte and hold printable text. */
struct trace_segment {
    unsigned index; /* 0 = the first of the file */
    uint64_t start_realtime, start_monotonic;
    uint64_t disk_sectors;
    uint32_t logical_block;
    uint32_t threads;
    bool hashed; /* records have the hash of what was read or written */
    char device[64], layer[64];
};

/** struct trace_entry - one record. Its op is known, its range does not overflow. */
struct trace_entry {
    struct trace_record record;
    const struct trace_segment *segment; /* valid until the next call */
    uint32_t thread;
};

/** trace_entry_hashed() - does the record tell what data was moved? */
static inline bool trace_entry_hashed(const struct trace_entry *e)
{
    return e->segment->hashed && e->record.error == 0 && e->record.op <= DT_OP_WRITE;
}

/** struct trace_reading - what was met so far. */
struct trace_reading {
    uint64_t segments;
    uint64_t blocks;
    uint64_t records;
    uint64_t dropped;          /* requests that the writer could not record */
    uint64_t missing_blocks;   /* gaps in the sequence */
    uint64_t damaged_bytes;    /* skipped: a torn tail, bad checksums, anything unknown */
    uint64_t invalid_records;  /* in good blocks, but impossible */
    uint64_t unknown_segments; /* of a later version */
};

/**
 * trace_reader_new() - begin to read at @fd's position; the descriptor stays the caller's. Pipes
 * are fine. Return: 0, or -EINVAL when it does not begin as a trace, or a read error.
 */
int trace_reader_new(struct trace_reader **reader, int fd, struct dt_error *err);
void trace_reader_free(struct trace_reader *reader);
/** trace_reader_next() - 1 with the next record, 0 at the end, -errno when reading fails. */
int trace_reader_next(struct trace_reader *reader, struct trace_entry *entry);
const struct trace_reading *trace_reader_reading(const struct trace_reader *reader);

#endif
