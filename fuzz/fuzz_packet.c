/* SPDX-License-Identifier: MIT */
/*
 * fuzz_packet.c - a guest's packet: its virtio header, and a frame whose headers may be anything.
 *
 * One byte of offloads that were negotiated, 12 of virtio header, the frame. It goes to a wire that takes nothing, so
 * all that is left to do is done; what comes out must be finished, and as right as what went in. */
#include "tests/unit/net_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct dt_headers *h, const uint8_t *data, uint32_t length)
{
    struct dt_headers walked;

    net_parse_walk(&walked, data, length);
    CHECK(memcmp(&walked, h, sizeof(walked)) == 0); /* there are no holes in it */
    CHECK(h->l3 <= length && h->l4 <= length && h->payload <= length && h->end <= length);
    CHECK(!(h->flags & (DT_HDR_TCP | DT_HDR_UDP)) || (h->l4 > h->l3 && h->payload <= h->end));
    CHECK(!(h->flags & DT_HDR_BROKEN) || !(h->flags & (DT_HDR_TCP | DT_HDR_UDP | DT_HDR_ARP)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint32_t before = 1 + sizeof(struct dt_vnet_header);
    struct dt_vnet_header v;
    struct dt_headers h;
    uint32_t length;

    if (size < before + 14 || size > before + NET_MAX_FRAME)
        return 0;
    if (!rig.dev)
        rig_start("plain-wire");
    length = (uint32_t)size - before;
    memcpy(&v, data + 1, sizeof(v));
    dt_parse(&h, data + before, length);
    check(&h, data + before, length);
    rig.sent = 0;
    if (rig_send(data + before, length, &v, data[0])) {
        CHECK(rig.sent == 1);
        for (unsigned i = 0; i < rig.wire.n; i++) {
            const struct rig_frame *f = &rig.wire.frames[i];

            CHECK(f->needs == 0);
            dt_parse(&h, f->data, f->length);
            check(&h, f->data, f->length);
            CHECK(rig.wire.n == 1 || frame_sums_right(f->data, f->length));
        }
    }
    rig_clear();
    return 0;
}
