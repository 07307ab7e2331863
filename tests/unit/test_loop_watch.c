/* SPDX-License-Identifier: MIT */
/* test_loop_watch.c - watches of file descriptors. */
#include "loop_common.h"

#include "loop/listener.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

struct test_watch {
    struct dt_watch watch;
    struct loop *loop;
    struct test_watch *victim; /* removed, closed, freed by the callback */
    unsigned calls;
    uint32_t events;
    bool drain, remove;
};

static void watch_ready(struct dt_watch *watch, uint32_t events)
{
    struct test_watch *w = container_of(watch, struct test_watch, watch);
    struct test_watch *victim = w->victim;
    eventfd_t value;

    w->calls++;
    w->events = events;
    if (w->drain)
        assert_int_equal(eventfd_read(watch->fd, &value), 0);
    if (w->remove) {
        loop_watch_remove(w->loop, watch);
        close(watch->fd);
    }
    if (victim) {
        w->victim = NULL;
        loop_watch_remove(w->loop, &victim->watch);
        close(victim->watch.fd);
        memset(victim, 0xee, sizeof(*victim));
        free(victim);
    }
}

static struct test_watch *watch_new(struct loop *loop, int fd, uint32_t events)
{
    struct test_watch *w = xcalloc(1, sizeof(*w));

    w->watch.ready = watch_ready;
    w->watch.fd = fd;
    w->watch.events = events;
    w->loop = loop;
    assert_int_equal(loop_watch_add(loop, &w->watch), 0);
    return w;
}

static void watch_drop(struct test_watch *w)
{
    loop_watch_remove(w->loop, &w->watch);
    close(w->watch.fd);
    free(w);
}

static void test_watch_level(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_watch *w = watch_new(loop, make_eventfd(0), EPOLLIN);

    settle(loop);
    assert_int_equal(w->calls, 0);
    kick(w->watch.fd);
    while (w->calls < 20) /* nothing is read, so it stays ready */
        assert_true(loop_turn(loop, true));
    assert_int_equal(w->events, EPOLLIN);
    w->drain = true;
    while (w->calls < 21)
        loop_turn(loop, true);
    settle(loop);
    assert_int_equal(w->calls, 21);
    for (int i = 0; i < 100; i++) {
        kick(w->watch.fd);
        while (w->calls < 22 + (unsigned)i)
            loop_turn(loop, true);
    }
    settle(loop);
    assert_int_equal(w->calls, 121);
    assert_int_equal(loop_watch_add(loop, &(struct dt_watch){.fd = w->watch.fd}), -EEXIST);
    assert_int_equal(loop_watch_add(loop, &(struct dt_watch){.fd = 9999}), -EBADF);
    watch_drop(w);
    loop_free(loop);
}

static void test_watch_edge(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_watch *w = watch_new(loop, make_eventfd(1), EPOLLIN | EPOLLET);
    eventfd_t value;

    while (!w->calls) /* it was ready at the start */
        loop_turn(loop, true);
    assert_int_equal(w->events, EPOLLIN);
    for (unsigned i = 0; i < 100; i++) {
        settle(loop); /* nothing is read, and nothing comes */
        assert_int_equal(w->calls, 1 + i);
        kick(w->watch.fd);
        while (w->calls < 2 + i)
            loop_turn(loop, true);
    }
    assert_int_equal(eventfd_read(w->watch.fd, &value), 0);
    assert_int_equal(value, 101);
    settle(loop);
    assert_int_equal(w->calls, 101);
    kick(w->watch.fd);
    while (w->calls < 102)
        loop_turn(loop, true);
    watch_drop(w);
    loop_free(loop);
}

static void test_watch_hangup(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_watch *r, *w;
    int fds[2];

    assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    r = watch_new(loop, fds[0], EPOLLIN);
    w = watch_new(loop, fds[1], EPOLLOUT);
    while (!w->calls)
        loop_turn(loop, true);
    assert_int_equal(w->events, EPOLLOUT);
    assert_int_equal(r->calls, 0);
    watch_drop(w);
    while (!r->calls)
        loop_turn(loop, true);
    assert_int_equal(r->events, EPOLLHUP);
    watch_drop(r);
    loop_free(loop);
}

static void test_watch_remove_self(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct test_watch *w = watch_new(loop, make_eventfd(1), EPOLLIN), *again;

    w->remove = true;
    while (!w->calls)
        loop_turn(loop, true);
    again = watch_new(loop, make_eventfd(0), EPOLLIN); /* most likely the same number */
    settle(loop);
    assert_int_equal(w->calls, 1);
    assert_int_equal(again->calls, 0);
    free(w);
    watch_drop(again);
    loop_free(loop);
}

