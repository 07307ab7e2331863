/* SPDX-License-Identifier: MIT */
/*
 * symmetry.c - who sends far more than he is answered is slowed down: packet symmetry, thesis 4.3; Kreibich,
 * Warfield, Crowcroft, Hand and Pratt, Using Packet Symmetry to Curtail Malicious Traffic, HotNets 2005.
 *
 * Theory of operation: S = ln((tx + 1) / (rx + 1)) of the packets sent and received in the last second is
 * kept for each flow, each pair of hosts, and the card. Packets are counted when they are sent, so the eighth that
 * has no answer is the first for which S is above 2.0. From then on the n-th packet waits 2^n ms, until S is
 * at or below the threshold again (wait.c). A packet has to satisfy all three at once.
 *
 * Packets are those on the wire: a super-frame is its segments, and an acknowledgement of TCP is as many packets
 * as the segments that it acknowledges (flows.c), since receivers behind GRO send one for dozens.
 *
 * What is known of flows and pairs is bounded, and the oldest is forgotten first (table.c). A scan makes many of
 * them, but each of its packets counts for the pair and for the card, too.
 *
 * All queues of a card are seen by one thread: flows spread over several queues have one count.
 */
#include "net/symmetry/internal.h"

#include <math.h>
#include <sys/random.h>

#define FLOWS_LEAST  8192u /* more than can wait, so there is always one to forget */
#define FLOWS_A_PAIR 20u

static const char *const excesses[] = {[EXCESS_DROP] = "drop", [EXCESS_HOLD] = "hold", NULL};

static const struct dt_param params[] = {
    {.name = "threshold",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct symmetry, threshold_text),
     .initial = "2.0",
     .unit = "number",
     .help = "Largest ln((sent+1)/(received+1)) of a second without a delay; 0.7 to 10."},
    {.name = "max-delay",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct symmetry, max_delay),
     .initial = "2048ms",
     .min = DT_MS(1),
     .max = DT_S(4),
     .help =
         "Longest delay between one packet and the next; none waits for more than four seconds in "
         "all."},
    {.name = "excess",
     .type = DT_PARAM_ENUM,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct symmetry, excess),
     .initial = "drop",
     .choices = excesses,
     .help = "Packets of a flow that has a quarter of the ring waiting already: drop them, or hold "
             "the ring."},
    {.name = "exempt",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct symmetry, exempt_text),
     .initial = "",
     .unit = "addresses",
     .help =
         "Other hosts, IPv4 and IPv6 prefixes separated by commas, to which anything may be sent."},
    {.name = "flows",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct symmetry, flows_max),
     .initial = "1M",
     .min = FLOWS_LEAST,
     .max = 16000000,
     .unit = "flows",
     .help =
         "Flows that are remembered, 80 bytes each as they come; the oldest is forgotten first."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [DELAYED] = {"delayed", "packets", "Packets that had to wait."},
    [DELAYED_NS] = {"delayed-ns", "ns", "Time that they waited, of all together."},
    [EXCESS] = {"excess", "packets",
                "Dropped because their flow or pair had its share of the ring waiting already."},
    [AT_REST] = {"at-rest", "packets", "Dropped while they waited because the chain came to rest."},
    [LATE] = {"late", "packets", "Dropped because they had waited for four seconds."},
    [EXEMPT] = {"exempt", "packets", "Packets to exempt hosts."},
    [LIMITED + FLOW] = {"limited-flows", "times", "How often a flow began to be limited."},
    [LIMITED + PAIR] = {"limited-pairs", "times", "How often a pair of hosts did."},
    [LIMITED + CARD] = {"limited-card", "times", "How often the card did."},
    [FLOWS_FORGOTTEN] = {"flows-forgotten", "flows", "The oldest flows, for want of memory."},
    [PAIRS_FORGOTTEN] = {"pairs-forgotten", "pairs", "The oldest pairs, for want of memory."},
    {NULL},
};

/* ---- Packets ---- */

static void transmit_batch(struct symmetry *s, struct dt_packet **packets, unsigned n)
{
    struct dt_packet *pass[SYM_BATCH];
    struct run runs[SYM_BATCH];
    unsigned nruns = sym_runs(s, packets, n, DT_TX, runs), npass = 0;

    for (const struct run *run = runs; run < runs + nruns; packets += run++->n) {
        const struct train *t = sym_whose(s, run, packets[0], DT_TX);

        if (unlikely(t->exempt)) {
            dt_count(s->c, EXEMPT, run->n);
            memcpy(pass + npass, packets, run->n * sizeof(*packets));
            npass += run->n;
        } else {
            npass += sym_send(s, packets, run->n, &t->levels, pass + npass);
        }
    }
    dt_transmit(s->c, pass, npass);
}

static void transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct symmetry *s = c->layer_data;

    sym_time(s);
    for (unsigned i = 0; i < n; i += SYM_BATCH)
        transmit_batch(s, packets + i, MIN(n - i, SYM_BATCH));
}

static void receive_batch(struct symmetry *s, struct dt_packet **packets, unsigned n)
{
    struct run runs[SYM_BATCH];
    unsigned nruns = sym_runs(s, packets, n, DT_RX, runs);

    for (const struct run *run = runs; run < runs + nruns; packets += run++->n) {
        const struct train *t = sym_whose(s, run, packets[0], DT_RX);
        struct flow *flow = (struct flow *)t->levels.e[FLOW];

        if (unlikely(t->exempt))
            continue;
        sym_count(s, &t->levels, false, sym_received(flow, packets, run->n));
        if (unlikely(s->card.wait))
            sym_unblock(s, &t->levels);
    }
}

