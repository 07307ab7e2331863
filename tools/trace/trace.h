/* SPDX-License-Identifier: MIT */
/* trace.h - what `devtap trace` does with a recorded trace beside printing it: replay, to-fio. */
#ifndef TOOLS_TRACE_TRACE_H
#define TOOLS_TRACE_TRACE_H

#include "blk/trace/reader.h"
#include "tools/tools.h"

/** struct trace_options - of all that follows `devtap trace`; each verb says what it takes. */
struct trace_options {
    bool json;
    uint32_t ops; /* bit per enum dt_op: what is replayed or written */
    const char *socket, *speed;
    bool closed, verify, hashes;
    uint64_t depth, queues, seed;
    const char *name;
};

/* ---- Steps (steps.c) ------------------------------------------------------------------------ */

/** struct trace_step - one request to be repeated; the steps of a trace stand in order of arrival.
 */
struct trace_step {
    uint64_t time; /* ns since the first one */
    uint64_t sector;
    uint32_t sectors;
    uint32_t hash;
    uint16_t depth;
    uint16_t queue;
    uint8_t op;
    bool hashed;
};

/** struct trace_steps - a whole trace in memory: 32 bytes for each request. */
struct trace_steps {
    struct trace_step *list;
    size_t count;
    uint64_t duration;    /* ns from the first to the last arrival */
    uint64_t end;         /* the first sector behind all that is used */
    uint32_t max_sectors; /* of one read or write */
    struct trace_reading reading;
};

/** trace_steps_load() - read @reader to its end. Segments follow each other without a pause. */
int trace_steps_load(struct trace_steps *steps, struct trace_reader *reader, uint32_t ops);
void trace_steps_free(struct trace_steps *steps);

/* ---- What is read back (replayed.c) ---------------------------------------------------------- */

struct replayed;
struct replayed *replayed_new(uint64_t seed);
void replayed_free(struct replayed *content);
/** replayed_fill() - what a write of generation @generation (not 0) brings. */
void replayed_fill(uint64_t seed, uint64_t sector, uint32_t sectors, uint32_t generation,
                   void *data);
/** replayed_written(), replayed_zeroed(), replayed_lost() - what the sectors hold from now on;
 * lost: anything. */
void replayed_written(struct replayed *c, uint64_t sector, uint32_t sectors, uint32_t generation);
void replayed_zeroed(struct replayed *c, uint64_t sector, uint32_t sectors);
void replayed_lost(struct replayed *c, uint64_t sector, uint32_t sectors);
/** replayed_untouched() - has the replay changed none of them? */
bool replayed_untouched(const struct replayed *c, uint64_t sector, uint32_t sectors);
/** replayed_check() - is @data what they hold, as far as that is known? @why explains. */
bool replayed_check(const struct replayed *c, uint64_t sector, uint32_t sectors, const void *data,
                    char *why, size_t size);

/* ---- The verbs ------------------------------------------------------------------------------ */

/** trace_replay() - Return: 0 or -errno with @err; the report is printed. */
int trace_replay(const struct trace_options *o, struct trace_reader *reader, struct dt_error *err);
/** trace_to_fio() - write a fio iolog to stdout. */
int trace_to_fio(const struct trace_options *o, struct trace_reader *reader, struct dt_error *err);

#endif
