/* SPDX-License-Identifier: MIT */
/* internal.h - what the files of the conformance harness share. */
#ifndef TOOLS_CONFORMANCE_INTERNAL_H
#define TOOLS_CONFORMANCE_INTERNAL_H

#include "core/internal.h" /* who holds a request: for cancel */
#include "tools/conformance/conformance.h"

#include <stdio.h>

#define BENCH_THREADS 2u
#define BENCH_SECTORS 65536u /* of the disk that are tested */
#define LOAD_SLOTS    32u    /* requests in flight on each thread */
#define LOAD_IOVS     64u
#define LOAD_SECTORS  4096u /* of the largest request */
#define RED_ZONE      64u   /* bytes behind each request that nobody may touch */
#define POISON        0xdb  /* what these hold, and the buffers of reads */

/* ---- Content (content.c) -------------------------------------------------------------------- */

/*
 * Each sector holds bytes that follow from the seed, its number and a version, so whatever is read
 * tells whose data it is and how old. Versions only grow. Two are special:
 */
#define VERSION_UNKNOWN UINT32_MAX
#define VERSION_ZERO    (UINT32_MAX - 1)

void content_fill(uint8_t *bytes, uint64_t seed, uint64_t sector, uint32_t version);
/** content_is() - are these 512 bytes that version? Always true for VERSION_UNKNOWN. */
bool content_is(const uint8_t *bytes, uint64_t seed, uint64_t sector, uint32_t version);
/** content_version() - which version of @sector this is; VERSION_UNKNOWN if of none. */
uint32_t content_version(const uint8_t *bytes, uint64_t seed, uint64_t sector);
/** content_describe() - what these bytes are, for a person. */
void content_describe(const uint8_t *bytes, uint64_t seed, uint64_t sector, char *text,
                      size_t size);

/* ---- The model of a back (model.c) ----------------------------------------------------------- */

#define MODEL_PENDING 8192u

/** struct journal - makes a sector durable whole or not at all, though its process is killed. */
struct journal {
    uint32_t valid;
    uint64_t sector;
    uint8_t bytes[DT_SECTOR_SIZE];
};

/**
 * struct model - a disk in memory that completes in random order and fails where it is told.
 * @store: what is durable; in memory that survives a killed process.
 * @cache: what reads see; the same as @store unless the disk has a write cache.
 * @dirty: per sector: in @cache but not yet in @store.
 * @bad_sector, @bad_sectors: this range fails with -EIO.
 */
struct model {
    uint64_t seed, sectors;
    uint32_t max_sectors, logical_block;
    uint8_t *store, *cache, *dirty;
    struct journal *journal; /* with a cache; in shared memory */
    uint64_t bad_sector, bad_sectors;
    bool fail_flush;
    struct model_thread {
        struct dt_ctx *c;
        struct dt_rng rng;
        struct dt_req *pending[MODEL_PENDING];
        unsigned n;
    } threads[BENCH_THREADS];
};
extern const struct dt_block_ext model_ext;
void model_init(struct model *m, uint64_t seed, uint64_t sectors);

/** model_add_cache() - from now on only flushes make writes durable. A killed process may have left
 *  a sector in the journal, so model_recover() comes first. */
void model_add_cache(struct model *m);
void model_recover(struct model *m);
/** model_step() - complete some of what this thread has pending; returns how many. */
unsigned model_step(struct model *m, unsigned thread);

/* ---- Guards between the layers (guard.c) ---- */

#define GUARD_FRAME 16u
extern const struct dt_block_ext guard_ext;

/* ---- The load: a front (load.c) ---- */

struct bench;

/** struct slot - one request of the load. */
struct slot {
    struct request *request; /* REQUEST_SIZE bytes, then RED_ZONE */
    uint8_t *memory;
    struct iovec iov[LOAD_IOVS];
    unsigned niov;
    uint64_t sector; /* as asked for: layers may move a request that is on its way */
    uint32_t sectors;
    uint32_t version;    /* of a WRITE */
    uint64_t flush_mark; /* of a FLUSH: acknowledgements that it covers */
    bool busy, scribbled;
    bool kept; /* not to be reused yet */
};

/** struct load - random requests on one lane, to a part of the disk that no other lane uses. */
struct load {
    struct bench *bench;
    unsigned thread;
    struct dt_rng rng;
    uint64_t first, sectors;
    struct slot slots[LOAD_SLOTS];
    uint8_t *memory, *scratch;
    bool enabled;          /* issues new requests; atomic */
    unsigned busy;         /* requests in flight; atomic */
    uint64_t done, failed; /* atomic */
    uint64_t scribbles;
    struct loop_poller poller;
};
void load_init(struct load *load, struct bench *b, unsigned thread);
void load_fini(struct load *load);
/** load_step() - issue some, complete some below. */
unsigned load_step(struct load *load);
/** load_one() - issue exactly this request; returns its slot. */
struct slot *load_one(struct load *load, enum dt_op op, uint64_t sector, uint32_t sectors,
                      uint32_t version, unsigned flags);
