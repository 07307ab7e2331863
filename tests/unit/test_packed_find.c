/* SPDX-License-Identifier: MIT */
/*
 * test_packed_find.c - who served a packed ring died anywhere and kept no log: the ring goes on.
 *
 * The one who dies is made by hand here, since rears differ in the order of their stores. After each death a
 * successor takes the ring, and the driver must get each of its buffers back once; then the next one
 * serves. So the ring is in all positions, over many laps.
 */
#include "ring_common.h"

#include "ring/internal.h"

#include <pthread.h>

#define MAX_SIZE 32u

/** enum order - in which used descriptors are written. */
enum order {
    ONE_BY_ONE,
    FIRST_LAST,  /* ours: the first of the batch when all others are there */
    FILL_BEFORE, /* DPDK's: all lengths and ids, then flags, the first descriptor's last */
    ORDERS,
};

static struct world {
    struct rig rig;
    struct dt_rng rng;
    bool out[MAX_SIZE]; /* by id: the driver waits for it */
    uint16_t at;        /* the rear: where it takes from, */
    bool wrap;
    uint16_t used; /* and where it answers */
    bool used_wrap;
    unsigned stores; /* it has so many left to live */
} w;

struct taken {
    uint16_t id, ndesc;
};

/* ---- The driver ---- */

static void offer(unsigned most, unsigned longest, bool tables)
{
    struct virtq_buffer bufs[3] = {{RIG_PART, 64}, {RIG_PART, 64}, {RIG_PART, 64}};
    struct virtq_table table = {.addr = RIG_TABLE, .n = 2, .max_len = 64};

    for (uint64_t n = dt_rng_below(&w.rng, most + 1); n > 0; n--) {
        unsigned parts = 1 + (unsigned)dt_rng_below(&w.rng, longest);
        uint16_t next = w.rig.driver.free_head;
        int id;

        if (tables && dt_rng_below(&w.rng, 2)) {
            if (w.rig.driver.free_count == 0)
                break;
            virtq_driver_add_tables(&w.rig.driver, &table, 1);
            id = next;
        } else {
            unsigned readable = (unsigned)dt_rng_below(&w.rng, parts + 1);

            id = virtq_driver_add(&w.rig.driver, bufs, readable, parts - readable);
        }
        if (id < 0)
            break;
        assert_false(w.out[id]);
        w.out[id] = true;
    }
    virtq_driver_publish(&w.rig.driver);
}

static unsigned reap(unsigned most)
{
    unsigned n = 0;
    uint16_t id;
    int r = 0;

    while (n < most && (r = virtq_driver_reap(&w.rig.driver, &id, NULL, 1)) == 1) {
        assert_true(w.out[id]);
        w.out[id] = false;
        n++;
    }
    if (r < 0)
        fail_msg("the driver: %s", w.rig.driver.fault);
    return n;
}

/* ---- One that serves and dies ---- */

static uint64_t *word(unsigned at)
{
    return (uint64_t *)(void *)&rig_packed(&w.rig)[at].len;
}

static bool take_one(struct taken *t)
{
    uint64_t first = *word(w.at), last = first;
    unsigned flags = (unsigned)(first >> 48);

    if (!!(flags & PACKED_AVAIL) != w.wrap || !!(flags & PACKED_USED) == w.wrap)
        return false;
    t->ndesc = 0;
    do {
        last = *word(w.at);
        t->ndesc++;
        ring_advance(&w.at, &w.wrap, 1, w.rig.config.size);
    } while (last >> 48 & VRING_DESC_F_NEXT);
    t->id = (uint16_t)(last >> 32);
    return true;
}

/* false: it died before that. */
static bool store(unsigned at, uint64_t value)
{
    if (w.stores == 0)
        return false;
    w.stores--;
    *word(at) = value;
    return true;
}

static uint64_t with_flags(uint64_t value, bool wrap)
{
    return (value & 0xffffffffffffull) | (wrap ? (uint64_t)(PACKED_AVAIL | PACKED_USED) << 48 : 0);
}

static bool write_used(const struct taken *t, unsigned n, enum order order)
{
    uint16_t at[MAX_SIZE];
    bool wrap[MAX_SIZE];

    for (unsigned i = 0; i < n; i++) {
        at[i] = w.used;
        wrap[i] = w.used_wrap;
        ring_advance(&w.used, &w.used_wrap, t[i].ndesc, w.rig.config.size);
    }
    for (unsigned i = 0; order == FILL_BEFORE && i < n; i++)
        if (!store(at[i], (*word(at[i]) & 0xffffull << 48) | (uint64_t)t[i].id << 32))
            return false;
    for (unsigned i = 0; i < n; i++) {
        unsigned k = order == ONE_BY_ONE ? i : (i + 1) % n;

        if (!store(at[k], with_flags((uint64_t)t[k].id << 32, wrap[k])))
            return false;
    }
    return true;
}

