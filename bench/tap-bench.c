/* SPDX-License-Identifier: MIT */
/*
 * tap-bench.c - what a request costs each stage of a tap that interposes: driver, tap, and the back end `null`
 * behind it; and the first and last of these without the tap.
 *
 * All stages are on one thread, a turn of each after the other, so no cache line travels and no other process
 * decides: what is measured is what our code does. A pipeline with a processor for each stage is as fast as its slowest
 * one. Short alternating rounds; medians. Under a profiler that counts, such as
 *
 *     valgrind --tool=callgrind --separate-callers=1 build/bench/tap-bench 1
 *
 * the functions turn_driver(), turn_tap() and turn_null() say the same in instructions.
 *
 * usage: tap-bench [rounds [extensions of the tap]]
 */
#include "tests/unit/soft_disk.h"

#include <pthread.h>
#include <stdio.h>

#define LAPS       512u /* of a round */
#define MAX_ROUNDS 10001u
#define MAX_DEPTH  128u
#define BYTES      4096u

enum stage { DRIVER, TAP, NULL_DISK, STAGES };

/* One pipeline: with a tap, or without. */
struct pipe {
    struct soft_disk null, tap;
    bool tapped;
    struct vblk *driver;
    uint64_t sector;
    double ns[STAGES][MAX_ROUNDS];
};

static struct pipe direct, tapped = {.tapped = true};
static uint64_t clock_ns; /* what it costs to look at it */

/* ---- Stages ---- */

#define STAGE static __attribute__((noinline)) unsigned

static void submit(struct pipe *p, struct vblk_queue *q, struct vblk_request *r)
{
    r->type = VIRTIO_BLK_T_IN;
    r->bytes = BYTES;
    r->sector = p->sector;
    p->sector = (p->sector + 8) % 2048;
    vblk_submit(q, r);
}

STAGE turn_driver(struct pipe *p)
{
    struct vblk_queue *q = vblk_queue(p->driver, 0);
    struct vblk_request *done[VIRTQ_GOOD_BURST];
    int n = vblk_reap(q, done, VIRTQ_GOOD_BURST);

    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        CHECK(done[i]->status == VIRTIO_BLK_S_OK);
        submit(p, q, done[i]);
    }
    vblk_publish(q);
    return (unsigned)n;
}

STAGE turn_tap(struct pipe *p)
{
    return loop_turn(p->tap.loop, false);
}

STAGE turn_null(struct pipe *p)
{
    return loop_turn(p->null.loop, false);
}

/* ---- Rounds ---- */

static uint64_t lap(uint64_t *since)
{
    uint64_t now = dt_clock_ns(), took = now - *since;

    *since = now;
    return took - MIN(took, clock_ns);
}

static unsigned run_round(struct pipe *p, unsigned round)
{
    uint64_t ns[STAGES] = {0}, since = dt_clock_ns();
    unsigned done = 0;

    for (unsigned i = 0; i < LAPS; i++) {
        done += turn_driver(p);
        ns[DRIVER] += lap(&since);
        if (p->tapped)
            turn_tap(p);
        ns[TAP] += lap(&since);
        turn_null(p);
        ns[NULL_DISK] += lap(&since);
    }
    for (unsigned s = 0; s < STAGES; s++)
        p->ns[s][round] = (double)ns[s] / done;
    return done;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values, unsigned n)
{
    qsort(values, n, sizeof(*values), by_size);
    return values[n / 2];
}

static void report(unsigned depth, unsigned rounds)
{
    double d[STAGES], t[STAGES];

    for (unsigned s = 0; s < STAGES; s++) {
        d[s] = median(direct.ns[s], rounds);
        t[s] = median(tapped.ns[s], rounds);
    }
    printf("| %u | %.1f | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f |\n", depth, d[DRIVER],
           d[NULL_DISK], t[DRIVER], t[TAP], t[NULL_DISK], t[TAP] / d[NULL_DISK],
           MAX(d[DRIVER], d[NULL_DISK]) / MAX(MAX(t[DRIVER], t[TAP]), t[NULL_DISK]));
}

