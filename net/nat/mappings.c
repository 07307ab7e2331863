/* SPDX-License-Identifier: MIT */
/*
 * mappings.c - which port of the outer address stands for which of a guest's.
 *
 * Theory of operation: a mapping is found in two ways: from inside by a keyed hash of protocol, address and port (table.h),
 * from outside by the port, in an array. Whom the guest talks to is no part of it: mapping and filtering are
 * endpoint-independent (RFC 4787, 4.1 and 5; RFC 5382, 4.1 and 4.3).
 *
 * The port is the guest's own if that is free. Else it follows from the keyed hash, with the same parity (RFC 4787,
 * 4.2.2): a successor process that has the key but not yet the newest mappings chooses most of them again as they were.
 *
 * Age is kept by protocol and class, for each has a timeout of its own; so the first of each list is all that is looked at.
 * When there is no room the oldest of those goes that were never answered, are closing, or are ICMP. What was
 * answered is never lost to a newcomer: a scan, from whichever side, replaces its own mappings alone.
 */
#include "net/nat/internal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define TRIES       64u  /* ports looked at before an old mapping has to go */
#define EXPIRE_MOST 256u /* at a time: a packet waits for it */

static uint64_t hash_of(const struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port)
{
    const struct {
        uint32_t inner;
        uint16_t port, protocol;
    } key = {inner, port, (uint16_t)protocol};

    return XXH3_64bits_withSeed(&key, sizeof(key), n->seed);
}

/* ---- Finding ---- */

static struct mapping *at(const struct nat *n, uint32_t entry)
{
    return entry ? table_at(&n->table, entry) : NULL;
}

static bool is(const struct mapping *m, enum protocol protocol, uint32_t inner, uint16_t port)
{
    return m->protocol == protocol && m->inner == inner && m->port == port;
}

struct mapping *nat_find(const struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port)
{
    struct mapping *m = at(n, table_find(&n->table, hash_of(n, protocol, inner, port)));

    return m && is(m, protocol, inner, port) ? m : NULL;
}

struct mapping *nat_find_outer(const struct nat *n, enum protocol protocol, uint16_t outer)
{
    return at(n, n->ports[protocol][outer]);
}

/* ---- Coming and going ---- */

void nat_remove(struct nat *n, struct mapping *m)
{
    uint32_t entry = n->ports[m->protocol][m->outer];

    n->ports[m->protocol][m->outer] = 0;
    n->used[m->protocol] -= m->class != FORWARD;
    list_del(&m->age);
    table_remove(&n->table, entry);
    dt_layer_state_changed(n->layer);
}

void nat_remove_class(struct nat *n, enum class class)
{
    for (enum protocol p = TCP; p < PROTOCOLS; p++)
        while (!list_empty(&n->ages[p][class]))
            nat_remove(n, list_entry(n->ages[p][class].next, struct mapping, age));
}

struct mapping *nat_add(struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port,
                        uint16_t outer, enum class class)
{
    uint64_t hash = hash_of(n, protocol, inner, port);
    uint32_t *slot = &n->ports[protocol][outer], same = table_find(&n->table, hash);
    struct mapping *m;

    if ((*slot && at(n, *slot)->class == FORWARD) || (same && at(n, same)->class == FORWARD))
        return NULL;
    if (*slot)
        nat_remove(n, at(n, *slot));
    same = table_find(&n->table, hash);
    if (same)
        nat_remove(n, at(n, same));
    if (table_full(&n->table))
        return NULL;
    *slot = table_add(&n->table, hash);
    m = at(n, *slot);
    m->inner = inner;
    m->port = port;
    m->outer = outer;
    m->protocol = (uint8_t)protocol;
    m->class = (uint8_t) class;
    m->seen = n->now;
    list_add_tail(&n->ages[protocol][class], &m->age);
    n->used[protocol] += class != FORWARD;
    dt_layer_state_changed(n->layer);
    return m;
}

/* ---- Making room ---- */

static struct mapping *oldest(const struct nat *n, enum protocol protocol, enum class class)
{
    const struct list *l = &n->ages[protocol][class];

    return list_empty(l) ? NULL : list_entry(l->next, struct mapping, age);
}

static struct mapping *older(struct mapping *a, struct mapping *b)
{
    return !a || (b && b->seen < a->seen) ? b : a;
}

static struct mapping *victim_of(const struct nat *n, enum protocol protocol)
{
    struct mapping *m = older(oldest(n, protocol, FRESH), oldest(n, protocol, CLOSING));

