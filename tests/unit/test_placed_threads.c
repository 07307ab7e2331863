/* SPDX-License-Identifier: MIT */
/*
 * test_placed_threads.c - an extension in one process, and a device on several threads: each has a channel of its
 * own, and all of them live and die with the process.
 */
#include "blk/blk.h"
#include "tests/unit/placed_common.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <cmocka.h>

#define THREADS 3u
#define SLOTS   24u /* requests in flight on each thread, each in a block of its own */

static struct loop *loops[THREADS];
static pthread_t threads[THREADS];
static struct device *dev;
static struct dt_rng rng;

/* ---- A disk that answers a little later, on each thread for itself ---- */

static uint8_t store[THREADS * SLOTS * BLOCK];
struct later {
    struct dt_timer timer;
    struct dt_ctx *c;
    struct dt_req *reqs[256];
    unsigned n;
};

static int later_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = sizeof(store) / DT_SECTOR_SIZE;
    info->can_flush = true;
    return 0;
}

static void later_fire(struct dt_timer *timer)
{
    struct later *l = container_of(timer, struct later, timer);
    struct dt_req *reqs[256];
    unsigned n = l->n;

    l->n = 0;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *at = store + l->reqs[i]->sector * DT_SECTOR_SIZE;
        const struct iovec *iov;
        unsigned k = dt_req_map(l->c, l->reqs[i], &iov);

        if (l->reqs[i]->op == DT_OP_WRITE)
            dt_iov_read(iov, k, 0, at, dt_req_bytes(l->reqs[i]));
        else
            dt_iov_write(iov, k, 0, at, dt_req_bytes(l->reqs[i]));
        reqs[n - 1 - i] = l->reqs[i];
        reqs[n - 1 - i]->error = 0;
    }
    dt_complete(l->c, reqs, n);
}

static void later_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
    struct later *l = c->data;

    l->c = c;
    l->timer.fire = later_fire;
    for (unsigned i = 0; i < n; i++)
        l->reqs[l->n++] = reqs[i];
    if (l->timer.heap_index == 0)
        dt_timer_set(c, &l->timer, dt_now(c) + DT_US(100));
}

static void later_stop(struct dt_ctx *c)
{
    dt_timer_cancel(c, &((struct later *)c->data)->timer);
}

static const struct dt_block_ext later_ext = {
    DT_BLOCK_EXT_HEADER,
    .name = "later",
    .summary = "memory",
    .flags = DT_BACK | DT_PER_QUEUE,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .ctx_size = sizeof(struct later),
    .info = later_info,
    .submit = later_submit,
    .stop = later_stop,
};

/* ---- Load: each slot writes its block, and reads it back ---- */

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov;
    uint64_t data[BLOCK / 8], version;
    bool busy;
} CACHE_ALIGNED;

struct driver {
    struct loop_deferred again;
    struct lane *lane;
    struct slot *slots;
    uint64_t submitted, completed, errors, canceled, mismatches;
    bool run;
} CACHE_ALIGNED;
static struct driver drivers[THREADS];

/* The slots are in the guest's memory, which processes may be trusted with. */
#define MEMORY_BYTES (THREADS * SLOTS * sizeof(struct slot))
static struct device_region memory = {.size = MEMORY_BYTES, .fd = -1};

static void set_memory(void *arg)
{
    device_set_memory(dev, &memory, 1);
}

static void new_memory(void)
{
    memory.fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(memory.fd >= 0 && ftruncate(memory.fd, MEMORY_BYTES) == 0);
    memory.host = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd, 0);
    CHECK(memory.host != MAP_FAILED);
}

static void fill(struct slot *s, const struct driver *d)
{
    uint64_t index = (uint64_t)(s - d->slots);
    bool write = s->version % 2 == 0; /* the read that follows expects what it wrote */

    s->busy = true;
    for (unsigned i = 0; i < ARRAY_SIZE(s->data); i++)
        s->data[i] = write ? s->version << 16 | i : 0;
    s->version++;
    s->iov = (struct iovec){s->data, BLOCK};
    s->req.pub = (struct dt_req){.op = write ? DT_OP_WRITE : DT_OP_READ,
                                 .sector = (lane_thread(d->lane) * SLOTS + index) * BLOCK_SECTORS,
                                 .sectors = BLOCK_SECTORS};
    s->req.iov = &s->iov;
    s->req.niov = 1;
}

