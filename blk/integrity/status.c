/* SPDX-License-Identifier: MIT */
/*
 * status.c - what a range holds: what the disk below says, but for zeroes that do not fit their checksum. Those
 * are data, so that whoever goes by the answer reads them and finds the damage.
 *
 * A block is written before its checksum, so zeroes that are being written may for a moment not fit: data is never wrong.
 */
#include "blk/integrity/internal.h"

#define LOOK_SUMS   8192u /* read at a time */
#define LOOK_HASHES 1024u /* computed at a time */

static bool fits(const struct integrity *w, uint64_t block, uint64_t sum, unsigned *hashes)
{
    static const uint8_t zeroes[INTEGRITY_BLOCK];

    if (sum == 0)
        return true; /* not known: never written */
    ++*hashes;
    return integrity_sum(zeroes, integrity_bytes(w, block), block) == sum;
}

/* How many blocks from @first on, at least one, all fit or all do not (@good). */
static uint64_t run(const struct integrity *w, uint64_t first, uint64_t count, bool *good)
{
    _cleanup_free_ uint64_t *sums = xcalloc(count, sizeof(*sums));
    unsigned hashes = 0;
    uint64_t n = 1;

    *good = storefile_read(w->file.map_fd, sums, count * sizeof(*sums),
                           integrity_sum_at(w, first)) == 0 &&
            fits(w, first, sums[0], &hashes);
    while (n < count && hashes < LOOK_HASHES && fits(w, first + n, sums[n], &hashes) == *good)
        n++;
    return n;
}

void integrity_status(struct dt_layer *layer, struct dt_extent *extent)
{
    const struct integrity *w = dt_layer_data(layer);
    const unsigned shift = INTEGRITY_SHIFT - DT_SECTOR_SHIFT;
    uint64_t first = extent->sector >> shift, end, blocks;
    bool good;

    dt_status_below(layer, extent);
    if (extent->status == DT_STATUS_DATA)
        return;
    end = extent->sector + extent->sectors;
    blocks = ((end - 1) >> shift) + 1 - first;
    blocks = run(w, first, MIN(blocks, (uint64_t)LOOK_SUMS), &good);
    extent->sectors = MIN(end, (first + blocks) << shift) - extent->sector;
    if (!good)
        extent->status = DT_STATUS_DATA;
}
