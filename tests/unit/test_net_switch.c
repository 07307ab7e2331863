/* SPDX-License-Identifier: MIT */
/* test_net_switch.c - the switch, with the far end of each port in the test's hands. */
#include "net/switch/fabric.h"

#include "base/bytes.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define PORTS  6u
#define FRAMES 4096u

enum { A, B, C, D, E, UP };

/** struct far - a port's other end: what came to it, oldest first. With @holds it keeps packets until let go. */
static struct far {
    struct dt_ctx *c;
    bool holds;
    struct dt_packet *held[FRAMES];
    unsigned nheld;
    struct {
        uint8_t bytes[128];
        uint32_t length;
        uint8_t needs;
    } got[FRAMES];
    unsigned n;
} fars[FABRIC_PORTS];
static unsigned nfars;
static struct loop *loop;
static struct fabric *fabric;
static struct dt_error error;

/* ---- The far ends ---- */

static struct far *far_of(struct dt_ctx *c)
{
    return *(struct far **)c->data;
}

static void arrive(struct far *f, const struct dt_packet *p)
{
    assert_true(f->n < FRAMES);
    memcpy(f->got[f->n].bytes, p->data, MIN(p->length, 128u));
    f->got[f->n].length = p->length;
    f->got[f->n++].needs = p->needs;
}

static void far_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct far *f = far_of(c);

    for (unsigned i = 0; i < n; i++) {
        arrive(f, packets[i]);
        if (f->holds)
            f->held[f->nheld++] = packets[i];
        else
            dt_sent(c, &packets[i], 1);
    }
}

/* Lets the first @n go. */
static void let_go(struct far *f, unsigned n)
{
    n = MIN(n, f->nheld);
    f->nheld -= n;
    if (n)
        dt_sent(f->c, f->held, n);
    memmove(f->held, f->held + n, f->nheld * sizeof(f->held[0]));
}

static void far_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    let_go(far_of(c), FRAMES);
}

static int far_start(struct dt_ctx *c, struct dt_error *err)
{
    *(struct far **)c->data = &fars[nfars];
    fars[nfars++].c = c;
    return 0;
}

static int far_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    return 0;
}

static const struct dt_net_ext far_ext = {
    DT_NET_EXT_HEADER,      .name = "far",           .summary = "the other end, for tests",
    .flags = DT_BACK,       .takes = DT_OFFLOAD_ALL, .ctx_size = sizeof(struct far *),
    .start = far_start,     .info = far_info,        .transmit = far_transmit,
    .quiesce = far_quiesce,
};

/* ---- A switch ---- */

#define MAC(i)                                  \
    {                                           \
        0x52, 0x54, 0, 0, 0, (uint8_t)((i) + 1) \
    }

/* A and B are peers; C is alone; D is in VLAN 10 without a tag; E has VLANs 10 and 20 with one. */
static void configure(struct fabric_config *configs)
{
    static const char *const names[PORTS] = {"a", "b", "c", "d", "e", "up"};

    for (unsigned i = 0; i < PORTS; i++) {
        const uint8_t mac[6] = MAC(i);

        configs[i] = (struct fabric_config){.name = names[i], .chain = "far"};
        memcpy(configs[i].macs[0], mac, 6);
        configs[i].nmacs = 1;
    }
    configs[A].group = configs[B].group = "g";
    configs[D].vlan = 10;
    configs[D].group = configs[E].group = "h";
    configs[E].trunk[10 / 8] |= 1 << 10 % 8;
    configs[E].trunk[20 / 8] |= 1 << 20 % 8;
    configs[UP] = (struct fabric_config){.name = "up", .chain = "far", .uplink = true};
}

static void start_with(const struct fabric_config *configs, unsigned count)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    static bool registered;

    if (!registered && registry_add_net(&far_ext, &error) < 0)
        fail_msg("%s", error.text);
    registered = true;
    for (unsigned i = 0; i < FABRIC_PORTS; i++) {
        fars[i].n = fars[i].nheld = 0;
        fars[i].holds = false;
    }
    nfars = 0;
    assert_int_equal(loop_new(&loop, &config, &error), 0);
    if (fabric_new(&fabric, loop, configs, count, &error) < 0 || fabric_start(fabric, &error) < 0)
        fail_msg("%s", error.text);
}