static void drive(struct loop_deferred *deferred)
{
    struct driver *d = container_of(deferred, struct driver, again);
    struct request *burst[SLOTS];
    unsigned room = d->run ? lane_admit(d->lane, SLOTS) : 0, n = 0;

    for (unsigned i = 0; i < SLOTS && n < room; i++) {
        if (d->slots[i].busy)
            continue;
        fill(&d->slots[i], d);
        burst[n++] = &d->slots[i].req;
    }
    __atomic_add_fetch(&d->submitted, n, __ATOMIC_RELAXED);
    if (n)
        lane_submit(d->lane, burst, n);
}

static bool as_written(const struct slot *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(s->data); i++)
        if (s->data[i] != ((s->version - 2) << 16 | i))
            return false;
    return true;
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct driver *d = &drivers[lane_thread(lane)];

    for (unsigned i = 0; i < n; i++) {
        struct slot *s = container_of(reqs[i], struct slot, req);

        CHECK(s->busy);
        s->busy = false;
        if (reqs[i]->pub.error == -ECANCELED)
            __atomic_add_fetch(&d->canceled, 1, __ATOMIC_RELAXED);
        if (reqs[i]->pub.error) {
            __atomic_add_fetch(&d->errors, 1, __ATOMIC_RELAXED);
            s->version &= ~1ull; /* write it anew */
        } else if (reqs[i]->pub.op == DT_OP_READ && !as_written(s)) {
            __atomic_add_fetch(&d->mismatches, 1, __ATOMIC_RELAXED);
        }
    }
    __atomic_add_fetch(&d->completed, n, __ATOMIC_RELEASE);
    if (d->run)
        loop_defer(lane_loop(lane), &d->again);
}

static void on_wake(struct lane *lane)
{
    loop_defer(lane_loop(lane), &drivers[lane_thread(lane)].again);
}

static void each(struct lane *lane, void (*look)(struct lane *lane, struct request *r))
{
    struct driver *d = &drivers[lane_thread(lane)];

    for (unsigned i = 0; i < SLOTS; i++)
        if (d->slots[i].busy)
            look(lane, &d->slots[i].req);
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake, .each = each};

static void *serve(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void run_on(void *arg)
{
    struct driver *d = arg;

    d->run = true;
    drive(&d->again);
}

static void run_off(void *arg)
{
    ((struct driver *)arg)->run = false;
}

static void load(bool on)
{
    for (unsigned t = 0; t < THREADS; t++)
        loop_call(loops[t], on ? run_on : run_off, &drivers[t]);
}

static uint64_t total(size_t field)
{
    uint64_t sum = 0;

    for (unsigned t = 0; t < THREADS; t++)
        sum += __atomic_load_n((uint64_t *)(void *)((char *)&drivers[t] + field), __ATOMIC_ACQUIRE);
    return sum;
}
#define TOTAL(field) total(offsetof(struct driver, field))

/* All threads do some work, each of them. */
static void goes_on(void)
{
    uint64_t end = dt_clock_ns() + DT_S(20);

    for (unsigned t = 0; t < THREADS; t++) {
        uint64_t before = __atomic_load_n(&drivers[t].completed, __ATOMIC_RELAXED);

        while (__atomic_load_n(&drivers[t].completed, __ATOMIC_RELAXED) < before + 50) {
            if (dt_clock_ns() > end)
                fail_msg("thread %u stands still", t);
            usleep(100);
        }
    }
}

static void drain(void)
{
    uint64_t end = dt_clock_ns() + DT_S(20);

    load(false);
    while (TOTAL(completed) < TOTAL(submitted)) {
        if (dt_clock_ns() > end)
            fail_msg("%llu of %llu requests came back", (unsigned long long)TOTAL(completed),
                     (unsigned long long)TOTAL(submitted));
        usleep(100);
    }
}

/* ---- Life ---- */

static void start(const char *fmt, ...)
{
    struct device_config config = {.name = "t", .loops = loops, .threads = THREADS};
    struct loop_config loop_config = {.spin_ns = DT_US(20)};
    struct chain_spec spec;
    struct dt_error err;
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    memset(store, 0, sizeof(store));
    for (unsigned t = 0; t < THREADS; t++)
        assert_int_equal(loop_new(&loops[t], &loop_config, &err), 0);
    assert_int_equal(chain_parse(&spec, text, &err), 0);
    config.chain = &spec;
    config.deadline = strstr(text, "delay") ? DT_MS(100) : 0;
    if (device_new(&dev, &config, &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&spec);
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_create(&threads[t], NULL, serve, loops[t]);
        while (!loop_is_foreign(loops[t]))
            usleep(100);
    }
    if (device_start(dev, &front, NULL, &err) < 0)
        fail_msg("%s", err.text);
    new_memory();
    loop_call(loops[0], set_memory, NULL);
    for (unsigned t = 0; t < THREADS; t++) {
        drivers[t] = (struct driver){.again.run = drive, .lane = device_lane(dev, t)};
        drivers[t].slots = (struct slot *)(void *)memory.host + t * SLOTS;
    }
}

static void stop(void)
{
    drain();
    device_stop(dev);
    device_free(dev);
    for (unsigned t = 0; t < THREADS; t++) {
        loop_stop(loops[t]);
        pthread_join(threads[t], NULL);
        loop_free(loops[t]);
    }
    munmap(memory.host, MEMORY_BYTES);
    close(memory.fd);
    assert_int_equal(TOTAL(mismatches), 0);
}

struct pid_call {
    pid_t pid;
    unsigned restarts;
};

static void ask_pid(void *arg)
{
    struct pid_call *call = arg;

    call->pid = placed_pid(device_layer(dev, 1), &call->restarts);
}

static pid_t the_pid(unsigned *restarts)
{
    struct pid_call call;

    loop_call(loops[0], ask_pid, &call);
    *restarts = call.restarts;
    return call.pid;
}

static void await_restart(unsigned before)
{
    uint64_t end = dt_clock_ns() + DT_S(20);
    unsigned now;

    while (the_pid(&now), now == before) {
        if (dt_clock_ns() > end)
            fail_msg("its process does not come back");
        usleep(200);
    }
}

static uint64_t counter(const char *name)
{
    json_t *stats = device_stats(dev);
    json_t *layer = json_array_get(json_object_get(stats, "layers"), 0);
    uint64_t n =
        (uint64_t)json_integer_value(json_object_get(json_object_get(layer, "counters"), name));

    json_decref(stats);
    return n;
}

/* ---- Service ---- */

static void every_kind_works(void **state)
{
    static const char *const names[] = {"down", "both", "plus", "stable", "hold", "guard", "peek"};

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(names); i++) {
        start("%s place=process %s | later", names[i / 2], i % 2 ? "trust=memory" : "");
        load(true);
        goes_on();
        drain();
        assert_int_equal(TOTAL(errors), 0);
        if (i < 4)
            for (uint64_t end = dt_clock_ns() + DT_S(10); counter("seen") != TOTAL(completed);) {
                assert_true(dt_clock_ns() < end);
                usleep(1000);
            }
        stop();
    }
}

