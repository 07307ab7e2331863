/* SPDX-License-Identifier: MIT */
/* test_net.c - packets of network cards: headers, what guests say of them, segments, and the way through a chain. */
#include "tests/unit/net_rig.h"

#include "net/virtio/offloads.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* ---- Headers ---- */

static struct frame f;

static void parse(struct dt_headers *h)
{
    dt_parse(h, f.bytes, f.n);
}

static void test_headers(void **state)
{
    struct dt_headers h;

    frame_ether(&f, 0x0800);
    frame_vlan(&f, 0x88a8, 0x2064, 0x0800);
    frame_vlan(&f, 0x8100, 0x0007, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1000, 80, 1, 2);
    frame_pattern(&f, 11);
    frame_end(&f);
    frame_bytes(&f, "padding", 7);
    parse(&h);
    assert_int_equal(h.flags, DT_HDR_IPV4 | DT_HDR_TCP);
    assert_int_equal(h.vlans, 2);
    assert_int_equal(h.vlan[0], 0x2064);
    assert_int_equal(h.vlan[1], 7);
    assert_int_equal(h.l3, 22);
    assert_int_equal(h.l4, 42);
    assert_int_equal(h.payload, 62);
    assert_int_equal(h.end, 73);

    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 0, "fe80::1", "ff02::1");
    frame_bytes(&f, (uint8_t[]){60, 0, 5, 2, 0, 0, 1, 0}, 8);  /* hop by hop: router alert */
    frame_bytes(&f, (uint8_t[]){58, 0, 1, 4, 0, 0, 0, 0}, 8);  /* destination options */
    frame_bytes(&f, (uint8_t[]){134, 0, 0, 0, 0, 0, 0, 0}, 8); /* router advertisement */
    frame_end(&f);
    parse(&h);
    assert_int_equal(h.flags, DT_HDR_IPV6 | DT_HDR_OPTIONS | DT_HDR_ICMP6);
    assert_int_equal(h.l4, 14 + 40 + 16);
    assert_int_equal(h.protocol, 58);

    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 44, "fe80::1", "ff02::1");
    frame_bytes(&f, (uint8_t[]){58, 0, 0, 9, 0, 0, 0, 1}, 8); /* a later fragment */
    frame_pattern(&f, 30);
    frame_end(&f);
    parse(&h);
    assert_int_equal(h.flags, DT_HDR_IPV6 | DT_HDR_OPTIONS | DT_HDR_FRAGMENT | DT_HDR_LATER);
    assert_int_equal(h.l4, 0);
}

/* Whatever is cut off, nothing is found that is not whole. */
static void test_truncated(void **state)
{
    struct dt_headers h;

    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "10.0.0.1", "10.0.0.2");
    frame_tcp(&f, 1000, 80, 1, 2);
    frame_end(&f);
    for (uint32_t n = 0; n < f.n; n++) {
        dt_parse(&h, f.bytes, n);
        assert_int_equal(h.flags & (DT_HDR_TCP | DT_HDR_BROKEN), DT_HDR_BROKEN);
        assert_int_equal(h.l4, 0);
    }
    frame_ether(&f, 0x86dd);
    frame_ipv6(&f, 0, "fe80::1", "fe80::2");
    for (unsigned i = 0; i < 20; i++)
        frame_bytes(&f, (uint8_t[]){0, 0, 1, 4, 0, 0, 0, 0}, 8);
    frame_end(&f);
    parse(&h);
    assert_int_equal(h.flags & (DT_HDR_BROKEN | DT_HDR_ICMP6), DT_HDR_BROKEN);
}

/* dt_parse() has a short cut: whatever a byte of a packet is, and wherever it ends, the walk finds the same. */
static void test_short_cut(void **state)
{
    struct dt_headers h, walked;

    for (unsigned udp = 0; udp < 2; udp++) {
        frame_ether(&f, 0x0800);
        frame_ipv4(&f, udp ? 17 : 6, "10.0.0.1", "10.0.0.2");
        if (udp)
            frame_udp(&f, 1000, 80);
        else
            frame_tcp(&f, 1000, 80, 1, 2);
        frame_pattern(&f, 8);
        frame_end(&f);
        for (uint32_t at = 12, length = f.n; at < length; at++)
            for (unsigned value = 0; value < 256; value++)
                for (uint32_t end = length - 9; end <= length; end++) {
                    uint8_t was = f.bytes[at];

                    f.bytes[at] = (uint8_t)value;
                    dt_parse(&h, f.bytes, end);
                    net_parse_walk(&walked, f.bytes, end);
                    f.bytes[at] = was;
                    assert_memory_equal(&h, &walked, sizeof(h));
                }
    }
}

