/* SPDX-License-Identifier: MIT */
/* test_net_announce.c - `announce`: what is said, when, and how often, by a clock that the test turns. */
#include "tests/unit/net_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CHAIN "announce mac=52:54:00:00:00:01 ip4=192.0.2.7,192.0.2.8 ip6=2001:db8::7 "

static const uint8_t mac[] = {0x52, 0x54, 0, 0, 0, 1};

static void pass_time(uint64_t ns)
{
    for (unsigned i = 0; i < 100; i++) {
        test_clock += ns / 100;
        rig_turn();
    }
}

static const uint8_t *frame(unsigned i)
{
    assert_true(i < rig.wire.n);
    assert_memory_equal(rig.wire.frames[i].data + 6, mac, 6);
    assert_true(rig.wire.frames[i].length >= 60);
    return rig.wire.frames[i].data;
}

static void check_round(unsigned at)
{
    static const uint8_t all[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
                         nodes[] = {0x33, 0x33, 0, 0, 0, 1};
    const uint8_t *d = frame(at);
    struct dt_headers h;

    assert_memory_equal(d, all, 6);
    assert_int_equal(load_be16(d + 12), 0x8035);
    assert_int_equal(load_be16(d + 20), 3);
    assert_memory_equal(d + 32, mac, 6);
    for (unsigned i = 0; i < 2; i++) {
        d = frame(at + 1 + i);
        dt_parse(&h, d, rig.wire.frames[at + 1 + i].length);
        assert_true(h.flags & DT_HDR_ARP);
        assert_memory_equal(d, all, 6);
        assert_int_equal(load_be16(d + 20), 1);
        assert_memory_equal(d + 22, mac, 6);
        assert_int_equal(load_be32(d + 28), 0xc0000207 + i);
        assert_int_equal(load_be32(d + 38), 0xc0000207 + i);
    }
    d = frame(at + 3);
    dt_parse(&h, d, rig.wire.frames[at + 3].length);
    assert_memory_equal(d, nodes, 6);
    assert_int_equal(h.flags, DT_HDR_IPV6 | DT_HDR_ICMP6);
    assert_int_equal(d[21], 255);
    assert_int_equal(d[h.l4], 136);
    assert_int_equal(d[h.l4 + 4], 0x20);
    assert_memory_equal(d + h.l4 + 8, d + 22, 16);
    assert_memory_equal(d + h.l4 + 26, mac, 6);
    /* RFC 4443, 2.3, by the letter: the sum over pseudo header and message is all ones. */
    {
        uint32_t sum = 58 + 32;

        for (unsigned i = 22; i < 14 + 72; i += 2)
            sum += load_be16(d + i);
        while (sum >> 16)
            sum = (sum & 0xffff) + (sum >> 16);
        assert_int_equal(sum, 0xffff);
    }
}

static void test_start(void **state)
{
    rig_start(CHAIN "| wire");
    rig_turn();
    assert_int_equal(rig.wire.n, 4);
    check_round(0);
    pass_time(DT_MS(200));
    assert_int_equal(rig.wire.n, 4);
    pass_time(DT_MS(400));
    assert_int_equal(rig.wire.n, 12);
    check_round(8);
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 12);
    assert_int_equal(rig_counter("announce", "announced"), 12);
    rig_stop();
    rig_start(CHAIN "at-start=off | wire");
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 0);
    rig_stop();
}

/* Its own antispoof lets all of it through: the card says nothing that is not its own. */
static void test_honest(void **state)
{
    rig_start(CHAIN "| antispoof mac=52:54:00:00:00:01 ip4=192.0.2.0/24 ip6=2001:db8::7 | wire");
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 12);
    rig_stop();
}

/* The VMM's reverse ARP, as the front makes it; a stranger's is nobody's business. */
static void test_request(void **state)
{
    uint8_t rarp[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0,
                        1,    0x80, 0x35, 0,    1,    8,    0,    6,    4, 0, 3};

    rig_start(CHAIN "at-start=off times=2 | wire");
    assert_true(rig_send(rarp, sizeof(rarp), NULL, 0));
    assert_int_equal(rig.wire.n, 1);
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 9);
    check_round(1);
    rarp[11] = 2;
    assert_true(rig_send(rarp, sizeof(rarp), NULL, 0));
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 10);
    assert_int_equal(rig_counter("announce", "requested"), 1);
    rig_stop();
}

static void test_verb(void **state)
{
    json_t *reply;

    rig_start(CHAIN "at-start=off times=1 | wire");
    assert_int_equal(device_set(rig.dev, "announce", "ip4", "", &rig.err), 0);
    assert_int_equal(device_do(rig.dev, "announce", "announce", 0, NULL, &reply, &rig.err), 0);
    json_decref(reply);
    pass_time(DT_MS(1000));
    assert_int_equal(rig.wire.n, 2);
    rig_stop();
}

static void test_parameters(void **state)
{
    assert_int_equal(rig_try("announce | wire"), -EINVAL);
    assert_int_equal(rig_try("announce mac=53:54:00:00:00:01 | wire"), -EINVAL);
    assert_int_equal(rig_try("announce mac=52:54:00:00:00 | wire"), -EINVAL);
    assert_int_equal(rig_try("announce mac=52:54:00:00:00:01 ip4=10.0.0.0/8 | wire"), -EINVAL);
    assert_int_equal(rig_try("announce mac=52:54:00:00:00:01 ip6=1.2.3.4 | wire"), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),      cmocka_unit_test(test_honest),
        cmocka_unit_test(test_request),    cmocka_unit_test(test_verb),
        cmocka_unit_test(test_parameters),
    };

    test_clock = DT_S(1000);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
