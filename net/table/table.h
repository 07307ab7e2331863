/* SPDX-License-Identifier: MIT */
/*
 * table.h - entries found by a hash, of which the oldest is forgotten first.
 *
 * Entries have numbers from 1 on; 0 is none. Memory that was never needed is never touched. Nothing is allocated
 * after table_init().
 */
#ifndef NET_TABLE_H
#define NET_TABLE_H

#include "base/base.h"

/** struct node - what each entry begins with: the upper half of its hash, and numbers of others. The lower bits of the
 *  hash are known by the chain that it is in. */
struct node {
    uint32_t key, chain, newer, older;
};

struct table {
    uint8_t *memory;
    uint32_t *heads;
    size_t stride, bytes;
    uint32_t capacity, count, mask, free, newest, oldest;
};

/** table_init() - @capacity entries of @stride bytes, each with a struct node first; 0 or -ENOMEM. */
int table_init(struct table *t, uint32_t capacity, size_t stride);
void table_fini(struct table *t);
/** table_find() - the number of the entry with @hash, or 0. */
uint32_t table_find(const struct table *t, uint64_t hash);
/** table_add() - a zeroed entry, the newest; there must be room. @hash is in no other. */
uint32_t table_add(struct table *t, uint64_t hash);
/** table_hash() - of @entry: what it is found by. */
uint64_t table_hash(const struct table *t, uint32_t entry);
/** table_remove() - forget @entry. */
void table_remove(struct table *t, uint32_t entry);
/** table_touch() - @entry is the newest. */
void table_touch(struct table *t, uint32_t entry);

static inline void *table_at(const struct table *t, uint32_t entry)
{
    return t->memory + (size_t)(entry - 1) * t->stride;
}

/* To ask for lines of memory a burst ahead, each when that before it is there. They change nothing. */

/** table_ask() - for what leads to entries with @hash. */
static inline void table_ask(const struct table *t, uint64_t hash)
{
    __builtin_prefetch(&t->heads[(uint32_t)hash & t->mask]);
}
/** table_ask_entry() - for the one that table_find() looks at first. Return: its number, or 0. */
static inline uint32_t table_ask_entry(const struct table *t, uint64_t hash)
{
    uint32_t entry = t->heads[(uint32_t)hash & t->mask];

    if (entry) {
        const char *at = table_at(t, entry);

        __builtin_prefetch(at);
        __builtin_prefetch(at + t->stride - 1);
    }
    return entry;
}
/** table_ask_neighbours() - for those that table_touch() of @entry changes, too. */
static inline void table_ask_neighbours(const struct table *t, uint32_t entry)
{
    const struct node *n = table_at(t, entry);

    if (n->newer)
        __builtin_prefetch(table_at(t, n->newer));
    if (n->older)
        __builtin_prefetch(table_at(t, n->older));
}

/** table_is() - is @entry, which once was that with @hash, still? Others that took its place are told apart by half of theirs. */
static inline bool table_is(const struct table *t, uint32_t entry, uint64_t hash)
{
    return ((const struct node *)table_at(t, entry))->key == (uint32_t)(hash >> 32);
}
static inline bool table_full(const struct table *t)
{
    return t->count == t->capacity;
}

#endif
