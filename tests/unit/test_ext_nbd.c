/* SPDX-License-Identifier: MIT */
/* test_ext_nbd.c - the back `nbd` against a server that goes away, hangs, changes and refuses. */
#include "blk/nbd/uri.h"
#include "ext_disk.h"
#include "nbd_server.h"

static struct nbd_server server;
static uint8_t data[64 << 10] __attribute__((aligned(4096)));
static uint8_t back[64 << 10] __attribute__((aligned(4096)));

static void serve(uint16_t flags)
{
    memset(&server, 0, sizeof(server));
    server.flags = flags;
    nbd_server_start(&server);
}

static int try_disk(const char *more)
{
    return disk_try("nbd uri=nbd+unix:///?socket=%s %s", server.path, more);
}

static void open_disk(const char *more)
{
    if (try_disk(more) < 0)
        fail_msg("%s", disk.err.text);
}

static void end(void)
{
    disk_close();
    nbd_server_stop(&server);
}

static void turn_for(uint64_t ns)
{
    uint64_t until = dt_clock_ns() + ns;

    while (dt_clock_ns() < until)
        loop_turn(disk.loop, false);
}

/* Turns until the server has seen @n requests. */
static void until_requests(unsigned n)
{
    uint64_t deadline = dt_clock_ns() + DT_S(60);

    while (__atomic_load_n(&server.requests, __ATOMIC_RELAXED) < n && dt_clock_ns() < deadline)
        loop_turn(disk.loop, false);
    assert_true(server.requests >= n);
}

/* ---- URIs ------------------------------------------------------------------------------------ */

static void uris_are_taken_apart(void **state)
{
    struct remote_uri u;
    struct dt_error err;

    assert_int_equal(remote_uri_parse(&u, "nbd://host", &err), 0);
    assert_string_equal(u.host, "host");
    assert_string_equal(u.port, "10809");
    assert_string_equal(u.export, "");
    assert_false(u.tls);
    remote_uri_free(&u);
    assert_int_equal(remote_uri_parse(&u, "nbds://me@[fe80::1]:99/a%20b?tls-psk-file=/k", &err), 0);
    assert_string_equal(u.host, "fe80::1");
    assert_string_equal(u.port, "99");
    assert_string_equal(u.export, "a b");
    assert_true(u.tls && u.tls_verify);
    assert_string_equal(u.user, "me");
    assert_string_equal(u.psk_file, "/k");
    remote_uri_free(&u);
    assert_int_equal(
        remote_uri_parse(
            &u, "nbds+unix:///?socket=/s&tls-certificates=/c&tls-hostname=h&tls-verify-peer=no",
            &err),
        0);
    assert_string_equal(u.certificates, "/c");
    assert_string_equal(u.tls_hostname, "h");
    assert_false(u.tls_verify);
    remote_uri_free(&u);
    assert_int_equal(remote_uri_parse(&u, "nbd+unix:///x/y?socket=/a%3Fb", &err), 0);
    assert_string_equal(u.path, "/a?b");
    assert_string_equal(u.export, "x/y");
    remote_uri_free(&u);
    assert_int_equal(remote_uri_parse(&u, "nbd+unix:///?socket=s", &err), 0);
    assert_int_equal(u.path[0], '/');
    remote_uri_free(&u);
}

