/* SPDX-License-Identifier: MIT */
/* summary.h - a whole trace in numbers. */
#ifndef TRACE_SUMMARY_H
#define TRACE_SUMMARY_H

#include "blk/trace/reader.h"
#include <devtap/block.h>
#include <jansson.h>

#define TRACE_SIZES 16u /* powers of two from 512 bytes; the last one holds all above */
#define TRACE_TOP   10u

/** struct trace_op_summary - of one operation; latencies in ns. */
struct trace_op_summary {
    uint64_t requests, bytes, errors;
    uint64_t sequential; /* began where one of the eight before it had ended */
    double iops, bps;    /* over the trace's duration */
    uint64_t min, mean, p50, p90, p99, p999, max;
    uint64_t sizes[TRACE_SIZES]; /* requests of up to 512 << i bytes */
};

/** struct trace_range - a part of the disk that was used much. */
struct trace_range {
    uint64_t sector, sectors;
    uint64_t requests, bytes;
};

/** struct trace_summary - all segments of a file together. */
struct trace_summary {
    struct trace_reading reading;
    struct trace_segment first; /* of the first segment */
    uint64_t duration;          /* ns from first arrival to last return, summed over segments */
    uint64_t max_depth;
    struct trace_op_summary ops[DT_OP_COUNT];
    unsigned ranges;
    struct trace_range top[TRACE_TOP]; /* by requests, most first */
};

/** trace_summarize() - read @reader to its end. */
int trace_summarize(struct trace_reader *reader, struct trace_summary *summary);
/** trace_summary_json() - the same for programs. New reference. */
json_t *trace_summary_json(const struct trace_summary *summary);
/** trace_entry_json() - one record. New reference. */
json_t *trace_entry_json(const struct trace_entry *entry);

#endif
