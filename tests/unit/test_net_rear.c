/* SPDX-License-Identifier: MIT */
/*
 * test_net_rear.c - the back `vhost-user` of a card before a rear that does what it should, takes nothing, goes away,
 * or lies.
 */
#include "tests/unit/fake_rear.h"
#include "tests/unit/net_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#define HEADER sizeof(struct dt_vnet_header)

static struct fake_rear rear;
static struct frame f;
static uint8_t buffer[FAKE_FRAME];

static void make_frame(uint32_t length, uint8_t seed)
{
    frame_ether(&f, 0x88b5);
    while (f.n < length) {
        f.bytes[f.n] = (uint8_t)(f.n * 31 + seed);
        f.n++;
    }
    f.n = length;
}

static int try_begin(uint64_t features, const char *options)
{
    char chain[200];

    rear = (struct fake_rear){.net = true, .features = features, .protocol = FAKE_NET_PROTOCOL};
    fake_rear_start(&rear);
    snprintf(chain, sizeof(chain), "vhost-user path=%s %s", rear.path, options);
    return rig_try(chain);
}

static unsigned sessions(void)
{
    return __atomic_load_n(&rear.sessions, __ATOMIC_ACQUIRE);
}

static unsigned served(void)
{
    return __atomic_load_n(&rear.served, __ATOMIC_ACQUIRE);
}

static void send_frame(void)
{
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

/* A packet of the guest's gets through: the session is up. */
static void send_through(void)
{
    unsigned before = served();

    send_frame();
    TURN_UNTIL(served() > before);
    assert_int_equal(rear.frame_bytes, HEADER + f.n);
    assert_memory_equal(rear.frame + HEADER, f.bytes, f.n);
}

static void begin(const char *options)
{
    if (try_begin(FAKE_NET_FEATURES, options) < 0)
        fail_msg("%s", rig.err.text);
    make_frame(60, 1);
    send_through();
}

static void end(void)
{
    rig_stop();
    fake_rear_stop(&rear);
}

/* The frame comes from the rear, with header @v. */
static bool arrive(const struct dt_vnet_header *v, uint32_t each)
{
    memcpy(buffer, v, HEADER);
    memcpy(buffer + HEADER, f.bytes, f.n);
    return fake_rear_send(&rear, buffer, (uint32_t)HEADER + f.n, each);
}

static void arrives(uint32_t each)
{
    const struct dt_vnet_header v = {.num_buffers = (uint16_t)((HEADER + f.n + each - 1) / each)};
    unsigned before = rig.guest.n;

    TURN_UNTIL(arrive(&v, each)); /* a new session has no buffers at first */
    TURN_UNTIL(rig.guest.n > before);
    assert_int_equal(rig.guest.frames[before].length, f.n);
    assert_memory_equal(rig.guest.frames[before].data, f.bytes, f.n);
}

/* ---- A rear that does what it should --------------------------------------------------------- */

static const uint32_t lengths[] = {14, 60, 1514, 2036, 2037, 9014, 65600};

static void test_both_ways(void **state)
{
    begin("");
    assert_int_equal(rear.mtu, 1500);
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        make_frame(lengths[i], (uint8_t)i);
        send_through();
        arrives(2048);
    }
    for (unsigned i = 0; i < 300; i++) { /* more than the ring holds */
        make_frame(100 + i, (uint8_t)i);
        send_through();
        arrives(64);
    }
    assert_int_equal(rig.sent, 1 + ARRAY_SIZE(lengths) + 300);
    end();
}

static void test_without_mergeable_buffers(void **state)
{
    uint64_t without = FAKE_NET_FEATURES & ~(1ull << VIRTIO_NET_F_MRG_RXBUF);

    assert_int_equal(try_begin(without, "mtu=9000"), 0);
    assert_int_equal(device_net_info(rig.dev)->mtu, 9000);
    make_frame(9014, 1);
    send_through();
    arrives(UINT32_MAX);
    assert_int_equal(rear.mtu, 9000);
    end();
}

