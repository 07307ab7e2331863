/* SPDX-License-Identifier: MIT */
/* copy.c - the disk is copied to another chain while it is served; see blk/twin. */
#include "blk/twin/twin.h"

#define FIELD(field) .offset = offsetof(struct twin, field)
static const struct dt_param params[] = {
    {.name = "to",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED,
     FIELD(to),
     .help = "The chain that gets the copy, in quotes: to='file path=/b/disk.img'."},
    {.name = "rate",
     .type = DT_PARAM_SIZE,
     .flags = DT_PARAM_LIVE,
     FIELD(rate),
     .initial = "0",
     .unit = "bytes/s",
     .help = "Copy no faster than this; 0 = as fast as the two chains are."},
    {.name = "buffer",
     .type = DT_PARAM_SIZE,
     FIELD(buffer_bytes),
     .initial = "8M",
     .min = 2 << 20,
     .max = 1 << 30,
     .help = "Memory for writes on their way to the copy; more wait."},
    {.name = "timeout",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     FIELD(timeout),
     .initial = "5s",
     .min = DT_MS(1),
     .max = DT_S(3600),
     .help = "A write waits no longer for the copy, which is left behind then."},
    {NULL},
};

static int copy_open(struct dt_layer *layer, struct dt_error *err)
{
    struct twin *t = dt_layer_data(layer);

    t->sync = true;
    t->content = TWIN_COPY;
    return twin_open(layer, err);
}

const struct dt_block_ext blk_copy = {
    DT_BLOCK_EXT_HEADER,
    .name = "copy",
    .summary = "Copy the disk to another chain while it is served",
    .help = "What is below is copied region by region; writes to what has been copied go to both. "
            "`devtap move-back` puts it in, and the other chain in its place.",
    .flags = DT_STATE_OF_RUN,
    .write_data = DT_DATA_STABLE,
    .params = params,
    .counters = twin_counters,
    .verbs = twin_verbs,
    .layer_size = sizeof(struct twin),
    .frame_size = sizeof(struct twin_frame),
    .sub_requests = TWIN_COPIERS,
    .state_version = 1,
    .open = copy_open,
    .close = twin_close,
    .start = twin_start,
    .stop = twin_stop,
    .info = twin_info,
    .submit = twin_submit,
    .complete = twin_complete,
    .admit = twin_admit,
    .quiesce = twin_quiesce,
    .cancel = twin_cancel,
    .set = twin_set,
    .save = twin_save,
    .load = twin_load,
    .fence = twin_fence,
};