static void test_flow_is_symmetric(void **state)
{
    struct dt_packet p = {.data = f.bytes}, q = {.data = f.bytes};
    uint32_t there, back, other;

    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "10.0.0.1", "10.0.0.2");
    frame_udp(&f, 1000, 53);
    frame_end(&f);
    p.length = f.n;
    there = dt_packet_flow(&p);
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 17, "10.0.0.2", "10.0.0.1");
    frame_udp(&f, 53, 1000);
    frame_end(&f);
    q.length = f.n;
    back = dt_packet_flow(&q);
    dt_packet_changed(&q);
    f.bytes[f.n - 7] ^= 1; /* a port */
    other = dt_packet_flow(&q);
    assert_int_equal(there, back);
    assert_int_not_equal(there, other);
}

/* ---- What guests say of their packets ---- */

static void build(bool v6, bool tcp, uint32_t payload)
{
    frame_ether(&f, v6 ? 0x86dd : 0x0800);
    if (v6)
        frame_ipv6(&f, tcp ? 6 : 17, "2001:db8::1", "2001:db8::2");
    else
        frame_ipv4(&f, tcp ? 6 : 17, "192.0.2.1", "192.0.2.2");
    if (tcp)
        frame_tcp(&f, 40000, 80, 0xfffffff0, 0x99); /* CWR, ACK, PSH, FIN */
    else
        frame_udp(&f, 40000, 443);
    frame_pattern(&f, payload);
    frame_end(&f);
}

static struct dt_vnet_header said(bool v6, bool tcp, uint16_t segment)
{
    struct dt_vnet_header v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                               .csum_start = v6 ? 54 : 34,
                               .csum_offset = tcp ? 16 : 6};

    if (segment) {
        v.gso_type = !tcp ? 5 : v6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
        v.gso_size = segment;
        v.hdr_len = 0xffff; /* a lie that nobody asks about */
    }
    return v;
}

static void test_checksums(void **state)
{
    rig_start("plain-wire");
    for (unsigned kind = 0; kind < 4; kind++)
        for (uint32_t payload = 0; payload < 70; payload += 23) {
            struct dt_vnet_header v = said(kind & 1, kind & 2, 0);

            build(kind & 1, kind & 2, payload);
            f.bytes[v.csum_start + v.csum_offset] = 0x5a; /* whatever the guest left there */
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
            assert_int_equal(rig.wire.n, 1);
            assert_int_equal(rig.wire.frames[0].needs, 0);
            assert_true(frame_sums_right(rig.wire.frames[0].data, rig.wire.frames[0].length));
            rig_clear();
        }
    rig_stop();
}

/* One that fills in where it is told to would write outside the packet, or into the addresses. */
static void test_hostile_headers(void **state)
{
    struct dt_vnet_header v;

    rig_start("wire");
    build(false, true, 3000);
    v = said(false, true, 0);
    v.csum_start = 65535;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v.csum_start = (uint16_t)(f.n - 1);
    v.csum_offset = 65535;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v = said(false, true, 1000);
    v.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v = said(false, true, 1); /* thousands of segments for one packet */
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v = said(false, true, 1000);
    v.flags = 0; /* segments need checksums */
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v = said(false, true, 1000); /* not negotiated */
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_CSUM));
    v = said(false, true, 0);
    assert_false(rig_send(f.bytes, f.n, &v, 0));
    v = said(false, true, 1000);
    v.csum_start += 2; /* elsewhere, so no segments of it */
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    assert_int_equal(rig.wire.n, 0);

    /* Behind a tunnel's header: completed at once, within the packet. */
    v = said(false, true, 0);
    v.csum_start = 50;
    v.csum_offset = 10;
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    assert_int_equal(rig.wire.frames[0].needs, 0);
    assert_memory_equal(rig.wire.frames[0].data, f.bytes, 60);
    assert_memory_equal(rig.wire.frames[0].data + 62, f.bytes + 62, f.n - 62);
    assert_memory_not_equal(rig.wire.frames[0].data + 60, f.bytes + 60, 2);
    rig_stop();
}

/* ---- Segments ---- */

