/* SPDX-License-Identifier: MIT */
/*
 * test_vhost_frontend.c - our front end drives our back end, which runs in a thread of its own; and
 * it meets back ends that answer wrongly or not at all.
 */
#include "fds.h"
#include "vhost/frontend.h"
#include "vhost_peer.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

/* The back end's thread: a loop with one toy. */
struct rear {
    struct loop *loop;
    struct toy *toy;
    pthread_t thread;
    struct loop_message stop, notify;
};

static void *rear_main(void *arg)
{
    loop_run(((struct rear *)arg)->loop);
    return NULL;
}

static struct vhost_frontend *rear_open(struct rear *r, uint64_t protocol)
{
    struct loop_config config = {.engine = LOOP_EPOLL};
    struct vhost_frontend *f;
    struct dt_error err;
    int pair[2];

    assert_int_equal(loop_new(&r->loop, &config, &err), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    r->toy = toy_new(r->loop, pair[1], protocol);
    assert_int_equal(pthread_create(&r->thread, NULL, rear_main, r), 0);
    assert_int_equal(vhost_frontend_new(&f, pair[0], 5000, &err), 0);
    return f;
}

static void rear_stop(struct loop_message *m)
{
    loop_stop(container_of(m, struct rear, stop)->loop);
}

static void rear_close(struct rear *r, struct vhost_frontend *f)
{
    vhost_frontend_free(f);
    r->stop.run = rear_stop;
    loop_post(r->loop, &r->stop);
    pthread_join(r->thread, NULL);
    toy_free(r->toy);
    loop_free(r->loop);
}

static void rear_notify(struct loop_message *m)
{
    vhost_backend_notify_config(container_of(m, struct rear, notify)->toy->session);
}

static bool notified;

static void rear_notify_often(struct loop_message *m)
{
    for (unsigned i = 0; i < 150; i++)
        rear_notify(m);
    __atomic_store_n(&notified, true, __ATOMIC_RELEASE);
}

#define WANTED (F_V1 | F_PACKED)

static int guest_memory(uint8_t **mem)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, PEER_MEM_SIZE), 0);
    *mem = mmap(NULL, PEER_MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return fd;
}

static void io(struct virtq_driver *d, int kick, int call, unsigned n)
{
    struct virtq_buffer bufs[] = {{PEER_GPA + PEER_BUFFERS, 16}, {PEER_GPA + PEER_BUFFERS, 512}};
    unsigned done = 0;

    for (unsigned i = 0; i < n; i++)
        assert_true(virtq_driver_add(d, bufs, 1, 1) >= 0);
    if (virtq_driver_publish(d))
        eventfd_write(kick, 1);
    while (done < n) {
        struct pollfd p = {.fd = call, .events = POLLIN};
        eventfd_t value;
        uint16_t ids[64];
        int got = virtq_driver_reap(d, ids, NULL, ARRAY_SIZE(ids));

        assert_true(got >= 0);
        done += (unsigned)got;
        if (got == 0 && virtq_driver_arm(d)) {
            assert_int_equal(poll(&p, 1, 5000), 1);
            eventfd_read(call, &value);
        }
    }
}

static void ask_config(struct vhost_frontend *f)
{
    uint8_t config[TOY_CONFIG];
    struct dt_error err = {""};

    assert_int_equal(vhost_frontend_get_config(f, config, 4, 10, &err), 0);
    assert_int_equal(config[0], 5);
    assert_int_equal(vhost_frontend_get_config(f, config, 200, 10, &err), -EIO);
    assert_int_equal(vhost_frontend_set_config(f, "xy", 0, 2, &err), 0);
}

/* Memory goes and comes under the live ring. */
static void swap_memory(struct vhost_frontend *f, int fd)
{
    const uint64_t half = PEER_MEM_SIZE / 2;
    struct dt_error err = {""};

    assert_int_equal(vhost_frontend_remove_memory(f, PEER_GPA, PEER_UVA, half, &err), 0);
    assert_int_equal(vhost_frontend_remove_memory(f, PEER_GPA, PEER_UVA, 1, &err), -ENOENT);
    assert_int_equal(vhost_frontend_add_memory(f, PEER_GPA, PEER_UVA, half, fd, 0, &err), 0);
}

