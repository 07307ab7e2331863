/* SPDX-License-Identifier: MIT */
/*
 * test_ext_twin_threads.c - `copy` and `shadow` of a disk that several threads serve, whose writes meet each other and the
 * copying; and holes, which are asked about while loops run on threads.
 */
#include "blk/blk.h"
#include "core/core.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "scratch.h"

#define THREADS 3u
#define SLOTS   16u
#define SECTORS 16384u /* 128 regions */
#define BYTES   (SECTORS * DT_SECTOR_SIZE)
#define MOST    16u /* sectors of a request */

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov;
    uint8_t data[MOST * DT_SECTOR_SIZE];
    bool busy;
} CACHE_ALIGNED;

static struct driver {
    struct loop_poller poller;
    struct lane *lane;
    struct slot *slots;
    pthread_t thread;
    unsigned seed, errors, busy;
    uint64_t done;
    bool run; /* atomic */
} CACHE_ALIGNED drivers[THREADS];
static struct loop *loops[THREADS];
static struct device *dev;
static uint8_t image[2][BYTES];

/* ---- Load ---- */

/* All threads have the same small part of the disk in common, so that requests overlap; no order is the wrong one. */
static void fill(struct driver *d, struct slot *s)
{
    static const uint8_t ops[] = {DT_OP_WRITE, DT_OP_WRITE, DT_OP_WRITE,        DT_OP_READ,
                                  DT_OP_WRITE, DT_OP_FLUSH, DT_OP_WRITE_ZEROES, DT_OP_DISCARD};
    unsigned r = (unsigned)rand_r(&d->seed), op = ops[r % 8];
    uint32_t sectors = op == DT_OP_FLUSH ? 0 : 8 * (1 + (r >> 4) % (MOST / 8));

    if (op == DT_OP_DISCARD && r % 128 != 7)
        op = DT_OP_WRITE;
    memset(s->data, (int)(r >> 6), sizeof(s->data));
    s->iov = (struct iovec){s->data, sectors * DT_SECTOR_SIZE};
    s->req.pub = (struct dt_req){
        .op = (uint8_t)op,
        .sector = sectors ? (r >> 8) % ((r & 8 ? 64 : SECTORS / 2) - sectors) / 8 * 8 : 0,
        .sectors = sectors};
    s->req.iov = &s->iov;
    s->req.niov = op == DT_OP_READ || op == DT_OP_WRITE;
}

static unsigned drive(struct loop_poller *poller)
{
    struct driver *d = container_of(poller, struct driver, poller);
    unsigned n = 0;

    for (unsigned i = 0; i < SLOTS && __atomic_load_n(&d->run, __ATOMIC_ACQUIRE); i++) {
        struct request *r = &d->slots[i].req;

        if (d->slots[i].busy || lane_admit(d->lane, 1) == 0)
            continue;
        d->slots[i].busy = true;
        fill(d, &d->slots[i]);
        lane_submit(d->lane, &r, 1);
        n++;
    }
    return n;
}

/* It sleeps when all slots are busy, until one is not. */
static bool arm(struct loop_poller *poller)
{
    return true;
}

