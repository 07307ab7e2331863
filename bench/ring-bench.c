/* SPDX-License-Identifier: MIT */
/*
 * ring-bench.c - what a virtqueue costs when nothing else is done.
 *
 * A driver thread on core 0 offers chains of three descriptors (16 B header, 4096 B data, 1 B
 * status; header and status share a cache line), a device thread on core 1 reads each header,
 * writes each status and gives the chain back. Data is never touched. Both poll. The last
 * figure of each kind has both on one core and times the device's part only: what it costs
 * when no cache line has to travel.
 *
 * All of it hangs on how long a cache line travels between the two cores, and under a hypervisor
 * that may change from one second to the next: each figure comes with the round trip of a bare
 * pair of lines, measured just before it. A request at depth 1 needs about three.
 *
 * usage: ring-bench [seconds per figure]
 */
#include "ring/ring.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>

#define QUEUE_SIZE 256u
#define SLOT_BYTES 512u
#define DATA_BYTES 4096u
#define MAX_DEPTH  64u
#define RING_AT    0x10000u
#define HEADERS_AT 0x40000u
#define DATA_AT    0x100000u
#define MEM_BYTES  0x400000u

/* What header and status of a request share. */
struct header {
    uint32_t type, pad;
    uint64_t sector;
    uint8_t status;
    uint8_t rest[47];
};

struct bench {
    bool packed, event_idx;
    unsigned depth;
    struct memmap map;
    struct iovpool *iovs;
    void *slots, *log;
    int fd;
    /* What the device thread writes, what the driver thread writes, what both read. */
    CACHE_ALIGNED struct virtq vq;
    CACHE_ALIGNED struct virtq_driver driver;
    struct header *headers;
    uint16_t owner[QUEUE_SIZE]; /* by id: the request */
    uint64_t sector;
    double line_ns; /* the bare round trip */
    CACHE_ALIGNED bool ready;
    bool stop;
};

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set); /* best effort: one core still gives a figure */
}

static int device_turn(struct bench *b)
{
    struct virtq_chain *chains[VIRTQ_GOOD_BURST];
    int n = virtq_take(&b->vq, chains, VIRTQ_GOOD_BURST);

    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        const struct header *header = chains[i]->iov[0].iov_base;
        uint8_t *status = chains[i]->iov[2].iov_base;

        *status = (uint8_t)header->sector;
        virtq_push(&b->vq, chains[i], DATA_BYTES + 1);
    }
    if (n > 0)
        virtq_publish(&b->vq);
    return n;
}

static void *device_main(void *arg)
{
    struct bench *b = arg;

    pin(1);
    __atomic_store_n(&b->ready, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&b->stop, __ATOMIC_RELAXED))
        device_turn(b);
    return NULL;
}

static void offer(struct bench *b, unsigned request)
{
    uint64_t header = HEADERS_AT + request * sizeof(struct header);
    struct virtq_buffer bufs[3] = {
        {header, 16},
        {DATA_AT + request * DATA_BYTES, DATA_BYTES},
        {header + offsetof(struct header, status), 1},
    };
    int id;

    b->headers[request].type = 0;
    b->headers[request].sector = b->sector++;
    b->headers[request].status = 0xff;
    id = virtq_driver_add(&b->driver, bufs, 1, 2);
    CHECK(id >= 0);
    b->owner[id] = (uint16_t)request;
}

/* Collect what is finished and offer it again. */
static unsigned driver_turn(struct bench *b)
{
    uint16_t ids[MAX_DEPTH];
    int n = virtq_driver_reap(&b->driver, ids, NULL, MAX_DEPTH);

    CHECK(n >= 0);
    /* All of them before the first is offered again: ids are reused at once. */
    for (int i = 0; i < n; i++) {
        ids[i] = b->owner[ids[i]];
        CHECK(b->headers[ids[i]].status == (uint8_t)b->headers[ids[i]].sector);
    }
    for (int i = 0; i < n; i++)
        offer(b, ids[i]);
    if (n > 0)
        virtq_driver_publish(&b->driver);
    return (unsigned)n;
}

static void bench_open(struct bench *b)
{
    struct dt_error err = {{0}};
    uint64_t mem_size = MEM_BYTES;

    b->fd = memfd_create("ring-bench", 0);
    b->iovs = iovpool_new(4);
    b->slots = xaligned(CACHE_LINE, QUEUE_SIZE * SLOT_BYTES);
    b->log = xaligned(CACHE_LINE, inflight_queue_size(QUEUE_SIZE, b->packed));
    CHECK(b->fd >= 0 && ftruncate(b->fd, (off_t)mem_size) == 0);
    memmap_init(&b->map);
    CHECK(memmap_add(&b->map, 0, 0, mem_size, b->fd, 0, &err) == 0);
    b->headers = memmap_host(&b->map, HEADERS_AT, MAX_DEPTH * sizeof(struct header));
    CHECK(virtq_driver_init(&b->driver, QUEUE_SIZE, b->packed, b->event_idx,
                            memmap_host(&b->map, RING_AT, 0x10000), RING_AT) == 0);
    struct virtq_config config = {
        .size = QUEUE_SIZE,
        .packed = b->packed,
        .event_idx = b->event_idx,
        .desc = RING_AT + b->driver.desc_off,
        .driver = RING_AT + b->driver.driver_off,
        .device = RING_AT + b->driver.device_off,
        .map = &b->map,
        .iovs = b->iovs,
        .slots = b->slots,
        .slot_stride = SLOT_BYTES,
        .inflight = b->log,
    };
    CHECK(virtq_start(&b->vq, &config, b->packed ? 0x80008000u : 0, false, &err) == 0);
    virtq_disarm(&b->vq);
    virtq_driver_disarm(&b->driver);
}

