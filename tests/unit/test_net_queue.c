/* SPDX-License-Identifier: MIT */
/* test_net_queue.c - `queue`: programs that judge, that die, and that are silent. */
#include "queue_rig.h"

#include <time.h>

/* ---- Verdicts ---- */

static void test_verdicts(void **state)
{
    struct dt_queue_packet p[64];
    struct dt_queue *q;
    unsigned n;

    start("");
    q = attach();
    assert_non_null(strstr(dt_queue_description(q), "\"layer\":\"queue\""));
    for (unsigned i = 0; i < 40; i++)
        assert_true(send_numbered(i));
    for (unsigned i = 0; i < 20; i++)
        arrive_numbered(100 + i);
    assert_int_equal(rig.wire.n + rig.guest.n, 0);
    n = read_some(q, p, 32);
    assert_int_equal(n, 32);
    n += read_some(q, p + 32, 32);
    assert_int_equal(n, 60);
    for (unsigned i = 0; i < n; i++) {
        struct dt_queue_packet again;

        assert_int_equal(p[i].transmit, i < 40);
        assert_int_equal(load_be16(p[i].data + 14), i < 40 ? i : 60 + i);
        assert_int_equal(p[i].length, 100);
        assert_int_equal(p[i].captured, 100);
        assert_true(p[i].when <= dt_clock_ns());
        assert_int_equal(dt_queue_get_packet(q, p[i].id, &again), 0);
        assert_ptr_equal(again.data, p[i].data);
        decide(q, p[i].id, i % 4 ? DT_QUEUE_ACCEPT : DT_QUEUE_DROP);
        assert_int_equal(dt_queue_set_verdict(q, p[i].id, DT_QUEUE_ACCEPT, NULL, 0), -ENOENT);
        assert_int_equal(dt_queue_get_packet(q, p[i].id, &again), -ENOENT);
    }
    heard(q);
    assert_int_equal(rig.wire.n, 30);
    assert_int_equal(rig.guest.n, 15);
    assert_int_equal(rig.sent, 40);
    assert_int_equal(number_of(&rig.wire, 0), 1);
    assert_int_equal(number_of(&rig.guest, 14), 119);
    assert_int_equal(counter("sent"), 60);
    assert_int_equal(counter("denied"), 15);
    assert_int_equal(rig_ops("queue", "transmit", "errors"), 10);
    assert_int_equal(rig_ops("queue", "receive", "errors"), 5);
    leave(q);
    rig_stop();
}

