/* SPDX-License-Identifier: MIT */
/*
 * relay.c - the least that a back end in another thread can cost at depth 1.
 *
 * A client writes an eventfd and sleeps; a relay wakes, reads 4 KiB of the file with io_uring, sleeps
 * until they are there, and writes the eventfd on which the client sleeps. Or both spin, on a word of
 * memory and on the completion queue. No ring, no protocol, no chain: what a soft disk takes
 * beyond this is its own. Beside it the same read without a relay, asleep.
 * usage: relay FILE SECONDS [poll]. Prints two medians in microseconds: direct, relayed.
 */
#include "base/base.h"

#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define BLOCK   4096u
#define SAMPLES 1000000u

struct reader {
    struct io_uring ring;
    struct dt_rng rng;
    uint64_t blocks;
    void *buffer;
    int fd;
};

static int request = -1, answer = -1;
static bool spins;
static unsigned asked, answered __attribute__((aligned(128))); /* when spinning */

static void reader_open(struct reader *r, const char *path)
{
    struct stat st;

    r->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (r->fd < 0 || fstat(r->fd, &st) < 0 || st.st_size < (off_t)BLOCK) {
        fprintf(stderr, "relay: %s: %s\n", path, r->fd < 0 ? strerror(errno) : "too small");
        exit(1);
    }
    r->blocks = (uint64_t)st.st_size / BLOCK;
    r->buffer = xaligned(BLOCK, BLOCK);
    dt_rng_seed(&r->rng, 1);
    CHECK(io_uring_queue_init(8, &r->ring,
                              IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                  IORING_SETUP_TASKRUN_FLAG) == 0);
}

static void wait_for_completion(struct reader *r, bool sleep, struct io_uring_cqe **cqe)
{
    while (!sleep && !io_uring_cq_ready(&r->ring) &&
           !(__atomic_load_n(r->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN))
        ;
    CHECK(io_uring_wait_cqe(&r->ring, cqe) == 0);
}

static void reader_read(struct reader *r, bool sleep)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    struct io_uring_cqe *cqe;

    io_uring_prep_read(sqe, r->fd, r->buffer, BLOCK, dt_rng_below(&r->rng, r->blocks) * BLOCK);
    CHECK(io_uring_submit_and_wait(&r->ring, sleep) >= 0);
    wait_for_completion(r, sleep, &cqe);
    CHECK(cqe->res == (int)BLOCK);
    io_uring_cqe_seen(&r->ring, cqe);
}

static void pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void *relay_thread(void *path)
{
    struct reader reader;
    eventfd_t value;

    pin(1);
    reader_open(&reader, path);
    for (unsigned n = 1; spins; n++) {
        while (__atomic_load_n(&asked, __ATOMIC_ACQUIRE) != n)
            if (__atomic_load_n(&asked, __ATOMIC_RELAXED) == UINT32_MAX)
                return NULL;
        reader_read(&reader, false);
        __atomic_store_n(&answered, n, __ATOMIC_RELEASE);
    }
    while (eventfd_read(request, &value) == 0 && value == 1) {
        reader_read(&reader, true);
        CHECK(eventfd_write(answer, 1) == 0);
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static double median_us(uint64_t *samples, unsigned n)
{
    qsort(samples, n, sizeof(*samples), compare);
    return (double)samples[n / 2] / 1000.0;
}

/* One read by the relay: ask, and wait for the answer. */
static void relayed_read(unsigned n)
{
    eventfd_t value;

    if (!spins) {
        CHECK(eventfd_write(request, 1) == 0);
        CHECK(eventfd_read(answer, &value) == 0);
        return;
    }
    __atomic_store_n(&asked, n + 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&answered, __ATOMIC_ACQUIRE) != n + 1)
        ;
}

int main(int argc, char **argv)
{
    static uint64_t direct[SAMPLES], relayed[SAMPLES];
    struct reader reader;
    pthread_t thread;
    uint64_t end;
    unsigned n = 0;

    spins = argc == 4 && strcmp(argv[3], "poll") == 0;
    if (argc != 3 && !spins) {
        fprintf(stderr, "usage: relay FILE SECONDS [poll]\n");
        return 2;
    }
    pin(0);
    request = eventfd(0, EFD_CLOEXEC);
    answer = eventfd(0, EFD_CLOEXEC);
    reader_open(&reader, argv[1]);
    CHECK(pthread_create(&thread, NULL, relay_thread, argv[1]) == 0);
    end = dt_clock_ns() + DT_S((uint64_t)atoi(argv[2]));
    do { /* alternately, so that other load meets both alike */
        uint64_t start = dt_clock_ns(), middle;

        reader_read(&reader, true);
        middle = dt_clock_ns();
        relayed_read(n);
        direct[n] = middle - start;
        relayed[n++] = dt_clock_ns() - middle;
    } while (n < SAMPLES && dt_clock_ns() < end);
    __atomic_store_n(&asked, UINT32_MAX, __ATOMIC_RELEASE);
    CHECK(eventfd_write(request, 2) == 0);
    pthread_join(thread, NULL);
    printf("%.1f %.1f\n", median_us(direct, n), median_us(relayed, n));
    return 0;
}