static int set_up(void **state)
{
    static struct fabric_config configs[PORTS];

    configure(configs);
    start_with(configs, PORTS);
    return 0;
}

static int tear_down(void **state)
{
    fabric_free(fabric);
    loop_free(loop);
    return 0;
}

static void turn(void)
{
    loop_turn(loop, false);
}

/* ---- Frames ---- */

struct frame_of {
    uint8_t bytes[9100];
    uint32_t n;
};

static struct frame_of frame(unsigned from, unsigned to)
{
    const uint8_t to_mac[6] = MAC(to), from_mac[6] = MAC(from);
    struct frame_of f = {.n = 60};

    memcpy(f.bytes, to_mac, 6);
    memcpy(f.bytes + 6, from_mac, 6);
    store_be16(f.bytes + 12, 0x88b5);
    return f;
}

static struct frame_of to_all(unsigned from)
{
    struct frame_of f = frame(from, 0);

    memset(f.bytes, 0xff, 6);
    return f;
}

static struct frame_of tagged(struct frame_of f, uint16_t tpid, uint16_t tci)
{
    memmove(f.bytes + 16, f.bytes + 12, f.n - 12);
    store_be16(f.bytes + 12, tpid);
    store_be16(f.bytes + 14, tci);
    f.n += 4;
    return f;
}

/* Comes in at @port; the switch has handled it when this returns. False: the port has no memory. */
static bool inject(unsigned port, struct frame_of f)
{
    struct dt_packet *p = dt_packet_new(fars[port].c, f.n);

    if (!p)
        return false;
    memcpy(p->data, f.bytes, f.n);
    dt_receive_one(fars[port].c, p);
    return true;
}

static void pass_in(unsigned port, struct frame_of f)
{
    assert_true(inject(port, f));
    turn();
}

static unsigned all_arrived(void)
{
    unsigned n = 0;

    for (unsigned i = 0; i < nfars; i++)
        n += fars[i].n;
    return n;
}

static uint64_t counter(unsigned port, enum fabric_counter which)
{
    return fabric->ports[port]->counters[which];
}

static void expect_dropped(unsigned port, struct frame_of f, enum fabric_counter why)
{
    uint64_t before = counter(port, why);
    unsigned arrived = all_arrived();

    pass_in(port, f);
    assert_int_equal(counter(port, why), before + 1);
    assert_int_equal(all_arrived(), arrived);
}

/* It arrives at @to alone, as @as. */
static void expect_at(unsigned port, struct frame_of f, unsigned to, struct frame_of as)
{
    unsigned arrived = all_arrived(), n = fars[to].n;

    pass_in(port, f);
    assert_int_equal(all_arrived(), arrived + 1);
    assert_int_equal(fars[to].n, n + 1);
    assert_int_equal(fars[to].got[n].length, as.n);
    assert_memory_equal(fars[to].got[n].bytes, as.bytes, as.n);
}

/* ---- Tests ---- */

static void test_where_frames_go(void **state)
{
    expect_at(A, frame(A, 100), UP, frame(A, 100)); /* an address of nobody here */
    expect_at(UP, frame(100, A), A, frame(100, A));
    expect_at(A, frame(A, B), B, frame(A, B)); /* peers */
    expect_at(B, frame(B, A), A, frame(B, A));
    expect_dropped(A, frame(A, C), FABRIC_PRIVATE);
    expect_dropped(C, frame(C, A), FABRIC_PRIVATE);
    expect_dropped(A, frame(A, A), FABRIC_UNKNOWN);
    expect_dropped(UP, frame(100, 101), FABRIC_UNKNOWN); /* never to cards */
    assert_int_equal(counter(A, FABRIC_RECEIVED), 4);
    assert_int_equal(counter(UP, FABRIC_SENT), 1);
}

