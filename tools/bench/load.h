/* SPDX-License-Identifier: MIT */
/*
 * load.h - the load that `devtap bench` makes: workers that keep every request of their queues in
 * flight, a latency histogram each, and the pattern that --verify checks.
 */
#ifndef TOOLS_BENCH_LOAD_H
#define TOOLS_BENCH_LOAD_H

#include "base/histogram.h"
#include "base/spin.h"
#include "blk/driver/driver.h"
#include <pthread.h>

/* ---- What is read back (verify.c) ---------------------------------------------------------- */

/*
 * Every block of the range has a generation: 0 = never written here, so its content is unknown. A
 * block has at most one request in flight if that is a write, which is what makes "last
 * acknowledged" well defined; readers may share it. Shared by all workers.
 */
struct verify {
    uint64_t blocks;
    uint32_t block_bytes;
    uint64_t seed;
    struct verify_block *table;
};
#define VERIFY_WRITING 0xffffffffu
struct verify_block {
    uint32_t generation; /* last acknowledged */
    uint32_t users;      /* readers, or VERIFY_WRITING */
};
/** verify_fill_sector() - the 64 @words of one sector: its address, its generation, and what
 * follows from them and @seed, which is odd. */
void verify_fill_sector(uint64_t seed, uint64_t sector, uint64_t generation, uint64_t *words);
int verify_init(struct verify *v, uint64_t blocks, uint32_t block_bytes, uint64_t seed,
                struct dt_error *err);
void verify_fini(struct verify *v);
/** verify_claim() - may @block be read or written now? If so it is claimed until
 *  verify_release(). */
bool verify_claim(struct verify *v, uint64_t block, bool write);
void verify_release(struct verify *v, uint64_t block, bool write);
/** verify_fill() - the content of @block's next generation. */
void verify_fill(const struct verify *v, uint64_t block, void *data);
/** verify_acknowledge() - a write was acknowledged; one that failed leaves the content unknown. */
void verify_acknowledge(struct verify *v, uint64_t block, bool ok);
/** verify_check() - is @data what was last acknowledged? @why explains. */
bool verify_check(const struct verify *v, uint64_t block, const void *data, char *why, size_t size);

/* ---- Workers (worker.c) -------------------------------------------------------------------- */

/** struct load - what all workers do, shared and read-only for them but for @verify. */
struct load {
    struct vblk *driver;
    unsigned queues, depth, threads;
    uint32_t bytes;
    uint64_t blocks; /* of @bytes each, in the range that is used */
    bool random, reads, writes;
    bool flush;          /* after each write */
    uint32_t read_share; /* of 2^32, where both */
    bool sleep;
    uint64_t seed;
    struct verify *verify; /* NULL = not checked */
};

enum worker_state {
    WORKER_RUN,   /* keep all requests in flight */
    WORKER_PAUSE, /* reap until nothing comes, then wait: the back end is gone */
    WORKER_DRAIN, /* submit nothing more; end when nothing is in flight */
    WORKER_QUIT,  /* end now */
};

/**
 * struct worker - one thread. The counters have one writer and any readers.
 * @want: what it shall do; @now: what it does. @sample_every: one request in so many is timed.
 */
struct worker {
    struct load *load;
    pthread_t thread;
    unsigned index;
    int cpu; /* -1 = anywhere */
    unsigned want, now;
    unsigned sample_every;
    uint64_t done, errors, mismatches, twice;
    struct dt_rng rng;
    uint64_t next_block; /* sequential */
    uint64_t claim_misses;
    struct spin spin; /* polling */
    unsigned looks;   /* without a find */
    unsigned countdown;
    struct histogram latencies;
    char first_problem[256];
} CACHE_ALIGNED;

int worker_start(struct worker *w, struct dt_error *err);
/** worker_ask() - ask all for a state and wait until they are in it (not for WORKER_RUN). */
void worker_ask(struct worker *workers, unsigned n, enum worker_state state);
/** worker_wait() - are all in @state? Gives them at most @timeout_ms. */
bool worker_wait(struct worker *workers, unsigned n, enum worker_state state, int timeout_ms);

#endif