/* It serves until it has no store left; then its session is over. */
static void serve_and_die(enum order order, unsigned longest, bool tables)
{
    struct taken taken[MAX_SIZE];

    w.stores = (unsigned)dt_rng_below(&w.rng, 60);
    for (unsigned turn = 0; turn < 40; turn++) {
        unsigned n = 0, most = 1 + (unsigned)dt_rng_below(&w.rng, 6);

        offer(5, longest, tables);
        while (n < most && take_one(&taken[n]))
            n++;
        if (n > 0 && !write_used(taken, n, order))
            break;
        reap((unsigned)dt_rng_below(&w.rng, 8));
    }
    offer(2, longest, tables);
}

/* ---- And who follows ---- */

static void recover(void)
{
    struct dt_error err = {{0}};

    inflight_loosen(w.rig.log);
    if (virtq_start(&w.rig.vq, &w.rig.config, 0x12345678, true, &err) < 0)
        fail_msg("%s", err.text);
}

/* Everything comes back, once. */
static void finish(void)
{
    struct virtq_chain *c[MAX_SIZE + VIRTQ_BURST];
    unsigned taken = 0, out = 0;
    int r;

    for (unsigned id = 0; id < MAX_SIZE; id++)
        out += w.out[id];
    out -= reap(UINT32_MAX);
    while ((r = virtq_take(&w.rig.vq, c + taken, VIRTQ_BURST)) > 0)
        taken += (unsigned)r;
    if (r < 0)
        fail_msg("the successor: %s", w.rig.vq.fault);
    assert_int_equal(taken, out); /* what nobody took was marked, and reaped just now */
    for (unsigned i = 0; i < taken; i++)
        virtq_push(&w.rig.vq, c[i], 0);
    virtq_publish(&w.rig.vq);
    assert_int_equal(reap(UINT32_MAX), taken);
    assert_int_equal(w.rig.driver.free_count, w.rig.config.size);
}

static void hand_over(void)
{
    uint32_t base = virtq_stop(&w.rig.vq);

    w.at = base & 0x7fff;
    w.wrap = base >> 15 & 1;
    w.used = base >> 16 & 0x7fff;
    w.used_wrap = base >> 31;
    assert_int_equal(w.at, w.used);
}

static void run(uint16_t size, unsigned longest, bool tables, enum order order, unsigned deaths)
{
    rig_open(&w.rig, size, true, false);
    memset(w.out, 0, sizeof(w.out));
    while (deaths-- > 0) {
        hand_over();
        serve_and_die(order, longest, tables);
        recover();
        finish();
    }
    virtq_stop(&w.rig.vq);
    rig_close(&w.rig);
}

static void test_deaths(void **state)
{
    static const uint16_t sizes[] = {1, 2, 3, 5, 8, 16, 32};

    dt_rng_seed(&w.rng, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
        for (unsigned longest = 1; longest == 1 || (longest <= 3 && longest < sizes[i]); longest++)
            for (unsigned order = 0; order < ORDERS; order++)
                for (unsigned tables = 0; tables < 2; tables++)
                    run(sizes[i], longest, tables, order, 300);
}

/* A successor that dies while it looks, and one that was handed the ring twice: the log says the same. */
static void test_twice(void **state)
{
    dt_rng_seed(&w.rng, 2);
    rig_open(&w.rig, 16, true, false);
    memset(w.out, 0, sizeof(w.out));
    for (unsigned i = 0; i < 200; i++) {
        hand_over();
        serve_and_die(FIRST_LAST, 3, false);
        recover();
        virtq_abandon(&w.rig.vq);
        recover();
        finish();
    }
    rig_close(&w.rig);
}

/* ---- A driver that goes on meanwhile ---- */

static bool found;

static void *drive(void *arg)
{
    while (!__atomic_load_n(&found, __ATOMIC_ACQUIRE)) {
        offer(3, 3, false);
        reap(4);
    }
    return NULL;
}

static void test_busy_driver(void **state)
{
    pthread_t thread;

    dt_rng_seed(&w.rng, 3);
    rig_open(&w.rig, 32, true, false);
    memset(w.out, 0, sizeof(w.out));
    for (unsigned i = 0; i < 300; i++) {
        hand_over();
        serve_and_die(i % ORDERS, 3, false);
        found = false;
        assert_int_equal(pthread_create(&thread, NULL, drive, NULL), 0);
        recover();
        __atomic_store_n(&found, true, __ATOMIC_RELEASE);
        pthread_join(thread, NULL);
        finish();
    }
    rig_close(&w.rig);
}

/* ---- What no driver and no device leaves ---- */

static void refused(const char *text)
{
    struct dt_error err = {{0}};

    inflight_loosen(w.rig.log);
    assert_int_equal(virtq_start(&w.rig.vq, &w.rig.config, 0, true, &err), -EBADMSG);
    if (!strstr(err.text, text))
        fail_msg("%s", err.text);
    assert_true(log_loose(w.rig.log)); /* and so is whoever tries after us */
}

static void test_refused(void **state)
{
    rig_prepare(&w.rig, 8, true, false, 1);
    *word(3) = (uint64_t)PACKED_AVAIL << 48; /* one amid others of another lap */
    refused("in order");
    for (unsigned i = 0; i < 8; i++)
        *word(i) = (uint64_t)(PACKED_AVAIL | VRING_DESC_F_NEXT) << 48;
    refused("has no end");
    rig_close(&w.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_busy_driver),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests_name("packed-find", tests, NULL, NULL);
}
