/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_hostile.c - a front end that means harm: every message cut, stretched, out of order,
 * with descriptors missing, spare or of the wrong kind. The session breaks with a reason or
 * refuses; nothing leaks, and the session beside it goes on.
 */
#include "fds.h"
#include "vhost_peer.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

/* A sane example of each request, for a session that was negotiated and has memory. */
struct example {
    uint32_t request, size;
    enum { NO_FD, EVENTFD, MEMORY, SOCKET, REGION_FILE } fd;
    uint64_t payload[34];
};

static const struct example examples[] = {
    {VHOST_GET_FEATURES},
    {VHOST_SET_FEATURES, 8, NO_FD, {F_V1 | F_PROTOCOL}},
    {VHOST_SET_OWNER},
    {VHOST_RESET_OWNER},
    {VHOST_SET_MEM_TABLE, 40, MEMORY, {1, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0}},
    {VHOST_SET_LOG_BASE, 16, REGION_FILE, {4096, 0}},
    {VHOST_SET_LOG_FD, 0, EVENTFD},
    {VHOST_SET_VRING_NUM, 8, NO_FD, {128ull << 32}},
    {VHOST_SET_VRING_ADDR, 40, NO_FD, {0, PEER_UVA, PEER_UVA + 8192, PEER_UVA + 4096, 0}},
    {VHOST_SET_VRING_BASE, 8, NO_FD, {5ull << 32}},
    {VHOST_GET_VRING_BASE, 8, NO_FD, {0}},
    {VHOST_SET_VRING_KICK, 8, EVENTFD, {0}},
    {VHOST_SET_VRING_CALL, 8, EVENTFD, {0}},
    {VHOST_SET_VRING_ERR, 8, EVENTFD, {0}},
    {VHOST_GET_PROTOCOL_FEATURES},
    {VHOST_SET_PROTOCOL_FEATURES, 8, NO_FD, {PROTOCOL_ALL}},
    {VHOST_GET_QUEUE_NUM},
    {VHOST_SET_VRING_ENABLE, 8, NO_FD, {1ull << 32}},
    {VHOST_SET_BACKEND_REQ_FD, 0, SOCKET},
    {VHOST_IOTLB_MSG, 32, NO_FD, {0}},
    {VHOST_GET_CONFIG, 20, NO_FD, {8ull << 32}},
    {VHOST_SET_CONFIG, 20, NO_FD, {8ull << 32}},
    {VHOST_GET_INFLIGHT_FD, 24, NO_FD, {0, 0, 4 | 128 << 16}},
    {VHOST_SET_INFLIGHT_FD, 24, REGION_FILE, {65536, 0, 4 | 128 << 16}},
    {VHOST_RESET_DEVICE},
    {VHOST_GET_MAX_MEM_SLOTS},
    {VHOST_ADD_MEM_REG, 40, MEMORY, {0, PEER_GPA * 2, 4096, PEER_UVA * 2, 0}},
    {VHOST_REM_MEM_REG, 40, NO_FD, {0, PEER_GPA, PEER_MEM_SIZE, PEER_UVA, 0}},
    {VHOST_SET_STATUS, 8, NO_FD, {0xf}},
    {VHOST_GET_STATUS},
};

#define MAX_OTHERS 8
struct others {
    int fd[MAX_OTHERS];
};

