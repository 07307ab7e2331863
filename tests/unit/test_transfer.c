/* SPDX-License-Identifier: MIT */
/*
 * test_transfer.c - a keeper's session goes to another keeper, both in this process: the front end
 * notices nothing; what comes damaged is refused, and the keeper of before goes on.
 */
#include "link_front.h"

#include "vhost/transfer.h"
#include <sys/stat.h>

/* Everything that @p is, as it comes out at the other end. */
static struct transfer *sent(struct vhost_proxy *p)
{
    struct transfer *t = transfer_new();
    struct dt_error err = {""};
    int fds[2];

    pair(fds);
    assert_int_equal(vhost_proxy_send(p, fds[0], &err), 0);
    assert_int_equal(transfer_receive(fds[1], t, &err), 1);
    close(fds[0]);
    close(fds[1]);
    return t;
}

static void let_worker_go(struct link_device *device)
{
    vhost_proxy_release(proxy);
    turn();
    assert_int_equal(device->lost, 1);
    vhost_remote_free(device->remote);
}

/* As when the keeper of before is killed: its descriptors are closed, and nobody was told anything.
 */
static void end_keeper(void)
{
    vhost_proxy_close(proxy);
    turn();
    vhost_proxy_free(proxy);
}

static void change_keeper(void)
{
    struct vhost_proxy *next = vhost_proxy_new(loop, "next", PATIENT, &ops, NULL);
    struct transfer *t = sent(proxy);
    struct dt_error err = {""};

    assert_int_equal(vhost_proxy_adopt(next, t, &err), 0);
    transfer_free(t, true);
    end_keeper();
    proxy = next;
}

static unsigned open_files(void)
{
    unsigned n = 0;
    struct stat st;

    for (int fd = 0; fd < 256; fd++)
        n += fstat(fd, &st) == 0;
    return n;
}

/* ---- Tests ---- */

static void test_session_goes_on(void **state)
{
    struct link_device first, second;

    new_worker(&first);
    attach();
    start_ring();
    set_mode(0);
    let_worker_go(&first);
    change_keeper();
    say_vring(VHOST_SET_VRING_ENABLE, 1, 1); /* waits in the socket */
    new_worker(&second);                     /* serves before the front end is heard again */
    assert_int_equal(second.starts, 1);
    assert_true(second.recover[0]);
    assert_int_equal(second.mode, 0);
    assert_int_equal(recoveries, 1);
    vhost_proxy_thaw(proxy);
    turn();
    assert_int_equal(get_mode(), 0);
    stop_and_detach(&second);
}

/* Without a VM it is the promise alone that goes on. */
static void test_nobody_attached(void **state)
{
    struct link_device first, second;

    new_worker(&first);
    attach();
    set_mode(0);
    detach();
    let_worker_go(&first);
    change_keeper();
    assert_true(vhost_proxy_ready(proxy));
    new_worker(&second);
    assert_int_equal(losses, 0);
    attach();
    assert_int_equal(get_mode(), 0);
    detach();
    vhost_remote_free(second.remote);
}

static void test_not_now(void **state)
{
    struct link_device device;
    struct dt_error err = {""};
    struct vhost_header half = {VHOST_GET_FEATURES, VHOST_VERSION, 0};
    int fds[2];

    pair(fds);
    new_worker(&device);
    attach();
    assert_int_equal(vhost_proxy_send(proxy, fds[0], &err), -EBUSY); /* a worker serves */
    let_worker_go(&device);
    assert_int_equal(write(front, &half, 4), 4);
    turn();
    assert_int_equal(vhost_proxy_send(proxy, fds[0], &err), -EBUSY); /* half a message came */
    assert_non_null(strstr(err.text, "in the middle"));
    assert_int_equal(write(front, (char *)&half + 4, sizeof(half) - 4), sizeof(half) - 4);
    turn();
    assert_true(answered(&(struct vhost_message){0})); /* and it was heard all the same */
    close(fds[0]);                                     /* a successor that died */
    close(fds[1]);
    pair(fds);
    close(fds[1]);
    assert_true(vhost_proxy_send(proxy, fds[0], &err) < 0);
    assert_true(ask_u64(VHOST_GET_FEATURES) & 1ull << VIRTIO_F_VERSION_1);
    close(fds[0]);
    detach();
}

/* One thing is wrong: refused, and nothing is left open. */
static void refuse(struct transfer *t, const char *what, const char *why)
{
    struct vhost_proxy *next = vhost_proxy_new(loop, "next", PATIENT, &ops, NULL);
    struct dt_error err = {""};
    unsigned before = open_files();

    if (vhost_proxy_adopt(next, t, &err) == 0)
        fail_msg("%s was taken", what);
    if (!strstr(err.text, why))
        fail_msg("%s: %s", what, err.text);
    assert_int_equal(open_files(), before);
    vhost_proxy_free(next);
    turn();
}

static void swap_fds(int *a, int *b)
{
    int fd = *a;

    *a = *b;
    *b = fd;
}

