/* SPDX-License-Identifier: MIT */
/*
 * table.c - see table.h.
 *
 * A slot of the index is chosen by the lower half of the hash and the entry in its chain by the upper half; with a
 * slot for each entry both halves together make two flows that are taken for one a matter of one in 2^52
 * pairs of them. Which slot an entry is in is not kept in it: a chain ends with the number of its slot (CHAIN_END).
 */
#include "net/table/table.h"

#include <sys/mman.h>

/* In @chain of a chain's last entry: the slot, so that the chain of an entry is known. */
#define CHAIN_END 0x80000000u

static uint32_t slot_of(const struct table *t, uint64_t hash)
{
    return (uint32_t)hash & t->mask;
}

static struct node *at(const struct table *t, uint32_t entry)
{
    return table_at(t, entry);
}

int table_init(struct table *t, uint32_t capacity, size_t stride)
{
    uint32_t slots = 1;
    size_t index;

    while (slots < capacity)
        slots *= 2;
    CHECK(slots < CHAIN_END);
    index = ALIGN_UP(slots * sizeof(uint32_t), (size_t)PAGE_SIZE_4K);
    *t = (struct table){.stride = stride,
                        .capacity = capacity,
                        .mask = slots - 1,
                        .bytes = index + capacity * stride};
    t->heads = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->heads == MAP_FAILED) {
        t->heads = NULL;
        return -ENOMEM;
    }
    t->memory = (uint8_t *)t->heads + index;
    return 0;
}

void table_fini(struct table *t)
{
    if (t->heads)
        munmap(t->heads, t->bytes);
}

uint32_t table_find(const struct table *t, uint64_t hash)
{
    uint32_t entry = t->heads[slot_of(t, hash)], key = (uint32_t)(hash >> 32);

    for (; entry && !(entry & CHAIN_END); entry = at(t, entry)->chain)
        if (at(t, entry)->key == key)
            return entry;
    return 0;
}

/* ---- By age ---- */

static void unlink_age(struct table *t, uint32_t entry)
{
    const struct node *n = at(t, entry);

    *(n->newer ? &at(t, n->newer)->older : &t->newest) = n->older;
    *(n->older ? &at(t, n->older)->newer : &t->oldest) = n->newer;
}

static void link_newest(struct table *t, uint32_t entry)
{
    struct node *n = at(t, entry);

    n->newer = 0;
    n->older = t->newest;
    *(t->newest ? &at(t, t->newest)->newer : &t->oldest) = entry;
    t->newest = entry;
}

void table_touch(struct table *t, uint32_t entry)
{
    if (t->newest == entry)
        return;
    unlink_age(t, entry);
    link_newest(t, entry);
}

/* ---- Coming and going ---- */

uint32_t table_add(struct table *t, uint64_t hash)
{
    uint32_t slot = slot_of(t, hash), *head = &t->heads[slot], entry = t->free;
    struct node *n;

    CHECK(!table_full(t));
    if (entry)
        t->free = at(t, entry)->chain;
    else
        entry = t->count + 1; /* nothing was freed, so all before are in use */
    t->count++;
    n = at(t, entry);
    memset(n, 0, t->stride);
    n->key = (uint32_t)(hash >> 32);
    n->chain = *head ?: (CHAIN_END | slot);
    *head = entry;
    link_newest(t, entry);
    return entry;
}

static uint32_t slot_with(const struct table *t, uint32_t entry)
{
    uint32_t end = at(t, entry)->chain;

    while (!(end & CHAIN_END))
        end = at(t, end)->chain;
    return end & ~CHAIN_END;
}

uint64_t table_hash(const struct table *t, uint32_t entry)
{
    return (uint64_t)at(t, entry)->key << 32 | slot_with(t, entry);
}

void table_remove(struct table *t, uint32_t entry)
{
    struct node *n = at(t, entry);
    uint32_t *head = &t->heads[slot_with(t, entry)], *link = head;

    while (*link != entry)
        link = &at(t, *link)->chain;
    *link = link == head && n->chain & CHAIN_END ? 0 : n->chain;
    unlink_age(t, entry);
    n->chain = t->free;
    t->free = entry;
    t->count--;
    if (t->oldest &&
        at(t, t->oldest)->chain & CHAIN_END) /* who makes room for one does for the next */
        __builtin_prefetch(&t->heads[at(t, t->oldest)->chain & ~CHAIN_END]);
}
