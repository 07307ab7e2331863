/* SPDX-License-Identifier: MIT */
/*
 * wait.c - who waits, and how long.
 *
 * Theory of operation: a packet goes on when its flow, its pair and the card all allow it. An entity
 * allows it while it is symmetric, or when its penalty is over. A penalty begins when a packet becomes the next one
 * of the entity, on arrival or when the one before has gone, and the entity is asymmetric then; the n-th
 * since the entity was last symmetric is 2^n ms. So penalties of an entity follow one another, as the thesis
 * has it ("between transmitted packets"), those of different levels overlap, and the strictest wins.
 *
 * Only what has gone on counts as sent. A penalty ends at once when the entity is symmetric again: by a packet that
 * it receives, or because what it sent is a second old.
 *
 * What waits is kept by flow, in order; flows take turns. However many are before it, nothing waits for longer than WAIT_MOST:
 * then it ends here. The guest's driver has its descriptor back in time, and what nobody answered is not sent for that. Its descriptors stay outstanding, and its payload in the guest's
 * memory (dt_peek()), so the guest bears the queue. A flow may have a quarter of the ring and a pair a half; beyond that its packets are dropped, or
 * with excess=hold the ring stops until the flow is within its share. All others are served meanwhile.
 */
#include "net/symmetry/internal.h"

#include <arpa/inet.h>
#include <sys/mman.h>

#define CARD_WAIT 1u
#define TURN      16u /* packets of one flow before the next has its turn */
/* Linux is alarmed when a full ring has had nothing back for five seconds, and all of one may be here. */
#define WAIT_MOST  DT_S(4)
#define TELL_EVERY DT_S(10)
#define SAVE_EVERY DT_MS(200)

/* ---- Penalties ---- */

static const char *const level_names[LEVELS] = {"a flow to", "its packets to", "the card, last to"};

static void tell(struct symmetry *s, enum level level, struct dt_packet *p)
{
    char to[INET6_ADDRSTRLEN] = "a host that is not known by an IP address";
    const uint8_t *other;
    unsigned bytes = sym_other(p, DT_TX, &other);

    if (s->told_at && s->now - s->told_at < TELL_EVERY)
        return;
    s->told_at = s->now;
    if (bytes)
        inet_ntop(bytes == 16 ? AF_INET6 : AF_INET, other, to, sizeof(to));
    dt_layer_event(s->layer, "limited",
                   "%s %s: far more is sent than answered; packets are delayed", level_names[level],
                   to);
}

/* How far is it from being asymmetric? */
static void look_at(const struct symmetry *s, struct entity *e)
{
    e->slack = (uint8_t)MIN(window_slack(&e->window, s->ratio), (uint64_t)UINT8_MAX);
    if (e->slack)
        e->n = 0;
}

static bool asymmetric(const struct symmetry *s, struct entity *e)
{
    if (!e->slack)
        look_at(s, e);
    return !e->slack;
}

/* A packet is the next one of @e. @p: who is limited by this, to be told of; or NULL. */
static void begin(struct symmetry *s, enum level level, struct entity *e, struct wait *w,
                  struct dt_packet *p)
{
    w->until = s->now;
    if (!asymmetric(s, e))
        return;
    w->until += MIN(DT_MS(1) << e->n, s->max_delay);
    if (e->n == 0) {
        dt_count(s->c, LIMITED + level, 1);
        if (p)
            tell(s, level, p);
    }
    if (e->n < 31)
        e->n++;
    if (s->now - s->saved_at >= SAVE_EVERY) {
        s->saved_at = s->now;
        dt_layer_state_changed(s->layer);
    }
}

static struct wait *wait_of(const struct symmetry *s, const struct entity *e)
{
    return e->wait ? &s->waits[e->wait] : NULL;
}

static void count_sent(const struct symmetry *s, const struct levels *levels,
                       struct dt_packet **packets, unsigned n, uint32_t segments)
{
    sym_sent((struct flow *)levels->e[FLOW], packets, n);
    sym_count(s, levels, true, segments);
}

/* ---- Waiting ---- */

static uint32_t weight_of(const struct dt_packet *p)
{
    return 1 +
           p->length / PAGE_SIZE_4K; /* pages of a super-frame are in descriptors of their own */
}

static uint32_t flow_share(const struct symmetry *s)
{
    return MAX(dt_ring_size(s->c) / 4, 1u);
}

static struct wait *join(struct symmetry *s, enum level level, struct entity *e,
                         struct dt_packet *p)
{
    struct wait *w;