#define SPOILT(field, value, why)                            \
    do {                                                     \
        __typeof__(t->state.field) before_ = t->state.field; \
        t->state.field = (__typeof__(before_))(value);       \
        refuse(t, #field, why);                              \
        t->state.field = before_;                            \
    } while (0)

static void test_damaged(void **state)
{
    struct link_device device;
    struct vhost_message m;
    struct transfer *t;

    new_worker(&device);
    attach();
    start_ring();
    let_worker_go(&device);
    t = sent(proxy);
    SPOILT(floor.queues, 0, "queues");
    SPOILT(floor.queues, VHOST_MAX_QUEUES + 1, "queues");
    SPOILT(have_floor, 0, "nothing is known");
    SPOILT(session.magic, 1, "version");
    SPOILT(session.version, 77, "version 77");
    SPOILT(session.features, ~0ull, "not offered");
    SPOILT(session.protocol_features, ~0ull, "not offered");
    SPOILT(session.region_count, MEMMAP_MAX_REGIONS + 1, "memory regions");
    SPOILT(session.region_count, 2, "has no descriptor");
    SPOILT(session.region_uses[0], 0, "used by nobody");
    SPOILT(session.region_count, 0, "no memory region");
    SPOILT(session.regions[0].size, MEMORY * 2, "0x");
    SPOILT(session.regions[0].size, 0, "");
    SPOILT(session.inflight.num_queues, 0, "in-flight");
    SPOILT(session.inflight.mmap_size, 8, "in-flight");
    SPOILT(session.inflight.queue_size, 1, "in-flight");
    SPOILT(session.queues[0].size, 0, "without all");
    SPOILT(session.queues[0].size, 65535, "of size");
    SPOILT(session.queues[0].base, 0x12345678, "base");
    SPOILT(session.queues[0].desc, 0, "no memory region");
    SPOILT(session.queues[1].started, 1, "without all");
    swap_fds(&t->kick[0], &t->regions[0]);
    refuse(t, "memory for a kick", "not an eventfd");
    swap_fds(&t->kick[0], &t->regions[0]);
    swap_fds(&t->socket, &t->kick[0]);
    refuse(t, "an eventfd for a socket", "");
    swap_fds(&t->socket, &t->kick[0]);
    swap_fds(&t->inflight, &t->log);
    refuse(t, "no in-flight region", "");
    transfer_free(t, true);

    vhost_proxy_thaw(proxy); /* the one of before serves on */
    new_worker(&device);
    assert_int_equal(device.starts, 1);
    say_vring(VHOST_GET_VRING_BASE, 0, 0);
    assert_true(answered(&m));
    detach();
    vhost_remote_free(device.remote);
}

static int receive_after(const struct transfer_packet *packet, const void *data, size_t size)
{
    struct transfer *t = transfer_new();
    struct dt_error err = {""};
    int fds[2], fd = memfd_create("state", 0), ret;

    pair(fds);
    assert_int_equal(write(fd, data, size), size);
    assert_int_equal(send(fds[0], packet, sizeof(*packet), 0), sizeof(*packet));
    ret = transfer_receive(fds[1], t, &err);
    close(fd);
    close(fds[0]);
    close(fds[1]);
    transfer_free(t, true);
    return ret;
}

static void test_stream(void **state)
{
    struct transfer *t = transfer_new();
    const struct transfer_packet kick = {TRANSFER_KICK, 0}, beyond = {TRANSFER_KICK, 4096};
    uint32_t head[3] = {TRANSFER_MAGIC, TRANSFER_VERSION + 1, sizeof(t->state)};
    struct dt_error err = {""};
    struct link_device device;
    int fds[2];

    assert_int_equal(receive_after(&kick, head, sizeof(head)), -EPROTO); /* the state is missing */
    pair(fds);
    new_worker(&device);
    let_worker_go(&device);
    assert_int_equal(vhost_proxy_send(proxy, fds[0], &err), 0);
    assert_int_equal(send(fds[0], &beyond, sizeof(beyond), 0), sizeof(beyond));
    assert_int_equal(transfer_receive(fds[1], t, &err), 1);
    assert_int_equal(transfer_receive(fds[1], t, &err), -EPROTO);
    assert_int_equal(send(fds[0], "x", 1, 0), 1);
    assert_int_equal(transfer_receive(fds[1], t, &err), -EPROTO);
    close(fds[0]);
    assert_int_equal(transfer_receive(fds[1], t, &err), -ECONNRESET);
    close(fds[1]);
    transfer_free(t, true);
}

/* A state of another version is named as what it is. */
static void test_other_version(void **state)
{
    struct transfer *t = transfer_new(), *got = transfer_new();
    struct dt_error err = {""};
    int fds[2];

    pair(fds);
    t->state.magic = TRANSFER_MAGIC;
    t->state.version = TRANSFER_VERSION + 1;
    t->state.size = sizeof(t->state);
    assert_int_equal(transfer_send(fds[0], t, &err), 0);
    assert_int_equal(transfer_receive(fds[1], got, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "version 2"));
    close(fds[0]);
    close(fds[1]);
    transfer_free(t, true);
    transfer_free(got, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_session_goes_on), TEST(test_nobody_attached), TEST(test_not_now),
        TEST(test_damaged),         TEST(test_stream),          TEST(test_other_version),
    };

    return cmocka_run_group_tests_name("transfer", tests, NULL, NULL);
}
