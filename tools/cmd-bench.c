/* SPDX-License-Identifier: MIT */
/*
 * cmd-bench.c - devtap bench: load, measure and check any vhost-user-blk back end.
 *
 * The main thread opens the driver, watches the back end, shows progress, and reconnects; the
 * workers (bench/worker.c) do nothing but I/O.
 */
#include "tools/bench/bench.h"

#include <ctype.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#define TICK_MS      10
#define ANSWER_MS    10000
#define LOST_NS      DT_S(60) /* without anything that comes back: then it is lost */
#define RECONNECT_NS DT_S(60)
#define VERIFY_SPARE 4u /* blocks per request in flight, so that free ones are found soon */

static const char *const modes[] = {"auto",      "read",   "write", "randread",
                                    "randwrite", "randrw", NULL};

#define OPTION(n, t, field) .name = n, .type = t, .offset = offsetof(struct bench_options, field)
static const struct dt_param options[] = {
    {OPTION("socket", DT_PARAM_STRING, socket), .flags = DT_PARAM_REQUIRED, .unit = "path",
     .help = "Socket of the back end."},
    {OPTION("rw", DT_PARAM_ENUM, rw), .initial = "auto", .choices = modes,
     .help = "What to do; auto is randread, or randrw with --verify."},
    {OPTION("read-share", DT_PARAM_FRACTION, read_share), .initial = "50%",
     .help = "Share of reads with randrw."},
    {OPTION("flush", DT_PARAM_BOOL, flush),
     .help = "Flush after each write, which is over when its flush is."},
    {OPTION("size", DT_PARAM_SIZE, size), .initial = "4K", .min = 512, .max = 16u << 20,
     .help = "Size of each request."},
    {OPTION("depth", DT_PARAM_UINT, depth), .initial = "16", .min = 1, .max = 1024,
     .help = "Requests in flight on each queue."},
    {OPTION("time", DT_PARAM_STRING, time), .initial = "5s", .unit = "duration",
     .help = "Length of the measurement; a bare number is seconds."},
    {OPTION("min-requests", DT_PARAM_UINT, min_requests), .initial = "0",
     .help = "Go on until so many are done, however long that takes."},
    {OPTION("queues", DT_PARAM_UINT, queues), .initial = "0", .max = VHOST_MAX_QUEUES,
     .help = "Queues used; 0 is one for each thread."},
    {OPTION("threads", DT_PARAM_UINT, threads), .initial = "1", .min = 1, .max = 64,
     .help = "Threads that drive them."},
    {OPTION("cpu", DT_PARAM_STRING, cpu), .unit = "list",
     .help = "Pin the threads to these processors, in turn: 1,3 or 2-5."},
    {OPTION("range", DT_PARAM_SIZE, range), .initial = "0",
     .help = "Use only the first part of the disk; 0 is all of it."},
    {OPTION("packed", DT_PARAM_BOOL, packed), .help = "Use packed rings instead of split ones."},
    {OPTION("no-inflight", DT_PARAM_BOOL, no_inflight),
     .help = "Do without the back end's in-flight log, as some front ends do."},
    {OPTION("event-idx", DT_PARAM_BOOL, event_idx), .help = "Negotiate EVENT_IDX."},
    {OPTION("poll", DT_PARAM_BOOL, poll), .help = "Poll the rings for completions (the default)."},
    {OPTION("sleep", DT_PARAM_BOOL, sleep), .help = "Sleep until the back end calls."},
    {OPTION("huge", DT_PARAM_BOOL, huge), .help = "Put the memory in huge pages."},
    {OPTION("verify", DT_PARAM_BOOL, verify),
     .help = "Write patterns, and check every read against what was last acknowledged."},
    {OPTION("reconnect", DT_PARAM_BOOL, reconnect),
     .help = "Go on when the back end went away and came back."},
    {OPTION("seed", DT_PARAM_UINT, seed), .initial = "1", .help = "Of the random numbers."},
    {OPTION("json", DT_PARAM_BOOL, json), .help = "Print the result as JSON."},
    {NULL},
};

/* ---- Options ------------------------------------------------------------------------------- */