    if (!e->wait) {
        e->wait = level == CARD ? CARD_WAIT : s->free_waits[--s->nfree];
        w = &s->waits[e->wait];
        *w = (struct wait){0};
        held_init(&w->held);
        begin(s, level, e, w, p);
        if (level == CARD)
            dt_peek(s->c, true);
    }
    w = &s->waits[e->wait];
    w->packets++;
    return w;
}

static bool has_room(const struct symmetry *s, const struct levels *levels, uint32_t weight)
{
    const struct wait *flow = wait_of(s, levels->e[FLOW]), *pair = wait_of(s, levels->e[PAIR]);
    const struct wait *card = wait_of(s, &s->card);
    uint32_t share = flow_share(s);

    if (card && card->packets == WAITING_MAX)
        return false;
    if (s->excess == EXCESS_HOLD)
        return true;
    return (!flow || flow->weight + weight <= share) &&
           (!pair || pair->weight + weight <= 2 * share);
}

static void set_timer(struct symmetry *s, uint64_t when)
{
    if (!s->timer.heap_index || when < s->timer.deadline)
        dt_timer_set(s->c, &s->timer, when);
}

static uint64_t due_at(const struct symmetry *s, const struct levels *levels)
{
    uint64_t due = 0;

    for (enum level l = FLOW; l < LEVELS; l++)
        due = MAX(due, s->waits[levels->e[l]->wait].until);
    return due;
}

/* When something more of what was sent is a second old: who waits may be symmetric then. */
static uint64_t next_tick(const struct symmetry *s)
{
    return (s->tick + (uint64_t)1) * WINDOW_TICK;
}

static void hold(struct symmetry *s, const struct levels *levels, struct dt_packet *p)
{
    uint32_t weight = weight_of(p), share = flow_share(s);
    struct wait *w;

    if (!has_room(s, levels, weight)) {
        dt_drop_one(s->c, p, EXCESS);
        return;
    }
    join(s, CARD, levels->e[CARD], p);
    join(s, PAIR, levels->e[PAIR], p)->weight += weight;
    w = join(s, FLOW, levels->e[FLOW], p);
    if (w->packets == 1) {
        w->flow = levels->flow;
        w->pair = levels->pair;
        list_add_tail(&s->waiting, &w->node);
    }
    w->weight += weight;
    if (!w->full && w->weight >= share) {
        w->full = true;
        s->full++;
    }
    p->when = s->now;
    held_add(&w->held, p);
    dt_count(s->c, DELAYED, 1);
    set_timer(s, MIN(due_at(s, levels), next_tick(s)));
}

/* ---- Sending ---- */

/* Nothing of it waits, and none of its levels is to be punished. */
static bool may_pass(const struct symmetry *s, const struct levels *levels)
{
    if (levels->e[FLOW]->wait)
        return false;
    for (enum level l = FLOW; l < LEVELS; l++) {
        const struct wait *w = wait_of(s, levels->e[l]);

        if (w ? w->until > s->now : asymmetric(s, levels->e[l]))
            return false;
    }
    return true;
}

/* One of those that wait at @e has left. */
static void leave(struct symmetry *s, enum level level, struct entity *e, uint32_t weight)
{
    struct wait *w = wait_of(s, e);

    w->weight -= weight;
    if (--w->packets > 0)
        return;
    if (level == FLOW)
        list_del(&w->node);
    if (level != CARD)
        s->free_waits[s->nfree++] = e->wait;
    else
        dt_peek(s->c, false);
    e->wait = 0;
}

/* A packet was sent: the next one of each level, if any waits, has its time from now on. */
static void begin_next(struct symmetry *s, const struct levels *levels, struct dt_packet *p)
{
    for (enum level l = FLOW; l < LEVELS; l++)
        if (unlikely(levels->e[l]->wait))
            begin(s, l, levels->e[l], wait_of(s, levels->e[l]), p);
}

/* Nothing of any level waits, nor has to before any of these: nearly all packets. */
static bool all_may_pass(const struct symmetry *s, const struct levels *levels, uint32_t segments)
{
    for (enum level l = FLOW; l < LEVELS; l++) {
        struct entity *e = levels->e[l];

        if (unlikely(e->wait))
            return false;
        if (unlikely(e->slack < segments))
            look_at(s, e);
        if (unlikely(e->slack < segments))
            return false;
    }
    return true;
}

static bool send_one(struct symmetry *s, struct dt_packet *p, const struct levels *levels)
{
    if (!may_pass(s, levels)) {
        hold(s, levels, p);
        return false;
    }
    count_sent(s, levels, &p, 1, sym_segments(&p, 1));
    begin_next(s, levels, p);
    return true;
}

