/* SPDX-License-Identifier: MIT */
/*
 * net-floor.c - what the guest of a card was promised, kept whatever the chain becomes; see floor.c, which does it for disks.
 *
 * That is the largest packet and the offloads. Of these core does what a chain lacks, so only a chain that takes smaller
 * packets is refused; and what one has beyond them the guest is not told, nor the keeper, who would refuse
 * a worker with another largest packet.
 */
#include "core/net.h"

/* As it is kept. */
struct floor_record {
    uint64_t chain;
    uint32_t mtu, offloads;
};

int net_floor_judge(const struct device *dev, const struct dt_net_info *now, struct dt_error *err)
{
    if (now->mtu < dev->net_info.mtu)
        return dt_fail(err, -EINVAL, "packets could have %u bytes only, and the guest knows %u",
                       now->mtu, dev->net_info.mtu);
    return 0;
}

uint16_t net_promised_mtu(const struct dt_layer *layer)
{
    return layer->dev->net_info.mtu;
}

static int64_t fill(void *arg, void *bytes, size_t room)
{
    const struct device *dev = arg;
    struct floor_record record = {.chain = floor_chain_hash(dev),
                                  .mtu = dev->net_info.mtu,
                                  .offloads = dev->net_info.offloads};

    memcpy(bytes, &record, sizeof(record));
    return sizeof(record);
}

int net_floor_keep(struct device *dev, struct dt_error *err)
{
    return floor_write(dev, fill, err);
}

static int read_floor(const struct device *dev, struct floor_record *r, struct dt_error *err)
{
    int ret = floor_read(dev, r, sizeof(*r), err);

    if (ret < 0)
        return ret;
    if (r->mtu > UINT16_MAX || r->offloads & ~(uint32_t)DT_OFFLOAD_ALL)
        return dt_fail(err, -EBADMSG, "what its guest was promised is damaged");
    return 0;
}

/* An interface may have another limit by now, and then it drops what is above; another chain must have the one there was. */
int net_floor_settle(struct device *dev, struct dt_error *err)
{
    const struct dt_net_info now = dev->net_info;
    struct floor_record floor;
    int ret;

    if (!dev->blobs)
        return 0;
    ret = read_floor(dev, &floor, err);
    if (ret == -ENOENT)
        return net_floor_keep(dev, err);
    if (ret < 0)
        return ret;
    dev->net_info.mtu = (uint16_t)floor.mtu;
    dev->net_info.offloads = floor.offloads;
    ret = net_floor_judge(dev, &now, err);
    if (ret < 0 && floor.chain == floor_chain_hash(dev)) {
        log_warning("%s: %s", dev->name, err->text);
        ret = 0;
    }
    if (ret < 0)
        dt_fail_prefix(err, "the chain cannot serve its guest");
    ret = ret ?: net_floor_keep(dev, err);
    return ret ?: 1;
}
