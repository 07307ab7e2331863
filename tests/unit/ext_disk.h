/* SPDX-License-Identifier: MIT */
/*
 * ext_disk.h - a device on a loop of this thread, driven request by request: for the tests of
 * extensions and backs. It brings cmocka with it.
 */
#ifndef EXT_DISK_H
#define EXT_DISK_H

#include "blk/blk.h"
#include "core/core.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define DISK_SLOTS 256u

struct disk_slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov[4];
    int error;
    bool busy;
} CACHE_ALIGNED;

static struct disk {
    struct loop *loop;
    struct device *dev;
    struct disk_slot *slots;
    unsigned completed, woken;
    enum loop_engine engine;
    const char *state_dir;
    struct blob_area *blobs;
    uint64_t deadline;
    struct dt_error err;
} disk;

static inline void disk_on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct disk_slot *s = container_of(reqs[i], struct disk_slot, req);

        assert_true(s->busy);
        s->busy = false;
        s->error = reqs[i]->pub.error;
        disk.completed++;
    }
}

static inline void disk_on_wake(struct lane *lane)
{
    disk.woken++;
}

static inline void disk_each(struct lane *lane, void (*look)(struct lane *lane, struct request *r))
{
    for (unsigned i = 0; i < DISK_SLOTS; i++)
        if (disk.slots[i].busy)
            look(lane, &disk.slots[i].req);
}

static const struct front_ops disk_front = {
    .complete = disk_on_complete, .wake = disk_on_wake, .each = disk_each};

/* Before anything else: an extension that programs load from a module is linked into this one. */
static inline int disk_module(const struct dt_block_ext *ext)
{
    struct dt_error err;
    int ret = registry_add(ext, &err);

    if (ret < 0)
        fprintf(stderr, "%s\n", err.text);
    return ret;
}

/* Returns what opening or starting returned, with disk.err filled. */
static inline int disk_try_named(const char *name, const char *chain)
{
    struct loop_config config = {.spin_ns = 0, .engine = disk.engine};
    struct device_config device = {.name = name,
                                   .loops = &disk.loop,
                                   .threads = 1,
                                   .state_dir = disk.state_dir,
                                   .blobs = disk.blobs,
                                   .deadline = disk.deadline};
    struct chain_spec spec;
    int ret;

    blk_register_builtin();
    assert_int_equal(loop_new(&disk.loop, &config, &disk.err), 0);
    if (chain_parse(&spec, chain, &disk.err) < 0)
        fail_msg("%s", disk.err.text);
    device.chain = &spec;
    ret = device_new(&disk.dev, &device, &disk.err);
    chain_spec_free(&spec);
    if (ret == 0) {
        ret = device_start(disk.dev, &disk_front, NULL, &disk.err);
        if (ret < 0)
            device_free(disk.dev);
    }
    if (ret < 0) {
        loop_free(disk.loop);
        return ret;
    }
    disk.slots = xaligned(CACHE_LINE, DISK_SLOTS * sizeof(*disk.slots));
    disk.completed = disk.woken = 0;
    return 0;
}

