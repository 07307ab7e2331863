/* SPDX-License-Identifier: MIT */
/*
 * kill.c - kill -9 at any moment, a new process, the requests in flight replayed: every write that
 * was acknowledged and then flushed must be there.
 *
 * What the worker was told and what was in flight stands in memory shared with its parent. The
 * model below has a write cache that dies with the worker, so a layer that answers a flush on its
 * own is found out.
 */
#include "tools/conformance/internal.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define KILL_SECTORS   8192u
#define FLUSH_ATTEMPTS 20
#define KILL_ROUNDS    3u /* at least */

static void filled(struct bench *b, struct slot *s)
{
    if (s->request->pub.error == -EROFS)
        bench_skip("the disk is read-only");
}

/* Writes the whole disk once, so that every sector can tell its version. */
static void fill(struct bench *b)
{
    bench_open(b, 1);
    bench_pass(b, DT_OP_WRITE, filled);
    if (bench_flush(b) != 0)
        memset(b->kill_log->flushed, 0, sizeof(b->kill_log->flushed));
    bench_close(b);
}

static void work(struct bench *b)
{
    if (!b->has_back)
        model_add_cache(&b->model);
    bench_open(b, 1);
    b->loads[0].enabled = true;
    __atomic_store_n(&b->kill_log->started, 1, __ATOMIC_RELEASE);
    for (;;)
        bench_step(b);
}

/* Sends again what the killed process had taken and not answered. */
static void replay(struct bench *b)
{
    struct record records[LOAD_SLOTS];
    struct kill_log *log = b->kill_log;

    memcpy(records, log->records, sizeof(records));
    memset(log->records, 0, sizeof(log->records));
    for (unsigned i = 0; i < LOAD_SLOTS; i++)
        if (records[i].busy)
            load_one(&b->loads[0], records[i].op, records[i].sector, records[i].sectors,
                     records[i].version, DT_REQ_REPLAYED);
    bench_settle(b);
}

/* One sector after the kill; @bytes are what it holds. */
static void judge_sector(struct bench *b, uint64_t sector, const uint8_t *bytes)
{
    struct kill_log *log = b->kill_log;
    uint32_t version = content_version(bytes, b->seed, sector);
    char found[128];

    b->versions[sector] = version;
    if (version == VERSION_ZERO)
        version = 0;
    if (log->flushed[sector] == 0 ||
        (version >= log->flushed[sector] && version <= log->issued[sector])) {
        log->flushed[sector] = version == VERSION_UNKNOWN ? 0 : version;
        return;
    }
    content_describe(bytes, b->seed, sector, found, sizeof(found));
    bench_fail("a write was lost: sector %llu was acknowledged and flushed with version %u, and "
               "after kill -9 it holds %s",
               (unsigned long long)sector, log->flushed[sector], found);
}

static void judge_slot(struct bench *b, struct slot *s)
{
    const struct dt_req *req = &s->request->pub;
    uint8_t bytes[DT_SECTOR_SIZE];

    for (uint32_t i = 0; !req->error && i < req->sectors; i++) {
        dt_iov_read(s->iov, s->niov, i * DT_SECTOR_SIZE, bytes, sizeof(bytes));
        if (!b->kill_log->killed && b->has_back && req->sector + i == 0 &&
            content_version(bytes, b->seed, 0) >= VERSION_ZERO)
            bench_skip("the back keeps nothing when its process ends");
        judge_sector(b, req->sector + i, bytes);
    }
}

/* An extension may fail a flush now and then, as a disk may. */
static void flush_again(struct bench *b)
{
    for (unsigned i = 0; i < FLUSH_ATTEMPTS; i++)
        if (bench_flush(b) == 0)
            return;
    bench_skip("no flush succeeds");
}

static void verify(struct bench *b)
{
    if (!b->has_back)
        model_recover(&b->model);
    bench_open(b, 1);
    memset(b->versions, 0xff, BENCH_SECTORS * sizeof(b->versions[0]));
    replay(b);
    flush_again(b);
    memset(b->versions, 0xff, BENCH_SECTORS * sizeof(b->versions[0]));
    bench_pass(b, DT_OP_READ, judge_slot);
    bench_close(b);
}

pid_t kill_start(struct bench *b, void (*fn)(struct bench *b))
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dt_rng_seed(&b->rng, dt_rng_next(&b->rng));
        fn(b);
        _exit(0);
    }
    dt_rng_next(&b->rng);
    return pid;
}

void kill_finish(struct bench *b, pid_t pid, int expected)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid);
    if (status == expected)
        return;
    if (b->verdict->state == RUNNING)
        bench_fail("the process died by itself (%s %d)", WIFSIGNALED(status) ? "signal" : "status",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    _exit(1);
}

/* False if it died before. */
static bool wait_until_started(pid_t pid, const unsigned *started)
{
    while (!__atomic_load_n(started, __ATOMIC_ACQUIRE)) {
        siginfo_t info = {.si_pid = 0};

        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    return true;
}

void kill_amid(struct bench *b, void (*work)(struct bench *b), unsigned *started)
{
    pid_t pid;

    __atomic_store_n(started, 0, __ATOMIC_RELEASE);
    pid = kill_start(b, work);
    if (wait_until_started(pid, started))
        nanosleep(&(struct timespec){.tv_nsec = (long)dt_rng_below(&b->rng, DT_MS(30))}, NULL);
    kill(pid, SIGKILL);
    kill_finish(b, pid, SIGKILL);
}

static void kill_once(struct bench *b)
{
    kill_amid(b, work, &b->kill_log->started);
    b->kill_log->killed = true;
    kill_finish(b, kill_start(b, verify), 0);
}

void property_kill(struct bench *b)
{
    uint64_t end = dt_clock_ns() + b->config->duration;

    b->kill_log = shared_memory(sizeof(*b->kill_log));
    b->sectors = b->model.sectors = KILL_SECTORS;
    kill_finish(b, kill_start(b, fill), 0);
    kill_finish(b, kill_start(b, verify), 0);
    while (b->verdict->count < KILL_ROUNDS || dt_clock_ns() < end) {
        kill_once(b);
        b->verdict->count++;
    }
}
