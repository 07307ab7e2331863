/* SPDX-License-Identifier: MIT */
/*
 * test_net_packets.c - every extension with the same table of packets: UDP and TCP over IPv4 and IPv6, with whole and
 * partial checksums, and as super-frames, of segments and of fragments; plain, tagged once and twice, jumbo, fragmented, and cut short at each header.
 *
 * An extension that lets a packet pass must not be seen: what leaves the chain is, to the byte and to the offload,
 * what leaves it without the extension. So the chain of the wire alone is run first, and says what is expected. Both
 * directions, before a wire that takes all offloads and before one that takes none.
 */
#include "tests/unit/queue_rig.h"

extern const struct dt_net_ext net_capture, net_filter;

enum shape {
    PLAIN,
    TAGGED,
    STACKED,
    JUMBO,
    FIRST_FRAGMENT,
    LATER_FRAGMENT,
    NO_L4,
    HALF_L4,
    HALF_L3,
    SHAPES
};
static const char *const shapes[SHAPES] = {"plain",           "tagged",          "tagged twice",
                                           "jumbo",           "first fragment",  "later fragment",
                                           "without layer 4", "half of layer 4", "half of layer 3"};
static const char *const wires[] = {"wire", "plain-wire"};
enum { CASES = SHAPES * FRAME_KINDS, WAYS = 4 }; /* wire or plain-wire; from the guest or to it */

/** struct outcome - what became of a packet. @taken: its virtio header was believed. @sum: of all that left. */
struct outcome {
    bool taken;
    unsigned frames;
    uint64_t sum;
};
static struct outcome expected[WAYS][CASES];

/* ---- The table ---- */

static void tag(unsigned tags)
{
    static const uint8_t words[2][4] = {{0x81, 0, 0x20, 5}, {0x88, 0xa8, 0, 7}};

    for (unsigned i = 0; i < tags; i++) {
        memmove(f.bytes + 16, f.bytes + 12, f.n - 12);
        memcpy(f.bytes + 12, words[i], 4);
        f.n += 4;
    }
}

/* Packet @i of the table; false: there is none of that kind and shape. */
static bool make(unsigned i, struct dt_vnet_header *v)
{
    unsigned kind = i % FRAME_KINDS, tags;
    enum shape shape = i / FRAME_KINDS;
    uint32_t l3, l4;

    if (shape >= FIRST_FRAGMENT && shape <= LATER_FRAGMENT && kind & FRAME_V6)
        return false;
    *v = frame_kind(&f, kind, 7);
    tags = shape == TAGGED ? 1 : shape == STACKED ? 2 : 0;
    tag(tags);
    v->csum_start = (uint16_t)(v->csum_start + 4 * tags);
    l3 = 14 + 4 * tags;
    l4 = l3 + (kind & FRAME_V6 ? 40 : 20);
    frame_pattern(&f, shape == JUMBO ? kind & FRAME_SUPER ? 60000 : 8900 : 3501);
    if (shape == FIRST_FRAGMENT)
        store_be16(f.bytes + l3 + 6, 0x2000);
    if (shape == LATER_FRAGMENT)
        store_be16(f.bytes + l3 + 6, 0x2010);
    frame_end(&f);
    if (shape >= NO_L4) /* after the lengths were said */
        f.n = shape == NO_L4 ? l4 : shape == HALF_L4 ? l4 + 4 : l3 + 10;
    return true;
}

static const char *name(unsigned i, unsigned way)
{
    static char text[128];
    unsigned kind = i % FRAME_KINDS;

    snprintf(text, sizeof(text), "%s %s%s%s, %s, %s %s", kind & FRAME_TCP ? "TCP" : "UDP",
             kind & FRAME_V6 ? "over IPv6" : "over IPv4", kind & FRAME_SUPER ? ", super-frame" : "",
             kind & FRAME_CSUM ? ", partial checksum" : "", shapes[i / FRAME_KINDS],
             way & 2 ? "to the guest from" : "from the guest to", wires[way & 1]);
    return text;
}

/* ---- What becomes of them ---- */

