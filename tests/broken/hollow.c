/* SPDX-License-Identifier: MIT */
/* hollow.c - broken on purpose: a shared object without DT_BLOCK_EXTENSION. */
#include <devtap/block.h>

DT_PUBLIC int hollow(void);
DT_PUBLIC int hollow(void)
{
    return DT_ABI;
}
