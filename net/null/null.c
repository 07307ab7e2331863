/* SPDX-License-Identifier: MIT */
/* null.c - a wire that leads nowhere: what the guest sends is gone, and nothing ever comes. */
#include <devtap/net.h>

struct null {
    uint64_t mtu;
};

static const struct dt_param params[] = {
    {.name = "mtu",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct null, mtu),
     .initial = "1500",
     .unit = "bytes",
     .min = 68,
     .max = 65535,
     .help = "Largest network packet."},
    {NULL},
};

static int null_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct null *n = dt_layer_data(layer);

    info->mtu = (uint16_t)n->mtu;
    return 0;
}

const struct dt_net_ext net_null = {
    DT_NET_EXT_HEADER,
    .name = "null",
    .summary = "A wire that leads nowhere: for measuring what lies above",
    .flags = DT_BACK | DT_PER_QUEUE | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .layer_size = sizeof(struct null),
    .info = null_info,
    .transmit = dt_sent,
};