    return protocol == ICMP ? older(m, oldest(n, ICMP, ANSWERED)) : m;
}

static struct mapping *victim(const struct nat *n)
{
    return older(older(victim_of(n, TCP), victim_of(n, UDP)), victim_of(n, ICMP));
}

/* Returns the port that it had, 0 if there is nobody to go. */
static uint16_t forget(struct nat *n, struct mapping *m)
{
    uint16_t outer = m ? m->outer : 0;

    if (m) {
        nat_remove(n, m);
        dt_count(n->c, FORGOTTEN, 1);
    }
    return outer;
}

static bool usable(const struct nat *n, enum protocol protocol, uint16_t port)
{
    return port >= n->low && port <= n->high && !n->ports[protocol][port];
}

/* 0 = none. */
static uint16_t choose_port(struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port)
{
    uint32_t size = n->high - n->low + 1u;
    uint64_t hash = hash_of(n, protocol, inner, port);

    if (usable(n, protocol, port))
        return port;
    for (unsigned i = 0; i < TRIES && n->used[protocol] < size; i++) {
        uint32_t candidate = n->low + (uint32_t)(hash >> 20) % size;

        if (((candidate ^ port) & 1) && size > 1)
            candidate += candidate < n->high ? 1 : -1;
        if (usable(n, protocol, (uint16_t)candidate))
            return (uint16_t)candidate;
        hash = XXH3_64bits_withSeed(&hash, sizeof(hash), n->seed);
    }
    return forget(n, victim_of(n, protocol));
}

struct mapping *nat_make(struct nat *n, enum protocol protocol, uint32_t inner, uint16_t port)
{
    uint64_t most = n->table.capacity - FORWARDED_MAX;
    uint16_t outer;
    struct mapping *m = NULL;

    if (n->used[TCP] + n->used[UDP] + n->used[ICMP] < most || forget(n, victim(n))) {
        outer = choose_port(n, protocol, inner, port);
        m = outer ? nat_add(n, protocol, inner, port, outer, FRESH) : NULL;
    }
    dt_count(n->c, CREATED, m != NULL);
    return m;
}

/* ---- Age ---- */

void nat_use(struct nat *n, struct mapping *m)
{
    if (m->seen == n->now)
        return;
    m->seen = n->now;
    list_del(&m->age);
    list_add_tail(&n->ages[m->protocol][m->class], &m->age);
}

void nat_set_class(struct nat *n, struct mapping *m, enum class class)
{
    if (m->class == class || m->class == FORWARD)
        return;
    m->class = (uint8_t) class;
    m->seen = n->now; /* or the list would not be in the order of age */
    list_del(&m->age);
    list_add_tail(&n->ages[m->protocol][class], &m->age);
    dt_layer_state_changed(n->layer);
}

static uint64_t timeout_of(const struct nat *n, enum protocol protocol, enum class class)
{
    if (protocol == TCP)
        return class == ANSWERED ? n->tcp_timeout : n->transitory_timeout;
    return protocol == UDP ? n->udp_timeout : n->icmp_timeout;
}

void nat_expire(struct nat *n)
{
    unsigned left = EXPIRE_MOST;

    if (n->looked == n->now)
        return;
    for (enum protocol p = TCP; p < PROTOCOLS; p++)
        for (enum class class = FRESH; class < FORWARD; class ++) {
            uint64_t timeout = timeout_of(n, p, class) / DT_S(1);
            struct mapping *m;

            while (left > 0 && (m = oldest(n, p, class)) != NULL && n->now - m->seen > timeout) {
                nat_remove(n, m);
                dt_count(n->c, EXPIRED, 1);
                left--;
            }
        }
    if (left > 0)
        n->looked = n->now;
}

/* ---- Life ---- */

int nat_mappings_init(struct nat *n)
{
    for (enum protocol p = TCP; p < PROTOCOLS; p++) {
        for (enum class class = FRESH; class < CLASSES; class ++)
            list_init(&n->ages[p][class]);
        n->ports[p] = calloc(65536, sizeof(uint32_t));
        if (!n->ports[p])
            return -ENOMEM;
    }
    return table_init(&n->table, (uint32_t)n->mappings_max + FORWARDED_MAX, sizeof(struct mapping));
}

void nat_mappings_fini(struct nat *n)
{
    for (enum protocol p = TCP; p < PROTOCOLS; p++)
        free(n->ports[p]);
    table_fini(&n->table);
}
