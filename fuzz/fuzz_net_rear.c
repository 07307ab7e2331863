/* SPDX-License-Identifier: MIT */
/*
 * fuzz_net_rear.c - a back `vhost-user` of a card before a rear whose replies, used entries, packets and configuration space
 * are bent by the input (bend.h); every packet that it gets it sends back, and again and again it says that its
 * configuration changed.
 *
 * Invariants: every packet of the guest's is done when the rear is gone; no descriptor is left; what lies outside of the
 * buffers is not touched (the sanitizers see to that); the guest is told of no card that cannot be.
 */
#include "fuzz/bend.h"
#include "tests/unit/net_rig.h"

#define TELLS (1ull << VIRTIO_NET_F_MAC | 1ull << VIRTIO_NET_F_STATUS | 1ull << VIRTIO_NET_F_MTU)

static const struct virtio_net_config usual = {.mac = {0x52, 0x54, 0, 1, 2, 3},
                                               .status = VIRTIO_NET_S_LINK_UP,
                                               .max_virtqueue_pairs = 1,
                                               .mtu = 9000};

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

/* What it says from now on of the card. */
static void say(struct fake_rear *rear)
{
    struct virtio_net_config card = usual;
    uint8_t bend[3];
    bool bent;

    pthread_mutex_lock(&rear->busy); /* the input is the rear's */
    bent = bend_next(rear->arg, bend);
    pthread_mutex_unlock(&rear->busy);
    if (bent)
        ((uint8_t *)&card)[bend[1] % 12] ^= bend[2];
    fake_rear_say(rear, &card);
}

static void judge_info(void)
{
    const struct dt_net_info *info = device_net_info(rig.dev);

    CHECK(info->mtu >= 68 && info->link <= DT_LINK_DOWN && !(info->mac[0] & 1));
}

static void load(struct fake_rear *rear)
{
    static const uint32_t lengths[] = {60, 1514, 9000, 14, 65000, 60, 100, 2036};
    static uint8_t frame[NET_MAX_FRAME];
    unsigned sent = 0;

    for (unsigned i = 0; i < 2 * ARRAY_SIZE(lengths); i++) {
        sent += rig_send(frame, lengths[i / 2], NULL, 0);
        if (i % 8 == 5)
            say(rear);
        if (i % 4 == 3)
            turn(2);
        judge_info();
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
                              .features = FAKE_NET_FEATURES | TELLS,
                              .protocol = FAKE_NET_PROTOCOL | 1ull << VHOST_F_CONFIG |
                                          1ull << VHOST_F_BACKEND_REQ,
                              .card = usual,
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
