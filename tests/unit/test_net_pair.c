/* SPDX-License-Identifier: MIT */
/* test_net_pair.c - two cards joined by `pair`, with both guests in the test's hands. */
#include "tests/unit/net_rig.h"

#include "net/net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define KEPT 5000u

enum { A, B, OTHER, CARDS };

/** struct card - @kept: packets that its guest has, oldest first; @keeps: until let_go(). */
static struct card {
    struct device *dev;
    struct lane *lane;
    struct dt_packet *kept[KEPT];
    unsigned nkept;
    bool keeps;
    unsigned arrived, sent;
    struct rig_frame last;
} cards[CARDS];
static struct loop *loop;
static struct dt_error error;
static struct frame frame;

/* ---- The guests ---- */

static void keep(struct card *card, struct dt_packet *p)
{
    free(card->last.data);
    card->last = (struct rig_frame){.length = p->length, .needs = p->needs, .segment = p->segment};
    card->last.data = malloc(p->length);
    memcpy(card->last.data, p->data, p->length);
    card->arrived++;
    card->kept[card->nkept++] = p;
}

static void let_go(struct card *card)
{
    while (card->nkept > 0)
        net_packet_free(card->lane, packet_of(card->kept[--card->nkept]));
}

static void guest_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    struct card *card = lane_front(lane);

    for (unsigned i = 0; i < n; i++)
        keep(card, packets[i]);
    if (!card->keeps)
        let_go(card);
}

static void guest_sent(struct lane *lane, void *const *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((struct card *)slots[i])->sent++;
}

static void guest_wake(struct lane *lane)
{
}

static const struct front_ops ops = {
    .receive = guest_receive, .sent = guest_sent, .wake = guest_wake};

/* ---- Layers ---- */

/* Answers each packet at once. */
static void echo_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        dt_transmit_one(c, dt_packet_copy(c, packets[i]));
    dt_receive(c, packets, n);
}

/* No packet comes while one goes. */
static bool within_transmit;

static void witness_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    within_transmit = true;
    dt_transmit(c, packets, n);
    within_transmit = false;
}

static void witness_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    assert_false(within_transmit);
    dt_receive(c, packets, n);
}

static const struct dt_net_ext layers[] = {
    {DT_NET_EXT_HEADER, .name = "echo", .summary = "answers, for tests", .receive = echo_receive},
    {DT_NET_EXT_HEADER, .name = "witness", .summary = "is never called while it calls, for tests",
     .takes = DT_OFFLOAD_ALL, .transmit = witness_transmit, .receive = witness_receive},
};

/* ---- Life ---- */

static int try_open(struct card *card, const char *name, const char *chain, struct loop *on)
{
    struct chain_spec spec;
    int ret;

    assert_int_equal(chain_parse(&spec, chain, &error), 0);
    ret = device_new(
        &card->dev,
        &(struct device_config){
            .kind = DEVICE_NET, .name = name, .chain = &spec, .loops = &on, .threads = 1},
        &error);
    chain_spec_free(&spec);
    return ret;
}

static void start(struct card *card, const char *name, const char *chain)
{
    if (try_open(card, name, chain, loop) < 0 || device_start(card->dev, &ops, NULL, &error) < 0)
        fail_msg("%s", error.text);
    card->lane = device_lane(card->dev, 0);
    lane_set_front(card->lane, card);
    net_set_room(card->lane, true, 256);
    net_guest_takes(card->lane, DT_OFFLOAD_ALL);
}

static void quiet(void *arg, const char *late)
{
    assert_null(late);
    *(bool *)arg = true;
}

static void nothing(struct loop_message *message)
{
}

/* As rig_turn(). */
static void turn(void)
{
    static struct loop_message message = {.run = nothing};

    loop_post(loop, &message);
    loop_turn(loop, false);
    loop_turn(loop, false);
}

static void rest(struct card *card)
{
    bool done = false;

    device_quiesce(card->dev, dt_clock_ns() + DT_S(5), quiet, &done);
    while (!done)
        turn();
}

static void stop(struct card *card)
{
    if (!card->dev)
        return;
    rest(card);
    let_go(card);
    device_stop(card->dev);
    device_free(card->dev);
    free(card->last.data);
    *card = (struct card){0};
}

static int set_up(void **state)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    static bool registered;

    net_register_builtin();
    for (unsigned i = 0; !registered && i < ARRAY_SIZE(layers); i++)
        assert_int_equal(registry_add_net(&layers[i], &error), 0);
    registered = true;
    test_clock = DT_S(1);
    assert_int_equal(loop_new(&loop, &config, &error), 0);
    start(&cards[A], "a", "witness | pair name=x");
    start(&cards[B], "b", "witness | pair name=x");
    return 0;
}

