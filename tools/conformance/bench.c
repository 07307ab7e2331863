/* SPDX-License-Identifier: MIT */
/*
 * bench.c - a device under test: its chain with guards and model, its threads, load and rest.
 *
 * With one thread the bench turns the loop itself, so the same seed gives the same order of events
 * as far as the extension under test allows it (timers and real I/O have an order of their own).
 */
#include "tools/conformance/internal.h"

#include <sys/mman.h>
#include <time.h>

#define PASS_STEP 64u /* sectors of one request of bench_pass() */

struct bench *bench;

void *shared_memory(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

/* ---- Verdicts -------------------------------------------------------------------------------- */

/* Any thread may fail, and the first one counts. */
_Noreturn static void end_with(int state, const char *fmt, va_list args)
{
    static bool ended;

    if (!__atomic_exchange_n(&ended, true, __ATOMIC_ACQ_REL)) {
        vsnprintf(bench->verdict->text, sizeof(bench->verdict->text), fmt, args);
        bench->verdict->state = state;
        _exit(1);
    }
    for (;;)
        pause();
}

void bench_fail(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    end_with(FAILED, fmt, args);
}

void bench_skip(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    end_with(SKIPPED, fmt, args);
}

/* ---- The chain ---- */

/* Puts the guards between the layers, and the model below if there is no back. */
static void assemble(struct bench *b)
{
    static struct layer_spec layers[CHAIN_MAX_LAYERS];
    static struct setting index[CHAIN_MAX_LAYERS];
    static char digits[CHAIN_MAX_LAYERS][12];
    unsigned guards = b->guarded ? b->user.count + !b->has_back : 0, n = 0;

    for (unsigned i = 0; i <= b->user.count; i++) {
        if (i < guards) {
            snprintf(digits[i], sizeof(digits[i]), "%u", i);
            index[i] = (struct setting){"index", digits[i]};
            layers[n++] = (struct layer_spec){
                .name = (char *)guard_ext.name, .settings = &index[i], .count = 1};
        }
        if (i < b->user.count)
            layers[n++] = b->user.layers[i];
    }
    if (!b->has_back)
        layers[n++] = (struct layer_spec){.name = (char *)model_ext.name};
    b->full = (struct chain_spec){layers, n};
}

void bench_build(struct bench *b, unsigned threads, bool state)
{
    struct loop_config config = {.spin_ns = UINT64_MAX};
    char dir[sizeof(b->dir) + 8];
    struct device_config device = {
        .name = "conformance", .chain = &b->full, .loops = b->loops, .threads = threads};
    struct dt_error err = {""};

    snprintf(dir, sizeof(dir), "%s/state", b->dir);
    device.state_dir = state ? dir : NULL;
    b->threads = threads;
    assemble(b);
    for (unsigned t = 0; t < threads; t++)
        if (loop_new(&b->loops[t], &config, &err) < 0)
            bench_fail("%s", err.text);
    if (device_new(&b->dev, &device, &err) < 0)
        bench_fail("the device does not open: %s", err.text);
    b->sectors = MIN(b->sectors, device_info(b->dev)->sectors);
}

static void *thread_main(void *arg)
{
    struct load *load = arg;

    loop_poller_wake(load->bench->loops[load->thread], &load->poller);
    loop_run(load->bench->loops[load->thread]);
    loop_poller_remove(load->bench->loops[load->thread], &load->poller);
    return NULL;
}

void bench_start(struct bench *b)
{
    struct dt_error err = {""};

    if (device_start(b->dev, &load_front_ops, b, &err) < 0)
        bench_fail("the device does not start: %s", err.text);
    for (unsigned t = 0; t < b->threads; t++)
        load_init(&b->loads[t], b, t);
    for (unsigned t = 0; b->threads > 1 && t < b->threads; t++)
        CHECK(pthread_create(&b->pthreads[t], NULL, thread_main, &b->loads[t]) == 0);
}

void bench_stop(struct bench *b)
{
    device_stop(b->dev);
    for (unsigned t = 0; t < b->threads; t++) {
        if (b->threads > 1) {
            loop_stop(b->loops[t]);
            pthread_join(b->pthreads[t], NULL);
        }
        load_fini(&b->loads[t]);
    }
}

void bench_close(struct bench *b)
{
    if (b->loads[0].scratch)
        bench_stop(b);
    b->loads[0].scratch = NULL;
    device_free(b->dev);
    for (unsigned t = 0; t < b->threads; t++)
        loop_free(b->loops[t]);
}

/* ---- Load and rest ---- */

void bench_step(struct bench *b)
{
    static unsigned idle;

    if (load_step(&b->loads[0]) + loop_turn(b->loops[0], false)) {
        idle = 0;
    } else if (++idle > 100) { /* a timer or real I/O of the extension's is awaited */
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

static void pass_time(struct bench *b)
{
    if (b->threads == 1)
        bench_step(b);
    else
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void enable(struct bench *b, bool on)
{
    for (unsigned t = 0; t < b->threads; t++)
        __atomic_store_n(&b->loads[t].enabled, on, __ATOMIC_RELEASE);
}

static uint64_t requests_done(const struct bench *b)
{
    uint64_t n = 0;

    for (unsigned t = 0; t < b->threads; t++)
        n += __atomic_load_n(&b->loads[t].done, __ATOMIC_RELAXED);
    return n;
}

void bench_load(struct bench *b, uint64_t ns)
{
    uint64_t end = dt_clock_ns() + ns, before = requests_done(b);

    enable(b, true);
    while (dt_clock_ns() < end)
        pass_time(b);
    enable(b, false);
    if (b->counts_requests)
        b->verdict->count += requests_done(b) - before;
}

static void nothing(void *arg)
{
}

static void quiesce_done(void *arg, const char *late)
{
    struct bench *b = arg;

    snprintf(b->quiesce_late, sizeof(b->quiesce_late), "%s", late ? late : "");
    __atomic_store_n(&b->quiesce_done, true, __ATOMIC_RELEASE);
}

const char *bench_quiesce(struct bench *b, uint64_t ns)
{
    enable(b, false);
    for (unsigned t = 0; t < b->threads; t++)
        loop_call(b->loops[t], nothing, NULL); /* each has seen that it is disabled */
    b->quiesce_done = false;
    device_quiesce(b->dev, dt_clock_ns() + ns, quiesce_done, b);
    while (!__atomic_load_n(&b->quiesce_done, __ATOMIC_ACQUIRE))
        pass_time(b);
    return b->quiesce_late[0] ? b->quiesce_late : NULL;
}

static unsigned requests_busy(const struct bench *b)
{
    unsigned n = 0;

    for (unsigned t = 0; t < b->threads; t++)
        n += __atomic_load_n(&b->loads[t].busy, __ATOMIC_ACQUIRE);
    return n;
}

/*
 * A layer may rightly hold requests for long; so when nothing moves any more it is asked to let go,
 * and only what stays away even then is lost.
 */
void bench_settle(struct bench *b)
{
    uint64_t begin = dt_clock_ns(), done = requests_done(b);
    const char *late;

    while (requests_busy(b) && dt_clock_ns() - begin < b->config->patience / 4) {
        pass_time(b);
        if (requests_done(b) != done)
            begin = dt_clock_ns();
        done = requests_done(b);
    }
    late = bench_quiesce(b, b->config->patience);
    if (late)
        bench_fail("requests were lost: %u never came back; %s", requests_busy(b), late);
}

void bench_pass(struct bench *b, enum dt_op op, void (*done)(struct bench *b, struct slot *s))
{
    for (uint64_t at = 0; at < b->sectors;) {
        struct slot *slots[LOAD_SLOTS];
        unsigned n = 0;

        for (; n < LOAD_SLOTS && at < b->sectors; at += PASS_STEP, n++) {
            slots[n] = load_one(&b->loads[0], op, at, (uint32_t)MIN(b->sectors - at, PASS_STEP),
                                (*b->next_version)++, 0);
            slots[n]->kept = true;
        }
        bench_settle(b);
        for (unsigned i = 0; i < n; i++) {
            done(b, slots[i]);
            slots[i]->kept = false;
        }
    }
}

int bench_flush(struct bench *b)
{
    struct slot *s = load_one(&b->loads[0], DT_OP_FLUSH, 0, 0, 0, 0);

    bench_settle(b);
    return s->request->pub.error;
}
