/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_session.c - the back-end session as a state machine: parking, breaking, ending, and
 * what it asks of a device that takes its time.
 */
#include "fds.h"
#include "vhost_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

static unsigned fds_before;

static void negotiate(struct peer *p)
{
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
}

static void reconnect(struct peer *p)
{
    peer_reconnect(p, PROTOCOL_ALL);
    negotiate(p);
}

static int setup(void **state)
{
    fds_before = count_fds();
    *state = peer_new(PROTOCOL_ALL);
    negotiate(*state);
    return 0;
}

static int teardown(void **state)
{
    peer_free(*state);
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

static void a_parked_session_reads_nothing(void **state)
{
    struct peer *p = *state;
    uint64_t slot[] = {0, PEER_GPA * 4, 4096, PEER_UVA * 2, 0};

    peer_start_ring(p, 0, 64, 0, false);
    p->toy->slow = true;
    peer_send(p, VHOST_ADD_MEM_REG, VHOST_NEED_REPLY, slot, sizeof(slot), &p->mem_fd, 1);
    assert_true(p->toy->pause_asked);
    peer_u64(p, VHOST_SET_STATUS, 3);
    assert_false(peer_reply(p));
    assert_int_equal(p->toy->statuses, 0);
    assert_int_equal(vhost_backend_memmap(p->toy->session)->count, 1);
    toy_answer(p->toy);
    assert_int_equal(p->toy->resumes, 0); /* never from within the answer */
    peer_turn(p);
    assert_int_equal(p->toy->resumes, 1);
    assert_int_equal(p->toy->status, 3);
    peer_expect(p, VHOST_ADD_MEM_REG, 8);
    assert_int_equal(vhost_backend_memmap(p->toy->session)->count, 2);
    peer_io(p, 0, 3);
}

static void breaking_waits_for_a_pause(void **state)
{
    struct peer *p = *state;
    uint64_t slot[] = {0, PEER_GPA * 4, 4096, PEER_UVA * 2, 0};

    peer_start_ring(p, 0, 64, 0, false);
    p->toy->slow = true;
    peer_send(p, VHOST_ADD_MEM_REG, VHOST_NEED_REPLY, slot, sizeof(slot), &p->mem_fd, 1);
    vhost_backend_break(p->toy->session, "disk %d is on fire", 3);
    vhost_backend_break(p->toy->session, "and so is the house");
    peer_turn(p);
    assert_int_equal(p->toy->queues[0].stops, 0);
    toy_answer(p->toy); /* the pause */
    peer_turn(p);
    assert_int_equal(p->toy->resumes, 1);
    assert_int_equal(p->toy->queues[0].stops, 1);
    assert_true(peer_alive(p));
    toy_answer(p->toy); /* the stop */
    peer_broke(p, "disk 3 is on fire");
}

static void breaking_signals_the_error_eventfd(void **state)
{
    struct peer *p = *state;
    int err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    eventfd_t value;

    peer_ring_fd(p, VHOST_SET_VRING_ERR, 2, err);
    vhost_backend_break(p->toy->session, "enough");
    peer_broke(p, "enough");
    assert_int_equal(eventfd_read(err, &value), 0);
    close(err);
}

static void closing_drains_and_gives_no_reason(void **state)
{
    struct peer *p = *state;

    peer_start_ring(p, 0, 64, 0, false);
    p->toy->hold = p->toy->slow = true;
    peer_offer(p, 0, 4);
    vhost_backend_close(p->toy->session);
    peer_turn(p);
    assert_true(peer_alive(p));
    toy_answer(p->toy);
    peer_turn(p);
    assert_int_equal(peer_reap(p, 0), 4);
    assert_false(peer_alive(p));
    assert_string_equal(p->toy->reason, "");
}

static void hanging_up_is_no_fault(void **state)
{
    struct peer *p = *state;

    peer_start_ring(p, 0, 64, 0, false);
    shutdown(p->sock, SHUT_RDWR);
    peer_turn(p);
    assert_false(peer_alive(p));
    assert_string_equal(p->toy->reason, "");
    assert_int_equal(p->toy->queues[0].stops, 1);
}

static void a_ring_that_cannot_start_breaks_the_session(void **state)
{
    struct peer *p = *state;

    p->toy->refuse_start = true;
    peer_start_ring(p, 0, 64, 0, false);
    peer_broke(p, "the toy does not want to");
}

/* Refused when the ring is to start, since only then all is known. */
static void rings_that_fit_nothing(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region = {.mmap_size = 65536, .num_queues = 1, .queue_size = 32};
    uint32_t enable[] = {0, 2};
    int fd = memfd_create("region", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, 65536), 0);
    assert_int_not_equal(peer_ack(p, VHOST_SET_VRING_ENABLE, enable, 8, NULL, 0), 0);
    peer_start_ring(p, 0, 64, 0x80008000, false);
    peer_broke(p, "base 0x80008000 of a split ring");
    for (unsigned q = 0; q < 2; q++) {
        reconnect(p);
        peer_send(p, VHOST_SET_INFLIGHT_FD, 0, &region, sizeof(region), &fd, 1);
        peer_start_ring(p, q, q ? 32 : 64, 0, false);
        peer_broke(p, "does not fit an in-flight region");
    }
    reconnect(p);
    peer_ring_init(p, 0, 64, false);
    peer_state(p, VHOST_SET_VRING_NUM, 0, 65); /* no power of two */
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 1);
    peer_broke(p, "ring 0 cannot start");
    close(fd);
}

