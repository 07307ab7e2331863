/* SPDX-License-Identifier: MIT */
/* disk.c - what is peculiar to disks among devices: what a disk is, as each of its layers shows it. */
#include "core/internal.h"

static bool power_of_two(uint32_t n)
{
    return n && !(n & (n - 1));
}

int info_judge(const struct dt_block_info *info, struct dt_error *err)
{
    if (info->sectors == 0 || info->sectors > UINT64_MAX >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EINVAL, "a disk of %llu sectors is not possible",
                       (unsigned long long)info->sectors);
    if (info->logical_block < DT_SECTOR_SIZE || !power_of_two(info->logical_block) ||
        !power_of_two(info->physical_block) || info->physical_block < info->logical_block)
        return dt_fail(err, -EINVAL,
                       "block sizes %u (logical) and %u (physical) must be powers of two, 512 or "
                       "more, the physical not below the logical",
                       info->logical_block, info->physical_block);
    if ((info->sectors << DT_SECTOR_SHIFT) % info->logical_block)
        return dt_fail(err, -EINVAL, "the size %llu is not a multiple of the block size %u",
                       (unsigned long long)(info->sectors << DT_SECTOR_SHIFT), info->logical_block);
    return 0;
}

/* What the disk is as @layer shows it, if it is @below underneath (NULL: there is nothing). */
static int make_info(struct dt_layer *layer, const struct dt_block_info *below,
                     struct dt_block_info *info, struct dt_error *err)
{
    int ret = 0;

    *info = below ? *below : (struct dt_block_info){.logical_block = 512, .physical_block = 512};
    if (layer->ext->info)
        ret = layer->ext->info(layer, info, err);
    return ret ?: info_judge(info, err);
}

static int layer_info(struct dt_layer *layer, struct dt_error *err)
{
    return make_info(layer, layer->below ? &layer->below->info : NULL, &layer->info, err);
}

/* Other threads read it as they go, unless all stand still. */
static void set_info(struct dt_block_info *to, const struct dt_block_info *from, bool all)
{
    if (all)
        *to = *from;
    else
        __atomic_store_n(&to->sectors, from->sectors, __ATOMIC_RELAXED);
}

static int gather(struct device *dev, bool all, struct dt_error *err)
{
    struct dt_block_info info[CHAIN_MAX_LAYERS + 1];

    for (unsigned i = dev->nlayers; i > 0; i--) {
        int ret = make_info(dev->layers[i], i < dev->nlayers ? &info[i + 1] : NULL, &info[i], err);

        if (ret < 0)
            return ret;
    }
    for (unsigned i = dev->nlayers; i > 0; i--)
        set_info(&dev->layers[i]->info, &info[i], all);
    set_info(&dev->chain_info, &info[1], all);
    __atomic_store_n(&dev->info.sectors, info[1].sectors, __ATOMIC_RELAXED);
    return 0;
}

static int opened(struct device *dev, struct dt_error *err)
{
    dev->info = dev->chain_info = dev->layers[1]->info;
    return floor_settle(dev, err);
}

static int judge(const struct device *dev, struct dt_layer *const *layers, unsigned n,
                 struct dt_error *err)
{
    struct dt_block_info info = {.logical_block = 512, .physical_block = 512};

    for (unsigned i = n; i > 0; i--) {
        struct dt_layer *layer = layers[i];
        int ret = layer->ext->info ? layer->ext->info(layer, &info, err) : 0;

        ret = ret ?: info_judge(&info, err);
        if (ret < 0) {
            dt_fail_prefix(err, "%s", layer->name);
            return ret;
        }
    }
    return floor_judge(dev, &info, err);
}

const struct device_class disk_class = {
    .kind = DEVICE_DISK,
    .layer_info = layer_info,
    .opened = opened,
    .gather = gather,
    .judge = judge,
    .keep = floor_keep,
    .link = disk_link,
    .unlink = disk_unlink,
    .show = disk_show,
    .layer_stats = disk_layer_stats,
};
