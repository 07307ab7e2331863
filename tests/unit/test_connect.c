/* SPDX-License-Identifier: MIT */
/*
 * test_connect.c - connections that layers ask for: made by this process, and by a launcher that was sealed.
 */
#include "base/packet.h"
#include "control/launcher.h"
#include "core/core.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

/* ---- A back that may connect where the test says ---------------------------------------------- */

#define OPS 80u

static struct loop *loop;
static struct device *dev;
static const char *announced[20];
static int announce_result;
static struct dt_ctx *ctx;
static struct dt_connect ops[OPS];
static int results[OPS];
static unsigned finished;

static void on_done(struct dt_connect *op, int result)
{
    results[op - ops] = result;
    finished++;
}

static int back_open(struct dt_layer *layer, struct dt_error *err)
{
    for (unsigned i = 0; announced[i] && announce_result == 0; i++)
        announce_result = dt_layer_may_connect(layer, announced[i], err);
    return 0;
}

static int back_start(struct dt_ctx *c, struct dt_error *err)
{
    ctx = c;
    return 0;
}

static int back_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    info->sectors = 8;
    return 0;
}

static void back_submit(struct dt_ctx *c, struct dt_req **reqs, unsigned n)
{
}

static const struct dt_block_ext back = {
    DT_BLOCK_EXT_HEADER, .name = "back",      .summary = "connects", .flags = DT_BACK,
    .open = back_open,   .start = back_start, .info = back_info,     .submit = back_submit,
};

static void on_complete(struct lane *lane, struct request **reqs, unsigned n)
{
}

static void on_wake(struct lane *lane)
{
}

static const struct front_ops front = {.complete = on_complete, .wake = on_wake};

static void open_device(void)
{
    struct loop_config config = {.engine = LOOP_EPOLL};
    struct chain_spec spec;
    struct dt_error err;

    announce_result = 0;
    memset(ops, 0, sizeof(ops));
    assert_int_equal(loop_new(&loop, &config, &err), 0);
    assert_int_equal(chain_parse(&spec, "back", &err), 0);
    if (device_new(
            &dev,
            &(struct device_config){.name = "d", .chain = &spec, .loops = &loop, .threads = 1},
            &err) < 0)
        fail_msg("%s", err.text);
    chain_spec_free(&spec);
}

static void start_device(void)
{
    struct dt_error err;

    assert_int_equal(device_start(dev, &front, NULL, &err), 0);
}

static void close_device(void)
{
    device_stop(dev);
    device_free(dev);
    loop_free(loop);
    memset(announced, 0, sizeof(announced));
}

static void begin(unsigned i, const char *address)
{
    ops[i] = (struct dt_connect){.done = on_done, .address = address};
    dt_layer_connect(ctx, &ops[i]);
}

static int await(unsigned i, const char *address)
{
    finished = 0;
    begin(i, address);
    assert_int_equal(finished, 0); /* never before the call returns */
    while (finished == 0)
        loop_turn(loop, true);
    return results[i];
}

/* ---- Servers ---- */

static char dir[] = "/tmp/devtap-connect-XXXXXX";
static char unix_address[64], tcp_address[64];

static int serve_unix(char *address, const char *name, int backlog)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(at.sun_path, sizeof(at.sun_path), "%s/%s", dir, name);
    snprintf(address, 64, "unix:%.50s", at.sun_path);
    assert_int_equal(bind(sock, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(sock, backlog), 0);
    return sock;
}

static int serve_tcp(char *address)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int sock = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(sock, (struct sockaddr *)&at, size), 0);
    assert_int_equal(listen(sock, 100), 0);
    assert_int_equal(getsockname(sock, (struct sockaddr *)&at, &size), 0);
    snprintf(address, 64, "tcp:localhost:%u", ntohs(at.sin_port));
    return sock;
}

/* Both ends are one connection, and ours is as the layer was promised. Those that were cancelled may be in
 * the backlog before it. */
