/* SPDX-License-Identifier: MIT */
/* net-keep.c - broken on purpose: never lets go of some packets */
#include <devtap/net.h>

static unsigned count;

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    return ++count % 50 == 0 ? DT_HOLD : DT_ACCEPT;
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
}

static const struct dt_net_ext keep = {
    DT_NET_EXT_HEADER,       .name = "net-keep", .summary = "Broken: never lets go of some packets",
    .takes = DT_OFFLOAD_ALL, .tx = tx,           .quiesce = quiesce,
};
DT_NET_EXTENSION(keep)
