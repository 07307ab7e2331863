/* SPDX-License-Identifier: MIT */
/* params.h - what `cvd` and `cvd-local` say alike of a disk of a pool. @at: where the layer has it.
 */
#ifndef BLK_CVD_PARAMS_H
#define BLK_CVD_PARAMS_H

#include <devtap/block.h>

#define CVD_PARAM_NAME(at)                                                                 \
    {                                                                                      \
        .name = "name", .type = DT_PARAM_STRING, .flags = DT_PARAM_REQUIRED, .offset = at, \
        .help = "DISK, or DISK@SNAPSHOT to look at a snapshot."                            \
    }
#define CVD_PARAM_READ_ONLY(at)                                                     \
    {                                                                               \
        .name = "read-only", .type = DT_PARAM_BOOL, .offset = at, .initial = "off", \
        .help = "Refuse writes; a snapshot needs this."                             \
    }
#define CVD_VERB_SNAPSHOT(run)                                                   \
    {                                                                            \
        "snapshot", "[NAME]", "Take a snapshot; durable when this returns.", run \
    }
#define CVD_VERB_RESIZE(run)                                              \
    {                                                                     \
        "resize", "SIZE", "Make the disk larger; the guest sees it.", run \
    }

#endif
