/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_traps.c - what front ends of this world do that the specification does not say, one
 * test each. Those about the ring alone are in test_virtq*; those about timing or about the
 * front end's command line cannot be tested here.
 */
#include "vhost_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = peer_new(PROTOCOL_ALL);
    return 0;
}

static int teardown(void **state)
{
    peer_free(*state);
    return 0;
}

/* QEMU acknowledges bits that were never offered. */
static void trap_01_only_offered_bits_count(void **state)
{
    struct peer *p = *state;

    peer_reconnect(p, PROTOCOL_ALL & ~(1ull << VHOST_F_STATUS | 1ull << VHOST_F_RESET_DEVICE));
    peer_negotiate(p, F_V1 | F_PROTOCOL, ~0ull);
    assert_int_equal(vhost_backend_state(p->toy->session)->protocol_features,
                     PROTOCOL_ALL & ~(1ull << VHOST_F_STATUS | 1ull << VHOST_F_RESET_DEVICE));
    assert_int_not_equal(peer_ack(p, VHOST_RESET_DEVICE, NULL, 0, NULL, 0), 0);
    assert_int_not_equal(peer_ack(p, VHOST_POSTCOPY_LISTEN, NULL, 0, NULL, 0), 0);
    assert_true(peer_alive(p));
    peer_empty(p, VHOST_GET_STATUS);
    peer_broke(p, "GET_STATUS");
}

/* QEMU checks flags and sizes of replies exactly; peer_expect() does too. */
static void trap_02_replies_are_exact(void **state)
{
    struct peer *p = *state;
    uint32_t config[3 + 57 / 4 + 1] = {0, 57};
    struct vhost_inflight inflight = {.num_queues = 2, .queue_size = 128};
    uint64_t log[] = {4096, 0};
    int fd;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_QUEUE_NUM), TOY_QUEUES);
    peer_send(p, VHOST_GET_CONFIG, 0, config, 12 + 57, NULL, 0);
    peer_expect(p, VHOST_GET_CONFIG, 12 + 57);
    assert_int_equal(p->reply.config.size, 57);
    assert_memory_equal(p->reply.config.data, p->toy->config, 57);
    config[0] = TOY_CONFIG + 1;
    peer_send(p, VHOST_GET_CONFIG, 0, config, 12 + 57, NULL, 0);
    peer_expect(p, VHOST_GET_CONFIG, 0);

    assert_int_equal(sizeof(inflight), 24);
    peer_send(p, VHOST_GET_INFLIGHT_FD, 0, &inflight, sizeof(inflight), NULL, 0);
    peer_expect(p, VHOST_GET_INFLIGHT_FD, 24);
    assert_int_equal(p->reply.nfds, 1);

    fd = memfd_create("log", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 4096), 0);
    peer_send(p, VHOST_SET_LOG_BASE, 0, log, sizeof(log), &fd, 1);
    peer_expect(p, VHOST_SET_LOG_BASE, 0);
    close(fd);
    /* An acknowledgement never comes twice, nor for a request that has an answer of its own. */
    peer_send(p, VHOST_GET_FEATURES, VHOST_NEED_REPLY, NULL, 0, NULL, 0);
    peer_expect(p, VHOST_GET_FEATURES, 8);
}

/* QEMU sends status 0 before it stops the rings; virtio-user sends 0xb before memory. */
static void trap_03_status_wipes_nothing(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_u64(p, VHOST_SET_STATUS, 0xb);
    peer_add_memory(p);
    peer_u64(p, VHOST_SET_STATUS, 0x8);
    peer_start_ring(p, 0, 128, 0, false);
    peer_u64(p, VHOST_SET_STATUS, 0xf);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_STATUS), 0xf);
    peer_io(p, 0, 5);
    peer_u64(p, VHOST_SET_STATUS, 0);
    assert_int_equal(p->toy->status, 0);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 0);
    assert_int_equal(peer_get_base(p, 0), 5);
}

/* SeaBIOS sets up ring 0 of two, and enables both. */
static void trap_04_each_ring_counts_for_itself(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_state(p, VHOST_SET_VRING_ENABLE, 1, 1);
    peer_start_ring(p, 0, 128, 0, false);
    assert_true(peer_started(p, 0));
    assert_false(peer_started(p, 1));
    peer_io(p, 0, 3);
    peer_start_ring(p, 1, 64, 0, false);
    assert_true(peer_started(p, 1));
}

