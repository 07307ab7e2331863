/* SPDX-License-Identifier: MIT */
/*
 * rate.c - limits on packets and bits per second, in each direction.
 *
 * Theory of operation: toward the wire the limit stands before the rings. admit() tells core how many
 * packets may be taken; the others stay in the guest's memory, so the VM bears the queue, and a stop
 * never waits for it. From the wire nobody waits for us: what comes too early is kept in a queue
 * of limited length, in order, and dropped beyond that.
 *
 * What a packet costs in bits is known once it is there: the frames that it will be on the wire, each with its
 * headers. A bucket goes into debt by it and lets nothing through until that is paid, so the average is
 * exact whatever the packets' sizes.
 *
 * A guest's driver has to see its ring go on: in Linux within five seconds. Where a super-frame could be a debt of more than two
 * (slow limits) the guest is offered none. It may have been offered them before, by the same layer with another limit or by another
 * worker; then core cuts them before they come here, and of their segments those before which the debt is longer already end here: the
 * guest's TCP then sends less at once. So does, at such limits, whatever else comes then: what a layer before this one releases by itself,
 * or what another thread, or card of the group, was faster than.
 *
 * At limits up to 32 times that, a few super-frames together would be such a debt. There each packet is taken for one before it is there,
 * whatever those before it were: no more are let in than the bucket bears.
 *
 * All threads of a card share the buckets, and so may the cards of a group, in other processes, too (group.c). A bucket is one word
 * (base/meter.h), which a batch changes once; so nobody leases tokens from it, and nobody who dies has any.
 */
#include "net/rate/rate.h"

/* A shorter wait would cost more in timers than it gains: tokens accumulate meanwhile. */
#define LEAST_PAUSE DT_US(20)
/* A super-frame, in bits and in segments; those of the least size that core lets pass are as many. */
#define LARGEST     (65536u * 8)
#define MOST_FRAMES 1366u
/* Below these it is a longer debt than this. */
#define MOST_DEBT           DT_S(2)
#define LEAST_SUPER         (LARGEST / 2)
#define LEAST_SUPER_PACKETS (MOST_FRAMES / 2)
/* The same of as many as a front takes at once. */
#define AT_ONCE            32u
#define LEAST_MANY         (AT_ONCE * LEAST_SUPER)
#define LEAST_MANY_PACKETS (AT_ONCE * LEAST_SUPER_PACKETS)
/* A packet's bits at least, for who has to know before it is there. */
#define LEAST_TYPICAL 512u

#define PACKETS(way) ((way) == DT_TX ? TX_PACKETS : RX_PACKETS)
#define BITS(way)    ((way) == DT_TX ? TX_BITS : RX_BITS)

struct rate {
    uint64_t rates[LIMITS];
    uint64_t burst, overhead, queue;
    const char *group;
    bool limited[2], slow;
    /* For which a packet to the wire is taken before it is there. */
    uint64_t least_bits, least_packets;
    struct meter meters[LIMITS];
    struct rate_words own, *words; /* those of the group, or its own */
};

struct rate_ctx {
    struct dt_ctx *c;
    struct dt_timer tx_timer, rx_timer;
    uint64_t stopped_at; /* 0 = intake is open */
    uint64_t typical;    /* bits of a packet to the wire, averaged */
    struct dt_pending late;
};

#define RATE(limit)                                                                               \
    .type = DT_PARAM_UINT, .flags = DT_PARAM_LIVE, .offset = offsetof(struct rate, rates[limit]), \
    .initial = "0"
static const struct dt_param params[] = {
    {.name = "tx-bits",
     RATE(TX_BITS),
     .unit = "bits/s",
     .help = "Most bits per second from the guest; 0 = no limit."},
    {.name = "rx-bits",
     RATE(RX_BITS),
     .unit = "bits/s",
     .help = "Most bits per second to the guest; 0 = no limit."},
    {.name = "tx-packets",
     RATE(TX_PACKETS),
     .unit = "packets/s",
     .help = "Most packets per second from the guest; 0 = no limit."},
    {.name = "rx-packets",
     RATE(RX_PACKETS),
     .unit = "packets/s",
     .help = "Most packets per second to the guest; 0 = no limit."},
    {.name = "burst",
     .type = DT_PARAM_DURATION,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct rate, burst),
     .initial = "10ms",
     .max = DT_S(3600),
     .help = "What was not used in this time may be caught up with at once."},
    {.name = "overhead",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct rate, overhead),
     .initial = "0",
     .max = 1000,
     .unit = "bytes",
     .help = "Counted with each frame; 24 is what Ethernet adds on the wire."},
    {.name = "queue",
     .type = DT_PARAM_UINT,
     .flags = DT_PARAM_LIVE,
     .offset = offsetof(struct rate, queue),
     .initial = "200",
     .max = 2000,
     .unit = "packets",
     .help = "Packets to the guest that wait for the limit; what is beyond is dropped."},
    {.name = "group",
     .type = DT_PARAM_PATH,
     .offset = offsetof(struct rate, group),
     .help = "A file that is made if it is not there: all cards that name it share its limits."},
    {NULL},
};