static inline int disk_try(const char *fmt, ...)
{
    char chain[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(chain, sizeof(chain), fmt, args);
    va_end(args);
    return disk_try_named("t", chain);
}

#define disk_open(...)                     \
    do {                                   \
        if (disk_try(__VA_ARGS__) < 0)     \
            fail_msg("%s", disk.err.text); \
    } while (0)

static inline void disk_close(void)
{
    device_stop(disk.dev);
    device_free(disk.dev);
    while (loop_turn(disk.loop, false))
        ;
    loop_free(disk.loop);
    free(disk.slots);
}

static inline struct disk_slot *disk_submit_iov(enum dt_op op, uint8_t flags, uint64_t sector,
                                                uint32_t sectors, const struct iovec *iov,
                                                unsigned n)
{
    struct disk_slot *s = disk.slots;
    struct request *r;

    while (s->busy)
        assert_true(++s < disk.slots + DISK_SLOTS);
    r = &s->req;
    s->busy = true;
    assert_true(n <= ARRAY_SIZE(s->iov));
    if (n)
        memcpy(s->iov, iov, n * sizeof(*iov));
    r->pub =
        (struct dt_req){.op = (uint8_t)op, .flags = flags, .sector = sector, .sectors = sectors};
    r->iov = s->iov;
    r->niov = n;
    lane_submit(device_lane(disk.dev, 0), &r, 1);
    return s;
}

static inline struct disk_slot *disk_submit(enum dt_op op, uint8_t flags, uint64_t sector,
                                            uint32_t sectors, void *data)
{
    struct iovec iov = {data, (size_t)sectors * DT_SECTOR_SIZE};

    return disk_submit_iov(op, flags, sector, sectors, &iov, data ? 1 : 0);
}

/* Turn until @s is done, for ten seconds at most. */
static inline int disk_wait(const struct disk_slot *s)
{
    uint64_t deadline = dt_clock_ns() + DT_S(10);

    while (s->busy && dt_clock_ns() < deadline)
        loop_turn(disk.loop, true);
    assert_false(s->busy);
    return s->error;
}

static inline int disk_do(enum dt_op op, uint8_t flags, uint64_t sector, uint32_t sectors,
                          void *data)
{
    return disk_wait(disk_submit(op, flags, sector, sectors, data));
}

static inline uint64_t disk_counter(const char *layer, const char *name)
{
    json_t *stats = device_stats(disk.dev), *layers = json_object_get(stats, "layers"), *l;
    uint64_t value = UINT64_MAX;
    size_t i;

    json_array_foreach(layers, i, l)
    {
        json_t *counter = json_object_get(json_object_get(l, "counters"), name);

        if (counter && !strcmp(json_string_value(json_object_get(l, "name")), layer))
            value = (uint64_t)json_integer_value(counter);
    }
    json_decref(stats);
    assert_true(value != UINT64_MAX);
    return value;
}

static inline void disk_set(const char *layer, const char *param, const char *value)
{
    if (device_set(disk.dev, layer, param, value, &disk.err) < 0)
        fail_msg("%s", disk.err.text);
}

static inline int disk_verb(const char *layer, const char *verb, int argc, const char *const *argv)
{
    json_t *reply = NULL;
    int ret = device_do(disk.dev, layer, verb, argc, argv, &reply, &disk.err);

    json_decref(reply);
    return ret;
}

static inline void disk_on_quiesced(void *arg, const char *late)
{
    *(int *)arg = late ? -ETIMEDOUT : 1;
}

/* Brings the device to rest; 0, or -ETIMEDOUT. */
static inline int disk_quiesce(uint64_t ns)
{
    int done = 0;

    device_quiesce(disk.dev, dt_clock_ns() + ns, disk_on_quiesced, &done);
    while (!done)
        loop_turn(disk.loop, true);
    return done < 0 ? done : 0;
}

/* For layers that work in the background, where no request waits: first they rest. */
static inline void disk_rest_and_close(void)
{
    assert_int_equal(disk_quiesce(DT_S(10)), 0);
    disk_close();
}

/* What the command `status` of a layer says; the text lives until the fourth call from now. */
static inline const char *disk_status(const char *layer, const char *key)
{
    static char text[4][512];
    static unsigned n;
    json_t *reply = NULL, *value;
    char *out = text[n++ % 4];

    assert_int_equal(device_do(disk.dev, layer, "status", 0, NULL, &reply, &disk.err), 0);
    value = json_object_get(reply, key);
    if (json_is_integer(value))
        snprintf(out, 512, "%lld", (long long)json_integer_value(value));
    else
        snprintf(out, 512, "%s", json_string_value(value) ?: "");
    json_decref(reply);
    return out;
}

/* Turn until the status begins with this, for twenty seconds at most. */
static inline void disk_until(const char *layer, const char *key, const char *begins)
{
    uint64_t deadline = dt_clock_ns() + DT_S(20);

    while (strncmp(disk_status(layer, key), begins, strlen(begins)) != 0) {
        if (dt_clock_ns() > deadline)
            fail_msg("%s is '%s', not '%s'; failure: '%s'", key, disk_status(layer, key), begins,
                     disk_status(layer, "failure"));
        loop_turn(disk.loop, false);
    }
}

/* Is every byte of it @value? */
static inline bool all_bytes(const void *data, size_t n, int value)
{
    const uint8_t *p = data;

    while (n && *p == (uint8_t)value) {
        p++;
        n--;
    }
    return n == 0;
}

#define assert_error_says(what)                                  \
    do {                                                         \
        if (!strstr(disk.err.text, what))                        \
            fail_msg("'%s' is not in: %s", what, disk.err.text); \
    } while (0)

#endif
