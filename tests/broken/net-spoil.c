/* SPDX-License-Identifier: MIT */
/* net-spoil.c - broken on purpose: changes packets, and neither their checksum nor what core knows of their headers */
#include <devtap/net.h>

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    p->data[p->length - 1] ^= 1;
    return DT_ACCEPT;
}

static const struct dt_net_ext spoil = {
    DT_NET_EXT_HEADER,
    .name = "net-spoil",
    .summary = "Broken: changes packets, and not their checksum",
    .tx = tx,
};
DT_NET_EXTENSION(spoil)
