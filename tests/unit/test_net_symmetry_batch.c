/* SPDX-License-Identifier: MIT */
/* test_net_symmetry_batch.c - `symmetry` judges batches by what it found out for whole trains of packets: that has to be the same as the
 * definition says of each one alone. */
#include "net/symmetry/internal.h"
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define GUEST  "192.0.2.7"
#define FLOWS  4u
#define ROUNDS 4000u

/* Two hosts, two flows to each, and all of the card's. */
enum { HOSTS = 2, ENTITIES = FLOWS + HOSTS + 1 };
static const char *const hosts[HOSTS] = {"198.51.100.1", "198.51.100.2"};

static struct frame f;
static uint32_t dice_state;

static uint32_t dice(uint32_t sides)
{
    dice_state = dice_state * 1664525 + 1013904223;
    return (dice_state >> 16) % sides;
}

static void make(bool out, unsigned flow)
{
    uint16_t port = (uint16_t)(53 + flow);

    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, out ? GUEST : hosts[flow % HOSTS], out ? hosts[flow % HOSTS] : GUEST);
    frame_udp(&f, out ? 1000 : port, out ? port : 1000);
    frame_pattern(&f, 100);
    frame_end(&f);
}

static void move(bool out, unsigned flow)
{
    make(out, flow);
    if (out)
        assert_true(rig_send(f.bytes, f.n, NULL, 0));
    else
        rig_arrive(f.bytes, f.n, NULL);
}

/* ---- The definition ---- */

/* Packets of the last eight eighths of a second, by the eighth. */
static struct model {
    uint64_t tick[WINDOW_PARTS];
    uint32_t sent[WINDOW_PARTS], received[WINDOW_PARTS];
} models[ENTITIES];

static uint32_t *part_of(unsigned entity, bool out)
{
    struct model *m = &models[entity];
    uint64_t tick = test_clock / WINDOW_TICK;
    unsigned i = tick % WINDOW_PARTS;

    if (m->tick[i] != tick) {
        m->tick[i] = tick;
        m->sent[i] = m->received[i] = 0;
    }
    return out ? &m->sent[i] : &m->received[i];
}

static bool symmetric(unsigned entity, uint64_t ratio)
{
    const struct model *m = &models[entity];
    uint64_t tick = test_clock / WINDOW_TICK, sent = 0, received = 0;

    for (unsigned i = 0; i < WINDOW_PARTS; i++) {
        if (tick - m->tick[i] >= WINDOW_PARTS)
            continue;
        sent += m->sent[i];
        received += m->received[i];
    }
    return (sent + 1) << 16 <= (received + 1) * ratio;
}

/* Does it pass at once, or arrive? Then it counts. */
static bool model_move(bool out, unsigned flow, uint64_t ratio)
{
    const unsigned levels[LEVELS] = {flow, FLOWS + flow % HOSTS, FLOWS + HOSTS};

    for (unsigned l = 0; out && l < LEVELS; l++)
        if (!symmetric(levels[l], ratio))
            return false;
    for (unsigned l = 0; l < LEVELS; l++)
        ++*part_of(levels[l], out);
    return true;
}

/* ---- Tests ---- */

static void begin(const char *chain)
{
    memset(models, 0, sizeof(models));
    test_clock = (test_clock / DT_S(1) + 5) * DT_S(1);
    rig_start(chain);
    rig_turn();
}

/* Nothing waits, and all that was sent is long ago. */
static void come_to_rest(void)
{
    for (unsigned i = 0; i < 6000; i++) {
        test_clock += DT_MS(1);
        rig_turn();
    }
    assert_int_equal(rig.sent, rig.wire.n);
    rig_clear();
    rig.sent = 0;
}

