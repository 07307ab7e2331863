/* SPDX-License-Identifier: MIT */
/*
 * config.c - what the guest sees of the disk: features and configuration space (virtio 1.2, 5.2).
 *
 * Features and limits freeze when a driver starts, so they are computed once and hold for the front's
 * life: the floor. Only the capacity follows the disk.
 */
#include "blk/vhost-user/internal.h"

#include "front/mode.h"

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
    struct virtio_blk_config *c = &DISK(front)->config;

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

static void disk_init(struct front *front, const struct front_config *config)
{
    const struct dt_block_info *info = device_info(front->dev);
    const char *serial = config->serial ? config->serial : device_name(front->dev);

    front->offered = BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |
                     BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_BLK_F_SEG_MAX) |
                     BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                     BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ);
    if (front->packed)
        front->offered |= BIT(VIRTIO_F_RING_PACKED);
    if (info->read_only)
        front->offered |= BIT(VIRTIO_BLK_F_RO);
    if (info->can_flush)
        front->offered |= BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
    DISK(front)->config.capacity = info->sectors;
    /* No limit of ours: but a VM that comes from a back end that has one (attach) acknowledged it. */
    DISK(front)->config.size_max = UINT32_MAX;
    DISK(front)->config.seg_max = SEG_MAX;
    DISK(front)->config.num_queues = (uint16_t)front->nqueues;
    DISK(front)->config.wce = DISK(front)->writeback = info->can_flush;
    memcpy(DISK(front)->serial, serial, MIN(strlen(serial), sizeof(DISK(front)->serial)));
    set_topology(&DISK(front)->config, info);
    set_discard(front, info);
}

/* Without FLUSH the driver cannot ask for durability, so every write has to give it (5.2.6.2). */
static void update_fua(struct front *front)
{
    uint64_t f = front->features;
    bool writeback =
        f & BIT(VIRTIO_BLK_F_CONFIG_WCE) ? DISK(front)->writeback : f & BIT(VIRTIO_BLK_F_FLUSH);

    __atomic_store_n(&DISK(front)->fua, device_info(front->dev)->can_flush && !writeback,
                     __ATOMIC_RELAXED);
}

static void config_changed(void *arg)
{
    struct front *front = arg;
    uint64_t sectors = device_info(front->dev)->sectors;

    if (sectors == DISK(front)->config.capacity)
        return;
    log_info("%s: the disk has %llu sectors now", device_name(front->dev),
             (unsigned long long)sectors);
    DISK(front)->config.capacity = sectors;
    if (front->remote)
        vhost_remote_config_changed(front->remote);
    else if (front->session)
        vhost_session_notify_config(front->session);
}

static void fill_floor(struct front *front, struct link_floor *floor)
{
    memcpy(floor->config, &DISK(front)->config, sizeof(DISK(front)->config));
    memset(floor->writable + offsetof(struct virtio_blk_config, capacity), LINK_CONFIG_LIVE,
           sizeof(DISK(front)->config.capacity));
    if (device_info(front->dev)->can_flush)
        floor->writable[offsetof(struct virtio_blk_config, wce)] = 1;
}

static uint64_t disk_features(void *dev)
{
    return ((struct front *)dev)->offered;
}

static int disk_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    struct front *front = dev;

    front->features = features;
    update_fua(front);
    return 0;
}

static int disk_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    struct front *front = dev;
    uint8_t space[VHOST_MAX_CONFIG] = {0};

    if (offset > sizeof(space) || len > sizeof(space) - offset)
        return -EINVAL;
    memcpy(space, &DISK(front)->config, sizeof(DISK(front)->config));
    memcpy(buf, space + offset, len);
    return 0;
}

/* The write-cache mode is the one thing a driver may change. */
static int disk_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    struct front *front = dev;
    uint8_t wce;

    if (offset != offsetof(struct virtio_blk_config, wce) || len != sizeof(wce))
        return -EINVAL;
    memcpy(&wce, buf, sizeof(wce));
    if (wce > 1 || !device_info(front->dev)->can_flush)
        return -EINVAL;
    DISK(front)->config.wce = wce;
    DISK(front)->writeback = wce;
    update_fua(front);
    log_limited(DT_LOG_INFO, "%s: the guest chose %s", device_name(front->dev),
                wce ? "a write cache with flushes" : "durable writes");
    return 0;
}

static void disk_hand_over(struct front *front, struct passthrough *p)
{
    p->writeback = DISK(front)->writeback;
}

static void show(struct front *front, json_t *show)
{
    const struct disk_front *d = DISK(front);

    json_object_set_new(show, "serial",
                        json_stringn(d->serial, strnlen(d->serial, sizeof(d->serial))));
    json_object_set_new(show, "writeback", json_boolean(!d->fua));
    json_object_set_new(show, "stuck", front_stuck(front));
}

static const struct front_ops device_ops = {
    .complete = front_complete,
    .wake = front_wake,
    .info_changed = config_changed,
    .set_passthrough = front_set_passthrough,
    .each = front_each,
};

const struct front_class disk_front = {
    .size = sizeof(struct disk_front),
    .slot_size = sizeof(struct slot),
    .rings_per_queue = 1,
    .translates = true,
    .protocol_features =
        1ull << VHOST_F_MQ | 1ull << VHOST_F_LOG_SHMFD | 1ull << VHOST_F_REPLY_ACK |
        1ull << VHOST_F_BACKEND_REQ | 1ull << VHOST_F_CONFIG | 1ull << VHOST_F_INFLIGHT_SHMFD |
        1ull << VHOST_F_RESET_DEVICE | 1ull << VHOST_F_CONFIGURE_MEM_SLOTS | 1ull << VHOST_F_STATUS,
    .device_ops = &device_ops,
    .features = disk_features,
    .set_features = disk_set_features,
    .get_config = disk_get_config,
    .set_config = disk_set_config,
    .init = disk_init,
    .floor = fill_floor,
    .poll = front_queue_poll,
    .arm = front_queue_arm,
    .hand_over = disk_hand_over,
    .take_aside = disk_take_aside,
    .submit_aside = disk_submit_aside,
    .show = show,
};
