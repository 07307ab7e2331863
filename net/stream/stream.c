/* SPDX-License-Identifier: MIT */
/* stream.c - the back `stream`: frames over a stream socket, as QEMU's socket netdevs have them. See stream.h. */
#include "net/stream/stream.h"

#define FIELD(field) .offset = offsetof(struct stream, field)
static const struct dt_param params[] = {
    {"address", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(address),
     .help = "unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT: where the peer listens, or we do."},
    {"listen", DT_PARAM_BOOL, FIELD(listen), .initial = "off",
     .help = "Wait there for the peer to connect."},
    {"vnet", DT_PARAM_BOOL, FIELD(vnet), .initial = "off",
     .help = "Have offloads survive: each frame has a virtio header before it, at both ends."},
    {"mtu", DT_PARAM_UINT, FIELD(mtu), .initial = "1500", .unit = "bytes", .min = 68, .max = 65535,
     .help = "Largest network packet."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [TX_DOWN] = {"tx-down", "packets", "Dropped because there was no peer."},
    [TX_FULL] = {"tx-full", "packets", "Dropped because the peer took nothing for a second."},
    [RX_SHORT] = {"rx-short", "packets", "Dropped because they were no whole frame."},
    [RX_HEADER] = {"rx-header", "packets",
                   "Dropped because what their virtio header says contradicts them."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    [CONNECTS] = {"connects", "connections", "Connections that came up."},
    {NULL},
};

static int stream_open(struct dt_layer *layer, struct dt_error *err)
{
    struct stream *s = dt_layer_data(layer);
    int ret;

    s->listener = -1;
    if (!s->vnet)
        dt_layer_takes(layer, 0);
    if (strncmp(s->address, "unix-dgram:", 11) == 0)
        return dt_fail(err, -EINVAL, "'%.200s' is for datagrams: the back dgram has them",
                       s->address);
    if (strncmp(s->address, "fd:", 3) == 0)
        ret = s->listen
                  ? 0
                  : dt_fail(err, -EINVAL, "address=fd:N is a socket that listens: say listen=on");
    else
        ret = dt_layer_may_connect(layer, s->address, err); /* which judges it, too */
    if (ret < 0 || !s->listen)
        return ret;
    s->link = DT_LINK_DOWN;
    s->listener = wire_bind(s->address, err);
    return MIN(s->listener, 0);
}

static void stream_close(struct dt_layer *layer)
{
    const struct stream *s = dt_layer_data(layer);

    if (s->listener >= 0)
        close(s->listener);
}

static int stream_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct stream *s = dt_layer_data(layer);

    info->mtu = (uint16_t)s->mtu;
    info->link = s->link;
    return 0;
}

static void ended(struct port_in *in, int error)
{
    wire_lost(container_of(in, struct stream_ctx, in), error);
}

static int stream_start(struct dt_ctx *c, struct dt_error *err)
{
    struct stream_ctx *sc = c->data;

    sc->c = c;
    sc->in = (struct port_in){.read = wire_read, .ended = ended, .c = c, .memory = RX_MEMORY};
    sc->out = (struct port_out){.write = wire_write, .c = c, .full = TX_FULL};
    wire_begin(sc);
    return 0;
}

static void stream_stop(struct dt_ctx *c)
{
    wire_end(c->data);
}

static void stream_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct stream_ctx *sc = c->data;

    if (sc->up)
        port_out_send(&sc->out, packets, n);
    else
        dt_drop(c, packets, n, TX_DOWN);
}

static void stream_resume(struct dt_ctx *c)
{
    struct stream_ctx *sc = c->data;

    port_in_resume(&sc->in);
}

static void stream_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct stream_ctx *sc = c->data;

    if (sc->out.open)
        port_out_let_go(&sc->out);
}

const struct dt_net_ext net_stream = {
    DT_NET_EXT_HEADER,
    .name = "stream",
    .summary = "Frames over a TCP or Unix socket, as QEMU's stream and socket netdevs have them",
    .help = "The peer may be a QEMU with '-netdev stream' (or the older '-netdev socket'), another "
            "devtap, or whatever sends frames with their length before them. It may come and go: "
            "without it, packets are dropped.",
    .flags = DT_BACK,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct stream),
    .ctx_size = sizeof(struct stream_ctx),
    .open = stream_open,
    .close = stream_close,
    .start = stream_start,
    .stop = stream_stop,
    .info = stream_info,
    .transmit = stream_transmit,
    .resume = stream_resume,
    .quiesce = stream_quiesce,
};
