/* SPDX-License-Identifier: MIT */
/* internal.h - what the recording side of the trace shares: rings, and the file that they go to. */
#ifndef TRACE_INTERNAL_H
#define TRACE_INTERNAL_H

#include "base/base.h"
#include "base/writer.h"
#include "blk/trace/trace-format.h"
#include <devtap/block.h>

enum { WRITTEN, DROPPED, UNWRITTEN };

/**
 * struct trace_ring - records of one thread on their way to the writer: one producer, one consumer.
 * @head, @tail count records since the start; their difference is what is in the ring.
 */
struct trace_ring {
    struct trace_record *records;
    uint32_t size;
    struct dt_ctx *c;

    /* The producer's. */
    CACHE_ALIGNED uint64_t head;
    uint64_t tail_seen;
    uint64_t dropped;
    uint32_t position; /* head % size */

    /* The writer's. */
    CACHE_ALIGNED uint64_t tail;
    uint64_t unwritten;
    uint64_t reported; /* dropped + unwritten, as in the last block */
};

/** struct trace - the layer. */
struct trace {
    const char *out;
    unsigned hash; /* enum trace_hash */
    uint64_t buffer, limit;

    uint64_t start; /* CLOCK_MONOTONIC */
    struct dt_layer *layer;
    struct writer writer;

    int fd;
    uint64_t offset, sequence;
    bool failing; /* the last write failed, and that was told */
    bool ended;   /* the limit was reached */
};

/** trace_file_open() - open the file, begin a segment, start the thread that writes. */
int trace_file_open(struct trace *t, struct dt_error *err);
/** trace_file_close() - write what is left, end the thread, close the file. */
void trace_file_close(struct trace *t);
/** trace_ring_end() - write all that is in the ring, for the last time; as writer_remove() wants it. */
void trace_ring_end(struct writer *w, void *ring);

#endif