/** load_describe() - "write of 8 sectors at 4096". */
const char *load_describe(const struct dt_req *req, char *text, size_t size);
extern const struct front_ops load_front_ops;
/** judge_done() - a request came back (judge.c). */
void judge_done(struct load *load, struct slot *s);

/* ---- The bench: a device under test (bench.c) ---- */

/** struct record - what is in flight, for the process after a killed one. */
struct record {
    uint8_t busy, op;
    uint32_t sectors, version;
    uint64_t sector;
};

/** struct kill_log - in shared memory. Stores are single words, so a kill tears nothing. */
struct kill_log {
    bool killed; /* at least once */
    uint32_t started;
    uint64_t clock; /* acknowledgements so far */
    uint32_t issued[BENCH_SECTORS], flushed[BENCH_SECTORS];
    uint64_t acked_at[BENCH_SECTORS];
    struct record records[LOAD_SLOTS];
};

/** struct verdict - in shared memory: what a child found. */
struct verdict {
    enum { RUNNING, PASSED, FAILED, SKIPPED } state;
    uint64_t count;
    char text[512];
};

struct bench {
    const struct conformance_config *config;
    uint64_t seed;
    struct dt_rng rng;
    struct chain_spec user;                            /* as written */
    struct chain_spec full;                            /* with guards and model; shallow */
    const struct dt_block_ext *exts[CHAIN_MAX_LAYERS]; /* of @user */
    bool has_back, guarded, counts_requests;
    char dir[96]; /* private, removed at the end */
    struct verdict *verdict;
    struct kill_log *kill_log; /* NULL except in `kill` */
    struct model model;
    uint32_t *versions;     /* of each sector, as acknowledged; in shared memory */
    uint32_t *next_version; /* of all sectors; atomic, in shared memory */
    uint64_t sectors;       /* that are tested */

    struct device *dev;
    struct loop *loops[BENCH_THREADS];
    pthread_t pthreads[BENCH_THREADS];
    unsigned threads;
    struct load loads[BENCH_THREADS];
    bool scribble;                               /* writers change their buffers after submitting */
    bool unjudged;                               /* a parameter may rightly change what is read */
    uint32_t guard_offset[CHAIN_MAX_LAYERS + 1]; /* frame of guard i */
    bool quiesce_done;                           /* atomic */
    char quiesce_late[256];
};
extern struct bench *bench; /* the one of this process, for the guards and the model */

/** bench_fail() - this property does not hold: tell the parent and end this process. */
_Noreturn void bench_fail(const char *fmt, ...) DT_PRINTF(1, 2);
_Noreturn void bench_skip(const char *fmt, ...) DT_PRINTF(1, 2);

/** bench_build() - make the device; with @state, layers keep state in the bench's directory. */
void bench_build(struct bench *b, unsigned threads, bool state);
void bench_start(struct bench *b);
static inline void bench_open(struct bench *b, unsigned threads)
{
    bench_build(b, threads, true);
    bench_start(b);
}
void bench_stop(struct bench *b);
/** bench_close() - stop if it runs, free. */
void bench_close(struct bench *b);
/** bench_load() - random load for @ns; requests may be in flight afterwards. */
void bench_load(struct bench *b, uint64_t ns);
/** bench_settle() - wait until everything came back; what does not is a failure. */
void bench_settle(struct bench *b);
/** bench_quiesce() - stop the load and quiesce; NULL, or who was late. */
const char *bench_quiesce(struct bench *b, uint64_t ns);
/** bench_pass() - read or write all of the disk; @done sees each request's slot afterwards. */
void bench_pass(struct bench *b, enum dt_op op, void (*done)(struct bench *b, struct slot *s));
/** bench_flush() - one flush; returns its error. */
int bench_flush(struct bench *b);
/** bench_step() - one turn of a bench with one thread. */
void bench_step(struct bench *b);

/* ---- Properties ---- */

/**
 * struct property - one promise.
 * @claim: what holds if it passes, for a person.
 * @run: in a child process; returns if it holds, else bench_fail() or bench_skip().
 */
struct property {
    const char *name, *unit, *claim;
    void (*run)(struct bench *b);
};
void property_content(struct bench *b);
void property_neutral(struct bench *b);
void property_stable(struct bench *b);
void property_errors(struct bench *b);
void property_quiesce(struct bench *b);
void property_cancel(struct bench *b);
void property_restart(struct bench *b);
void property_state(struct bench *b);
void property_live(struct bench *b);
void property_map(struct bench *b);
void property_threads(struct bench *b);
void property_kill(struct bench *b);
/** kill_start() - @fn in a process of its own. kill_finish() - its end: what it found counts as found here; so does its
 *  death, if nobody killed it. */
pid_t kill_start(struct bench *b, void (*fn)(struct bench *b));
void kill_finish(struct bench *b, pid_t pid, int expected);
/** kill_amid() - @work in a process of its own, which sets @started; it is killed a moment later. */
void kill_amid(struct bench *b, void (*work)(struct bench *b), unsigned *started);
/** shared_memory() - zeroed, shared with child processes. */
void *shared_memory(size_t size);

#endif