static void check_segments(bool v6, bool tcp, uint32_t payload, uint16_t segment)
{
    uint32_t header = (v6 ? 54u : 34u) + (tcp ? 20u : 8u), done = 0;
    unsigned expected = (payload + segment - 1) / segment;

    assert_int_equal(rig.wire.n, expected);
    for (unsigned i = 0; i < expected; i++) {
        const struct rig_frame *s = &rig.wire.frames[i];
        uint32_t bytes = MIN(payload - done, (uint32_t)segment);
        bool first = i == 0, last = i == expected - 1;

        assert_int_equal(s->length, header + bytes);
        assert_int_equal(s->needs, 0);
        assert_memory_equal(s->data + header, f.bytes + header + done, bytes);
        assert_true(frame_sums_right(s->data, s->length));
        if (!v6)
            assert_int_equal(load_be16(s->data + 18), 0x1234 + i);
        if (tcp) {
            assert_int_equal(load_be32(s->data + header - 16), (uint32_t)(0xfffffff0 + done));
            assert_int_equal(s->data[header - 7], 0x10 | (first ? 0x80 : 0) | (last ? 0x09 : 0));
        } else {
            assert_int_equal(load_be16(s->data + header - 4), bytes + 8);
        }
        done += bytes;
    }
}

static void test_segments(void **state)
{
    static const uint32_t payloads[] = {49, 1448, 1449, 14480, 65000};

    rig_start("plain-wire");
    for (unsigned kind = 0; kind < 4; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(payloads); i++) {
            uint16_t segment = i == 0 ? 48 : 1448;
            struct dt_vnet_header v = said(kind & 1, kind & 2, segment);

            build(kind & 1, kind & 2, payloads[i]);
            rig.sent = 0;
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
            check_segments(kind & 1, kind & 2, payloads[i], segment);
            assert_int_equal(rig.sent, 1);
            rig_clear();
        }
    assert_int_equal(lane_in_flight(rig.lane), 0);
    rig_stop();
}

/* ---- Fragments ---- */

/* What leaves is put together again as a receiver does, and is the datagram with its checksum. */
static void check_fragments(bool v6, uint32_t payload, uint16_t segment)
{
    const uint32_t l4 = v6 ? 54 : 34, skip = v6 ? 8 : 0, unit = segment & ~7u;
    static struct frame whole;
    uint32_t done = 0, id = 0;

    assert_int_equal(rig.wire.n, (payload + 8 + unit - 1) / unit);
    memcpy(whole.bytes, f.bytes, l4);
    for (unsigned i = 0; i < rig.wire.n; i++) {
        const struct rig_frame *s = &rig.wire.frames[i];
        const uint8_t *at = s->data + (v6 ? l4 : 18);
        bool last = i == rig.wire.n - 1;
        uint32_t bytes = s->length - l4 - skip;
        struct dt_headers h;

        dt_parse(&h, s->data, s->length);
        assert_int_equal(h.flags & (DT_HDR_FRAGMENT | DT_HDR_LATER | DT_HDR_BROKEN),
                         DT_HDR_FRAGMENT | (i ? DT_HDR_LATER : 0));
        assert_int_equal(h.end, s->length);
        assert_int_equal(s->needs, 0);
        assert_true(frame_sums_right(s->data, s->length));
        assert_true(last ? bytes <= unit : bytes == unit);
        if (v6) {
            assert_memory_equal(at, ((uint8_t[]){17, 0}), 2);
            assert_int_equal(load_be16(at + 2), done | !last);
            assert_true(i == 0 || load_be32(at + 4) == id);
            id = load_be32(at + 4);
        } else {
            assert_int_equal(load_be16(at), 0x1234);
            assert_int_equal(load_be16(at + 2), done / 8 | (last ? 0 : 0x2000));
        }
        memcpy(whole.bytes + l4 + done, s->data + l4 + skip, bytes);
        done += bytes;
    }
    assert_int_equal(done, payload + 8);
    assert_memory_equal(whole.bytes + l4 + 8, f.bytes + l4 + 8, payload);
    assert_true(frame_sums_right(whole.bytes, l4 + done));
}

static struct dt_vnet_header said_ufo(bool v6, uint16_t segment)
{
    struct dt_vnet_header v = said(v6, false, segment);

    v.gso_type = VIRTIO_NET_HDR_GSO_UDP;
    return v;
}

static void test_fragments(void **state)
{
    static const struct {
        uint32_t payload;
        uint16_t segment;
    } cases[] = {{49, 48}, {1473, 1480}, {2952, 1480}, {2953, 1483}, {65000, 1480}};

    rig_start("plain-wire");
    for (unsigned kind = 0; kind < 2; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            struct dt_vnet_header v = said_ufo(kind, cases[i].segment);

            build(kind, false, cases[i].payload);
            store_be16(f.bytes + v.csum_start + 6, 0x5a5a); /* whatever the guest left there */
            rig.sent = 0;
            assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
            check_fragments(kind, cases[i].payload, cases[i].segment);
            assert_int_equal(rig.sent, 1);
            rig_clear();
        }
    rig_stop();
}

