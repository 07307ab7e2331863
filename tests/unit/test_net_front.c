/* SPDX-License-Identifier: MIT */
/*
 * test_net_front.c - the front of network cards as guests meet it: what of a packet and its header gets to the wire and
 * back, in whatever pieces, and what is dropped and counted.
 */
#include "card_common.h"

/* ---- To the wire ---- */

/* Virtio 1.2, 2.7.4.1: whatever the framing, it is the same packet. */
static void any_framing(void **state)
{
    static const struct dt_vnet_header nothing = {.num_buffers = 0xffff}; /* not for us to read */

    start(*(bool *)*state, MERGEABLE);
    for (unsigned first = 0; first <= HEADER + 2; first++)
        for (unsigned pieces = 1; pieces <= 100; pieces += 33) {
            uint32_t lengths[CARD_RING], left, n = 0;
            struct card_frame frame;

            make_tcp(1400);
            left = (uint32_t)HEADER + f.n;
            if (first)
                left -= lengths[n++] = first;
            for (unsigned i = 1; i < pieces; i++)
                left -= lengths[n++] = 1 + i % 5;
            lengths[n++] = left;
            assert_int_equal(transmit(&guest, &nothing, HEADER, lengths, n), 0);
            assert_true(wire_take(&frame));
            assert_int_equal(frame.length, f.n);
            assert_memory_equal(frame.bytes, f.bytes, f.n);
            free(frame.bytes);
        }
    stop();
}

/* Drivers of before virtio 1.0 have two bytes less, unless they merge buffers. */
static void legacy_header(void **state)
{
    const uint32_t header = offsetof(struct dt_vnet_header, num_buffers);
    const struct dt_vnet_header v = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    struct card_frame frame;
    uint16_t id;

    guest = beside = (struct card_guest){.legacy = true, .features = all_offloads()};
    card_guest_start(&guest);
    card_guest_start(&beside);
    make_tcp(100);
    assert_int_equal(transmit(&guest, &v, header, (const uint32_t[]){header, f.n}, 2), 0);
    assert_true(wire_take(&frame));
    assert_int_equal(frame.needs, DT_OFFLOAD_CSUM);
    assert_memory_equal(frame.bytes, f.bytes, 50); /* and then the checksum is nobody's */
    free(frame.bytes);
    card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){part(0, 2048)}, 0, 1);
    wire_arrive(&guest, f.bytes, f.n, &v);
    assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), header + f.n);
    assert_memory_equal(data(header), f.bytes, 50);
    assert_int_equal(data(0)[0], VIRTIO_NET_HDR_F_NEEDS_CSUM);
    stop();
}

static void chains_that_are_no_packets(void **state)
{
    const struct virtq_buffer ends[] = {part(0, 64), part(64, 64)};
    uint64_t before;
    uint16_t id;

    start(*(bool *)*state, MERGEABLE);
    for (uint32_t n = 1; n <= HEADER + 13;
         n++) { /* less than a header, and less than an Ethernet frame */
        card_guest_offer(&guest, CARD_TX, (struct virtq_buffer[]){part(0, n)}, 1, 0);
        assert_int_equal(card_guest_reap(&guest, CARD_TX, &id, CARD_WAIT_MS), 0);
    }
    assert_int_equal(card_guest_dropped(&guest, "bad_length"), HEADER + 13);
    card_guest_offer(&guest, CARD_TX, (struct virtq_buffer[]){part(0, HEADER + NET_MAX_FRAME + 1)},
                     1, 0);
    assert_int_equal(card_guest_reap(&guest, CARD_TX, &id, CARD_WAIT_MS), 0);
    memset(data(0), GUARD, 128);
    card_guest_offer(&guest, CARD_TX, ends, 0, 2); /* nothing to read: and nothing is written */
    assert_int_equal(card_guest_reap(&guest, CARD_TX, &id, CARD_WAIT_MS), 0);
    card_guest_offer(&guest, CARD_TX, ends, 1, 1);
    assert_int_equal(card_guest_reap(&guest, CARD_TX, &id, CARD_WAIT_MS), 0);
    for (unsigned i = 64; i < 128; i++)
        assert_int_equal(*data(i), GUARD);
    before = card_guest_dropped(&guest, "bad_length");
    assert_int_equal(before, HEADER + 13 + 2);
    wire_take(&(struct card_frame){0}); /* 52 bytes of whatever were a packet */
    card_guest_offer(&guest, CARD_TX, (struct virtq_buffer[]){part(0, HEADER + NET_MAX_FRAME)}, 1,
                     0);
    assert_int_equal(card_guest_reap(&guest, CARD_TX, &id, CARD_WAIT_MS), 0);
    assert_int_equal(card_guest_dropped(&guest, "bad_length"), before);
    stop();
}

