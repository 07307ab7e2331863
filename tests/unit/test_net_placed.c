/* SPDX-License-Identifier: MIT */
/* test_net_placed.c - extensions of network cards in processes of their own: this program is their host, too. */
#include "tests/unit/net_rig.h"

#include "blk/channel/placed.h"
#include "net/net.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

static struct frame f;
static char last_event[512], told[4096];

static void hear(const struct device_event *e)
{
    size_t n = strlen(told);

    snprintf(last_event, sizeof(last_event), "%s: %s", e->event, e->text);
    snprintf(told + n, sizeof(told) - n, "%s;", e->event);
}

/* ---- An extension that does all that one can do; the last byte says what ---- */

struct toy {
    uint64_t add;
};
struct toy_ctx {
    uint64_t seen;
};
static uint64_t saved_seen;

static const struct dt_param toy_params[] = {{"add", DT_PARAM_UINT, DT_PARAM_LIVE,
                                              offsetof(struct toy, add), .initial = "1", .max = 100,
                                              .help = "Added to the byte before the last."},
                                             {NULL}};
enum { SEEN, DENIED };
static const struct dt_counter toy_counters[] = {
    [SEEN] = {"seen", "packets", "All."}, [DENIED] = {"denied", "packets", "Those of d."}, {NULL}};
static struct dt_packet *held;

static enum dt_net_verdict judge(struct dt_ctx *c, struct dt_packet *p, enum dt_direction way)
{
    const struct toy *t = c->layer_data;
    struct toy_ctx *tc = c->data;
    struct dt_packet *copy;

    tc->seen++;
    dt_count(c, SEEN, 1);
    switch (p->data[p->length - 1]) {
    case 'd':
        return dt_drop_as(p, DENIED);
    case 'x':
        abort();
    case 'l':
        for (;;)
            ;
    case 'h':
        held = p;
        return DT_HOLD;
    case 'c':
        p->data[p->length - 2] += (uint8_t)t->add;
        return DT_ACCEPT;
    case '2':
        copy = dt_packet_copy(c, p);
        CHECK(copy);
        if (way == DT_TX)
            dt_transmit_one(c, copy);
        else
            dt_receive_one(c, copy);
        return DT_ACCEPT;
    case 'b':
        dt_receive_one(c, p);
        return DT_HOLD;
    default:
        return DT_ACCEPT;
    }
}

static enum dt_net_verdict toy_tx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_TX);
}

static enum dt_net_verdict toy_rx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_RX);
}

static void toy_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    if (held)
        dt_transmit_one(c, TAKE_PTR(held));
}

static int toy_start(struct dt_ctx *c, struct dt_error *err)
{
    ((struct toy_ctx *)c->data)->seen = saved_seen;
    return 0;
}

static int64_t toy_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct dt_ctx *c = dt_layer_ctx(layer, 0);

    memcpy(buf, c->data, sizeof(struct toy_ctx));
    return sizeof(struct toy_ctx);
}

static int toy_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                    struct dt_error *err)
{
    if (size != sizeof(saved_seen))
        return dt_fail(err, -EINVAL, "not mine");
    memcpy(&saved_seen, buf, size);
    return 0;
}

static int run_seen(struct dt_layer *layer, int argc, const char *const *argv,
                    struct dt_reply *reply, struct dt_error *err)
{
    const struct toy_ctx *tc = dt_layer_ctx(layer, 0)->data;

    dt_reply_u64(reply, "seen", tc->seen);
    return 0;
}

static int toy_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    info->mtu -= 100;
    return 0;
}

static const struct dt_verb toy_verbs[] = {{"seen", NULL, "Packets so far.", run_seen}, {NULL}};
static const struct dt_net_ext toy = {
    DT_NET_EXT_HEADER,
    .name = "toy",
    .summary = "does as the last byte says",
    .flags = DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_CSUM,
    .params = toy_params,
    .counters = toy_counters,
    .verbs = toy_verbs,
    .layer_size = sizeof(struct toy),
    .ctx_size = sizeof(struct toy_ctx),
    .start = toy_start,
    .info = toy_info,
    .tx = toy_tx,
    .rx = toy_rx,
    .quiesce = toy_quiesce,
    .save = toy_save,
    .load = toy_load,
};

/* ---- The card ---- */

