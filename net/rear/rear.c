/* SPDX-License-Identifier: MIT */
/* rear.c - the back `vhost-user` of a network card: its description, and its life. See internal.h. */
#include "net/rear/internal.h"

#include "core/net.h"

static const struct dt_param params[] = {
    {.name = "path",
     .type = DT_PARAM_PATH,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct card_rear, rear.path),
     .help = "Socket of a vhost-user-net back end that listens; or ours, with listen=on."},
    {.name = "mtu",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct card_rear, wanted_mtu),
     .unit = "bytes",
     .min = 68,
     .max = 65535,
     .help = "Largest network packet; default: what the back end says, or 1500. It is told of it, "
             "where it can be."},
    REAR_PARAM_QUEUE_SIZE(64),
    REAR_PARAM_PACKED,
    REAR_PARAMS_LISTEN,
    {.name = "offloads",
     .type = DT_PARAM_BOOL,
     .offset = offsetof(struct card_rear, offloads),
     .initial = "off",
     .help = "With listen=on: who connects will take and give checksums and TSO, and the guest is "
             "offered them."},
    REAR_PARAM_TIMEOUT("Longest wait for an answer on its control socket; then it counts as gone."),
    {NULL},
};

static const struct dt_counter counters[] = {
    REAR_COUNTERS,
    [TX_LOST] = {"tx-lost", "packets",
                 "Lost because the back end had not said yet that it took them when it went away."},
    [TX_FULL] = {"tx-full", "packets",
                 "Dropped because the back end was gone, or took nothing for a second."},
    [RX_SHORT] = {"rx-short", "packets", "Dropped because they were no whole frame."},
    [RX_HEADER] = {"rx-header", "packets",
                   "Dropped because what their virtio header says contradicts them."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    {NULL},
};

static const struct dt_verb verbs[] = {REAR_VERB_MODE, {NULL}};

/* ---- Its class ------------------------------------------------------------------------------- */

static const char *while_lost(const struct rear *rear)
{
    return "packets wait for a second, and are dropped then until it is back";
}

static bool loss_accepted(const struct rear *rear)
{
    return true;
}

static const struct rear_class class = {
    .features = CARD_FEATURES,
    .protocol = CARD_PROTOCOL,
    .optional = CARD_OPTIONAL,
    .telling = CARD_TELLING,
    .shows_loss = true,
    .queue_rings = 2,
    .part_size = sizeof(struct card_rings),
    .part_bytes = card_rings_bytes,
    .part_init = card_rings_init,
    .part_fini = card_rings_fini,
    .agreed = card_rear_agreed,
    .obey = card_rear_obey,
    .while_lost = while_lost,
    .loss_accepted = loss_accepted,
    .promised = card_rear_promised,
};

/* ---- Life ------------------------------------------------------------------------------------ */

static int card_open(struct dt_layer *layer, struct dt_error *err)
{
    struct card_rear *cr = dt_layer_data(layer);
    int ret;

    if (cr->offloads && !cr->rear.listen)
        return dt_fail(err, -EINVAL, "offloads=on is for listen=on: else the back end is asked");
    if (cr->rear.listen)
        card_rear_promise(cr);
    ret = rear_open(layer, &class, err);
    if (ret == 0)
        dt_layer_takes(layer, cr->takes);
    return ret;
}

/* What the guest may leave to the card the rear has to take, too, when it has the guest's rings. */
static int card_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    struct card_rear *cr = dt_layer_data(layer);
    const struct card_told told = card_rear_told(cr);

    info->mtu = cr->mtu;
    info->offloads &= cr->takes;
    info->link = told.link;
    memcpy(info->mac, told.mac, sizeof(info->mac));
    return 0;
}

static int card_start(struct dt_ctx *c, struct dt_error *err)
{
    struct card_ctx *cc = c->data;
    int ret;

    card_ctx_init(cc, c);
    /* Whatever the rear said when the layer was opened. The control thread, who uses it, comes later. */
    if (c->thread == 0)
        cc->rear->mtu = net_promised_mtu(c->layer);
    port_out_open(&cc->out, -1);
    port_out_block(&cc->out);
    ret = rear_lane_start(&cc->lane, c, err);
    if (ret < 0)
        port_out_close(&cc->out);
    return ret;
}

static void card_stop(struct dt_ctx *c)
{
    struct card_ctx *cc = c->data;

    rear_lane_stop(&cc->lane);
    port_out_close(&cc->out);
}

static void card_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct card_ctx *cc = c->data;

    port_out_send(&cc->out, packets, n);
}

static void card_resume(struct dt_ctx *c)
{
    struct card_ctx *cc = c->data;

    if (cc->rings && !cc->broken)
        loop_poller_wake(ctx_loop(c), &cc->poller);
}

static void card_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct card_ctx *cc = c->data;

    port_out_let_go(&cc->out);
}

const struct dt_net_ext net_rear = {
    DT_NET_EXT_HEADER,
    .name = "vhost-user",
    .summary = "Another vhost-user-net back end: the tap between a VMM and it",
    .help = "Connects to a back end such as DPDK's, Open vSwitch's or another devtap, as a VMM "
            "would. It gets "
            "copies of packets and nothing of the guest's memory, unless 'devtap mode' gives it "
            "the guest's "
            "own rings. It may go and come back.",
    .flags = DT_BACK | DT_PER_QUEUE,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct card_rear),
    .ctx_size = sizeof(struct card_ctx),
    .state_version = 1,
    .open = card_open,
    .close = rear_close,
    .start = card_start,
    .stop = card_stop,
    .info = card_info,
    .transmit = card_transmit,
    .resume = card_resume,
    .quiesce = card_quiesce,
    .save = rear_save,
    .load = rear_load,
};