/* ---- What the header says ---- */

static const struct {
    const char *what;
    struct dt_vnet_header v;
    uint64_t without; /* these features */
} bad[] = {
    {"a checksum that begins behind the packet", {1, 0, 0, 0, 60000, 16, 0}, 0},
    {"a checksum field behind the packet", {1, 0, 0, 0, 34, 60000, 0}, 0},
    {"a checksum that nobody offered to complete", {1, 0, 0, 0, 34, 16, 0}, BIT(VIRTIO_NET_F_CSUM)},
    {"segments without a checksum", {0, 1, 54, 1000, 34, 16, 0}, 0},
    {"segments of the other protocol", {1, 4, 54, 1000, 34, 16, 0}, 0},
    {"segments of another transport", {1, 5, 54, 1000, 34, 16, 0}, 0},
    {"a datagram in pieces, of another transport", {1, 3, 54, 1000, 34, 16, 0}, 0},
    {"no such kind of segments", {1, 77, 54, 1000, 34, 16, 0}, 0},
    {"segments without a size", {1, 1, 54, 0, 34, 16, 0}, 0},
    {"segments of a byte", {1, 1, 54, 1, 34, 16, 0}, 0},
    {"segments that nobody offered to cut",
     {1, 1, 54, 1000, 34, 16, 0},
     BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GSO)},
    {"segments around another checksum", {1, 1, 54, 1000, 36, 16, 0}, 0},
};

static void bad_headers(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct card_frame frame;

        start(*(bool *)*state, all_offloads() & ~bad[i].without);
        make_tcp(3000);
        if (sent(&guest, &bad[i].v, &frame))
            fail_msg("%s was sent", bad[i].what);
        assert_int_equal(card_guest_dropped(&guest, "bad_header"), 1);
        expect_sent(&guest);
        stop();
    }
}

/* Of what the guest says only the choice is taken: where and how follows from the packet. */
static void headers_to_the_wire(void **state)
{
    start(*(bool *)*state, all_offloads());
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 80);
        struct card_frame frame;

        frame_pattern(&f, 3501);
        frame_end(&f);
        v.hdr_len = 0xffff;
        v.num_buffers = 0xffff;
        assert_true(sent(&guest, &v, &frame));
        assert_int_equal(frame.length, f.n);
        assert_int_equal(frame.segment * !!(kind & FRAME_SUPER), kind & FRAME_SUPER ? 1000 : 0);
        assert_int_equal(!!(frame.needs & DT_OFFLOAD_CSUM), !!(kind & (FRAME_CSUM | FRAME_SUPER)));
        assert_int_equal(!!(frame.needs & DT_OFFLOAD_SUPER), !!(kind & FRAME_SUPER));
        free(frame.bytes);
    }
    stop();
}

/* What the guest reads in the next packet of the wire, in a buffer that is large enough. */
static struct dt_vnet_header received(const struct dt_vnet_header *v, uint32_t *length)
{
    struct dt_vnet_header got;
    int64_t n;
    uint16_t id;