static bool until(bool (*condition)(uint64_t n), uint64_t n)
{
    uint64_t end = dt_clock_ns() + DT_S(20);

    while (!condition(n)) {
        if (dt_clock_ns() > end)
            return false;
        rig_turn();
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return true;
}

static bool on_wire(uint64_t n)
{
    return rig.wire.n >= n;
}

static bool at_guest(uint64_t n)
{
    return rig.guest.n >= n;
}

static bool given_back(uint64_t n)
{
    return rig.sent >= n;
}

static bool restarted(uint64_t n)
{
    return strstr(told, "extension-restarted") != NULL;
}

static bool given_up(uint64_t n)
{
    return strstr(told, "extension-given-up") != NULL;
}

static void start(const char *chain)
{
    told[0] = '\0';
    rig_start(chain);
}

static void make(const char *text)
{
    frame_ether(&f, 0x1234);
    frame_pattern(&f, 40);
    frame_bytes(&f, text, (uint32_t)strlen(text));
}

static bool say(const char *text)
{
    make(text);
    return rig_send(f.bytes, f.n, NULL, 0);
}

static void arrive(const char *text)
{
    make(text);
    rig_arrive(f.bytes, f.n, NULL);
}

static struct dt_layer *layer(void)
{
    return device_layer(rig.dev, 1);
}

/* ---- Served elsewhere ---- */

static void test_packets(void **state)
{
    json_t *reply;
    struct dt_error err;

    start("toy place=process | wire");
    assert_int_equal(device_net_info(rig.dev)->mtu, 1400);
    assert_true(placed_pid(layer(), NULL) > 0);
    assert_true(say("passes"));
    assert_true(say("0c"));
    assert_true(say("d"));
    assert_true(until(on_wire, 2));
    assert_true(say("2"));
    assert_true(until(on_wire, 4));
    assert_true(until(given_back, 4));
    assert_int_equal(rig.wire.frames[1].data[rig.wire.frames[1].length - 2], '1');
    arrive("passes");
    arrive("2");
    arrive("d");
    assert_true(until(at_guest, 3));
    assert_true(say("comes b")); /* and its descriptor with it */
    assert_true(until(at_guest, 4));
    assert_true(until(given_back, 5));
    assert_int_equal(device_set(rig.dev, "toy", "add", "3", &err), 0);
    assert_true(device_set(rig.dev, "toy", "add", "101", &err) < 0);
    assert_true(say("0c"));
    assert_true(until(on_wire, 5));
    assert_int_equal(rig.wire.frames[4].data[rig.wire.frames[4].length - 2], '3');
    assert_int_equal(device_do(rig.dev, "toy", "seen", 0, NULL, &reply, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "seen")), 9);
    json_decref(reply);
    assert_true(say("h"));
    rig_stop(); /* asks for what is held */
}

static bool all_seen(uint64_t n)
{
    return rig_counter("toy", "seen") >= n && rig_counter("toy", "denied") == n / 2;
}

static void test_counters(void **state)
{
    start("toy place=process | wire");
    for (unsigned i = 0; i < 300; i++)
        assert_true(say(i & 1 ? "d" : "passes"));
    assert_true(until(given_back, 300));
    assert_true(until(all_seen, 300));
    assert_int_equal(rig.wire.n, 150);
    assert_int_equal(rig_ops("toy", "transmit", "errors"), 150);
    rig_stop();
}

/* What it does not take is done before; what it takes comes through. */
static void test_offloads(void **state)
{
    static const struct dt_vnet_header tso = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                              .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                              .gso_size = 1000,
                                              .csum_start = 34,
                                              .csum_offset = 16};
    static const struct dt_vnet_header csum = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};

    start("toy place=process | wire");
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1, 2, 3, 0x10);
    frame_pattern(&f, 2500);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &tso, DT_OFFLOAD_ALL));
    assert_true(until(on_wire, 3));
    for (unsigned i = 0; i < 3; i++)
        assert_true(frame_sums_right(rig.wire.frames[i].data, rig.wire.frames[i].length));
    f.n = 0;
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1, 2, 3, 0x10);
    frame_pattern(&f, 100);
    frame_end(&f);
    assert_true(rig_send(f.bytes, f.n, &csum, DT_OFFLOAD_ALL));
    assert_true(until(on_wire, 4));
    assert_int_equal(rig.wire.frames[3].needs, DT_OFFLOAD_CSUM);
    assert_true(until(given_back, 2));
    rig_stop();
}