enum { TX_STOPS, TX_STOPPED_NS, TX_DROPPED, RX_DELAYED, RX_DROPPED };
static const struct dt_counter counters[] = {
    [TX_STOPS] = {"tx-stops", "times", "How often the limit closed the intake."},
    [TX_STOPPED_NS] = {"tx-stopped-ns", "ns", "Time during which the intake was closed."},
    [TX_DROPPED] = {"tx-dropped", "packets",
                    "Packets before which a slow limit's bucket owed more than two seconds."},
    [RX_DELAYED] = {"rx-delayed", "packets", "Packets to the guest that waited for the limit."},
    [RX_DROPPED] = {"rx-dropped", "packets", "Packets to the guest for which the queue was full."},
    {NULL},
};

/** struct cost - what packets are on the wire. */
struct cost {
    uint64_t frames, bits;
};

static struct cost cost_of(const struct rate *r, struct dt_packet **packets, unsigned n)
{
    uint64_t frames = n, bytes = 0;

    for (unsigned i = 0; i < n; i++) {
        struct dt_packet *p = packets[i];

        if (likely(!(p->needs & DT_OFFLOAD_SUPER))) {
            bytes += p->length;
        } else {
            frames += dt_packet_segments(p) - 1;
            bytes += dt_packet_wire_bytes(p);
        }
    }
    return (struct cost){frames, (bytes + r->overhead * frames) * 8};
}

/* 0 = something may pass now; else when to ask again. */
static uint64_t wait_until(const struct rate *r, enum dt_direction way, uint64_t now)
{
    return MAX(meter_when(&r->meters[PACKETS(way)], now), meter_when(&r->meters[BITS(way)], now));
}

static void charge(const struct rate *r, enum dt_direction way, struct cost cost, uint64_t now)
{
    meter_take(&r->meters[PACKETS(way)], cost.frames, now);
    meter_take(&r->meters[BITS(way)], cost.bits, now);
}

/* ---- To the wire ---- */

static uint64_t likely_bits(const struct rate_ctx *rc)
{
    const struct rate *r = rc->c->layer_data;

    return MAX(rc->typical, r->least_bits);
}

/* So many that no bucket goes into debt by more than about one packet. */
static unsigned grant(const struct rate_ctx *rc, unsigned want, uint64_t now)
{
    const struct rate *r = rc->c->layer_data;
    uint64_t packets = meter_tokens(&r->meters[TX_PACKETS], now) / r->least_packets;
    uint64_t bits = meter_tokens(&r->meters[TX_BITS], now) / likely_bits(rc);

    return (unsigned)MIN((uint64_t)want, MIN(MAX(packets, 1u), MAX(bits, 1u)));
}

static unsigned rate_admit(struct dt_ctx *c, unsigned want)
{
    const struct rate *r = c->layer_data;
    struct rate_ctx *rc = c->data;
    uint64_t now, when;

    if (!r->limited[DT_TX] && !rc->stopped_at)
        return want;
    now = dt_now(c);
    if (likely(!rc->stopped_at && meter_has(&r->meters[TX_PACKETS], want * r->least_packets, now) &&
               meter_has(&r->meters[TX_BITS], want * likely_bits(rc), now)))
        return want;
    when = wait_until(r, DT_TX, now);
    want = when ? 0 : grant(rc, want, now);
    if (when) {
        if (!rc->stopped_at) {
            rc->stopped_at = now;
            dt_count(c, TX_STOPS, 1);
        }
        if (!rc->tx_timer.heap_index)
            dt_timer_set(c, &rc->tx_timer, MAX(when, now + LEAST_PAUSE));
    } else if (rc->stopped_at) {
        dt_count(c, TX_STOPPED_NS, now - rc->stopped_at);
        rc->stopped_at = 0;
    }
    return want;
}

