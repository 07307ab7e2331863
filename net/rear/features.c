/* SPDX-License-Identifier: MIT */
/* features.c - what is agreed with the rear: offloads (virtio 1.2, 5.1.3) and the largest packet. */
#include "net/rear/internal.h"

/* What a driver may not take of an offer (5.1.3.1), and what would need buffers of 64 KiB. */
static uint64_t sensible(uint64_t features)
{
    if (!(features & REAR_BIT(VIRTIO_NET_F_CSUM)))
        features &= ~CARD_HOST_SUPER;
    if (!(features & REAR_BIT(VIRTIO_NET_F_GUEST_CSUM)) ||
        !(features & REAR_BIT(VIRTIO_NET_F_MRG_RXBUF)))
        features &= ~CARD_GUEST_SUPER;
    if (!(features & (REAR_BIT(VIRTIO_NET_F_HOST_TSO4) | REAR_BIT(VIRTIO_NET_F_HOST_TSO6))))
        features &= ~REAR_BIT(VIRTIO_NET_F_HOST_ECN);
    if (!(features & (REAR_BIT(VIRTIO_NET_F_GUEST_TSO4) | REAR_BIT(VIRTIO_NET_F_GUEST_TSO6))))
        features &= ~REAR_BIT(VIRTIO_NET_F_GUEST_ECN);
    return features;
}

static void describe(struct card_rear *cr, uint64_t features)
{
    cr->takes = virtio_offloads_of(features, false);
    cr->gives = virtio_offloads_of(features, true);
    cr->mergeable = features & REAR_BIT(VIRTIO_NET_F_MRG_RXBUF);
    cr->ecn = features & REAR_BIT(VIRTIO_NET_F_HOST_ECN);
}

/* Ring features are each rear's own business; what the guest was offered is not. */
void card_rear_promised(const struct rear *rear, uint64_t *wanted, uint64_t *needed)
{
    const uint64_t rings = REAR_BIT(VIRTIO_RING_F_EVENT_IDX) | REAR_BIT(VIRTIO_NET_F_MRG_RXBUF) |
                           REAR_BIT(VIRTIO_NET_F_MQ) | REAR_BIT(VIRTIO_NET_F_MTU) | CARD_TELLING;
    uint64_t offloads = card_rear(rear)->offloads ? CARD_OFFLOADS : 0;

    *wanted = rings | offloads;
    *needed |= offloads;
}

void card_rear_promise(struct card_rear *cr)
{
    cr->mtu = card_rear_mtu(cr, 0);
    describe(cr, cr->offloads ? CARD_OFFLOADS : 0);
}

static int tell_mtu(const struct card_rear *cr, struct rear_session *s, struct dt_error *err)
{
    int ret = 0;

    if (s->protocol & REAR_BIT(VHOST_F_MTU))
        ret = vhost_frontend_set_mtu(s->frontend, cr->mtu, err);
    if (ret == -EIO)
        dt_fail_prefix(err, "the back end takes no packets of %u bytes (mtu=)", cr->mtu);
    return ret;
}

int card_rear_agreed(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    struct card_rear *cr = card_rear(rear);
    uint64_t features = sensible(s->features);
    int ret = card_rear_learn(cr, s, again, err);

    if (ret < 0 || rear_session_begun(s))
        return ret;
    if (features != s->features)
        ret = vhost_frontend_set_features(s->frontend, features, err);
    ret = ret ?: tell_mtu(cr, s, err);
    if (ret < 0)
        return ret;
    s->features = features;
    if (!again || rear->listen) /* which it then has to have again, all of them */
        describe(cr, features);
    return 0;
}
