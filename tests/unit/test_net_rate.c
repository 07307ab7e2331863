/* SPDX-License-Identifier: MIT */
/* test_net_rate.c - `rate` by a clock that the test turns: how exact, from the slowest to the fastest. */
#include "tests/unit/net_rig.h"

#include "base/meter.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define PACKETS 200u
#define BYTES   1514u

static struct frame f;

static void make_frame(uint32_t bytes)
{
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, bytes - 14);
}

static void within(double measured, double wanted, double tolerance, const char *what)
{
    if (measured < wanted * (1 - tolerance) || measured > wanted * (1 + tolerance))
        fail_msg("%s: %.0f, not %.0f", what, measured, wanted);
}

/* Between the first and the last of @list; the first one is free of what came before. */
static double bits_a_second(const struct rig_list *list, uint64_t frame_bits)
{
    double ns = (double)(list->frames[list->n - 1].at - list->frames[0].at);

    return (double)(list->n - 1) * (double)frame_bits / ns * 1e9;
}

/* The clock goes on by a fraction of a packet's time, or by what the loop can tell apart. */
static uint64_t step_of(uint64_t bits)
{
    uint64_t packet = (uint64_t)((double)BYTES * 8e9 / (double)bits);

    return MAX(packet / 50, (uint64_t)200);
}

static void check_exact(uint64_t bits)
{
    const unsigned n = PACKETS;
    uint64_t step = step_of(bits);
    char chain[96];

    snprintf(chain, sizeof(chain), "rate tx-bits=%llu rx-bits=%llu burst=1ms | wire",
             (unsigned long long)bits, (unsigned long long)bits);
    rig_start(chain);
    make_frame(BYTES);
    while (rig.wire.n < n || rig.guest.n < n) {
        while (rig.wire.n < n && rig_send(f.bytes, f.n, NULL, 0))
            ;
        while (rig.guest.n < n && rig_counter("rate", "rx-dropped") == 0 &&
               lane_in_flight(rig.lane) < 100)
            rig_arrive(f.bytes, f.n, NULL);
        test_clock += step;
        rig_turn();
    }
    within(bits_a_second(&rig.wire, BYTES * 8), (double)bits, 0.01, "to the wire");
    within(bits_a_second(&rig.guest, BYTES * 8), (double)bits, 0.01, "from the wire");
    rig_stop();
}

static void test_exact(void **state)
{
    check_exact(6000);
    check_exact(1000000);
    check_exact(100000000);
    check_exact(10000000000);
    check_exact(40000000000);
}

static void test_packets(void **state)
{
    rig_start("rate tx-packets=1000 burst=1ms | wire");
    make_frame(60);
    while (rig.wire.n < 300) {
        while (rig_send(f.bytes, f.n, NULL, 0))
            ;
        test_clock += DT_US(50);
        rig_turn();
    }
    within((double)(rig.wire.n - 1) /
               (double)(rig.wire.frames[rig.wire.n - 1].at - rig.wire.frames[0].at) * 1e9,
           1000, 0.01, "packets");
    assert_true(rig.woken > 100); /* the intake was closed, and opened by a timer */
    rig_stop();
}

static const struct dt_vnet_header tso = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                          .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                          .gso_size = 1448,
                                          .csum_start = 34,
                                          .csum_offset = 16};

static void make_super(unsigned segments)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.1", "192.0.2.2");
    frame_tcp(&f, 1, 2, 3, 0x10);
    frame_pattern(&f, segments * 1448);
    frame_end(&f);
}

/* What a super-frame costs is what its segments do, with their headers. */
static void test_super_frames(void **state)
{
    uint64_t bits = (20 * 1448 + 20 * 54) * 8;

    rig_start("rate tx-bits=10M burst=1ms | wire");
    make_super(20);
    while (rig.wire.n < 100) {
        while (rig_send(f.bytes, f.n, &tso, DT_OFFLOAD_ALL))
            ;
        test_clock += DT_US(100);
        rig_turn();
    }
    within(bits_a_second(&rig.wire, bits), 10e6, 0.01, "super-frames");
    rig_stop();
}