unsigned sym_send(struct symmetry *s, struct dt_packet **packets, unsigned n,
                  const struct levels *levels, struct dt_packet **pass)
{
    uint32_t segments = sym_segments(packets, n);
    unsigned passed = 0;

    if (likely(all_may_pass(s, levels, segments))) {
        count_sent(s, levels, packets, n, segments);
        memcpy(pass, packets, n * sizeof(*packets));
        return n;
    }
    for (unsigned i = 0; i < n; i++)
        if (send_one(s, packets[i], levels))
            pass[passed++] = packets[i];
    return passed;
}

void sym_unblock(struct symmetry *s, const struct levels *levels)
{
    for (enum level l = FLOW; l < LEVELS; l++) {
        struct wait *w = wait_of(s, levels->e[l]);

        if (w && w->until > s->now && !asymmetric(s, levels->e[l])) {
            w->until = s->now;
            s->kick = true;
        }
    }
}

/* ---- Release ---- */

static struct dt_packet *take_head(struct symmetry *s, struct wait *w, const struct levels *levels)
{
    struct dt_packet *p = held_take(&w->held);
    uint32_t weight = weight_of(p), share = flow_share(s);

    if (w->full && w->weight - weight < share) {
        w->full = false;
        s->full--;
    }
    dt_count(s->c, DELAYED_NS, s->now - p->when);
    leave(s, FLOW, levels->e[FLOW], weight);
    leave(s, PAIR, levels->e[PAIR], weight);
    leave(s, CARD, levels->e[CARD], 0);
    return p;
}

/* Those of a flow that have waited for too long. They are not sent, so no penalty is over by it. Returns when the next one will
 * have; UINT64_MAX = it has none. */
static uint64_t drop_late(struct symmetry *s, struct wait *w, const struct levels *levels)
{
    while (levels->e[FLOW]->wait) {
        uint64_t late = w->held.head->when + WAIT_MOST;

        if (late > s->now)
            return late;
        dt_drop_one(s->c, take_head(s, w, levels), LATE);
    }
    return UINT64_MAX;
}

/* A flow's turn. Returns when its next packet is due, or late; UINT64_MAX = it has none. */
static uint64_t take_turn(struct symmetry *s, struct wait *w)
{
    struct dt_packet *batch[TURN];
    struct levels levels;
    uint64_t due;
    unsigned n = 0;

    sym_flow_levels(s, w, &levels);
    sym_unblock(s, &levels);
    due = due_at(s, &levels);
    while (due <= s->now && n < TURN) {
        batch[n] = take_head(s, w, &levels);
        count_sent(s, &levels, &batch[n], 1, sym_segments(&batch[n], 1));
        n++;
        begin_next(s, &levels, NULL);
        due = levels.e[FLOW]->wait ? due_at(s, &levels) : UINT64_MAX;
    }
    if (n && due != UINT64_MAX) { /* the others first */
        list_del(&w->node);
        list_add_tail(&s->waiting, &w->node);
    }
    if (due > s->now) {
        uint64_t late = drop_late(s, w, &levels);

        due = late == UINT64_MAX ? late : MIN(due, late);
    }
    dt_transmit(s->c, batch, n);
    return due;
}

void sym_release(struct symmetry *s)
{
    uint64_t next = UINT64_MAX;
    bool was_full = s->full;
    struct list *last = s->waiting.prev;

    for (struct list *it = s->waiting.next, *after; it != &s->waiting; it = after) {
        bool end = it == last;

        after = it->next;
        next = MIN(next, take_turn(s, list_entry(it, struct wait, node)));
        if (end)
            break;
    }
    if (next != UINT64_MAX)
        set_timer(s, MIN(next, next_tick(s))); /* an answer to what was sent here may have set it */
    if (was_full && (!s->full || s->excess == EXCESS_DROP))
        dt_wake(s->c);
}

void sym_drop_all(struct symmetry *s)
{
    while (!list_empty(&s->waiting)) {
        struct wait *w = list_entry(s->waiting.next, struct wait, node);
        struct levels levels;
        struct dt_packet *p;

        sym_flow_levels(s, w, &levels);
        p = take_head(s, w, &levels);
        dt_drop_one(s->c, p, AT_REST);
    }
    dt_timer_cancel(s->c, &s->timer);
}

/* ---- Life ---- */

int sym_waits_init(struct symmetry *s)
{
    s->waits = mmap(NULL, WAITS * sizeof(struct wait), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->waits == MAP_FAILED) {
        s->waits = NULL;
        return -ENOMEM;
    }
    for (unsigned i = WAITS - 1; i > CARD_WAIT; i--)
        s->free_waits[s->nfree++] = (uint16_t)i;
    list_init(&s->waiting);
    return 0;
}

void sym_waits_fini(struct symmetry *s)
{
    if (s->waits)
        munmap(s->waits, WAITS * sizeof(struct wait));
}
