/* SPDX-License-Identifier: MIT */
/*
 * test_link.c - a session in two processes, both ends in this one: workers that come, go, lie, and
 * keepers that do.
 */
#include "link_front.h"

#include <fcntl.h>

/* ---- Tests ---------------------------------------------------------------------------------------- */

static void test_answers_without_worker(void **state)
{
    struct vhost_message m = {.config = {.size = 60}};
    struct link_device device;

    new_worker(&device);
    assert_int_equal(readies, 1);
    attach();
    assert_int_equal(device.attached, 1);
    end_worker(&device);
    assert_int_equal(losses, 1);
    assert_true(ask_u64(VHOST_GET_FEATURES) & 1ull << VIRTIO_F_VERSION_1);
    assert_int_equal(ask_u64(VHOST_GET_QUEUE_NUM), LINK_DEVICE_QUEUES);
    say(&m, VHOST_GET_CONFIG, VHOST_CONFIG_HEADER + 60);
    assert_true(answered(&m));
    assert_int_equal(m.config.data[0], 7);
    detach();
    assert_int_equal(closes, 1);
}

static void test_successor_recovers(void **state)
{
    struct link_device first, second;

    new_worker(&first);
    attach();
    start_ring();
    assert_int_equal(first.starts, 1);
    assert_false(first.recover[0]);
    end_worker(&first);
    new_worker(&second);
    assert_int_equal(second.starts, 1);
    assert_true(second.recover[0]);
    assert_int_equal(recoveries, 1);
    assert_int_equal(recovery.rings, 1);
    stop_and_detach(&second);
}

/* The front end must not wait for ever: after a time the ring itself is asked. */
static void test_stop_without_worker(void **state)
{
    struct link_device device;
    struct vhost_message m;
    uint16_t used = 3;

    new_worker(&device);
    attach();
    start_ring();
    assert_int_equal(pwrite(memory, &used, sizeof(used), 0x2002), sizeof(used));
    end_worker(&device);
    say_vring(VHOST_GET_VRING_BASE, 0, 0);
    assert_false(answered(&m));
    while (!answered(&m))
        loop_turn(loop, true);
    assert_int_equal(m.vring.num, 3);
    detach();
}

static void test_release(void **state)
{
    struct link_device first, second;

    new_worker(&first);
    attach();
    start_ring();
    vhost_proxy_release(proxy);
    turn();
    assert_int_equal(releases, 1);
    assert_int_equal(first.stops, 1);
    assert_int_equal(first.closed, 1);
    assert_int_equal(first.lost, 1);
    vhost_remote_free(first.remote);
    new_worker(&second);
    assert_int_equal(second.starts, 1);
    detach();
    vhost_remote_free(second.remote);
}

/* A driver that said it goes without flushes relies on it, whoever serves it. */
static void test_what_the_driver_wrote(void **state)
{
    struct link_device device;

    new_worker(&device);
    attach();
    start_ring();
    set_mode(0);
    assert_int_equal(device.mode, 0);
    end_worker(&device);
    new_worker(&device);
    assert_int_equal(device.mode, 0);
    end_worker(&device);
    set_mode(1); /* while nobody is there: what the next one promises */
    new_worker(&device);
    assert_int_equal(device.mode, 1);
    assert_int_equal(device.modes, 0);
    set_mode(0);
    detach();
    attach(); /* the next front end is told 0, so 0 it is */
    assert_int_equal(get_mode(), 0);
    assert_int_equal(device.mode, 0);
    detach();
    vhost_remote_free(device.remote);
}

/* The keeper is new; the worker that it meets has been told before, and its successor has not. */
static void test_what_was_written_before_the_keeper(void **state)
{
    struct link_device device;

    new_worker_in_mode(&device, 0);
    attach();
    start_ring();
    assert_int_equal(get_mode(), 0);
    end_worker(&device);
    new_worker(&device);
    assert_int_equal(device.mode, 0);
    assert_int_equal(get_mode(), 0);
    detach();
    vhost_remote_free(device.remote);
}

/* ---- One end lies ------------------------------------------------------------------------------------ */

static void lie_to_keeper(struct link_message *lies, unsigned n, const char *word)
{
    struct dt_error err;
    int fds[2];

    pair(fds);
    assert_int_equal(vhost_proxy_link(proxy, fds[1], false, &err), 0);
    losses = 0;
    for (unsigned i = 0; i < n; i++) {
        link_send(fds[0], &lies[i], 100);
        turn();
    }
    close(fds[0]); /* before anything is judged: the session waits for it */
    turn();
    assert_int_equal(losses, 1);
    if (!strstr(lost_reason, word))
        fail_msg("'%s' does not name '%s'", lost_reason, word);
}

static struct link_message true_floor(void)
{
    return (struct link_message){.type = LINK_FLOOR, .floor = link_device_floor(1)};
}

static void test_lying_worker(void **state)
{
    struct link_message m[2] = {true_floor(), {.type = LINK_QUEUE_STOPPED}};
    struct link_device device;

    new_worker(&device);
    attach();
    start_ring();
    end_worker(&device);
    lie_to_keeper(&m[1], 1, "before FLOOR");
    lie_to_keeper(m, 2, "not asked");
    m[1] = (struct link_message){.type = LINK_QUEUE_STARTED, .answer = {.index = 200}};
    lie_to_keeper(m, 2, "not given");
    m[1] = (struct link_message){.type = LINK_PAUSED};
    lie_to_keeper(m, 2, "no pause");
    m[1] = true_floor();
    lie_to_keeper(m, 2, "second FLOOR");
    m[1] = (struct link_message){.type = LINK_ATTACH};
    lie_to_keeper(m, 2, "ATTACH");
    m[0].floor.version = 99;
    lie_to_keeper(m, 1, "version 99");
    m[0] = true_floor();
    m[0].floor.features = 0;
    lie_to_keeper(m, 1, "promised");
    m[0] = true_floor();
    m[0].floor.config[40]++;
    lie_to_keeper(m, 1, "byte 40");
    new_worker(&device); /* and an honest one still serves */
    assert_int_equal(device.starts, 1);
    detach();
    vhost_remote_free(device.remote);
}