static void bench_close(struct bench *b)
{
    virtq_abandon(&b->vq);
    virtq_driver_fini(&b->driver);
    memmap_clear(&b->map);
    iovpool_free(b->iovs);
    free(b->slots);
    free(b->log);
    close(b->fd);
}

/* ---- The bare round trip -------------------------------------------------------------- */

#define BOUNCES 50000u

static struct {
    CACHE_ALIGNED uint32_t there;
    CACHE_ALIGNED uint32_t back;
    CACHE_ALIGNED bool ready;
} bounce;

static void *bounce_main(void *arg)
{
    pin(1);
    __atomic_store_n(&bounce.ready, true, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i <= BOUNCES; i++) {
        while (__atomic_load_n(&bounce.there, __ATOMIC_ACQUIRE) != i)
            ;
        __atomic_store_n(&bounce.back, i, __ATOMIC_RELEASE);
    }
    return NULL;
}

static double round_trip(void)
{
    pthread_t other;
    uint64_t start;

    memset(&bounce, 0, sizeof(bounce));
    CHECK(pthread_create(&other, NULL, bounce_main, NULL) == 0);
    while (!__atomic_load_n(&bounce.ready, __ATOMIC_ACQUIRE))
        usleep(100);
    pin(0);
    start = dt_clock_ns();
    for (uint32_t i = 1; i <= BOUNCES; i++) {
        __atomic_store_n(&bounce.there, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(&bounce.back, __ATOMIC_ACQUIRE) != i)
            ;
    }
    start = dt_clock_ns() - start;
    pthread_join(other, NULL);
    return (double)start / BOUNCES;
}

/* ---- Measurements --------------------------------------------------------------------- */

static void report(const struct bench *b, const char *what, uint64_t chains, uint64_t ns)
{
    printf("%-6s event_idx %-3s depth %2u %s: %7.3f M req/s, %6.1f ns each%s",
           b->packed ? "packed" : "split", b->event_idx ? "on" : "off", b->depth, what,
           (double)chains * 1e3 / (double)ns, (double)ns / (double)chains,
           b->line_ns > 0 ? "" : "\n");
    if (b->line_ns > 0)
        printf(" (lines: %.0f ns)\n", b->line_ns);
    fflush(stdout);
}

static void bench_two_cores(struct bench *b, uint64_t duration)
{
    uint64_t start, now, chains = 0;
    pthread_t device;

    b->line_ns = round_trip();
    bench_open(b);
    CHECK(pthread_create(&device, NULL, device_main, b) == 0);
    /* It must have left this core before we spin on it. */
    while (!__atomic_load_n(&b->ready, __ATOMIC_ACQUIRE))
        usleep(100);
    pin(0);
    start = now = dt_clock_ns();
    for (unsigned i = 0; i < b->depth; i++)
        offer(b, i);
    virtq_driver_publish(&b->driver);
    while (now - start < duration) {
        for (unsigned turn = 0; turn < 4096;)
            turn += driver_turn(b);
        chains += 4096;
        now = dt_clock_ns();
    }
    __atomic_store_n(&b->stop, true, __ATOMIC_RELAXED);
    pthread_join(device, NULL);
    report(b, "two cores   ", chains, now - start);
    bench_close(b);
}

static void bench_device(struct bench *b, uint64_t duration)
{
    uint64_t start, before, now, chains = 0, ns = 0;

    bench_open(b);
    for (unsigned i = 0; i < b->depth; i++)
        offer(b, i);
    virtq_driver_publish(&b->driver);
    start = now = dt_clock_ns();
    while (now - start < duration) {
        before = dt_clock_ns();
        chains += (unsigned)device_turn(b);
        now = dt_clock_ns();
        ns += now - before;
        driver_turn(b);
    }
    report(b, "device alone", chains, ns);
    bench_close(b);
}

int main(int argc, char **argv)
{
    static const unsigned depths[] = {1, 16, 64};
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    uint64_t duration = (uint64_t)(seconds * 1e9);

    if (argc > 1 && !strcmp(argv[1], "lines")) { /* for bench/run, beside each of its figures */
        printf("%.0f\n", round_trip());
        return 0;
    }

    for (int packed = 0; packed < 2; packed++) {
        for (int event_idx = 0; event_idx < 2; event_idx++) {
            struct bench alone = {.packed = packed, .event_idx = event_idx, .depth = 16};

            for (unsigned i = 0; i < ARRAY_SIZE(depths); i++) {
                struct bench b = {.packed = packed, .event_idx = event_idx, .depth = depths[i]};

                bench_two_cores(&b, duration);
            }
            bench_device(&alone, duration);
        }
    }
    return 0;
}
