/* SPDX-License-Identifier: MIT */
/* queue.c - the extension `queue`: packets that wait for a program's verdict. See queue.h. */
#include "net/queue/queue.h"

#define GRACE_MAX DT_MS(100) /* that a program has for its last verdicts before a rest */

static const char *const directions[] = {
    [QUEUE_BOTH] = "both", [QUEUE_TX] = "tx", [QUEUE_RX] = "rx", NULL};
static const char *const fates[] = {
    [ON_DEATH_HOLD] = "hold", [ON_DEATH_ACCEPT] = "accept", [ON_DEATH_DROP] = "drop", NULL};

#define FIELD(field) .offset = offsetof(struct queue, field)
static const struct dt_param params[] = {
    {"socket", DT_PARAM_PATH, DT_PARAM_REQUIRED, FIELD(path),
     .help = "Unix socket where the program connects."},
    {"direction", DT_PARAM_ENUM, DT_PARAM_LIVE, FIELD(direction), .initial = "both",
     .choices = directions, .help = "Which packets it judges; the others pass."},
    {"snap", DT_PARAM_UINT, FIELD(snap), .initial = "0", .unit = "bytes", .max = CHANNEL_FRAME_MAX,
     .help = "How much of each packet it gets; 0 = all."},
    {"length", DT_PARAM_UINT, FIELD(length), .initial = "256", .unit = "packets", .min = 1,
     .max = 1024, .help = "How many packets of each direction may wait for it."},
    {"on-death", DT_PARAM_ENUM, DT_PARAM_LIVE, FIELD(on_death), .initial = "hold", .choices = fates,
     .help = "Without a program: hold packets until there is one, accept them, or drop them."},
    {"timeout", DT_PARAM_DURATION, DT_PARAM_LIVE, FIELD(timeout), .initial = "4s",
     .max = DT_S(3600),
     .help = "A packet waits so long for its verdict, and is then accepted (with "
             "on-death=accept) or dropped; 0 = for ever."},
    {"super", DT_PARAM_BOOL, FIELD(super), .initial = "off",
     .help = "Hand on super-frames and partial checksums as they are."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [SENT] = {"sent", "packets", "Packets that a program was given."},
    [DENIED] = {"denied", "packets", "Packets dropped by its verdict."},
    [CHANGED] = {"changed", "packets", "Packets that it changed."},
    [UNFIT] = {"unfit", "packets",
               "Dropped because it changed them into what contradicts what is left to do on them."},
    [NO_MEMORY] = {"no-memory", "packets",
                   "Dropped because it made them longer, and all memory for packets was in use."},
    [RX_FULL] = {"rx-full", "packets", "Packets to the guest for which the queue was full."},
    [TIMEOUTS] = {"timeouts", "packets", "Packets whose verdict did not come in time."},
    [UNJUDGED] = {"unjudged", "packets", "Packets accepted without a verdict."},
    [LOST] = {"lost", "packets", "Packets dropped without a verdict."},
    [AT_REST] = {"at-rest", "packets",
                 "Packets dropped while they waited because the chain came to rest."},
    [PROGRAMS] = {"programs", "programs", "Programs that connected."},
    {NULL},
};

/* ---- Without a verdict ---- */

static void hand_on(struct queue_ctx *qc, struct dt_packet *p, enum dt_direction way)
{
    p->flags &= (uint8_t)~DT_PACKET_MARK;
    if (way == DT_TX)
        dt_transmit_one(qc->c, p);
    else
        dt_receive_one(qc->c, p);
}

/* There will be no verdict on it. */
static void end_unjudged(struct queue_ctx *qc, struct dt_packet *p, enum dt_direction way,
                         enum queue_counter dropped)
{
    if (queue_of(qc)->on_death == ON_DEATH_ACCEPT) {
        dt_count(qc->c, UNJUDGED, 1);
        hand_on(qc, p, way);
    } else {
        dt_drop_one(qc->c, p, dropped);
    }
}

/* ---- The backlog ---- */

static void wait_for_program(struct queue_ctx *qc, struct dt_packet *p, enum dt_direction way)
{
    if (way == DT_RX && qc->nbacklog[way] >= queue_of(qc)->length) {
        dt_drop_one(qc->c, p, RX_FULL);
        return;
    }
    packet_fifo_add(&qc->backlog[way], p);
    qc->nbacklog[way]++;
}

static struct dt_packet *take_waiting(struct queue_ctx *qc, enum dt_direction way)
{
    struct dt_packet *p = packet_fifo_take(&qc->backlog[way]);

    qc->nbacklog[way] -= p != NULL;
    return p;
}

static void empty_backlog(struct queue_ctx *qc, enum queue_counter dropped)
{
    for (enum dt_direction way = DT_TX; way <= DT_RX; way++) {
        struct dt_packet *p;

        while ((p = take_waiting(qc, way)) != NULL)
            end_unjudged(qc, p, way, dropped);
    }
}

/* ---- Sending ---- */

static bool send(struct queue_ctx *qc, struct dt_packet *p, enum dt_direction way)
{
    if (qc->link.out[way] >= queue_of(qc)->length ||
        !packets_send(&qc->link, p, way, dt_now(qc->c)))
        return false;
    dt_count(qc->c, SENT, 1);
    return true;
}

static void arm_expiry(struct queue_ctx *qc)
{
    uint64_t timeout = queue_of(qc)->timeout, oldest = packets_oldest(&qc->link);

    if (timeout && oldest != UINT64_MAX && !qc->expiry.heap_index)
        dt_timer_set(qc->c, &qc->expiry, oldest + timeout);
}

static void send_backlog(struct queue_ctx *qc)
{
    for (enum dt_direction way = DT_TX; way <= DT_RX; way++)
        while (qc->state == PROGRAM_LIVE && qc->backlog[way].head &&
               send(qc, qc->backlog[way].head, way))
            take_waiting(qc, way);
    if (qc->state == PROGRAM_LIVE)
        packets_publish(&qc->link);
    arm_expiry(qc);
}

static bool judged(const struct queue *q, enum dt_direction way)
{
    return q->direction == QUEUE_BOTH || (q->direction == QUEUE_TX) == (way == DT_TX);
}

/* The chain is being brought to rest, and the program had its time. */
static bool resting(const struct queue_ctx *qc)
{
    return ctx_resting(qc->c) && (qc->state != PROGRAM_LIVE || !qc->grace.heap_index);
}

static void take(struct dt_ctx *c, enum dt_direction way, struct dt_packet **packets, unsigned n)
{
    struct queue_ctx *qc = c->data;
    const struct queue *q = c->layer_data;
    bool live = qc->state == PROGRAM_LIVE, rests = unlikely(resting(qc));

    for (unsigned i = 0; i < n; i++) {
        struct dt_packet *p = packets[i];

        if (unlikely(rests))
            end_unjudged(qc, p, way, AT_REST);
        else if (!live && q->on_death != ON_DEATH_HOLD)
            end_unjudged(qc, p, way, LOST);
        else if (!live || qc->backlog[way].head || !send(qc, p, way))
            wait_for_program(qc, p, way);
    }
    if (!live)
        return;
    loop_defer(ctx_loop(c), &qc->flush);
    arm_expiry(qc);
}

static void queue_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    if (judged(c->layer_data, DT_TX))
        take(c, DT_TX, packets, n);
    else
        dt_transmit(c, packets, n);
}