static void lie_to_worker(struct link_message *lies, unsigned n, const char *word)
{
    struct link_device device;
    struct dt_error err;
    int fds[2];

    pair(fds);
    assert_int_equal(link_device_new(&device, loop, fds[0], &err), 0);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(link_send(fds[1], &lies[i], 100), 0);
    turn();
    assert_int_equal(device.lost, 1);
    if (!strstr(device.reason, word))
        fail_msg("'%s' does not name '%s'", device.reason, word);
    vhost_remote_free(device.remote);
    close(fds[1]);
}

static void test_lying_keeper(void **state)
{
    struct link_message m[3] = {{.type = LINK_ATTACH}, {.type = LINK_FEATURES}, {0}};
    int null = open("/dev/null", O_RDWR);

    lie_to_worker(&m[1], 1, "no front end");
    m[1].u64 = 1ull << 40;
    lie_to_worker(m, 2, "not offered");
    m[1].u64 = 1ull << VIRTIO_F_VERSION_1;
    m[2] = (struct link_message){.type = LINK_QUEUE_START, .queue = {.index = 4}};
    lie_to_worker(m, 3, "does not exist");
    m[2] = (struct link_message){.type = LINK_QUEUE_START, .queue = {.has_kick = 1}};
    lie_to_worker(m, 3, "do not match");
    m[2].nfds = 1;
    m[2].fds[0] = null;
    lie_to_worker(m, 3, "no eventfd");
    m[2] = (struct link_message){.type = LINK_RESUME};
    lie_to_worker(m, 3, "without a pause");
    m[2] = (struct link_message){.type = LINK_REGION_REMOVE, .u64 = 1};
    lie_to_worker(m, 3, "never added");
    m[2] = (struct link_message){
        .type = LINK_REGION_ADD, .region = {.at = {.size = 1ull << 40}}, .nfds = 1, .fds = {null}};
    lie_to_worker(m, 3, "cannot be mapped");
    m[2] = (struct link_message){.type = LINK_INFLIGHT, .nfds = 1, .fds = {null}};
    lie_to_worker(m, 3, "cannot be");
    m[2] = (struct link_message){.type = LINK_ATTACH};
    lie_to_worker(m, 3, "already");
    close(null);
}

static unsigned configs(int fd)
{
    struct link_message m;
    struct dt_error err;
    unsigned n = 0;

    while (link_receive(fd, &m, true, &err) == 1)
        n += m.type == LINK_CONFIG_CHANGED;
    return n;
}

/* A back that never rests neither floods a keeper nor waits for one: the newest is what counts. */
static void test_changes_without_end(void **state)
{
    struct link_message floor = true_floor();
    struct link_device device;
    struct dt_error err;
    unsigned filled = 0;
    int fds[2];

    pair(fds);
    assert_int_equal(link_device_new(&device, loop, fds[0], &err), 0);
    for (unsigned i = 0; i < 1000; i++)
        vhost_remote_config_changed(device.remote);
    assert_int_equal(configs(fds[1]), 1);
    while (configs(fds[1]) == 0)
        loop_turn(loop, true);
    while (link_send(fds[0], &floor, 0) == 0) /* it reads nothing */
        filled++;
    assert_in_range(filled, 1, 100000);
    vhost_remote_config_changed(device.remote);
    for (unsigned i = 0; i < 3; i++)
        loop_turn(loop, true);
    assert_int_equal(device.lost, 0);
    assert_int_equal(configs(fds[1]), 0);
    while (configs(fds[1]) == 0)
        loop_turn(loop, true);
    assert_int_equal(device.lost, 0);
    close(fds[1]);
    turn();
    assert_int_equal(device.lost, 1);
    vhost_remote_free(device.remote);
}

static void test_packets(void **state)
{
    struct link_message m = {.type = LINK_QUEUE_STOP}, got;
    struct dt_error err;
    int fds[2];

    pair(fds);
    assert_int_equal(link_receive(fds[0], &got, false, &err), 0);
    assert_int_equal(link_send(fds[1], &m, 0), 0);
    assert_int_equal(link_receive(fds[0], &got, false, &err), 1);
    assert_int_equal(got.type, LINK_QUEUE_STOP);
    for (uint32_t type = 0; type < LINK_TYPE_END + 3; type++)
        for (uint32_t size = 0; size < sizeof(m) + 8; size += 4) {
            m.type = type;
            m.size = size;
            m.nfds = 0;
            link_judge(&m, LINK_HEADER + size, false, &err);
            link_judge(&m, size, true, &err);
        }
    assert_int_equal(send(fds[1], "abc", 3, 0), 3);
    assert_int_equal(link_receive(fds[0], &got, false, &err), -EPROTO);
    close(fds[1]);
    assert_int_equal(link_receive(fds[0], &got, false, &err), -ECONNRESET);
    close(fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_packets),
        TEST(test_changes_without_end),
        TEST(test_answers_without_worker),
        TEST(test_successor_recovers),
        TEST(test_release),
        TEST(test_stop_without_worker),
        TEST(test_lying_worker),
        TEST(test_lying_keeper),
        TEST(test_what_the_driver_wrote),
        TEST(test_what_was_written_before_the_keeper),
    };

    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
