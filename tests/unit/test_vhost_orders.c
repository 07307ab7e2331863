/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_orders.c - the exact order of messages of front ends in use, replayed.
 */
#include "vhost_peer.h"
#include "vhost_record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

/* Each conversation is also a seed of the fuzz target; see vhost_record.h. */
static int setup(void **state)
{
    const char *name = *state;
    struct peer *p = peer_new(PROTOCOL_ALL);

    peer_record(p, name);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    peer_free(*state);
    return 0;
}

/* ---- QEMU 7.2 vhost-user-blk-pci ---- */

static void qemu_connect(struct peer *p, bool config)
{
    uint32_t get[3 + 57 / 4 + 1] = {0, 57};
    int pair[2];

    peer_ask_u64(p, VHOST_GET_FEATURES);
    peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);
    peer_u64(p, VHOST_SET_PROTOCOL_FEATURES, 0x1ffff); /* everything below its maximum */
    assert_int_equal(peer_ask_u64(p, VHOST_GET_QUEUE_NUM), TOY_QUEUES);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_MAX_MEM_SLOTS), VHOST_MEM_SLOTS);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1), 0);
    close(pair[0]);
    close(pair[1]);
    peer_empty(p, VHOST_SET_OWNER);
    peer_ask_u64(p, VHOST_GET_FEATURES);
    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        peer_ring_fd(p, VHOST_SET_VRING_CALL, q, p->call[q]);
        peer_ring_fd(p, VHOST_SET_VRING_ERR, q, p->call[3]);
    }
    if (!config)
        return;
    peer_send(p, VHOST_GET_CONFIG, 0, get, 12 + 57, NULL, 0);
    peer_expect(p, VHOST_GET_CONFIG, 12 + 57);
}

static void qemu_set_inflight(struct peer *p, const struct vhost_inflight *region, int fd)
{
    peer_send(p, VHOST_SET_INFLIGHT_FD, 0, region, sizeof(*region), &fd, 1);
}

static int qemu_get_inflight(struct peer *p, struct vhost_inflight *region)
{
    int fd;

    *region = (struct vhost_inflight){.num_queues = TOY_QUEUES, .queue_size = 128};
    peer_send(p, VHOST_GET_INFLIGHT_FD, 0, region, sizeof(*region), NULL, 0);
    peer_expect(p, VHOST_GET_INFLIGHT_FD, sizeof(*region));
    fd = dup(p->reply.fds[0]);
    *region = p->reply.inflight;
    return fd;
}

static void qemu_rings(struct peer *p, uint64_t features, const uint32_t *bases)
{
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        peer_ring_fd(p, VHOST_SET_VRING_CALL, q, p->call[q]);
    peer_u64(p, VHOST_SET_FEATURES, features);
    peer_add_memory(p);
    for (unsigned q = 0; q < TOY_QUEUES; q++) {
        peer_state(p, VHOST_SET_VRING_NUM, q, 128);
        peer_state(p, VHOST_SET_VRING_BASE, q, bases[q]);
        peer_addr(p, q, 0);
        peer_ring_fd(p, VHOST_SET_VRING_KICK, q, p->kick[q]);
        assert_false(peer_started(p, q));
    }
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        peer_state(p, VHOST_SET_VRING_ENABLE, q, 1);
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        assert_true(peer_started(p, q));
    peer_u64(p, VHOST_SET_STATUS, 0xf);
}

#define QEMU_FEATURES (F_V1 | F_PROTOCOL)

/* Returns the in-flight region's descriptor, which QEMU keeps. */
static int qemu_driver_start(struct peer *p, struct vhost_inflight *region, uint64_t features)
{
    const uint32_t fresh = features & F_PACKED ? 0x80008000 : 0;
    const uint32_t bases[TOY_QUEUES] = {fresh, fresh, fresh, fresh};
    int fd;

    for (unsigned q = 0; q < TOY_QUEUES; q++)
        peer_ring_init(p, q, 128, features & F_PACKED);
    peer_u64(p, VHOST_SET_FEATURES, features);
    peer_u64(p, VHOST_SET_STATUS, 0x8);
    fd = qemu_get_inflight(p, region);
    qemu_set_inflight(p, region, fd);
    qemu_rings(p, features, bases);
    assert_false(p->toy->queues[0].ring.recover);
    return fd;
}

static void qemu_driver_stop(struct peer *p, uint32_t *bases)
{
    peer_u64(p, VHOST_SET_STATUS, 0);
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        peer_state(p, VHOST_SET_VRING_ENABLE, q, 0);
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        bases[q] = peer_get_base(p, q);
    peer_remove_memory(p);
}

