/* SPDX-License-Identifier: MIT */
/* blk.h - the extensions and backs that are built in. */
#ifndef BLK_H
#define BLK_H

#include <devtap/block.h>

/** blk_builtin - all of them; ends with NULL. */
extern const struct dt_block_ext *const blk_builtin[];

/** blk_crypt and others in modules; programs find them through the registry. */
extern const struct dt_block_ext blk_compress, blk_crypt, blk_nbd;

/** blk_register_builtin() - make them known to the registry. Further calls do nothing. */
void blk_register_builtin(void);

#endif