static uint64_t mix(uint64_t sum, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    for (size_t i = 0; i < n; i++)
        sum = (sum ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return sum;
}

/* What fragments of IPv6 are told apart by is drawn by lot. */
static void forget_identification(const struct rig_frame *r)
{
    struct dt_headers h;

    dt_parse(&h, r->data, r->length);
    if ((h.flags & (DT_HDR_IPV6 | DT_HDR_FRAGMENT)) == (DT_HDR_IPV6 | DT_HDR_FRAGMENT))
        memset(r->data + h.l3 + 44, 0, 4);
}

/* The bytes under a partial checksum are nobody's. */
static struct outcome outcome_of(const struct rig_list *list, bool taken)
{
    struct outcome o = {.taken = taken, .frames = list->n, .sum = 0xcbf29ce484222325u};

    for (unsigned i = 0; i < list->n; i++) {
        const struct rig_frame *r = &list->frames[i];

        if (r->needs & DT_OFFLOAD_CSUM) {
            struct dt_headers h;

            dt_parse(&h, r->data, r->length);
            memset(r->data + h.l4 + (h.flags & DT_HDR_TCP ? 16 : 6), 0, 2);
        }
        forget_identification(r);
        o.sum = mix(o.sum, r->data, r->length);
        o.sum = mix(o.sum, &r->needs, sizeof(r->needs));
        if (r->needs & DT_OFFLOAD_SUPER)
            o.sum = mix(o.sum, &r->segment, sizeof(r->segment));
    }
    return o;
}

/* As rig_arrive(), which believes every header. */
static bool arrives(const struct dt_vnet_header *v)
{
    struct dt_ctx *c = dt_layer_ctx(rig.dev->layers[rig.dev->nlayers], 0);
    struct dt_packet *p = dt_packet_new(c, f.n);
    bool taken;

    assert_non_null(p);
    memcpy(p->data, f.bytes, f.n);
    taken = dt_vnet_read(p, v, DT_OFFLOAD_ALL) == 0;
    if (taken)
        dt_receive_one(c, p);
    else
        dt_sent(c, &p, 1);
    return taken;
}

/* The program of `queue`, where there is one: all pass, as they are or in the program's own words, which are the same. */
static struct dt_queue *program;
static bool rewrites;

static void judge(void)
{
    struct dt_queue_packet p[64];
    unsigned n;

    while (program && (n = read_some(program, p, ARRAY_SIZE(p))) > 0) {
        for (unsigned i = 0; i < n; i++) {
            const void *bytes = rewrites ? p[i].data : NULL;

            assert_int_equal(dt_queue_set_verdict(program, p[i].id, DT_QUEUE_ACCEPT, bytes,
                                                  rewrites ? p[i].length : 0),
                             0);
        }
        heard(program);
    }
}

static struct outcome run(unsigned way, const struct dt_vnet_header *v)
{
    bool taken = way & 2 ? arrives(v) : rig_send(f.bytes, f.n, v, DT_OFFLOAD_ALL);
    struct outcome o;

    rig_turn();
    judge();
    o = outcome_of(way & 2 ? &rig.guest : &rig.wire, taken);
    rig_clear();
    test_clock += DT_S(10); /* nothing counts together with the one before */
    rig_turn();
    return o;
}

static void begin(const char *layer, unsigned way)
{
    char chain[512];

    snprintf(chain, sizeof(chain), "%s%s%s", layer, *layer ? " | " : "", wires[way & 1]);
    test_clock = DT_S(1000);
    rig_start(chain);
    net_guest_takes(rig.lane, way & 1 ? 0 : DT_OFFLOAD_ALL);
    rig_turn();
    rig_clear();
}

static int learn(void **state)
{
    for (unsigned way = 0; way < WAYS; way++) {
        begin("", way);
        for (unsigned i = 0; i < CASES; i++) {
            struct dt_vnet_header v;

            if (make(i, &v))
                expected[way][i] = run(way, &v);
        }
        rig_stop();
    }
    return 0;
}

/* ---- The extensions ---- */

enum passes { ALL, HONEST };
enum program { NONE, ACCEPTS, REWRITES };

/**
 * struct layer - an extension, told to let pass what the table has.
 * @from_guest: ALL, or what is whole and not tagged.
 * @cuts: it takes no offloads, so they are done before whatever the wire takes.
 * @program: of `queue`.
 */
struct layer {
    const char *chain;
    enum passes from_guest;
    bool cuts;
    enum program program;
};

static const struct layer layers[] = {
    {"announce mac=52:54:00:00:00:01 ip4=192.0.2.7 at-start=off", ALL, false},
    {"antispoof mac=52:54:00:00:00:01 ip4=192.0.2.7 ip6=2001:db8::7", HONEST, false},
    {"capture out=test_net_packets.pcapng", ALL, false},
    {"fault seed=1", ALL, true},
    {"filter match='greater 1' action=allow", ALL, false},
    {"limits bw-in=40G bw-out=40G pps=1G conntrack=1000", ALL, false},
    {"rate tx-packets=1G tx-bits=40G rx-packets=1G rx-bits=40G", ALL, false},
    {"symmetry", ALL, false},
    {"queue socket=test_net_packets.sock on-death=accept", ALL, true},
    {"queue socket=test_net_packets.sock on-death=accept super=on", ALL, false},
    {"queue socket=test_net_packets.sock", ALL, true, ACCEPTS},
    {"queue socket=test_net_packets.sock super=on", ALL, false, ACCEPTS},
    {"queue socket=test_net_packets.sock snap=65535", ALL, true, REWRITES},
    {"queue socket=test_net_packets.sock snap=65535 super=on", ALL, false, REWRITES},
};

static bool may_pass(const struct layer *l, unsigned i, unsigned way)
{
    enum shape shape = i / FRAME_KINDS;

    return l->from_guest == ALL || way & 2 ||
           (shape != TAGGED && shape != STACKED && shape < NO_L4);
}

static void test_layer(void **state)
{
    const struct layer *l = *state;
    unsigned passed = 0;

    for (unsigned way = 0; way < WAYS; way++) {
        begin(l->chain, way);
        if (l->program)
            program = attach();
        rewrites = l->program == REWRITES;
        for (unsigned i = 0; i < CASES; i++) {
            const struct outcome *want = &expected[l->cuts ? way | 1 : way][i];
            struct dt_vnet_header v;
            struct outcome got;
            bool ok;

            if (!make(i, &v))
                continue;
            got = run(way, &v);
            ok = may_pass(l, i, way) ? got.frames == want->frames && got.sum == want->sum
                                     : got.frames == 0;
            if (!ok || got.taken != want->taken)
                fail_msg("%s: %s: %u frames instead of %u", l->chain, name(i, way), got.frames,
                         may_pass(l, i, way) ? want->frames : 0);
            passed += got.frames != 0;
        }
        if (program)
            leave(TAKE_PTR(program));
        rig_stop();
    }
    assert_true(passed > CASES);
}

/* The expectation itself: what is cut has its bytes, and right checksums. */
static void test_table(void **state)
{
    unsigned cut = 0, refused = 0;

    for (unsigned i = 0; i < CASES; i++) {
        unsigned kind = i % FRAME_KINDS;
        bool whole = i / FRAME_KINDS <= JUMBO, super = whole && kind & FRAME_SUPER;
        struct dt_vnet_header v;
        uint64_t bytes = 0;

        if (!make(i, &v))
            continue;
        refused += !expected[0][i].taken;
        if (!whole)
            continue;
        begin("", 1);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.n, !super                     ? 1
                                     : i / FRAME_KINDS == JUMBO ? 60 + frame_fragments(kind)
                                                                : 4);
        for (unsigned n = 0; n < rig.wire.n; n++) {
            struct dt_headers h;

            assert_true(frame_sums_right(rig.wire.frames[n].data, rig.wire.frames[n].length));
            dt_parse(&h, rig.wire.frames[n].data, rig.wire.frames[n].length);
            assert_int_equal(h.vlans, i / FRAME_KINDS == TAGGED    ? 1
                                      : i / FRAME_KINDS == STACKED ? 2
                                                                   : 0);
            bytes += h.end - h.payload;
        }
        assert_int_equal(bytes, i / FRAME_KINDS != JUMBO ? 3501 : super ? 60000 : 8900);
        cut += super;
        rig_stop();
    }
    assert_int_equal(cut, 4 * FRAME_KINDS / 2); /* shapes that are whole */
    assert_true(refused > 0);
}

int main(void)
{
    struct CMUnitTest tests[ARRAY_SIZE(layers) + 1] = {cmocka_unit_test(test_table)};

    snprintf(path, sizeof(path), "test_net_packets.sock");
    CHECK(registry_add_net(&net_capture, &rig.err) == 0);
    CHECK(registry_add_net(&net_filter, &rig.err) == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(layers); i++)
        tests[i + 1] = (struct CMUnitTest){.name = layers[i].chain,
                                           .test_func = test_layer,
                                           .initial_state = (void *)(uintptr_t)&layers[i]};
    return cmocka_run_group_tests(tests, learn, NULL);
}
