/* SPDX-License-Identifier: MIT */
/*
 * pair.c - a cable between two cards of the same process: what one sends, the other receives.
 *
 * Theory of operation: both ends are on one thread (open() refuses others), so there is no lock and no ring between them. What is
 * transmitted waits in the sender's chain to the end of the loop's turn, and then passes into the other's, without a
 * copy (core/net-pass.c). Not at once: the other card's layers may answer, and no layer is called while it is calling.
 *
 * As a cable has no memory, neither has this: whom the other guest has no buffers for, its front keeps for a while and
 * drops then. Only while the other card comes to rest, for a change of its chain, or in the first second, packets stay with the sender, whose ring
 * bounds them; so neither such a change nor a worker's death loses any.
 *
 * Ends find each other by name in a list of the process. When a chain is changed, the new end of a card is started before the old one
 * is stopped; the other card's is always joined to the one that was opened last.
 */
#include "net/pair/pair.h"

#include "base/fifo.h"
#include "core/net.h"

/* How long until one that rests is asked whether it still does. */
#define ASK_NS DT_MS(1)
/* How long the other card may take to be there after a start: a worker's successor gets one card after the other. */
#define START_NS DT_S(1)

FIFO(packet_fifo, dt_packet)

struct pair_ctx;

/** struct end - of the layer. @next: in the list of all. @here: its thread's, from start to stop. */
struct end {
    const char *name;
    uint64_t mtu;
    struct dt_layer *layer;
    struct end *next;
    struct pair_ctx *here;
};

/** struct pair_ctx - @other: the other end, while it runs. @expects: until then, or until it was there, it may be late. @waiting: packets
 *  that were transmitted in this turn, and those that wait for it. */
struct pair_ctx {
    struct dt_ctx *c;
    struct pair_ctx *other;
    uint64_t expects;
    struct packet_fifo waiting;
    struct loop_deferred deferred;
    struct dt_timer timer;
};

enum { NO_END, NO_MEMORY, AT_REST };

static const struct dt_counter counters[] = {
    [NO_END] = {"no-end", "packets",
                "Dropped because the other card was not there, or had no guest."},
    [NO_MEMORY] = {"no-memory", "packets",
                   "Dropped because all of the other card's memory for packets was in use."},
    [AT_REST] =
        {"at-rest", "packets",
         "Dropped because they could not wait any longer for the other card, which was at rest."},
    {NULL},
};

static const struct dt_param params[] = {
    {.name = "name",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct end, name),
     .help = "Of the pair: the other end is the card whose chain ends with the same."},
    {.name = "mtu",
     .type = DT_PARAM_UINT,
     .offset = offsetof(struct end, mtu),
     .initial = "1500",
     .unit = "bytes",
     .min = 68,
     .max = 65535,
     .help = "Largest network packet; the same at both ends."},
    {NULL},
};

/* ---- Packets ---------------------------------------------------------------------------------- */

static unsigned take_burst(struct packet_fifo *waiting, struct dt_packet **burst)
{
    unsigned n = 0;

    while (n < NET_BURST && waiting->head)
        burst[n++] = packet_fifo_take(waiting);
    return n;
}

/* Is the other card about to be there? It comes to rest for a moment; or the process has just started, and it is its turn next. */
static bool worth_waiting(const struct pair_ctx *pc, bool there)
{
    if (ctx_resting(pc->c))
        return false;
    return there ? ctx_resting(pc->other->c) : dt_clock_ns() < pc->expects;
}

/* @now: nothing may wait. */
static void hand_over(struct pair_ctx *pc, bool now)
{
    struct dt_packet *burst[NET_BURST];
    struct dt_ctx *to = pc->other ? pc->other->c : NULL;
    bool there = to && net_takes(to), rests = there && ctx_resting(to);
    unsigned n, passed;

    if (unlikely(rests || !there) && !now && worth_waiting(pc, there)) {
        dt_timer_set(pc->c, &pc->timer, dt_clock_ns() + ASK_NS);
        return;
    }
    if (there)
        pc->expects = 0;
    while ((n = take_burst(&pc->waiting, burst)) > 0) {
        if (unlikely(!there || rests)) {
            dt_drop(pc->c, burst, n, there ? AT_REST : NO_END);
            continue;
        }
        passed = net_pass(pc->c, to, burst, n);
        dt_drop(pc->c, burst + passed, n - passed, NO_MEMORY);
        dt_receive(to, burst, passed);
    }
}

static void run_deferred(struct loop_deferred *deferred)
{
    hand_over(container_of(deferred, struct pair_ctx, deferred), false);
}

static void run_timer(struct dt_timer *timer)
{
    hand_over(container_of(timer, struct pair_ctx, timer), false);
}