static void queue_receive(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    if (judged(c->layer_data, DT_RX))
        take(c, DT_RX, packets, n);
    else
        dt_receive(c, packets, n);
}

static void run_flush(struct loop_deferred *deferred)
{
    struct queue_ctx *qc = container_of(deferred, struct queue_ctx, flush);

    if (qc->state == PROGRAM_LIVE)
        packets_publish(&qc->link);
}

/* Packets that cannot be with the program at once are best left in the guest's ring. */
static unsigned queue_admit(struct dt_ctx *c, unsigned want)
{
    struct queue_ctx *qc = c->data;
    const struct queue *q = c->layer_data;
    uint64_t there = qc->link.out[DT_TX] + qc->nbacklog[DT_TX], room;

    if (!judged(q, DT_TX))
        return want;
    if (qc->state != PROGRAM_LIVE)
        room = q->on_death == ON_DEATH_HOLD ? 0 : UINT64_MAX;
    else
        room = there < q->length ? q->length - there : 0;
    qc->stopped = room == 0;
    return (unsigned)MIN(room, (uint64_t)want);
}

static void wake(struct queue_ctx *qc)
{
    if (qc->stopped)
        dt_wake(qc->c);
}

/* ---- With the program, and after it ---- */

void queue_begin(struct queue_ctx *qc)
{
    send_backlog(qc);
    wake(qc);
}

