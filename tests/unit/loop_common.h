/* SPDX-License-Identifier: MIT */
/* loop_common.h - what the tests of the loop share: each runs on both engines. */
#ifndef LOOP_COMMON_H
#define LOOP_COMMON_H

#include "loop/engine.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cmocka.h>

static struct loop_config on_uring = {.engine = LOOP_URING}, on_epoll = {.engine = LOOP_EPOLL};

#define BOTH(f)                                  \
    {"io_uring: " #f, f, NULL, NULL, &on_uring}, \
    {                                            \
        "epoll: " #f, f, NULL, NULL, &on_epoll   \
    }

static inline struct loop *make_loop(void **state, uint64_t spin_ns)
{
    struct loop_config config = *(struct loop_config *)*state;
    struct loop *loop;
    struct dt_error err;

    config.entries = 64;
    config.spin_ns = spin_ns;
    if (loop_new(&loop, &config, &err) < 0) {
        if (config.engine == LOOP_URING)
            skip(); /* forbidden here */
        fail_msg("%s", err.text);
    }
    assert_string_equal(loop_engine_name(loop), config.engine == LOOP_URING ? "io_uring" : "epoll");
    return loop;
}

static inline int make_eventfd(uint64_t value)
{
    int fd = eventfd((unsigned)value, EFD_NONBLOCK | EFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static inline void kick(int fd)
{
    assert_int_equal(eventfd_write(fd, 1), 0);
}

/* Enough turns for anything that needs no time to have happened. */
static inline void settle(struct loop *loop)
{
    for (int i = 0; i < 40; i++)
        loop_turn(loop, false);
}

#endif
