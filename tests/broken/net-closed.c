/* SPDX-License-Identifier: MIT */
/* net-closed.c - broken on purpose: refuses the state of a process that did not end in order */
#include <devtap/net.h>

#include <errno.h>

struct closed {
    uint8_t closed;
};

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    struct closed *state = c->layer_data;

    state->closed = 0;
    dt_layer_state_changed(c->layer);
    return DT_ACCEPT;
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct closed *state = c->layer_data;

    state->closed = 1;
}

static int64_t save(struct dt_layer *layer, void *buf, size_t size)
{
    if (size < 1)
        return -ENOSPC;
    *(uint8_t *)buf = ((struct closed *)dt_layer_data(layer))->closed;
    return 1;
}

static int load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    if (size == 1 && *(const uint8_t *)buf == 1)
        return 0;
    return dt_fail(err, -EINVAL, "it was not closed");
}

static const struct dt_net_ext closed = {
    DT_NET_EXT_HEADER,
    .name = "net-closed",
    .summary = "Broken: refuses the state of a process that was killed",
    .takes = DT_OFFLOAD_ALL,
    .layer_size = sizeof(struct closed),
    .state_version = 1,
    .tx = tx,
    .quiesce = quiesce,
    .save = save,
    .load = load,
};
DT_NET_EXTENSION(closed)