static void a_corrupt_ring_breaks_the_session(void **state)
{
    struct peer *p = *state;

    peer_start_ring(p, 0, 64, 0, false);
    p->mem[PEER_RING(0) + p->driver[0].driver_off + 3] = 0x40; /* the available index leaps */
    eventfd_write(p->kick[0], 1);
    peer_broke(p, "available index");
}

static void addresses_moved_under_a_live_ring(void **state)
{
    struct peer *p = *state;

    peer_start_ring(p, 0, 64, 0, false);
    peer_io(p, 0, 5);
    peer_ring_init(p, 1, 64, false);
    p->mem[PEER_RING(1) + p->driver[1].driver_off + 2] = 5; /* as far as the old one */
    p->mem[PEER_RING(1) + p->driver[1].device_off + 2] = 5;
    p->driver[1].avail = p->driver[1].avail_published = p->driver[1].used = 5;
    struct virtq_driver d = p->driver[0];
    p->driver[0] = p->driver[1];
    p->driver[1] = d;
    struct {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
    } addr = {0, 0, PEER_UVA + PEER_RING(1), 0, 0, 0};
    addr.used = addr.desc + d.device_off;
    addr.avail = addr.desc + d.driver_off;
    peer_send(p, VHOST_SET_VRING_ADDR, 0, &addr, sizeof(addr), NULL, 0);
    assert_int_equal(p->toy->queues[0].stops, 1);
    assert_int_equal(p->toy->queues[0].starts, 2);
    peer_io(p, 0, 5);
}

static void features_changed_under_live_rings(void **state)
{
    struct peer *p = *state;

    peer_start_ring(p, 0, 64, 0, false);
    peer_io(p, 0, 5);
    peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL | 1ull << VIRTIO_RING_F_INDIRECT_DESC);
    assert_int_equal(p->toy->queues[0].stops, 1);
    assert_true(p->toy->queues[0].ring.config.indirect);
    peer_io(p, 0, 5);
    peer_u64(p, VHOST_SET_FEATURES, F_V1 | 1ull << 60);
    peer_broke(p, "not offered");
}

static void what_cannot_change_under_a_live_ring(void **state)
{
    struct peer *p = *state;
    uint32_t num[] = {0, 32}, base[] = {0, 7};
    struct vhost_inflight inflight = {.num_queues = 2, .queue_size = 64};

    peer_start_ring(p, 0, 64, 0, false);
    assert_int_not_equal(peer_ack(p, VHOST_SET_VRING_NUM, num, sizeof(num), NULL, 0), 0);
    assert_int_not_equal(peer_ack(p, VHOST_SET_VRING_BASE, base, sizeof(base), NULL, 0), 0);
    num[1] = 64;
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_NUM, num, sizeof(num), NULL, 0), 0);
    peer_io(p, 0, 3);
    peer_send(p, VHOST_GET_INFLIGHT_FD, 0, &inflight, sizeof(inflight), NULL, 0);
    peer_broke(p, "while a ring runs");
}

static void a_config_change_reaches_the_front_end(void **state)
{
    struct peer *p = *state;
    struct vhost_header h;
    int pair[2];

    assert_int_equal(vhost_backend_notify_config(p->toy->session), -ENOTSUP);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
    close(pair[1]);
    assert_int_equal(vhost_backend_notify_config(p->toy->session), 0);
    assert_int_equal(recv(pair[0], &h, sizeof(h), MSG_DONTWAIT), sizeof(h));
    assert_int_equal(h.request, VHOST_BACKEND_CONFIG_CHANGE_MSG);
    assert_int_equal(h.flags, VHOST_VERSION);
    assert_int_equal(h.size, 0);
    close(pair[0]);
    assert_int_equal(vhost_backend_notify_config(p->toy->session), -EPIPE);
    assert_int_equal(vhost_backend_notify_config(p->toy->session), -ENOTSUP);
    assert_true(peer_alive(p));
}

