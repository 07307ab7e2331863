/* SPDX-License-Identifier: MIT */
/* stored.h - a chain that opens a file which a layer keeps, made of any bytes. */
#ifndef FUZZ_STORED_H
#define FUZZ_STORED_H

#include "blk/blk.h"
#include "core/core.h"
#include "fuzz/input.h"

#define STORED_DISK (64u << 10)

static inline void stored_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    *(bool *)lane_front(lane) = true;
}

static inline void stored_wake(struct lane *lane)
{
}

/* Reads the whole disk, whose content does not matter. */
static inline void stored_read(struct device *dev, struct loop *loop)
{
    static uint8_t data[STORED_DISK] __attribute__((aligned(4096)));
    static uint8_t slot[REQUEST_SIZE] __attribute__((aligned(CACHE_LINE)));
    struct iovec iov = {data, sizeof(data)};
    struct request *r = (struct request *)slot;
    bool done = false;

    memset(slot, 0, sizeof(slot));
    r->pub = (struct dt_req){.op = DT_OP_READ, .sectors = sizeof(data) / 512};
    r->iov = &iov;
    r->niov = 1;
    lane_set_front(device_lane(dev, 0), &done);
    lane_submit(device_lane(dev, 0), &r, 1);
    while (!done)
        loop_turn(loop, true);
}

static inline void stored_rested(void *arg, const char *late)
{
    CHECK(!late);
    *(bool *)arg = true;
}

static inline void stored_rest(struct device *dev, struct loop *loop)
{
    bool done = false;

    device_quiesce(dev, dt_clock_ns() + DT_S(5), stored_rested, &done);
    while (!done)
        loop_turn(loop, true);
}

static inline void stored_open(const char *chain)
{
    static const struct front_ops front = {.complete = stored_complete, .wake = stored_wake};
    struct loop_config config = {.engine = LOOP_EPOLL};
    struct device_config device = {.name = "fuzz", .threads = 1};
    struct device *dev;
    struct loop *loop;
    struct chain_spec spec;
    struct dt_error err;

    log_set_level(DT_LOG_ERROR);
    blk_register_builtin();
    CHECK(loop_new(&loop, &config, &err) == 0);
    CHECK(chain_parse(&spec, chain, &err) == 0);
    device.chain = &spec;
    device.loops = &loop;
    if (device_new(&dev, &device, &err) == 0) {
        if (device_start(dev, &front, NULL, &err) == 0) {
            stored_read(dev, loop);
            stored_rest(dev, loop);
            device_stop(dev);
        }
        device_free(dev);
    }
    chain_spec_free(&spec);
    while (loop_turn(loop, false))
        ;
    loop_free(loop);
}

#endif