static void wrong_uris_are_refused(void **state)
{
    static const struct {
        const char *uri, *says;
    } wrong[] = {
        {"", "begins with nbd://"},
        {"http://x", "begins with nbd://"},
        {"nbd://", "name is missing"},
        {"nbd://:10809/", "name is missing"},
        {"nbd://h:/", "a port must follow"},
        {"nbd://h:x/", "no port number"},
        {"nbd://h:70000/", "no port number"},
        {"nbd://[::1/", "never closed"},
        {"nbd://me@h/", "for TLS"},
        {"nbd://h/%zz", "two hexadecimal"},
        {"nbd://h/%00", "two hexadecimal"},
        {"nbd://h/%1", "two hexadecimal"},
        {"nbd://h/x#y", "%23"},
        {"nbd://h/?socket=/x", "for nbd+unix"},
        {"nbd://h/?tls-psk-file=/x", "begin with nbds"},
        {"nbd://h/?color=red", "'color' is unknown"},
        {"nbds://h/?tls-psk", "'tls-psk' is unknown"},
        {"nbds://h/?tls-verify-peer=perhaps", "write true or false"},
        {"nbds://h/?tls-hostname=a&tls-hostname=b", "twice"},
        {"nbd+unix:///", "socket is missing"},
        {"nbd+unix:///?socket=", "socket is missing"},
        {"nbd+unix:///?socket=/a&socket=/b", "twice"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct remote_uri u;
        struct dt_error err;

        assert_int_equal(remote_uri_parse(&u, wrong[i].uri, &err), -EINVAL);
        if (!strstr(err.text, wrong[i].says))
            fail_msg("%s: %s", wrong[i].uri, err.text);
    }
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void every_operation(void **state)
{
    struct iovec iov[3] = {{back, 1024}, {back + 8192, 512}, {back + 100, 512}};

    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    assert_int_equal(device_info(disk.dev)->sectors, sizeof(server.bytes) / 512);
    assert_true(device_info(disk.dev)->can_discard);
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 8, 128, data), 0);
    assert_memory_equal(server.bytes + 4096, data, sizeof(data));
    assert_int_equal(disk_do(DT_OP_READ, 0, 8, 128, back), 0);
    assert_memory_equal(back, data, sizeof(data));
    /* In pieces: through a buffer, both ways. */
    assert_int_equal(disk_wait(disk_submit_iov(DT_OP_READ, 0, 9, 4, iov, 3)), 0);
    assert_memory_equal(back, data + 512, 100);
    assert_memory_equal(back + 100, data + 512 + 1536, 512);
    assert_memory_equal(back + 8192, data + 512 + 1024, 512);
    iov[0].iov_base = data + 4096;
    iov[1].iov_base = data;
    iov[2].iov_base = data + 1;
    assert_int_equal(disk_wait(disk_submit_iov(DT_OP_WRITE, 0, 0, 4, iov, 3)), 0);
    assert_memory_equal(server.bytes, data + 4096, 1024);
    assert_memory_equal(server.bytes + 1536, data + 1, 512);
    assert_int_equal(disk_counter("nbd", "copied"), 2);
    assert_int_equal(disk_do(DT_OP_WRITE_ZEROES, DT_REQ_UNMAP, 8, 8, NULL), 0);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 16, 8, NULL), 0);
    assert_true(all_bytes(server.bytes + 4096, 8192, 0));
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(server.connections, 4);
    end();
}

static unsigned count_type(uint16_t type)
{
    unsigned n = 0;

    for (unsigned i = 0; i < MIN(server.requests, NBD_SERVER_LOG); i++)
        n += server.log[i].type == type;
    return n;
}

static void fua_is_passed_on_or_made(void **state)
{
    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    assert_int_equal(disk_do(DT_OP_WRITE, DT_REQ_FUA, 0, 8, data), 0);
    assert_int_equal(server.log[0].flags & 1, 1);
    assert_int_equal(count_type(3), 0);
    end();
    serve(NBD_FLUSH); /* no FUA, one connection */
    open_disk("fence-delay=0s");
    assert_int_equal(disk_do(DT_OP_WRITE, DT_REQ_FUA, 0, 8, data), 0);
    assert_int_equal(server.log[0].type, 1);
    assert_int_equal(server.log[0].flags, 0);
    assert_int_equal(server.log[1].type, 3); /* before the write was done, above */
    assert_int_equal(server.connections, 1);
    assert_int_equal(disk_do(DT_OP_DISCARD, 0, 0, 8, NULL), -EOPNOTSUPP);
    end();
}

static void server_errors_are_the_requests(void **state)
{
    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    server.error = 28; /* ENOSPC */
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), -ENOSPC);
    server.error = 5;
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), -EIO);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), -EIO);
    server.error = 0;
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    end();
    serve(NBD_ALL | NBD_READ_ONLY);
    open_disk("");
    assert_true(device_info(disk.dev)->read_only);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), -EROFS);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    end();
}

/* ---- Loss ------------------------------------------------------------------------------------ */

static void what_was_under_way_is_sent_again(void **state)
{
    const struct disk_slot *w, *r, *f;

    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    memset(data, 0x42, sizeof(data));
    memset(server.bytes + 65536, 0x17, 4096);
    server.mute = true;
    w = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    r = disk_submit(DT_OP_READ, 0, 128, 8, back);
    f = disk_submit(DT_OP_FLUSH, 0, 0, 0, NULL);
    until_requests(3);
    nbd_server_stop(&server);
    turn_for(DT_MS(30));
    assert_true(w->busy && r->busy && f->busy);
    memset(server.bytes, 0, 4096); /* as if it had never executed it */
    server.mute = false;
    nbd_server_start(&server);
    assert_int_equal(disk_wait(w), 0);
    assert_int_equal(disk_wait(r), 0);
    assert_int_equal(disk_wait(f), 0);
    assert_memory_equal(server.bytes, data, 4096);
    assert_true(all_bytes(back, 4096, 0x17));
    assert_true(disk_counter("nbd", "resent") >= 3); /* more over what was found to be dead, too */
    end();
}

static void a_lost_write_waits_for_the_fence(void **state)
{
    const struct disk_slot *w, *r;
    uint64_t lost;

    serve(NBD_ALL);
    open_disk("fence-delay=300ms");
    server.mute = true;
    w = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    r = disk_submit(DT_OP_READ, 0, 128, 8, back);
    until_requests(2);
    nbd_server_stop(&server);
    lost = dt_clock_ns();
    server.mute = false;
    nbd_server_start(&server);
    assert_int_equal(disk_wait(r), 0); /* harmless, so at once */
    assert_true(w->busy);
    assert_int_equal(disk_wait(w), 0);
    assert_int_equal(server.log[3].type, 1);
    assert_true(server.log[3].at - lost >= DT_MS(290));
    end();
}

