/* SPDX-License-Identifier: MIT */
/* test_net_symmetry.c - `symmetry` by a clock that the test turns: the thesis's figures, and who must not be punished. */
#include "net/symmetry/internal.h"
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define GUEST "192.0.2.7"
#define PEER  "198.51.100.1"

static struct frame f;
static uint64_t began;

static void begin(const char *chain)
{
    test_clock = (test_clock / DT_S(1) + 5) * DT_S(1); /* on the edge of a window's part */
    rig_start(chain);
    rig_turn();
    began = test_clock;
}

static void pass_time(uint64_t ns)
{
    for (uint64_t end = test_clock + ns; test_clock < end;) {
        test_clock += DT_US(500);
        rig_turn();
    }
}

static void udp(const char *from, const char *to, uint16_t sport, uint16_t dport, uint32_t bytes)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, from, to);
    frame_udp(&f, sport, dport);
    frame_pattern(&f, bytes);
    frame_end(&f);
}

static void tcp(bool out, uint32_t seq, uint32_t ack, uint8_t flags, uint32_t bytes)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, out ? GUEST : PEER, out ? PEER : GUEST);
    frame_tcp(&f, out ? 40000 : 80, out ? 80 : 40000, seq, flags);
    store_be32(f.bytes + 14 + 20 + 8, ack);
    frame_pattern(&f, bytes);
    frame_end(&f);
}

