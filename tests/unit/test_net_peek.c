/* SPDX-License-Identifier: MIT */
/* test_net_peek.c - dt_peek(): a layer sees the headers of what waits in the guest's ring, takes what it likes of it, and
 * the rest is copied of that alone. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct frame f;

/* ---- A layer that keeps everything, for the test to choose from ---- */

static struct dt_pending pending;
static struct dt_ctx *choosy_ctx;

static void choosy_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_true(dt_pending_add(&pending, packets[i], 64));
}

static int choosy_start(struct dt_ctx *c, struct dt_error *err)
{
    choosy_ctx = c;
    dt_pending_init(&pending);
    dt_peek(c, true);
    return 0;
}

static void choosy_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    while (pending.count)
        dt_drop_one(c, dt_pending_take(&pending, NULL), 0);
}

static const struct dt_counter choosy_counters[] = {{"at-rest", "packets", "Dropped."}, {NULL}};
#define CHOOSY(n, t)                                                                       \
    {                                                                                      \
        DT_NET_EXT_HEADER, .name = n, .summary = "keeps all", .flags = DT_SELF_CONTAINED,  \
                           .takes = t, .counters = choosy_counters, .start = choosy_start, \
                           .transmit = choosy_transmit, .quiesce = choosy_quiesce          \
    }
static const struct dt_net_ext choosy[] = {CHOOSY("choosy", DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH),
                                           CHOOSY("choosy-whole", DT_OFFLOAD_ALL)};

static uint16_t port_of(struct dt_packet *p)
{
    return load_be16(p->data + dt_headers(p)->l4 + 2);
}

static struct dt_packet *find(uint16_t port)
{
    struct dt_packet *p = NULL;

    while ((p = dt_pending_peek(&pending, p)) != NULL)
        if (port_of(p) == port)
            break;
    assert_non_null(p);
    return p;
}

static void let_go(uint16_t port)
{
    dt_transmit_one(choosy_ctx, dt_pending_take(&pending, find(port)));
}

static void send_udp(uint16_t port, uint32_t payload)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.1", "192.0.2.2");
    frame_udp(&f, 5, port);
    frame_pattern(&f, payload);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

static void expect_on_wire(unsigned i, uint16_t port, uint32_t payload)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.1", "192.0.2.2");
    frame_udp(&f, 5, port);
    frame_pattern(&f, payload);
    frame_end(&f);
    assert_int_equal(rig.wire.frames[i].length, f.n);
    assert_int_equal(rig.wire.frames[i].needs, 0);
    assert_memory_equal(rig.wire.frames[i].data, f.bytes, f.n);
}

/* ---- Tests ---- */

static void test_headers_then_the_rest(void **state)
{
    rig_start("choosy | wire");
    for (uint16_t port = 1; port <= 4; port++)
        send_udp(port, 1000u + port);
    assert_int_equal(pending.count, 4);
    assert_int_equal(rig.sent, 0); /* they are the guest's ring's */
    for (uint16_t port = 1; port <= 4; port++) {
        struct dt_packet *p = find(port);

        assert_int_equal(p->needs, DT_OFFLOAD_FETCH);
        assert_int_equal(p->length, 42 + 1000 + port);
        assert_int_equal(dt_headers(p)->end, p->length);
        assert_int_equal(p->data[DT_PEEK_BYTES], 0xee); /* not there */
    }
    let_go(3);
    let_go(1);
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(rig.sent, 2);
    expect_on_wire(0, 3, 1003);
    expect_on_wire(1, 1, 1001);
    dt_drop_one(choosy_ctx, dt_pending_take(&pending, find(2)), 0);
    assert_int_equal(rig.fetched, 2); /* and not the one that was dropped */
    rig_stop();
    assert_int_equal(rig.fetched, 2);
    assert_int_equal(rig.sent, 4);
}