static int parse_time(struct bench *b, struct dt_error *err)
{
    const char *text = b->options->time;

    if (parse_duration(text, &b->time_ns) < 0) {
        if (parse_uint(text, &b->time_ns) < 0 || b->time_ns > 1000000)
            return dt_fail(err, -EINVAL, "--time=%s: not a duration (such as 5s or 1min)", text);
        b->time_ns *= DT_S(1);
    }
    return b->time_ns ? 0 : dt_fail(err, -EINVAL, "--time=%s: too short", text);
}

static int parse_cpus(struct bench *b, struct dt_error *err)
{
    const char *p = b->options->cpu;

    b->cpus = xcalloc(CPU_SETSIZE, sizeof(unsigned));
    while (p && *p) {
        char *end;
        unsigned long from = strtoul(p, &end, 10), to = from;

        if (end > p && *end == '-' && isdigit((unsigned char)end[1]))
            to = strtoul(end + 1, &end, 10);
        if (end == p || (*end && *end != ',') || to < from || to >= CPU_SETSIZE)
            return dt_fail(err, -EINVAL, "--cpu=%s: not a list of processors (such as 1,3 or 2-5)",
                           b->options->cpu);
        for (; from <= to && b->ncpus < CPU_SETSIZE; from++)
            b->cpus[b->ncpus++] = (unsigned)from;
        p = *end ? end + 1 : end;
    }
    return 0;
}

static int judge_options(struct bench *b, struct dt_error *err)
{
    const struct bench_options *o = b->options;
    enum mode mode = o->rw ? (enum mode)o->rw : o->verify ? MODE_RANDRW : MODE_RANDREAD;
    unsigned queues = o->queues ? (unsigned)o->queues : (unsigned)o->threads;

    if (o->size % DT_SECTOR_SIZE)
        return dt_fail(err, -EINVAL, "--size must be a multiple of 512");
    if (o->poll && o->sleep)
        return dt_fail(err, -EINVAL, "--poll or --sleep: which one is meant?");
    if (o->threads > queues)
        return dt_fail(err, -EINVAL, "%u threads for %u queues", (unsigned)o->threads, queues);
    if (o->sleep && o->threads != queues)
        return dt_fail(err, -EINVAL, "--sleep needs a thread for each queue");
    if (o->verify && (mode == MODE_READ || mode == MODE_RANDREAD))
        return dt_fail(err, -EINVAL, "--verify needs a mode that writes");
    b->config = (struct vblk_config){.path = o->socket,
                                     .queues = queues,
                                     .depth = (unsigned)o->depth,
                                     .bytes = (uint32_t)o->size,
                                     .packed = o->packed,
                                     .event_idx = o->event_idx,
                                     .no_inflight = o->no_inflight,
                                     .huge = o->huge,
                                     .timeout_ms = ANSWER_MS};
    b->load = (struct load){.queues = queues,
                            .depth = (unsigned)o->depth,
                            .threads = (unsigned)o->threads,
                            .bytes = (uint32_t)o->size,
                            .random = mode >= MODE_RANDREAD,
                            .sleep = o->sleep,
                            .seed = o->seed,
                            .reads = mode != MODE_WRITE && mode != MODE_RANDWRITE,
                            .flush = o->flush,
                            .writes = mode != MODE_READ && mode != MODE_RANDREAD};
    b->load.read_share = (uint32_t)(MIN(o->read_share, 0.9999999) * 4294967296.0);
    return parse_time(b, err) ?: parse_cpus(b, err);
}