static void flood(unsigned n)
{
    udp(GUEST, PEER, 1000, 53, 100);
    for (unsigned i = 0; i < n; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void answers(unsigned n)
{
    udp(PEER, GUEST, 53, 1000, 100);
    for (unsigned i = 0; i < n; i++)
        rig_arrive(f.bytes, f.n, NULL);
}

static int64_t status(const char *key)
{
    struct dt_error err;
    json_t *reply;
    int64_t value;

    assert_int_equal(device_do(rig.dev, "symmetry", "status", 0, NULL, &reply, &err), 0);
    value = json_integer_value(json_object_get(reply, key));
    json_decref(reply);
    return value;
}

static uint64_t counter(const char *name)
{
    return rig_counter("symmetry", name);
}

/* ---- The thesis's figures ---- */

/* Seven at once; then 2^n ms between packets, until the first ones are a second old, which ends the penalty of 512 ms. */
static void test_schedule(void **state)
{
    static const unsigned ms[] = {0,  0,  0,   0,   0,   0,    0,    1,    3,    7,   15,
                                  31, 63, 127, 255, 511, 1000, 1000, 1000, 1000, 1001};

    begin("symmetry | wire");
    flood(60);
    assert_int_equal(rig.wire.n, 7);
    assert_int_equal(rig.sent, 7); /* the VM bears the queue */
    pass_time(DT_MS(1500));
    for (unsigned i = 0; i < ARRAY_SIZE(ms); i++)
        assert_in_range(rig.wire.frames[i].at - began, DT_MS(ms[i]), DT_MS(ms[i] + 1));
    assert_int_equal(counter("limited-flows"), 2); /* the penalty began anew at 1000 ms */
    assert_int_equal(counter("excess"), 0);
    rig_stop();
}

static void test_seven_a_second(void **state)
{
    begin("symmetry | wire");
    for (unsigned second = 0; second < 20; second++)
        for (unsigned i = 0; i < 7; i++) {
            flood(1);
            pass_time(DT_MS(143));
        }
    assert_int_equal(rig.wire.n, 140);
    assert_int_equal(counter("delayed"), 0);
    rig_stop();
}

/* Six to one is what a stream may do (thesis 4.3.1); eight to one is not. */
static void test_ratio(void **state)
{
    for (unsigned ratio = 6; ratio <= 8; ratio += 2) {
        begin("symmetry | wire");
        for (unsigned i = 0; i < 200; i++) {
            answers(1);
            flood(ratio);
            pass_time(DT_MS(5));
        }
        assert_true(ratio == 6 ? counter("delayed") == 0 : counter("delayed") > 300);
        rig_stop();
    }
}

/* An answer ends the penalty, and the next one begins with one ms again. */
static void test_answer(void **state)
{
    begin("symmetry | wire");
    flood(20);
    pass_time(DT_MS(64)); /* 1 + 2 + ... + 32: the one of 64 ms is on */
    assert_int_equal(rig.wire.n, 13);
    answers(1);
    rig_turn();
    assert_int_equal(rig.wire.n, 14); /* 15 / 2 is above e^2 */
    answers(1);
    rig_turn();
    assert_int_equal(rig.wire.n, 20); /* 15 / 3 is not, nor 20 / 3 */
    answers(0);
    flood(5);
    assert_int_equal(rig.wire.n, 22); /* 23 / 3 is above */
    pass_time(DT_MS(8));
    assert_int_equal(rig.wire.n, 25); /* 1 + 2 + 4 */
    rig_stop();
}

static void answer_five(void)
{
    rig.answer = NULL;
    answers(5);
}

/* Also one that comes while what waits is handed on: not when the next eighth of a second begins. */
static void test_answer_at_once(void **state)
{
    begin("symmetry | wire");
    flood(20);
    pass_time(DT_MS(130)); /* 1 + 2 + ... + 64: the one of 128 ms is on, until 255 */
    assert_int_equal(rig.wire.n, 14);
    rig.answer = answer_five;
    pass_time(DT_MS(
        126)); /* answered when the next one goes, which is in the middle of its part of the second */
    assert_null(rig.answer);
    assert_int_equal(rig.wire.n, 20);
    rig_stop();
}

static void test_threshold(void **state)
{
    struct dt_error err;

    begin("symmetry threshold=1.0 max-delay=4ms | wire");
    flood(20);
    assert_int_equal(rig.wire.n, 2); /* 3 / 1 is above e */
    pass_time(DT_MS(1 + 2 + 4 + 4 + 1));
    assert_int_equal(rig.wire.n, 6);
    assert_int_equal(device_set(rig.dev, "symmetry", "threshold", "ten", &err), -EINVAL);
    assert_int_equal(device_set(rig.dev, "symmetry", "threshold", "10", &err), 0);
    pass_time(DT_MS(5));
    assert_int_equal(rig.wire.n, 20);
    rig_stop();
    assert_int_equal(rig_try("symmetry threshold=0 | wire"), -EINVAL);
    assert_int_equal(rig_try("symmetry exempt=1.2.3 | wire"), -EINVAL);
    assert_int_equal(rig_try("symmetry flows=10 | wire"), -ERANGE);
}

/* ---- Who is not to be punished ---- */

static const struct dt_vnet_header tso = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                          .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                          .gso_size = 1000,
                                          .csum_start = 34,
                                          .csum_offset = 16};

/* A receiver behind GRO has one acknowledgement for 45 segments. */
static void test_gro_peer(void **state)
{
    uint32_t seq = 0xfff00000;

    begin("symmetry | wire");
    tcp(true, seq - 1, 0, 2, 0);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    tcp(false, 7, seq, 0x12, 0);
    rig_arrive(f.bytes, f.n, NULL);
    for (unsigned round = 0; round < 300; round++) {
        tcp(true, seq, 8, 0x10,
            round ? 45000 : 10000); /* RFC 6928: the first window is ten segments */
        assert_true(rig_send(f.bytes, f.n, &tso, DT_OFFLOAD_ALL));
        seq += round ? 45000 : 10000;
        pass_time(DT_MS(3));
        tcp(false, 8, seq, 0x10, 0);
        rig_arrive(f.bytes, f.n, NULL);
        rig_clear();
    }
    assert_int_equal(counter("delayed"), 0);
    assert_true(status("sent") > 300 * 45 / 2 && status("received") > 300 * 45 / 2);
    /* The same without what TCP says of it is a flood. */
    for (unsigned round = 0; round < 800; round++) {
        tcp(true, seq, 8, 0x10, 45000);
        assert_true(rig_send(f.bytes, f.n, &tso, DT_OFFLOAD_ALL));
        pass_time(DT_MS(3));
        tcp(false, 8, 0x123, 0x10, 0);
        rig_arrive(f.bytes, f.n, NULL);
        rig_clear();
    }
    assert_true(counter("delayed") + counter("excess") > 200);
    rig_stop();
}

/* One acknowledgement of bytes that were sent a hundred times is one packet. */
static void test_repeated_segments(void **state)
{
    begin("symmetry | wire");
    for (unsigned round = 0; round < 10; round++) {
        tcp(true, 1, 8, 0x10, 100);
        for (unsigned i = 0; i < 20; i++)
            assert_true(rig_send(f.bytes, f.n, NULL, 0));
        tcp(false, 8, 101, 0x10, 0);
        rig_arrive(f.bytes, f.n, NULL);
        rig_turn();
    }
    assert_true(counter("delayed") > 100);
    rig_stop();
}

/* Super-frames in either direction are as many packets as segments. */
static void test_kinds(void **state)
{
    begin("symmetry threshold=10 | wire");
    for (unsigned kind = 0; kind < 12; kind++) {
        bool v6 = kind & 1, is_tcp = kind & 2, super = kind >= 8, csum = kind >= 4;
        struct dt_vnet_header v = {.flags = csum ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
                                   .gso_type = !super    ? 0
                                               : !is_tcp ? 5
                                               : v6      ? VIRTIO_NET_HDR_GSO_TCPV6
                                                         : VIRTIO_NET_HDR_GSO_TCPV4,
                                   .gso_size = super ? 1000 : 0,
                                   .csum_start = v6 ? 54 : 34,
                                   .csum_offset = is_tcp ? 16 : 6};
        int64_t sent = status("sent"), received = status("received");

        frame_ether(&f, v6 ? 0x86dd : 0x0800);
        if (v6)
            frame_ipv6(&f, is_tcp ? 6 : 17, "2001:db8::7", "2001:db8::1");
        else
            frame_ipv4(&f, is_tcp ? 6 : 17, GUEST, PEER);
        if (is_tcp)
            frame_tcp(&f, 1, 2, kind * 10000, 0x10);
        else
            frame_udp(&f, 1, 2);
        frame_pattern(&f, 5000);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        rig_arrive(f.bytes, f.n, &v);
        if (status("sent") - sent != (super ? 5 : 1) ||
            status("received") - received != (super ? 5 : 1))
            fail_msg("kind %u: %lld sent, %lld received", kind, (long long)(status("sent") - sent),
                     (long long)(status("received") - received));
        assert_int_equal(rig.wire.frames[kind].length, f.n);
        assert_int_equal(rig.wire.frames[kind].segment * super, super * 1000);
    }
    rig_stop();
}

/* A flood does not stop a transfer, has no more than a quarter of the ring, and is counted. */
static void test_flood_beside_transfer(void **state)
{
    uint32_t seq = 1;

    begin("symmetry | wire");
    flood(200);
    assert_int_equal(rig.wire.n, 7);
    assert_int_equal(counter("delayed"), 64);
    assert_int_equal(counter("excess"), 200 - 7 - 64);
    assert_int_equal(status("waiting"), 64);
    answers(0);
    rig_clear();
    for (unsigned i = 0; i < 300; i++) {
        tcp(false, 8, seq, 0x10, 0);
        rig_arrive(f.bytes, f.n, NULL);
        tcp(true, seq, 8, 0x10, 1000);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        seq += 1000;
    }
    pass_time(DT_MS(3));
    for (unsigned i = 0, n = 0; i < rig.wire.n; i++)
        n += rig.wire.frames[i].data[14 + 9] == 6;
    assert_true(rig.wire.n >= 300 && rig.wire.n <= 303);
    assert_int_equal(counter("delayed"), 64);
    rig_stop();
}

/* The share is of the ring that the guest has, and follows it. */
static void test_small_ring(void **state)
{
    begin("symmetry | wire");
    net_set_ring(rig.lane, 64);
    flood(50);
    assert_int_equal(status("waiting"), 16);
    net_set_ring(rig.lane, 0); /* it stops; another one may be larger */
    flood(100);
    assert_int_equal(status("waiting"), 64);
    assert_int_equal(counter("excess"), 150 - 7 - 64);
    rig_stop();
}

static void test_exempt(void **state)
{
    begin("symmetry exempt=198.51.100.0/24,2001:db8::/32 | wire");
    flood(100);
    assert_int_equal(rig.wire.n, 100);
    assert_int_equal(counter("exempt"), 100);
    udp(GUEST, "203.0.113.1", 1, 2, 10);
    for (unsigned i = 0; i < 20; i++)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(rig.wire.n, 107);
    assert_int_equal(status("sent"), 7);
    rig_stop();
}

/* A request and its reply are one pair, even by ARP. */
static void test_arp(void **state)
{
    uint8_t a[28] = {0,   1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0,   0, 0, 1,
                     192, 0, 2, 7, 0, 0, 0, 0, 0,    0,    192, 0, 2, 1};

    begin("symmetry | wire");
    frame_ether(&f, 0x0806);
    frame_bytes(&f, a, sizeof(a));
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    a[7] = 2;
    memcpy(a + 14, (uint8_t[]){192, 0, 2, 1}, 4);
    memcpy(a + 24, (uint8_t[]){192, 0, 2, 7}, 4);
    frame_ether(&f, 0x0806);
    frame_bytes(&f, a, sizeof(a));
    rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(status("flows"), 1);
    assert_int_equal(status("pairs"), 1);
    udp(GUEST, "192.0.2.1", 1, 2, 10); /* and the host's packets are the same pair's */
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(status("flows"), 2);
    assert_int_equal(status("pairs"), 1);
    rig_stop();
}

/* ---- The second, in eighths ---- */

/* A packet counts for more than seven eighths of a second, whenever it comes, and for no more than one. */
static void test_window(void **state)
{
    const uint64_t step = DT_MS(1) / 4, eighth = WINDOW_TICK;

    for (uint64_t at = 0; at < eighth; at += step)
        for (uint64_t age = 0; age < DT_S(10); age += age < DT_S(2) ? step : DT_MS(700)) {
            struct window w = {{0}, {0}};
            bool counts;

            window_add(&w, true, 0, 1);
            window_add(&w, false, 0, 1);
            window_advance(&w, 0, (uint32_t)((at + age) / eighth));
            counts = window_sum(w.tx);
            assert_int_equal(counts, window_sum(w.rx));
            assert_true(counts || age > 7 * eighth);
            assert_true(!counts || age < DT_S(1));
        }
}

/* What that is for a flood: in seven eighths of a second no more goes than by the definition in a second. */
static void test_flood_by_eighths(void **state)
{
    const unsigned allowed = 7 + 9; /* and 1 + 2 + 4 + ... + 256 ms */

    for (unsigned phase = 0; phase < 125; phase += 9) {
        begin("symmetry | wire");
        pass_time(DT_MS(phase));
        for (unsigned ms = 0; ms < 6000; ms += 500) {
            flood(40);
            pass_time(DT_MS(500));
        }
        assert_in_range(rig.wire.n, 6 * 12, 6 * 15);
        for (unsigned i = allowed; i < rig.wire.n; i++)
            assert_true(rig.wire.frames[i].at - rig.wire.frames[i - allowed].at > 7 * WINDOW_TICK);
        rig_stop();
    }
}

/* ---- Scans, and bounded memory ---- */

static void scan(unsigned n, bool hosts)
{
    char to[32];

    for (unsigned i = 0; i < n; i++) {
        snprintf(to, sizeof(to), "198.51.%u.%u", hosts ? i / 200 : 0, hosts ? 1 + i % 200 : 1);
        udp(GUEST, to, 1000, (uint16_t)(hosts ? 53 : 1 + i), 10);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    }
}

/* A port each escapes the flows, an address each the pairs, and nothing the card. */
static void test_scans(void **state)
{
    for (unsigned hosts = 0; hosts < 2; hosts++) {
        begin("symmetry | wire");
        scan(100, hosts);
        assert_int_equal(rig.wire.n, 7);
        pass_time(DT_MS(990));
        assert_int_equal(rig.wire.n, 16);
        assert_int_equal(counter("limited-flows"), 0);
        assert_int_equal(counter("limited-pairs"), !hosts);
        assert_int_equal(counter("limited-card"), 1);
        rig_stop();
    }
}

/* The pair has half of the ring at most. */
static void test_share_of_pair(void **state)
{
    begin("symmetry | wire");
    scan(300, false);
    assert_int_equal(status("waiting"), 128);
    assert_int_equal(counter("excess"), 300 - 7 - 128);
    rig_stop();
}

static void test_oldest_forgotten(void **state)
{
    begin("symmetry flows=8192 | wire");
    for (unsigned i = 0; i < 20000; i++) {
        udp("203.0.113.9", GUEST, (uint16_t)i, 7, 10);
        rig_arrive(f.bytes, f.n, NULL);
        rig_clear();
    }
    assert_int_equal(status("flows"), 8192);
    assert_int_equal(counter("flows-forgotten"), 20000 - 8192);
    assert_int_equal(status("pairs"), 1);
    udp(GUEST, "203.0.113.9", 7, 19999, 10);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(counter("flows-forgotten"), 20000 - 8192); /* a young one is there */
    udp(GUEST, "203.0.113.9", 7, 1, 10);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(counter("flows-forgotten"), 20000 - 8191); /* an old one is not */
    rig_stop();
}

/* What a scan makes forgotten is not forgiven. */
static void test_forgotten_not_forgiven(void **state)
{
    begin("symmetry flows=8192 excess=hold | wire");
    flood(10);
    pass_time(DT_MS(130)); /* n is 3 now, and nothing waits */
    assert_int_equal(rig.wire.n, 10);
    for (unsigned i = 0; i < 9000; i++) {
        udp(PEER, GUEST, (uint16_t)i, 7, 10);
        if (i < 2 || i > 8990)
            pass_time(0);
        f.bytes[26]++; /* other hosts: the pair has no answers of it */
        rig_arrive(f.bytes, f.n, NULL);
        rig_clear();
    }
    flood(1); /* a new flow, with its old pair's penalty: 8 ms */
    assert_int_equal(rig.wire.n, 0);
    pass_time(DT_MS(7));
    assert_int_equal(rig.wire.n, 0);
    pass_time(DT_MS(2));
    assert_int_equal(rig.wire.n, 1);
    rig_stop();
}

static void test_table(void **state)
{
    struct table t, pairs;
    uint32_t first, entry;

    assert_int_equal(table_init(&t, 1000000, sizeof(struct flow)), 0);
    assert_int_equal(table_init(&pairs, 50000, sizeof(struct entity)), 0);
    assert_true(t.bytes + pairs.bytes + WAITS * sizeof(struct wait) + sizeof(struct symmetry) <=
                80000000);
    table_fini(&pairs);
    for (uint64_t i = 1; i <= 1000000; i++)
        table_add(&t, i * 0x9e3779b97f4a7c15u);
    assert_true(table_full(&t));
    first = table_find(&t, 0x9e3779b97f4a7c15u);
    assert_int_equal(first, t.oldest);
    table_touch(&t, first);
    for (uint64_t i = 2; i <= 500001; i++) { /* the first one is the newest now */
        assert_int_equal(table_find(&t, i * 0x9e3779b97f4a7c15u), t.oldest);
        table_remove(&t, t.oldest);
    }
    assert_int_equal(t.count, 500000);
    for (uint64_t i = 1; i <= 1000000; i++) {
        entry = table_find(&t, i * 0x9e3779b97f4a7c15u);
        assert_int_equal(!!entry, i == 1 || i > 500001);
    }
    table_fini(&t);
}

/* ---- How long ---- */

/* All of a ring waits for the card. Whatever is before it, a packet is back with the guest after four seconds; and what went by then is
 * what went without the others. */
static void test_late(void **state)
{
    static const char *const chains[] = {"symmetry | wire", "symmetry max-delay=4s | wire"};

    for (unsigned i = 0; i < ARRAY_SIZE(chains); i++) {
        begin(chains[i]);
        for (unsigned round = 1; round <= 3; round++) {
            unsigned before = rig.wire.n;
            uint64_t late = counter("late");

            scan(200, true);
            pass_time(DT_S(4) - DT_MS(1));
            assert_in_range(rig.wire.n - before, 40, 16 * 4 + 7);
            assert_int_equal(counter("late"), late);
            pass_time(DT_MS(2));
            assert_int_equal(status("waiting"), 0);
            assert_int_equal(rig.sent, 200 * round);
            assert_int_equal(counter("late"), rig.sent - rig.wire.n);
        }
        rig_stop();
    }
}

/* A flow behind a scan's packets has the ring held, and none of its own is due before the four seconds are over. */
static void test_late_goes_on(void **state)
{
    begin("symmetry excess=hold | wire");
    for (unsigned round = 1; round <= 3; round++) {
        unsigned woken = rig.woken, sent;

        scan(150, true);
        udp(GUEST, PEER, 1000, 54, 100);
        for (sent = 0; rig_send(f.bytes, f.n, NULL, 0);)
            assert_true(++sent <= 64);
        assert_int_equal(sent, 64);
        assert_int_equal(rig.woken, woken);
        pass_time(DT_S(4) + DT_MS(1));
        assert_true(rig.woken > woken);
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
        assert_int_equal(counter("excess"), 0);
        pass_time(DT_S(5));
        rig_clear();
    }
    rig_stop();
}

/* ---- The ring held, and rest ---- */

static void test_hold(void **state)
{
    begin("symmetry excess=hold | wire");
    flood(71);
    assert_false(rig_send(f.bytes, f.n, NULL, 0)); /* a quarter of 256 waits */
    assert_int_equal(counter("excess"), 0);
    assert_int_equal(rig.woken, 0);
    pass_time(DT_MS(2));
    assert_int_equal(rig.woken, 1);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_false(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(device_set(rig.dev, "symmetry", "excess", "drop", &rig.err), 0);
    pass_time(DT_MS(1));
    assert_true(rig.woken > 1);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    rig_stop();
}

/* A guest that resets its card gets nothing through by it. */
static void test_rest(void **state)
{
    begin("symmetry | wire");
    flood(50);
    lane_release(rig.lane, test_clock);
    assert_int_equal(rig.wire.n, 7);
    assert_int_equal(rig.sent, 50);
    assert_int_equal(counter("at-rest"), 43);
    flood(1);
    assert_int_equal(rig.wire.n, 7);
    pass_time(DT_MS(3)); /* nor does the penalty grow by what was dropped */
    assert_int_equal(rig.wire.n, 8);
    flood(3);
    rig_stop();
}

/* ---- State ---- */

static struct dt_layer *layer(void)
{
    return rig.dev->layers[1];
}

/* Another process, at the same moment. */
static void restart(const char *chain)
{
    uint64_t now = test_clock;

    rig_stop();
    test_clock = now;
    rig_start(chain);
}

static void test_state(void **state)
{
    const struct dt_net_ext *ext = registry_net(layer()->ext);
    static uint8_t blob[1 << 20], bad[1 << 20];
    struct dt_error err;
    int64_t n;

    flood(30);
    pass_time(DT_MS(64));
    assert_int_equal(rig.wire.n, 13);
    n = ext->save(layer(), blob, sizeof(blob));
    assert_true(n > 0);
    restart("symmetry | wire");
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 1, &err), 0);
    flood(1); /* sent again by the ring */
    assert_int_equal(rig.wire.n, 0);
    pass_time(DT_MS(100));
    assert_int_equal(rig.wire.n, 0); /* 2^7 ms */
    pass_time(DT_MS(29));
    assert_int_equal(rig.wire.n, 1);
    restart("symmetry | wire");
    for (int64_t cut = 0; cut < n; cut++)
        assert_int_equal(ext->load(layer(), blob, (size_t)cut, 1, &err), -EBADMSG);
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 2, &err), -EBADMSG);
    memcpy(bad, blob, (size_t)n);
    memset(bad + 24, 0xff, 8); /* so many flows and pairs */
    assert_int_equal(ext->load(layer(), bad, (size_t)n, 1, &err), -EBADMSG);
    flood(7);
    assert_int_equal(rig.wire.n, 7);       /* nothing of it was taken */
    restart("symmetry flows=9000 | wire"); /* its tables are other ones: the card alone */
    assert_int_equal(ext->load(layer(), blob, (size_t)n, 1, &err), 0);
    assert_int_equal(status("flows"), 0);
    flood(1);
    assert_int_equal(rig.wire.n, 0);
}

static int start_rig(void **state)
{
    begin("symmetry | wire");
    return 0;
}

static int stop_rig(void **state)
{
    rig_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_seven_a_second),
        cmocka_unit_test(test_ratio),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_answer_at_once),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_gro_peer),
        cmocka_unit_test(test_repeated_segments),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_flood_beside_transfer),
        cmocka_unit_test(test_small_ring),
        cmocka_unit_test(test_exempt),
        cmocka_unit_test(test_arp),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_flood_by_eighths),
        cmocka_unit_test(test_scans),
        cmocka_unit_test(test_share_of_pair),
        cmocka_unit_test(test_oldest_forgotten),
        cmocka_unit_test(test_forgotten_not_forgiven),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_late_goes_on),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_rest),
        cmocka_unit_test_setup_teardown(test_state, start_rig, stop_rig),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
