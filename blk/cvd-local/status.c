/* SPDX-License-Identifier: MIT */
/* status.c - what a range holds: what the disk's tree maps is data, and all else holes. */
#include "blk/cvd-local/internal.h"
#include "parallax/format.h"

struct look {
    struct disk *disk;
    uint64_t index, count, run;
    int ret;
};

/* On the pool's thread, like all that is asked of it; it may have to read a few blocks of the tree. */
static void look(void *arg)
{
    struct look *l = arg;

    l->ret = disk_map(l->disk, l->index, l->count, &l->run);
}

void cvd_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const unsigned shift = PX_BLOCK_SHIFT - DT_SECTOR_SHIFT;
    const struct cvd *d = dt_layer_data(layer);
    uint64_t end = extent->sector + extent->sectors;
    struct look l = {.disk = d->disk, .index = extent->sector >> shift};

    l.count = ((end - 1) >> shift) + 1 - l.index;
    dt_layer_exclusive(layer, look, &l);
    if (l.ret < 0)
        return; /* damaged: whoever reads it will be told */
    extent->sectors = MIN(end, (l.index + l.run) << shift) - extent->sector;
    extent->status = l.ret ? DT_STATUS_DATA : DT_STATUS_HOLE;
}
