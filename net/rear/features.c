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

/* Few rears have a configuration space: over vhost-user it is the VMM's. */
static int judge_mtu(const struct card_rear *cr, struct rear_session *s, struct dt_error *err)
{
    uint16_t mtu;
    int ret;

    if (!(s->protocol & REAR_BIT(VHOST_F_CONFIG)) || !(s->features & REAR_BIT(VIRTIO_NET_F_MTU)))
        return 0;
    ret = vhost_frontend_get_config(s->frontend, &mtu, offsetof(struct virtio_net_config, mtu),
                                    sizeof(mtu), err);
    if (ret == 0 && mtu < cr->mtu)
        ret = dt_fail(err, -EINVAL, "the back end takes packets of %u bytes at most: say mtu=%u",
                      mtu, mtu);
    return ret;
}

static int tell_mtu(const struct card_rear *cr, struct rear_session *s, struct dt_error *err)
{
    int ret = 0;

    if (s->protocol & REAR_BIT(VHOST_F_MTU))
        ret = vhost_frontend_set_mtu(s->frontend, (uint16_t)cr->mtu, err);
    if (ret == -EIO)
        dt_fail_prefix(err, "the back end takes no packets of %u bytes (mtu=)", (unsigned)cr->mtu);
    return ret;
}

int card_rear_agreed(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    struct card_rear *cr = card_rear(rear);
    uint64_t features = sensible(s->features);
    int ret = judge_mtu(cr, s, err);

    if (ret == 0 && features != s->features)
        ret = vhost_frontend_set_features(s->frontend, features, err);
    ret = ret ?: tell_mtu(cr, s, err);
    if (ret < 0)
        return ret;
    s->features = features;
    if (!again) /* which it then has to have again, all of them */
        describe(cr, features);
    return 0;
}