static void parameters_verbs_and_state_cross(void **state)
{
    const char *five[] = {"5"};
    struct dt_error err;
    json_t *reply;
    unsigned restarts;

    start("bad place=process tries=1000 | later");
    load(true);
    for (unsigned i = 1; i <= 5; i++) {
        goes_on();
        assert_int_equal(device_do(dev, "bad", "mark", 1, five, &reply, &err), 0);
        assert_int_equal(json_integer_value(json_object_get(reply, "marks")), 5 * i);
        json_decref(reply);
        assert_int_equal(device_set(dev, "bad", "sector", "13", &err), -EINVAL);
        assert_int_equal(device_set(dev, "bad", "label", "new", &err), 0);
        the_pid(&restarts);
        assert_int_equal(device_do(dev, "bad", "restart-process", 0, NULL, &reply, &err), 0);
        json_decref(reply);
        await_restart(restarts);
    }
    goes_on();
    drain();
    assert_int_equal(TOTAL(errors), 0);
    stop();
}

static void it_comes_and_goes_live(void **state)
{
    struct chain_spec with, without;
    struct dt_error err;

    assert_int_equal(chain_parse(&with, "both place=process | later", &err), 0);
    assert_int_equal(chain_parse(&without, "later", &err), 0);
    start("later");
    load(true);
    for (unsigned i = 0; i < 6; i++) {
        struct change change = {.patience = DT_S(10)};

        goes_on();
        if (device_change(dev, i % 2 ? &without : &with, &change, &err) != 0)
            fail_msg("%s", err.text);
    }
    goes_on();
    stop();
    assert_int_equal(TOTAL(errors), 0);
    chain_spec_free(&with);
    chain_spec_free(&without);
}

/* ---- Death ---- */

