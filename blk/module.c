/* SPDX-License-Identifier: MIT */
/* module.c - the entry of a module of ours: blk_crypt in crypt.so, for one. See blk/meson.build. */
#include "blk/blk.h"

DT_BLOCK_EXTENSION(MODULE)
