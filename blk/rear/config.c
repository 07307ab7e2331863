/* SPDX-License-Identifier: MIT */
/* config.c - what the rear's disk is, in its configuration space, and what is wanted of it. */
#include "blk/rear/internal.h"

#include <inttypes.h>

/* Up to the fields of discard and write-zeroes: what QEMU 7.2 reads, and its back ends have. */
#define CONFIG_BYTES offsetof(struct virtio_blk_config, unused1)
#define MAX_BLOCK    65536u

static bool power_of_two(uint32_t n)
{
    return n && !(n & (n - 1));
}

/* Every number here is the rear's: what a feature does not announce counts as zero. */
static int describe(struct dt_block_info *info, const struct virtio_blk_config *disk,
                    uint64_t features, const struct rear *rear, struct dt_error *err)
{
    bool indirect = features & REAR_BIT(VIRTIO_RING_F_INDIRECT_DESC);
    uint32_t block = features & REAR_BIT(VIRTIO_BLK_F_BLK_SIZE) ? disk->blk_size : DT_SECTOR_SIZE;
    uint32_t segments = features & REAR_BIT(VIRTIO_BLK_F_SEG_MAX) ? disk->seg_max : REAR_SEGMENTS;

    if (!power_of_two(block) || block < DT_SECTOR_SIZE || block > MAX_BLOCK)
        return dt_fail(err, -EPROTO, "the back end has a block size of %u bytes", block);
    *info = (struct dt_block_info){.logical_block = block, .physical_block = block};
    if (features & REAR_BIT(VIRTIO_BLK_F_TOPOLOGY) && disk->physical_block_exp <= 16) {
        info->physical_block = block << disk->physical_block_exp;
        info->optimal_io = (uint32_t)MIN((uint64_t)disk->opt_io_size * block, 1u << 30);
    }
    if (!indirect)
        segments = MIN(segments, (uint32_t)rear->queue_size - 2);
    info->max_segments = MIN(MAX(segments, 1u), REAR_SEGMENTS);
    info->max_sectors = REAR_MAX_BYTES >> DT_SECTOR_SHIFT;
    if (features & REAR_BIT(VIRTIO_BLK_F_SIZE_MAX) && disk->size_max) {
        if (disk->size_max < block)
            return dt_fail(err, -EPROTO, "the back end takes no more than %u bytes in a segment",
                           disk->size_max);
        info->max_sectors = MIN(info->max_sectors, ALIGN_DOWN(disk->size_max, block) >> 9);
    }
    info->read_only = features & REAR_BIT(VIRTIO_BLK_F_RO);
    info->can_flush = features & REAR_BIT(VIRTIO_BLK_F_FLUSH);
    info->can_discard = features & REAR_BIT(VIRTIO_BLK_F_DISCARD) && disk->max_discard_sectors;
    info->max_discard = disk->max_discard_sectors;
    info->discard_align = disk->discard_sector_alignment;
    info->can_write_zeroes =
        features & REAR_BIT(VIRTIO_BLK_F_WRITE_ZEROES) && disk->max_write_zeroes_sectors;
    info->max_write_zeroes = disk->max_write_zeroes_sectors;
    info->write_zeroes_unmaps = disk->write_zeroes_may_unmap;
    return 0;
}

/* The guest was promised what the rear was at first. */
static int still_the_same(const struct dt_block_info *was, const struct dt_block_info *is,
                          struct dt_error *err)
{
    const char *what = NULL;

    if (is->logical_block != was->logical_block)
        what = "another block size";
    else if (is->read_only != was->read_only)
        what = is->read_only ? "a read-only disk" : "a writable disk";
    else if (is->max_segments < was->max_segments || is->max_sectors < was->max_sectors)
        what = "smaller limits";
    else if ((was->can_discard && is->max_discard < was->max_discard) ||
             (was->can_write_zeroes && is->max_write_zeroes < was->max_write_zeroes))
        what = "smaller limits for discard or write-zeroes";
    return what ? dt_fail(err, -EPROTO,
                          "the back end came back with %s; give it its former configuration, or "
                          "restart the device",
                          what)
                : 0;
}

int disk_rear_agreed(struct rear *rear, struct rear_session *s, bool again, struct dt_error *err)
{
    struct disk_rear *dr = container_of(rear, struct disk_rear, rear);
    struct virtio_blk_config disk = {0};
    struct dt_block_info info;
    int ret;

    if (!(s->protocol & REAR_BIT(VHOST_F_CONFIG)))
        return dt_fail(err, -ENOTSUP,
                       "the back end does not tell its size (protocol feature CONFIG)");
    ret = vhost_frontend_get_config(s->frontend, &disk, 0, CONFIG_BYTES, err);
    ret = ret ?: describe(&info, &disk, s->features, rear, err);
    if (ret == 0 && again)
        ret = still_the_same(&dr->info, &info, err);
    if (ret < 0)
        return ret;
    if (disk.capacity == 0 || disk.capacity > UINT64_MAX >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EPROTO, "the back end has %" PRIu64 " sectors",
                       (uint64_t)disk.capacity);
    if (!again) {
        dr->config = disk;
        dr->info = info;
    }
    rear->changed |= again && disk.capacity != dr->sectors;
    __atomic_store_n(&dr->sectors, disk.capacity, __ATOMIC_RELAXED);
    return 0;
}

int disk_rear_give(struct rear *rear, const struct passthrough *p, struct dt_error *err)
{
    const uint8_t wce = p->writeback;

    if (!(p->features & REAR_BIT(VIRTIO_BLK_F_CONFIG_WCE)))
        return 0;
    return vhost_frontend_set_config(rear->session.frontend, &wce,
                                     offsetof(struct virtio_blk_config, wce), sizeof(wce), err);
}