/* Two datagrams must not be put together as one: each has a number of its own, though the sender gave them none. */
static void test_fragments_are_told_apart(void **state)
{
    uint32_t seen[8] = {0};

    rig_start("plain-wire");
    for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
        struct dt_vnet_header v = said_ufo(i & 1, 1000);

        build(i & 1, false, 1500);
        if (!(i & 1))
            store_be16(f.bytes + 18, 0);
        frame_end(&f);
        assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        assert_int_equal(rig.wire.n, 2);
        seen[i] = i & 1 ? load_be32(rig.wire.frames[0].data + 58)
                        : load_be16(rig.wire.frames[0].data + 18);
        assert_int_not_equal(seen[i], 0);
        for (unsigned k = i & 1; k < i; k += 2)
            assert_int_not_equal(seen[i], seen[k]);
        rig_clear();
    }
    rig_stop();
}

static void test_datagrams_pass_whole(void **state)
{
    struct dt_vnet_header v = said_ufo(true, 1445), out;
    struct dt_packet p = {.data = f.bytes};

    rig_start("wire");
    build(true, false, 4000);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(rig.wire.frames[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_UFO6);
    rig_arrive(f.bytes, f.n, &v);
    assert_int_equal(rig.guest.n, 1);
    net_guest_takes(rig.lane, DT_OFFLOAD_ALL & ~DT_OFFLOAD_UFO);
    rig_arrive(f.bytes, f.n, &v);
    assert_int_equal(rig.guest.n, 1 + 3);
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL & ~DT_OFFLOAD_UFO));
    v.gso_size = 50; /* rounded it is 48, and 48 is enough */
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v.gso_size = 47;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    v = said_ufo(true, 1445);
    v.flags = 0;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    build(true, true, 4000); /* no datagram */
    v = said_ufo(true, 1445);
    v.csum_offset = 16;
    assert_false(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    rig_stop();

    build(true, false, 4000);
    v = said_ufo(true, 1445);
    p.length = f.n;
    assert_int_equal(dt_vnet_read(&p, &v, DT_OFFLOAD_ALL), 0);
    assert_int_equal(p.segment, 1440);
    assert_true(net_needs_fit(&p));
    assert_int_equal(dt_packet_segments(&p), 3);
    assert_int_equal(dt_packet_wire_bytes(&p), 4008 + 3 * (54 + 8));
    dt_vnet_write(&p, &out);
    assert_int_equal(out.gso_type, VIRTIO_NET_HDR_GSO_UDP);
    assert_int_equal(out.gso_size, 1440);
    p.segment = 1441;
    assert_false(net_needs_fit(&p));
    p.segment = 4008;
    assert_false(net_needs_fit(&p));
}

/* ---- Whole ---- */

/* Where everybody takes super-frames they pass whole, and what was said of them is made anew. */
static void test_super_frames_pass(void **state)
{
    struct dt_vnet_header v = said(true, true, 1440), out;
    struct dt_packet p = {.data = f.bytes};

    rig_start("wire");
    build(true, true, 20000);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    assert_int_equal(rig.wire.n, 1);
    assert_int_equal(rig.wire.frames[0].needs, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO6);
    rig_arrive(f.bytes, f.n, &v);
    assert_int_equal(rig.guest.n, 1);
    net_guest_takes(rig.lane, DT_OFFLOAD_CSUM);
    rig_arrive(f.bytes, f.n, &v);
    assert_int_equal(rig.guest.n, 1 + 14);
    rig_stop();

    p.length = f.n;
    assert_int_equal(dt_vnet_read(&p, &v, DT_OFFLOAD_ALL), 0);
    assert_int_equal(dt_packet_segments(&p), 14);
    assert_int_equal(dt_packet_wire_bytes(&p), 20000 + 14 * 74);
    dt_vnet_write(&p, &out);
    assert_int_equal(out.hdr_len, 74);
    assert_int_equal(out.gso_size, 1440);
    assert_int_equal(out.gso_type, VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN);
    assert_int_equal(out.csum_start, 54);
    assert_int_equal(out.num_buffers, 1);
}