static void test_what_is_not_plain_comes_whole(void **state)
{
    rig_start("choosy | wire");
    send_udp(1, 10);
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 1, "192.0.2.1", "192.0.2.2"); /* ICMP */
    frame_pattern(&f, 1000);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    frame_ether(&f, 0x88b5);
    frame_pattern(&f, 1000);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    for (struct dt_packet *p = NULL; (p = dt_pending_peek(&pending, p));)
        assert_int_equal(p->needs, 0);
    assert_int_equal(pending.count, 3);
    assert_memory_equal(dt_pending_peek(&pending, pending.first->next)->data, f.bytes, f.n);
    rig_stop();
    assert_int_equal(rig.fetched, 0);
}

/* What the next layer does not take is done after the rest is there: segments and checksums are right. */
static void test_offloads(void **state)
{
    unsigned segments = 0;

    rig_start("choosy | plain-wire");
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 7);

        frame_pattern(&f, 3500);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        segments += v.gso_type ? 4 : 1;
    }
    while (pending.count) {
        assert_true(pending.first->needs & DT_OFFLOAD_FETCH);
        dt_transmit_one(choosy_ctx, dt_pending_take(&pending, NULL));
    }
    assert_int_equal(rig.fetched, FRAME_KINDS);
    assert_int_equal(rig.wire.n, segments);
    for (unsigned i = 0; i < segments; i++)
        assert_true(frame_sums_right(rig.wire.frames[i].data, rig.wire.frames[i].length));
    rig_stop();
}

/* A checksum elsewhere than in the headers that we know needs all of the packet. */
static void test_strange_checksum(void **state)
{
    const struct dt_vnet_header v = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 700, .csum_offset = 2};

    rig_start("choosy | wire");
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "192.0.2.1", "192.0.2.2");
    frame_udp(&f, 5, 6);
    frame_pattern(&f, 1000);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    assert_int_equal(pending.first->needs, 0);
    assert_memory_equal(pending.first->data, f.bytes, 700);
    rig_stop();
}

/* Only where those before it leave packets so, and it wants it. */
static void test_where(void **state)
{
    static const struct {
        const char *chain;
        bool peeks;
    } cases[] = {
        {"antispoof mac=52:54:00:00:00:01 ip4=192.0.2.1 | choosy | wire", true},
        {"rate tx-packets=1M | choosy | wire", true},
        {"announce mac=52:54:00:00:00:01 ip4=192.0.2.1 at-start=off | choosy | wire", false},
        {"choosy-whole | wire", false},
        {"antispoof mac=52:54:00:00:00:01 ip4=192.0.2.1 | wire", false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        rig_start(cases[i].chain);
        assert_int_equal(net_peeks(rig.lane), cases[i].peeks);
        if (cases[i].peeks) {
            dt_peek(choosy_ctx, false);
            assert_false(net_peeks(rig.lane));
        }
        rig_stop();
    }
}

/* The flood's packets are not even copied, but the few that go on. */
static void test_symmetry(void **state)
{
    test_clock = DT_S(1000);
    rig_start("symmetry | wire");
    for (unsigned i = 0; i < 300; i++)
        send_udp(9, 1400);
    assert_true(net_peeks(rig.lane));
    assert_int_equal(rig.wire.n, 7);
    assert_int_equal(rig.fetched, 0);
    assert_int_equal(rig_counter("symmetry", "delayed"), 64);
    for (unsigned i = 0; i < 20; i++) {
        test_clock += DT_MS(1);
        rig_turn();
    }
    assert_true(rig.fetched > 0);
    assert_int_equal(rig.wire.n, 8 + rig.fetched); /* the first that waits came whole */
    expect_on_wire(rig.wire.n - 1, 9, 1400);
    rig_stop();
    test_clock = 0;
}

static int setup(void **state)
{
    struct dt_error err;

    return registry_add_net(&choosy[0], &err) ?: registry_add_net(&choosy[1], &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_then_the_rest),
        cmocka_unit_test(test_what_is_not_plain_comes_whole),
        cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_strange_checksum),
        cmocka_unit_test(test_where),
        cmocka_unit_test(test_symmetry),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