/* No frame with A's address comes from elsewhere, and none makes the switch think that A is there. */
static void test_nobody_takes_an_address(void **state)
{
    expect_dropped(B, frame(A, 100), FABRIC_SPOOFED);
    expect_dropped(B, frame(100, A), FABRIC_SPOOFED);
    expect_dropped(UP, frame(A, B), FABRIC_SPOOFED);
    expect_dropped(UP, frame(A, 100), FABRIC_SPOOFED);
    expect_dropped(B, to_all(A), FABRIC_SPOOFED);
    expect_at(UP, frame(100, A), A, frame(100, A));
    for (unsigned i = 0; i < 1000; i++) /* no flood of addresses changes that */
        pass_in(UP, frame(100 + i % 100, 200));
    expect_at(UP, frame(150, A), A, frame(150, A));
    expect_at(A, frame(A, 150), UP, frame(A, 150));
}

static void test_source_of_a_group(void **state)
{
    struct frame_of f = frame(100, A);

    f.bytes[6] |= 1;
    expect_dropped(UP, f, FABRIC_SPOOFED);
}

static void test_reserved(void **state)
{
    struct frame_of f = frame(A, 0);

    for (unsigned last = 0; last < 16; last++) {
        const uint8_t to[] = {1, 0x80, 0xc2, 0, 0, (uint8_t)last};

        memcpy(f.bytes, to, 6);
        expect_dropped(A, f, FABRIC_RESERVED);
    }
    f.bytes[5] = 16;
    pass_in(A, f);
    assert_int_equal(fars[UP].n, 1);
}

static void test_broadcast(void **state)
{
    pass_in(A, to_all(A));
    assert_int_equal(fars[UP].n, 1);
    assert_int_equal(fars[B].n, 1);
    assert_int_equal(all_arrived(), 2); /* no stranger, no other VLAN, not back */
    pass_in(UP, to_all(100));
    assert_int_equal(fars[A].n + fars[B].n + fars[C].n, 4);
    assert_int_equal(fars[D].n + fars[E].n, 1); /* E has no vlan=, so it is in 0, too */
    pass_in(D, to_all(D));
    assert_int_equal(fars[E].n, 2);
    assert_int_equal(fars[UP].n, 2);
}

static void test_broadcast_limit(void **state)
{
    static struct fabric_config configs[PORTS];
    unsigned n;

    tear_down(state);
    configure(configs);
    configs[A].broadcast = 100;
    start_with(configs, PORTS);
    for (unsigned i = 0; i < 2000; i++)
        pass_in(A, to_all(A));
    n = fars[UP].n;
    assert_in_range(n, 1, 1000); /* at most 11, and 100 for each second that this took */
    assert_int_equal(counter(A, FABRIC_BROADCAST), 2000 - n);
    pass_in(C, to_all(C)); /* others are not touched */
    assert_int_equal(fars[UP].n, n + 1);
    expect_at(A, frame(A, 100), UP, frame(A, 100)); /* nor are A's other frames */
}

/* Datagrams of UDP for all, @segments of 48 bytes, as one frame of @port's. */
static void pass_in_super(unsigned port, uint16_t segments)
{
    const uint16_t payload = (uint16_t)(segments * 48);
    struct frame_of f = to_all(port);
    struct dt_packet *p = dt_packet_new(fars[port].c, 42u + payload);

    assert_non_null(p);
    memset(p->data, 0, p->length);
    store_be16(f.bytes + 12, 0x0800);
    f.bytes[14] = 0x45;
    store_be16(f.bytes + 16, (uint16_t)(28 + payload));
    f.bytes[23] = 17;
    store_be16(f.bytes + 38, (uint16_t)(8 + payload));
    memcpy(p->data, f.bytes, 42);
    p->needs = DT_OFFLOAD_CSUM | DT_OFFLOAD_USO4;
    p->segment = 48;
    assert_int_equal(dt_packet_segments(p), segments);
    dt_receive_one(fars[port].c, p);
    turn();
}

