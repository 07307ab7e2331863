/* SPDX-License-Identifier: MIT */
/* test_control.c - the control socket: requests, replies, hostile clients, and where sockets
 * appear. */
#include "tools/run/run.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- A server that writes down what it is asked -------------------------------------------- */

static char asked[512];

static int ask(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(asked, sizeof(asked), fmt, args);
    va_end(args);
    return 0;
}

static int fake_list(void *arg, json_t **result, struct dt_error *err)
{
    *result = json_pack("[{ss}]", "name", "vm1");
    return ask("list");
}

static int fake_show(void *arg, const char *device, json_t **result, struct dt_error *err)
{
    if (strcmp(device, "vm1") != 0)
        return dt_fail(err, -ENODEV, "no running device is named '%s'", device);
    *result = json_object();
    return ask("show %s", device);
}

static int fake_set(void *arg, const char *device, const char *layer, const char *param,
                    const char *value, struct dt_error *err)
{
    size_t n = strlen(asked);

    snprintf(asked + n, sizeof(asked) - n, "%s.%s.%s=%s;", device, layer, param, value);
    return strcmp(param, "bad") == 0 ? dt_fail(err, -EINVAL, "no \xff way") : 0;
}

static int fake_run(void *arg, const char *device, const char *layer, const char *command, int argc,
                    const char *const *argv, json_t **result, struct dt_error *err)
{
    *result = json_object();
    return ask("%s.%s %s(%d) %s", device, layer, command, argc, argc ? argv[0] : "");
}

static int fake_resize(void *arg, const char *device, const char *size, json_t **result,
                       struct dt_error *err)
{
    return ask("resize %s %s", device, size);
}

static int fake_map(void *arg, const char *device, uint64_t start, uint64_t length, json_t **result,
                    struct dt_error *err)
{
    return ask("map %s %llu %llu", device, (unsigned long long)start, (unsigned long long)length);
}

static int fake_quit(void *arg, struct dt_error *err)
{
    return ask("quit");
}

static const struct protocol_ops ops = {fake_list, fake_show,   fake_show, fake_set,
                                        fake_run,  fake_resize, fake_quit, .map = fake_map};

/* ---- Requests ------------------------------------------------------------------------------ */

static char *last_reply;
static bool fatal;

static const char *say(const char *request)
{
    free(last_reply);
    asked[0] = '\0';
    last_reply = protocol_answer(&ops, NULL, request, strlen(request), &fatal);
    return last_reply;
}

static void test_verbs(void **state)
{
    assert_string_equal(say("{\"verb\": \"list\"}"),
                        "{\"ok\":true,\"result\":[{\"name\":\"vm1\"}]}\n");
    say("{\"verb\":\"show\",\"device\":\"vm1\"}");
    assert_string_equal(asked, "show vm1");
    say("{\"verb\":\"set\",\"device\":\"d\",\"layer\":\"l\",\"values\":"
        "{\"a\":\"1k\",\"b\":7,\"c\":true,\"d\":0.5}}");
    assert_string_equal(asked, "d.l.a=1k;d.l.b=7;d.l.c=on;d.l.d=0.5;");
    say("{\"verb\":\"do\",\"device\":\"d\",\"layer\":\"l\",\"command\":\"go\",\"args\":[\"x\","
        "\"y\"]}");
    assert_string_equal(asked, "d.l go(2) x");
    say("{\"verb\":\"do\",\"device\":\"d\",\"layer\":\"l\",\"command\":\"go\"}");
    assert_string_equal(asked, "d.l go(0) ");
    say("{\"verb\":\"resize\",\"device\":\"d\",\"size\":\"20G\"}");
    assert_string_equal(asked, "resize d 20G");
    say("{\"verb\":\"map\",\"device\":\"d\",\"start\":512,\"length\":4096}");
    assert_string_equal(asked, "map d 512 4096");
    say("{\"verb\":\"map\",\"device\":\"d\"}");
    assert_string_equal(asked, "map d 0 0");
    assert_string_equal(say("{\"verb\":\"quit\",\"id\":[7]}"),
                        "{\"ok\":true,\"id\":[7],\"result\":null}\n");
    assert_string_equal(asked, "quit");
    assert_false(fatal);
}

static void test_refusals(void **state)
{
    assert_string_equal(
        say("{\"verb\":\"show\",\"device\":\"x\"}"),
        "{\"ok\":false,\"error\":\"no running device is named 'x'\",\"status\":3}\n");
    assert_false(fatal);
    assert_non_null(strstr(say("{\"verb\":\"lst\"}"), "did you mean 'list'?"));
    assert_non_null(strstr(say("{}"), "needs \\\"verb\\\""));
    assert_non_null(strstr(say("{\"verb\":\"show\"}"), "needs \\\"device\\\""));
    assert_non_null(strstr(say("{\"verb\":\"show\",\"device\":3}"), "needs \\\"device\\\""));
    assert_non_null(strstr(say("{\"verb\":\"show\",\"device\":\"a\\u0000b\"}"), "not JSON"));
    say("{\"verb\":\"set\",\"device\":\"d\",\"layer\":\"l\",\"values\":{\"a\":1,\"bad\":2,\"c\":3}"
        "}");
    assert_string_equal(asked, "d.l.a=1;d.l.bad=2;");
    assert_non_null(strstr(last_reply, "\"no ? way\",\"status\":2"));
    assert_non_null(
        strstr(say("{\"verb\":\"set\",\"device\":\"d\",\"layer\":\"l\",\"values\":{\"a\":[]}}"),
               "must be a text or a number"));
}