/* Bit 6 is the word of old drivers for all of them. */
static void test_features_of_offloads(void **state)
{
    const uint32_t host = DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6 | DT_OFFLOAD_UFO;
    const uint64_t gso = 1ull << VIRTIO_NET_F_GSO, csum = 1ull << VIRTIO_NET_F_CSUM;

    assert_int_equal(virtio_offloads_of(csum | gso, false), host);
    assert_int_equal(virtio_offloads_of(csum | gso, true), 0);
    assert_int_equal(virtio_offloads_of(csum | 1ull << VIRTIO_NET_F_HOST_UFO, false),
                     DT_OFFLOAD_CSUM | DT_OFFLOAD_UFO);
    assert_int_equal(virtio_offload_features(host, 0) & gso, gso);
    assert_int_equal(virtio_offload_features(host & ~DT_OFFLOAD_TSO6, 0) & gso, 0);
    assert_int_equal(virtio_offload_features(host & ~DT_OFFLOAD_UFO4, 0) & gso, 0);
    assert_int_equal(virtio_offload_features(0, DT_OFFLOAD_ALL) & gso, 0);
}

/* ---- The way through a chain ---- */

static struct dt_packet *held;

static enum dt_net_verdict sieve_tx(struct dt_ctx *c, struct dt_packet *p)
{
    switch (p->data[p->length - 1]) {
    case 'd':
        return dt_drop_as(p, 0);
    case 'h':
        held = p;
        return DT_HOLD;
    case 'b':
        dt_receive_one(c, p);
        return DT_HOLD;
    default:
        return DT_ACCEPT;
    }
}

static void sieve_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    if (held)
        dt_transmit_one(c, held);
    held = NULL;
}

static const struct dt_counter sieve_counters[] = {{"dropped", "packets", "Those that end with d."},
                                                   {NULL}};
static const struct dt_net_ext sieve = {
    DT_NET_EXT_HEADER,
    .name = "sieve",
    .summary = "drops, holds and passes by the last byte",
    .flags = DT_SELF_CONTAINED,
    .counters = sieve_counters,
    .tx = sieve_tx,
    .quiesce = sieve_quiesce,
};

static bool send_text(const char *text)
{
    frame_ether(&f, 0x1234);
    frame_bytes(&f, text, (uint32_t)strlen(text));
    return rig_send(f.bytes, f.n, NULL, 0);
}

static void test_verdicts(void **state)
{
    rig_start("sieve | plain-wire");
    assert_true(send_text("passes"));
    assert_true(send_text("is dropped"));
    assert_true(send_text("passes, too"));
    assert_true(send_text("h"));
    assert_int_equal(rig.wire.n, 2);
    assert_int_equal(rig.sent,
                     3); /* the guest's descriptor of the one that is held is outstanding */
    assert_int_equal(lane_in_flight(rig.lane), 1);
    assert_int_equal(rig_counter("sieve", "dropped"), 1);
    assert_int_equal(rig_ops("sieve", "transmit", "requests"), 4);
    assert_int_equal(rig_ops("sieve", "transmit", "errors"), 1);
    assert_int_equal(rig_ops("plain-wire", "transmit", "requests"), 2);
    rig_arrive(f.bytes, f.n, NULL);
    assert_int_equal(rig.guest.n, 1);
    assert_int_equal(rig_ops("plain-wire", "receive", "requests"), 1);
    assert_true(send_text("comes b"));
    assert_int_equal(rig.guest.n, 2);
    assert_int_equal(rig.sent, 4); /* its descriptor comes back with it */
    rig_stop();                    /* asks for what is held */
    assert_int_equal(rig.sent, 5);
}

static void test_guest_that_takes_nothing(void **state)
{
    struct dt_ctx *c;

    rig_start("wire");
    c = dt_layer_ctx(device_layer(rig.dev, 1), 0);
    assert_int_equal(dt_room(c), 256);
    net_set_room(rig.lane, false, 0);
    assert_int_equal(dt_room(c), 0);
    rig_arrive("no guest hears this", 19, NULL);
    assert_int_equal(rig.guest.n, 0);
    assert_int_equal(lane_in_flight(rig.lane), 0);
    rig_stop();
}

