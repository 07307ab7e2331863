/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a range holds. Blocks that are in the cache are data: dirty ones because the disk below does not have
 * them yet, and clean ones because what was discarded below may still be here as it was. All else is as
 * the disk below says.
 *
 * Where that is data the cache need not be looked at. Else it is looked at before the answer that counts: a block
 * that leaves the cache meanwhile is below by then.
 */
#include "blk/cache/internal.h"

#define LOOK_BLOCKS 1024u /* at a time, while the disk's thread stands still */
#define LOOK_SLOTS  65536u

/** struct look - for the first block from @first to below @end that is in the cache: @end is lowered to it. */
struct look {
    const struct cache *k;
    uint64_t first, end, at;
};

static void look_at_blocks(void *arg)
{
    struct look *l = arg;
    uint64_t stop = MIN(l->end, l->at + LOOK_BLOCKS);

    while (l->at < stop && index_find(l->k, l->at) == SLOT_NONE)
        l->at++;
    if (l->at < stop)
        l->end = l->at;
}

static void look_at_slots(void *arg)
{
    struct look *l = arg;
    uint64_t stop = MIN(l->k->slots, l->at + LOOK_SLOTS);

    for (; l->at < stop; l->at++) {
        uint64_t block = cache_entry_block(l->k->index[l->at]);

        if (slot_valid(l->k, (uint32_t)l->at) && block >= l->first && block < l->end)
            l->end = block;
    }
}

/* A block is found in one of 64 slots, or all are gone through once, whichever is less. */
static void find_first(struct dt_layer *layer, struct look *l)
{
    bool by_slots = (l->end - l->first) * CACHE_WAYS > l->k->slots;

    l->at = by_slots ? 0 : l->first;
    while (l->at < (by_slots ? l->k->slots : l->end))
        dt_layer_exclusive(layer, by_slots ? look_at_slots : look_at_blocks, l);
}

void cache_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct cache *k = dt_layer_data(layer);
    struct look l = {.k = k, .first = extent->sector >> k->shift};
    uint64_t end;

    dt_status_below(layer, extent);
    if (extent->status == DT_STATUS_DATA)
        return;
    end = extent->sector + extent->sectors;
    l.end = ((end - 1) >> k->shift) + 1;
    find_first(layer, &l);
    if (l.end == l.first) {
        extent->status = DT_STATUS_DATA;
        extent->sectors = MIN(end, (l.first + 1) << k->shift) - extent->sector;
        return;
    }
    extent->sectors = MIN(end, l.end << k->shift) - extent->sector;
    dt_status_below(layer, extent);
}