static void make_tcp(uint32_t payload)
{
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1000, 80, 1, 16);
    frame_pattern(&f, payload);
    frame_end(&f);
}

static void test_offloads(void **state)
{
    const struct dt_vnet_header super = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                         .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                         .gso_size = 1000,
                                         .csum_start = 34,
                                         .csum_offset = 16,
                                         .num_buffers = 2};
    struct dt_vnet_header v;

    begin("");
    assert_int_equal(device_net_info(rig.dev)->offloads, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    make_tcp(3000);
    assert_true(rig_send(f.bytes, f.n, &super, DT_OFFLOAD_ALL));
    TURN_UNTIL(served() > 1);
    memcpy(&v, rear.frame, sizeof(v));
    assert_int_equal(v.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    assert_int_equal(v.gso_size, 1000);
    assert_int_equal(v.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_true(arrive(&super, 2048));
    TURN_UNTIL(rig.guest.n > 0);
    assert_int_equal(rig.guest.frames[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    end();
    /* A rear without: the super-frame is cut before it. */
    assert_int_equal(try_begin(FAKE_NET_FEATURES & ~(1ull << VIRTIO_NET_F_CSUM), ""), 0);
    assert_int_equal(device_net_info(rig.dev)->offloads, 0);
    assert_true(rig_send(f.bytes, f.n, &super, DT_OFFLOAD_ALL));
    TURN_UNTIL(served() == 3);
    memcpy(&v, rear.frame, sizeof(v));
    assert_int_equal(v.gso_type | v.flags, 0);
    assert_true(frame_sums_right(rear.frame + HEADER, rear.frame_bytes - (uint32_t)HEADER));
    end();
}

/* What it says of a packet and the packet contradict each other: that packet goes, and the session stays. */
static void test_bad_header(void **state)
{
    const struct dt_vnet_header v = {
        .gso_type = VIRTIO_NET_HDR_GSO_TCPV6, .gso_size = 100, .num_buffers = 1};

    begin("");
    make_tcp(1000);
    assert_true(arrive(&v, 2048));
    arrives(2048);
    assert_int_equal(rig_counter("vhost-user", "rx-header"), 1);
    make_frame(14, 0);
    f.n = 10;
    assert_true(arrive(&(struct dt_vnet_header){.num_buffers = 1}, 2048));
    f.n = 14;
    arrives(2048);
    assert_int_equal(rig_counter("vhost-user", "rx-short"), 1);
    assert_int_equal(rig_counter("vhost-user", "rear-losses"), 0);
    end();
}

/* ---- One that is slow, or gone --------------------------------------------------------------- */

static void test_takes_nothing(void **state)
{
    begin("queue-size=64");
    rear.mute = true;
    rig.sent = 0;
    for (unsigned i = 0; i < 100; i++) {
        send_frame();
        rig_turn(); /* the ring is not polled any more when the next one comes */
    }
    assert_int_equal(rig.sent, 64); /* the others wait in the guest's ring */
    __atomic_store_n(&rear.mute, false, __ATOMIC_RELAXED);
    CHECK(write(rear.rings[1].kick, &(uint64_t){1}, 8) == 8);
    TURN_UNTIL(rig.sent == 100);
    TURN_UNTIL(served() == 101);
    assert_int_equal(rig_counter("vhost-user", "tx-full"), 0);
    end();
}

static void test_guest_takes_nothing(void **state)
{
    const struct dt_vnet_header v = {.num_buffers = 1};
    unsigned n = 0;

    begin("queue-size=64");
    net_set_room(rig.lane, true, 0);
    while (n < 1000 && arrive(&v, 2048))
        n++;
    assert_int_equal(n, 64); /* it has no more buffers */
    for (unsigned i = 0; i < 10; i++)
        rig_turn();
    assert_int_equal(rig.guest.n, 0);
    net_set_room(rig.lane, true, 256);
    net_resume(rig.lane);
    TURN_UNTIL(rig.guest.n == 64);
    end();
}

static void lose(void)
{
    fake_rear_stop(&rear);
    TURN_UNTIL(rig_counter("vhost-user", "rear-losses") > 0);
}

/* Back within a second: what waits meanwhile gets there, and what it had not taken is lost. */
static void test_comes_back(void **state)
{
    begin("queue-size=64");
    rear.mute = true;
    for (unsigned i = 0; i < 70; i++)
        send_frame();
    lose();
    assert_int_equal(rig_counter("vhost-user", "tx-lost"), 64);
    rear.mute = false;
    rear.served = 0;
    fake_rear_start(&rear);
    TURN_UNTIL(served() == 6);
    assert_int_equal(rig_counter("vhost-user", "tx-full"), 0);
    arrives(2048);
    end();
}

/* Gone for longer: nobody waits, and it comes back all the same. */
static void test_stays_away(void **state)
{
    uint64_t until;

    begin("");
    lose();
    send_frame();
    until = dt_clock_ns() + DT_S(1) + DT_MS(200);
    while (dt_clock_ns() < until)
        rig_turn();
    assert_int_equal(rig_counter("vhost-user", "tx-full"), 1);
    send_frame();
    assert_int_equal(rig_counter("vhost-user", "tx-full"), 2);
    fake_rear_start(&rear);
    TURN_UNTIL(sessions() == 2 && rear.rings[1].enabled);
    arrives(2048);
    send_through();
    end();
}

/* It has to be the same one. */
static void test_comes_back_as_another(void **state)
{
    begin("");
    lose();
    rear.features &= ~(1ull << VIRTIO_NET_F_GUEST_TSO4);
    fake_rear_start(&rear);
    TURN_UNTIL(sessions() >= 3); /* refused, and tried again */
    rear.features = FAKE_NET_FEATURES;
    TURN_UNTIL(rear.rings[1].enabled);
    end();
}

/* ---- One that lies --------------------------------------------------------------------------- */

static void test_lies(void **state)
{
    static const struct {
        bool to_us;
        enum fake_lie lie;
        uint16_t buffers;
    } lies[] = {
        {true, LIE_SHORT, 1}, {true, LIE_LONG, 1},   {true, LIE_RANGE, 1},  {true, LIE_TWICE, 1},
        {true, LIE_INDEX, 1}, {true, LIE_NONE, 0},   {true, LIE_NONE, 34},  {true, LIE_NONE, 65535},
        {false, LIE_LONG, 0}, {false, LIE_RANGE, 0}, {false, LIE_TWICE, 0}, {false, LIE_INDEX, 0},
        {false, LIE_ID, 0},
    };

    begin("");
    for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
        const struct dt_vnet_header v = {.num_buffers = lies[i].buffers};

        rear.lie = (int)lies[i].lie;
        if (lies[i].to_us)
            assert_true(arrive(&v, 2048));
        else
            send_frame();
        while (rig_counter("vhost-user", "rear-lies") == i) {
            /* What comes back is looked at when there is something to send; a rear that is late has a full ring. */
            if (!lies[i].to_us)
                rig_send(f.bytes, f.n, NULL, 0);
            rig_turn();
        }
        TURN_UNTIL(sessions() == i + 2);
        TURN_UNTIL(__atomic_load_n(&rear.rings[1].enabled, __ATOMIC_RELAXED));
        arrives(2048);
    }
    end();
}

/* ---- One that connects to us ------------------------------------------------------------------- */

static void listens(const char *options)
{
    char chain[200];

    rear = (struct fake_rear){.net = true,
                              .connects = true,
                              .features = FAKE_NET_FEATURES,
                              .protocol = FAKE_NET_PROTOCOL};
    snprintf(rear.path, sizeof(rear.path), "/tmp/devtap-net-rear.%d", getpid());
    snprintf(chain, sizeof(chain), "vhost-user path=%s listen=on %s", rear.path, options);
    if (rig_try(chain) < 0)
        fail_msg("%s", rig.err.text);
    make_frame(60, 1);
}

static void test_listens(void **state)
{
    struct stat st;

    listens("socket-mode=620");
    assert_int_equal(stat(rear.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0620);
    assert_int_equal(device_net_info(rig.dev)->offloads, 0);
    send_frame(); /* waits for whoever comes */
    fake_rear_start(&rear);
    TURN_UNTIL(served() == 1);
    arrives(2048);
    for (unsigned i = 1; i < 3; i++) { /* another one each time, with other ring features */
        fake_rear_stop(&rear);
        TURN_UNTIL(rig_counter("vhost-user", "rear-losses") == i);
        rear.features ^= 1ull << VIRTIO_NET_F_MRG_RXBUF;
        fake_rear_start(&rear);
        TURN_UNTIL(sessions() == i + 1 &&
                   __atomic_load_n(&rear.rings[1].enabled, __ATOMIC_RELAXED));
        arrives(UINT32_MAX);
        send_through();
    }
    end();
    unlink(rear.path);
}

/* Offloads are what the parameter promises of it, and no rear without them is taken. */
static void test_listens_with_offloads(void **state)
{
    const uint32_t offloads = DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6;

    listens("offloads=on");
    assert_int_equal(device_net_info(rig.dev)->offloads, offloads);
    fake_rear_start(&rear); /* it lacks TSO6 */
    TURN_UNTIL(sessions() >= 2);
    assert_false(rear.rings[1].enabled);
    fake_rear_settle(&rear);
    rear.features |= 1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_TSO6;
    TURN_UNTIL(__atomic_load_n(&rear.rings[1].enabled, __ATOMIC_RELAXED));
    send_through();
    assert_int_equal(device_net_info(rig.dev)->offloads, offloads);
    end();
    unlink(rear.path);
}

static void refuses(const char *options, const char *text)
{
    char chain[200];

    snprintf(chain, sizeof(chain), "vhost-user path=/tmp/devtap-net-rear.%d %s", getpid(), options);
    assert_true(rig_try(chain) < 0);
    if (!strstr(rig.err.text, text))
        fail_msg("%s", rig.err.text);
}

static void test_refuses_to_listen(void **state)
{
    refuses("listen=on socket-mode=9", "socket-mode=9");
    refuses("listen=on socket-group=no-such-group", "no-such-group");
    refuses("offloads=on", "listen=on");
    rear = (struct fake_rear){.net = true, .features = FAKE_NET_FEATURES};
    snprintf(rear.path, sizeof(rear.path), "/tmp/devtap-net-rear.%d", getpid());
    fake_rear_start(&rear);
    refuses("listen=on", "in use");
    fake_rear_stop(&rear);
}

static void test_refused(void **state)
{
    assert_true(try_begin(FAKE_NET_FEATURES & ~(1ull << VIRTIO_F_VERSION_1), "") < 0);
    fake_rear_stop(&rear);
    assert_true(try_begin(FAKE_NET_FEATURES, "packed=on") < 0);
    assert_non_null(strstr(rig.err.text, "packed=on"));
    fake_rear_stop(&rear);
    assert_true(rig_try("vhost-user path=/nonexistent/socket") < 0);
    assert_non_null(strstr(rig.err.text, "/nonexistent/socket"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_without_mergeable_buffers),
        cmocka_unit_test(test_offloads),
        cmocka_unit_test(test_bad_header),
        cmocka_unit_test(test_takes_nothing),
        cmocka_unit_test(test_guest_takes_nothing),
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_stays_away),
        cmocka_unit_test(test_comes_back_as_another),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_listens),
        cmocka_unit_test(test_listens_with_offloads),
        cmocka_unit_test(test_refuses_to_listen),
        cmocka_unit_test(test_refused),
    };

    log_set_level(DT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
