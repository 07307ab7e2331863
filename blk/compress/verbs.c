/* SPDX-License-Identifier: MIT */
/* verbs.c - what `devtap do DEVICE compress` offers. */
#include "blk/compress/internal.h"

static int space(struct dt_layer *layer, int argc, const char *const *argv, struct dt_reply *reply,
                 struct dt_error *err)
{
    const struct compress *w = dt_layer_data(layer);
    uint64_t logical = w->mapped << COMPRESS_UNIT_SHIFT;
    uint64_t taken = w->space.used << COMPRESS_BLOCK_SHIFT;

    if (argc)
        return dt_fail(err, -EINVAL, "it takes no arguments");
    dt_reply_u64(reply, "size", w->header.size);
    dt_reply_u64(reply, "logical", logical);
    dt_reply_u64(reply, "stored", w->stored);
    dt_reply_u64(reply, "taken", taken);
    dt_reply_u64(reply, "free", (w->space.end << COMPRESS_BLOCK_SHIFT) - taken);
    dt_reply(reply, "ratio", "%.2f", taken ? (double)logical / (double)taken : 1.0);
    return 0;
}

const struct dt_verb compress_verbs[] = {
    {"space", "", "What the disk holds, what that takes in the store, and the ratio.", space},
    {NULL},
};
