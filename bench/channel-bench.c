/* SPDX-License-Identifier: MIT */
/*
 * channel-bench.c - what a process of its own costs an extension: each kind in this process and in
 * its own, with copies and trusted with the guest's memory, at several depths, over a back that answers at once.
 *
 * One thread of the worker spins on one core, the extension's process on another. Each figure is
 * the best of several short rounds: other load on the machine can only slow them.
 */
#include "blk/channel/placed.h"

#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>

#define ROUND_NS  DT_MS(5)
#define ROUNDS    200
#define BYTES_MAX (128u << 10)

/* ---- Extensions of each kind, and a back ---- */

static enum dt_verdict pass(struct dt_ctx *c, struct dt_req *req)
{
    return DT_PASS;
}

static uint64_t sum;
static enum dt_verdict look(struct dt_ctx *c, struct dt_req *req)
{
    const struct iovec *iov;

    dt_req_map(c, req, &iov);
    sum += *(const volatile uint8_t *)iov->iov_base;
    return DT_PASS;
}

static const struct dt_block_ext exts[] = {
    {DT_BLOCK_EXT_HEADER, .name = "down", .summary = "headers, requests only", .request = pass},
    {DT_BLOCK_EXT_HEADER, .name = "both", .summary = "headers, both ways", .request = pass,
     .response = pass},
    {DT_BLOCK_EXT_HEADER, .name = "writes", .summary = "looks at what is written",
     .write_data = DT_DATA_PEEK, .request = look},
    {DT_BLOCK_EXT_HEADER, .name = "reads", .summary = "looks at what was read",
     .read_data = DT_DATA_PEEK, .response = look},
};

static int back_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = 1 << 20;
    return 0;
}

static const struct dt_block_ext back = {
    DT_BLOCK_EXT_HEADER, .name = "at-once", .summary = "answers at once",
    .flags = DT_BACK,    .info = back_info, .submit = dt_complete,
};

/* ---- Load ---- */

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov;
} CACHE_ALIGNED;
static struct slot *slots;
static unsigned bytes = 4096; /* of each request */
static struct request *ready[256];
static unsigned nready;
static uint64_t completed;

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    memcpy(ready + nready, reqs, n * sizeof(reqs[0]));
    nready += n;
    completed += n;
}

static void on_wake(struct lane *lane)
{
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static void submit_ready(struct lane *lane, enum dt_op op)
{
    struct request *burst[64];
    unsigned n = lane_admit(lane, nready < 64 ? nready : 64);

    for (unsigned i = 0; i < n; i++) {
        struct request *r = burst[i] = ready[--nready];

        r->pub = (struct dt_req){.op = (uint8_t)op, .sectors = bytes / DT_SECTOR_SIZE};
        r->niov = 1;
    }
    if (n)
        lane_submit(lane, burst, n);
}

/* Requests per second over one round. */
static double round_of(struct lane *lane, enum dt_op op)
{
    uint64_t start = dt_clock_ns(), now;

    completed = 0;
    do {
        for (unsigned i = 0; i < 64; i++) {
            submit_ready(lane, op);
            loop_turn(lane_loop(lane), false);
        }
        now = dt_clock_ns();
    } while (now - start < ROUND_NS);
    return (double)completed * 1e9 / (double)(now - start);
}

/* Where the slots' data lie, for processes that are trusted with it. */
static struct device_region guest = {.size = 256 * BYTES_MAX, .fd = -1};

static double run(const char *text, enum dt_op op, unsigned depth)
{
    struct loop_config config = {.spin_ns = UINT64_MAX};
    struct chain_spec spec;
    struct device *dev;
    struct loop *loop;
    struct dt_error err;
    double best = 0;

    CHECK(loop_new(&loop, &config, &err) == 0 && chain_parse(&spec, text, &err) == 0);
    if (device_new(
            &dev,
            &(struct device_config){.name = "bench", .chain = &spec, .loops = &loop, .threads = 1},
            &err) < 0 ||
        device_start(dev, &front, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    chain_spec_free(&spec);
    device_set_memory(dev, &guest, 1);
    for (nready = 0; nready < depth; nready++) {
        ready[nready] = &slots[nready].req;
        slots[nready].req.iov = &slots[nready].iov;
    }
    for (unsigned i = 0; i < ROUNDS; i++)
        best = MAX(best, round_of(device_lane(dev, 0), op));
    while (lane_in_flight(device_lane(dev, 0)))
        loop_turn(loop, false);
    device_stop(dev);
    device_free(dev);
    while (loop_turn(loop, false))
        ;
    loop_free(loop);
    return best;
}

static void pin(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void set_bytes(unsigned n)
{
    bytes = n;
    for (unsigned i = 0; i < 256; i++)
        slots[i].iov = (struct iovec){guest.host + (size_t)i * bytes, bytes};
}

static void compare(const char *name, const char *what, enum dt_op op, unsigned depth)
{
    _cleanup_free_ char *in = xasprintf("%s | at-once", name);
    _cleanup_free_ char *out = xasprintf("%s place=process spin=1s mem-limit=0 | at-once", name);
    _cleanup_free_ char *trusted =
        xasprintf("%s place=process spin=1s mem-limit=0 trust=memory | at-once", name);
    double here = run(in, op, depth), there = run(out, op, depth), with = run(trusted, op, depth);

    printf("%-34s %6u %10.0f %10.0f %10.2f %10.0f %10.2f\n", what, depth, here / 1e3, there / 1e3,
           (1e6 / there - 1e6 / here) * depth, with / 1e3, (1e6 / with - 1e6 / here) * depth);
}

int main(int argc, char **argv)
{
    static const unsigned depths[] = {1, 16, 64};
    struct dt_error err;

    for (unsigned i = 0; i < ARRAY_SIZE(exts); i++)
        CHECK(registry_add(&exts[i], &err) == 0);
    CHECK(registry_add(&back, &err) == 0);
    placed_init(NULL);
    log_set_level(DT_LOG_ERROR);
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0) {
        pin(1);
        return placed_host(argv[2]);
    }
    pin(0);
    slots = xaligned(CACHE_LINE, 256 * sizeof(*slots));
    guest.fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(guest.fd >= 0 && ftruncate(guest.fd, (off_t)guest.size) == 0);
    guest.host = mmap(NULL, guest.size, PROT_READ | PROT_WRITE, MAP_SHARED, guest.fd, 0);
    CHECK(guest.host != MAP_FAILED);
    set_bytes(bytes);
    printf("%-34s %6s %10s %10s %10s %10s %10s\n", "thousands of requests/s", "depth", "in worker",
           "in process", "added us", "trusted", "added us");
    for (unsigned i = 0; i < ARRAY_SIZE(depths); i++) {
        compare("down", "headers, requests only", DT_OP_READ, depths[i]);
        compare("both", "headers, both ways", DT_OP_READ, depths[i]);
        compare("writes", "4 KiB written are copied", DT_OP_WRITE, depths[i]);
        compare("reads", "4 KiB read are copied", DT_OP_READ, depths[i]);
        set_bytes(BYTES_MAX);
        compare("writes", "128 KiB written are copied", DT_OP_WRITE, depths[i]);
        compare("reads", "128 KiB read are copied", DT_OP_READ, depths[i]);
        set_bytes(4096);
    }
    return 0;
}
