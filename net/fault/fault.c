/* SPDX-License-Identifier: MIT */
/*
 * fault.c - a bad line: loss, duplicates, damage, delay, jitter and other order, by a seed.
 *
 * Theory of operation: faults befall frames as they are on a wire. So the layer takes no offloads: super-frames
 * were cut and checksums completed before, each segment has a fate of its own, and damage is what the
 * receiver's checksum finds, not what a later completion would cover.
 *
 * The fate of a frame is drawn when it comes. Those that are late wait in a list, first in, first out, since jitter
 * makes gaps and not another order; what is to overtake them does not enter it. The draws depend on the seed and on
 * the number of frames before, and on nothing else.
 */
#include "base/base.h"
#include "base/fifo.h"
#include <devtap/net.h>

#define HELD_MAX 1500u /* of each direction: the pool of packets has more than twice as many */

struct fault {
    double loss, duplicate, corrupt, reorder;
    uint64_t delay, jitter, seed;
    unsigned direction;
};

FIFO(packet_fifo, dt_packet)

struct line {
    struct dt_ctx *c;
    enum dt_direction way;
    struct packet_fifo late;
    unsigned held;
    uint64_t last_due;
    struct dt_timer timer;
    struct dt_rng rng;
};

struct fault_ctx {
    struct line lines[2];
};

enum { BOTH, TX, RX };
static const char *const directions[] = {"both", "tx", "rx", NULL};

#define FIELD(t, field) .type = t, .flags = DT_PARAM_LIVE, .offset = offsetof(struct fault, field)
static const struct dt_param params[] = {
    {.name = "loss",
     FIELD(DT_PARAM_FRACTION, loss),
     .initial = "0",
     .help = "How many frames are lost."},
    {.name = "duplicate",
     FIELD(DT_PARAM_FRACTION, duplicate),
     .initial = "0",
     .help = "How many arrive twice."},
    {.name = "corrupt",
     FIELD(DT_PARAM_FRACTION, corrupt),
     .initial = "0",
     .help = "How many have one bit, anywhere, that is wrong."},
    {.name = "delay",
     FIELD(DT_PARAM_DURATION, delay),
     .initial = "0s",
     .max = DT_S(60),
     .help = "How much later frames arrive."},
    {.name = "jitter",
     FIELD(DT_PARAM_DURATION, jitter),
     .initial = "0s",
     .max = DT_S(60),
     .help = "How much the delay varies, up and down; the order stays."},
    {.name = "reorder",
     FIELD(DT_PARAM_FRACTION, reorder),
     .initial = "0",
     .help = "How many overtake those that are delayed; nothing without a delay."},
    {.name = "direction",
     FIELD(DT_PARAM_ENUM, direction),
     .initial = "both",
     .choices = directions,
     .help = "Which frames: those that the guest sends, those that it receives, or both."},
    {.name = "seed",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct fault, seed),
     .initial = "1",
     .help = "The same seed and the same frames have the same fate."},
    {NULL},
};

enum { LOST, DUPLICATED, CORRUPTED, DELAYED, OVERTOOK, OVERFLOWED };
static const struct dt_counter counters[] = {
    [LOST] = {"lost", "packets", "Frames that were lost."},
    [DUPLICATED] = {"duplicated", "packets", "Frames that were sent twice."},
    [CORRUPTED] = {"corrupted", "packets", "Frames that were damaged."},
    [DELAYED] = {"delayed", "packets", "Frames that were delayed."},
    [OVERTOOK] = {"overtook", "packets", "Frames that overtook delayed ones."},
    [OVERFLOWED] = {"overflowed", "packets", "Frames lost because too many were delayed already."},
    {NULL},
};

static void hand_on(struct line *line, struct dt_packet *p)
{
    if (line->way == DT_TX)
        dt_transmit_one(line->c, p);
    else
        dt_receive_one(line->c, p);
}

/* ---- Late frames ---- */

/* Those that are due by @now. */
static void release(struct line *line, uint64_t now)
{
    struct dt_packet *p;

    while ((p = line->late.head) != NULL && p->when <= now) {
        packet_fifo_take(&line->late);
        line->held--;
        hand_on(line, p);
    }
    if (line->late.head)
        dt_timer_set(line->c, &line->timer, line->late.head->when);
}

static void fire(struct dt_timer *timer)
{
    struct line *line = container_of(timer, struct line, timer);

    release(line, dt_now(line->c));
}