/* ---- Deaths ---- */

static void test_crash(void **state)
{
    unsigned restarts;

    start("toy place=process | wire");
    for (unsigned i = 0; i < 10; i++)
        assert_true(say("passes"));
    assert_true(until(on_wire, 10));
    assert_true(say("x"));
    arrive("waits perhaps");
    assert_true(until(given_back, 11)); /* what it had is lost, and nobody gets it again */
    assert_true(until(restarted, 0));
    assert_true(say("passes"));
    assert_true(until(on_wire, 11));
    placed_pid(layer(), &restarts);
    assert_int_equal(restarts, 1);
    rig_stop();
}

static void test_hang(void **state)
{
    start("toy place=process deadline=100ms | wire");
    assert_true(say("l"));
    assert_true(until(restarted, 0));
    assert_non_null(strstr(told, "extension-died"));
    assert_true(say("passes"));
    assert_true(until(on_wire, 1));
    rig_stop();
}

static void test_policies(void **state)
{
    struct dt_error err;
    json_t *reply;

    start("toy place=process tries=1 on-crash=bypass | wire");
    assert_true(say("x"));
    assert_true(until(given_up, 0));
    assert_true(say("d"));
    assert_int_equal(rig.wire.n, 1);
    arrive("d");
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(device_set(rig.dev, "toy", "on-crash", "fail", &err), 0);
    assert_true(say("passes"));
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(rig.sent, 3);
    assert_int_equal(device_set(rig.dev, "toy", "on-crash", "hold", &err), 0);
    assert_false(say("passes"));
    arrive("passes");
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(device_do(rig.dev, "toy", "restart-process", 0, NULL, &reply, &err), 0);
    json_decref(reply);
    assert_true(until(at_guest, 2));
    assert_true(say("passes"));
    assert_true(until(on_wire, 2));
    rig_stop();
}

static void test_state(void **state)
{
    json_t *reply;
    struct dt_error err;

    start("toy place=process | wire");
    for (unsigned i = 0; i < 5; i++)
        assert_true(say("passes"));
    assert_true(until(on_wire, 5));
    assert_int_equal(device_do(rig.dev, "toy", "restart-process", 0, NULL, &reply, &err), 0);
    json_decref(reply);
    assert_true(until(restarted, 0));
    assert_true(say("passes"));
    assert_true(until(on_wire, 6));
    assert_int_equal(device_do(rig.dev, "toy", "seen", 0, NULL, &reply, &err), 0);
    assert_int_equal(json_integer_value(json_object_get(reply, "seen")), 6);
    json_decref(reply);
    rig_stop();
}

/* ---- Others ---- */

/* One that closes the intake does so here, where the rings are. */
static void test_rate(void **state)
{
    unsigned sent = 0;

    start("rate place=process tx-packets=1000 burst=10ms | wire");
    for (unsigned i = 0; i < 200; i++) {
        sent += say("passes");
        rig_turn();
        if (i == 100)
            assert_true(until(given_back, sent));
    }
    assert_in_range(sent, 1, 150);
    assert_true(until(on_wire, sent));
    rig_stop();
}

static void test_refused(void **state)
{
    assert_true(rig_try("toy place=process add=101 | wire") < 0);
    assert_null(strchr(rig.err.text, '\n'));
    assert_true(rig_try("toy place=nowhere | wire") < 0);
    assert_true(rig_try("wire place=process") < 0);
    assert_non_null(strstr(rig.err.text, "a back cannot be placed"));
    assert_true(rig_try("toy place=process trust=memory | wire") < 0);
    assert_non_null(strstr(rig.err.text, "trust=memory"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packets),  cmocka_unit_test(test_counters),
        cmocka_unit_test(test_offloads), cmocka_unit_test(test_crash),
        cmocka_unit_test(test_hang),     cmocka_unit_test(test_policies),
        cmocka_unit_test(test_state),    cmocka_unit_test(test_rate),
        cmocka_unit_test(test_refused),
    };
    struct dt_error err;

    net_register_builtin();
    CHECK(registry_add_net(&toy, &err) == 0);
    placed_init(NULL);
    if (argc > 2 && strcmp(argv[1], "ext-host") == 0)
        return placed_host(argv[2]);
    device_events(hear);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
