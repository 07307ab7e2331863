/* SPDX-License-Identifier: MIT */
/*
 * loop-wake.c - what the event loop adds to the kernel's own wake-up.
 *
 * A blocking thread and a partner bounce an eventfd; the partner is a blocking thread (bare), or a
 * sleeping loop that is woken by a watch or by a message. The three take turns in short rounds, so
 * that other load on the machine meets all alike. Then: a spinning turn, and I/O in bursts.
 */
#include "loop/loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define ROUNDS  40
#define BOUNCES 500

struct partner {
    struct loop *loop; /* NULL = bare */
    struct dt_watch watch;
    struct loop_message message;
    int request, reply; /* eventfds */
    bool by_message, quit;
    pthread_t thread;
    uint64_t samples[ROUNDS * BOUNCES];
    unsigned n;
};

static void reply(struct partner *p)
{
    CHECK(eventfd_write(p->reply, 1) == 0);
}

static void on_watch(struct dt_watch *watch, uint32_t events)
{
    struct partner *p = container_of(watch, struct partner, watch);
    eventfd_t value;

    CHECK(eventfd_read(watch->fd, &value) == 0);
    reply(p);
}

static void on_message(struct loop_message *message)
{
    reply(container_of(message, struct partner, message));
}

static void *partner_thread(void *arg)
{
    struct partner *p = arg;
    eventfd_t value;

    if (p->loop) {
        loop_run(p->loop);
        return NULL;
    }
    while (eventfd_read(p->request, &value) == 0 && !__atomic_load_n(&p->quit, __ATOMIC_RELAXED))
        reply(p);
    return NULL;
}

static struct partner *partner_new(enum loop_engine engine, bool with_loop, bool by_message)
{
    struct loop_config config = {.engine = engine};
    struct partner *p = xcalloc(1, sizeof(*p));
    struct dt_error err;

    p->request = eventfd(0, 0);
    p->reply = eventfd(0, 0);
    p->by_message = by_message;
    if (with_loop) {
        if (loop_new(&p->loop, &config, &err) < 0) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
        p->message.run = on_message;
        p->watch = (struct dt_watch){.ready = on_watch, .fd = p->request, .events = EPOLLIN};
        CHECK(loop_watch_add(p->loop, &p->watch) == 0);
    }
    CHECK(pthread_create(&p->thread, NULL, partner_thread, p) == 0);
    return p;
}

static void partner_round(struct partner *p)
{
    eventfd_t value;

    for (int i = 0; i < BOUNCES; i++) {
        uint64_t start = dt_clock_ns();

        if (p->by_message)
            loop_post(p->loop, &p->message);
        else
            CHECK(eventfd_write(p->request, 1) == 0);
        CHECK(eventfd_read(p->reply, &value) == 0);
        p->samples[p->n++] = dt_clock_ns() - start;
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Where the threads run decides more than all else: a wake-up across cores costs an interrupt. */
static void pin(pthread_t thread, unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(thread, sizeof(set), &set);
}

static void bounce(enum loop_engine engine, const char *name, unsigned cpu)
{
    struct partner *p[] = {
        partner_new(engine, false, false),
        partner_new(engine, true, false),
        partner_new(engine, true, true),
    };
    static const char *const names[] = {"bare eventfd", "loop, watch", "loop, message"};

    pin(pthread_self(), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
        pin(p[i]->thread, cpu);
    for (int round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
            partner_round(p[i]);
    printf("%-8s there and back, %s, us   p50      p90      p99\n", name,
           cpu ? "two cores" : "one core ");
    for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
        uint64_t *s = p[i]->samples;

        qsort(s, p[i]->n, sizeof(*s), compare);
        printf("  %-32s %8.1f %8.1f %8.1f\n", names[i], (double)s[p[i]->n / 2] / 1e3,
               (double)s[p[i]->n * 9 / 10] / 1e3, (double)s[p[i]->n * 99 / 100] / 1e3);
        if (p[i]->loop) {
            loop_stop(p[i]->loop);
        } else {
            __atomic_store_n(&p[i]->quit, true, __ATOMIC_RELAXED);
            CHECK(eventfd_write(p[i]->request, 1) == 0);
        }
        pthread_join(p[i]->thread, NULL);
        if (p[i]->loop)
            loop_watch_remove(p[i]->loop, &p[i]->watch);
        loop_free(p[i]->loop);
        close(p[i]->request);
        close(p[i]->reply);
        free(p[i]);
    }
}

static unsigned idle_poll(struct loop_poller *poller)
{
    return 0;
}

static unsigned in_flight;

static void on_io(struct dt_io *io, int result)
{
    CHECK(result == 512);
    in_flight--;
}

static void spin_and_io(enum loop_engine engine, const char *name)
{
    enum { TURNS = 10000000, IOS = 400000, BURST = 32 };
    struct loop_config config = {.engine = engine, .spin_ns = UINT64_MAX};
    struct loop_poller poller = {.poll = idle_poll};
    static char buf[BURST][512], zeroes[BURST * 512];
    struct dt_io ios[BURST];
    struct iovec iov[BURST];
    int fd =
        open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); /* tmpfs cannot read without waiting */
    struct loop *loop;
    uint64_t start;

    CHECK(loop_new(&loop, &config, NULL) == 0);
    CHECK(fd >= 0 && write(fd, zeroes, sizeof(zeroes)) == sizeof(zeroes));
    list_init(&poller.node);
    loop_poller_wake(loop, &poller);
    start = dt_clock_ns();
    for (int i = 0; i < TURNS; i++)
        loop_turn(loop, false);
    printf("%s: a spinning turn: %.1f ns\n", name, (double)(dt_clock_ns() - start) / TURNS);
    for (unsigned burst = 1; burst <= BURST; burst *= 32) {
        start = dt_clock_ns();
        for (unsigned done = 0; done < IOS; done += burst) {
            for (unsigned i = 0; i < burst; i++, in_flight++) {
                ios[i].done = on_io;
                iov[i] = (struct iovec){buf[i], sizeof(buf[i])};
                loop_readv(loop, &ios[i], fd, &iov[i], 1, i * 512);
            }
            while (in_flight)
                loop_turn(loop, false);
        }
        printf("%s: read of 512 cached bytes, bursts of %2u: %.0f ns\n", name, burst,
               (double)(dt_clock_ns() - start) / IOS);
    }
    loop_poller_remove(loop, &poller);
    loop_free(loop);
    close(fd);
}

int main(void)
{
    for (unsigned cpu = 0; cpu < 2; cpu++) {
        bounce(LOOP_URING, "io_uring", cpu);
        bounce(LOOP_EPOLL, "epoll", cpu);
    }
    spin_and_io(LOOP_URING, "io_uring");
    spin_and_io(LOOP_EPOLL, "epoll");
    return 0;
}