static void delay(struct line *line, const struct fault *f, struct dt_packet *p)
{
    uint64_t due = dt_now(line->c) + f->delay;

    if (f->jitter) {
        due += dt_rng_below(&line->rng, 2 * f->jitter + 1);
        due -= MIN(f->jitter, f->delay);
    }
    if (line->held == HELD_MAX) {
        dt_drop_one(line->c, p, OVERFLOWED);
        return;
    }
    line->last_due = p->when = MAX(due, line->last_due);
    packet_fifo_add(&line->late, p);
    if (line->held++ == 0)
        dt_timer_set(line->c, &line->timer, p->when);
    dt_count(line->c, DELAYED, 1);
}

/* ---- Fates ---- */

static void corrupt(struct line *line, struct dt_packet *p)
{
    uint64_t bit = dt_rng_below(&line->rng, (uint64_t)p->length * 8);

    p->data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    p->flags &= (uint8_t)~DT_PACKET_CSUM_VALID;
    dt_packet_changed(p);
    dt_count(line->c, CORRUPTED, 1);
}

static void send(struct line *line, const struct fault *f, struct dt_packet *p)
{
    bool late = f->delay || f->jitter || line->late.head;

    if (dt_rng_chance(&line->rng, f->corrupt))
        corrupt(line, p);
    if (late && dt_rng_chance(&line->rng, f->reorder)) {
        dt_count(line->c, OVERTOOK, 1);
        late = false;
    }
    if (late)
        delay(line, f, p);
    else
        hand_on(line, p);
}

/* Neither direction is spared what is late in it: the order stays when the parameters change. */
static bool spared(const struct fault *f, const struct line *line)
{
    return f->direction == (line->way == DT_TX ? RX : TX) && !line->late.head;
}

static void travel(struct line *line, struct dt_packet *p)
{
    const struct fault *f = line->c->layer_data;
    struct dt_packet *twin = NULL;

    if (dt_rng_chance(&line->rng, f->loss)) {
        dt_drop_one(line->c, p, LOST);
        return;
    }
    if (dt_rng_chance(&line->rng, f->duplicate))
        twin = dt_packet_copy(line->c, p);
    send(line, f, p);
    if (twin) {
        dt_count(line->c, DUPLICATED, 1);
        send(line, f, twin);
    }
}

static void transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct line *line = &((struct fault_ctx *)c->data)->lines[DT_TX];

    if (spared(c->layer_data, line)) {
        dt_transmit(c, packets, n);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        travel(line, packets[i]);
}

static void receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct line *line = &((struct fault_ctx *)c->data)->lines[DT_RX];

    if (spared(c->layer_data, line)) {
        dt_receive(c, packets, n);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        travel(line, packets[i]);
}

/* ---- Life ---- */

static void quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct fault_ctx *fc = c->data;

    for (unsigned way = DT_TX; way <= DT_RX; way++) {
        release(&fc->lines[way], UINT64_MAX);
        fc->lines[way].last_due = 0;
    }
}

static int start(struct dt_ctx *c, struct dt_error *err)
{
    const struct fault *f = c->layer_data;
    struct fault_ctx *fc = c->data;

    for (unsigned way = DT_TX; way <= DT_RX; way++) {
        struct line *line = &fc->lines[way];

        *line = (struct line){.c = c, .way = way, .timer.fire = fire};
        packet_fifo_init(&line->late);
        dt_rng_seed(&line->rng, f->seed + 2 * c->thread + way);
    }
    return 0;
}

static void stop(struct dt_ctx *c)
{
    struct fault_ctx *fc = c->data;

    for (unsigned way = DT_TX; way <= DT_RX; way++)
        dt_timer_cancel(c, &fc->lines[way].timer);
}

const struct dt_net_ext net_fault = {
    DT_NET_EXT_HEADER,
    .name = "fault",
    .summary = "A bad line: loss, duplicates, damage, delay, jitter and other order, by a seed",
    .help = "Faults befall frames as they are on a wire: super-frames are cut before, and each "
            "segment has a "
            "fate of its own. The same seed and the same frames have the same fate.",
    .flags = DT_PER_QUEUE | DT_SELF_CONTAINED,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct fault),
    .ctx_size = sizeof(struct fault_ctx),
    .start = start,
    .stop = stop,
    .transmit = transmit,
    .receive = receive,
    .quiesce = quiesce,
};
