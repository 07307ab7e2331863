/* SPDX-License-Identifier: MIT */
/*
 * fuzz_nat.c - a guest and a wire that send anything, and any bytes as the state that the process before left.
 *
 * One byte: 1 = a state follows, with its length in two bytes. Then packets: a byte (bit 0: from the wire; bits 1 and 2: the
 * guest, or the router, is its Ethernet source and we are its destination), two bytes of length, the frame. Whatever
 * comes, nothing leaves under another address than the outer one, and every descriptor comes back. */
#include "tests/unit/net_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t gateway[6] = {2, 'i', 10, 0, 2, 1}, outer[6] = {2, 'o', 192, 0, 2, 10};
static const uint8_t outer_address[4] = {192, 0, 2, 10};

static void check_wire(const struct rig_frame *f)
{
    struct dt_headers h;

    dt_parse(&h, f->data, f->length);
    CHECK(!(h.flags & DT_HDR_BROKEN) && !h.vlans && h.flags & (DT_HDR_IPV4 | DT_HDR_ARP));
    CHECK(memcmp(f->data + 6, outer, 6) == 0);
    CHECK(memcmp(f->data + h.l3 + (h.flags & DT_HDR_ARP ? 14 : 12), outer_address, 4) == 0);
}

static void check_guest(const struct rig_frame *f)
{
    struct dt_headers h;

    dt_parse(&h, f->data, f->length);
    CHECK(!(h.flags & DT_HDR_BROKEN) && !h.vlans && h.flags & (DT_HDR_IPV4 | DT_HDR_ARP));
    CHECK(memcmp(f->data + 6, gateway, 6) == 0);
    if (h.flags & DT_HDR_IPV4) /* to a guest, not to its router */
        CHECK(f->data[h.l3 + 16] == 10 && f->data[h.l3 + 18] == 2);
}

static void check(void)
{
    for (unsigned i = 0; i < rig.wire.n; i++)
        check_wire(&rig.wire.frames[i]);
    for (unsigned i = 0; i < rig.guest.n; i++)
        check_guest(&rig.guest.frames[i]);
    rig_clear();
}

/* By ARP, as the guest and the router would. */
static void introduce(bool wire)
{
    static const uint8_t arp[2][42] = {
        {[0] = 2, 'i',  10,   0, 2, 1, 0x52, 0x54, 0, 0, 0,  1, 8, 6, 0, 1, 8, 0,  6, 4, 0,
         1,       0x52, 0x54, 0, 0, 0, 1,    10,   0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 1},
        {[0] = 2, 'o',  192,  0, 2, 10, 0x52, 0x54, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0,   6, 4, 0,
         2,       0x52, 0x54, 0, 0, 0,  7,    192,  0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10}};

    if (wire)
        rig_arrive(arp[1], sizeof(arp[1]), NULL);
    else
        CHECK(rig_send(arp[0], sizeof(arp[0]), NULL, 0));
}

static size_t load_state(const uint8_t *data, size_t size)
{
    struct dt_layer *layer = rig.dev->layers[1];
    size_t n = size < 2 ? 0 : MIN((size_t)load_be16(data), size - 2);
    struct dt_error err = {""};

    if (registry_net(layer->ext)->load(layer, data + 2, n, 1, &err) < 0)
        CHECK(err.text[0]);
    return MIN(size, n + 2);
}

/* Returns the bytes that it took. */
static size_t one_packet(const uint8_t *data, size_t size, unsigned *sent)
{
    uint32_t n = load_be16(data + 1);
    uint8_t frame[2048];
    bool wire = data[0] & 1;

    n = MIN(n, MIN((uint32_t)sizeof(frame), (uint32_t)size - 3));
    if (n < 14)
        return size;
    memcpy(frame, data + 3, n);
    if (data[0] & 6)
        memcpy(frame, wire ? outer : gateway, 6);
    if (wire)
        rig_arrive(frame, n, NULL);
    else
        CHECK(rig_send(frame, n, NULL, 0));
    *sent += !wire;
    check();
    return n + 3;
}

/* To start a card takes far longer than a few packets: there is one for all inputs, between which all mappings grow too old. */
static void begin(void)
{
    if (!rig.dev) {
        test_clock = DT_S(1000);
        rig_start("nat outer=192.0.2.10/24 inner=10.0.2.1/24 router=192.0.2.1 ports=2000-2063 "
                  "mappings=64 tcp-timeout=10s tcp-transitory=5s udp-timeout=5s icmp-timeout=5s "
                  "forward=tcp:8080:10.0.2.15:80 | wire");
    }
    test_clock += DT_S(40);
    rig_turn();
    rig_clear();
    rig.sent = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t again[1 << 20];
    struct dt_layer *layer;
    struct dt_error err;
    unsigned sent = 1;
    size_t at = 1;
    int64_t n;

    if (size < 1)
        return 0;
    begin();
    if (data[0] & 1)
        at += load_state(data + at, size - at);
    introduce(true);
    introduce(false);
    for (unsigned i = 0; i < 64 && at + 3 < size; i++) {
        at += one_packet(data + at, size - at, &sent);
        test_clock += DT_S(1);
        rig_turn();
    }
    check();
    layer = rig.dev->layers[1];
    n = registry_net(layer->ext)->save(layer, again, sizeof(again));
    CHECK(n > 0 && registry_net(layer->ext)->load(layer, again, (size_t)n, 1, &err) == 0);
    CHECK(rig.sent == sent);
    return 0;
}
