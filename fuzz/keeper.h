/* SPDX-License-Identifier: MIT */
/*
 * keeper.h - what keepers and workers of a fuzz target share: a loop, a keeper's owner who does
 * nothing, and descriptors that are real, so that lies go far.
 */
#ifndef FUZZ_KEEPER_H
#define FUZZ_KEEPER_H

#include "../tests/unit/link_device.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define KEEPER_MEMORY 0x100000u

static struct loop *loop;
static int memory, event; /* KEEPER_MEMORY bytes for the guest, and an eventfd */

static inline void keeper_ready(void *arg)
{
}

static inline void keeper_told(void *arg, const char *reason)
{
}

static inline void keeper_recovered(void *arg, const struct vhost_recovery *recovery)
{
}

static const struct vhost_proxy_ops keeper_ops = {.ready = keeper_ready,
                                                  .lost = keeper_told,
                                                  .recovered = keeper_recovered,
                                                  .released = keeper_ready,
                                                  .closed = keeper_told};

static inline void keeper_turn(void)
{
    for (unsigned idle = 0; idle < 2;)
        idle = loop_turn(loop, false) ? 0 : idle + 1;
}

/* Once for all inputs. */
static inline void keeper_begin(void)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};

    if (loop)
        return;
    log_set_level(DT_LOG_ERROR);
    CHECK(loop_new(&loop, &config, NULL) == 0);
    memory = memfd_create("fuzz", 0);
    event = eventfd(0, EFD_NONBLOCK);
    CHECK(memory >= 0 && event >= 0 && ftruncate(memory, KEEPER_MEMORY) == 0);
}

static inline struct vhost_proxy *keeper_new(void)
{
    return vhost_proxy_new(loop, "fuzz", DT_MS(1), &keeper_ops, NULL);
}

#endif
