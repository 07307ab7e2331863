/* SPDX-License-Identifier: MIT */
/*
 * filter.c - which packets pass, by an expression as tcpdump takes it.
 *
 * Packets are judged whole, as the guest or the wire gave them: a super-frame once, with its own headers and
 * length, before its segments are made; what an expression says of checksums that are not made yet is not so
 * on the wire. Nothing else of offloads is visible to an expression.
 */
#include "net/bpf/bpf.h"

struct filter {
    const char *match;
    unsigned action, direction;
    struct bpf bpf;
};

enum { DENY, ALLOW };
static const char *const actions[] = {[DENY] = "deny", [ALLOW] = "allow", NULL};
enum { BOTH, TX, RX };
static const char *const directions[] = {"both", "tx", "rx", NULL};

#define FIELD(t, field) .type = t, .offset = offsetof(struct filter, field)
static const struct dt_param params[] = {
    {.name = "match",
     FIELD(DT_PARAM_STRING, match),
     .flags = DT_PARAM_REQUIRED | DT_PARAM_LIVE,
     .unit = "expression",
     .help = "Which packets it is about, as in pcap-filter(7)."},
    {.name = "action",
     FIELD(DT_PARAM_ENUM, action),
     .flags = DT_PARAM_LIVE,
     .initial = "deny",
     .choices = actions,
     .help = "deny: drop these; allow: drop all others."},
    {.name = "direction",
     FIELD(DT_PARAM_ENUM, direction),
     .flags = DT_PARAM_LIVE,
     .initial = "both",
     .choices = directions,
     .help = "Judge what the guest sends, what it receives, or both."},
    {NULL},
};

enum { DENIED_TX, DENIED_RX, NOT_ALLOWED_TX, NOT_ALLOWED_RX };
static const struct dt_counter counters[] = {
    [DENIED_TX] = {"denied-tx", "packets", "Dropped on their way to the wire because they match."},
    [DENIED_RX] = {"denied-rx", "packets", "Dropped on their way to the guest because they match."},
    [NOT_ALLOWED_TX] = {"not-allowed-tx", "packets",
                        "Dropped on their way to the wire because they do not match."},
    [NOT_ALLOWED_RX] = {"not-allowed-rx", "packets",
                        "Dropped on their way to the guest because they do not match."},
    {NULL},
};

static enum dt_net_verdict judge(struct dt_ctx *c, struct dt_packet *p, enum dt_direction way)
{
    const struct filter *f = c->layer_data;

    if (f->direction == (way == DT_TX ? RX : TX) || bpf_matches(&f->bpf, p) == (f->action == ALLOW))
        return DT_ACCEPT;
    return dt_drop_as(p, (f->action == ALLOW ? NOT_ALLOWED_TX : DENIED_TX) + way);
}

static enum dt_net_verdict tx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_TX);
}

static enum dt_net_verdict rx(struct dt_ctx *c, struct dt_packet *p)
{
    return judge(c, p, DT_RX);
}

static int compile(struct dt_layer *layer, struct dt_error *err)
{
    struct filter *f = dt_layer_data(layer);

    return bpf_compile(&f->bpf, f->match, err);
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    return compile(layer, err);
}

static void close_layer(struct dt_layer *layer)
{
    struct filter *f = dt_layer_data(layer);

    bpf_free(&f->bpf);
}

extern const struct dt_net_ext net_filter;
const struct dt_net_ext net_filter = {
    DT_NET_EXT_HEADER,
    .name = "filter",
    .summary =
        "Which packets pass, by an expression as tcpdump takes it, changeable while the VM runs",
    .help = "Drops packets that match an expression of pcap-filter(7), or all that do not. Several "
            "filters in a "
            "chain are judged one after the other. Packets are judged before super-frames are cut.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct filter),
    .open = compile,
    .close = close_layer,
    .set = set,
    .tx = tx,
    .rx = rx,
};
