/* SPDX-License-Identifier: MIT */
/*
 * link_front.h - both ends of a link in one process, and a front end that speaks vhost-user with the keeper's:
 * for the tests of links and of transfers.
 */
#ifndef TESTS_LINK_FRONT_H
#define TESTS_LINK_FRONT_H

#include "link_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <cmocka.h>

#define GPA     0x10000ull
#define UVA     0x7f0000000000ull
#define MEMORY  0x10000ull
#define PATIENT DT_MS(200)

static struct loop *loop;
static struct vhost_proxy *proxy;
static unsigned readies, losses, recoveries, releases, closes;
static struct vhost_recovery recovery;
static char lost_reason[256];

static inline void on_ready(void *arg)
{
    readies++;
}

static inline void on_lost(void *arg, const char *reason)
{
    losses++;
    snprintf(lost_reason, sizeof(lost_reason), "%s", reason ? reason : "");
}

static inline void on_recovered(void *arg, const struct vhost_recovery *r)
{
    recoveries++;
    recovery = *r;
}

static inline void on_released(void *arg)
{
    releases++;
}

static inline void on_closed(void *arg, const char *reason)
{
    closes++;
}

static const struct vhost_proxy_ops ops = {.ready = on_ready,
                                           .lost = on_lost,
                                           .recovered = on_recovered,
                                           .released = on_released,
                                           .closed = on_closed};

static inline void turn(void)
{
    for (unsigned idle = 0; idle < 3;)
        idle = loop_turn(loop, false) ? 0 : idle + 1;
}

static inline int setup(void **state)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct dt_error err;

    assert_int_equal(loop_new(&loop, &config, &err), 0);
    proxy = vhost_proxy_new(loop, "test", PATIENT, &ops, NULL);
    readies = losses = recoveries = releases = closes = 0;
    lost_reason[0] = '\0';
    return 0;
}

static inline void pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static inline void new_worker_in_mode(struct link_device *device, uint8_t mode)
{
    struct dt_error err;
    int fds[2];

    pair(fds);
    assert_int_equal(link_device_new_mode(device, loop, fds[0], mode, &err), 0);
    assert_int_equal(vhost_proxy_link(proxy, fds[1], true, &err), 0);
    turn();
}

static inline void new_worker(struct link_device *device)
{
    new_worker_in_mode(device, 1);
}

/* What the keeper sees of a death: its end of the link hangs up, and nothing is said before. */
static inline void end_worker(struct link_device *device)
{
    vhost_session_close(device->session);
    turn();
    vhost_remote_free(device->remote);
}

/* ---- A front end -------------------------------------------------------------------------------- */

static int front = -1, memory = -1;
static struct vhost_stream stream;

static inline void attach(void)
{
    struct dt_error err;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(vhost_proxy_attach(proxy, fds[1], &err), 0);
    front = fds[0];
    stream = (struct vhost_stream){.sock = front, .expect = VHOST_EXPECT_REPLIES};
    turn();
}

static inline void detach(void)
{
    close(front);
    turn();
}

static inline void say(struct vhost_message *m, uint32_t request, uint32_t size)
{
    m->header = (struct vhost_header){request, VHOST_VERSION, size};
    assert_int_equal(vhost_send(front, m, 100), 0);
    turn();
}

static inline void say_u64(uint32_t request, uint64_t value)
{
    struct vhost_message m = {.u64 = value};

    say(&m, request, sizeof(m.u64));
}

static inline void say_vring(uint32_t request, uint32_t index, uint32_t num)
{
    struct vhost_message m = {.vring = {index, num}};

    say(&m, request, sizeof(m.vring));
}

static inline bool answered(struct vhost_message *m)
{
    struct dt_error err;

    if (vhost_stream_read(&stream, &err) != 1)
        return false;
    *m = stream.message;
    return true;
}

static inline uint64_t ask_u64(uint32_t request)
{
    struct vhost_message m = {0};

    say(&m, request, 0);
    assert_true(answered(&m));
    return m.u64;
}

static inline void start_ring(void)
{
    struct vhost_message m = {.table = {.count = 1, .regions = {{GPA, MEMORY, UVA, 0}}}, .nfds = 1};
    int fd = eventfd(0, EFD_NONBLOCK);

    memory = memfd_create("memory", 0);
    assert_int_equal(ftruncate(memory, MEMORY), 0);
    say_u64(VHOST_SET_FEATURES, 1ull << VIRTIO_F_VERSION_1);
    m.fds[0] = memory;
    say(&m, VHOST_SET_MEM_TABLE, 8 + 32);
    say_vring(VHOST_SET_VRING_NUM, 0, 16);
    say_vring(VHOST_SET_VRING_BASE, 0, 3);
    m = (struct vhost_message){.addr = {.desc = UVA, .avail = UVA + 0x1000, .used = UVA + 0x2000}};
    say(&m, VHOST_SET_VRING_ADDR, sizeof(m.addr));
    m = (struct vhost_message){.u64 = 0, .nfds = 1, .fds = {fd}};
    say(&m, VHOST_SET_VRING_KICK, 8);
    close(fd);
}

static inline void set_mode(uint8_t mode)
{
    struct vhost_message m = {.config = {.offset = LINK_DEVICE_MODE, .size = 1, .data = {mode}}};

    say(&m, VHOST_SET_CONFIG, VHOST_CONFIG_HEADER + 1);
}

static inline uint8_t get_mode(void)
{
    struct vhost_message m = {.config = {.size = 60}};

    say(&m, VHOST_GET_CONFIG, VHOST_CONFIG_HEADER + 60);
    assert_true(answered(&m));
    return m.config.data[LINK_DEVICE_MODE];
}

/* The device stops its rings at 11. Its session ends with the front end. */
static inline void stop_and_detach(struct link_device *device)
{
    struct vhost_message m;

    say_vring(VHOST_GET_VRING_BASE, 0, 0);
    assert_true(answered(&m));
    assert_int_equal(m.vring.num, 11);
    detach();
    assert_int_equal(device->closed, 1);
    vhost_remote_free(device->remote);
}

static inline int teardown(void **state)
{
    if (vhost_proxy_attached(proxy)) /* a test failed half-way */
        detach();
    if (memory >= 0)
        close(memory);
    memory = -1;
    vhost_proxy_free(proxy);
    turn();
    loop_free(loop);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