static void fire_tx(struct dt_timer *timer)
{
    dt_wake(container_of(timer, struct rate_ctx, tx_timer)->c);
}

static void charge_sent(struct rate_ctx *rc, struct dt_packet **packets, unsigned n)
{
    const struct rate *r = rc->c->layer_data;
    struct cost cost = cost_of(r, packets, n);

    charge(r, DT_TX, cost, dt_now(rc->c));
    rc->typical = MAX((rc->typical * 7 + cost.bits / n) / 8, LEAST_TYPICAL);
}

/* Each by itself: what a limit that is slow cannot bear ends here, whatever it is. */
static void transmit_slowly(struct rate_ctx *rc, struct dt_packet **packets, unsigned n)
{
    struct dt_ctx *c = rc->c;
    uint64_t now = dt_now(c);

    for (unsigned i = 0; i < n; i++) {
        if (wait_until(c->layer_data, DT_TX, now) > now + MOST_DEBT) {
            dt_drop_one(c, packets[i], TX_DROPPED);
            continue;
        }
        charge_sent(rc, &packets[i], 1);
        dt_transmit_one(c, packets[i]);
    }
}

static void rate_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    const struct rate *r = c->layer_data;

    if (unlikely(r->slow)) {
        transmit_slowly(c->data, packets, n);
        return;
    }
    if (r->limited[DT_TX])
        charge_sent(c->data, packets, n);
    dt_transmit(c, packets, n);
}

/* ---- From the wire ---- */

/* May this one pass now? Then it is charged. */
static bool pass(const struct rate *r, struct dt_packet *p, uint64_t now, uint64_t *when)
{
    *when = wait_until(r, DT_RX, now);
    if (*when)
        return false;
    charge(r, DT_RX, cost_of(r, &p, 1), now);
    return true;
}

/* May all of them? Mostly: then they are charged together. */
static bool pass_all(const struct rate *r, struct dt_packet **packets, unsigned n, uint64_t now)
{
    struct cost cost = cost_of(r, packets, n);

    if (!meter_has(&r->meters[RX_PACKETS], cost.frames, now) ||
        !meter_has(&r->meters[RX_BITS], cost.bits, now))
        return false;
    charge(r, DT_RX, cost, now);
    return true;
}

static void release(struct rate_ctx *rc, bool all)
{
    struct dt_ctx *c = rc->c;
    const struct rate *r = c->layer_data;
    uint64_t now = dt_now(c), when = 0;
    struct dt_packet *batch[32];
    unsigned n;

    do {
        for (n = 0; n < ARRAY_SIZE(batch) && rc->late.count; n++) {
            struct dt_packet *p = dt_pending_peek(&rc->late, NULL);

            if (all)
                charge(r, DT_RX, cost_of(r, &p, 1), now);
            else if (r->limited[DT_RX] && !pass(r, p, now, &when))
                break;
            batch[n] = dt_pending_take(&rc->late, NULL);
        }
        dt_receive(c, batch, n);
    } while (n == ARRAY_SIZE(batch));
    if (rc->late.count)
        dt_timer_set(c, &rc->rx_timer, MAX(when, now + LEAST_PAUSE));
}

static void fire_rx(struct dt_timer *timer)
{
    release(container_of(timer, struct rate_ctx, rx_timer), false);
}

static void keep(struct rate_ctx *rc, struct dt_packet *p)
{
    const struct rate *r = rc->c->layer_data;

    if (dt_pending_add(&rc->late, p, r->queue))
        dt_count(rc->c, RX_DELAYED, 1);
    else
        dt_drop_one(rc->c, p, RX_DROPPED);
}

static void rate_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    const struct rate *r = c->layer_data;
    struct rate_ctx *rc = c->data;
    uint64_t now = dt_now(c), when = 0;
    unsigned passed = 0;

    if (!r->limited[DT_RX] && !rc->late.count) {
        dt_receive(c, packets, n);
        return;
    }
    if (!rc->late.count && pass_all(r, packets, n, now))
        passed = n;
    while (!rc->late.count && passed < n && pass(r, packets[passed], now, &when))
        passed++;
    dt_receive(c, packets, passed);
    for (unsigned i = passed; i < n; i++)
        keep(rc, packets[i]);
    if (rc->late.count && !rc->rx_timer.heap_index)
        dt_timer_set(c, &rc->rx_timer, MAX(when, now + LEAST_PAUSE));
}