/* In whatever order; an id is given again once it has its verdict, and not before. */
static void test_order(void **state)
{
    struct dt_queue_packet p[3];
    struct dt_queue *q;
    uint32_t kept;

    start("direction=tx length=3");
    q = attach();
    arrive_numbered(7);
    assert_int_equal(rig.guest.n, 1); /* not asked about */
    for (unsigned i = 0; i < 3; i++)
        assert_true(send_numbered(i));
    assert_int_equal(read_some(q, p, 3), 3);
    kept = p[0].id;
    decide(q, p[2].id, DT_QUEUE_ACCEPT);
    decide(q, p[1].id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_int_equal(number_of(&rig.wire, 0), 2);
    assert_int_equal(number_of(&rig.wire, 1), 1);
    for (unsigned i = 0; i < 100; i++) {
        assert_true(send_numbered(50 + i));
        assert_int_equal(read_some(q, p, 3), 1);
        assert_int_not_equal(p[0].id, kept);
        decide(q, p[0].id, DT_QUEUE_ACCEPT);
        heard(q);
    }
    decide(q, kept, DT_QUEUE_ACCEPT);
    heard(q);
    assert_int_equal(number_of(&rig.wire, 102), 0);
    leave(q);
    rig_stop();
}

static void test_changed(void **state)
{
    static uint8_t longer[4000];
    struct dt_queue_packet p[3];
    struct dt_queue *q;

    memset(longer, 0x5a, sizeof(longer));
    start("");
    q = attach();
    for (unsigned i = 0; i < 3; i++)
        assert_true(send_numbered(i));
    assert_int_equal(read_some(q, p, 3), 3);
    assert_int_equal(p[0].room, 4096);
    assert_int_equal(dt_queue_set_verdict(q, p[0].id, DT_QUEUE_ACCEPT, longer, 4097), -EMSGSIZE);
    assert_int_equal(dt_queue_set_verdict(q, p[0].id, DT_QUEUE_ACCEPT, longer, 13), -EMSGSIZE);
    assert_int_equal(dt_queue_set_verdict(q, p[0].id, DT_QUEUE_ACCEPT, longer, 60), 0);
    assert_int_equal(dt_queue_set_verdict(q, p[1].id, DT_QUEUE_ACCEPT, longer, 4000), 0);
    assert_int_equal(dt_queue_set_verdict(q, p[2].id, DT_QUEUE_DROP, longer, 60), 0);
    heard(q);
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(rig.wire.frames[0].length, 60);
    assert_int_equal(rig.wire.frames[1].length, 4000); /* in another, larger packet */
    assert_memory_equal(rig.wire.frames[1].data, longer, 4000);
    assert_int_equal(rig.sent, 3);
    assert_int_equal(counter("changed"), 2);
    leave(q);
    rig_stop();
}

static void test_snap(void **state)
{
    struct dt_queue_packet p;
    uint8_t head[64] = {1, 2, 3};
    struct dt_queue *q;

    start("snap=64");
    q = attach();
    make_frame(1, 1000);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
    assert_int_equal(read_some(q, &p, 1), 1);
    assert_int_equal(p.length, 1000);
    assert_int_equal(p.captured, 64);
    assert_int_equal(p.room, 64);
    assert_int_equal(dt_queue_set_verdict(q, p.id, DT_QUEUE_ACCEPT, head, 60), -EMSGSIZE);
    assert_int_equal(dt_queue_set_verdict(q, p.id, DT_QUEUE_ACCEPT, head, 64), 0);
    heard(q);
    assert_int_equal(rig.wire.frames[0].length, 1000);
    assert_memory_equal(rig.wire.frames[0].data, head, 64);
    assert_memory_equal(rig.wire.frames[0].data + 64, f.bytes + 64, 936);
    leave(q);
    rig_stop();
}

/* ---- Bounds ---- */

static void test_bounds(void **state)
{
    struct dt_queue_packet p[16];
    struct dt_queue *q;

    start("length=4");
    q = attach();
    for (unsigned i = 0; i < 4; i++)
        assert_true(send_numbered(i));
    assert_false(send_numbered(4)); /* stays in the guest's ring */
    for (unsigned i = 0; i < 10; i++)
        arrive_numbered(i);
    assert_int_equal(counter("rx-full"), 2); /* four with the program, four before it */
    assert_int_equal(read_some(q, p, 16), 8);
    rig.woken = 0;
    decide(q, p[0].id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_true(rig.woken > 0);
    assert_true(send_numbered(4));
    assert_false(send_numbered(5));
    decide(q, p[4].id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_int_equal(read_some(q, p + 8, 8), 2); /* one of each direction took their places */
    for (unsigned i = 0; i < 10; i++)
        if (i != 0 && i != 4)
            decide(q, p[i].id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_int_equal(read_some(q, p, 16), 3);
    for (unsigned i = 0; i < 3; i++)
        decide(q, p[i].id, DT_QUEUE_ACCEPT);
    heard(q);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(number_of(&rig.guest, i), i);
    leave(q);
    rig_stop();
}

/* ---- Without a program ---- */

/* As `devtap do CARD queue status` tells them. */
static void expect_waiting(unsigned tx, unsigned rx, unsigned late)
{
    json_t *reply = NULL;
    json_int_t told[3];

    assert_int_equal(device_do(rig.dev, "queue", "status", 0, NULL, &reply, &rig.err), 0);
    assert_int_equal(json_unpack(reply, "{sI sI sI}", "waiting-tx", &told[0], "waiting-rx",
                                 &told[1], "late", &told[2]),
                     0);
    json_decref(reply);
    assert_int_equal(told[0], tx);
    assert_int_equal(told[1], rx);
    assert_int_equal(told[2], late);
}

static void test_hold(void **state)
{
    struct dt_queue_packet p[8];
    struct dt_queue *q;

    start("length=4");
    assert_false(send_numbered(0));
    for (unsigned i = 0; i < 6; i++)
        arrive_numbered(i);
    assert_int_equal(counter("rx-full"), 2);
    q = attach();
    assert_true(rig.woken > 0);
    assert_true(send_numbered(10));
    assert_int_equal(read_some(q, p, 8), 5);
    expect_waiting(1, 4, 0);
    leave(q); /* it dies with five */
    expect_waiting(1, 4, 0);
    assert_non_null(strstr(last_event, "program-lost: process"));
    assert_non_null(strstr(last_event, "it had 5 packets; packets wait for the next one"));
    assert_false(send_numbered(11));
    q = attach();
    assert_int_equal(read_some(q, p, 8), 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(load_be16(p[i].data + 14),
                         p[i].transmit ? 10 : i - (i > 0 && p[0].transmit));
    decide(q, p[0].id, DT_QUEUE_ACCEPT);
    heard(q);
    leave(q); /* and the next one: nobody gets the other four again */
    assert_int_equal(counter("lost"), 4);
    expect_waiting(0, 0, 0);
    assert_int_equal(rig.sent, 1);
    assert_int_equal(counter("programs"), 2);
    q = attach();
    assert_int_equal(read_some(q, p, 8), 0);
    leave(q);
    rig_stop();
}

static void test_accept_and_drop(void **state)
{
    struct dt_error err;
    struct dt_queue_packet p[4];
    struct dt_queue *q;

    start("on-death=accept");
    assert_true(send_numbered(0));
    arrive_numbered(0);
    assert_int_equal(rig.wire.n + rig.guest.n, 2);
    assert_int_equal(counter("unjudged"), 2);
    q = attach();
    assert_true(send_numbered(1));
    assert_int_equal(read_some(q, p, 4), 1);
    assert_int_equal(rig.wire.n, 1);
    leave(q);
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(counter("unjudged"), 3);
    assert_int_equal(device_set(rig.dev, "queue", "on-death", "drop", &err), 0);
    assert_true(send_numbered(2));
    arrive_numbered(2);
    assert_int_equal(counter("lost"), 2);
    assert_int_equal(device_set(rig.dev, "queue", "on-death", "hold", &err), 0);
    arrive_numbered(3);
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(device_set(rig.dev, "queue", "on-death", "accept", &err), 0);
    assert_int_equal(rig.guest.n, 2);
    rig_stop();
}

static void pass_time(uint64_t ns)
{
    test_clock += ns;
    rig_turn();
    rig_turn();
}

static void test_timeout(void **state)
{
    struct dt_queue_packet p[4];
    struct dt_queue *q;

    test_clock = DT_S(1000);
    start("length=2 timeout=100ms");
    q = attach();
    assert_true(send_numbered(0));
    pass_time(DT_MS(60));
    assert_true(send_numbered(1));
    assert_int_equal(read_some(q, p, 4), 2);
    pass_time(DT_MS(60));
    assert_int_equal(counter("timeouts"), 1);
    assert_int_equal(counter("lost"), 1);
    assert_int_equal(rig.sent, 1);
    assert_false(send_numbered(2)); /* the program still has its id */
    decide(q, p[0].id, DT_QUEUE_ACCEPT);
    decide(q, p[1].id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_int_equal(rig.wire.n, 1); /* too late for the first */
    assert_int_equal(number_of(&rig.wire, 0), 1);
    assert_true(send_numbered(2));
    assert_true(send_numbered(3));
    pass_time(DT_MS(200));
    assert_int_equal(counter("timeouts"), 3);
    assert_non_null(strstr(last_event, "it hangs"));
    leave(q);
    rig_stop();
    test_clock = 0;
}

static void test_second_waits(void **state)
{
    struct opening o;
    struct dt_queue *q;

    start("");
    q = attach();
    assert_int_equal(open_within(&o, 50), -ETIMEDOUT);
    assert_non_null(strstr(o.err.text, "another program has it"));
    leave(q);
    q = attach();
    leave(q);
    rig_stop();
    assert_int_equal(dt_queue_open(&q, path, 0, &o.err), -ECONNREFUSED);
    assert_true(try_chain("length=0", "wire") < 0);
    assert_true(try_chain("on-death=maybe", "wire") < 0);
    assert_null(strchr(rig.err.text, '\n'));
}

/* ---- Offloads ---- */

static const struct dt_vnet_header TSO = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                          .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                          .gso_size = 1000,
                                          .hdr_len = 54,
                                          .csum_start = 34,
                                          .csum_offset = 16};

static void make_super(void)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1, 2, 3, 0x10);
    frame_pattern(&f, 2500);
    frame_end(&f);
}

static void test_cut(void **state)
{
    struct dt_queue_packet p[8];
    struct dt_queue *q;

    start("");
    q = attach();
    make_super();
    assert_true(rig_send(f.bytes, f.n, &TSO, DT_OFFLOAD_ALL));
    assert_int_equal(read_some(q, p, 8), 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(p[i].needs, 0);
        assert_true(frame_sums_right(p[i].data, p[i].length));
        assert_int_equal(rig.sent, 0);
        decide(q, p[i].id, DT_QUEUE_ACCEPT);
    }
    heard(q);
    assert_int_equal(rig.sent, 1);
    leave(q);
    rig_stop();
}

static void test_super(void **state)
{
    struct dt_queue_packet p[3];
    uint8_t copy[4096];
    struct dt_queue *q;

    start("super=on");
    q = attach();
    make_super();
    for (unsigned i = 0; i < 3; i++)
        assert_true(rig_send(f.bytes, f.n, &TSO, DT_OFFLOAD_ALL));
    assert_int_equal(read_some(q, p, 3), 3);
    assert_int_equal(p[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    assert_int_equal(p[0].segment, 1000);
    decide(q, p[0].id, DT_QUEUE_ACCEPT);
    memcpy(copy, p[1].data, p[1].length);
    copy[53 + 100] ^= 1;
    assert_int_equal(dt_queue_set_verdict(q, p[1].id, DT_QUEUE_ACCEPT, copy, p[1].length), 0);
    copy[23] = 17; /* no TCP any more: nobody can cut it */
    assert_int_equal(dt_queue_set_verdict(q, p[2].id, DT_QUEUE_ACCEPT, copy, p[1].length), 0);
    heard(q);
    assert_int_equal(rig.wire.n, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(rig.wire.frames[i].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
        assert_int_equal(rig.wire.frames[i].segment, 1000);
    }
    assert_int_equal(counter("unfit"), 1);
    assert_int_equal(rig.sent, 3);
    leave(q);
    rig_stop();
}

/* ---- Rest ---- */

static void test_rest(void **state)
{
    struct dt_queue_packet p[2];
    struct dt_queue *q;

    start("on-death=accept");
    q = attach();
    assert_true(send_numbered(0));
    assert_int_equal(read_some(q, p, 2), 1);
    rig_stop(); /* with a program that says nothing */
    assert_int_equal(dt_queue_read(q, p, 2, 0), -EPIPE);
    dt_queue_close(q);
    start("");
    for (unsigned i = 0; i < 3; i++)
        arrive_numbered(i);
    rig_stop(); /* without one */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),        cmocka_unit_test(test_order),
        cmocka_unit_test(test_changed),         cmocka_unit_test(test_snap),
        cmocka_unit_test(test_bounds),          cmocka_unit_test(test_hold),
        cmocka_unit_test(test_accept_and_drop), cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_second_waits),    cmocka_unit_test(test_cut),
        cmocka_unit_test(test_super),           cmocka_unit_test(test_rest),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
