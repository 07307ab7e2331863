/* SPDX-License-Identifier: MIT */
/* builtin.c - the table of what is built in, in the order in which `devtap extensions` lists it. */
#include "blk/blk.h"
#include "core/core.h"

extern const struct dt_block_ext blk_trace, blk_throttle, blk_delay, blk_error, blk_readonly;
extern const struct dt_block_ext blk_file, blk_mem, blk_null;

const struct dt_block_ext *const blk_builtin[] = {
    &blk_trace, &blk_throttle, &blk_delay, &blk_error, &blk_readonly,
    &blk_file,  &blk_mem,      &blk_null,  NULL,
};

void blk_register_builtin(void)
{
    static bool done;
    struct dt_error err;

    if (done)
        return;
    done = true;
    for (unsigned i = 0; blk_builtin[i]; i++)
        if (registry_add(blk_builtin[i], &err) < 0) {
            log_error("built-in extension refused: %s", err.text);
            CHECK(!"a built-in extension contradicts itself");
        }
}
