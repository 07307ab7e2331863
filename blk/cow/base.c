/* SPDX-License-Identifier: MIT */
/*
 * base.c - is this the base that the overlay is for?
 *
 * On another one it is no disk, but may look like one for a long time. Its size tells, and its name if it was
 * given one. Without a name a checksum of samples of its content was kept: a base never changes.
 */
#include "blk/cow/internal.h"

void cow_base_print(struct cow *w)
{
    uint8_t *samples = xaligned(COW_GRANULE, COW_SAMPLES * COW_GRANULE);
    uint64_t size = dt_layer_info(w->layer)->sectors << DT_SECTOR_SHIFT;
    struct cow_layout at;
    struct dt_error err;
    int ret = 0;

    memset(samples, 0, COW_SAMPLES * COW_GRANULE);
    cow_layout(&at, size);
    for (unsigned i = 0; ret == 0 && i < COW_SAMPLES; i++) {
        uint32_t length;
        uint64_t from = cow_sample(&at, size, i, &length);

        ret = dt_layer_read_below(w->layer, from >> DT_SECTOR_SHIFT, length >> DT_SECTOR_SHIFT,
                                  samples + i * COW_GRANULE, &err);
    }
    if (ret < 0)
        log_debug("%s: the base's content cannot be judged: %s", w->file.path, err.text);
    else
        cow_print(w->print, samples);
    if (ret != -ETIMEDOUT) /* then the read may still end, and in it */
        free(samples);
}

bool cow_adopt_base(struct cow *w)
{
    if (!w->print[0] || w->header.base_id[0] || w->file.read_only)
        return false;
    for (uint64_t s = 0; s < w->at.map_sectors; s++)
        for (unsigned i = 0; i < sizeof(w->now[s].bits); i++)
            if (w->now[s].bits[i])
                return false;
    memcpy(w->header.base_id, w->print, sizeof(w->print));
    return true;
}

static int judge_content(struct cow *w, struct dt_error *err)
{
    if (!w->print[0] && (!w->header.base_id[0] || cow_is_print(w->header.base_id)))
        cow_base_print(w);
    if (!w->print[0] || !cow_is_print(w->header.base_id) ||
        strncmp(w->print, w->header.base_id, COW_ID_SIZE) == 0)
        return 0;
    return dt_fail(
        err, -EINVAL,
        "%s is for another base, or this one has changed (if by a commit of this overlay: "
        "'devtap cow reset')",
        w->file.path);
}

int cow_judge_base(struct cow *w, struct dt_error *err)
{
    const struct dt_block_info *base = dt_layer_info(w->layer);
    uint64_t size = base->sectors << DT_SECTOR_SHIFT;

    if (!base->read_only)
        return dt_fail(err, -EINVAL,
                       "the base could be written to: give the layer below read-only=on, or put "
                       "'readonly' between");
    if (base->max_sectors && base->max_sectors < COW_GRANULE >> DT_SECTOR_SHIFT)
        return dt_fail(err, -EINVAL, "the base takes no requests of 4 KiB");
    if (size != w->header.size)
        return dt_fail(err, -EINVAL,
                       "%s is for a base of %llu bytes; this one has %llu: it has changed, or is "
                       "another",
                       w->file.path, (unsigned long long)w->header.size, (unsigned long long)size);
    if (w->base_id && strncmp(w->base_id, w->header.base_id, COW_ID_SIZE) != 0)
        return dt_fail(err, -EINVAL, "%s is for the base '%s', not '%s'", w->file.path,
                       w->header.base_id, w->base_id);
    return judge_content(w, err);
}
