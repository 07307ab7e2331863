/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_fds.c - descriptors that are not what they should be: too many, of the wrong kind,
 * full, or files that shrink.
 */
#include "fds.h"
#include "vhost_peer.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

/* cmocka puts its own handler in place of ours for each test. */
static struct sigaction guard_action;

static unsigned fds_before;

static int setup(void **state)
{
    fds_before = count_fds();
    *state = peer_new(PROTOCOL_ALL);
    return 0;
}

static int teardown(void **state)
{
    peer_free(*state);
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

static void trap_21_a_truncated_memory_file_breaks_one_session(void **state)
{
    struct peer *p = *state, *other = peer_new(PROTOCOL_ALL);
    struct sigaction cmocka_action;

    sigaction(SIGBUS, &guard_action, &cmocka_action);
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_io(p, 0, 1);
    assert_int_equal(ftruncate(p->mem_fd, 0), 0);
    eventfd_write(p->kick[0], 1);
    peer_turn(p);
    peer_empty(p, VHOST_GET_FEATURES);
    peer_broke(p, "truncated");
    peer_negotiate(other, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_free(other);
    assert_int_equal(ftruncate(p->mem_fd, PEER_MEM_SIZE), 0);
    sigaction(SIGBUS, &cmocka_action, NULL);
}

static void trap_21_a_truncated_inflight_region_breaks_one_session(void **state)
{
    struct peer *p = *state;
    struct vhost_inflight region = {.mmap_size = 65536, .num_queues = 1, .queue_size = 128};
    struct sigaction cmocka_action;
    int fd = memfd_create("region", MFD_CLOEXEC);

    sigaction(SIGBUS, &guard_action, &cmocka_action);
    assert_int_equal(ftruncate(fd, 65536), 0);
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_send(p, VHOST_SET_INFLIGHT_FD, 0, &region, sizeof(region), &fd, 1);
    peer_start_ring(p, 0, 128, 0, false);
    assert_int_equal(ftruncate(fd, 0), 0);
    peer_io(p, 0, 2);
    peer_empty(p, VHOST_GET_FEATURES);
    peer_broke(p, "truncated");
    close(fd);
    sigaction(SIGBUS, &cmocka_action, NULL);
}

static void trap_21_a_full_call_eventfd_does_not_block(void **state)
{
    struct peer *p = *state;
    int full = eventfd(0, EFD_CLOEXEC); /* and it blocks */

    assert_int_equal(eventfd_write(full, UINT64_MAX - 1), 0);
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    peer_start_ring(p, 0, 128, 0, false);
    peer_ring_fd(p, VHOST_SET_VRING_CALL, 0, full);
    assert_true(fcntl(full, F_GETFL) & O_NONBLOCK);
    peer_io(p, 0, 2);
    close(full);
}

static void trap_21_only_eventfds_are_taken(void **state)
{
    struct peer *p = *state;
    uint64_t q0 = 0;

    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    for (uint32_t r = VHOST_SET_VRING_KICK; r <= VHOST_SET_VRING_ERR; r++) {
        int pipes[2];

        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        assert_int_not_equal(peer_ack(p, r, &q0, 8, &pipes[1], 1), 0);
        assert_int_not_equal(peer_ack(p, r, &q0, 8, &p->mem_fd, 1), 0);
        assert_int_not_equal(peer_ack(p, r, &q0, 8, &p->sock, 1), 0);
        assert_int_not_equal(peer_ack(p, r, &q0, 8, NULL, 0), 0);
        close(pipes[0]);
        close(pipes[1]);
    }
    assert_true(peer_alive(p));
}

/* More descriptors than any message may have: the kernel closes some, we the rest. */
static void twenty_descriptors(void **state)
{
    struct peer *p = *state;
    struct vhost_header h = {VHOST_GET_FEATURES, VHOST_VERSION, 0};
    union {
        char buf[CMSG_SPACE(20 * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov = {&h, sizeof(h)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.buf,
                         .msg_controllen = sizeof(control.buf)};

    int fds[20];

    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = p->mem_fd;
    control.align = (struct cmsghdr){CMSG_LEN(sizeof(fds)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(control.buf + CMSG_LEN(0), fds, sizeof(fds));
    assert_int_equal(sendmsg(p->sock, &msg, 0), sizeof(h));
    peer_broke(p, "descriptors");
}

/* One with each byte: the ninth is one too many. */
static void a_descriptor_with_every_byte(void **state)
{
    struct peer *p = *state;
    struct vhost_header h = {VHOST_SET_MEM_TABLE, VHOST_VERSION, 8};

    for (unsigned i = 0; i < 9; i++) {
        union {
            char buf[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } control = {{0}};
        struct iovec iov = {(char *)&h + i, 1};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.buf,
                             .msg_controllen = sizeof(control.buf)};

        assert_true(peer_alive(p));
        control.align = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), &p->mem_fd, sizeof(int));
        assert_int_equal(sendmsg(p->sock, &msg, 0), 1);
        peer_turn(p);
    }
    peer_broke(p, "descriptors");
}

#define FDS(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FDS(trap_21_a_truncated_memory_file_breaks_one_session),
        FDS(trap_21_a_truncated_inflight_region_breaks_one_session),
        FDS(trap_21_a_full_call_eventfd_does_not_block),
        FDS(trap_21_only_eventfds_are_taken),
        FDS(twenty_descriptors),
        FDS(a_descriptor_with_every_byte),
    };

    memmap_guard_install();
    sigaction(SIGBUS, NULL, &guard_action);
    return cmocka_run_group_tests_name("vhost-user descriptors", tests, NULL, NULL);
}