static void on_drop(struct packet_link *l, struct dt_packet *p, enum packet_end why)
{
    static const enum queue_counter counter[] = {
        [PACKET_DENIED] = DENIED, [PACKET_UNFIT] = UNFIT, [PACKET_MEMORY] = NO_MEMORY};

    dt_drop_one(l->c, p, counter[why]);
}

void queue_heard(struct queue_ctx *qc)
{
    dt_count(qc->c, CHANGED, qc->link.changed - qc->changed);
    qc->changed = qc->link.changed;
    if (qc->backlog[DT_TX].head || qc->backlog[DT_RX].head)
        send_backlog(qc);
    wake(qc);
}

/* Held packets go before those that waited, in their order; one that was with another dead program goes nowhere. */
unsigned queue_orphans(struct queue_ctx *qc)
{
    struct packet_fifo held[2];
    struct dt_packet *p;
    enum dt_direction way;
    unsigned n = 0;

    packet_fifo_init(&held[DT_TX]);
    packet_fifo_init(&held[DT_RX]);
    for (; (p = packets_reclaim(&qc->link, &way)) != NULL; n++) {
        if (queue_of(qc)->on_death != ON_DEATH_HOLD || p->flags & DT_PACKET_MARK || resting(qc)) {
            end_unjudged(qc, p, way, LOST);
            continue;
        }
        p->flags |= DT_PACKET_MARK;
        packet_fifo_add(&held[way], p);
        qc->nbacklog[way]++;
    }
    for (way = DT_TX; way <= DT_RX; way++) {
        packet_fifo_move(&held[way], &qc->backlog[way]);
        packet_fifo_move(&qc->backlog[way], &held[way]);
    }
    dt_timer_cancel(qc->c, &qc->expiry);
    if (queue_of(qc)->on_death != ON_DEATH_HOLD) {
        empty_backlog(qc, LOST);
        wake(qc);
    }
    return n;
}

static void run_expiry(struct dt_timer *timer)
{
    struct queue_ctx *qc = container_of(timer, struct queue_ctx, expiry);
    uint64_t timeout = queue_of(qc)->timeout, now = dt_now(qc->c);
    struct dt_packet *p;
    enum dt_direction way;

    while (timeout && packets_oldest(&qc->link) <= now - MIN(timeout, now) &&
           (p = packets_reclaim(&qc->link, &way)) != NULL) {
        dt_count(qc->c, TIMEOUTS, 1);
        end_unjudged(qc, p, way, LOST);
    }
    if (qc->state == PROGRAM_LIVE && qc->link.late >= queue_of(qc)->length)
        program_lost(qc, "it hangs: a whole queue of packets had no verdict in time");
    else
        arm_expiry(qc);
}

/* ---- Rest ---- */

static void let_go(struct queue_ctx *qc)
{
    struct dt_packet *p;
    enum dt_direction way;

    while ((p = packets_reclaim(&qc->link, &way)) != NULL)
        end_unjudged(qc, p, way, AT_REST);
    empty_backlog(qc, AT_REST);
}

static void run_grace(struct dt_timer *timer)
{
    struct queue_ctx *qc = container_of(timer, struct queue_ctx, grace);

    if (resting(qc)) /* else the rest is over already */
        let_go(qc);
}

