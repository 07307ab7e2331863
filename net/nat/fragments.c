/* SPDX-License-Identifier: MIT */
/*
 * fragments.c - only the first fragment of a datagram has ports; what it was translated to is remembered for the others.
 *
 * Nothing is put together or held: fragments that come before their first one are dropped and counted. To the wire the
 * datagram gets another identification, because several guests behind one address may choose the same (RFC 6864, 4.2).
 */
#include "net/nat/internal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define LIFE_S \
    30u /* RFC 1122, 3.3.2: 60 to 120 s for those who put together; nobody's fragments are so far apart */

struct key {
    uint32_t from, to;
    uint16_t id;
    uint8_t protocol, way;
};

static struct key key_of(struct dt_packet *p, enum dt_direction way)
{
    const uint8_t *ip = p->data + dt_headers(p)->l3;

    return (struct key){load_be32(ip + 12), load_be32(ip + 16), load_be16(ip + 4), ip[9],
                        (uint8_t)way};
}

static bool is(const struct fragment *f, const struct key *k)
{
    return f->from == k->from && f->to == k->to && f->id == k->id && f->protocol == k->protocol &&
           f->way == k->way;
}

static struct fragment *find(struct nat *n, const struct key *k, uint64_t hash)
{
    uint32_t entry = table_find(&n->fragments, hash);
    struct fragment *f = entry ? table_at(&n->fragments, entry) : NULL;

    if (f && is(f, k) && n->now - f->seen <= LIFE_S)
        return f;
    if (f)
        table_remove(&n->fragments, entry);
    return NULL;
}

struct fragment *nat_fragment_first(struct nat *n, struct dt_packet *p, enum dt_direction way,
                                    uint32_t inner)
{
    struct key k = key_of(p, way);
    uint64_t hash = XXH3_64bits_withSeed(&k, sizeof(k), n->seed);
    struct fragment *f = find(n, &k, hash);

    if (!f) {
        if (table_full(&n->fragments)) {
            const struct fragment *old = table_at(&n->fragments, n->fragments.oldest);

            dt_count(n->c, FRAGMENTS_FORGOTTEN, n->now - old->seen <= LIFE_S);
            table_remove(&n->fragments, n->fragments.oldest);
        }
        f = table_at(&n->fragments, table_add(&n->fragments, hash));
        f->from = k.from;
        f->to = k.to;
        f->id = k.id;
        f->protocol = k.protocol;
        f->way = k.way;
        f->new_id = n->next_id++;
    }
    f->inner = inner;
    f->seen = n->now;
    return f;
}

struct fragment *nat_fragment_later(struct nat *n, struct dt_packet *p, enum dt_direction way)
{
    struct key k = key_of(p, way);

    return find(n, &k, XXH3_64bits_withSeed(&k, sizeof(k), n->seed));
}

int nat_fragments_init(struct nat *n)
{
    n->next_id = (uint16_t)(n->seed >> 48);
    return table_init(&n->fragments, FRAGMENTS, sizeof(struct fragment));
}
