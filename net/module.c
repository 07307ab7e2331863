/* SPDX-License-Identifier: MIT */
/* module.c - the entry of a module of ours: net_filter in filter.so, for one. See net/meson.build. */
#include <devtap/net.h>

extern const struct dt_net_ext MODULE;
DT_NET_EXTENSION(MODULE)