/* From the first question to the last answer, with what the back end was made to offer. */
static void drive(uint64_t protocol_offered)
{
    uint64_t features = WANTED, protocol = PROTOCOL_ALL;
    struct vhost_inflight region;
    struct virtq_driver d = {0};
    struct vhost_frontend_ring ring;
    struct vhost_frontend *f;
    struct dt_error err = {""};
    uint8_t *mem;
    int fd = guest_memory(&mem), kick = eventfd(0, EFD_NONBLOCK), call = eventfd(0, EFD_NONBLOCK);
    int inflight = -1;
    struct rear r = {0};
    unsigned queues;
    uint32_t base;

    f = rear_open(&r, protocol_offered);
    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, F_V1, &queues, &err), 0);
    assert_int_equal(features, WANTED);
    assert_int_equal(protocol, protocol_offered);
    assert_int_equal(queues, protocol & 1ull << VHOST_F_MQ ? TOY_QUEUES : 1);
    if (protocol & 1ull << VHOST_F_CONFIG)
        ask_config(f);
    if (protocol & 1ull << VHOST_F_INFLIGHT_SHMFD)
        assert_int_equal(vhost_frontend_inflight(f, queues, 64, &inflight, &region, &err), 0);
    assert_int_equal(
        vhost_frontend_add_memory(f, PEER_GPA, PEER_UVA, PEER_MEM_SIZE / 2, fd, 0, &err), 0);
    assert_int_equal(vhost_frontend_add_memory(f, PEER_GPA + PEER_MEM_SIZE / 2, PEER_UVA * 2,
                                               PEER_MEM_SIZE / 2, fd, PEER_MEM_SIZE / 2, &err),
                     0);
    assert_int_equal(virtq_driver_init(&d, 64, true, false, mem, PEER_GPA), 0);
    ring = (struct vhost_frontend_ring){.size = 64,
                                        .base = 0x80008000,
                                        .desc = PEER_UVA + d.desc_off,
                                        .driver = PEER_UVA + d.driver_off,
                                        .device = PEER_UVA + d.device_off,
                                        .kick = kick,
                                        .call = call};
    assert_int_equal(vhost_frontend_ring_start(f, 0, &ring, &err), 0);
    io(&d, kick, call, 10);
    swap_memory(f, fd);
    io(&d, kick, call, 10);
    assert_int_equal(vhost_frontend_ring_stop(f, 0, &base, &err), 0);
    assert_int_equal(base, 40 | 40u << 16 | 0x80008000);
    if (protocol & 1ull << VHOST_F_STATUS)
        assert_int_equal(vhost_frontend_set_status(f, 0, &err), 0);
    if (protocol & 1ull << VHOST_F_RESET_DEVICE)
        assert_int_equal(vhost_frontend_reset(f, &err), 0);
    rear_close(&r, f);
    virtq_driver_fini(&d);
    munmap(mem, PEER_MEM_SIZE);
    close(fd);
    close(kick);
    close(call);
    if (inflight >= 0)
        close(inflight);
}

static void all_features(void **state)
{
    unsigned before = count_fds();

    drive(PROTOCOL_ALL);
    assert_int_equal(count_fds(), before);
}

/* Without REPLY_ACK and slots: barriers and whole tables. */
static void trap_12_barriers_without_reply_ack(void **state)
{
    drive(1ull << VHOST_F_MQ | 1ull << VHOST_F_CONFIG);
    drive(0);
}

static void missing_features(void **state)
{
    uint64_t features = 0, protocol = 0;
    struct dt_error err = {""};
    struct rear r = {0};
    struct vhost_frontend *f = rear_open(&r, PROTOCOL_ALL);
    unsigned queues;

    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 1ull << 50, &queues, &err),
                     -ENOTSUP);
    assert_non_null(strstr(err.text, "0x4000000000000"));
    rear_close(&r, f);
}

static void a_refusal_leaves_the_session_in_step(void **state)
{
    uint64_t features = WANTED, protocol = PROTOCOL_ALL;
    struct dt_error err = {""};
    struct rear r = {0};
    struct vhost_frontend *f = rear_open(&r, PROTOCOL_ALL);
    uint8_t *mem;
    int fd = guest_memory(&mem);
    unsigned queues;

    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), 0);
    assert_int_equal(vhost_frontend_add_memory(f, 0, 0, PEER_MEM_SIZE * 2, fd, 0, &err), -EIO);
    assert_non_null(strstr(err.text, "ADD_MEM_REG"));
    assert_int_equal(vhost_frontend_add_memory(f, 0, 0, PEER_MEM_SIZE, fd, 0, &err), 0);
    rear_close(&r, f);
    munmap(mem, PEER_MEM_SIZE);
    close(fd);
}

/* More than fit into one go, one of them refused, and a question among them. */
static void run_batch(uint64_t offered)
{
    uint64_t features = WANTED, protocol = PROTOCOL_ALL;
    struct vhost_frontend_ring bad = {.size = 3, .kick = -1, .call = -1};
    uint8_t config[TOY_CONFIG];
    struct dt_error err = {""};
    struct rear r = {0};
    struct vhost_frontend *f = rear_open(&r, offered);
    unsigned queues;
    int ret = 0;

    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), 0);
    vhost_frontend_batch(f);
    for (unsigned i = 0; ret == 0 && i < 100; i++)
        ret = vhost_frontend_set_features(f, WANTED, &err);
    assert_int_equal(vhost_frontend_get_config(f, config, 0, 4, &err), 0);
    assert_int_equal(vhost_frontend_flush(f, ret, &err), 0);
    vhost_frontend_batch(f);
    if (offered & 1ull << VHOST_F_REPLY_ACK) {
        assert_int_equal(vhost_frontend_set_config(f, "xy", 250, 2, &err), 0);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(vhost_frontend_set_features(f, WANTED, &err), 0);
        assert_int_equal(vhost_frontend_flush(f, 0, &err), -EIO);
        assert_non_null(strstr(err.text, "SET_CONFIG"));
    }
    vhost_frontend_batch(f);
    assert_int_equal(vhost_frontend_ring_start(f, VHOST_MAX_QUEUES, &bad, &err), -EINVAL);
    assert_int_equal(vhost_frontend_flush(f, -EINVAL, &err), -EINVAL); /* what came first is told */
    assert_int_equal(vhost_frontend_get_config(f, config, 0, 4, &err), 0);
    rear_close(&r, f);
}

