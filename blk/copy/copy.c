/* SPDX-License-Identifier: MIT */
/* copy.c - the disk is copied to another chain while it is served; see blk/twin. */
#include "blk/twin/twin.h"

static const char *const contents[] = {[TWIN_COPY] = "copy", [TWIN_EQUAL] = "equal", NULL};

static const struct dt_param params[] = {
    TWIN_PARAM_TO("The chain that gets the copy, in quotes: to='file path=/b/disk.img'."),
    {.name = "content",
     .type = DT_PARAM_ENUM,
     TWIN_FIELD(content),
     .initial = "copy",
     .choices = contents,
     .help = "copy: all of the disk goes there; equal: it is there already, which is compared."},
    TWIN_PARAM_RATE("0", "Copy no faster than this; 0 = as fast as the two chains are."),
    TWIN_PARAM_BUFFER("Memory for writes on their way to the copy; more wait."),
    TWIN_PARAM_TIMEOUT("A write waits no longer for the copy, which is left behind then."),
    {NULL},
};

static int copy_open(struct dt_layer *layer, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);

    t->sync = true;
    t->judges = t->content == TWIN_EQUAL;
    return twin_open(layer, err);
}

const struct dt_block_ext blk_copy = {
    DT_BLOCK_EXT_HEADER,
    .name = "copy",
    .summary = "Copy the disk to another chain while it is served",
    .help = "What is below is copied region by region; writes to what has been copied go to both. "
            "`devtap move-back` puts it in, and the other chain in its place.",
    .params = params,
    .open = copy_open,
    TWIN_EXTENSION,
};