/* Bursts of trains both ways: the first packet that has to wait is the one that the definition says. */
static void test_definition(void **state)
{
    const uint64_t ratio = 484249; /* e^2, in 65536ths, as the layer has it */
    unsigned delayed = 0, bursts = 0;

    dice_state = 1;
    begin("symmetry excess=hold | wire");
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned n = 1 + dice(NET_BURST), flow = dice(FLOWS), passes = 0, before = rig.wire.n;
        bool out = dice(8), waits = false;

        rig_gather();
        for (unsigned i = 0; i < n; i++) {
            if (dice(8) == 0)
                flow = dice(FLOWS);
            if (!waits && model_move(out, flow, ratio))
                passes++;
            else
                waits = true;
            move(out, flow);
            if (waits)
                break; /* what is behind it would have to be modelled, too */
        }
        rig_let_go();
        bursts++;
        assert_int_equal(rig.wire.n - before, out ? passes : 0);
        if (waits) {
            delayed++;
            come_to_rest();
        } else {
            test_clock += DT_MS(dice(40));
            rig_turn();
        }
        if (rig.wire.n + rig.guest.n > RIG_FRAMES - 2 * NET_BURST) {
            rig_clear();
            rig.sent = 0;
        }
    }
    assert_in_range(delayed, bursts / 10, bursts - bursts / 10);
    rig_stop();
}

/* Whose penalty is due at which time does not depend on whether packets came one by one. */
static void test_batch_or_one_by_one(void **state)
{
    static uint64_t at[2][400];
    unsigned n[2];

    for (unsigned batch = 0; batch < 2; batch++) {
        uint64_t began;

        dice_state = 7;
        begin("symmetry | wire");
        began = test_clock;
        for (unsigned round = 0; round < 40; round++) {
            unsigned flow = dice(FLOWS);
            bool out = dice(10);

            if (batch)
                rig_gather();
            for (unsigned i = 1 + dice(9); i > 0; i--)
                move(out, dice(3) ? flow : (flow = dice(FLOWS)));
            if (batch)
                rig_let_go();
            for (unsigned i = dice(60); i > 0; i--) {
                test_clock += DT_MS(1);
                rig_turn();
            }
        }
        for (n[batch] = 0; n[batch] < MIN(rig.wire.n, 400u); n[batch]++)
            at[batch][n[batch]] = rig.wire.frames[n[batch]].at - began;
        assert_true(rig_counter("symmetry", "delayed") > 20);
        rig_stop();
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(at[0], at[1], n[0] * sizeof(at[0][0]));
}

/* Another threshold counts from the next packet on, whatever was found out by the one before. */
static void test_lowered(void **state)
{
    struct dt_error err;

    begin("symmetry threshold=5 | wire");
    for (unsigned i = 0; i < 20; i++) {
        move(true, 0);
        move(false, 1); /* so the card is symmetric */
    }
    assert_int_equal(rig.wire.n, 20);
    assert_int_equal(device_set(rig.dev, "symmetry", "threshold", "2", &err), 0);
    rig_turn();
    move(true, 0);
    assert_int_equal(rig.wire.n, 20);
    come_to_rest();
    rig_stop();
}

/* The same ends, but exempt from now on; and no more. */
static void test_exempt_meanwhile(void **state)
{
    struct dt_error err;

    begin("symmetry | wire");
    for (unsigned i = 0; i < 7; i++)
        move(true, 0);
    assert_int_equal(device_set(rig.dev, "symmetry", "exempt", hosts[0], &err), 0);
    rig_gather();
    for (unsigned i = 0; i < 20; i++)
        move(true, 0);
    rig_let_go();
    assert_int_equal(rig.wire.n, 27);
    assert_int_equal(rig_counter("symmetry", "exempt"), 20);
    assert_int_equal(device_set(rig.dev, "symmetry", "exempt", "", &err), 0);
    move(true, 0);
    assert_int_equal(rig.wire.n, 27);
    come_to_rest();
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_batch_or_one_by_one),
        cmocka_unit_test(test_lowered),
        cmocka_unit_test(test_exempt_meanwhile),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