/* A super-frame is as many frames as its segments: what it is beyond the limit is paid for first. */
static void test_broadcast_limit_of_super_frames(void **state)
{
    static struct fabric_config configs[PORTS];

    tear_down(state);
    configure(configs);
    configs[A].broadcast = 100;
    start_with(configs, PORTS);
    fabric->ports[A]->broadcast.level = (__int128)10 * 1000000000; /* ten frames may come at once */
    for (unsigned i = 0; i < 3; i++)
        pass_in_super(A, 1000);
    assert_int_equal(fars[UP].n, 1);
    assert_int_equal(counter(A, FABRIC_BROADCAST), 2);
}

static void test_vlans(void **state)
{
    expect_at(D, frame(D, 100), UP, tagged(frame(D, 100), 0x8100, 10));
    expect_at(UP, tagged(frame(100, D), 0x8100, 10), D, frame(100, D));
    expect_at(E, tagged(frame(E, 100), 0x8100, 0x6014), UP, tagged(frame(E, 100), 0x8100, 0x6014));
    expect_at(UP, tagged(frame(100, E), 0x8100, 20), E, tagged(frame(100, E), 0x8100, 20));
    expect_at(E, frame(E, 100), UP, frame(E, 100));
    expect_at(D, frame(D, E), E, tagged(frame(D, E), 0x8100, 10)); /* peers */
    expect_at(E, tagged(frame(E, D), 0x8100, 10), D, frame(E, D));
    expect_dropped(E, tagged(frame(E, D), 0x8100, 20), FABRIC_PRIVATE); /* D is not there */
    expect_dropped(UP, frame(100, D), FABRIC_PRIVATE);
    expect_dropped(UP, tagged(frame(100, A), 0x8100, 10), FABRIC_PRIVATE);
}

/* A card cannot choose its VLAN. */
static void test_vlan_hopping(void **state)
{
    expect_dropped(A, tagged(frame(A, 100), 0x8100, 10), FABRIC_VLAN);
    expect_dropped(A, tagged(frame(A, 100), 0x8100, 0), FABRIC_VLAN);
    expect_dropped(D, tagged(frame(D, 100), 0x8100, 10), FABRIC_VLAN);
    expect_dropped(E, tagged(frame(E, 100), 0x8100, 30), FABRIC_VLAN);
    expect_dropped(E, tagged(frame(E, 100), 0x8100, 4095), FABRIC_VLAN);
    expect_dropped(E, tagged(tagged(frame(E, 100), 0x8100, 30), 0x8100, 20), FABRIC_VLAN);
    expect_dropped(E, tagged(frame(E, 100), 0x88a8, 20), FABRIC_VLAN);
    expect_dropped(E, tagged(frame(E, 100), 0x9100, 20), FABRIC_VLAN);
    expect_dropped(UP, tagged(tagged(frame(100, D), 0x8100, 20), 0x8100, 10), FABRIC_VLAN);
}

static void test_short_tagged(void **state)
{
    struct frame_of f = tagged(frame(E, 100), 0x8100, 20);

    for (f.n = 14; f.n < 18; f.n++)
        expect_dropped(E, f, FABRIC_VLAN);
    pass_in(E, f);
    assert_int_equal(fars[UP].got[0].length, 18);
}

/* Of the first @n that reached the uplink, the bytes that came from @port. */
static uint64_t bytes_from(unsigned port, unsigned first, unsigned n)
{
    uint64_t sum = 0;

    for (unsigned i = first; i < first + n; i++)
        if (fars[UP].got[i].bytes[11] == port + 1)
            sum += fars[UP].got[i].length;
    return sum;
}