/* Toward the guest: so many wait, in order; the rest is dropped, and counted. */
static void test_queue(void **state)
{
    rig_start("rate rx-packets=100 burst=1ms queue=10 | wire");
    for (uint8_t i = 0; i < 30; i++) {
        make_frame(60);
        f.bytes[59] = i;
        rig_arrive(f.bytes, f.n, NULL);
    }
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(rig_counter("rate", "rx-delayed"), 10);
    assert_int_equal(rig_counter("rate", "rx-dropped"), 19);
    assert_int_equal(rig_ops("rate", "receive", "errors"), 19);
    for (unsigned i = 0; i < 200; i++) {
        test_clock += DT_MS(1);
        rig_turn();
    }
    assert_int_equal(rig.guest.n, 11);
    for (unsigned i = 0; i < 11; i++)
        assert_int_equal(rig.guest.frames[i].data[59], i);
    within((double)(rig.guest.frames[10].at - rig.guest.frames[0].at) / 1e6, 100, 0.02, "ms");

    /* What waits when the chain comes to rest goes on. */
    for (unsigned i = 0; i < 5; i++)
        rig_arrive(f.bytes, f.n, NULL);
    assert_int_not_equal(lane_in_flight(rig.lane), 0);
    rig_stop();
}

static void test_changed(void **state)
{
    struct dt_error err;

    rig_start("rate tx-bits=6k | wire");
    assert_int_equal(device_net_info(rig.dev)->offloads,
                     DT_OFFLOAD_CSUM); /* nobody waits ten seconds */
    make_frame(BYTES);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_false(rig_send(f.bytes, f.n, NULL, 0)); /* the debt is two seconds long */
    assert_int_equal(device_set(rig.dev, "rate", "tx-bits", "0", &err), 0);
    test_clock += DT_MS(1);
    rig_turn();
    assert_int_equal(rig.woken, 1);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
    rig_start("rate | wire");
    assert_int_equal(device_net_info(rig.dev)->offloads, DT_OFFLOAD_ALL);
    rig_stop();
}

/* How long the intake is closed after this packet. */
static uint64_t closed_for(const struct dt_vnet_header *v)
{
    uint64_t began = test_clock;

    assert_true(rig_send(f.bytes, f.n, v, DT_OFFLOAD_ALL));
    while (net_admit(rig.lane, 1) == 0) {
        test_clock += DT_MS(1);
        rig_turn();
    }
    return test_clock - began;
}

/* A guest that was offered segmentation goes on to use it when its limit is slow: by another worker that begins so, or by a change. Its
 * ring never stands still for longer than two seconds and a packet, the limit is what it says, and what is too much is dropped. */
static void test_slow_after_super(void **state)
{
    static const char *const limits[][2] = {
        {"tx-bits", "100k"}, {"tx-bits", "6k"}, {"tx-packets", "8"}};

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(limits); i++) {
        const char *const *limit = limits[i / 2];
        const uint64_t packet = i / 2 == 1 ? DT_MS(2100) : DT_MS(130);
        uint64_t began = test_clock, first;
        char chain[64];

        snprintf(chain, sizeof(chain), "rate %s=%s | wire", limit[0], limit[1]);
        rig_start(i % 2 ? "rate | wire" : chain);
        if (i % 2)
            assert_int_equal(device_set(rig.dev, "rate", limit[0], limit[1], &rig.err), 0);
        make_super(45);
        for (unsigned k = 1; k <= 20; k++) {
            assert_in_range(closed_for(&tso), DT_MS(100), DT_S(2) + packet);
            assert_int_equal(rig.sent, k); /* nothing of it is outstanding */
        }
        for (unsigned k = 0; k < rig.wire.n; k++)
            assert_int_equal(rig.wire.frames[k].length, 1448 + 54);
        assert_int_equal(rig_counter("rate", "tx-dropped"), 20 * 45 - rig.wire.n);
        first = rig.wire.frames[0].at;
        assert_in_range(first, began, test_clock);
        within((double)rig.wire.n * (i / 2 == 2 ? 1 : 1502 * 8) / (double)(test_clock - first) *
                   1e9,
               i / 2 == 0   ? 100e3
               : i / 2 == 1 ? 6e3
                            : 8,
               0.01, chain);
        rig_arrive(f.bytes, f.n, &tso);
        assert_int_equal(rig.guest.frames[0].segment, 1448); /* the other way nothing is cut */
        assert_int_equal(device_set(rig.dev, "rate", limit[0], "10M", &rig.err), 0);
        rig_clear();
        test_clock += DT_S(3);
        rig_turn();
        assert_true(rig_send(f.bytes, f.n, &tso, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.frames[0].segment, 1448);
        rig_stop();
    }
}