static void qemu_blk_start_stop_cont(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region;
    uint32_t bases[TOY_QUEUES];
    int fd;

    qemu_connect(p, true);
    fd = qemu_driver_start(p, &region, QEMU_FEATURES);
    peer_io(p, 0, 10);
    peer_io(p, 3, 4);
    qemu_driver_stop(p, bases);
    assert_int_equal(bases[0], 10);
    assert_int_equal(bases[3], 4);
    /* cont: the same region again; the base is what counts. */
    peer_u64(p, VHOST_SET_FEATURES, QEMU_FEATURES);
    qemu_set_inflight(p, &region, fd);
    qemu_rings(p, QEMU_FEATURES, bases);
    assert_false(p->toy->queues[0].ring.recover);
    peer_io(p, 0, 10);
    close(fd);
}

/* The back end dies with requests in flight; QEMU reconnects and gives the region back. */
static void qemu_blk_reconnect(struct peer *p, uint64_t features)
{
    const uint32_t unreliable[TOY_QUEUES] = {0};
    struct vhost_inflight region;
    int fd;

    qemu_connect(p, true);
    fd = qemu_driver_start(p, &region, features);
    peer_io(p, 0, 10);
    p->toy->hold = true;
    record_plain(p->record, RECORD_DEVICE, 1);
    peer_offer(p, 0, 7);
    peer_offer(p, 1, 1);
    toy_abandon(p->toy);
    record_plain(p->record, RECORD_DEVICE, 16);
    peer_reconnect(p, PROTOCOL_ALL);
    peer_offer(p, 0, 2);

    qemu_connect(p, false);
    peer_u64(p, VHOST_SET_FEATURES, features);
    qemu_set_inflight(p, &region, fd);
    qemu_rings(p, features, unreliable);
    assert_true(p->toy->queues[0].ring.recover);
    assert_int_equal(peer_reap(p, 0), 9);
    assert_int_equal(peer_reap(p, 1), 1);
    assert_int_equal(p->toy->replayed, 8);
    peer_io(p, 0, 100);
    /* 119 chains; packed: of two descriptors each, so once around a ring of 128. */
    assert_int_equal(peer_get_base(p, 0), features & F_PACKED ? 110 * 0x10001 : 119);
    close(fd);
}

static void qemu_blk_reconnect_split(void **state)
{
    qemu_blk_reconnect(*state, QEMU_FEATURES);
}

static void qemu_blk_reconnect_packed(void **state)
{
    qemu_blk_reconnect(*state, QEMU_FEATURES | F_PACKED);
}

static void set_addr_with_log(struct peer *p, unsigned q)
{
    peer_addr(p, q, VHOST_RING_F_LOG);
}

/* Migration: the log comes, is switched on over live rings, and the rings stop. */
static void qemu_blk_migrate(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region;
    uint64_t bytes = (PEER_GPA + PEER_MEM_SIZE) / 4096 / 8, log[] = {bytes, 0};
    uint64_t with_log = QEMU_FEATURES | F_LOG;
    uint32_t bases[TOY_QUEUES];
    int fd, log_fd = memfd_create("log", MFD_CLOEXEC);
    uint8_t *bits;

    qemu_connect(p, true);
    fd = qemu_driver_start(p, &region, QEMU_FEATURES);
    peer_io(p, 0, 3);
    assert_int_equal(ftruncate(log_fd, (off_t)bytes), 0);
    bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);
    peer_send(p, VHOST_SET_LOG_BASE, 0, log, sizeof(log), &log_fd, 1);
    peer_expect(p, VHOST_SET_LOG_BASE, 0);
    assert_null(p->toy->queues[0].ring.config.dirty);
    assert_int_equal(peer_ack(p, VHOST_SET_FEATURES, &with_log, 8, NULL, 0), 0);
    for (unsigned q = 0; q < TOY_QUEUES; q++)
        set_addr_with_log(p, q);
    assert_int_equal(p->toy->pauses, 2 + TOY_QUEUES);
    assert_int_equal(p->toy->queues[0].stops, 0);
    assert_int_equal(p->toy->feature_sets, 1);
    peer_io(p, 0, 3);
    assert_true(bits[(PEER_GPA + PEER_BUFFERS) / 4096 / 8] & 1);
    assert_true(bits[(PEER_GPA + PEER_RING(0)) / 4096 / 8] & 1);
    qemu_driver_stop(p, bases);
    assert_int_equal(bases[0], 6);
    munmap(bits, bytes);
    close(log_fd);
    close(fd);
}