static void a_batch_is_one_round_trip(void **state)
{
    run_batch(PROTOCOL_ALL);
    run_batch(1ull << VHOST_F_MQ | 1ull << VHOST_F_CONFIG);
}

static void events_arrive(void **state)
{
    uint64_t features = WANTED, protocol = PROTOCOL_ALL;
    struct dt_error err = {""};
    struct rear r = {0};
    struct vhost_frontend *f = rear_open(&r, PROTOCOL_ALL);
    struct pollfd p;
    unsigned queues;
    bool changed;

    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), 0);
    assert_int_equal(vhost_frontend_events(f, &changed), 0);
    assert_false(changed);
    r.notify.run = rear_notify;
    loop_post(r.loop, &r.notify);
    p = (struct pollfd){.fd = vhost_frontend_backend_fd(f), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(vhost_frontend_events(f, &changed), 0);
    assert_true(changed);
    rear_close(&r, f);
}

/* One that never stops sending must not keep the caller for ever: some are read, and the rest stays. */
static void events_without_end(void **state)
{
    uint64_t features = WANTED, protocol = PROTOCOL_ALL;
    struct dt_error err = {""};
    struct rear r = {0};
    struct vhost_frontend *f = rear_open(&r, PROTOCOL_ALL);
    struct pollfd p;
    unsigned queues, calls = 0;
    bool changed = true;

    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), 0);
    r.notify.run = rear_notify_often;
    loop_post(r.loop, &r.notify);
    while (!__atomic_load_n(&notified, __ATOMIC_ACQUIRE))
        usleep(1000);
    p = (struct pollfd){.fd = vhost_frontend_backend_fd(f), .events = POLLIN};
    for (; poll(&p, 1, 0) == 1; calls++) {
        assert_int_equal(vhost_frontend_events(f, &changed), 0);
        assert_true(changed);
    }
    assert_in_range(calls, 2, 150);
    rear_close(&r, f);
}

/* ---- Back ends that do not know how ---- */

/* Answers the first question with these bytes, and perhaps a descriptor. */
static void answer_with(const struct vhost_message *m, size_t bytes, int expect)
{
    uint64_t features = 0, protocol = 0;
    struct dt_error err = {""};
    struct vhost_frontend *f;
    unsigned queues;
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    if (bytes > 12)
        assert_int_equal(vhost_send(pair[1], m, 100), 0);
    else if (bytes)
        assert_int_equal(send(pair[1], &m->header, bytes, 0), bytes);
    else
        shutdown(pair[1], SHUT_WR);
    assert_int_equal(vhost_frontend_new(&f, pair[0], 20, &err), 0);
    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), expect);
    assert_non_null(strstr(err.text, "GET_FEATURES"));
    /* Out of step: nothing more is said. */
    assert_int_equal(vhost_frontend_negotiate(f, &features, &protocol, 0, &queues, &err), -EPIPE);
    vhost_frontend_free(f);
    close(pair[1]);
}

static void wrong_answers(void **state)
{
    const struct vhost_message right = {.header = {VHOST_GET_FEATURES, 5, 8}};
    struct vhost_message m;
    unsigned before = count_fds();

    answer_with(&right, 0, -ECONNRESET);
    answer_with(&right, 7, -ETIMEDOUT);
    answer_with(&right, 12, -ETIMEDOUT);
    for (uint32_t flags = 0; flags < 8; flags++) {
        m = right;
        m.header.flags = flags;
        if (flags != 5)
            answer_with(&m, 20, -EPROTO);
    }
    m = right;
    m.header.request = VHOST_GET_QUEUE_NUM;
    answer_with(&m, 20, -EPROTO);
    m = right;
    m.header.size = 4;
    answer_with(&m, 16, -EPROTO);
    m = right;
    m.fds[m.nfds++] = STDERR_FILENO;
    answer_with(&m, 20, -EPROTO);
    assert_int_equal(count_fds(), before);
}

static void paths(void **state)
{
    struct vhost_frontend *f;
    struct dt_error err;
    char path[200];

    assert_int_equal(vhost_frontend_connect(&f, "/nonexistent/socket", 10, &err), -ENOENT);
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(vhost_frontend_connect(&f, path, 10, &err), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_features),
        cmocka_unit_test(trap_12_barriers_without_reply_ack),
        cmocka_unit_test(missing_features),
        cmocka_unit_test(a_refusal_leaves_the_session_in_step),
        cmocka_unit_test(a_batch_is_one_round_trip),
        cmocka_unit_test(events_arrive),
        cmocka_unit_test(events_without_end),
        cmocka_unit_test(wrong_answers),
        cmocka_unit_test(paths),
    };

    return cmocka_run_group_tests_name("vhost-user front end", tests, NULL, NULL);
}