/* A net device: ENABLE comes first, and features once per queue pair. */
static void trap_05_enable_before_features_and_features_again(void **state)
{
    struct peer *p = *state;

    for (unsigned pair = 0; pair < 2; pair++) {
        peer_ask_u64(p, VHOST_GET_FEATURES);
        peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);
        peer_u64(p, VHOST_SET_PROTOCOL_FEATURES, PROTOCOL_ALL);
        peer_state(p, VHOST_SET_VRING_ENABLE, pair, 1);
        peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL);
    }
    assert_int_equal(p->toy->feature_sets, 1);
    peer_add_memory(p);
    for (unsigned q = 0; q < 2; q++) {
        peer_ring_init(p, q, 128, false);
        peer_state(p, VHOST_SET_VRING_NUM, q, 128);
        peer_addr(p, q, 0);
        peer_ring_fd(p, VHOST_SET_VRING_KICK, q, p->kick[q]);
        assert_true(peer_started(p, q));
        peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL);
        assert_int_equal(p->toy->queues[q].stops, 0);
    }
}

static void trap_06_call_comes_at_any_time(void **state)
{
    struct peer *p = *state;
    eventfd_t value;

    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, p->call[0]); /* before anything else */
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 1, 128, 0, false); /* kick before call */
    assert_true(peer_started(p, 1));
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 1);
    assert_int_equal(eventfd_read(p->call[0], &value), 0);
    /* Replaced while it runs, without a pause: the guest masks its vector often. */
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, p->call[2]);
    assert_int_equal(eventfd_read(p->call[2], &value), 0);
    peer_io(p, 0, 1);
    assert_int_equal(eventfd_read(p->call[2], &value), 0);
    assert_int_equal(eventfd_read(p->call[0], &value), -1);
    assert_int_equal(p->toy->pauses, 0);
    int number = vhost_backend_call_fd(p->toy->session, 0);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, -1);
    peer_io(p, 0, 1);
    assert_int_equal(eventfd_read(p->call[2], &value), -1);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, p->call[0]);
    assert_int_equal(eventfd_read(p->call[0], &value), 0);
    /* Completions on other threads may hold the number: it was valid all the time. */
    assert_int_equal(vhost_backend_call_fd(p->toy->session, 0), number);
    assert_int_equal(p->toy->pauses, 0);
}

static void trap_07_without_bit_30_rings_are_enabled(void **state)
{
    struct peer *p = *state;

    peer_u64(p, VHOST_SET_FEATURES, F_V1);
    peer_memory_table(p);
    peer_ring_init(p, 0, 128, false);
    peer_state(p, VHOST_SET_VRING_NUM, 0, 128);
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    assert_true(peer_started(p, 0));
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[1]); /* a later kick does not disable */
    assert_true(peer_started(p, 0));
    assert_int_equal(p->toy->queues[0].kick_changes, 1);
    eventfd_write(p->kick[1], 1);
    p->kick[1] ^= p->kick[0], p->kick[0] ^= p->kick[1], p->kick[1] ^= p->kick[0];
    peer_io(p, 0, 2);
}

static void trap_07_a_kick_before_enable_is_not_lost(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_ring_init(p, 0, 128, false);
    peer_state(p, VHOST_SET_VRING_NUM, 0, 128);
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    peer_offer(p, 0, 3);
    assert_int_equal(peer_reap(p, 0), 0);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 1);
    assert_int_equal(peer_reap(p, 0), 3);
}

/* The base survives being asked for, and a stop of the ring. */
static void trap_08_get_base_clears_no_index(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_state(p, VHOST_SET_VRING_BASE, 2, 77);
    assert_int_equal(peer_get_base(p, 2), 77); /* never started */
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 9);
    assert_int_equal(peer_get_base(p, 0), 9);
    assert_false(peer_started(p, 0));
    assert_int_equal(peer_get_base(p, 0), 9);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]); /* cont without a base: goes on */
    assert_true(peer_started(p, 0));
    assert_false(p->toy->queues[0].ring.recover);
    peer_io(p, 0, 4);
    assert_int_equal(peer_get_base(p, 0), 13);
}