static int tear_down(void **state)
{
    for (unsigned i = 0; i < CARDS; i++)
        stop(&cards[i]);
    loop_free(loop);
    return 0;
}

/* ---- Packets ---- */

/* The frame, from the guest; the packet's data, to be looked for at the other end. */
static const uint8_t *send(struct card *card, const struct dt_vnet_header *v)
{
    struct packet *p;
    struct dt_packet *packet;

    if (net_admit(card->lane, 1) == 0)
        return NULL;
    p = net_packet_new(card->lane, frame.n);
    packet = &p->pub;
    memcpy(packet->data, frame.bytes, frame.n);
    packet->queue = 3;
    if (v)
        assert_int_equal(dt_vnet_read(packet, v, DT_OFFLOAD_ALL), 0);
    p->slot = card;
    net_transmit(card->lane, &packet, 1);
    return packet->data;
}

static void simple_frame(uint32_t payload)
{
    frame_ether(&frame, 0x0800);
    frame_ipv4(&frame, 17, "192.0.2.7", "198.51.100.1");
    frame_udp(&frame, 1, 2);
    frame_pattern(&frame, payload);
    frame_end(&frame);
}

static uint64_t counter(struct card *card, const char *name)
{
    json_t *stats = device_stats(card->dev), *all = json_object_get(stats, "layers");
    json_t *back = json_array_get(all, json_array_size(all) - 1);
    json_t *value = json_object_get(json_object_get(back, "counters"), name);
    uint64_t n = (uint64_t)json_integer_value(value);

    assert_non_null(value);
    json_decref(stats);
    return n;
}

/* ---- Tests ---- */

static void test_both_ways(void **state)
{
    for (unsigned from = A; from <= B; from++) {
        struct card *sender = &cards[from], *receiver = &cards[1 - from];
        const uint8_t *data;

        simple_frame(100 + from);
        receiver->keeps = true;
        data = send(sender, NULL);
        turn();
        assert_int_equal(receiver->arrived, 1);
        assert_int_equal(sender->arrived, from); /* its own does not come back */
        assert_int_equal(receiver->last.length, frame.n);
        assert_memory_equal(receiver->last.data, frame.bytes, frame.n);
        assert_ptr_equal(receiver->kept[0]->data, data); /* no copy was made */
        assert_int_equal(receiver->kept[0]->queue, 0);
        assert_int_equal(sender->sent, 1);
        assert_int_equal(sender->lane->net->small.used, 0);
        assert_int_equal(receiver->lane->net->small.used, 1);
        let_go(receiver);
        assert_int_equal(receiver->lane->net->small.used, 0);
        receiver->keeps = false;
    }
}

static void test_order(void **state)
{
    cards[B].keeps = true;
    for (unsigned i = 0; i < 100; i++) {
        simple_frame(i + 1);
        assert_non_null(send(&cards[A], NULL));
    }
    turn();
    assert_int_equal(cards[B].nkept, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(cards[B].kept[i]->length, 42 + i + 1);
}

static void test_offloads(void **state)
{
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&frame, kind, 80);
        bool super = kind & FRAME_SUPER;
        unsigned before = cards[B].arrived;

        frame_pattern(&frame, 4000);
        frame_end(&frame);
        net_guest_takes(cards[B].lane, DT_OFFLOAD_ALL);
        send(&cards[A], &v);
        turn();
        assert_int_equal(cards[B].arrived, before + 1);
        assert_int_equal(cards[B].last.length, frame.n);
        assert_int_equal(!!(cards[B].last.needs & DT_OFFLOAD_SUPER), super);
        assert_true(!super || cards[B].last.segment == 1000);
        net_guest_takes(cards[B].lane, 0);
        send(&cards[A], &v);
        turn();
        assert_int_equal(cards[B].arrived, before + 1 + (super ? 4 + frame_fragments(kind) : 1));
        assert_int_equal(cards[B].last.needs, 0);
        assert_true(frame_sums_right(cards[B].last.data, cards[B].last.length));
    }
    for (unsigned i = A; i <= B; i++) {
        assert_int_equal(cards[i].lane->net->small.used, 0);
        assert_int_equal(cards[i].lane->net->big.used, 0);
    }
}

static void test_nobody_there(void **state)
{
    simple_frame(10);
    net_set_room(cards[B].lane, false, 0); /* its guest went away */
    send(&cards[A], NULL);
    turn();
    assert_int_equal(counter(&cards[A], "no-end"), 0); /* it may be late */
    net_set_room(cards[B].lane, true, 256);
    test_clock += DT_MS(5);
    turn();
    assert_int_equal(cards[B].arrived, 1);
    net_set_room(cards[B].lane, false, 0);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(counter(&cards[A], "no-end"), 1); /* it was there */
    stop(&cards[B]);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(counter(&cards[A], "no-end"), 2);
    assert_int_equal(cards[A].sent, 3);
    assert_int_equal(cards[A].lane->net->small.used, 0);
    start(&cards[B], "b", "pair name=x");
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[B].arrived, 1);
}

