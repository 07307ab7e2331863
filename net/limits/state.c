/* SPDX-License-Identifier: MIT */
/*
 * state.c - what the next process should know: else a worker that is brought down would give its guest a full burst and
 * all connections anew, and open connections beyond the allowance would be refused in the middle.
 *
 * The levels of the buckets, with the time that they are of, so what flows in meanwhile is added once and for all; then the
 * connections, open ones first, the youngest first in each kind. Hashes are of use with their key alone, so that goes along.
 */
#include "net/limits/internal.h"

#define MAGIC 0x316d696cu /* "lim1" */

/* The most that a packet leaves a bucket in debt by: a super-frame in bits. More was never taken. */
#define DEBT_MOST ((__int128)1000000 * 1000000000)

struct saved {
    uint32_t magic, reserved;
    uint64_t seed;
    struct saved_bucket {
        uint64_t rate, last, low;
        int64_t high;
    } buckets[RATES];
    uint32_t connections[KINDS];
};
struct saved_connection {
    uint64_t hash;
    uint32_t seen, reserved;
};

static uint32_t save_table(const struct table *t, uint8_t *to, size_t room)
{
    uint32_t n = 0;

    for (uint32_t i = t->newest; i && n < room / sizeof(struct saved_connection);
         i = ((struct node *)table_at(t, i))->older) {
        const struct connection *c = table_at(t, i);
        const struct saved_connection s = {.hash = table_hash(t, i), .seen = c->seen};

        memcpy(to + n++ * sizeof(s), &s, sizeof(s));
    }
    return n;
}

int64_t limits_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct limits *l = dt_layer_data(layer);
    struct saved h = {.magic = MAGIC, .seed = l->seed};
    uint8_t *at = (uint8_t *)buf + sizeof(h), *end = (uint8_t *)buf + size;

    if (size < sizeof(h))
        return -ENOSPC;
    for (unsigned i = 0; i < RATES; i++) {
        const struct bucket *b = &l->buckets[i];

        h.buckets[i] = (struct saved_bucket){.rate = b->rate,
                                             .last = b->last,
                                             .low = (uint64_t)b->level,
                                             .high = (int64_t)(b->level >> 64)};
    }
    for (enum kind k = OPEN; k < KINDS; k++) {
        h.connections[k] = save_table(&l->tables[k], at, (size_t)(end - at));
        at += h.connections[k] * sizeof(struct saved_connection);
    }
    memcpy(buf, &h, sizeof(h));
    return at - (uint8_t *)buf;
}

/* The rate of before fills it up to now; that of today goes on from there, and cuts what is above its own burst. */
static void load_bucket(struct limits *l, enum allowance which, const struct saved_bucket *s,
                        uint64_t now)
{
    __int128 level = (__int128)((unsigned __int128)(uint64_t)s->high << 64 | s->low);

    if (!s->rate || !l->rates[which])
        return; /* there was no limit, or is none: a bucket begins as a new one does */
    l->buckets[which] = (struct bucket){.rate = s->rate,
                                        .burst_ns = l->burst,
                                        .last = MIN(s->last, now),
                                        .level = MAX(level, -DEBT_MOST)};
    bucket_set(&l->buckets[which], l->rates[which], l->burst, now);
}

/* From the oldest on, so that the ages are in order again. */
static void load_table(struct table *t, const uint8_t *from, uint32_t n, uint32_t now)
{
    for (n = MIN(n, t->capacity - t->count); n > 0; n--) {
        struct saved_connection s;
        uint32_t entry;

        memcpy(&s, from + (n - 1) * sizeof(s), sizeof(s));
        if (table_find(t, s.hash))
            continue;
        entry = table_add(t, s.hash);
        ((struct connection *)table_at(t, entry))->seen = MIN(s.seen, now);
    }
}

int limits_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
                struct dt_error *err)
{
    struct limits *l = dt_layer_data(layer);
    const uint8_t *at = (const uint8_t *)buf + sizeof(struct saved);
    uint64_t now = dt_clock_ns(), n;
    struct saved h;

    if (size < sizeof(h) || version != 1)
        return dt_fail(err, -EBADMSG, "%zu bytes of version %u are no state of limits", size,
                       version);
    memcpy(&h, buf, sizeof(h));
    n = (uint64_t)h.connections[OPEN] + h.connections[SHORT];
    if (h.magic != MAGIC || n != (size - sizeof(h)) / sizeof(struct saved_connection) ||
        (size - sizeof(h)) % sizeof(struct saved_connection))
        return dt_fail(err, -EBADMSG, "its connections do not fill the %zu bytes that there are",
                       size);
    for (enum allowance i = BW_IN; i < RATES; i++)
        load_bucket(l, i, &h.buckets[i], now);
    for (enum kind k = OPEN; k < KINDS; k++)
        while (l->tables[k].oldest) /* by another key */
            table_remove(&l->tables[k], l->tables[k].oldest);
    l->seed = h.seed;
    for (enum kind k = OPEN; k < KINDS; k++) {
        load_table(&l->tables[k], at, h.connections[k], (uint32_t)(now / DT_S(1)));
        at += h.connections[k] * sizeof(struct saved_connection);
    }
    return 0;
}