/* ---- Pipelines ---- */

/* The thread that turns all loops: io_uring wants one and the same. */
enum { TURN_NULL, TURN_ALL, MEASURE, QUIT };
static int wanted = TURN_NULL;
static unsigned rounds = 501;

static void *turn_all(void *arg)
{
    int want;

    while ((want = __atomic_load_n(&wanted, __ATOMIC_ACQUIRE)) != QUIT) {
        loop_turn(direct.null.loop, false);
        loop_turn(tapped.null.loop, false);
        if (want != TURN_NULL)
            loop_turn(tapped.tap.loop, false);
        if (want != MEASURE)
            continue;
        /* Its control thread gives the rear the driver's memory; until then all requests wait. */
        while (run_round(&tapped, 0) < 4 * LAPS)
            ;
        for (unsigned i = 0; i < 2 * rounds; i++)
            run_round(i % 2 ? &tapped : &direct, i / 2);
        __atomic_store_n(&wanted, TURN_ALL, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void fill(struct pipe *p, unsigned depth)
{
    const struct vblk_config config = {.path = p->tapped ? p->tap.socket : p->null.socket,
                                       .queues = 1,
                                       .depth = depth,
                                       .bytes = BYTES,
                                       .timeout_ms = 10000};
    struct dt_error err;

    if (vblk_open(&p->driver, &config, &err) < 0) {
        fprintf(stderr, "tap-bench: %s\n", err.text);
        exit(1);
    }
    vblk_poll(vblk_queue(p->driver, 0));
    for (unsigned i = 0; i < depth; i++)
        submit(p, vblk_queue(p->driver, 0), vblk_request(vblk_queue(p->driver, 0), i));
    vblk_publish(vblk_queue(p->driver, 0));
}

static void measure_depth(unsigned depth)
{
    fill(&direct, depth);
    fill(&tapped, depth);
    __atomic_store_n(&wanted, MEASURE, __ATOMIC_RELEASE);
    while (__atomic_load_n(&wanted, __ATOMIC_ACQUIRE) == MEASURE)
        usleep(1000);
    report(depth, rounds);
    vblk_close(direct.driver);
    vblk_close(tapped.driver);
}

/* At its best: the thread may be stopped at any moment. */
static uint64_t measure_clock(void)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < 1000; i++) {
        uint64_t start = dt_clock_ns();

        for (unsigned j = 0; j < 100; j++)
            dt_clock_ns();
        best = MIN(best, (dt_clock_ns() - start) / 100);
    }
    return best;
}

int main(int argc, char **argv)
{
    const char *extensions = argc > 2 ? argv[2] : "";
    pthread_t thread;
    char chain[512];

    if (argc > 1)
        rounds = (unsigned)MIN(MAX(strtoul(argv[1], NULL, 10), 1ul), (unsigned long)MAX_ROUNDS);
    log_set_level(DT_LOG_WARNING);
    blk_register_builtin();
    clock_ns = measure_clock();
    direct.null.turned = tapped.null.turned = tapped.tap.turned = true;
    soft_disk_start(&direct.null, "null size=1G");
    soft_disk_start(&tapped.null, "null size=1G");
    pthread_create(&thread, NULL, turn_all, NULL);
    snprintf(chain, sizeof(chain), "%s vhost-user path=%s", extensions, tapped.null.socket);
    soft_disk_start(&tapped.tap, chain); /* asks the rear, which must be turned */
    __atomic_store_n(&wanted, TURN_ALL, __ATOMIC_RELEASE);
    puts("ns a request\n");
    puts("| depth | driver | `null` | driver, tapped | tap | `null` behind | tap to `null` | of "
         "direct |");
    puts("|---|---|---|---|---|---|---|---|");
    for (unsigned depth = 16; depth <= MAX_DEPTH; depth *= 2)
        measure_depth(depth);
    __atomic_store_n(&wanted, QUIT, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    unlink(direct.null.socket);
    unlink(tapped.null.socket);
    unlink(tapped.tap.socket);
    return 0;
}