    card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){part(0, 70000)}, 0, 1);
    wire_arrive(&guest, f.bytes, f.n, v);
    n = card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS);
    assert_in_range(n, HEADER + 14, HEADER + NET_MAX_FRAME);
    *length = (uint32_t)n - (uint32_t)HEADER;
    memcpy(&got, data(0), HEADER);
    assert_int_equal(got.num_buffers, 1);
    return got;
}

/* All of it is written anew: no field that came from the wire, or was in the buffer before, is there. */
static void headers_to_the_guest(void **state)
{
    uint32_t length;

    start(*(bool *)*state, all_offloads() | MERGEABLE | BIT(VIRTIO_NET_F_GUEST_ECN));
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 80), got;
        uint16_t l4 = kind & FRAME_V6 ? 54 : 34, payload = l4 + (kind & FRAME_TCP ? 20 : 8);
        bool super = kind & FRAME_SUPER, partial = kind & (FRAME_CSUM | FRAME_SUPER);

        frame_pattern(&f, 3501);
        frame_end(&f);
        v.hdr_len = 0xffff;
        memset(data(0), GUARD, 70000);
        got = received(&v, &length);
        assert_int_equal(length, f.n);
        assert_int_equal(got.flags, partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0);
        assert_int_equal(got.csum_start, partial ? l4 : 0);
        assert_int_equal(got.csum_offset, !partial ? 0 : kind & FRAME_TCP ? 16 : 6);
        assert_int_equal(got.gso_type & ~VIRTIO_NET_HDR_GSO_ECN, super ? v.gso_type : 0);
        assert_int_equal(got.gso_size, super ? 1000 : 0);
        assert_int_equal(got.hdr_len, super ? payload : 0);
        assert_memory_equal(data(HEADER + payload), f.bytes + payload, f.n - payload);
        assert_int_equal(*data(HEADER + f.n), GUARD);
    }
    frame_kind(&f, FRAME_TCP, 80);
    frame_end(&f);
    assert_int_equal(
        received(&(struct dt_vnet_header){.flags = VIRTIO_NET_HDR_F_DATA_VALID}, &length).flags,
        VIRTIO_NET_HDR_F_DATA_VALID);
    stop();
}

/* Congestion marks that the guest has not agreed to are not told of. */
static void no_ecn(void **state)
{
    struct dt_vnet_header v, got;
    uint32_t length;

    start(*(bool *)*state, all_offloads());
    v = frame_kind(&f, FRAME_TCP | FRAME_SUPER, 80);
    f.bytes[34 + 13] |= 0x80; /* CWR */
    frame_pattern(&f, 3501);
    frame_end(&f);
    got = received(&v, &length);
    assert_int_equal(got.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
    stop();
}

/* A guest that takes no offloads gets segments, each with its own right checksum. */
static void a_plain_guest(void **state)
{
    struct dt_vnet_header v;
    uint32_t total = 0;

    start(*(bool *)*state, 0);
    v = frame_kind(&f, FRAME_TCP | FRAME_SUPER, 80);
    frame_pattern(&f, 3501);
    frame_end(&f);
    for (unsigned i = 0; i < 4; i++)
        card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){part(i * 4096, 4096)}, 0, 1);
    wire_arrive(&guest, f.bytes, f.n, &v);
    for (unsigned i = 0; i < 4; i++) {
        static const struct dt_vnet_header nothing = {.num_buffers = 1};
        uint16_t id;
        int64_t n = card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS);

        assert_true(n > (int64_t)HEADER + 54);
        assert_memory_equal(data(i * 4096), &nothing, HEADER);
        assert_true(frame_sums_right(data(i * 4096 + HEADER), (uint32_t)n - (uint32_t)HEADER));
        total += (uint32_t)n - (uint32_t)HEADER - 54;
    }
    assert_int_equal(total, 3501);
    stop();
}

/* ---- Buffers of the guest's ---- */

