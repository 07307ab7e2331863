/* SPDX-License-Identifier: MIT */
/*
 * state.c - what the next process should know, so that connections go on when a worker dies: the mappings, who is where, and
 * the key by which ports are chosen. Forwards are parameters, and not here.
 *
 * TCP that is open comes first, then UDP that was answered, then the rest, the youngest first in each: what there is no room for
 * is what matters least. Times are seconds of the host's clock, which goes on.
 */
#include "net/nat/internal.h"

#define MAGIC 0x3174616eu /* "nat1" */

struct saved {
    uint32_t magic, now;
    uint64_t seed;
    uint32_t outer, inner;
    uint16_t low, high;
    uint32_t neighbours, mappings, reserved;
};
struct saved_neighbour {
    uint32_t address;
    uint8_t mac[6], outer, reserved;
};
struct saved_mapping {
    uint32_t inner, seen;
    uint16_t port, outer;
    uint8_t protocol, class, flags, reserved;
};

/* ---- Saving ---- */

static uint32_t save_neighbours(const struct side *side, struct saved_neighbour *to)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < NEIGHBOURS; i++)
        if (side->list[i].known) {
            to[n] = (struct saved_neighbour){.address = side->list[i].address,
                                             .outer = side->way == DT_TX};
            memcpy(to[n++].mac, side->list[i].mac, 6);
        }
    return n;
}

static uint32_t save_list(const struct list *list, uint8_t *to, size_t room)
{
    uint32_t n = 0;

    for (const struct list *l = list->prev; l != list && n < room / sizeof(struct saved_mapping);
         l = l->prev) {
        const struct mapping *m = container_of(l, struct mapping, age);
        const struct saved_mapping s = {.inner = m->inner,
                                        .seen = m->seen,
                                        .port = m->port,
                                        .outer = m->outer,
                                        .protocol = m->protocol,
                                        .class = m->class,
                                        .flags = m->flags};

        memcpy(to + n++ * sizeof(s), &s, sizeof(s));
    }
    return n;
}

int64_t nat_save(struct dt_layer *layer, void *buf, size_t size)
{
    static const struct {
        enum protocol protocol;
        enum class class;
    } order[] = {{TCP, ANSWERED},  {UDP, ANSWERED}, {TCP, FRESH},  {UDP, FRESH},
                 {ICMP, ANSWERED}, {ICMP, FRESH},   {TCP, CLOSING}};
    const struct nat *n = dt_layer_data(layer);
    struct saved_neighbour known[2 * NEIGHBOURS + 1];
    struct saved h = {.magic = MAGIC,
                      .now = n->now,
                      .seed = n->seed,
                      .outer = n->outer.address,
                      .inner = n->inner.address,
                      .low = n->low,
                      .high = n->high};
    uint8_t *at = (uint8_t *)buf + sizeof(h), *end = (uint8_t *)buf + size;

    h.neighbours = save_neighbours(&n->outer, known);
    h.neighbours += save_neighbours(&n->inner, known + h.neighbours);
    if (n->router.known) {
        known[h.neighbours] = (struct saved_neighbour){.address = n->router_address, .outer = 1};
        memcpy(known[h.neighbours++].mac, n->router.mac, 6);
    }
    if (size < sizeof(h) + h.neighbours * sizeof(known[0]))
        return -ENOSPC;
    memcpy(at, known, h.neighbours * sizeof(known[0]));
    at += h.neighbours * sizeof(known[0]);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        uint32_t k = save_list(&n->ages[order[i].protocol][order[i].class], at, (size_t)(end - at));

        h.mappings += k;
        at += k * sizeof(struct saved_mapping);
    }
    memcpy(buf, &h, sizeof(h));
    return at - (uint8_t *)buf;
}

/* ---- Loading ---- */

static void load_neighbours(struct nat *n, const uint8_t *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct saved_neighbour s;
        struct side *side;

        memcpy(&s, from + i * sizeof(s), sizeof(s));
        side = s.outer ? &n->outer : &n->inner;
        if (s.address && !(s.mac[0] & 1) &&
            (nat_within(side, s.address) || (s.outer && s.address == n->router_address)))
            nat_learn(n, side, s.address, s.mac);
    }
}

/* Whatever is in it, what follows must hold: it is the guest's, its port is free and ours, and its time is not to come. */
static bool fits(const struct nat *n, const struct saved_mapping *s)
{
    return s->protocol < PROTOCOLS && s->class < FORWARD &&
           (s->class != CLOSING || s->protocol == TCP) && s->outer >= n->low &&
           s->outer <= n->high && nat_within(&n->inner, s->inner) && s->inner != n->inner.address &&
           !nat_find_outer(n, s->protocol, s->outer) &&
           !nat_find(n, s->protocol, s->inner, s->port);
}

/* From the last on: so the youngest ends up youngest. */
static void load_mappings(struct nat *n, const uint8_t *from, uint32_t count)
{
    uint32_t now = n->now, oldest[PROTOCOLS][CLASSES] = {0};

    count = MIN(count, n->table.capacity - FORWARDED_MAX);
    while (count-- > 0) {
        struct saved_mapping s;
        struct mapping *m;

        memcpy(&s, from + count * sizeof(s), sizeof(s));
        if (!fits(n, &s))
            continue;
        /* In the order of age, whatever it says. */
        n->now = MIN(MAX(s.seen, oldest[s.protocol][s.class]), now);
        m = nat_add(n, s.protocol, s.inner, s.port, s.outer, s.class);
        if (!m)
            continue;
        oldest[s.protocol][s.class] = n->now;
        m->flags = s.flags & (REPLIED | FIN_OUT | FIN_IN);
    }
    n->now = now;
}

int nat_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err)
{
    struct nat *n = dt_layer_data(layer);
    const uint8_t *at = (const uint8_t *)buf + sizeof(struct saved);
    struct saved h;

    if (size < sizeof(h) || version != 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of nat", size, version);
    memcpy(&h, buf, sizeof(h));
    size -= sizeof(h);
    if (h.magic != MAGIC || h.neighbours > 2 * NEIGHBOURS + 1 ||
        size < h.neighbours * sizeof(struct saved_neighbour) ||
        (size - h.neighbours * sizeof(struct saved_neighbour)) / sizeof(struct saved_mapping) !=
            h.mappings ||
        (size - h.neighbours * sizeof(struct saved_neighbour)) % sizeof(struct saved_mapping))
        return dt_fail(err, -EBADMSG,
                       "%u mappings and %u neighbours do not fill the %zu bytes that there are",
                       h.mappings, h.neighbours, size);
    if (h.outer != n->outer.address || h.inner != n->inner.address || h.low != n->low ||
        h.high != n->high)
        return 0; /* other addresses: no connection of before can go on */
    n->now = (uint32_t)(dt_clock_ns() / DT_S(1));
    for (enum class class = FRESH; class < FORWARD; class ++)
        nat_remove_class(n, class);
    n->seed = h.seed; /* by which forwards are found, too */
    if (nat_apply_forwards(n, err) < 0)
        return -EBADMSG;
    load_neighbours(n, at, h.neighbours);
    load_mappings(n, at + h.neighbours * sizeof(struct saved_neighbour), h.mappings);
    return 0;
}