static void a_server_that_shuts_down_is_left(void **state)
{
    const struct disk_slot *w;

    serve(NBD_ALL);
    open_disk("fence-delay=0s connections=1");
    server.error = 108;
    w = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    until_requests(1);
    turn_for(DT_MS(20));
    assert_true(w->busy);
    server.error = 0;
    assert_int_equal(disk_wait(w), 0);
    assert_true(server.connections >= 2);
    end();
}

static void patience_ends(void **state)
{
    const struct disk_slot *s;

    serve(NBD_ALL);
    open_disk("fence-delay=0s timeout=200ms");
    nbd_server_stop(&server);
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), -ETIMEDOUT);
    nbd_server_start(&server);
    disk_set("nbd", "timeout", "0s");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    disk_set("nbd", "timeout", "100ms");
    server.mute = true; /* it is there and silent */
    s = disk_submit(DT_OP_READ, 0, 0, 8, back);
    until_requests(server.requests + 1);
    turn_for(DT_MS(150));
    server.mute = false;
    assert_int_equal(disk_wait(s), 0);
    assert_true(disk_counter("nbd", "resent") >= 1);
    end();
}

static void a_stop_does_not_wait_for_the_server(void **state)
{
    const struct disk_slot *s;

    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    nbd_server_stop(&server);
    turn_for(DT_MS(5));
    s = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    turn_for(DT_MS(10));
    assert_int_equal(disk_quiesce(DT_MS(400)), 0);
    assert_int_equal(s->error, -ECANCELED);
    assert_int_equal(disk_counter("nbd", "held"), 1);
    disk_close();
}

static void another_disk_is_not_taken(void **state)
{
    const struct disk_slot *s;

    serve(NBD_ALL);
    open_disk("fence-delay=0s");
    nbd_server_stop(&server);
    server.size /= 2;
    nbd_server_start(&server);
    s = disk_submit(DT_OP_WRITE, 0, 0, 8, data);
    turn_for(DT_MS(100));
    assert_true(s->busy && server.requests == 0);
    nbd_server_stop(&server);
    server.size *= 2;
    nbd_server_start(&server);
    assert_int_equal(disk_wait(s), 0);
    end();
}

static void lost_cache_can_fail_flushes(void **state)
{
    serve(NBD_ALL);
    open_disk("fence-delay=0s lost-cache=fail");
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0);
    nbd_server_stop(&server);
    turn_for(DT_MS(5));
    nbd_server_start(&server);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), 0); /* all had been flushed */
    assert_int_equal(disk_do(DT_OP_WRITE, 0, 0, 8, data), 0);
    nbd_server_stop(&server);
    turn_for(DT_MS(5));
    nbd_server_start(&server);
    assert_int_equal(disk_do(DT_OP_READ, 0, 0, 8, back), 0);
    assert_int_equal(disk_do(DT_OP_FLUSH, 0, 0, 0, NULL), -EIO);
    end();
}

static void the_start_says_what_is_wrong(void **state)
{
    serve(NBD_ALL);
    server.size = 1000;
    assert_true(try_disk("") < 0);
    assert_error_says("is not a multiple of 512");
    server.size = 4096;
    assert_true(disk_try("nbd uri=nbd+unix:///other?socket=%s", server.path) < 0);
    assert_error_says("nbdinfo --list");
    assert_true(disk_try("nbd uri=nbds+unix:///?socket=%s", server.path) < 0);
    assert_error_says("tls-certificates");
    nbd_server_stop(&server);
    assert_true(try_disk("") < 0);
    assert_error_says("nobody listens there");
}

static void the_start_can_wait(void **state)
{
    serve(NBD_ALL);
    open_disk("connect-timeout=10s fence-delay=0s");
    end();
    assert_true(try_disk("connect-timeout=100ms") < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uris_are_taken_apart),
        cmocka_unit_test(wrong_uris_are_refused),
        cmocka_unit_test(every_operation),
        cmocka_unit_test(fua_is_passed_on_or_made),
        cmocka_unit_test(server_errors_are_the_requests),
        cmocka_unit_test(what_was_under_way_is_sent_again),
        cmocka_unit_test(a_lost_write_waits_for_the_fence),
        cmocka_unit_test(a_server_that_shuts_down_is_left),
        cmocka_unit_test(patience_ends),
        cmocka_unit_test(a_stop_does_not_wait_for_the_server),
        cmocka_unit_test(another_disk_is_not_taken),
        cmocka_unit_test(lost_cache_can_fail_flushes),
        cmocka_unit_test(the_start_says_what_is_wrong),
        cmocka_unit_test(the_start_can_wait),
    };

    if (disk_module(&blk_nbd) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