static void rate_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    release(c->data, true);
}

/* ---- Life ---- */

static bool is_below(uint64_t rate, uint64_t least)
{
    return rate && rate < least;
}

static void apply(struct dt_layer *layer)
{
    struct rate *r = dt_layer_data(layer);
    uint64_t now = dt_clock_ns();

    for (unsigned i = 0; i < LIMITS; i++)
        meter_set(&r->meters[i], r->rates[i], r->burst,
                  i == TX_BITS || i == RX_BITS ? LARGEST : MOST_FRAMES, now);
    r->limited[DT_TX] = r->rates[TX_PACKETS] || r->rates[TX_BITS];
    r->limited[DT_RX] = r->rates[RX_PACKETS] || r->rates[RX_BITS];
    r->slow = is_below(r->rates[TX_BITS], LEAST_SUPER) ||
              is_below(r->rates[TX_PACKETS], LEAST_SUPER_PACKETS);
    r->least_bits = is_below(r->rates[TX_BITS], LEAST_MANY) ? LARGEST : 0;
    r->least_packets = is_below(r->rates[TX_PACKETS], LEAST_MANY_PACKETS) ? MOST_FRAMES : 1;
    dt_layer_takes_now(layer, DT_TX, r->slow ? ~(uint32_t)DT_OFFLOAD_SUPER : ~0u);
}

static int rate_open(struct dt_layer *layer, struct dt_error *err)
{
    struct rate *r = dt_layer_data(layer);

    r->words = &r->own;
    if (r->group && *r->group) {
        int ret = rate_group_open(r->group, &r->words, err);

        if (ret < 0)
            return ret;
    }
    for (unsigned i = 0; i < LIMITS; i++)
        meter_init(&r->meters[i], &r->words->limit[i]);
    apply(layer);
    return 0;
}

static void rate_close(struct dt_layer *layer)
{
    const struct rate *r = dt_layer_data(layer);

    if (r->words && r->words != &r->own)
        rate_group_close(r->words);
}

/* No thread is inside the layer now; whoever waits for what the old limit allowed looks again. */
static int rate_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    apply(layer);
    for (unsigned i = 0; i < dt_layer_threads(layer); i++) {
        struct dt_ctx *c = dt_layer_ctx(layer, i);
        struct rate_ctx *rc = c ? c->data : NULL;

        if (rc && rc->stopped_at)
            dt_timer_set(c, &rc->tx_timer, dt_clock_ns());
        if (rc && rc->late.count)
            dt_timer_set(c, &rc->rx_timer, dt_clock_ns());
    }
    return 0;
}

static int rate_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct rate *r = dt_layer_data(layer);

    if (r->slow)
        info->offloads &= ~(uint32_t)DT_OFFLOAD_SUPER;
    return 0;
}

static int rate_start(struct dt_ctx *c, struct dt_error *err)
{
    struct rate_ctx *rc = c->data;

    rc->c = c;
    rc->typical = LARGEST;
    dt_pending_init(&rc->late);
    rc->tx_timer.fire = fire_tx;
    rc->rx_timer.fire = fire_rx;
    return 0;
}

static void rate_stop(struct dt_ctx *c)
{
    struct rate_ctx *rc = c->data;

    dt_timer_cancel(c, &rc->tx_timer);
    dt_timer_cancel(c, &rc->rx_timer);
}

const struct dt_net_ext net_rate = {
    DT_NET_EXT_HEADER,
    .name = "rate",
    .summary = "Limit packets and bits per second in each direction, exactly, changeable while the "
               "VM runs",
    .help =
        "What the guest sends beyond a limit stays in its own rings. What comes for it waits in a "
        "queue, and is dropped beyond that. Super-frames cost what their segments do on the wire. "
        "What a packet cost beyond what was left is paid before the next one passes, so the "
        "average is exact whatever the sizes.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct rate),
    .ctx_size = sizeof(struct rate_ctx),
    .open = rate_open,
    .close = rate_close,
    .start = rate_start,
    .stop = rate_stop,
    .info = rate_info,
    .transmit = rate_transmit,
    .receive = rate_receive,
    .admit = rate_admit,
    .quiesce = rate_quiesce,
    .set = rate_set,
};