/* The disk's size is known only once it is open. */
static int judge_disk(struct bench *b, struct dt_error *err)
{
    const struct vblk_info *info = vblk_info(b->load.driver);
    uint64_t bytes = info->disk.capacity << DT_SECTOR_SHIFT;
    uint64_t flying = (uint64_t)b->load.queues * b->load.depth;

    if (b->options->range > bytes)
        return dt_fail(err, -EINVAL, "--range is larger than the disk of %" PRIu64 " bytes", bytes);
    if (b->options->range)
        bytes = b->options->range;
    b->load.blocks = bytes / b->load.bytes;
    if (b->load.bytes % info->disk.blk_size)
        return dt_fail(err, -EINVAL, "--size must be a multiple of the disk's block of %u",
                       info->disk.blk_size);
    if (b->load.blocks == 0)
        return dt_fail(err, -EINVAL, "the disk has %" PRIu64 " bytes: less than one request",
                       bytes);
    if (b->load.writes && info->features & 1ull << VIRTIO_BLK_F_RO)
        return dt_fail(err, -EROFS, "the disk is read-only");
    if (!b->options->verify)
        return 0;
    if (b->load.blocks < VERIFY_SPARE * flying)
        return dt_fail(err, -EINVAL, "--verify needs %" PRIu64 " blocks, and there are %" PRIu64,
                       VERIFY_SPARE * flying, b->load.blocks);
    b->load.verify = &b->verify;
    return verify_init(&b->verify, b->load.blocks, b->load.bytes, b->options->seed, err);
}

/* ---- While it runs ------------------------------------------------------------------------- */

static uint64_t total_done(const struct bench *b)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < b->load.threads; i++)
        sum += __atomic_load_n(&b->workers[i].done, __ATOMIC_RELAXED);
    return sum;
}

/* Time one request in 32 where there are millions, all where there are few. */
static void adapt_sampling(struct bench *b, double iops)
{
    unsigned every = iops > 1e6 ? 32 : iops > 1e5 ? 8 : 1;

    for (unsigned i = 0; i < b->load.threads; i++)
        __atomic_store_n(&b->workers[i].sample_every, every, __ATOMIC_RELAXED);
}

static void show_progress(struct bench *b)
{
    uint64_t now = dt_clock_ns(), done = total_done(b);
    double seconds = (double)(now - b->shown_at) / 1e9;
    double iops = (double)(done - b->shown_done) / seconds;

    if (now - b->shown_at < DT_MS(100) || (now - b->shown_at < DT_S(1) && b->shown_done))
        return;
    adapt_sampling(b, iops);
    b->shown_at = now;
    b->shown_done = done;
    if (b->tty)
        fprintf(stderr, "\r%3us  %s/s  %.0f MB/s\033[K", (unsigned)((now - b->started) / DT_S(1)),
                human_count(iops), iops * b->load.bytes / 1e6);
}

static void clear_progress(const struct bench *b)
{
    if (b->tty)
        fputs("\r\033[K", stderr);
}

static void doze_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static int come_back(struct bench *b, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + RECONNECT_NS;
    int ret;

    worker_ask(b->workers, b->load.threads, WORKER_PAUSE);
    if (!worker_wait(b->workers, b->load.threads, WORKER_PAUSE, ANSWER_MS))
        return dt_fail(err, -EIO, "a worker does not pause");
    do {
        doze_ms(TICK_MS);
        ret = vblk_reconnect(b->load.driver, err);
    } while ((ret == -ECONNREFUSED || ret == -ENOENT || ret == -EPIPE || ret == -ECONNRESET) &&
             dt_clock_ns() < deadline);
    if (ret == 0)
        b->reconnects++;
    return ret;
}

/* Sees to the back end; true if all is well, else the workers are to stop. */
static int watch(struct bench *b, enum worker_state state, struct dt_error *err)
{
    bool changed;
    int ret;

    if (vblk_alive(b->load.driver, &changed))
        return 0;
    if (!b->options->reconnect)
        return dt_fail(err, -EIO, "%s: the back end went away", b->options->socket);
    ret = come_back(b, err);
    if (ret < 0)
        return ret;
    /* What the log did not bring back is still in flight; DRAIN waits for it. */
    worker_ask(b->workers, b->load.threads, state);
    return 0;
}

static bool any_quit(const struct bench *b)
{
    for (unsigned i = 0; i < b->load.threads; i++)
        if (__atomic_load_n(&b->workers[i].now, __ATOMIC_ACQUIRE) == WORKER_QUIT)
            return true;
    return false;
}

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
    interrupted = 1;
}

/* SIGINT and SIGTERM end the measurement; once more, the program. */
static void catch_interrupts(void)
{
    struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND | SA_RESTART};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/** struct moves - when the last of so many requests came back. */
struct moves {
    uint64_t done, at;
};