static void on_wake(struct lane *lane)
{
    loop_poller_wake(lane_loop(lane), &((struct driver *)lane_front(lane))->poller);
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct driver *d = lane_front(lane);

    for (unsigned i = 0; i < n; i++) {
        container_of(reqs[i], struct slot, req)->busy = false;
        d->errors += reqs[i]->pub.error != 0;
    }
    __atomic_store_n(&d->done, d->done + n, __ATOMIC_RELAXED);
    on_wake(lane);
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static void *serve(void *arg)
{
    struct driver *d = arg;
    struct loop *loop = lane_loop(d->lane);

    loop_run(loop);
    loop_poller_remove(loop, &d->poller);
    return NULL;
}

/* ---- The disk ---- */

static void open_disk(const char *fmt, ...)
{
    struct device_config config = {.name = "t", .loops = loops, .threads = THREADS};
    struct chain_spec spec;
    struct dt_error err;
    char chain[1024];
    va_list args;

    va_start(args, fmt);
    vsnprintf(chain, sizeof(chain), fmt, args);
    va_end(args);
    blk_register_builtin();
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(loop_new(&loops[i], &(struct loop_config){.spin_ns = 0}, &err), 0);
    assert_int_equal(chain_parse(&spec, chain, &err), 0);
    config.chain = &spec;
    if (device_new(&dev, &config, &err) < 0 || device_start(dev, &front, NULL, &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&spec);
    for (unsigned i = 0; i < THREADS; i++) {
        struct driver *d = &drivers[i];

        *d = (struct driver){
            .poller = {.poll = drive, .arm = arm}, .lane = device_lane(dev, i), .seed = i};
        list_init(&d->poller.node);
        d->slots = xaligned(CACHE_LINE, SLOTS * sizeof(struct slot));
        lane_set_front(d->lane, d);
        assert_int_equal(pthread_create(&d->thread, NULL, serve, d), 0);
        while (!loop_is_foreign(loops[i]))
            usleep(100);
    }
}

/* On the driver's thread: it is within nothing else then. */
static void count_busy(void *arg)
{
    struct driver *d = arg;

    d->busy = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        d->busy += d->slots[i].busy;
}

static void stop_load(void)
{
    for (unsigned i = 0; i < THREADS; i++)
        __atomic_store_n(&drivers[i].run, false, __ATOMIC_RELEASE);
}

/* Nothing is under way afterwards: after a late discard the two would not be in step any more. */
static void pause_load(void)
{
    stop_load();
    for (unsigned i = 0; i < THREADS; i++)
        while (loop_call(loops[i], count_busy, &drivers[i]), drivers[i].busy > 0)
            usleep(1000);
}

static void hold(void)
{
    struct dt_error err;

    stop_load();
    if (device_hold(dev, dt_clock_ns() + DT_S(60), &err) < 0)
        fail_msg("%s", err.text);
}

static void kick(void *arg)
{
    on_wake(arg);
}

static void run(void)
{
    device_let_go(dev);
    for (unsigned i = 0; i < THREADS; i++) {
        __atomic_store_n(&drivers[i].run, true, __ATOMIC_RELEASE);
        loop_call(loops[i], kick, drivers[i].lane);
    }
}

static void close_disk(void)
{
    hold();
    device_stop(dev);
    device_free(dev);
    for (unsigned i = 0; i < THREADS; i++) {
        loop_stop(loops[i]);
        pthread_join(drivers[i].thread, NULL);
        loop_free(loops[i]);
        free(drivers[i].slots);
        assert_int_equal(drivers[i].errors, 0);
    }
}

static json_t *status(const char *layer)
{
    struct dt_error err;
    json_t *reply = NULL;

    assert_int_equal(device_do(dev, layer, "status", 0, NULL, &reply, &err), 0);
    return reply;
}

static void wait_state(const char *layer, const char *wanted)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);
    bool there = false;

    while (!there) {
        json_t *reply = status(layer);

        there = strcmp(json_string_value(json_object_get(reply, "state")), wanted) == 0;
        json_decref(reply);
        if (dt_clock_ns() > deadline)
            fail_msg("it does not come to be '%s'", wanted);
        usleep(1000);
    }
}

static uint64_t counter(const char *layer, const char *name)
{
    json_t *stats = device_stats(dev), *l;
    uint64_t value = 0;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i, l)
    {
        if (strcmp(json_string_value(json_object_get(l, "name")), layer) == 0)
            value =
                (uint64_t)json_integer_value(json_object_get(json_object_get(l, "counters"), name));
    }
    json_decref(stats);
    return value;
}

static void wait_done(uint64_t more)
{
    for (unsigned i = 0; i < THREADS; i++) {
        uint64_t from = __atomic_load_n(&drivers[i].done, __ATOMIC_RELAXED);

        while (__atomic_load_n(&drivers[i].done, __ATOMIC_RELAXED) < from + more)
            usleep(1000);
    }
}

/* ---- Tests ---- */

static void make_files(int old, int new)
{
    memset(image[0], old, BYTES);
    put_file(path_of("old"), image[0], old ? BYTES : 0);
    memset(image[0], new, BYTES);
    put_file(path_of("new"), image[0], new ? BYTES : 0);
    assert_int_equal(truncate(path_of("old"), BYTES), 0);
    assert_int_equal(truncate(path_of("new"), BYTES), 0);
}