static void receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct symmetry *s = c->layer_data;

    sym_time(s);
    s->kick = false;
    for (unsigned i = 0; i < n; i += SYM_BATCH)
        receive_batch(s, packets + i, MIN(n - i, SYM_BATCH));
    if (unlikely(s->kick))
        dt_timer_set(c, &s->timer, s->now);
    dt_receive(c, packets, n);
}

static unsigned admit(struct dt_ctx *c, unsigned want)
{
    const struct symmetry *s = c->layer_data;

    return s->excess == EXCESS_HOLD && s->full ? 0 : want;
}

static void fire(struct dt_timer *timer)
{
    struct symmetry *s = container_of(timer, struct symmetry, timer);

    sym_time(s);
    sym_release(s);
}

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct symmetry *s = c->layer_data;

    sym_time(s);
    sym_drop_all(s);
}

/* ---- Life ---- */

static int apply(struct dt_layer *layer, struct dt_error *err)
{
    struct symmetry *s = dt_layer_data(layer);
    char *end;
    double threshold = strtod(s->threshold_text, &end);
    struct prefixes v4, v6;
    int ret;

    if (end == s->threshold_text || *end || !(threshold >= 0.7 && threshold <= 10))
        return dt_fail(err, -EINVAL, "threshold '%.40s' is no number from 0.7 to 10",
                       s->threshold_text);
    ret = prefixes_parse(s->exempt_text, &v4, &v6, err);
    if (ret < 0)
        return ret;
    s->exempt4 = v4;
    s->exempt6 = v6;
    s->ratio = (uint64_t)(exp(threshold) * 65536);
    /* What was found out by others. */
    memset(s->trains, 0, sizeof(s->trains));
    s->card.slack = 0;
    s->changed = s->tick;
    return 0;
}

static int set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct symmetry *s = dt_layer_data(layer);
    int ret = apply(layer, err);

    if (ret == 0 && s->c)
        dt_timer_set(s->c, &s->timer, dt_clock_ns()); /* the ring may be held */
    return ret;
}

static void close_layer(struct dt_layer *layer)
{
    struct symmetry *s = dt_layer_data(layer);

    sym_waits_fini(s);
    table_fini(&s->flows);
    table_fini(&s->pairs);
}

static int open_layer(struct dt_layer *layer, struct dt_error *err)
{
    struct symmetry *s = dt_layer_data(layer);
    uint32_t flows = (uint32_t)s->flows_max;
    int ret = apply(layer, err);

    s->layer = layer;
    if (ret < 0)
        return ret;
    if (getrandom(&s->seed, sizeof(s->seed), 0) != sizeof(s->seed))
        return dt_fail(err, -EIO, "no random numbers: %s", strerror(errno));
    ret = table_init(&s->flows, flows, sizeof(struct flow));
    ret =
        ret ?: table_init(&s->pairs, MAX(flows / FLOWS_A_PAIR, FLOWS_LEAST), sizeof(struct entity));
    ret = ret ?: sym_waits_init(s);
    if (ret < 0) {
        close_layer(layer);
        return dt_fail(err, ret, "no memory for %u flows", flows);
    }
    return 0;
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    struct symmetry *s = c->layer_data;

    s->c = c;
    s->timer.fire = fire;
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct symmetry *s = c->layer_data;

    dt_timer_cancel(c, &s->timer);
    s->c = NULL;
}

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    struct symmetry *s = dt_layer_data(layer);
    uint32_t tx, rx;

    sym_time(s);
    tx = window_sum(s->card.window.tx);
    rx = window_sum(s->card.window.rx);
    dt_reply(reply, "symmetry", "%.2f", log((tx + 1.0) / (rx + 1.0)));
    dt_reply_u64(reply, "sent", tx);
    dt_reply_u64(reply, "received", rx);
    dt_reply_u64(reply, "waiting", s->card.wait ? s->waits[s->card.wait].packets : 0);
    dt_reply_u64(reply, "flows", s->flows.count);
    dt_reply_u64(reply, "pairs", s->pairs.count);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "The card's symmetry in the last second, and what is remembered and waits.",
     run_status},
    {NULL},
};

const struct dt_net_ext net_symmetry = {
    DT_NET_EXT_HEADER,
    .name = "symmetry",
    .summary = "Delay what is sent without being answered: floods and scans end here, transfers "
               "are untouched",
    .help =
        "Of each flow, pair of hosts and card, packets sent and received in the last second are "
        "compared. Where far more is sent than answered, packets wait ever longer in the guest's "
        "own ring, "
        "until answers come. TCP and all that listens to its peer passes; a flood is left a few "
        "packets per second.",
    .flags = DT_SELF_CONTAINED | DT_STATE_OF_RUN,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct symmetry),
    .state_version = 1,
    .open = open_layer,
    .close = close_layer,
    .start = start,
    .stop = stop,
    .transmit = transmit,
    .receive = receive,
    .admit = admit,
    .quiesce = quiesce,
    .set = set,
    .save = sym_save,
    .load = sym_load,
};
