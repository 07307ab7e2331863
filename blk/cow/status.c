/* SPDX-License-Identifier: MIT */
/* status.c - what a range holds: the map tells whose it is, and then the overlay's file or the base tells. */
#include "blk/cow/internal.h"

#define LOOK_GRANULES 16384u /* at a time, while the disk's thread stands still */

struct look {
    const struct cow *w;
    uint64_t granule, end, run;
    bool ours;
};

static void look(void *arg)
{
    struct look *l = arg;

    l->run = cow_map_run(l->w->now, l->granule, l->end, &l->ours);
}

void cow_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct cow *w = dt_layer_data(layer);
    uint64_t at = extent->sector << DT_SECTOR_SHIFT;
    uint64_t end = at + (extent->sectors << DT_SECTOR_SHIFT);
    struct look l = {.w = w, .granule = at >> COW_SHIFT};

    l.end = MIN((end + COW_GRANULE - 1) >> COW_SHIFT, l.granule + LOOK_GRANULES);
    dt_layer_exclusive(layer, look, &l);
    end = MIN(end, (l.granule + l.run) << COW_SHIFT);
    extent->sectors = (end - at) >> DT_SECTOR_SHIFT;
    if (l.ours)
        storefile_status(w->file.fd, w->at.data_offset + at, extent);
    else
        dt_status_below(layer, extent);
}