/* One descriptor of each kind, in the order of the enumeration, then kinds nobody should send. */
static void others_open(struct others *o, struct peer *p)
{
    o->fd[NO_FD] = eventfd(0, EFD_CLOEXEC);
    o->fd[EVENTFD] = eventfd(0, EFD_CLOEXEC);
    o->fd[MEMORY] = dup(p->mem_fd);
    o->fd[SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    o->fd[REGION_FILE] = memfd_create("region", MFD_CLOEXEC);
    assert_int_equal(ftruncate(o->fd[REGION_FILE], 65536), 0);
    o->fd[5] = open("/dev/null", O_RDWR | O_CLOEXEC);
    o->fd[6] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    o->fd[7] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static void others_close(struct others *o)
{
    for (unsigned i = 0; i < MAX_OTHERS; i++)
        close(o->fd[i]);
}

static void negotiate(struct peer *p, bool rings)
{
    peer_negotiate(p, F_V1 | F_PROTOCOL, PROTOCOL_ALL);
    peer_add_memory(p);
    if (rings)
        peer_start_ring(p, 0, 64, 0, false);
}

/* The session lives, or ended with a reason; a new one on the same loop works in any case. */
static void still_sane(struct peer *p)
{
    peer_turn(p);
    if (!peer_alive(p))
        assert_int_equal(p->toy->closes, 1);
    peer_reconnect(p, PROTOCOL_ALL);
}

static void send_raw(struct peer *p, const struct example *e, uint32_t flags, uint32_t size,
                     const int *fds, unsigned nfds)
{
    uint8_t payload[512] = {0};

    memcpy(payload, e->payload, sizeof(e->payload));
    peer_send(p, e->request, flags, payload, size, fds, nfds);
}

static void examples_are_sane(void **state)
{
    struct peer *p = *state;
    struct others o;

    others_open(&o, p);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *e = &examples[i];

        negotiate(p, false);
        if (e->request == VHOST_SET_MEM_TABLE)
            peer_remove_memory(p);
        send_raw(p, e, 0, e->size, &o.fd[e->fd], e->fd != NO_FD);
        if (!peer_alive(p))
            print_error("%s: %s\n", vhost_request_name(e->request), p->toy->reason);
        assert_true(peer_alive(p));
        peer_reconnect(p, PROTOCOL_ALL);
    }
    others_close(&o);
}

/* The peer dies after every number of bytes, with the descriptors already sent. */
static void cut_at_every_byte(void **state)
{
    struct peer *p = *state;
    struct others o;

    others_open(&o, p);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *e = &examples[i];
        struct vhost_message m = {.header = {e->request, VHOST_VERSION, e->size}};
        uint8_t wire[12 + 512];

        memcpy(m.raw, e->payload, sizeof(e->payload));
        memcpy(wire, &m.header, 12);
        memcpy(wire + 12, m.raw, sizeof(m.raw));
        for (uint32_t cut = 1; cut < 12 + e->size; cut++) {
            char control[CMSG_SPACE(sizeof(int))] = {0};
            struct iovec iov = {wire, cut};
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

            if (e->fd != NO_FD) {
                msg.msg_control = control;
                msg.msg_controllen = sizeof(control);
                *CMSG_FIRSTHDR(&msg) =
                    (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &o.fd[e->fd], sizeof(int));
            }
            assert_int_equal(sendmsg(p->sock, &msg, 0), cut);
            peer_turn(p);
            assert_true(peer_alive(p)); /* it waits for the rest */
            shutdown(p->sock, SHUT_WR);
            peer_broke(p, "hung up within");
            peer_reconnect(p, PROTOCOL_ALL);
        }
    }
    others_close(&o);
}

/* A message is the same whether it comes whole or byte by byte. */
static void byte_by_byte(void **state)
{
    struct peer *p = *state;
    struct vhost_message m = {.header = {VHOST_SET_STATUS, VHOST_VERSION, 8}, .u64 = 7};
    uint8_t wire[20];

    memcpy(wire, &m.header, 12);
    memcpy(wire + 12, m.raw, 8);
    for (unsigned i = 0; i < sizeof(wire); i++) {
        assert_int_equal(p->toy->statuses, 0);
        assert_int_equal(send(p->sock, wire + i, 1, 0), 1);
        peer_turn(p);
    }
    assert_int_equal(p->toy->status, 7);
}

