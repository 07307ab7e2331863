/* SPDX-License-Identifier: MIT */
/* internal.h - what is counted, what waits, and the files of symmetry. */
#ifndef NET_SYMMETRY_INTERNAL_H
#define NET_SYMMETRY_INTERNAL_H

#include "base/fifo.h"
#include "base/prefix.h"
#include "net/symmetry/window.h"
#include "net/table/table.h"
#include <devtap/net.h>

/* Packets that wait, at most: all that a lane's pool has. Each may be of a flow and a pair of its own. */
#define WAITING_MAX 4352u
#define WAITS       (2 * WAITING_MAX + 2)
/* Packets that are looked at together. */
#define SYM_BATCH 64u

/**
 * struct entity - what has a symmetry: a flow, a host pair, the card.
 * @tick: the newest of @window.
 * @wait: number of its struct wait; 0 = nothing of it waits.
 * @n:    packets that had to wait since it was last symmetric.
 * @slack: it is symmetric, and will be before each of so many more packets that it sends; 0 = its sums tell. Most packets need no
 *         more than this.
 */
struct entity {
    struct node node;
    uint32_t tick;
    uint16_t wait;
    uint8_t n, slack;
    struct window window;
};

/**
 * struct flow - one flow. A million of them take 72 MB.
 * @pair:     number of its host pair, which was that with @pair_tag.
 * @una, @nxt: TCP: sequence numbers; what was sent and not yet acknowledged lies between.
 * @unacked:  and how many segments it was.
 */
struct flow {
    struct entity e;
    uint32_t pair;
    uint16_t pair_tag, unacked;
    uint32_t una, nxt;
};
_Static_assert(sizeof(struct entity) == 56 && sizeof(struct flow) == 72,
               "a million flows in 80 MB");

FIFO(held, dt_packet)

/**
 * struct wait - what an entity has while packets of it wait.
 * @until:  before this, none of them goes on.
 * @weight: descriptors of the ring that they may take, by estimate.
 * @held, @node, @flow, @pair, @full: of flows alone. @full: it has its share of the ring, and is in symmetry.full.
 */
struct wait {
    uint64_t until;
    uint32_t packets, weight;
    struct held held;
    struct list node; /* in symmetry.waiting */
    uint32_t flow, pair;
    bool full;
};

enum level { FLOW, PAIR, CARD, LEVELS };

/** struct levels - a packet's entities. */
struct levels {
    struct entity *e[LEVELS];
    uint32_t flow, pair;
};

/**
 * struct train - whose the last packet of a direction was, and so the next one is that has the same ends.
 * @ends:   addresses and ports as they stood in it. @bytes: how many; 0 = it had them not in a row.
 * @flow, @pair: hashes of who that is.
 * @levels: unless @exempt. They hold in @tick, while no more are forgotten than @forgotten.
 */
struct train {
    uint8_t ends[36], bytes, protocol;
    bool exempt;
    uint32_t tick, forgotten;
    uint64_t flow, pair;
    struct levels levels;
};

/**
 * struct run - packets one after the other that have the same ends.
 * @goes_on: those of the packet before, so that nothing is to be looked for.
 * @flow, @pair: hashes, else.
 */
struct run {
    uint64_t flow, pair;
    uint16_t n;
    bool goes_on;
};

struct symmetry {
    /* Parameters. */
    const char *threshold_text, *exempt_text;
    uint64_t max_delay, flows_max;
    unsigned excess;
    /* What follows from them. */
    uint64_t ratio; /* e^threshold, in 65536ths */
    struct prefixes exempt4, exempt6;

    struct dt_layer *layer;
    struct dt_ctx *c;
    uint64_t seed, now;
    uint32_t tick;
    struct table flows, pairs;
    struct entity card;
    struct train trains[2]; /* by enum dt_direction */
    uint32_t forgotten;     /* flows and pairs */
    uint32_t changed;       /* tick in which parameters were */
    struct wait *waits;     /* by number, from 1 on */
    uint16_t free_waits[WAITS];
    unsigned nfree;
    struct list waiting; /* flows with packets that wait, in the order of their turns */
    struct dt_timer timer;
    unsigned full; /* flows that have more than their share of the ring */
    bool kick;     /* somebody became symmetric whose packets wait */
    uint64_t saved_at, told_at;
};

