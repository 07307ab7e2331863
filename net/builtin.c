/* SPDX-License-Identifier: MIT */
/* builtin.c - the table of what is built in for network cards, as `devtap extensions` lists it. */
#include "core/core.h"
#include "net/net.h"

/* One line each, extensions first: `extern` and the entry of the table come from it. */
#define BUILTIN(X)   \
    X(net_announce)  \
    X(net_antispoof) \
    X(net_fault)     \
    X(net_limits)    \
    X(net_nat)       \
    X(net_queue)     \
    X(net_rate)      \
    X(net_symmetry)  \
    X(net_tap)       \
    X(net_route)     \
    X(net_stream)    \
    X(net_dgram)     \
    X(net_rear)      \
    X(net_pair)      \
    X(net_null)

#define DECLARE(ext) extern const struct dt_net_ext ext;
BUILTIN(DECLARE)

#define ENTRY(ext) &ext,
static const struct dt_net_ext *const builtin[] = {BUILTIN(ENTRY) NULL};

void net_register_builtin(void)
{
    static bool done;
    struct dt_error err;

    if (done)
        return;
    done = true;
    for (unsigned i = 0; builtin[i]; i++)
        if (registry_add_net(builtin[i], &err) < 0) {
            log_error("built-in extension refused: %s", err.text);
            CHECK(!"a built-in extension contradicts itself");
        }
}
