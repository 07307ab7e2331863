/* SPDX-License-Identifier: MIT */
/* bench.h - one run of devtap bench, and its result. */
#ifndef TOOLS_BENCH_BENCH_H
#define TOOLS_BENCH_BENCH_H

#include "tools/bench/load.h"
#include "tools/tools.h"

enum mode { MODE_DEFAULT, MODE_READ, MODE_WRITE, MODE_RANDREAD, MODE_RANDWRITE, MODE_RANDRW };

struct bench_options {
    const char *socket, *time, *cpu;
    unsigned rw;
    double read_share;
    uint64_t size, depth, min_requests, queues, threads, range, seed;
    bool flush, packed, event_idx, no_inflight, poll, sleep, huge, verify, reconnect, json;
};

/** struct bench - one run. */
struct bench {
    const struct bench_options *options;
    struct vblk_config config;
    struct load load;
    struct verify verify;
    struct worker *workers;
    unsigned *cpus, ncpus;
    uint64_t time_ns;
    uint64_t started, ended, done_at_end; /* the measured time */
    uint64_t shown_at, shown_done;
    unsigned reconnects;
    unsigned lost;
    bool tty;
};

/** bench_report() - print the result. Return: an exit status; faults are explained on stderr. */
int bench_report(const struct verb *verb, const struct bench *b);

#endif