/* The uplink is slow. A floods it with large frames, B with small ones, C sends ten: who waits for whom? */
static void test_flood_starves_nobody(void **state)
{
    struct frame_of large = frame(A, 100), small = frame(B, 100);
    unsigned seen, of_c = 0;
    uint64_t a, b;

    large.n = 9000;
    small.n = 100;
    fars[UP].holds = true;
    for (unsigned i = 0; i < 3000; i++) {
        inject(A, large);
        inject(B, small);
    }
    turn();
    assert_int_equal(fars[UP].n, FABRIC_WINDOW);
    for (unsigned i = 0; i < 10; i++)
        pass_in(C, frame(C, 100));
    seen = fars[UP].n;
    while (fars[UP].n < seen + 2000 && of_c < 10) {
        let_go(&fars[UP], 1);
        turn();
        of_c += fars[UP].got[fars[UP].n - 1].bytes[11] == C + 1;
        inject(A, large);
        inject(B, small);
    }
    assert_int_equal(of_c, 10); /* all of C's, after no more than a turn of each other */
    a = bytes_from(A, seen, fars[UP].n - seen);
    b = bytes_from(B, seen, fars[UP].n - seen);
    assert_in_range(a, 0, FABRIC_QUANTUM * 2);
    assert_in_range(b, 0, FABRIC_QUANTUM * 2);
    seen = fars[UP].n;
    while (fars[UP].n < seen + 2500) {
        let_go(&fars[UP], 1);
        turn();
        inject(A, large);
        inject(B, small);
        inject(B, small);
    }
    a = bytes_from(A, seen, 2500);
    b = bytes_from(B, seen, 2500);
    assert_in_range(a * 100 / b, 80, 125); /* in bytes they are equal */
    assert_true(counter(A, FABRIC_FULL) > 0 && counter(B, FABRIC_FULL) > 0);
    assert_int_equal(counter(C, FABRIC_FULL), 0);
}

/* What A cannot get rid of is in A's own memory. */
static void test_flood_takes_no_memory_of_others(void **state)
{
    struct frame_of large = frame(A, 100);

    large.n = 9000;
    fars[UP].holds = true;
    for (unsigned i = 0; i < 20000; i++)
        inject(A, i % 2 ? large : frame(A, 100));
    turn();
    expect_at(B, frame(B, A), A, frame(B, A));
    expect_at(A, frame(A, B), B, frame(A, B)); /* and even A reaches others */
    let_go(&fars[UP], FRAMES);
    turn();
    assert_int_equal(fars[UP].n, 2 * FABRIC_WINDOW);
}