/* What is not a super-frame is not dropped, also where small packets were usual and much was saved up. @bytes: of large ones. */
static void check_slow_ordinary(const char *chain, uint32_t bytes)
{
    rig_start(chain);
    for (unsigned round = 0; round < 20; round++) {
        make_frame(round % 2 ? bytes : 60);
        for (unsigned i = 0; i < 100; i++) {
            rig_gather();
            for (unsigned n = net_admit(rig.lane, NET_BURST); n > 0; n--)
                assert_true(rig_send(f.bytes, f.n, NULL, 0));
            rig_let_go();
            test_clock += DT_MS(100);
            rig_turn();
        }
        assert_true(rig.wire.n > 16);
        rig_clear();
        test_clock += DT_S(10);
        rig_turn();
    }
    assert_int_equal(rig_counter("rate", "tx-dropped"), 0);
    rig_stop();
}

static void test_slow_ordinary(void **state)
{
    check_slow_ordinary("rate tx-bits=20k burst=5s | wire", BYTES);
    check_slow_ordinary("rate tx-bits=120k burst=5s | wire", 9014);
}

/* As many as are let in now, at once. How long is the intake closed then? */
static uint64_t closed_by_burst(const struct dt_vnet_header *v)
{
    uint64_t began = test_clock;
    unsigned n = net_admit(rig.lane, NET_BURST);

    assert_true(n > 0);
    rig_gather();
    while (n-- > 0)
        assert_true(rig_send(f.bytes, f.n, v, DT_OFFLOAD_ALL));
    rig_let_go();
    while (net_admit(rig.lane, 1) == 0) {
        test_clock += DT_MS(1);
        rig_turn();
    }
    return test_clock - began;
}

/* Above the slow limits: small packets are usual, and then come super-frames, each as large as it can be. */
static void test_small_then_super(void **state)
{
    static const struct {
        const char *limit;
        uint16_t segment;
    } cases[] = {{"tx-bits=263k", 1448},          {"tx-bits=1M", 1448},
                 {"tx-bits=1M burst=5s", 1448},   {"tx-bits=8388607", 1448},
                 {"tx-bits=8388608", 1448},       {"tx-bits=3M", 1448},
                 {"tx-packets=10k", 48},          {"tx-packets=700", 48},
                 {"tx-packets=700 burst=5s", 48}, {"tx-packets=21855 burst=2ms", 48},
                 {"tx-packets=21856", 48}};

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct dt_vnet_header v = tso;
        char chain[64];

        v.gso_size = cases[i].segment;
        snprintf(chain, sizeof(chain), "rate %s | wire", cases[i].limit);
        rig_start(chain);
        make_frame(60);
        for (unsigned k = 0; k < 200; k++)
            closed_for(NULL);
        test_clock += DT_S(10);
        rig_turn();
        make_super(44);
        if (closed_by_burst(&v) > DT_MS(2200))
            fail_msg("%s: closed for longer than two seconds", cases[i].limit);
        assert_int_equal(rig.wire.frames[rig.wire.n - 1].segment, cases[i].segment);
        assert_int_equal(rig_counter("rate", "tx-dropped"), 0);
        rig_stop();
    }
}

/* ---- Groups ---- */

static char group[] = "/tmp/devtap-rate-XXXXXX";

/* Both layers are of one group, so each packet pays twice. */
static void test_group(void **state)
{
    char chain[160];

    snprintf(chain, sizeof(chain),
             "rate tx-bits=100M burst=1ms group=%s | rate tx-bits=100M burst=1ms group=%s | wire",
             group, group);
    rig_start(chain);
    make_frame(BYTES);
    while (rig.wire.n < PACKETS) {
        while (rig_send(f.bytes, f.n, NULL, 0))
            ;
        test_clock += DT_US(2);
        rig_turn();
    }
    within(bits_a_second(&rig.wire, BYTES * 8), 50e6, 0.01, "two of a group");
    rig_stop();
}

/* Whoever comes next, as a worker that takes the place of a dead one, has the debt that is there. */
static void test_group_outlives(void **state)
{
    char chain[96];

    snprintf(chain, sizeof(chain), "rate tx-bits=6k group=%s | wire", group);
    rig_start(chain);
    make_frame(BYTES);
    test_clock += DT_S(1);
    while (rig_send(f.bytes, f.n, NULL, 0))
        ;
    rig_stop(); /* a second; the packet takes two, of which ten milliseconds had been saved up */
    rig_start(chain);
    assert_false(rig_send(f.bytes, f.n, NULL, 0));
    test_clock += DT_S(1);
    rig_turn();
    assert_false(rig_send(f.bytes, f.n, NULL, 0));
    test_clock += DT_MS(20);
    rig_turn();
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
}