static void pair_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct pair_ctx *pc = c->data;

    for (unsigned i = 0; i < n; i++)
        packet_fifo_add(&pc->waiting, packets[i]);
    loop_defer(ctx_loop(c), &pc->deferred);
}

static void pair_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    hand_over(c->data, true);
}

/* ---- The ends --------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct end *ends; /* the newest first */

static bool same_card(const struct end *a, const struct end *b)
{
    return strcmp(dt_layer_device(a->layer), dt_layer_device(b->layer)) == 0;
}

/* The next one from @e on that may be the other end of @of. */
static struct end *candidate(struct end *e, const struct end *of)
{
    while (e && (strcmp(e->name, of->name) != 0 || same_card(e, of)))
        e = e->next;
    return e;
}

static int judge(const struct end *new, struct dt_error *err)
{
    struct end *other = candidate(ends, new), *third = other;

    while (third && same_card(third, other))
        third = candidate(third->next, new);
    if (third)
        return dt_fail(err, -EBUSY,
                       "the pair '%s' has both its ends, the cards %s and %s: give this one a name "
                       "of its own",
                       new->name, dt_layer_device(third->layer), dt_layer_device(other->layer));
    if (other && layer_loop(other->layer, 0) != layer_loop(new->layer, 0))
        return dt_fail(err, -EINVAL,
                       "the other end of the pair '%s', the card %s, is served by another thread: "
                       "cards that are joined when 'devtap run' starts have the same one",
                       new->name, dt_layer_device(other->layer));
    return 0;
}

static int pair_open(struct dt_layer *layer, struct dt_error *err)
{
    struct end *e = dt_layer_data(layer);
    int ret;

    e->layer = layer;
    pthread_mutex_lock(&lock);
    ret = judge(e, err);
    if (ret == 0) {
        e->next = ends;
        ends = e;
    }
    pthread_mutex_unlock(&lock);
    return ret;
}

static void pair_close(struct dt_layer *layer)
{
    struct end *e = dt_layer_data(layer), **at = &ends;

    pthread_mutex_lock(&lock);
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    pthread_mutex_unlock(&lock);
}

/* Under the lock; the newest that runs, if any. */
static void join(struct end *e)
{
    struct end *other = candidate(ends, e);

    while (other && !other->here)
        other = candidate(other->next, e);
    if (!other)
        return;
    if (other->here->other)
        other->here->other->other = NULL;
    other->here->other = e->here;
    e->here->other = other->here;
    net_join(e->here->c, other->here->c);
}

static int pair_start(struct dt_ctx *c, struct dt_error *err)
{
    struct pair_ctx *pc = c->data;
    struct end *e = c->layer_data;

    pc->c = c;
    pc->expects = dt_clock_ns() + START_NS;
    pc->deferred.run = run_deferred;
    pc->timer.fire = run_timer;
    packet_fifo_init(&pc->waiting);
    pthread_mutex_lock(&lock);
    e->here = pc;
    join(e);
    pthread_mutex_unlock(&lock);
    return 0;
}

static void pair_stop(struct dt_ctx *c)
{
    struct pair_ctx *pc = c->data, *other = pc->other;
    struct end *e = c->layer_data;

    CHECK(!pc->waiting.head);
    loop_defer_cancel(ctx_loop(c), &pc->deferred);
    dt_timer_cancel(c, &pc->timer);
    pthread_mutex_lock(&lock);
    e->here = NULL;
    if (other) {
        other->other = NULL;
        join(other->c->layer_data);
    }
    pthread_mutex_unlock(&lock);
}

static int pair_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct end *e = dt_layer_data(layer);

    info->mtu = (uint16_t)e->mtu;
    return 0;
}

const struct dt_net_ext net_pair = {
    DT_NET_EXT_HEADER,
    .name = "pair",
    .summary = "A cable to another card of this run: what one sends, the other receives",
    .flags = DT_BACK | DT_SELF_CONTAINED,
    .takes = DT_OFFLOAD_ALL,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct end),
    .ctx_size = sizeof(struct pair_ctx),
    .open = pair_open,
    .close = pair_close,
    .start = pair_start,
    .stop = pair_stop,
    .info = pair_info,
    .transmit = pair_transmit,
    .quiesce = pair_quiesce,
};

const char *pair_name(const struct chain_spec *spec)
{
    const struct layer_spec *back = &spec->layers[spec->count - 1];

    for (unsigned i = 0; strcmp(back->name, net_pair.name) == 0 && i < back->count; i++)
        if (strcmp(back->settings[i].key, "name") == 0)
            return back->settings[i].value;
    return NULL;
}