/* A program that is quick needs not lose what it has. */
static void queue_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct queue_ctx *qc = c->data;
    uint64_t now = dt_clock_ns();

    if (qc->state != PROGRAM_LIVE || deadline <= now)
        let_go(qc);
    else
        dt_timer_set(c, &qc->grace, now + MIN((deadline - now) / 2, GRACE_MAX));
}

/* ---- Life ---- */

static int queue_open(struct dt_layer *layer, struct dt_error *err)
{
    struct queue *q = dt_layer_data(layer);

    if (!q->super)
        dt_layer_takes(layer, 0);
    q->listener = program_bind(q->path, err);
    return MIN(q->listener, 0);
}

static void queue_close(struct dt_layer *layer)
{
    const struct queue *q = dt_layer_data(layer);

    close(q->listener);
}

static int queue_start(struct dt_ctx *c, struct dt_error *err)
{
    struct queue_ctx *qc = c->data;

    qc->c = c;
    qc->link = (struct packet_link){.c = c, .drop = on_drop};
    packet_fifo_init(&qc->backlog[DT_TX]);
    packet_fifo_init(&qc->backlog[DT_RX]);
    qc->flush.run = run_flush;
    qc->expiry.fire = run_expiry;
    qc->grace.fire = run_grace;
    program_start(qc);
    return 0;
}

static void queue_stop(struct dt_ctx *c)
{
    struct queue_ctx *qc = c->data;

    program_stop(qc);
    dt_timer_cancel(c, &qc->expiry);
    dt_timer_cancel(c, &qc->grace);
}

/* What waits for a program waits no longer where the new fate is another. */
static int queue_set(struct dt_layer *layer, unsigned index, struct dt_error *err)
{
    struct dt_ctx *c = dt_layer_ctx(layer, 0);
    struct queue_ctx *qc = c ? c->data : NULL;
    const struct queue *q = dt_layer_data(layer);

    if (!qc || !qc->c)
        return 0;
    if (qc->state != PROGRAM_LIVE && q->on_death != ON_DEATH_HOLD)
        empty_backlog(qc, LOST);
    dt_timer_cancel(c, &qc->expiry);
    arm_expiry(qc);
    dt_wake(c);
    return 0;
}

static int run_status(struct dt_layer *layer, int argc, const char *const *argv,
                      struct dt_reply *reply, struct dt_error *err)
{
    static const char *const states[] = {"none", "connecting", "attached"};
    const struct queue_ctx *qc = dt_layer_ctx(layer, 0)->data;

    dt_reply(reply, "program", "%s", states[qc->state]);
    if (qc->state != PROGRAM_NONE && qc->pid > 0)
        dt_reply_u64(reply, "pid", (uint64_t)qc->pid);
    dt_reply_u64(reply, "waiting-tx", qc->link.out[DT_TX] + qc->nbacklog[DT_TX]);
    dt_reply_u64(reply, "waiting-rx", qc->link.out[DT_RX] + qc->nbacklog[DT_RX]);
    dt_reply_u64(reply, "late", qc->link.late);
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", NULL, "The program, and how many packets wait.", run_status}, {NULL}};

const struct dt_net_ext net_queue = {
    DT_NET_EXT_HEADER,
    .name = "queue",
    .summary = "A program of your own, in any language, decides on each packet",
    .help =
        "As the kernel's netfilter queue: a program connects to a socket, is given packets, and "
        "answers with a verdict on each: accept, drop, or accept it changed. C programs use "
        "<devtap/queue.h>, Python programs devtap.PacketQueue. What the guest sends waits in its "
        "own ring when the program is slow.",
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct queue),
    .ctx_size = sizeof(struct queue_ctx),
    .open = queue_open,
    .close = queue_close,
    .start = queue_start,
    .stop = queue_stop,
    .transmit = queue_transmit,
    .receive = queue_receive,
    .admit = queue_admit,
    .quiesce = queue_quiesce,
    .set = queue_set,
};
