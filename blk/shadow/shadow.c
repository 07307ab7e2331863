/* SPDX-License-Identifier: MIT */
/* shadow.c - a second chain gets the same requests, and its answers are compared; see blk/twin. */
#include "blk/twin/twin.h"

static const char *const contents[] = {[TWIN_COPY] = "copy", [TWIN_EQUAL] = "equal", NULL};

static const struct dt_param params[] = {
    TWIN_PARAM_TO("The second chain, in quotes: to='cache path=/ssd/c | file path=/b/disk.img'."),
    {.name = "content",
     .type = DT_PARAM_ENUM,
     TWIN_FIELD(content),
     .initial = "equal",
     .choices = contents,
     .help = "equal: it holds what the disk does; copy: make it so, in the background."},
    {.name = "sync",
     .type = DT_PARAM_BOOL,
     .flags = DT_PARAM_LIVE,
     TWIN_FIELD(sync),
     .initial = "off",
     .help = "Answer writes when both chains have them, so that the shadow can be promoted."},
    TWIN_PARAM_RATE("16M", "Copy what the shadow lacks no faster than this; 0 = no limit."),
    TWIN_PARAM_BUFFER("Memory for requests on their way to the shadow; it misses more."),
    TWIN_PARAM_TIMEOUT(
        "With sync=on a write waits no longer for the shadow, which is left behind then."),
    {NULL},
};

const struct dt_block_ext blk_shadow = {
    DT_BLOCK_EXT_HEADER,
    .name = "shadow",
    .summary = "Give a second chain the same requests, and compare what it answers",
    .help = "The guest has the disk's answers alone, and does not wait for the shadow: what that "
            "cannot follow it misses, and gets it later. `devtap shadow` puts it in, promotes or "
            "drops it.",
    .read_data = DT_DATA_STABLE,
    .params = params,
    .open = twin_open,
    TWIN_EXTENSION,
};
