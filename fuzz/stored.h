/* SPDX-License-Identifier: MIT */
/* stored.h - any bytes as the beginning of a file that a layer keeps, and a chain that opens it. */
#ifndef FUZZ_STORED_H
#define FUZZ_STORED_H

#include "blk/blk.h"
#include "core/core.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#define STORED_INPUT_MAX (64u << 10)
#define STORED_DISK      (64u << 10)

/* A file of @size bytes that begins with the input; @path is how others open it. */
static inline int stored_file(const uint8_t *bytes, size_t n, uint64_t size, char path[64])
{
    int fd = memfd_create("stored", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    CHECK(pwrite(fd, bytes, n, 0) == (ssize_t)n);
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* The input as it is, and once more repaired: no mutation would ever find checksums and sizes that are right. */
static inline int stored_twice(const uint8_t *bytes, size_t size,
                               void (*check)(const uint8_t *bytes, size_t n),
                               void (*repair)(uint8_t *bytes, size_t n))
{
    _cleanup_free_ uint8_t *copy = NULL;

    if (size > STORED_INPUT_MAX)
        return 0;
    check(bytes, size);
    copy = xcalloc(1, size + 1);
    memcpy(copy, bytes, size);
    repair(copy, size);
    check(copy, size);
    return 0;
}

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
