/* SPDX-License-Identifier: MIT */
/* card_common.h - what the tests of the front of cards have in common: two cards with a guest each, and packets. */
#ifndef TESTS_CARD_COMMON_H
#define TESTS_CARD_COMMON_H

#include "card_rig.h"
#include "net_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define BIT(n)    (1ull << (n))
#define MERGEABLE BIT(VIRTIO_NET_F_MRG_RXBUF)
#define HEADER    sizeof(struct dt_vnet_header)
#define GUARD     0xa5 /* what nobody has written */

static struct card_guest guest, beside;
static struct frame f;

static inline uint64_t all_offloads(void)
{
    return virtio_offload_features(DT_OFFLOAD_ALL, DT_OFFLOAD_ALL);
}

static inline void start(bool packed, uint64_t features)
{
    guest = beside = (struct card_guest){.packed = packed, .features = features};
    card_guest_start(&guest);
    card_guest_start(&beside);
}

static inline void stop(void)
{
    card_guest_stop(&guest);
    card_guest_stop(&beside);
}

static inline struct virtq_buffer part(uint64_t offset, uint32_t len)
{
    return (struct virtq_buffer){CARD_GPA + CARD_DATA + offset, len};
}

static inline uint8_t *data(uint64_t offset)
{
    return guest.memory + CARD_DATA + offset;
}

static inline void make_tcp(uint32_t payload)
{
    frame_kind(&f, FRAME_TCP, 80);
    frame_pattern(&f, payload);
    frame_end(&f);
}

/* Header and frame stand in memory one after the other. Return: what the card says it wrote. */
static inline int64_t transmit(struct card_guest *g, const struct dt_vnet_header *v,
                               uint32_t header, const uint32_t *lengths, unsigned n)
{
    struct virtq_buffer bufs[CARD_RING];
    uint64_t at = 0;
    uint16_t id;

    memcpy(g->memory + CARD_DATA, v, header);
    memcpy(g->memory + CARD_DATA + header, f.bytes, f.n);
    for (unsigned i = 0; i < n; at += lengths[i++])
        bufs[i] = part(at, lengths[i]);
    assert_int_equal(at, header + f.n);
    card_guest_offer(g, CARD_TX, bufs, n, 0);
    return card_guest_reap(g, CARD_TX, &id, CARD_WAIT_MS);
}

static inline bool sent(struct card_guest *g, const struct dt_vnet_header *v,
                        struct card_frame *frame)
{
    assert_int_equal(transmit(g, v, HEADER, (const uint32_t[]){(uint32_t)HEADER + f.n}, 1), 0);
    return wire_take(frame);
}

static inline void expect_sent(struct card_guest *g)
{
    static const struct dt_vnet_header nothing;
    struct card_frame frame;

    make_tcp(100);
    assert_true(sent(g, &nothing, &frame));
    assert_int_equal(frame.length, f.n);
    assert_memory_equal(frame.bytes, f.bytes, f.n);
    free(frame.bytes);
}

/** struct card_test - run with split rings, and with packed ones; *state says which. */
struct card_test {
    const char *name;
    void (*run)(void **state);
};

static inline int run_card_tests(const struct card_test *tests, unsigned n)
{
    static bool kinds[] = {false, true};
    struct CMUnitTest units[64];
    char names[64][80];

    assert_true(2 * n <= ARRAY_SIZE(units));
    for (unsigned i = 0; i < 2 * n; i++) {
        snprintf(names[i], sizeof(names[i]), "%s, %s", tests[i / 2].name,
                 i % 2 ? "packed" : "split");
        units[i] = (struct CMUnitTest){
            .name = names[i], .test_func = tests[i / 2].run, .initial_state = &kinds[i % 2]};
    }
    log_set_level(DT_LOG_ERROR);
    return _cmocka_run_group_tests("cards", units, 2 * n, NULL, NULL);
}

#endif