/* The answer comes when nothing is in flight any more, and later messages after it. */
static void trap_09_get_base_waits_for_the_drain(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    p->toy->hold = p->toy->slow = true;
    peer_offer(p, 0, 7);
    peer_state(p, VHOST_GET_VRING_BASE, 0, 0);
    peer_empty(p, VHOST_GET_FEATURES); /* the barrier of trap 12 */
    assert_false(peer_reply(p));
    toy_answer(p->toy);
    peer_turn(p);
    assert_int_equal(peer_reap(p, 0), 7);
    assert_true(peer_reply(p));
    assert_int_equal(p->reply.header.request, VHOST_GET_VRING_BASE);
    assert_int_equal(p->reply.vring.num, 7);
    peer_expect(p, VHOST_GET_FEATURES, 8);
}

static void trap_09_disable_is_not_discard(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 2);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 0);
    peer_offer(p, 0, 3);
    assert_int_equal(peer_reap(p, 0), 0);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 1);
    assert_int_equal(peer_reap(p, 0), 3);
    assert_int_equal(peer_get_base(p, 0), 5);
}

/* QEMU removes a region before it adds the next one, under live rings. */
static void trap_10_memory_goes_before_it_comes(void **state)
{
    struct peer *p = *state;
    uint64_t other[] = {0, PEER_GPA * 4, 4096, PEER_UVA * 2, 0};

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_MAX_MEM_SLOTS), VHOST_MEM_SLOTS);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 2);
    /* One without rings comes and goes in a drained pause; the rings stay. */
    assert_int_equal(peer_ack(p, VHOST_ADD_MEM_REG, other, sizeof(other), &p->mem_fd, 1), 0);
    assert_int_equal(p->toy->pauses, 1);
    assert_true(p->toy->drain);
    assert_int_equal(peer_ack(p, VHOST_REM_MEM_REG, other, sizeof(other), &p->mem_fd, 1), 0);
    assert_int_equal(p->toy->pauses, 2);
    assert_true(p->toy->drain);
    assert_true(peer_started(p, 0));
    peer_remove_memory(p);
    assert_false(peer_started(p, 0));
    peer_offer(p, 0, 3);
    peer_add_memory(p);
    assert_true(peer_started(p, 0));
    assert_int_equal(peer_reap(p, 0), 3);
    assert_int_equal(peer_get_base(p, 0), 5);
    peer_reconnect(p, PROTOCOL_ALL);
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_MAX_MEM_SLOTS), VHOST_MEM_SLOTS);
}

/* QEMU before 8.0 adds and removes each region once for each queue pair of a card. */
static void trap_10_memory_comes_once_for_each_queue_pair(void **state)
{
    struct peer *p = *state;
    uint64_t other[] = {0, PEER_GPA * 4, 4096, PEER_UVA * 2, 0}, elsewhere[5];

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_MAX_MEM_SLOTS), VHOST_MEM_SLOTS);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(peer_ack(p, VHOST_ADD_MEM_REG, other, sizeof(other), &p->mem_fd, 1), 0);
    assert_int_equal(p->toy->pauses, 1);
    assert_int_equal(vhost_backend_memmap(p->toy->session)->count, 2);
    memcpy(elsewhere, other, sizeof(other));
    elsewhere[4] = 4096; /* of the file: this is another region */
    assert_int_not_equal(
        peer_ack(p, VHOST_ADD_MEM_REG, elsewhere, sizeof(elsewhere), &p->mem_fd, 1), 0);
    for (unsigned i = 3; i-- > 0;) {
        assert_int_equal(peer_ack(p, VHOST_REM_MEM_REG, other, sizeof(other), &p->mem_fd, 1), 0);
        assert_int_equal(vhost_backend_memmap(p->toy->session)->count, i ? 2 : 1);
    }
    assert_int_equal(p->toy->pauses, 2);
    assert_int_not_equal(peer_ack(p, VHOST_REM_MEM_REG, other, sizeof(other), &p->mem_fd, 1), 0);
    peer_io(p, 0, 2);
}

/* Every IOTLB message wants an answer, need_reply or not. */
static void trap_11_iotlb_is_always_answered(void **state)
{
    struct peer *p = *state;
    uint64_t iotlb[4] = {0};

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_send(p, VHOST_IOTLB_MSG, 0, iotlb, sizeof(iotlb), NULL, 0);
    peer_expect(p, VHOST_IOTLB_MSG, 8);
    assert_int_not_equal(p->reply.u64, 0);
    assert_true(peer_alive(p));
}