/* A word that another member wrote, or the host before it was started again. */
static void test_group_nonsense(void **state)
{
    static const uint64_t words[] = {UINT64_MAX, UINT64_MAX / 2, 1, 0};
    char chain[96];

    snprintf(chain, sizeof(chain), "rate tx-bits=300k rx-bits=300k group=%s | wire", group);
    make_frame(BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        FILE *file = fopen(group, "r+");

        assert_non_null(file);
        assert_int_equal(fseek(file, 8, SEEK_SET), 0);
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(fwrite(&words[i], 8, 1, file), 1);
        assert_int_equal(fclose(file), 0);
        rig_start(chain);
        test_clock += DT_MS(1);
        rig_turn();
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        assert_false(rig_send(f.bytes, f.n, NULL, 0));
        rig_stop();
    }
}

static void test_group_refused(void **state)
{
    static const struct rig_refusal cases[] = {
        {"rate group=/nowhere/at/all | wire", "group=/nowhere/at/all: No such file"},
        {"rate group=/dev/null | wire", "it is no file"},
        {"rate group=/etc/passwd | wire", "another kind of file"},
    };

    rig_refuses(cases, ARRAY_SIZE(cases));
}

/* A name that was mistaken costs nobody his file: neither notes of a few words nor a disk's image, which begins with zeroes. */
static void test_group_of_another(void **state)
{
    static const size_t sizes[] = {5, 4096};
    char path[] = "/tmp/devtap-rate-other-XXXXXX", chain[96];
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    snprintf(chain, sizeof(chain), "rate group=%s | wire", path);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct rig_refusal refusal = {chain, "another kind of file"};
        char bytes[4096] = {1}, zeroes[4096] = {0};

        assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
        rig_refuses(&refusal, 1);
        assert_int_equal(lseek(fd, 0, SEEK_END), (off_t)sizes[i]);
        assert_int_equal(pread(fd, bytes, sizes[i], 0), (ssize_t)sizes[i]);
        assert_memory_equal(bytes, zeroes, sizes[i]);
    }
    close(fd);
    unlink(path);
}

#define THREADS 4u
#define TAKES   200000u

static void *take_many(void *word)
{
    struct meter m;

    meter_init(&m, word);
    m.cost = 64;
    m.capacity = 64;
    for (unsigned i = 0; i < TAKES; i++)
        meter_take(&m, 1, 1000);
    return NULL;
}

/* No token is taken twice, however many take at once: 65 units each time. */
static void test_threads(void **state)
{
    uint64_t word = 1000 * METER_UNIT;
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_many, &word), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(word, 1000 * METER_UNIT + 65ull * THREADS * TAKES);
}

/* It says yes where there are so many, and no for a nanosecond too long at most. */
static void test_has(void **state)
{
    static const uint64_t rates[] = {1, 7000, 3000000, 40000000000};

    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        uint64_t now = DT_S(1000), word = 0;
        struct meter m;

        meter_init(&m, &word);
        assert_true(meter_has(&m, 1000, now)); /* unlimited */
        meter_set(&m, rates[i], DT_S(20), 100, now);
        meter_take(&m, 3, now);
        for (unsigned step = 0; step < 1000; step++) {
            uint64_t n = 1 + step % 40;

            if (meter_has(&m, n, now))
                assert_true(meter_tokens(&m, now) >= n && meter_when(&m, now) == 0);
            else
                assert_true(meter_tokens(&m, now - 1) < n);
            now += DT_S(1) / rates[i] / 3 + step % 3;
        }
        assert_true(meter_has(&m, 15, now));
        assert_false(meter_has(&m, 50 * rates[i], now)); /* more than it holds */
    }
}

static int make_group(void **state)
{
    int fd = mkstemp(group);

    return fd < 0 ? -1 : close(fd);
}

static int remove_group(void **state)
{
    return unlink(group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_packets),
        cmocka_unit_test(test_super_frames),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_slow_after_super),
        cmocka_unit_test(test_slow_ordinary),
        cmocka_unit_test(test_small_then_super),
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_group_outlives),
        cmocka_unit_test(test_group_nonsense),
        cmocka_unit_test(test_group_refused),
        cmocka_unit_test(test_group_of_another),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_has),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, make_group, remove_group);
}
