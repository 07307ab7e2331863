/* SPDX-License-Identifier: MIT */
/*
 * config.c - what the guest sees of the disk: features and configuration space (virtio 1.2, 5.2).
 *
 * Features and limits freeze when a driver starts, so they are computed once and hold for the front's
 * life: the floor. Only the capacity follows the disk.
 */
#include "blk/vhost-user/internal.h"

#define SEG_MAX 126u /* what QEMU's own disk offers with its usual ring of 128 */
#define BIT(n)  (1ull << (n))

static void set_topology(struct virtio_blk_config *c, const struct dt_block_info *info)
{
    uint32_t ratio = info->physical_block / info->logical_block;

    c->blk_size = info->logical_block;
    c->physical_block_exp = (uint8_t)__builtin_ctz(ratio);
    c->min_io_size = (uint16_t)MIN(ratio, UINT16_MAX);
    c->opt_io_size = info->optimal_io / info->logical_block;
}

static void set_discard(struct front *front, const struct dt_block_info *info)
{
    struct virtio_blk_config *c = &front->config;

    if (info->can_discard) {
        front->offered |= BIT(VIRTIO_BLK_F_DISCARD);
        c->max_discard_sectors = info->max_discard ? info->max_discard : UINT32_MAX >> 9;
        c->max_discard_seg = 1;
        c->discard_sector_alignment =
            info->discard_align ? info->discard_align : info->logical_block >> DT_SECTOR_SHIFT;
    }
    if (info->can_write_zeroes) {
        front->offered |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
        c->max_write_zeroes_sectors =
            info->max_write_zeroes ? info->max_write_zeroes : UINT32_MAX >> 9;
        c->max_write_zeroes_seg = 1;
        c->write_zeroes_may_unmap = info->write_zeroes_unmaps;
    }
}

void front_config_init(struct front *front)
{
    const struct dt_block_info *info = device_info(front->dev);

    front->offered = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                     BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
                     BIT(VIRTIO_BLK_F_SIZE_MAX) |
                     BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                     BIT(VIRTIO_BLK_F_MQ);
    if (front->packed)
        front->offered |= BIT(VIRTIO_F_RING_PACKED);
    if (front->iommu)
        front->offered |= BIT(VIRTIO_F_ACCESS_PLATFORM);
    if (info->read_only)
        front->offered |= BIT(VIRTIO_BLK_F_RO);
    if (info->can_flush)
        front->offered |= BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
    front->config.capacity = info->sectors;
    /* No limit of ours: but a VM that comes from a back end that has one (attach) acknowledged it. */
    front->config.size_max = UINT32_MAX;
    front->config.seg_max = SEG_MAX;
    front->config.num_queues = (uint16_t)front->nqueues;
    front->config.wce = front->writeback = info->can_flush;
    set_topology(&front->config, info);
    set_discard(front, info);
}

/* Without FLUSH the driver cannot ask for durability, so every write has to give it (5.2.6.2). */
static void update_fua(struct front *front)
{
    uint64_t f = front->features;
    bool writeback = f & BIT(VIRTIO_BLK_F_CONFIG_WCE) ? front->writeback
                                                      : f & BIT(VIRTIO_BLK_F_FLUSH);

    __atomic_store_n(&front->fua, device_info(front->dev)->can_flush && !writeback,
                     __ATOMIC_RELAXED);
}

void front_config_update(struct front *front)
{
    uint64_t sectors = device_info(front->dev)->sectors;

    if (sectors == front->config.capacity)
        return;
    log_info("%s: the disk has %llu sectors now", device_name(front->dev),
             (unsigned long long)sectors);
    front->config.capacity = sectors;
    if (front->remote)
        vhost_remote_config_changed(front->remote);
    else if (front->session)
        vhost_session_notify_config(front->session);
}

void front_floor(struct front *front, struct link_floor *floor)
{
    *floor = (struct link_floor){.features = front->offered,
                                  .protocol_features = front->protocol_features,
                                  .fence_ns = front->keeper.fence_ns};
    memcpy(floor->config, &front->config, sizeof(front->config));
    memset(floor->writable + offsetof(struct virtio_blk_config, capacity), LINK_CONFIG_LIVE,
           sizeof(front->config.capacity));
    if (device_info(front->dev)->can_flush)
        floor->writable[offsetof(struct virtio_blk_config, wce)] = 1;
}

uint64_t front_features(void *dev)
{
    return ((struct front *)dev)->offered;
}

int front_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    struct front *front = dev;

    front->features = features;
    update_fua(front);
    return 0;
}

int front_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    struct front *front = dev;
    uint8_t space[VHOST_MAX_CONFIG] = {0};

    if (offset > sizeof(space) || len > sizeof(space) - offset)
        return -EINVAL;
    memcpy(space, &front->config, sizeof(front->config));
    memcpy(buf, space + offset, len);
    return 0;
}

/* The write-cache mode is the one thing a driver may change. */
int front_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    struct front *front = dev;
    uint8_t wce;

    if (offset != offsetof(struct virtio_blk_config, wce) || len != sizeof(wce))
        return -EINVAL;
    memcpy(&wce, buf, sizeof(wce));
    if (wce > 1 || !device_info(front->dev)->can_flush)
        return -EINVAL;
    front->config.wce = wce;
    front->writeback = wce;
    update_fua(front);
    log_limited(DT_LOG_INFO, "%s: the guest chose %s", device_name(front->dev),
             wce ? "a write cache with flushes" : "durable writes");
    return 0;
}