static void trap_13_reset_and_rarp_are_silent(void **state)
{
    struct peer *p = *state;
    uint8_t mac[8] = {2, 0, 0, 0, 0, 7, 0xff, 0xff};

    peer_reconnect(p, PROTOCOL_ALL | 1ull << VHOST_F_RARP | 1ull << VHOST_F_MTU);
    peer_negotiate(p, F_V1 | F_PROTOCOL, ~0ull);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 2);
    peer_send(p, VHOST_SEND_RARP, 0, mac, sizeof(mac), NULL, 0);
    peer_empty(p, VHOST_RESET_DEVICE);
    assert_false(peer_reply(p));
    uint64_t mtu = 9000;
    assert_int_equal(peer_ack(p, VHOST_NET_SET_MTU, &mtu, 8, NULL, 0), 0);
    mtu += 1 << 16;
    assert_int_not_equal(peer_ack(p, VHOST_NET_SET_MTU, &mtu, 8, NULL, 0), 0);
    assert_memory_equal(p->toy->mac, mac, 6);
    assert_false(peer_started(p, 0));
    assert_int_equal(vhost_backend_state(p->toy->session)->queues[0].base, 0);
    /* Memory and call eventfds stay: nobody sends them again. */
    peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 2);
    /* "No" to a transfer of device state also says that no descriptor comes. */
    assert_int_equal(peer_ack(p, VHOST_SET_DEVICE_STATE_FD, mac, 8, &p->mem_fd, 1), 0x101);
    assert_int_not_equal(peer_ack(p, VHOST_POSTCOPY_END, NULL, 0, NULL, 0), 0);
    assert_int_not_equal(peer_ack(p, VHOST_POSTCOPY_ADVISE, NULL, 0, NULL, 0), 0);
}

static void trap_14_packed_base_with_an_empty_upper_half(void **state)
{
    struct peer *p = *state;

    peer_negotiate(p, F_V1 | F_PROTOCOL | F_PACKED, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0x8000, true);
    assert_int_equal(p->toy->queues[0].ring.base, 0x80008000);
    peer_io(p, 0, 6);
    assert_int_equal(peer_get_base(p, 0), 0x800c800c);
    peer_state(p, VHOST_SET_VRING_BASE, 0, 0x800c);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    peer_io(p, 0, 6);
}

/* What was signalled while nobody listened is signalled again. */
static void trap_15_one_kick_and_one_call_after_a_start(void **state)
{
    struct peer *p = *state;
    eventfd_t value;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_ring_init(p, 0, 128, false);
    peer_offer(p, 0, 3);
    eventfd_read(p->kick[0], &value); /* the process before took it with it */
    peer_state(p, VHOST_SET_VRING_NUM, 0, 128);
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, p->call[0]);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    assert_int_equal(eventfd_read(p->call[0], &value), -1);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 1);
    assert_int_equal(peer_reap(p, 0), 3);
    assert_int_equal(eventfd_read(p->call[0], &value), 0);
}

static void trap_17_a_restart_offers_the_same(void **state)
{
    struct peer *p = *state;
    uint64_t features = peer_ask_u64(p, VHOST_GET_FEATURES);
    uint64_t protocol = peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);

    peer_reconnect(p, PROTOCOL_ALL);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_FEATURES), features);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES), protocol);
    assert_int_equal(protocol, PROTOCOL_ALL);
    peer_reconnect(p, PROTOCOL_ALL & ~(1ull << VHOST_F_LOG_SHMFD));
    assert_int_equal(peer_ask_u64(p, VHOST_GET_FEATURES), features & ~F_LOG);
}

#define TRAP(name) cmocka_unit_test_setup_teardown(trap_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRAP(01_only_offered_bits_count),
        TRAP(02_replies_are_exact),
        TRAP(03_status_wipes_nothing),
        TRAP(04_each_ring_counts_for_itself),
        TRAP(05_enable_before_features_and_features_again),
        TRAP(06_call_comes_at_any_time),
        TRAP(07_without_bit_30_rings_are_enabled),
        TRAP(07_a_kick_before_enable_is_not_lost),
        TRAP(08_get_base_clears_no_index),
        TRAP(09_get_base_waits_for_the_drain),
        TRAP(09_disable_is_not_discard),
        TRAP(10_memory_goes_before_it_comes),
        TRAP(10_memory_comes_once_for_each_queue_pair),
        TRAP(11_iotlb_is_always_answered),
        TRAP(13_reset_and_rarp_are_silent),
        TRAP(14_packed_base_with_an_empty_upper_half),
        TRAP(15_one_kick_and_one_call_after_a_start),
        TRAP(17_a_restart_offers_the_same),
    };

    return cmocka_run_group_tests_name("vhost-user traps", tests, NULL, NULL);
}