/* ---- Others ---- */

/* QEMU with SeaBIOS: two rings offered to the guest, one used, all enabled; then Linux follows. */
static void seabios_then_linux(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region;
    int fd;

    qemu_connect(p, true);
    peer_u64(p, VHOST_SET_FEATURES, QEMU_FEATURES);
    fd = qemu_get_inflight(p, &region);
    qemu_set_inflight(p, &region, fd);
    peer_add_memory(p);
    peer_ring_init(p, 0, 64, false);
    peer_state(p, VHOST_SET_VRING_NUM, 0, 64);
    peer_state(p, VHOST_SET_VRING_BASE, 0, 0);
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    for (unsigned q = 0; q < 2; q++)
        peer_state(p, VHOST_SET_VRING_ENABLE, q, 1);
    peer_io(p, 0, 5);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 0);
    peer_state(p, VHOST_SET_VRING_ENABLE, 1, 0);
    assert_int_equal(peer_get_base(p, 0), 5);
    assert_int_equal(peer_get_base(p, 1), 0);
    peer_remove_memory(p);
    close(fd);
    fd = qemu_driver_start(p, &region, QEMU_FEATURES); /* another size, another layout */
    peer_io(p, 0, 100);
    close(fd);
}

/* A guest's firmware is answered by a process that finds the log of the system before. */
static void a_log_for_another_size_is_of_a_ring_that_is_gone(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region;
    int fd;

    qemu_connect(p, true);
    fd = qemu_driver_start(p, &region, QEMU_FEATURES);
    peer_io(p, 0, 10);
    peer_reconnect(p, PROTOCOL_ALL);
    qemu_connect(p, false);
    peer_u64(p, VHOST_SET_FEATURES, QEMU_FEATURES);
    qemu_set_inflight(p, &region, fd);
    peer_add_memory(p);
    peer_start_ring(p, 0, 64, 0, false);
    assert_false(p->toy->queues[0].ring.recover);
    peer_io(p, 0, 10);
    close(fd);
}

/* DPDK virtio-user: CALLs first, no slots, status before memory, packed base 0x8000. */
static void dpdk_virtio_user(void **state)
{
    struct peer *p = *state;
    const uint64_t protocol =
        1ull << VHOST_F_MQ | 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_STATUS;
    uint64_t table[] = {1, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0};

    peer_empty(p, VHOST_SET_OWNER);
    peer_ask_u64(p, VHOST_GET_FEATURES);
    peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);
    peer_u64(p, VHOST_SET_PROTOCOL_FEATURES, protocol);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_QUEUE_NUM), TOY_QUEUES);
    peer_u64(p, VHOST_SET_STATUS, 0);
    peer_u64(p, VHOST_SET_STATUS, 1);
    peer_u64(p, VHOST_SET_STATUS, 3);
    for (unsigned q = 0; q < 2; q++)
        peer_ring_fd(p, VHOST_SET_VRING_CALL, q, p->call[q]);
    peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL | F_PACKED);
    peer_u64(p, VHOST_SET_STATUS, 0xb);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_STATUS), 0xb);
    assert_int_equal(peer_ack(p, VHOST_SET_MEM_TABLE, table, sizeof(table), &p->mem_fd, 1), 0);
    for (unsigned q = 0; q < 2; q++) {
        peer_ring_init(p, q, 256, true);
        peer_state(p, VHOST_SET_VRING_NUM, q, 256);
        peer_state(p, VHOST_SET_VRING_BASE, q, 0x8000);
        peer_addr(p, q, 0);
        peer_ring_fd(p, VHOST_SET_VRING_KICK, q, p->kick[q]);
    }
    for (unsigned q = 0; q < 2; q++)
        peer_state(p, VHOST_SET_VRING_ENABLE, q, 1);
    peer_u64(p, VHOST_SET_STATUS, 0xf);
    peer_io(p, 0, 100);
    peer_io(p, 1, 100);
    /* A table sent again under live rings: they stop, and go on where they were. */
    assert_int_equal(peer_ack(p, VHOST_SET_MEM_TABLE, table, sizeof(table), &p->mem_fd, 1), 0);
    peer_io(p, 0, 100);
    assert_int_equal(p->toy->queues[0].starts, 2);
    peer_get_base(p, 0);
    peer_get_base(p, 1);
}