/* Gives the card buffers of these lengths (0 = a chain with nothing to write to), and has f arrive. */
static void arrive_in(const uint32_t *lengths, unsigned n, uint32_t stride)
{
    memset(data(0), GUARD, n * (size_t)stride);
    for (unsigned i = 0; i < n; i++)
        card_guest_offer(&guest, CARD_RX,
                         (struct virtq_buffer[]){part(i * stride, lengths[i] ?: 1)}, !lengths[i],
                         lengths[i] ? 1 : 0);
    wire_arrive(&guest, f.bytes, f.n, NULL);
}

/* What came in buffers @first and following is f. Return: how many there were. */
static unsigned check_merged(const uint32_t *lengths, unsigned first, uint32_t stride)
{
    struct dt_vnet_header v;
    uint32_t done = 0;
    unsigned n = 0;

    memcpy(&v, data(first * stride), HEADER);
    for (; done < HEADER + f.n; n++) {
        uint32_t bytes = MIN(lengths[first + n], (uint32_t)HEADER + f.n - done),
                 skip = n ? 0 : HEADER;
        uint16_t id;

        assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), bytes);
        assert_memory_equal(data((first + n) * stride + skip), f.bytes + done + skip - HEADER,
                            bytes - skip);
        assert_int_equal(*data((first + n) * stride + bytes), GUARD);
        done += bytes;
    }
    assert_int_equal(v.num_buffers, n);
    return n;
}

static void merged_buffers(void **state)
{
    static const uint32_t sizes[] = {12, 13, 30, 64, 100, 500, 1526, 2000};
    uint16_t id;

    start(*(bool *)*state, MERGEABLE);
    for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
        uint32_t lengths[CARD_RING];
        unsigned n;

        make_tcp(sizes[s] < 30 ? 200 : 1400);
        n = (unsigned)(HEADER + f.n + sizes[s] - 1) / sizes[s];
        for (unsigned i = 0; i < n; i++)
            lengths[i] = sizes[s];
        arrive_in(lengths, n, 2048);
        assert_int_equal(check_merged(lengths, 0, 2048), n);
    }
    /* Too short for a header: of no use as the first one, and as good as others later. */
    make_tcp(100);
    arrive_in((const uint32_t[]){11, 0, 1, 60, 1, 0, 3, 200}, 8, 2048);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), 0);
    {
        const uint32_t with_nothing[] = {60, 1, 0, 3, 200};
        struct dt_vnet_header v;

        memcpy(&v, data(3 * 2048), HEADER);
        assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), 60);
        for (unsigned i = 1; i < 5; i++)
            assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS),
                             MIN(with_nothing[i], (uint32_t)HEADER + f.n - 60 - 4 * (i == 4)));
        assert_int_equal(v.num_buffers, 5);
        assert_memory_equal(data(7 * 2048), f.bytes + 48 + 4, f.n - 52);
    }
    stop();
}

/* More pieces than a packet may have: it is dropped, and the buffers serve the next one. */
static void too_many_buffers(void **state)
{
    uint32_t lengths[100];

    start(*(bool *)*state, MERGEABLE);
    for (unsigned i = 0; i < 100; i++)
        lengths[i] = 16;
    make_tcp(1400);
    arrive_in(lengths, 100, 2048);
    assert_int_equal(card_guest_dropped(&guest, "too_big"), 1);
    make_tcp(200);
    wire_arrive(&guest, f.bytes, f.n, NULL);
    check_merged(lengths, 0, 2048);
    stop();
}

/* Without merging a packet has one buffer, or none. */
static void one_buffer_that_is_too_short(void **state)
{
    uint16_t id;

    start(*(bool *)*state, 0);
    make_tcp(1400);
    arrive_in((const uint32_t[]){1000, 1600}, 2, 2048);
    assert_int_equal(card_guest_dropped(&guest, "too_big"), 1);
    make_tcp(800);
    wire_arrive(&guest, f.bytes, f.n, NULL);
    assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), HEADER + f.n);
    assert_memory_equal(data(HEADER), f.bytes, f.n);
    assert_int_equal(*data(HEADER + f.n), GUARD);
    stop();
}

