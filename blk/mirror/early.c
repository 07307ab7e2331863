/* SPDX-License-Identifier: MIT */
/*
 * early.c - what the disk holds, for a layer above that reads it at the start (an encrypted disk's
 * header).
 *
 * The legs' superblocks are judged as at a start, and the leg whose data counts is read. Nothing is
 * recorded: a predecessor may be serving the mirror.
 */
#include "blk/mirror/internal.h"

static void view(const struct mirror *m, unsigned i, uint8_t *meta, struct leg_view *view)
{
    struct dt_error ignored;

    view->error = m->legs[i].dev ? -EIO : -ENODEV;
    if (m->legs[i].dev &&
        device_read_early(m->legs[i].dev, m->meta_at, 2 * META_SLOT, meta, &ignored) == 0)
        leg_view_read(view, meta);
}

int mirror_read_early(struct dt_layer *layer, uint64_t sector, uint32_t sectors, void *data,
                      struct dt_error *err)
{
    const struct mirror *m = dt_layer_data(layer);
    _cleanup_free_ uint8_t *meta = xaligned(META_BLOCK, 2 * META_BLOCK);
    enum leg_verdict verdicts[MIRROR_LEGS];
    struct leg_view views[MIRROR_LEGS];
    unsigned newest;
    int ret;

    for (unsigned i = 0; i < m->count; i++)
        view(m, i, meta, &views[i]);
    if (m->create != CREATE_OFF && mirror_is_new(views, m->count)) {
        for (unsigned i = 0; i < m->count; i++)
            verdicts[i] = LEG_IS_IN_SYNC; /* the first has the data */
    } else {
        ret = mirror_judge(views, m->count, m->missing == MISSING_ANY, verdicts, &newest, err);
        if (ret < 0)
            return ret;
    }
    ret = dt_fail(err, -EIO, "no leg is in sync");
    for (unsigned i = 0; i < m->count && ret < 0; i++)
        if (verdicts[i] == LEG_IS_IN_SYNC)
            ret = device_read_early(m->legs[i].dev, sector, sectors, data, err);
    return ret;
}
