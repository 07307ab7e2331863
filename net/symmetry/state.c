/* SPDX-License-Identifier: MIT */
/*
 * state.c - what the next process should know: else a guest that brings its worker down would be free of its
 * penalties, and one whose worker is replaced would be punished for answers that were never counted.
 *
 * The card, then as many flows and pairs as there is room for, the newest first and none that is older than a second.
 * Times are those of the host's clock, which goes on; packets that waited are not here: they are in the
 * guest's ring, and come again. Hashes are of use with their key alone, so that goes along.
 */
#include "net/symmetry/internal.h"

#define MAGIC 0x316d7973u /* "sym1" */

struct saved {
    uint32_t magic, tick;
    uint64_t seed, flows_max;
    uint32_t flows, pairs;
    struct saved_entity {
        uint64_t hash;
        uint32_t tick;
        uint8_t n, reserved[3];
        struct window window;
    } card;
};
struct saved_flow {
    struct saved_entity e;
    uint32_t una, nxt;
    uint16_t unacked, reserved[3];
};

static struct saved_entity save_entity(const struct table *t, uint32_t entry,
                                       const struct entity *e)
{
    return (struct saved_entity){
        .hash = t ? table_hash(t, entry) : 0, .tick = e->tick, .n = e->n, .window = e->window};
}

/* Those newer than a second, the newest first. Returns how many of at most @room. */
static uint32_t save_table(const struct symmetry *s, const struct table *t, uint8_t *to,
                           size_t stride, uint32_t room)
{
    uint32_t n = 0;

    for (uint32_t i = t->newest; i && n < room; i = ((struct node *)table_at(t, i))->older) {
        const struct entity *e = table_at(t, i);
        struct saved_flow out = {.e = save_entity(t, i, e)};

        if (s->tick - e->tick >= WINDOW_PARTS)
            break;
        if (t == &s->flows) {
            const struct flow *f = table_at(t, i);

            out.una = f->una;
            out.nxt = f->nxt;
            out.unacked = f->unacked;
        }
        memcpy(to + n++ * stride, &out, stride);
    }
    return n;
}

int64_t sym_save(struct dt_layer *layer, void *buf, size_t size)
{
    struct symmetry *s = dt_layer_data(layer);
    struct saved h = {.magic = MAGIC, .seed = s->seed, .flows_max = s->flows_max};
    uint8_t *at = (uint8_t *)buf + sizeof(h);
    size_t left;

    if (size < sizeof(h))
        return -ENOSPC;
    s->tick = h.tick = (uint32_t)(dt_clock_ns() / WINDOW_TICK);
    h.card = save_entity(NULL, 0, &s->card);
    left = size - sizeof(h);
    h.pairs = save_table(s, &s->pairs, at, sizeof(struct saved_entity),
                         (uint32_t)(left / 2 / sizeof(struct saved_entity)));
    at += h.pairs * sizeof(struct saved_entity);
    left -= h.pairs * sizeof(struct saved_entity);
    h.flows = save_table(s, &s->flows, at, sizeof(struct saved_flow),
                         (uint32_t)(left / sizeof(struct saved_flow)));
    at += h.flows * sizeof(struct saved_flow);
    memcpy(buf, &h, sizeof(h));
    return at - (uint8_t *)buf;
}

/* A tick that lies ahead would never grow old. */
static void load_entity(const struct symmetry *s, struct entity *e, const struct saved_entity *from)
{
    e->tick = (int32_t)(s->tick - from->tick) < 0 ? s->tick : from->tick;
    e->n = MIN(from->n, (uint8_t)31);
    e->slack = 0;
    e->window = from->window;
}

/* From the oldest on, so that the ages are in order again. */
static void load_table(struct symmetry *s, struct table *t, const uint8_t *from, size_t stride,
                       uint32_t n)
{
    for (n = MIN(n, t->capacity - t->count); n > 0; n--) {
        struct saved_flow in = {0};
        uint32_t entry;

        memcpy(&in, from + (n - 1) * stride, stride);
        if (table_find(t, in.e.hash))
            continue;
        entry = table_add(t, in.e.hash);
        load_entity(s, table_at(t, entry), &in.e);
        if (t == &s->flows) {
            struct flow *f = table_at(t, entry);

            f->una = in.una;
            f->nxt = in.nxt;
            f->unacked = in.nxt == in.una ? 0 : in.unacked;
        }
    }
}

int sym_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err)
{
    struct symmetry *s = dt_layer_data(layer);
    const uint8_t *at = (const uint8_t *)buf + sizeof(struct saved);
    struct saved h;

    if (size < sizeof(h) || version != 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of symmetry", size,
                       version);
    memcpy(&h, buf, sizeof(h));
    size -= sizeof(h);
    if (h.magic != MAGIC || h.pairs > size / sizeof(struct saved_entity) ||
        h.flows > size / sizeof(struct saved_flow) ||
        size != h.pairs * sizeof(struct saved_entity) + h.flows * sizeof(struct saved_flow))
        return dt_fail(err, -EBADMSG,
                       "%u flows and %u pairs do not fill the %zu bytes that there are", h.flows,
                       h.pairs, size);
    s->seed = h.seed;
    memset(s->trains, 0, sizeof(s->trains)); /* known by another one */
    s->tick = (uint32_t)(dt_clock_ns() / WINDOW_TICK);
    load_entity(s, &s->card, &h.card);
    if (h.flows_max != s->flows_max) /* what is found by those hashes lies elsewhere now */
        return 0;
    load_table(s, &s->pairs, at, sizeof(struct saved_entity), h.pairs);
    load_table(s, &s->flows, at + h.pairs * sizeof(struct saved_entity), sizeof(struct saved_flow),
               h.flows);
    return 0;
}
