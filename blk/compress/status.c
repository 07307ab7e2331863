/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a range holds: units that are zeroes are in no block of the store.
 *
 * A sector of the map that is in memory is looked at there, while the disk's thread stands still. One that is not is as
 * the stored map has it, and is read by the thread that asks. If its thread changes and stores it meanwhile, the answer
 * is of before or after that, or, where the checksum shows that it was read half-way, data.
 */
#include "blk/compress/internal.h"

struct look {
    struct compress_ctx *cc;
    uint64_t index;
    struct compress_map_sector *copy;
    uint64_t limit;
    bool found;
};

static void look(void *arg)
{
    const struct compress *w = ((struct look *)arg)->cc->c->layer_data;
    struct look *l = arg;

    l->limit = w->space.limit;
    l->found = compress_map_peek(l->cc, l->index, l->copy);
}

static bool read_stored(const struct compress *w, const struct look *l)
{
    struct dt_error ignored;

    return storefile_read(w->file.map_fd, l->copy, sizeof(*l->copy),
                          w->at.map_offset + l->index * sizeof(*l->copy)) == 0 &&
           compress_map_check(l->copy, l->index, 0, &w->at, l->limit, w->file.path, &ignored) == 0;
}

void compress_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct compress *w = dt_layer_data(layer);
    uint64_t at = extent->sector << DT_SECTOR_SHIFT, unit = at >> COMPRESS_UNIT_SHIFT;
    uint64_t end = at + (extent->sectors << DT_SECTOR_SHIFT), last;
    struct compress_map_sector copy;
    struct look l = {
        .cc = dt_layer_ctx(layer, 0)->data, .index = unit / COMPRESS_ENTRIES, .copy = &copy};
    bool hole;

    dt_layer_exclusive(layer, look, &l);
    last = MIN((end - 1) >> COMPRESS_UNIT_SHIFT, (l.index + 1) * COMPRESS_ENTRIES - 1);
    if (!l.found && !read_stored(w, &l)) {
        unit = last; /* data, as far as this sector goes */
    } else {
        hole = compress_is_hole(&copy.entries[unit % COMPRESS_ENTRIES]);
        while (unit < last &&
               compress_is_hole(&copy.entries[(unit + 1) % COMPRESS_ENTRIES]) == hole)
            unit++;
        extent->status = hole ? DT_STATUS_HOLE : DT_STATUS_DATA;
    }
    extent->sectors = (MIN(end, (unit + 1) << COMPRESS_UNIT_SHIFT) - at) >> DT_SECTOR_SHIFT;
}