/* Packets wait for buffers, in order, as many as may; the others are counted. */
static void no_buffers(void **state)
{
    start(*(bool *)*state, MERGEABLE);
    make_tcp(100);
    for (unsigned i = 0; i < 300; i++) {
        f.bytes[f.n - 1] = (uint8_t)i;
        wire_arrive(&guest, f.bytes, f.n, NULL);
    }
    assert_int_equal(card_guest_dropped(&guest, "no_buffer"), 300 - 256);
    for (unsigned i = 0; i < 256; i++) {
        uint16_t id;

        card_guest_offer(&guest, CARD_RX, (struct virtq_buffer[]){part(0, 2048)}, 0, 1);
        assert_int_equal(card_guest_reap(&guest, CARD_RX, &id, CARD_WAIT_MS), HEADER + f.n);
        assert_int_equal(*data(HEADER + f.n - 1), i);
    }
    stop();
}

/* ---- The configuration space ---- */

/* Until the front end is told that the space changed; then it says of the link @status. */
static void expect_status(struct vhost_frontend *front, uint16_t status)
{
    uint64_t end = dt_clock_ns() + DT_S(60);
    struct virtio_net_config config;
    struct dt_error err;
    bool changed = false;

    while (!changed && dt_clock_ns() < end)
        assert_int_equal(vhost_frontend_events(front, &changed), 0);
    assert_true(changed);
    assert_int_equal(vhost_frontend_get_config(front, &config, 0, sizeof(config), &err), 0);
    assert_int_equal(config.status, status);
}

static void configuration_space(void **state)
{
    uint64_t protocol = 1ull << VHOST_F_CONFIG | 1ull << VHOST_F_BACKEND_REQ;
    uint64_t features = 1ull << VIRTIO_NET_F_STATUS | 1ull << VHOST_FEATURE_PROTOCOL;
    struct soft_disk soft = {.config_space = true};
    struct virtio_net_config config;
    struct vhost_frontend *front;
    struct dt_error err;
    unsigned queues;

    wire_link(NULL, DT_LINK_UP);
    card_serve(&soft);
    assert_int_equal(vhost_frontend_connect(&front, soft.socket, CARD_WAIT_MS, &err), 0);
    assert_int_equal(vhost_frontend_negotiate(front, &features, &protocol, features, &queues, &err),
                     0);
    assert_true(protocol & 1ull << VHOST_F_CONFIG);
    assert_int_equal(vhost_frontend_get_config(front, &config, 0, sizeof(config), &err), 0);
    assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
    assert_int_equal(config.max_virtqueue_pairs, FRONT_QUEUES);
    assert_int_equal(config.mtu, 1500);
    assert_memory_equal(config.mac, "\0\0\0\0\0\0", 6); /* the address is the VMM's */
    wire_link(&soft, DT_LINK_DOWN);
    expect_status(front, 0);
    wire_link(&soft, DT_LINK_UNKNOWN); /* for who does not know, it is up */
    expect_status(front, VIRTIO_NET_S_LINK_UP);
    assert_int_equal(vhost_frontend_get_config(front, &config, VHOST_MAX_CONFIG, 1, &err), -EIO);
    vhost_frontend_free(front);
    soft_disk_stop(&soft);
}

int main(void)
{
    static const struct card_test tests[] = {
        {"any framing", any_framing},
        {"the header of before virtio 1", legacy_header},
        {"chains that are no packets", chains_that_are_no_packets},
        {"bad headers", bad_headers},
        {"headers to the wire", headers_to_the_wire},
        {"headers to the guest", headers_to_the_guest},
        {"no ECN", no_ecn},
        {"a plain guest", a_plain_guest},
        {"merged buffers", merged_buffers},
        {"too many buffers", too_many_buffers},
        {"one buffer that is too short", one_buffer_that_is_too_short},
        {"no buffers", no_buffers},
        {"configuration space", configuration_space},
    };

    return run_card_tests(tests, ARRAY_SIZE(tests));
}
