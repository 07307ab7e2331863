/* SPDX-License-Identifier: MIT */
/* stale.c - broken on purpose: built for an ABI that this program does not have. */
#include <devtap/block.h>

static const struct dt_block_ext stale = {
    .abi = DT_ABI + 1,
    .size = sizeof(struct dt_block_ext),
    .name = "stale",
    .summary = "Broken: built for another ABI",
};
DT_BLOCK_EXTENSION(stale)