static void check_joined(int mine, int server)
{
    char byte = 'x';

    assert_true(mine >= 0);
    assert_true(fcntl(mine, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(mine, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(read(mine, &byte, 1), -1);
    assert_int_equal(errno, EAGAIN);
    while (byte != 'y') {
        int theirs = accept(server, NULL, NULL);
        struct pollfd fd = {.fd = mine, .events = POLLIN};

        assert_true(theirs >= 0);
        send(theirs, "y", 1, MSG_NOSIGNAL);
        if (poll(&fd, 1, 100) == 1)
            assert_int_equal(read(mine, &byte, 1), 1);
        close(theirs);
    }
    close(mine);
}

/* ---- Tests ---- */

static void addresses_are_judged(void **state)
{
    static const char *const good[] = {"unix:/run/x", "unix:x",          "unix-dgram:x",
                                       "tcp:h:1",     "tcp:[::1]:65535", "tcp:127.0.0.1:10809"};
    static const char *const bad[] = {
        "",           "unix:",     "unix-dgram:", "/run/x",  "tcp:",        "tcp:h",
        "tcp:h:",     "tcp:h:0",   "tcp::1",      "tcp:h:x", "tcp:h:65536", "tcp:[]:1",
        "tcp:[::1:1", "tcp:::1:1", "tcp:h:+1",    "udp:h:1", "tcp:h:1x",    "tcp:h:4294967297"};
    char text[400];

    for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(dial_judge(good[i], NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (dial_judge(bad[i], NULL) != -EINVAL)
            fail_msg("%s", bad[i]);
    snprintf(text, sizeof(text), "unix:/%0108d", 1);
    assert_int_equal(dial_judge(text, NULL), -EINVAL);
    snprintf(text, sizeof(text), "tcp:%0300d:1", 1);
    assert_int_equal(dial_judge(text, NULL), -EINVAL);
}

static void connects_where_it_said(void **state)
{
    int local, net;

    local = serve_unix(unix_address, "a", 100);
    net = serve_tcp(tcp_address);
    announced[0] = unix_address;
    announced[1] = tcp_address;
    announced[2] = unix_address; /* twice is once */
    open_device();
    assert_int_equal(announce_result, 0);
    start_device();
    check_joined(await(0, unix_address), local);
    check_joined(await(0, tcp_address), net);
    assert_int_equal(await(0, "unix:/tmp/elsewhere"), -EPERM);
    close(local);
    close(net);
    assert_int_equal(await(0, unix_address), -ECONNREFUSED);
    assert_int_equal(await(0, tcp_address), -ECONNREFUSED);
    unlink(unix_address + 5);
    assert_int_equal(await(0, unix_address), -ENOENT);
    close_device();
}

static void so_many_addresses_and_no_more(void **state)
{
    char text[17][32];

    for (unsigned i = 0; i < 17; i++) {
        snprintf(text[i], sizeof(text[i]), "tcp:127.0.0.1:%u", i + 1);
        announced[i] = text[i];
    }
    open_device();
    assert_int_equal(announce_result, -ENOSPC);
    device_free(dev);
    loop_free(loop);
    memset(announced, 0, sizeof(announced));
}

static void cancelled_is_forgotten(void **state)
{
    int local = serve_unix(unix_address, "c", 100);

    announced[0] = unix_address;
    open_device();
    start_device();
    finished = 0;
    dt_layer_connect_cancel(&ops[0]); /* nothing is under way */
    for (unsigned i = 0; i < 20; i++) {
        begin(0, unix_address);
        dt_layer_connect_cancel(&ops[0]);
    }
    begin(0, "unix:/not/announced");
    dt_layer_connect_cancel(&ops[0]);
    check_joined(await(1, unix_address), local);
    assert_int_equal(finished, 1);
    close_device(); /* loop_free() checks that no watch and no timer is left */
    close(local);
    unlink(unix_address + 5);
}

/* More at once than there are threads for: each is answered. */
static void a_crowd_is_answered(void **state)
{
    int local = serve_unix(unix_address, "m", 200);
    unsigned joined = 0;

    announced[0] = unix_address;
    open_device();
    start_device();
    finished = 0;
    for (unsigned i = 0; i < OPS; i++)
        begin(i, unix_address);
    while (finished < OPS)
        loop_turn(loop, true);
    for (unsigned i = 0; i < OPS; i++) {
        if (results[i] >= 0) {
            joined++;
            close(results[i]);
        } else {
            assert_int_equal(results[i], -EAGAIN);
        }
    }
    assert_true(joined >= 1);
    close_device();
    close(local);
    unlink(unix_address + 5);
}

/* ---- Whoever dials misbehaves ---- */

static int bad_kind;

static int bad_announce(const char *address, struct dt_error *err)
{
    return 0;
}

static int bad_dial(const char *address, int answer)
{
    struct dial_answer a = {.result = 0};
    char text[32] = "far too long an answer packet";
    int pipes[2];

    if (bad_kind == 1)
        packet_send(answer, &a, sizeof(a), -1); /* no socket */
    if (bad_kind == 2 && pipe(pipes) == 0) {    /* not a socket */
        packet_send(answer, &a, sizeof(a), pipes[0]);
        close(pipes[0]);
        close(pipes[1]);
    }
    if (bad_kind == 3)
        packet_send(answer, text, sizeof(text), -1);
    if (bad_kind == 4) {
        a.result = 17; /* no error number */
        packet_send(answer, &a, sizeof(a), answer);
    }
    close(answer); /* 0: no answer at all */
    return bad_kind == 5 ? -ECONNRESET : 0;
}

static void wrong_answers_are_refused(void **state)
{
    static const struct connector bad = {bad_announce, bad_dial};

    announced[0] = "unix:/x";
    connector_set(&bad);
    open_device();
    start_device();
    for (bad_kind = 0; bad_kind <= 4; bad_kind++)
        assert_int_equal(await(0, "unix:/x"), -EPIPE);
    assert_int_equal(await(0, "unix:/x"), -ECONNRESET);
    close_device();
    connector_set(NULL);
}

/* ---- Through a launcher: the last, since the connector stays ---- */

static void a_sealed_launcher_connects(void **state)
{
    int local = serve_unix(unix_address, "l", 100), net = serve_tcp(tcp_address), result;
    struct dt_error err = {""};

    assert_int_equal(launcher_start(0, NULL, &err), 0);
    announced[0] = unix_address;
    announced[1] = tcp_address;
    open_device();
    assert_int_equal(announce_result, 0);
    start_device();
    result = await(0, unix_address); /* not before the seal: it may yet be told more */
    assert_int_equal(result, -EPIPE);
    assert_int_equal(launcher_seal(&err), 0);
    check_joined(await(0, unix_address), local);
    check_joined(await(0, tcp_address), net);
    finished = 0;
    for (unsigned i = 0; i < 20; i++) {
        begin(0, tcp_address);
        dt_layer_connect_cancel(&ops[0]);
    }
    close(local);
    unlink(unix_address + 5);
    assert_int_equal(await(0, unix_address), -ENOENT);
    close_device();

    announced[0] = "unix:/too/late";
    open_device();
    assert_int_equal(announce_result, -EPERM);
    device_free(dev);
    loop_free(loop);
    close(net);
}

static int make_dir(void **state)
{
    struct dt_error err;

    return mkdtemp(dir) && registry_add(&back, &err) == 0 ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_judged),
        cmocka_unit_test(connects_where_it_said),
        cmocka_unit_test(so_many_addresses_and_no_more),
        cmocka_unit_test(cancelled_is_forgotten),
        cmocka_unit_test(a_crowd_is_answered),
        cmocka_unit_test(wrong_answers_are_refused),
        cmocka_unit_test(a_sealed_launcher_connects),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