static void test_offloads_survive(void **state)
{
    struct dt_packet *p = dt_packet_new(fars[D].c, 1000);
    struct frame_of f = frame(D, 100);

    memcpy(p->data, f.bytes, f.n);
    memset(p->data + f.n, 0, 1000 - f.n);
    p->needs = DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4;
    p->segment = 500;
    dt_receive_one(fars[D].c, p);
    turn();
    assert_int_equal(fars[UP].got[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    assert_int_equal(fars[UP].got[0].length, 1004);
}

/* ---- Several uplinks, addresses, and many ports ---- */

enum { UP2 = 6 };

/* B is no card any more but the uplink of VLAN 10, without a tag, and of VLAN 20, with one. */
static void test_two_uplinks(void **state)
{
    static struct fabric_config configs[PORTS];

    tear_down(state);
    configure(configs);
    configs[B] = (struct fabric_config){.name = "b", .chain = "far", .uplink = true, .vlan = 10};
    configs[B].trunk[20 / 8] |= 1 << 20 % 8;
    start_with(configs, PORTS);
    expect_at(A, frame(A, 100), UP, frame(A, 100));
    expect_at(D, frame(D, 100), B, frame(D, 100));
    expect_at(E, tagged(frame(E, 100), 0x8100, 20), B, tagged(frame(E, 100), 0x8100, 20));
    expect_at(E, tagged(frame(E, 100), 0x8100, 10), B, frame(E, 100));
    expect_at(B, frame(100, D), D, frame(100, D));
    expect_at(UP, frame(100, A), A, frame(100, A));
    expect_dropped(UP, tagged(frame(100, D), 0x8100, 10), FABRIC_VLAN); /* the other's */
    expect_dropped(B, tagged(frame(100, E), 0x8100, 30), FABRIC_VLAN);
    expect_dropped(B, frame(100, A), FABRIC_PRIVATE); /* A is not in VLAN 10 */
    expect_dropped(B, frame(A, 100), FABRIC_SPOOFED);
    expect_dropped(UP, frame(100, 101), FABRIC_UNKNOWN); /* never from one to the other */
    expect_dropped(B, frame(100, 101), FABRIC_UNKNOWN);
    expect_at(A, to_all(A), UP, to_all(A));
    pass_in(D, to_all(D));
    assert_int_equal(fars[B].n, 4); /* and E, its peer, got the other */
    assert_int_equal(counter(UP, FABRIC_SENT), 2);
}

/* An uplink of VLANs with a tag alone has nothing to do with frames that have none. */
static void test_uplink_of_tags(void **state)
{
    static struct fabric_config configs[PORTS];

    tear_down(state);
    configure(configs);
    configs[UP].trunk[10 / 8] |= 1 << 10 % 8;
    start_with(configs, PORTS);
    expect_at(D, frame(D, 100), UP, tagged(frame(D, 100), 0x8100, 10));
    expect_dropped(A, frame(A, 100), FABRIC_UNKNOWN);
    expect_dropped(UP, frame(100, A), FABRIC_VLAN);
}

static void test_two_addresses(void **state)
{
    const uint8_t second[6] = MAC(50);
    static struct fabric_config configs[PORTS];

    tear_down(state);
    configure(configs);
    memcpy(configs[A].macs[1], second, 6);
    configs[A].nmacs = 2;
    start_with(configs, PORTS);
    expect_at(A, frame(A, 100), UP, frame(A, 100));
    expect_at(A, frame(50, 100), UP, frame(50, 100));
    expect_at(UP, frame(100, 50), A, frame(100, 50));
    expect_at(B, frame(B, 50), A, frame(B, 50));
    expect_dropped(A, frame(A, 50), FABRIC_UNKNOWN); /* its own */
    expect_dropped(A, frame(51, 100), FABRIC_SPOOFED);
    expect_dropped(B, frame(50, 100), FABRIC_SPOOFED);
    expect_dropped(UP, frame(50, 100), FABRIC_SPOOFED);
}

static void test_many_ports(void **state)
{
    enum { MANY = 200 };
    static struct fabric_config configs[MANY];
    static char names[MANY][8];

    tear_down(state);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof(names[i]), "p%u", i);
        configs[i] = (struct fabric_config){
            .name = names[i], .chain = "far", .group = "g", .macs = {MAC(i)}, .nmacs = 1};
    }
    start_with(configs, MANY);
    for (unsigned i = 0; i < MANY; i++)
        expect_at(i, frame(i, (i + 67) % MANY), (i + 67) % MANY, frame(i, (i + 67) % MANY));
    fars[7].holds = true; /* and each one waits its turn at a slow one */
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < MANY; i++)
            if (i != 7)
                pass_in(i, frame(i, 7));
    while (fars[7].nheld) {
        let_go(&fars[7], 1);
        turn();
    }
    assert_int_equal(fars[7].n, 1 + 3 * (MANY - 1));
}

/* ---- Ports that come and go ---- */

static void add(const char *name, unsigned number, const char *group)
{
    const struct fabric_config config = {
        .name = name, .chain = "far", .group = group, .macs = {MAC(number)}, .nmacs = 1};

    if (fabric_add(fabric, &config, &error) < 0)
        fail_msg("%s", error.text);
}