/* Who reads one of them later asks for what is there then; the channel has to live until it does. */
static void a_full_channel_stays(void **state)
{
    struct peer *p = *state;
    struct vhost_header h[64];
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
    close(pair[1]);
    for (unsigned i = 0; i < 5000; i++)
        assert_int_equal(vhost_backend_notify_config(p->toy->session), 0);
    while (recv(pair[0], h, sizeof(h), MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(vhost_backend_notify_config(p->toy->session), 0);
    assert_int_equal(recv(pair[0], h, sizeof(h), MSG_DONTWAIT), sizeof(h[0]));
    close(pair[0]);
    assert_true(peer_alive(p));
}

static void the_configuration_can_be_written(void **state)
{
    struct peer *p = *state;
    uint8_t set[12 + 4] = {8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c', 'd'};

    assert_int_equal(peer_ack(p, VHOST_SET_CONFIG, set, sizeof(set), NULL, 0), 0);
    assert_memory_equal(p->toy->config + 8, "abcd", 4);
    set[0] = TOY_CONFIG - 3;
    assert_int_not_equal(peer_ack(p, VHOST_SET_CONFIG, set, sizeof(set), NULL, 0), 0);
    set[4] = 5; /* more than came */
    assert_int_not_equal(peer_ack(p, VHOST_SET_CONFIG, set, sizeof(set), NULL, 0), 0);
}

/* A front end that never reads its replies cannot hold the loop up. */
static void a_flood_of_questions(void **state)
{
    struct peer *p = *state;
    struct vhost_message m = {.header = {VHOST_GET_FEATURES, VHOST_VERSION, 0}};

    while (peer_alive(p)) {
        while (vhost_send(p->sock, &m, 0) == 0)
            ;
        peer_turn(p);
    }
    peer_broke(p, "does not read its replies");
}

static void two_sessions_on_one_loop(void **state)
{
    struct peer *p = *state, other = *p;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    other.sock = pair[0];
    other.stream = (struct vhost_stream){.sock = pair[0], .expect = VHOST_EXPECT_REPLIES};
    other.toy = toy_new(p->loop, pair[1], PROTOCOL_ALL);
    peer_start_ring(p, 0, 64, 0, false);
    p->toy->slow = true;
    peer_state(p, VHOST_GET_VRING_BASE, 0, 0); /* parks */
    assert_int_not_equal(peer_ask_u64(&other, VHOST_GET_FEATURES), 0);
    peer_empty(&other, 999);
    peer_broke(&other, "999");
    toy_free(other.toy);
    close(other.sock);
    toy_answer(p->toy);
    peer_turn(p);
    peer_expect(p, VHOST_GET_VRING_BASE, 8);
}

static void the_state_block_says_it_all(void **state)
{
    struct peer *p = *state;
    const struct vhost_state *s = vhost_backend_state(p->toy->session);

    peer_start_ring(p, 1, 64, 0, false);
    peer_io(p, 1, 2);
    peer_state(p, VHOST_SET_VRING_BASE, 2, 9);
    assert_int_equal(s->magic, VHOST_STATE_MAGIC);
    assert_int_equal(s->version, VHOST_STATE_VERSION);
    assert_int_equal(s->features, F_V1 | F_PROTOCOL);
    assert_int_equal(s->region_count, 1);
    assert_int_equal(s->regions[0].uva, PEER_UVA);
    assert_int_equal(s->queues[1].size, 64);
    assert_int_equal(s->queues[2].base, 9);
    assert_true(s->queues[1].started && s->queues[1].enabled && s->queues[1].have_call);
    assert_false(s->inflight_from_front);
    assert_int_equal(s->inflight.num_queues, TOY_QUEUES);
}

#define SESSION(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SESSION(a_parked_session_reads_nothing),
        SESSION(breaking_waits_for_a_pause),
        SESSION(breaking_signals_the_error_eventfd),
        SESSION(a_full_channel_stays),
        SESSION(closing_drains_and_gives_no_reason),
        SESSION(hanging_up_is_no_fault),
        SESSION(a_ring_that_cannot_start_breaks_the_session),
        SESSION(rings_that_fit_nothing),
        SESSION(a_corrupt_ring_breaks_the_session),
        SESSION(addresses_moved_under_a_live_ring),
        SESSION(features_changed_under_live_rings),
        SESSION(what_cannot_change_under_a_live_ring),
        SESSION(a_config_change_reaches_the_front_end),
        SESSION(the_configuration_can_be_written),
        SESSION(a_flood_of_questions),
        SESSION(two_sessions_on_one_loop),
        SESSION(the_state_block_says_it_all),
    };

    return cmocka_run_group_tests_name("vhost-user back-end session", tests, NULL, NULL);
}