/* Has nothing come back for so long that nothing will? */
static bool stands_still(const struct bench *b, struct moves *m)
{
    uint64_t done = total_done(b), now = dt_clock_ns();

    if (done != m->done)
        *m = (struct moves){done, now};
    return now - m->at > LOST_NS;
}

/* Is the time over, or somebody's patience, and enough done? */
static bool is_over(const struct bench *b, uint64_t end, struct moves *m)
{
    bool still = stands_still(b, m);

    return (dt_clock_ns() >= end || interrupted) &&
           (still || total_done(b) >= b->options->min_requests);
}

static int measure(struct bench *b, struct dt_error *err)
{
    struct moves moves = {.at = dt_clock_ns()};
    uint64_t end;
    int ret = 0;

    b->started = b->shown_at = dt_clock_ns();
    end = b->started + b->time_ns;
    worker_ask(b->workers, b->load.threads, WORKER_RUN);
    while (ret == 0 && !is_over(b, end, &moves) && !any_quit(b)) {
        doze_ms(TICK_MS);
        show_progress(b);
        ret = watch(b, WORKER_RUN, err);
    }
    b->ended = dt_clock_ns();
    b->done_at_end = total_done(b);
    return ret;
}

/* What is in flight still, as long as some of it comes back now and then. */
static int drain(struct bench *b, struct dt_error *err)
{
    struct moves moves = {.at = dt_clock_ns()};
    int ret = 0;

    worker_ask(b->workers, b->load.threads, WORKER_DRAIN);
    while (ret == 0 && !stands_still(b, &moves) &&
           !worker_wait(b->workers, b->load.threads, WORKER_QUIT, TICK_MS))
        ret = watch(b, WORKER_DRAIN, err);
    return ret;
}

static void stop_workers(struct bench *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        __atomic_store_n(&b->workers[i].want, WORKER_QUIT, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < n; i++)
        pthread_join(b->workers[i].thread, NULL);
    for (unsigned q = 0; q < b->load.queues; q++)
        b->lost += vblk_in_flight(vblk_queue(b->load.driver, q));
}

static int run_load(struct bench *b, struct dt_error *err)
{
    unsigned n = 0;
    int ret = 0;

    catch_interrupts();
    b->workers = xaligned(CACHE_LINE, b->load.threads * sizeof(*b->workers));
    for (; ret == 0 && n < b->load.threads; n++) {
        struct worker *w = &b->workers[n];

        w->load = &b->load;
        w->index = n;
        w->cpu = b->ncpus ? (int)b->cpus[n % b->ncpus] : -1;
        ret = worker_start(w, err);
        if (ret < 0)
            break;
    }
    ret = ret ?: measure(b, err);
    ret = ret ?: drain(b, err);
    clear_progress(b);
    stop_workers(b, n);
    return ret;
}

/* ---- The verb ------------------------------------------------------------------------------ */

static int run(const struct verb *verb, void *opts, int argc, char **argv)
{
    struct bench b = {.options = opts, .tty = isatty(STDERR_FILENO)};
    struct dt_error err;
    int ret = judge_options(&b, &err);

    if (ret == 0) {
        ret = vblk_open(&b.load.driver, &b.config, &err);
        if (ret < 0 && !strstr(err.text, b.options->socket))
            dt_fail_prefix(&err, "%s", b.options->socket);
    }
    ret = ret ?: judge_disk(&b, &err);
    ret = ret ?: run_load(&b, &err);
    ret = ret < 0 ? verb_fail(verb, ret, &err) : bench_report(verb, &b);
    vblk_close(b.load.driver);
    verify_fini(&b.verify);
    free(b.workers);
    free(b.cpus);
    return ret;
}

const struct verb verb_bench = {
    .name = "bench",
    .args = "--socket PATH [OPTION...]",
    .summary = "load, measure and check any vhost-user-blk back end",
    .help = "Plays the guest: keeps requests in flight on the rings of a vhost-user-blk back end, "
            "which need not be devtap, and prints requests and megabytes per second and "
            "latencies. Modes that write destroy what is on the disk. Ctrl-C ends the measurement "
            "early, and prints what was measured.",
    .groups = {{"Options", options}},
    .options_size = sizeof(struct bench_options),
    .run = run,
};