enum { EXCESS_DROP, EXCESS_HOLD };
enum {
    DELAYED,
    DELAYED_NS,
    EXCESS,
    AT_REST,
    LATE,
    EXEMPT,
    LIMITED, /* and the next two: by level */
    FLOWS_FORGOTTEN = LIMITED + LEVELS,
    PAIRS_FORGOTTEN,
};

/* flows.c: whose it is. */
/** sym_runs() - make @runs of @n packets, at most SYM_BATCH; there is room for as many. The memory that sym_whose() will look at is
 *  asked for. Return: how many. */
unsigned sym_runs(struct symmetry *s, struct dt_packet **packets, unsigned n, enum dt_direction way,
                  struct run *runs);
/**
 * sym_whose() - of @run, which begins with @p, with its entities, made if they are not there; brought to now. To be asked of each run in its
 * turn, and holds until then.
 */
const struct train *sym_whose(struct symmetry *s, const struct run *run, struct dt_packet *p,
                              enum dt_direction way);
/** sym_flow_levels() - those of a flow that has packets waiting. */
void sym_flow_levels(struct symmetry *s, const struct wait *w, struct levels *levels);
/** sym_other() - the IP address of the host that @p comes from or goes to. Return: its bytes; 0 = it has none. */
unsigned sym_other(struct dt_packet *p, enum dt_direction way, const uint8_t **address);
/** sym_sent() - packets of this flow are sent: of TCP, what they take along is remembered. */
void sym_sent(struct flow *flow, struct dt_packet **packets, unsigned n);
/** sym_received() - for how many packets on the wire do these of this flow speak? */
uint32_t sym_received(struct flow *flow, struct dt_packet **packets, unsigned n);
/** sym_segments() - how many packets on the wire are these? */
uint32_t sym_segments(struct dt_packet **packets, unsigned n);

/* wait.c: who waits, and how long. */
int sym_waits_init(struct symmetry *s);
void sym_waits_fini(struct symmetry *s);
/** sym_send() - packets of one flow, from the guest: some are to be handed on now, which is for the caller to do; the others are later.
 *  Return: how many, in @pass. */
unsigned sym_send(struct symmetry *s, struct dt_packet **packets, unsigned n,
                  const struct levels *levels, struct dt_packet **pass);
/** sym_unblock() - those of these that are symmetric again have no penalty any more. */
void sym_unblock(struct symmetry *s, const struct levels *levels);
/** sym_release() - hand on what is due, and come back when more is. */
void sym_release(struct symmetry *s);
/** sym_drop_all() - the chain comes to rest. */
void sym_drop_all(struct symmetry *s);

/* state.c: what the next process should know. */
int64_t sym_save(struct dt_layer *layer, void *buf, size_t size);
int sym_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err);

static inline void sym_advance(const struct symmetry *s, struct entity *e)
{
    if (e->tick == s->tick)
        return;
    window_advance(&e->window, e->tick, s->tick);
    e->tick = s->tick;
    e->slack = 0;
}

/** sym_time() - once per batch. */
static inline void sym_time(struct symmetry *s)
{
    s->now = dt_now(s->c);
    s->tick = (uint32_t)(s->now / WINDOW_TICK);
    sym_advance(s, &s->card);
}

/** sym_count() - @packets more of each level, sent or received. */
static inline void sym_count(const struct symmetry *s, const struct levels *levels, bool tx,
                             uint32_t packets)
{
    for (enum level l = FLOW; l < LEVELS; l++) {
        struct entity *e = levels->e[l];
        bool halved = window_add(&e->window, tx, s->tick, packets);

        if (tx)
            e->slack = (uint8_t)(e->slack - MIN((uint32_t)e->slack, packets));
        if (unlikely(halved))
            e->slack = 0;
    }
}

#endif