static void killed_processes_lose_nothing(void **state)
{
    static const char *const names[] = {"down", "both", "plus", "hold", "guard", "peek", "plus"};
    unsigned restarts;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        start("%s place=process tries=100000 %s | later", names[i], i > 4 ? "trust=memory" : "");
        load(true);
        for (unsigned k = 0; k < 20; k++) {
            pid_t pid = the_pid(&restarts);

            usleep((useconds_t)dt_rng_below(&rng, 4000));
            if (pid > 0)
                kill(pid, SIGKILL);
            if (k % 4 == 0) { /* and otherwise while it starts */
                await_restart(restarts);
                goes_on();
            }
        }
        goes_on();
        drain();
        the_pid(&restarts);
        printf("# %s: %u restarts, %llu requests\n", names[i], restarts,
               (unsigned long long)TOTAL(completed));
        assert_true(restarts >= 5);
        assert_int_equal(TOTAL(errors), 0);
        stop();
    }
}

/* Each thread has suspects when the process crashes; one request on one thread is to blame. */
static void a_poison_request_fails_alone(void **state)
{
    struct dt_error err;
    unsigned restarts;

    for (unsigned t = 0; t < THREADS; t++) {
        _cleanup_free_ char *sector = xasprintf("%u", (t * SLOTS + 3) * BLOCK_SECTORS);

        start("bad place=process how=segv tries=100000 | later");
        load(true);
        goes_on();
        assert_int_equal(device_set(dev, "bad", "sector", sector, &err), 0);
        while (TOTAL(errors) < 3)
            usleep(1000);
        assert_int_equal(device_set(dev, "bad", "sector", "8000000", &err), 0);
        drain();
        the_pid(&restarts);
        assert_true(restarts >= 2 * 3);
        for (unsigned other = 0; other < THREADS; other++)
            assert_true(other == t || drivers[other].errors == 0);
        assert_true(TOTAL(errors) <= restarts / 2); /* two deaths for each */
        stop();
    }
}

/* One of its threads hangs, and the others do not. */
static void hanging_is_death(void **state)
{
    struct dt_error err;
    unsigned restarts;

    start("bad place=process how=hang deadline=100ms tries=1000 | later");
    load(true);
    goes_on();
    assert_int_equal(device_set(dev, "bad", "sector", "192", &err), 0); /* slot 0 of thread 1 */
    await_restart(0);
    await_restart(1);
    while (TOTAL(errors) == 0)
        usleep(1000);
    load(false);
    the_pid(&restarts);
    drain();
    assert_true(restarts >= 2);
    assert_int_equal(drivers[0].errors + drivers[2].errors, 0);
    stop();
}

static void the_policy_is_every_threads(void **state)
{
    struct dt_error err;
    json_t *reply;
    unsigned restarts;

    start("down place=process tries=1 window=1h | later");
    load(true);
    goes_on();
    kill(the_pid(&restarts), SIGKILL);
    usleep(20000); /* time in which something wrong could come back */
    assert_true(TOTAL(completed) < TOTAL(submitted));
    assert_int_equal(device_do(dev, "down", "restart-process", 0, NULL, &reply, &err), 0);
    json_decref(reply);
    goes_on();
    assert_int_equal(device_set(dev, "down", "on-crash", "bypass", &err), 0);
    kill(the_pid(&restarts), SIGKILL);
    goes_on();
    assert_int_equal(TOTAL(errors), 0);
    assert_int_equal(device_set(dev, "down", "on-crash", "fail", &err), 0);
    for (unsigned t = 0; t < THREADS; t++)
        while (!__atomic_load_n(&drivers[t].errors, __ATOMIC_RELAXED))
            usleep(1000);
    stop();
}

/* More of them wait over there than may be asked for at once. */
static void late_requests_are_cancelled(void **state)
{
    start("delay time=1h ops=write place=process mem-limit=0 | later");
    load(true);
    usleep(1000);
    drain();
    assert_int_equal(TOTAL(canceled), TOTAL(completed));
    assert_true(TOTAL(completed) >= SLOTS);
    stop();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_works),
        cmocka_unit_test(parameters_verbs_and_state_cross),
        cmocka_unit_test(it_comes_and_goes_live),
        cmocka_unit_test(killed_processes_lose_nothing),
        cmocka_unit_test(a_poison_request_fails_alone),
        cmocka_unit_test(hanging_is_death),
        cmocka_unit_test(the_policy_is_every_threads),
        cmocka_unit_test(late_requests_are_cancelled),
    };
    struct dt_error err;

    rig_register();
    blk_register_builtin();
    CHECK(registry_add(&later_ext, &err) == 0);
    if (argc == 3 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    dt_rng_seed(&rng, 11);
    log_set_level(getenv("VERBOSE") ? DT_LOG_DEBUG : DT_LOG_ERROR);
    return cmocka_run_group_tests_name("placed_threads", tests, NULL, NULL);
}