static void assert_same(void)
{
    get_file(path_of("old"), image[0], BYTES);
    get_file(path_of("new"), image[1], BYTES);
    assert_memory_equal(image[0], image[1], BYTES);
}

static void test_copy(void **state)
{
    make_files(7, 3);
    open_disk("copy to='file path=%s' | file path=%s", path_of("new"), path_of("old"));
    run();
    wait_done(400);
    hold(); /* at rest in the middle, with as much on the way as there can be */
    run();
    wait_done(400);
    pause_load();
    wait_state("copy", "in step");
    run();
    wait_done(300);
    pause_load();
    wait_state("copy", "in step");
    assert_true(counter("copy", "both") > 100);
    close_disk();
    assert_same();
}

static void test_shadow(void **state)
{
    make_files(7, 7);
    open_disk("shadow to='throttle iops=20k | file path=%s' rate=0 | file path=%s", path_of("new"),
              path_of("old"));
    run();
    wait_done(400);
    assert_true(counter("shadow", "compared") > 10);
    assert_int_equal(counter("shadow", "mismatches"), 0);
    {
        struct dt_error err;

        assert_int_equal(device_set(dev, "shadow", "sync", "on", &err), 0);
    }
    wait_done(300);
    pause_load();
    wait_state("shadow", "in step");
    assert_int_equal(counter("shadow", "mismatches"), 0);
    close_disk();
    assert_same();
}

/* Put in the disk's place, while other threads stand still or serve. */
static void test_adopt(void **state)
{
    struct change change = {.patience = DT_S(60)};
    struct chain_edit edit;
    struct dt_error err;
    struct stat st;

    make_files(7, 3);
    open_disk("copy to='file path=%s' | file path=%s", path_of("new"), path_of("old"));
    wait_state("copy", "in step");
    device_edit(dev, &edit);
    assert_int_equal(chain_edit_step(&edit, "adopt copy", &err), 0);
    if (device_change(dev, &edit.spec, &change, &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&edit.spec);
    run();
    wait_done(100);
    close_disk();
    assert_int_equal(stat(path_of("new"), &st), 0);
    get_file(path_of("old"), image[0], BYTES);
    get_file(path_of("new"), image[1], BYTES);
    assert_int_not_equal(memcmp(image[0], image[1], BYTES), 0);
}

/* What both call a hole is not read, and not written; what only the disk does is made one. */
static void test_holes(void **state)
{
    struct stat st;

    make_files(0, 0);
    memset(image[0], 5, BYTES / 8);
    put_file(path_of("old"), image[0], BYTES / 8);
    assert_int_equal(truncate(path_of("old"), BYTES), 0);
    open_disk("copy to='file path=%s' | file path=%s", path_of("new"), path_of("old"));
    wait_state("copy", "in step");
    assert_true(counter("copy", "holes") > BYTES / 4);
    assert_true(counter("copy", "copied") + counter("copy", "holes") == BYTES);
    close_disk();
    assert_int_equal(stat(path_of("new"), &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < BYTES / 4);
    assert_same();

    make_files(0, 9);
    open_disk("copy to='file path=%s' | file path=%s", path_of("new"), path_of("old"));
    wait_state("copy", "in step");
    assert_int_equal(counter("copy", "copied"), 0);
    close_disk();
    assert_int_equal(stat(path_of("new"), &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 < BYTES / 4);
    assert_same();
}

/* Holes that are written to while they are asked about. */
static void test_holes_under_load(void **state)
{
    for (unsigned round = 0; round < 5; round++) {
        make_files(0, 0);
        open_disk("copy to='file path=%s' rate=%s | delay time=1ms ops=write | file path=%s",
                  path_of("new"), round % 2 ? "64M" : "0", path_of("old"));
        run();
        wait_done(50 + 20 * round);
        pause_load();
        wait_state("copy", "in step");
        assert_true(counter("copy", "holes") > 0);
        close_disk();
        assert_same();
    }
}

static int make_dir(void **state)
{
    scratch_make();
    return 0;
}

static int remove_dir(void **state)
{
    return scratch_remove((const char *const[]){"old", "new", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_shadow),
        cmocka_unit_test(test_adopt),
        cmocka_unit_test(test_holes),
        cmocka_unit_test(test_holes_under_load),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
