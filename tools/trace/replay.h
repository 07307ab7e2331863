/* SPDX-License-Identifier: MIT */
/* replay.h - one replay, and its result. */
#ifndef TOOLS_TRACE_REPLAY_H
#define TOOLS_TRACE_REPLAY_H

#include "base/histogram.h"
#include "blk/driver/driver.h"
#include "tools/trace/trace.h"

/** struct flight - what a request in flight is doing; one for each request of the driver. */
struct flight {
    const struct trace_step *step;
    uint64_t sector; /* of this piece */
    uint64_t started;
    uint32_t sectors;
    uint32_t generation;
    uint8_t op;
    bool whole; /* the step is in one piece */
};

/** struct replay_queue - one queue, and those of its requests that are free. */
struct replay_queue {
    struct vblk_queue *q;
    struct vblk_request *first;
    struct vblk_request **free;
    struct flight *flights;
    unsigned nfree;
};

/** struct replay - what was sent and what came back. Times in ns. */
struct replay {
    const struct trace_options *options;
    struct trace_steps steps;
    struct vblk *driver;
    struct replay_queue *queues;
    unsigned nqueues, depth, in_flight;
    double speed;
    uint32_t buffer_sectors;
    struct replayed *content; /* NULL = reads are not checked */

    size_t next;   /* step */
    uint32_t done; /* sectors of it that were sent */
    uint32_t generation;
    uint64_t started, ended;
    uint64_t requests[DT_OP_COUNT], bytes;
    uint64_t errors, mismatches, checked, skipped, ordered, lost;
    struct histogram latency[2], late; /* of reads and writes; behind the trace's time */
    char first_problem[256];
};

/** replay_run() - send everything, and wait until all came back. */
int replay_run(struct replay *r, struct dt_error *err);
/** replay_report() - print the result. Return: 0, or -EBADMSG with what was wrong. */
int replay_report(const struct replay *r, struct dt_error *err);

#endif
