/* SPDX-License-Identifier: MIT */
/*
 * test_change.c - the chain of a running device is exchanged: what stays, what is refused, and that
 * requests under way finish in the chain that they entered. Run under TSan, too: devices here have
 * one thread or three.
 */
#include "change_layers.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define THREADS 3u

/* ---- A device under load --------------------------------------------------------------------- */

static struct loop *loops[THREADS];
static pthread_t threads[THREADS];
static struct device *dev;
static unsigned nthreads;

struct slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    uint8_t data[DT_SECTOR_SIZE];
    struct iovec iov;
} CACHE_ALIGNED;

/* Each lane keeps requests in flight, as many as are admitted; a completed one is sent again. */
struct driver {
    struct loop_deferred again;
    struct lane *lane;
    struct slot *slots;
    struct request *idle[DEPTH];
    unsigned nidle;
    uint64_t completed, errors;
    bool run;
} CACHE_ALIGNED;
static struct driver drivers[THREADS];

static void drive(struct loop_deferred *deferred)
{
    struct driver *d = container_of(deferred, struct driver, again);
    unsigned n;

    if (!d->run || !d->nidle)
        return;
    n = lane_admit(d->lane, d->nidle);
    d->nidle -= n;
    for (unsigned i = 0; i < n; i++) {
        struct slot *s = container_of(d->idle[d->nidle + i], struct slot, req);

        s->iov = (struct iovec){s->data, sizeof(s->data)};
        s->req.pub = (struct dt_req){.op = (d->completed + i) % 2 ? DT_OP_READ : DT_OP_WRITE,
                                     .sector = (uint64_t)(s - d->slots),
                                     .sectors = 1};
        s->req.iov = &s->iov;
        s->req.niov = 1;
    }
    if (n)
        lane_submit(d->lane, &d->idle[d->nidle], n);
}

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    struct driver *d = &drivers[lane_thread(lane)];

    for (unsigned i = 0; i < n; i++) {
        d->errors += reqs[i]->pub.error != 0;
        d->idle[d->nidle++] = reqs[i];
    }
    __atomic_add_fetch(&d->completed, n, __ATOMIC_RELAXED);
    if (d->run)
        loop_defer(lane_loop(lane), &d->again);
}

