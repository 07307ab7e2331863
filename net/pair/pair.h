/* SPDX-License-Identifier: MIT */
/* pair.h - the back `pair`, for whoever places cards on threads. */
#ifndef NET_PAIR_PAIR_H
#define NET_PAIR_PAIR_H

#include "core/core.h"

/** pair_name() - of the pair that a card with this chain is an end of, the spec's; NULL = it is none. */
const char *pair_name(const struct chain_spec *spec);

#endif
