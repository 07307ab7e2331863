/* SPDX-License-Identifier: MIT */
/* builtin.c - the table of what is built in, in the order in which `devtap extensions` lists it. */
#include "blk/blk.h"
#include "core/core.h"

/* One line each, extensions first: `extern` and the entry of the table come from it. */
#define BUILTIN(X)   \
    X(blk_trace)     \
    X(blk_cache)     \
    X(blk_throttle)  \
    X(blk_delay)     \
    X(blk_error)     \
    X(blk_readonly)  \
    X(blk_cow)       \
    X(blk_integrity) \
    X(blk_zero)      \
    X(blk_copy)      \
    X(blk_shadow)    \
    X(blk_file)      \
    X(blk_cvd)       \
    X(blk_cvd_local) \
    X(blk_rear)      \
    X(blk_mem)       \
    X(blk_mirror)    \
    X(blk_null)

#define DECLARE(ext) extern const struct dt_block_ext ext;
BUILTIN(DECLARE)

#define ENTRY(ext) &ext,
const struct dt_block_ext *const blk_builtin[] = {BUILTIN(ENTRY) NULL};

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