/* A layer that keeps all packets stops the intake, and loses none. */
static void test_no_memory(void **state)
{
    struct dt_ctx *c;
    struct dt_packet *p, *all = NULL;
    unsigned n = 0;

    rig_start("wire");
    c = dt_layer_ctx(device_layer(rig.dev, 1), 0);
    while ((p = dt_packet_new(c, 40000)) != NULL) {
        p->next = all;
        all = p;
        n++;
    }
    assert_int_equal(n, 256);
    assert_false(send_text("waits"));
    assert_int_equal(rig.woken, 0);
    while ((p = all) != NULL) {
        all = p->next;
        dt_sent(c, &p, 1);
    }
    assert_int_equal(rig.woken, 1);
    assert_true(send_text("goes"));
    rig_stop();
}

static void test_change(void **state)
{
    struct chain_spec spec;
    struct change change = {.patience = DT_S(1)};

    rig_start("plain-wire");
    assert_int_equal(chain_parse(&spec, "throttle iops=5 | plain-wire", &rig.err), 0);
    assert_int_equal(device_change(rig.dev, &spec, &change, &rig.err),
                     -ENOENT); /* it is for disks */
    chain_spec_free(&spec);
    rig_stop();
    assert_int_equal(rig_try("sieve"), -EINVAL); /* no back */
    assert_int_equal(rig_try("sieve place=process | wire"), -ENOENT);
}

static void test_pending(void **state)
{
    struct dt_packet p[4] = {{.length = 60}};
    struct dt_packet *at = NULL;
    struct dt_pending l;
    unsigned n = 0;

    dt_pending_init(&l);
    assert_null(dt_pending_peek(&l, NULL));
    assert_null(dt_pending_take(&l, NULL));
    for (unsigned i = 0; i < 3; i++)
        assert_true(dt_pending_add(&l, &p[i], 3));
    assert_false(dt_pending_add(&l, &p[3], 3));
    while ((at = dt_pending_peek(&l, at)) != NULL)
        assert_ptr_equal(at, &p[n++]);
    assert_int_equal(n, 3);
    assert_ptr_equal(dt_pending_take(&l, &p[2]),
                     &p[2]); /* the last one: what is added goes behind the second */
    assert_null(dt_pending_take(&l, &p[2]));
    assert_true(dt_pending_add(&l, &p[3], 3));
    assert_ptr_equal(dt_pending_take(&l, &p[1]), &p[1]);
    assert_ptr_equal(dt_pending_take(&l, NULL), &p[0]);
    assert_int_equal(l.count, 1);
    assert_ptr_equal(dt_pending_take(&l, NULL), &p[3]);
    assert_true(dt_pending_add(&l, &p[0], 1));
    assert_ptr_equal(dt_pending_peek(&l, NULL), &p[0]);
}

/* ---- What a layer takes ---- */

static struct dt_layer *modest_layer;

static int modest_open(struct dt_layer *layer, struct dt_error *err)
{
    modest_layer = layer;
    dt_layer_takes(layer, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4);
    dt_layer_takes_now(layer, DT_TX, ~0u);
    return 0;
}

static void modest_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(packets[i]->needs & ~(DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4), 0);
    dt_transmit(c, packets, n);
}

static const struct dt_net_ext modest = {
    DT_NET_EXT_HEADER,       .name = "modest",    .summary = "takes less than it declares",
    .takes = DT_OFFLOAD_ALL, .open = modest_open, .transmit = modest_transmit,
};

static unsigned frames_of_super(bool v6)
{
    struct dt_vnet_header v = said(v6, true, 1440);

    rig_clear();
    build(v6, true, 14400);
    assert_true(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
    return rig.wire.n;
}

/* What it takes now is less than what open() left, or that again; never more. */
static void test_takes(void **state)
{
    rig_start("modest | wire");
    assert_int_equal(frames_of_super(false), 1);
    assert_int_equal(frames_of_super(true), 10);
    dt_layer_takes_now(modest_layer, DT_TX, DT_OFFLOAD_CSUM);
    assert_int_equal(frames_of_super(false), 10);
    dt_layer_takes_now(modest_layer, DT_TX, ~0u);
    assert_int_equal(frames_of_super(false), 1);
    assert_int_equal(frames_of_super(true), 10);
    rig_stop();
}

static int setup(void **state)
{
    struct dt_error err;

    return registry_add_net(&sieve, &err) ?: registry_add_net(&modest, &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_short_cut),
        cmocka_unit_test(test_flow_is_symmetric),
        cmocka_unit_test(test_checksums),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_fragments_are_told_apart),
        cmocka_unit_test(test_datagrams_pass_whole),
        cmocka_unit_test(test_features_of_offloads),
        cmocka_unit_test(test_super_frames_pass),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_guest_that_takes_nothing),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_change),
        cmocka_unit_test(test_pending),
        cmocka_unit_test(test_takes),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
