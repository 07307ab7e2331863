/* SPDX-License-Identifier: MIT */
/*
 * index.c - which block is in which slot, and which slot is the next to go.
 *
 * Sixteen consecutive blocks share a set of 64 slots, and consecutive groups have consecutive
 * sets; so a working set in one piece spreads evenly, and nothing needs to be stored but 8 bytes
 * for each slot. A block's *home* slots are the four whose number modulo 16 is its own: blocks that
 * follow each other then mostly do so in the file, too, and one transfer moves them.
 *
 * What goes is found by CLOCK, within the set: it approximates the least recently used with one bit
 * for each slot, where lists would take 8 bytes and a write for each hit. A block enters without
 * the bit and gets it when it is used again, so what was read once goes before what is in use.
 */
#include "blk/cache/internal.h"

#define NOT_EVICTABLE (SLOT_KEPT | SLOT_LEAVING | SLOT_BUSY | SLOT_DESTAGE)

static inline bool holds(const struct cache *k, uint32_t slot, uint64_t block)
{
    return (k->index[slot] & CACHE_ENTRY_KEY) == (block | CACHE_ENTRY_VALID);
}

static inline uint32_t set_base(const struct cache *k, uint64_t block)
{
    return (uint32_t)(cache_set_of(k->sets, block) * CACHE_WAYS);
}

uint32_t index_find(const struct cache *k, uint64_t block)
{
    uint32_t base = set_base(k, block), home = block % CACHE_GROUP;

    if (unlikely(block >= k->blocks))
        return SLOT_NONE;
    for (uint32_t way = home; way < CACHE_WAYS; way += CACHE_GROUP)
        if (holds(k, base + way, block))
            return base + way;
    for (uint32_t slot = base; slot < base + CACHE_WAYS; slot++)
        if (holds(k, slot, block))
            return slot;
    return SLOT_NONE;
}

/* ---- Changes ---- */

static void store(struct cache *k, uint32_t slot, uint64_t key)
{
    k->index[slot] = key ? cache_entry(k->super.salt, slot, key) : 0;
    cache_live_write(k, slot);
}

static void count_dirty(struct cache *k, uint32_t slot, int change)
{
    k->dirty += (uint64_t)(int64_t)change;
    k->page_dirty[slot / CACHE_PAGE_SLOTS] =
        (uint16_t)(k->page_dirty[slot / CACHE_PAGE_SLOTS] + change);
    cache_gauge(k, DIRTY, k->dirty);
}

static void count_used(struct cache *k, int change)
{
    k->used += (uint64_t)(int64_t)change;
    cache_gauge(k, USED, k->used);
}

void index_dirty(struct cache *k, uint32_t slot)
{
    k->flags[slot] = (uint8_t)((k->flags[slot] | SLOT_AGAIN) & ~SLOT_SAFE);
    if (slot_dirty(k, slot))
        return;
    store(k, slot, (k->index[slot] & CACHE_ENTRY_KEY) | CACHE_ENTRY_DIRTY);
    count_dirty(k, slot, 1);
    k->page_touched[slot / CACHE_PAGE_SLOTS] = true;
}

void index_clean(struct cache *k, uint32_t slot)
{
    CHECK(slot_dirty(k, slot));
    store(k, slot, k->index[slot] & CACHE_ENTRY_KEY);
    count_dirty(k, slot, -1);
}

void index_drop(struct cache *k, uint32_t slot)
{
    CHECK(slot_valid(k, slot) && !slot_bound(k, slot));
    k->flags[slot] = 0;
    store(k, slot, 0);
    count_used(k, -1);
}

void index_reuse(struct cache *k, uint32_t slot)
{
    CHECK(k->users[slot] == 0);
    if (slot_valid(k, slot))
        index_drop(k, slot);
    k->flags[slot] = SLOT_BUSY;
}

void index_give_back(struct cache *k, uint32_t slot)
{
    CHECK(k->flags[slot] == SLOT_BUSY);
    k->flags[slot] = 0;
}

void index_set(struct cache *k, uint32_t slot, uint64_t block, bool dirty)
{
    CHECK(k->flags[slot] == SLOT_BUSY && !slot_valid(k, slot));
    k->flags[slot] = 0;
    store(k, slot, block | CACHE_ENTRY_VALID | (dirty ? CACHE_ENTRY_DIRTY : 0));
    count_used(k, 1);
    if (!dirty)
        return;
    count_dirty(k, slot, 1);
    k->page_touched[slot / CACHE_PAGE_SLOTS] = true;
}

/* ---- Which goes ---- */

static bool evictable(const struct cache *k, uint32_t slot)
{
    return !slot_dirty(k, slot) && !(k->flags[slot] & NOT_EVICTABLE) && k->users[slot] == 0;
}

static uint32_t take(struct cache *k, uint32_t slot)
{
    if (slot_valid(k, slot) && k->c)
        dt_count(k->c, EVICTIONS, 1);
    index_reuse(k, slot);
    return slot;
}

/* Behind the block before, if that slot can be had; else any home slot without the bit. */
static uint32_t take_home(struct cache *k, uint32_t base, uint64_t block)
{
    uint32_t home = block % CACHE_GROUP, found = SLOT_NONE;

    for (uint32_t slot = base + home; slot < base + CACHE_WAYS; slot += CACHE_GROUP) {
        bool after = home && holds(k, slot - 1, block - 1);

        if (!evictable(k, slot) || k->flags[slot] & SLOT_REF)
            continue;
        if (after)
            return slot;
        if (found == SLOT_NONE || (slot_valid(k, found) && !slot_valid(k, slot)))
            found = slot;
    }
    return found;
}

static uint32_t take_clock(struct cache *k, uint32_t base)
{
    uint8_t *hand = &k->hands[base / CACHE_WAYS];

    for (unsigned i = 0; i < 2 * CACHE_WAYS; i++) {
        uint32_t slot = base + *hand;

        *hand = (uint8_t)((*hand + 1) % CACHE_WAYS);
        if (!evictable(k, slot))
            continue;
        if (!(k->flags[slot] & SLOT_REF))
            return slot;
        k->flags[slot] &= (uint8_t)~SLOT_REF;
    }
    return SLOT_NONE;
}

uint32_t index_take(struct cache *k, uint64_t block)
{
    uint32_t base = set_base(k, block), slot;

    if (block >= k->blocks)
        return SLOT_NONE;
    slot = take_home(k, base, block);
    if (slot != SLOT_NONE && !slot_valid(k, slot))
        return take(k, slot);
    for (uint32_t other = base; other < base + CACHE_WAYS; other++)
        if (!slot_valid(k, other) && evictable(k, other))
            return take(k, other);
    if (slot == SLOT_NONE)
        slot = take_clock(k, base);
    return slot == SLOT_NONE ? SLOT_NONE : take(k, slot);
}