static void test_hostile(void **state)
{
    char deep[64];

    memset(deep, '[', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    assert_non_null(strstr(say(deep), "nests deeper"));
    assert_true(fatal);
    say("{\"verb\":\"show\",\"device\":\"[[[[[[[[[[[[[[[[[[\"}");
    assert_false(fatal);
    say("[]");
    assert_true(fatal);
    say("");
    assert_true(fatal);
    say("{\"verb\":\"list\",\"verb\":\"quit\"}");
    assert_true(fatal);
    assert_string_equal(asked, "");
}

/* ---- Connections --------------------------------------------------------------------------- */

static char folder[] = "/tmp/devtap-test-XXXXXX";
static char path[64];

static int dial(const char *at)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    strcpy(addr.sun_path, at);
    if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int error = errno;

        close(sock);
        return -error;
    }
    return sock;
}

/* Turns the loop until something can be read; returns the bytes, 0 at the end of the stream. */
static ssize_t hear(struct loop *loop, int sock, char *text, size_t size)
{
    for (unsigned i = 0; i < 1000; i++) {
        ssize_t n = recv(sock, text, size - 1, 0);

        if (n >= 0) {
            text[n] = '\0';
            return n;
        }
        loop_turn(loop, false);
    }
    fail_msg("no answer");
    return -1;
}

static void test_connection(void **state)
{
    struct loop_config loop_config = {.engine = LOOP_EPOLL};
    const char two[] = "{\"verb\":\"list\"}\n{\"verb\":\"list\"}\nnonsense\n{\"verb\":\"quit\"}\n";
    struct control *control;
    struct loop *loop;
    struct dt_error err;
    char text[512];
    int sock;

    assert_int_equal(loop_new(&loop, &loop_config, &err), 0);
    assert_int_equal(control_new(&control, loop, path, &ops, NULL, &err), 0);
    sock = dial(path);
    assert_true(sock >= 0);
    asked[0] = '\0';
    assert_int_equal(send(sock, two, 10, 0), 10); /* in two pieces */
    loop_turn(loop, false);
    assert_int_equal(send(sock, two + 10, sizeof(two) - 11, 0), sizeof(two) - 11);
    hear(loop, sock, text, sizeof(text));
    assert_non_null(strstr(text, "}\n{\"ok\":true,\"result\":[{\"name\":\"vm1\"}]}\n"));
    assert_non_null(strstr(text, "not JSON"));
    assert_int_equal(hear(loop, sock, text, sizeof(text)), 0); /* disconnected */
    assert_string_equal(asked, "list");
    close(sock);
    control_free(control);
    assert_int_equal(access(path, F_OK), -1);
    loop_free(loop);
}

/* ---- Where sockets appear ------------------------------------------------------------------ */

static void test_listen_mode(void **state)
{
    struct dt_error err;
    struct stat st;
    int sock = listen_at(path, -1, -1, 0620, 0, &err);

    assert_true(sock >= 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0620);
    assert_int_equal(dial(path), -ECONNREFUSED); /* not before listen() */
    assert_int_equal(socket_kind(sock), 0);
    assert_int_equal(listen(sock, 1), 0);
    assert_int_equal(socket_kind(sock), 1);
    close(sock);
    unlink(path);
}

static void test_listen_twice(void **state)
{
    struct dt_error err;
    int sock = listen_at(path, -1, -1, 0600, 0, &err), other;

    /* Even one that does not listen yet is somebody's. */
    assert_int_equal(listen_at(path, -1, -1, 0600, 0, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "socket in use"));
    listen(sock, 1);
    assert_int_equal(listen_at(path, -1, -1, 0600, 0, &err), -EADDRINUSE);
    assert_int_equal(accept4(sock, NULL, NULL, SOCK_NONBLOCK), -1); /* and was not disturbed */
    close(sock);
    other = listen_at(path, -1, -1, 0600, 0, &err); /* stale now */
    assert_true(other >= 0);
    close(other);
    unlink(path);
}

static void test_listen_refused(void **state)
{
    char other[128];
    struct dt_error err;

    snprintf(other, sizeof(other), "%s/no/such", folder);
    assert_int_equal(listen_at(other, -1, -1, 0600, 0, &err), -ENOENT);
    assert_int_equal(listen_at(folder, -1, -1, 0600, 0, &err), -EEXIST);
    assert_int_equal(socket_kind(0) < 0, 1);
}

/* Paths longer than a socket address holds. */
static void test_listen_long_path(void **state)
{
    char deep[256], name[128];
    struct dt_error err;
    int sock;

    memset(name, 'n', 120);
    name[120] = '\0';
    snprintf(deep, sizeof(deep), "%s/%s", folder, name);
    assert_int_equal(mkdir(deep, 0700), 0);
    strcat(deep, "/s");
    sock = listen_at(deep, -1, -1, 0600, 0, &err);
    assert_true(sock >= 0);
    close(sock);
    unlink(deep);
    *strrchr(deep, '/') = '\0';
    rmdir(deep);
}

static int begin(void **state)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/c.sock", folder);
    log_set_level(DT_LOG_ERROR);
    return 0;
}

static int finish(void **state)
{
    free(last_reply);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verbs),          cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hostile),        cmocka_unit_test(test_connection),
        cmocka_unit_test(test_listen_mode),    cmocka_unit_test(test_listen_twice),
        cmocka_unit_test(test_listen_refused), cmocka_unit_test(test_listen_long_path),
    };

    return cmocka_run_group_tests(tests, begin, finish);
}