static void test_added_and_removed(void **state)
{
    const struct fabric_config same = {.name = "n", .chain = "far", .macs = {MAC(A)}, .nmacs = 1};
    unsigned n;

    expect_at(A, frame(A, 60), UP, frame(A, 60));
    add("n", 60, "g");
    expect_at(A, frame(A, 60), UP2, frame(A, 60));
    expect_at(UP2, frame(60, B), B, frame(60, B));
    assert_true(fabric_add(fabric, &same, &error) < 0); /* and leaves nothing behind */
    expect_at(UP, frame(100, A), A, frame(100, A));
    /* What is on its way between it and others when it goes. */
    fars[UP].holds = fars[UP2].holds = true;
    for (unsigned i = 0; i < 2 * FABRIC_WINDOW; i++) {
        pass_in(UP2, frame(60, 100));
        pass_in(A, frame(A, 60));
    }
    n = fars[UP].n;
    fabric_remove(fabric_find(fabric, "n"));
    assert_null(fabric_find(fabric, "n"));
    assert_true(inject(UP2, frame(60, 100)));
    for (unsigned i = 0; fabric->leaving && i < 1000; i++)
        turn();
    assert_int_equal(fabric->leaving, 0);
    fars[UP].holds = false;
    let_go(&fars[UP], FRAMES);
    turn();
    assert_int_equal(fars[UP].n, n); /* what waited there went with it */
    expect_at(A, frame(A, 60), UP, frame(A, 60));
    fars[nfars].n = fars[nfars].nheld = 0;
    add("n", 60, NULL);
    expect_dropped(A, frame(A, 60), FABRIC_PRIVATE);
    fabric_remove(fabric_find(fabric, "n")); /* still on its way when the switch ends */
}

static void expect_refused(const struct fabric_config *configs, unsigned count, const char *says)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};

    assert_int_equal(loop_new(&loop, &config, &error), 0);
    assert_true(fabric_new(&fabric, loop, configs, count, &error) < 0);
    if (!strstr(error.text, says))
        fail_msg("%s", error.text);
    loop_free(loop);
}

static void test_bad_ports(void **state)
{
    static struct fabric_config configs[FABRIC_PORTS + 1];

    configure(configs);
    memcpy(configs[B].macs[0], configs[A].macs[0], 6);
    expect_refused(configs, PORTS, "port b: its address is another port's");
    configure(configs);
    configs[C].macs[0][0] = 1;
    expect_refused(configs, PORTS, "port c: its address is that of a group");
    configure(configs);
    configs[A] = (struct fabric_config){.name = "a", .chain = "far", .uplink = true};
    expect_refused(configs, PORTS, "port up: there is another uplink for all other VLANs: a");
    configs[A].vlan = configs[UP].vlan = 30;
    expect_refused(configs, PORTS, "port up: there is another uplink for VLAN 30: a");
    configure(configs);
    configs[B].name = "a";
    expect_refused(configs, PORTS, "two ports are named 'a'");
    configure(configs);
    configs[B].nmacs = 0;
    expect_refused(configs, PORTS, "port b: it has 0 addresses");
    configure(configs);
    for (unsigned i = PORTS; i <= FABRIC_PORTS; i++) {
        static char names[FABRIC_PORTS + 1][8];

        snprintf(names[i], sizeof(names[i]), "p%u", i);
        configs[i] = (struct fabric_config){.name = names[i],
                                            .chain = "far",
                                            .macs = {{2, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i}},
                                            .nmacs = 1};
    }
    expect_refused(configs, FABRIC_PORTS + 1, "at most");
    configure(configs);
    configs[A].chain = "nonsense";
    expect_refused(configs, PORTS, "a: no extension or back");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_where_frames_go),
        TEST(test_nobody_takes_an_address),
        TEST(test_source_of_a_group),
        TEST(test_reserved),
        TEST(test_broadcast),
        TEST(test_broadcast_limit),
        TEST(test_broadcast_limit_of_super_frames),
        TEST(test_vlans),
        TEST(test_vlan_hopping),
        TEST(test_short_tagged),
        TEST(test_flood_starves_nobody),
        TEST(test_flood_takes_no_memory_of_others),
        TEST(test_offloads_survive),
        TEST(test_two_uplinks),
        TEST(test_uplink_of_tags),
        TEST(test_two_addresses),
        TEST(test_many_ports),
        TEST(test_added_and_removed),
        cmocka_unit_test(test_bad_ports),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
