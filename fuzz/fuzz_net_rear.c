/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_rear.c - a back `vhost-user` of a card before a rear whose replies, used entries and packets are bent by the
 * input (bend.h); every packet that it gets it sends back.
 *
 * Invariants: every packet of the guest's is done when the rear is gone; no descriptor is left; what lies outside of the
 * buffers is not touched (the sanitizers see to that).
 */
#include "fuzz/bend.h"
#include "tests/unit/net_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void bend_frame(struct fake_rear *r)
{
    uint8_t bend[3];

    if (bend_next(r->arg, bend))
        r->frame[bend[0] & 0x10 ? bend[1] : bend[1] % sizeof(struct dt_vnet_header)] ^= bend[2];
}

static void turn(unsigned ms)
{
    uint64_t end = dt_clock_ns() + DT_MS(ms);

    while (dt_clock_ns() < end)
        rig_turn();
}

static void load(struct fake_rear *rear)
{
    static const uint32_t lengths[] = {60, 1514, 9000, 14, 65000, 60, 100, 2036};
    static uint8_t frame[NET_MAX_FRAME];
    unsigned sent = 0;

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(lengths); i++) {
        sent += rig_send(frame, lengths[i / 2], NULL, 0);
        if (i % 4 == 3)
            turn(2);
    }
    fake_rear_stop(rear);
    turn(1);
    rig_stop();
    CHECK(rig.sent == sent);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fake_rear rear;
    struct bend input = {data, size};
    char chain[128];
    unsigned fds;

    log_set_level(DT_LOG_ERROR);
    fds = count_fds();
    rear = (struct fake_rear){.net = true,
                              .features = FAKE_NET_FEATURES,
                              .protocol = FAKE_NET_PROTOCOL,
                              .mangle = bend_reply,
                              .mangle_used = bend_used,
                              .mangle_frame = bend_frame,
                              .arg = &input};
    fake_rear_start(&rear);
    snprintf(chain, sizeof(chain), "vhost-user path=%s timeout=20ms queue-size=64", rear.path);
    if (rig_try(chain) < 0)
        fake_rear_stop(&rear);
    else
        load(&rear);
    bend_check_fds(fds);
    return 0;
}
