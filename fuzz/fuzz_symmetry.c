/* SPDX-License-Identifier: MIT */
/*
 * fuzz_symmetry.c - any bytes as the state that the process before left, and then packets: of one flow, and of all kinds.
 *
 * What is refused changes nothing, with a reason; with what is taken, packets go on or wait, and can be saved again. */
#include "tests/unit/net_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t again[1 << 20];
    static struct frame f;
    const struct dt_net_ext *ext;
    struct dt_error err = {""};
    struct dt_layer *layer;
    int64_t n;

    log_set_level(DT_LOG_ERROR);
    test_clock = DT_S(1000);
    rig_start("symmetry flows=8192 | wire");
    layer = rig.dev->layers[1];
    ext = registry_net(layer->ext);
    if (ext->load(layer, data, size, 1, &err) < 0)
        CHECK(err.text[0]);
    frame_ether(&f, 0x0800);
    frame_ipv4(&f, 6, "192.0.2.7", "198.51.100.1");
    frame_tcp(&f, 1, 2, 3, 0x10);
    frame_end(&f);
    for (unsigned i = 0; i < 20; i++) {
        CHECK(rig_send(f.bytes, f.n, NULL, 0));
        rig_arrive(f.bytes, f.n, NULL);
        test_clock += DT_MS(5);
        rig_turn();
    }
    for (unsigned kind = 0; kind < FRAME_KINDS; kind++) {
        struct dt_vnet_header v = frame_kind(&f, kind, 80);

        frame_pattern(&f, kind & FRAME_SUPER ? 3000 : 100);
        frame_end(&f);
        CHECK(rig_send(f.bytes, f.n, &v, DT_OFFLOAD_ALL));
        rig_arrive(f.bytes, f.n, &v);
        test_clock += DT_MS(5);
        rig_turn();
    }
    n = ext->save(layer, again, sizeof(again));
    CHECK(n > 0 && ext->load(layer, again, (size_t)n, 1, &err) == 0);
    rig_stop();
    CHECK(rig.sent == 20 + FRAME_KINDS);
    return 0;
}