static void every_wrong_size(void **state)
{
    struct peer *p = *state;
    struct others o;

    others_open(&o, p);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++)
        for (uint32_t size = 0; size <= 512; size += size < 64 ? 1 : 56) {
            negotiate(p, true);
            send_raw(p, &examples[i], VHOST_NEED_REPLY, size, &o.fd[examples[i].fd],
                     examples[i].fd != NO_FD);
            still_sane(p);
        }
    others_close(&o);
}

static void sizes_beyond_everything(void **state)
{
    struct peer *p = *state;
    static const uint32_t sizes[] = {513, 4096, INT32_MAX, UINT32_MAX - 11, UINT32_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct vhost_header known = {VHOST_SET_CONFIG, VHOST_VERSION, sizes[i]};
        struct vhost_header unknown = {999, VHOST_VERSION, sizes[i]};

        assert_int_equal(send(p->sock, &known, sizeof(known), 0), sizeof(known));
        peer_broke(p, "payload of");
        peer_reconnect(p, PROTOCOL_ALL);
        assert_int_equal(send(p->sock, &unknown, sizeof(unknown), 0), sizeof(unknown));
        peer_broke(p, "payload of");
        peer_reconnect(p, PROTOCOL_ALL);
    }
}

static void every_number_and_kind_of_descriptors(void **state)
{
    struct peer *p = *state;
    struct others o;

    others_open(&o, p);
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *e = &examples[i];

        for (unsigned n = 0; n <= MAX_OTHERS; n++) {
            negotiate(p, true);
            send_raw(p, e, VHOST_NEED_REPLY, e->size, o.fd, n);
            still_sane(p);
        }
        for (unsigned kind = 0; kind < MAX_OTHERS; kind++) {
            negotiate(p, false);
            send_raw(p, e, 0, e->size, &o.fd[kind], 1);
            still_sane(p);
        }
    }
    others_close(&o);
}

static void wrong_headers(void **state)
{
    struct peer *p = *state;

    for (uint32_t flags = 0; flags < 16; flags++) {
        struct vhost_header h = {VHOST_GET_FEATURES, flags, 0};

        assert_int_equal(send(p->sock, &h, sizeof(h), 0), sizeof(h));
        peer_turn(p);
        assert_int_equal(peer_alive(p), (flags & 7) == VHOST_VERSION);
        peer_reconnect(p, PROTOCOL_ALL);
    }
}

static void unknown_requests(void **state)
{
    struct peer *p = *state;

    for (uint32_t request = 0; request < 300; request++) {
        if (vhost_request_name(request)[0] != 'a')
            continue;
        negotiate(p, true);
        assert_int_not_equal(peer_ack(p, request, "12345678", 8, &p->mem_fd, 1), 0);
        peer_io(p, 0, 1);
        peer_empty(p, request);
        peer_broke(p, "not supported");
        peer_reconnect(p, PROTOCOL_ALL);
    }
}

/* Any order, under live rings, with numbers near the edges. */
static void at_random(void **state)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     255,
                                     256,
                                     0x100,
                                     32768,
                                     65535,
                                     1u << 31,
                                     UINT32_MAX,
                                     1ull << 63,
                                     UINT64_MAX,
                                     UINT64_MAX - 4095,
                                     PEER_UVA};
    struct peer *p = *state;
    struct dt_rng rng;
    struct others o;

    dt_rng_seed(&rng, 7);
    others_open(&o, p);
    for (unsigned i = 0; i < 1500; i++) {
        if (i % 5 == 0) {
            peer_reconnect(p, PROTOCOL_ALL);
            negotiate(p, dt_rng_below(&rng, 2));
        }
        struct example e = examples[dt_rng_below(&rng, ARRAY_SIZE(examples))];
        uint64_t where = dt_rng_below(&rng, 6);

        if (dt_rng_below(&rng, 3) == 0)
            e.payload[where] = edges[dt_rng_below(&rng, ARRAY_SIZE(edges))];
        send_raw(p, &e, dt_rng_below(&rng, 2) ? VHOST_NEED_REPLY : 0, e.size, &o.fd[e.fd],
                 e.fd != NO_FD);
        if (peer_started(p, 0))
            eventfd_write(p->kick[0], 1);
    }
    others_close(&o);
}