static void test_never_there(void **state)
{
    stop(&cards[B]);
    stop(&cards[A]);
    start(&cards[A], "a", "pair name=x");
    simple_frame(10);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[A].sent, 0);
    test_clock += DT_S(1);
    turn();
    assert_int_equal(counter(&cards[A], "no-end"), 1);
    assert_int_equal(cards[A].sent, 1);
}

static void test_memory_of_the_receiver(void **state)
{
    unsigned n = 0;

    simple_frame(10);
    cards[B].keeps = true;
    for (; counter(&cards[A], "no-memory") == 0; n++) {
        assert_non_null(send(&cards[A], NULL)); /* whatever the other card does */
        turn();
    }
    assert_int_equal(cards[B].nkept, n - 1);
    assert_int_equal(cards[B].lane->net->small.used, cards[B].lane->net->small.count);
    assert_int_equal(cards[A].lane->net->small.used, 0);
    let_go(&cards[B]);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[B].nkept, 1);
}

static void test_memory_outlives_its_card(void **state)
{
    cards[B].keeps = true;
    simple_frame(500);
    send(&cards[A], NULL);
    frame_pattern(&frame, 5000);
    send(&cards[A], NULL);
    turn();
    stop(&cards[A]);
    assert_int_equal(cards[B].nkept, 2);
    assert_memory_equal(cards[B].kept[0]->data, frame.bytes + 0, 14);
    assert_memory_equal(cards[B].kept[1]->data, frame.bytes, frame.n);
    memset(cards[B].kept[1]->data, 0, frame.n);
}

static void test_other_at_rest(void **state)
{
    cards[B].dev->quiesce_closes = true; /* as device_hold(), which needs another thread */
    rest(&cards[B]);
    simple_frame(10);
    send(&cards[A], NULL);
    turn();
    test_clock += DT_MS(5);
    turn();
    assert_int_equal(cards[B].arrived, 0);
    assert_int_equal(cards[A].sent, 0); /* still in the guest's ring */
    cards[B].lane->closed = false;
    test_clock += DT_MS(5);
    turn();
    assert_int_equal(cards[B].arrived, 1);
    assert_int_equal(cards[A].sent, 1);
    cards[B].lane->closed = true;
    send(&cards[A], NULL);
    turn();
    rest(&cards[A]); /* it does not wait for the other */
    assert_int_equal(counter(&cards[A], "at-rest"), 1);
    assert_int_equal(cards[A].sent, 2);
    cards[B].lane->closed = false;
}

static void test_answers(void **state)
{
    stop(&cards[B]);
    start(&cards[B], "b", "echo | pair name=x");
    simple_frame(10);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[A].arrived, 1);
    assert_int_equal(cards[B].arrived, 1);
}

static void test_third_end(void **state)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct loop *elsewhere;

    assert_int_equal(try_open(&cards[OTHER], "c", "pair name=x", loop), -EBUSY);
    assert_non_null(strstr(error.text, "the cards a and b"));
    cards[OTHER].dev = NULL;
    stop(&cards[B]);
    assert_int_equal(loop_new(&elsewhere, &config, &error), 0);
    assert_int_equal(try_open(&cards[OTHER], "c", "pair name=x", elsewhere), -EINVAL);
    assert_non_null(strstr(error.text, "the card a, is served by another thread"));
    loop_free(elsewhere);
    cards[OTHER].dev = NULL;
    start(&cards[OTHER], "c", "pair name=x");
    simple_frame(10);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[OTHER].arrived, 1);
}

/* A change of a chain: the new end runs before the old one is stopped, or is stopped again because something else failed. */
static void test_successor(void **state)
{
    simple_frame(10);
    start(&cards[OTHER], "b", "pair name=x mtu=9000");
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[OTHER].arrived, 1);
    stop(&cards[OTHER]);
    send(&cards[A], NULL);
    turn();
    assert_int_equal(cards[B].arrived, 1);
    start(&cards[OTHER], "b", "pair name=x mtu=9000");
    stop(&cards[B]);
    send(&cards[A], NULL);
    send(&cards[OTHER], NULL);
    turn();
    assert_int_equal(cards[OTHER].arrived, 1);
    assert_int_equal(cards[A].arrived, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_both_ways),
        TEST(test_order),
        TEST(test_offloads),
        TEST(test_nobody_there),
        TEST(test_never_there),
        TEST(test_other_at_rest),
        TEST(test_memory_of_the_receiver),
        TEST(test_answers),
        TEST(test_memory_outlives_its_card),
        TEST(test_third_end),
        TEST(test_successor),
    };

    return cmocka_run_group_tests_name("net_pair", tests, NULL, NULL);
}