static void on_wake(struct lane *lane)
{
    loop_defer(lane_loop(lane), &drivers[lane_thread(lane)].again);
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static void *serve(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void start(const char *text, unsigned n)
{
    struct loop_config config = {.spin_ns = 0};
    struct chain_spec spec;
    struct dt_error err = {""};

    nthreads = n;
    keep.n = 0;
    keep.admits = UINT32_MAX;
    keep.for_good = keep.holding = false;
    for (unsigned t = 0; t < n; t++)
        assert_int_equal(loop_new(&loops[t], &config, &err), 0);
    assert_int_equal(chain_parse(&spec, text, &err), 0);
    if (device_new(
            &dev,
            &(struct device_config){
                .name = "t", .chain = &spec, .loops = loops, .threads = n, .copy_bytes = 8 << 20},
            &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&spec);
    for (unsigned t = 0; t < n; t++) {
        pthread_create(&threads[t], NULL, serve, loops[t]);
        while (!loop_is_foreign(loops[t]))
            usleep(100);
    }
    if (device_start(dev, &front, NULL, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned t = 0; t < n; t++) {
        struct driver *d = &drivers[t];

        *d = (struct driver){.again.run = drive, .lane = device_lane(dev, t)};
        d->slots = xaligned(CACHE_LINE, DEPTH * sizeof(struct slot));
        for (unsigned i = 0; i < DEPTH; i++)
            d->idle[d->nidle++] = &d->slots[i].req;
    }
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
    for (unsigned t = 0; t < nthreads; t++)
        loop_call(loops[t], on ? run_on : run_off, &drivers[t]);
}

static uint64_t completed(void)
{
    uint64_t sum = 0;

    for (unsigned t = 0; t < nthreads; t++)
        sum += __atomic_load_n(&drivers[t].completed, __ATOMIC_RELAXED);
    return sum;
}

static void goes_on(void)
{
    uint64_t before = completed();

    while (completed() < before + 50 * nthreads)
        usleep(100);
}

static void stop(void)
{
    struct dt_error err;

    load(false);
    assert_int_equal(device_hold(dev, dt_clock_ns() + DT_S(60), &err), 0);
    device_let_go(dev);
    device_stop(dev);
    device_free(dev);
    for (unsigned t = 0; t < nthreads; t++) {
        loop_stop(loops[t]);
        pthread_join(threads[t], NULL);
        assert_int_equal(drivers[t].errors, 0);
        free(drivers[t].slots);
        loop_free(loops[t]);
    }
    assert_int_equal(opened, 0);
    assert_int_equal(started, 0);
}

/* ---- Changing it --------------------------------------------------------------------------- */

static struct change change;
static struct dt_error error;

static int to(const char *text)
{
    struct chain_spec spec;
    int ret;

    change.patience = change.patience ?: DT_S(60);
    error.text[0] = '\0';
    assert_int_equal(chain_parse(&spec, text, &error), 0);
    ret = device_change(dev, &spec, &change, &error);
    chain_spec_free(&spec);
    return ret;
}

static void becomes(const char *text)
{
    change = (struct change){0};
    if (to(text) != 0)
        fail_msg("%s: %s", text, error.text);
}

static void is_refused(const char *text, const char *why)
{
    bool force = change.force;

    change = (struct change){.force = force};
    assert_true(to(text) < 0);
    if (!strstr(error.text, why))
        fail_msg("%s: %s", text, error.text);
}

static void is_now(const char *text)
{
    struct chain_edit edit;
    char *now;

    device_edit(dev, &edit);
    now = chain_format(&edit.spec);
    assert_string_equal(now, text);
    free(now);
    chain_spec_free(&edit.spec);
}

static uint64_t seen(const char *layer)
{
    json_t *stats = device_stats(dev), *json;
    uint64_t n = UINT64_MAX;
    size_t i;

    json_array_foreach(json_object_get(stats, "layers"), i,
                       json) if (strcmp(json_string_value(json_object_get(json, "name")), layer) ==
                                 0) n =
        (uint64_t)json_integer_value(json_object_get(json_object_get(json, "counters"), "seen"));
    json_decref(stats);
    return n;
}

/* ---- Tests --------------------------------------------------------------------------------- */

static void what_both_have_stays(void **state)
{
    uint64_t before;

    start("tag id=1 | tag id=2 | plain", 1);
    load(true);
    goes_on();
    before = seen("tag#2");
    assert_true(before > 0);
    becomes("tag#2 id=2 | plain");
    assert_int_equal(change.kept, 2);
    assert_int_equal(change.closed, 1);
    goes_on();
    assert_true(seen("tag#2") > before); /* it kept its counters, and counts on */
    becomes("tag id=9 | tag#2 id=2 | tag id=7 | plain");
    is_now("tag id=9 | tag#2 id=2 | tag#3 id=7 | plain");
    becomes("tag#3 id=7 | tag#2 id=2 | tag id=9 | plain"); /* moved alone */
    assert_int_equal(change.kept, 4);
    assert_int_equal(change.opened, 0);
    goes_on();
    assert_int_equal(opened, 3);
    stop();
}

static void an_heir_gets_the_state(void **state)
{
    struct tag *t;

    start("tag id=1 | plain", 1);
    t = dt_layer_data(device_layer(dev, 1));
    t->value = 4711;
    becomes("tag id=2 | plain");
    t = dt_layer_data(device_layer(dev, 1));
    assert_int_equal(t->id, 2);
    assert_int_equal(t->value, 4711);
    assert_string_equal(dt_layer_name(device_layer(dev, 1)), "tag");
    becomes("plain");
    becomes("tag id=2 | plain");
    t = dt_layer_data(device_layer(dev, 1));
    assert_int_equal(t->value, 0); /* another one of the same name */
    stop();
}

static void a_failure_changes_nothing(void **state)
{
    for (unsigned n = 1; n <= THREADS; n += THREADS - 1) {
        start("tag id=1 | plain", n);
        load(true);
        goes_on();
        is_refused("tag id=3 | tag id=2 fail-open=on | plain", "told not to open");
        is_refused("tag id=3 | tag id=2 fail-start=on | plain", "told not to start");
        is_refused("tag id=x | plain", "not a number");
        is_refused("tag id=1 | nobody | plain", "no extension or back is named 'nobody'");
        is_refused("tag id=1", "must end with a back");
        is_refused("tag id=1 | tag#1 | plain", "two layers are named 'tag#1'");
        is_now("tag id=1 | plain");
        goes_on();
        becomes("tag id=1 | tag id=2 | plain");
        goes_on();
        stop();
    }
}

static void requests_finish_where_they_entered(void **state)
{
    start("tag id=1 | keep | plain", 1);
    keep.holding = true;
    load(true);
    while (__atomic_load_n(&keep.n, __ATOMIC_RELAXED) < DEPTH)
        usleep(100);
    becomes("tag id=2 | plain"); /* the held ones go through the old chain's contexts */
    assert_true(seen("tag") < UINT64_MAX);
    goes_on();
    stop();
}

static void who_does_not_let_go_is_named(void **state)
{
    start("keep | plain", 1);
    keep.holding = keep.for_good = true;
    load(true);
    while (__atomic_load_n(&keep.n, __ATOMIC_RELAXED) < DEPTH)
        usleep(100);
    change = (struct change){.patience = DT_MS(20)};
    assert_int_equal(to("tag | keep | plain"), -ETIMEDOUT);
    assert_non_null(strstr(error.text, "keep holds 32"));
    is_now("keep | plain");
    keep.for_good = keep.holding = false;
    becomes("tag | keep | plain");
    goes_on();
    stop();
}

static void contents_are_guarded(void **state)
{
    start("tag | bearing id=1 | plain", 1);
    change.force = false;
    is_refused("tag | plain", "bearing decides what it reads");
    is_refused("tag | bearing id=1 | bearing id=2 | plain", "could read other data");
    is_refused("tag | bearing id=2 | plain", "could read other data");
    is_refused("tag | bearing id=1 | plain max=5", "could read other data");
    becomes("bearing id=1 | tag | plain"); /* it never looks at data */
    becomes("stable | bearing id=1 | tag | plain");
    change.force = false;
    is_refused("bearing id=1 | stable | tag | plain", "stable would see other data");
    change = (struct change){.force = true};
    assert_int_equal(to("stable | plain"), 0);
    stop();
}

static void the_floor_holds(void **state)
{
    start("plain", 1);
    change.force = true;
    is_refused("plain sectors=4096", "the disk would have 2097152 bytes");
    is_refused("plain read-only=on", "could not be written");
    is_refused("plain zeroes=off", "could not write zeroes");
    is_refused("plain max=8", "discards of 8 sectors");
    change = (struct change){.force = true};
    assert_int_equal(to("plain flush=off discard=off"), 0);
    assert_true(device_info(dev)->can_flush && device_info(dev)->can_discard);
    stop();
}

static void submit_one(void *arg)
{
    struct driver *d = &drivers[0];
    struct request *r = d->idle[--d->nidle];

    r->pub =
        (struct dt_req){.op = *(uint8_t *)arg, .sectors = *(uint8_t *)arg == DT_OP_FLUSH ? 0 : 1};
    r->iov = &container_of(r, struct slot, req)->iov;
    r->niov = 1;
    lane_submit(d->lane, &r, 1);
}

static void what_the_chain_lacks_is_emulated(void **state)
{
    uint8_t flush = DT_OP_FLUSH, discard = DT_OP_DISCARD, write = DT_OP_WRITE;

    start("plain", 1);
    change = (struct change){.force = true};
    assert_int_equal(to("plain flush=off discard=off"), 0);
    memset(ops_seen, 0, sizeof(ops_seen));
    loop_call(loops[0], submit_one, &flush);
    loop_call(loops[0], submit_one, &discard);
    assert_int_equal(completed(), 2);
    assert_int_equal(ops_seen[DT_OP_FLUSH] + ops_seen[DT_OP_DISCARD], 0);
    stop();

    start("plain flush=off", 1); /* its guest knows no flush, so every write must be durable */
    change = (struct change){.force = true};
    assert_int_equal(to("plain flush=on"), 0);
    durable_seen = 0;
    loop_call(loops[0], submit_one, &write);
    assert_int_equal(durable_seen, 1);
    stop();
}

static void the_confined_open_nothing(void **state)
{
    start("tag | plain", 1);
    change = (struct change){.confined = true};
    assert_int_equal(to("tag | outside | plain"), 1);
    assert_string_equal(change.outside, "outside");
    change = (struct change){.confined = true};
    assert_int_equal(to("tag | tag | plain"), 0);
    change = (struct change){.confined = true};
    assert_true(to("./x.so | plain") < 0);
    assert_non_null(strstr(error.text, "known only once it is loaded"));
    change = (struct change){.confined = true, .force = true};
    assert_int_equal(to("./x.so | plain"), 1);
    stop();
}

static void a_dry_run_changes_nothing(void **state)
{
    start("tag | plain", 1);
    change = (struct change){.dry_run = true};
    assert_int_equal(to("tag | tag id=5 | plain"), 0);
    assert_int_equal(opened, 1);
    is_now("tag | plain");
    change = (struct change){.dry_run = true};
    assert_true(to("tag | tag id=x | plain") < 0);
    /* What only opening shows, of those that need nothing from outside. */
    change = (struct change){.dry_run = true};
    assert_true(to("tag | tag id=2 fail-open=on | plain") < 0);
    assert_non_null(strstr(error.text, "told not to open"));
    change = (struct change){.dry_run = true, .force = true};
    assert_true(to("tag | plain read-only=on") < 0);
    assert_non_null(strstr(error.text, "could not be written"));
    change = (struct change){.dry_run = true, .confined = true};
    assert_int_equal(to("outside | tag fail-open=on | plain"), 1);
    assert_int_equal(opened, 1);
    is_now("tag | plain");
    stop();
}

static void one_held_is_not_changed(void **state)
{
    struct dt_error err;
    uint64_t before;

    start("tag | plain", THREADS);
    load(true);
    goes_on();
    assert_int_equal(device_hold(dev, dt_clock_ns() + DT_S(60), &err), 0);
    before = completed();
    change.force = false;
    is_refused("plain", "is held at rest");
    usleep(5000);
    assert_int_equal(completed(), before);
    device_let_go(dev);
    goes_on();
    stop();
}

/* Layers come, go and move at random under load, on several threads. */
static void many_generations(void **state)
{
    uint64_t seed = 1;

    start("tag id=0 | plain", THREADS);
    load(true);
    for (unsigned round = 0; round < 200; round++) {
        struct chain_edit edit;
        char step[64];
        unsigned what, layers;

        device_edit(dev, &edit);
        layers = edit.spec.count - 1;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        what = (unsigned)(seed >> 33);
        if (layers == 0 || (what % 3 == 0 && layers < 6))
            snprintf(step, sizeof(step), "insert %u %s", what / 3 % (layers + 1) + 1,
                     what % 2 ? "stable" : "tag");
        else if (what % 3 == 1)
            snprintf(step, sizeof(step), "remove %s", edit.names[what / 3 % layers]);
        else
            snprintf(step, sizeof(step), "move %s %u", edit.names[what / 3 % layers],
                     what / 7 % layers + 1);
        if (chain_edit_step(&edit, step, &error) < 0)
            fail_msg("%s", error.text);
        change = (struct change){.patience = DT_S(60)};
        if (device_change(dev, &edit.spec, &change, &error) < 0)
            fail_msg("%s: %s", step, error.text);
        chain_spec_free(&edit.spec);
    }
    goes_on();
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_both_have_stays),
        cmocka_unit_test(an_heir_gets_the_state),
        cmocka_unit_test(a_failure_changes_nothing),
        cmocka_unit_test(requests_finish_where_they_entered),
        cmocka_unit_test(who_does_not_let_go_is_named),
        cmocka_unit_test(contents_are_guarded),
        cmocka_unit_test(the_floor_holds),
        cmocka_unit_test(what_the_chain_lacks_is_emulated),
        cmocka_unit_test(the_confined_open_nothing),
        cmocka_unit_test(a_dry_run_changes_nothing),
        cmocka_unit_test(one_held_is_not_changed),
        cmocka_unit_test(many_generations),
    };

    log_set_level(DT_LOG_ERROR);
    if (!add_layers())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