static void test_watch_remove_other(void **state)
{
    for (int order = 0; order < 4; order++) {
        struct loop *loop = make_loop(state, 0);
        struct test_watch *a = watch_new(loop, make_eventfd(0), EPOLLIN);
        struct test_watch *b = watch_new(loop, make_eventfd(0), EPOLLIN);
        struct test_watch *killer = order & 1 ? b : a, *victim = order & 1 ? a : b, *next;

        killer->victim = victim;
        settle(loop); /* armed */
        kick(order & 2 ? a->watch.fd : b->watch.fd);
        kick(order & 2 ? b->watch.fd : a->watch.fd);
        while (!killer->calls)
            loop_turn(loop, true);
        next = watch_new(loop, make_eventfd(0), EPOLLIN); /* the victim's slot and number */
        settle(loop);
        assert_int_equal(next->calls, 0);
        kick(next->watch.fd);
        while (!next->calls)
            loop_turn(loop, true);
        watch_drop(killer);
        watch_drop(next);
        loop_free(loop);
    }
}

/* Removed while armed, with and without a turn in between; the peer must see the close. */
static void test_watch_close(void **state)
{
    struct loop *loop = make_loop(state, 0);
    char byte;

    for (int i = 0; i < 200; i++) {
        struct test_watch *w;
        int fds[2];

        assert_int_equal(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
        w = watch_new(loop, fds[1], 0);
        if (i & 1)
            loop_turn(loop, false);
        if (i & 2)
            close(fds[0]); /* its event is on its way */
        watch_drop(w);
        if (!(i & 2)) {
            while (read(fds[0], &byte, 1) != 0) /* the end, once nobody holds the other side */
                loop_turn(loop, false);
            close(fds[0]);
        }
    }
    settle(loop);
    loop_free(loop);
}

static void test_watch_many(void **state)
{
    enum { N = 500 }; /* more than SQ entries */
    struct loop *loop = make_loop(state, 0);
    struct test_watch *w[N];
    unsigned left = N;

    for (int i = 0; i < N; i++) {
        w[i] = watch_new(loop, make_eventfd(0), EPOLLIN);
        w[i]->drain = true;
    }
    for (unsigned round = 1; round < 4; round++) {
        settle(loop);
        for (int i = 0; i < N; i++)
            kick(w[i]->watch.fd);
        do {
            loop_turn(loop, true);
            left = 0;
            for (int i = 0; i < N; i++)
                left += w[i]->calls < round;
        } while (left);
        settle(loop);
        for (int i = 0; i < N; i++)
            assert_int_equal(w[i]->calls, round);
    }
    for (int i = 0; i < N; i++)
        watch_drop(w[i]);
    loop_free(loop);
}

static bool timer_flag;

static void flag_fired(struct dt_timer *timer)
{
    timer_flag = true;
}

static unsigned idle_poll(struct loop_poller *poller)
{
    return 0;
}

/* While a poller spins for ever, watches and timers must still be served. */
static void test_poller_no_starving(void **state)
{
    struct loop *loop = make_loop(state, UINT64_MAX);
    struct test_watch *w = watch_new(loop, make_eventfd(1), EPOLLIN);
    struct loop_poller poller = {.poll = idle_poll};
    struct dt_timer timer = {.fire = flag_fired};

    timer_flag = false;
    list_init(&poller.node);
    loop_poller_wake(loop, &poller);
    loop_timer_set(loop, &timer, dt_clock_ns() + DT_MS(1));
    while (!timer_flag || w->calls < 3)
        loop_turn(loop, true);
    loop_poller_remove(loop, &poller);
    watch_drop(w);
    loop_free(loop);
}

/* ---- Listening sockets ---- */

static unsigned connections;

static void on_connection(struct listener *listener, int sock)
{
    close(sock);
    connections++;
}

static int connect_to(const struct sockaddr_un *address, socklen_t length)
{
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(sock >= 0);
    assert_int_equal(connect(sock, (const struct sockaddr *)address, length), 0);
    return sock;
}

/* A process without a descriptor to spare does not spin on the connection that waits, and takes
 * it when there is one. */
static void test_listener_without_descriptors(void **state)
{
    struct loop *loop = make_loop(state, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX}, bound = {0};
    socklen_t length = sizeof(bound);
    struct listener listener = {0};
    struct rlimit before, none;
    unsigned turns = 0;
    uint64_t end;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), client;

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&bound, &length), 0);
    assert_int_equal(listener_start(&listener, loop, fd, on_connection), 0);
    client = connect_to(&bound, length);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    connections = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (end = dt_clock_ns() + DT_MS(50); dt_clock_ns() < end; turns++)
        loop_turn(loop, true);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(connections, 0);
    assert_true(turns < 10);
    for (end = dt_clock_ns() + DT_S(5); !connections && dt_clock_ns() < end;)
        loop_turn(loop, true);
    assert_int_equal(connections, 1);
    listener_stop(&listener);
    close(client);
    close(fd);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_watch_level),
        BOTH(test_watch_edge),
        BOTH(test_watch_hangup),
        BOTH(test_watch_remove_self),
        BOTH(test_watch_remove_other),
        BOTH(test_watch_close),
        BOTH(test_watch_many),
        BOTH(test_poller_no_starving),
        BOTH(test_listener_without_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
