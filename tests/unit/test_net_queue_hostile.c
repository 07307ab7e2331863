/* SPDX-License-Identifier: MIT */
/* test_net_queue_hostile.c - `queue`: programs that lie. */
#include "queue_rig.h"

#include "channel/channel.h"
#include <sys/socket.h>
#include <sys/un.h>

struct liar {
    struct channel_map map;
    struct channel_producer up;
    int sock, fds[3];
};

static int connect_raw(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void attach_liar(struct liar *liar)
{
    static struct control_frame frame;
    struct dt_error err;

    liar->sock = connect_raw();
    assert_int_equal(control_send(liar->sock, CONTROL_HELLO, 0, "{}", NULL, 0), 0);
    for (unsigned i = 0; i < 8; i++)
        rig_turn();
    assert_int_equal(control_recv(liar->sock, &frame), 1);
    assert_int_equal(frame.type, CONTROL_INIT);
    assert_int_equal(control_recv(liar->sock, &frame), 1);
    assert_int_equal(frame.nfds, 3);
    memcpy(liar->fds, frame.fds, sizeof(liar->fds));
    assert_int_equal(channel_attach(&liar->map, liar->fds[0], &err), 0);
    channel_producer_init(&liar->up, liar->map.up, &liar->map.header->up, liar->map.entries,
                          liar->fds[2]);
}

static void free_liar(struct liar *liar)
{
    channel_detach(&liar->map);
    for (unsigned i = 0; i < 3; i++)
        close(liar->fds[i]);
    close(liar->sock);
}

/* Each lie ends the conversation with a reason; the packet goes on as on-death= says, and the next program is served. */
static void check_lie(struct channel_msg m, const char *reason)
{
    struct liar liar;

    start("on-death=accept");
    attach_liar(&liar);
    assert_true(send_numbered(1));
    rig_turn();
    assert_int_equal(liar.map.down[0].kind, CHANNEL_PACKET);
    m.id += liar.map.down[0].id;
    *channel_push(&liar.up) = m;
    channel_publish(&liar.up);
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
    if (!strstr(last_event, reason))
        fail_msg("%s, not %s", last_event, reason);
    assert_int_equal(rig.wire.n, 1);
    free_liar(&liar);
    leave(attach());
    assert_int_equal(counter("programs"), 2);
    rig_stop();
}

static void test_lies(void **state)
{
#define SAY(...) ((struct channel_msg){.kind = CHANNEL_VERDICT, __VA_ARGS__})
    check_lie(SAY(.id = 1, .verdict = CHANNEL_PASS), "a packet that it did not have");
    check_lie(SAY(.id = 5000, .verdict = CHANNEL_PASS), "a packet that there is not");
    check_lie(SAY(.verdict = 3), "a verdict that there is not");
    check_lie(SAY(.verdict = CHANNEL_PASS, .way = 2), "a verdict that there is not");
    check_lie(SAY(.verdict = CHANNEL_PASS, .way = 1), "back to where it came from");
    check_lie(SAY(.verdict = CHANNEL_CHANGED, .length = 4097), "longer than its buffer");
    check_lie(SAY(.verdict = CHANNEL_CHANGED, .length = UINT32_MAX), "longer than its buffer");
    check_lie(SAY(.verdict = CHANNEL_CHANGED, .length = 13), "shorter than a frame");
    check_lie((struct channel_msg){.kind = CHANNEL_INJECT, .length = 60}, "did not declare");
    check_lie((struct channel_msg){.kind = CHANNEL_PONG}, "a ping that there was not");
    check_lie((struct channel_msg){.kind = 77}, "an unknown kind");
}

static void test_lies_about_the_ring(void **state)
{
    struct liar liar;
    int fd;

    start("");
    attach_liar(&liar);
    __atomic_store_n(&liar.map.header->up.head, liar.map.entries + 1, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 8 && !strstr(last_event, "more messages than there can be"); i++) {
        const uint64_t one = 1;

        assert_int_equal(write(liar.fds[2], &one, sizeof(one)), sizeof(one));
        rig_turn();
    }
    assert_non_null(strstr(last_event, "more messages than there can be"));
    free_liar(&liar);
    fd = connect_raw();
    assert_int_equal(control_send(fd, CONTROL_ANSWER, 0, "{}", NULL, 0), 0);
    for (unsigned i = 0; i < 8; i++)
        rig_turn();
    assert_non_null(strstr(last_event, "its first word was not HELLO"));
    close(fd);
    fd = connect_raw();
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    for (unsigned i = 0; i < 8; i++)
        rig_turn();
    assert_non_null(strstr(last_event, "a damaged control message"));
    close(fd);
    leave(attach());
    rig_stop();
}

/* Its memory is the program's to write whenever it wants: what counts is what was copied. */
static void test_late_bytes(void **state)
{
    struct dt_queue_packet p;
    struct dt_queue *q;

    start("");
    q = attach();
    assert_true(send_numbered(1));
    assert_int_equal(read_some(q, &p, 1), 1);
    memset((void *)(uintptr_t)p.data, 0xee, p.length); /* and yet says "unchanged" */
    decide(q, p.id, DT_QUEUE_ACCEPT);
    heard(q);
    assert_memory_equal(rig.wire.frames[0].data, f.bytes, f.n);
    leave(q);
    rig_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_lies_about_the_ring),
        cmocka_unit_test(test_late_bytes),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