/* libblkio: features before protocol features, need_reply on all, the kick before the call. */
static void libblkio(void **state)
{
    struct peer *p = *state;
    const uint64_t features = F_V1 | F_PROTOCOL;
    const uint64_t protocol = 1ull << VHOST_F_REPLY_ACK | 1ull << VHOST_F_CONFIG |
                              1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_MQ;
    uint32_t num[] = {0, 64}, base[] = {0, 0}, enable[] = {0, 1};
    uint64_t q0 = 0;

    peer_send(p, VHOST_SET_OWNER, VHOST_NEED_REPLY, NULL, 0, NULL, 0);
    peer_send(p, VHOST_GET_FEATURES, VHOST_NEED_REPLY, NULL, 0, NULL, 0);
    peer_expect(p, VHOST_GET_FEATURES, 8);
    peer_send(p, VHOST_SET_FEATURES, VHOST_NEED_REPLY, &features, 8, NULL, 0);
    assert_false(peer_reply(p)); /* not before it is negotiated */
    peer_send(p, VHOST_GET_PROTOCOL_FEATURES, VHOST_NEED_REPLY, NULL, 0, NULL, 0);
    peer_expect(p, VHOST_GET_PROTOCOL_FEATURES, 8);
    assert_int_equal(peer_ack(p, VHOST_SET_PROTOCOL_FEATURES, &protocol, 8, NULL, 0), 0);
    peer_add_memory(p);
    peer_ring_init(p, 0, 64, false);
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_NUM, num, 8, NULL, 0), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_BASE, base, 8, NULL, 0), 0);
    peer_addr(p, 0, 0);
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_KICK, &q0, 8, &p->kick[0], 1), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_CALL, &q0, 8, &p->call[0], 1), 0);
    assert_int_equal(peer_ack(p, VHOST_SET_VRING_ENABLE, enable, 8, NULL, 0), 0);
    peer_io(p, 0, 30);
}

/* SPDK's initiator: the whole configuration space, tables at full size, polling without eventfds.
 */
static void spdk_initiator(void **state)
{
    struct peer *p = *state;
    uint32_t config[3 + VHOST_MAX_CONFIG / 4] = {0, VHOST_MAX_CONFIG};
    uint64_t table[1 + 8 * 4] = {1, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0};

    peer_empty(p, VHOST_SET_OWNER);
    peer_ask_u64(p, VHOST_GET_FEATURES);
    peer_ask_u64(p, VHOST_GET_PROTOCOL_FEATURES);
    peer_u64(p, VHOST_SET_PROTOCOL_FEATURES, 1ull << VHOST_F_MQ | 1ull << VHOST_F_CONFIG);
    assert_int_equal(peer_ask_u64(p, VHOST_GET_QUEUE_NUM), TOY_QUEUES);
    peer_send(p, VHOST_GET_CONFIG, 0, config, sizeof(config), NULL, 0);
    peer_expect(p, VHOST_GET_CONFIG, sizeof(config));
    peer_u64(p, VHOST_SET_FEATURES, F_V1 | F_PROTOCOL);
    peer_send(p, VHOST_SET_MEM_TABLE, 0, table, sizeof(table), &p->mem_fd, 1);
    peer_ring_init(p, 0, 64, false);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, p->call[0]);
    peer_state(p, VHOST_SET_VRING_NUM, 0, 64);
    peer_state(p, VHOST_SET_VRING_BASE, 0, 0);
    peer_addr(p, 0, 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, -1);
    peer_state(p, VHOST_SET_VRING_ENABLE, 0, 1);
    assert_true(peer_started(p, 0));
    assert_int_equal(p->toy->queues[0].ring.kick, -1);
    assert_int_equal(peer_get_base(p, 0), 0);
    peer_empty(p, VHOST_RESET_OWNER);
    assert_true(peer_alive(p));
}

#define ORDER(name) cmocka_unit_test_prestate_setup_teardown(name, setup, teardown, #name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ORDER(qemu_blk_start_stop_cont),
        ORDER(qemu_blk_reconnect_split),
        ORDER(qemu_blk_reconnect_packed),
        ORDER(qemu_blk_migrate),
        ORDER(seabios_then_linux),
        ORDER(a_log_for_another_size_is_of_a_ring_that_is_gone),
        ORDER(dpdk_virtio_user),
        ORDER(libblkio),
        ORDER(spdk_initiator),
    };

    return cmocka_run_group_tests_name("vhost-user message orders", tests, NULL, NULL);
}
