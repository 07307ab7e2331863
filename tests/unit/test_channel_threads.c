/* SPDX-License-Identifier: MIT */
/*
 * test_channel_threads.c - both sides of an extension channel in two threads of one process, where TSan
 * can see them: polling and sleeping, without a lost wake-up, and data that arrives whole.
 */
#include "channel/channel.h"
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#define SLOTS    64u
#define MESSAGES 30000u
#define WAIT_MS  20000 /* a lost wake-up shows here */

struct side {
    struct channel_producer out;
    struct channel_consumer in;
    int kick; /* that wakes it */
    bool sleeps;
    uint64_t slept;
};

static struct channel_map map;
static struct side worker, extension;

static uint64_t *page(uint32_t id)
{
    return (uint64_t *)(void *)(map.data + ((size_t)id << CHANNEL_PAGE_SHIFT));
}

/* How many messages there are to read; waits until there is one. */
static unsigned await(struct side *s)
{
    for (;;) {
        struct pollfd fd = {.fd = s->kick, .events = POLLIN};
        int n = channel_available(&s->in);
        uint64_t count;

        assert_true(n >= 0);
        if (n > 0)
            return (unsigned)n;
        if (!s->sleeps || !channel_arm(&s->in))
            continue;
        s->slept++;
        assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
        assert_int_equal(read(s->kick, &count, sizeof(count)), sizeof(count));
    }
}

/* Adds one to what it finds in each message's page, and sends it back. */
static void *run_extension(void *arg)
{
    for (unsigned done = 0; done < MESSAGES;) {
        for (unsigned n = await(&extension); n > 0; n--, done++) {
            struct channel_msg m;

            channel_take(&extension.in, &m);
            *page(m.data) += 1;
            m.kind = CHANNEL_DONE;
            *channel_push(&extension.out) = m;
        }
        channel_publish(&extension.out);
    }
    return NULL;
}

static void send(uint32_t id, unsigned number)
{
    *page(id) = 2 * number;
    *channel_push(&worker.out) =
        (struct channel_msg){.kind = CHANNEL_REQUEST, .id = id, .sector = number, .data = id};
}

/* @depth messages under way at any time. */
static void exchange(unsigned depth, bool sleeps)
{
    const struct channel_shape shape = {.slots = SLOTS, .data_bytes = SLOTS << CHANNEL_PAGE_SHIFT};
    struct dt_error err;
    pthread_t thread;
    unsigned sent = 0, back = 0;
    int fd = channel_create(&map, &shape, &err);

    assert_true(fd >= 0);
    worker = extension = (struct side){.sleeps = sleeps};
    worker.kick = eventfd(0, EFD_NONBLOCK);
    extension.kick = eventfd(0, EFD_NONBLOCK);
    channel_producer_init(&worker.out, map.down, &map.header->down, map.entries, extension.kick);
    channel_consumer_init(&extension.in, map.down, &map.header->down, map.entries);
    channel_producer_init(&extension.out, map.up, &map.header->up, map.entries, worker.kick);
    channel_consumer_init(&worker.in, map.up, &map.header->up, map.entries);
    assert_int_equal(pthread_create(&thread, NULL, run_extension, NULL), 0);
    for (; sent < depth; sent++)
        send(sent, sent);
    channel_publish(&worker.out);
    while (back < MESSAGES) {
        for (unsigned n = await(&worker); n > 0; n--, back++) {
            struct channel_msg m;

            channel_take(&worker.in, &m);
            assert_int_equal(m.kind, CHANNEL_DONE);
            assert_int_equal(*page(m.id), 2 * m.sector + 1);
            if (sent < MESSAGES)
                send(m.id, sent++);
        }
        channel_publish(&worker.out);
    }
    pthread_join(thread, NULL);
    channel_detach(&map);
    close(fd);
    close(worker.kick);
    close(extension.kick);
}

static void polling(void **state)
{
    exchange(16, false);
    assert_int_equal(worker.slept + extension.slept, 0);
}

static void sleeping(void **state)
{
    exchange(1, true);
    assert_true(worker.slept + extension.slept > 0);
    exchange(SLOTS, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(polling), cmocka_unit_test(sleeping)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