static void hostile_values(void **state)
{
    struct peer *p = *state;
    int region = memfd_create("region", MFD_CLOEXEC);
    static const uint64_t inflights[][3] = {
        {0, 0, 4 | 128 << 16},
        {65536, 1, 4 | 128 << 16},
        {65536, 4096, 4 | 128 << 16},
        {UINT64_MAX, 0, 4 | 128 << 16},
        {65536, UINT64_MAX - 7, 4 | 128 << 16},
        {65536, 0, 0},
        {65536, 0, 65535 | 65535u << 16},
        {8192, 0, 4 | 128 << 16},
        {65536, 0, 257 | 1 << 16},
    };
    static const uint64_t logs[][2] = {{0, 0}, {UINT64_MAX, 0}, {4096, 65536}, {65537, 0}};
    static const uint64_t regions[][5] = {
        {0, 0, 0, 0, 0},
        {0, PEER_GPA, 4096, PEER_UVA * 2, 0},          /* overlaps */
        {0, UINT64_MAX - 4095, 8192, PEER_UVA * 2, 0}, /* wraps around */
        {0, 0, 4096, UINT64_MAX - 100, 0},
        {0, 0, PEER_MEM_SIZE, PEER_UVA * 2, 4096}, /* beyond the file */
        {0, 0, UINT64_MAX / 2, 0, UINT64_MAX / 2},
    };

    assert_int_equal(ftruncate(region, 65536), 0);
    negotiate(p, true);
    for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
        assert_int_not_equal(
            peer_ack(p, VHOST_ADD_MEM_REG, regions[i], sizeof(regions[i]), &p->mem_fd, 1), 0);
    peer_io(p, 0, 5);
    peer_get_base(p, 0);
    for (size_t i = 0; i < ARRAY_SIZE(inflights); i++)
        assert_int_not_equal(
            peer_ack(p, VHOST_SET_INFLIGHT_FD, inflights[i], sizeof(inflights[i]), &region, 1), 0);
    peer_ring_fd(p, VHOST_SET_VRING_KICK, 0, p->kick[0]);
    peer_io(p, 0, 5);
    for (size_t i = 0; i < ARRAY_SIZE(logs); i++) {
        peer_send(p, VHOST_SET_LOG_BASE, 0, logs[i], sizeof(logs[i]), &region, 1);
        peer_broke(p, "SET_LOG_BASE");
        peer_reconnect(p, PROTOCOL_ALL);
        negotiate(p, true);
    }
    close(region);
}

/* Everything above ran on these; what it leaves behind would be seen here. */
static unsigned fds_before;

static int setup(void **state)
{
    fds_before = count_fds();
    *state = peer_new(PROTOCOL_ALL);
    return 0;
}

static int teardown(void **state)
{
    struct peer *p = *state;

    peer_reconnect(p, PROTOCOL_ALL);
    negotiate(p, true);
    peer_io(p, 0, 10);
    peer_free(p);
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

#define HOSTILE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOSTILE(examples_are_sane),
        HOSTILE(cut_at_every_byte),
        HOSTILE(byte_by_byte),
        HOSTILE(every_wrong_size),
        HOSTILE(sizes_beyond_everything),
        HOSTILE(every_number_and_kind_of_descriptors),
        HOSTILE(wrong_headers),
        HOSTILE(unknown_requests),
        HOSTILE(at_random),
        HOSTILE(hostile_values),
    };

    /* Thousands of sessions break here, and each says why. */
    if (!getenv("DEVTAP_TEST_LOG"))
        assert_non_null(freopen("/dev/null", "w", stderr));
    return cmocka_run_group_tests_name("vhost-user, hostile front ends", tests, NULL, NULL);
}
