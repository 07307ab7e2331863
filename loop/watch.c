/* SPDX-License-Identifier: MIT */
/*
 * watch.c - the table of watches, and the keys by which the kernel knows them.
 *
 * Key: generation (32 bits), slot (30 bits), tag (2 bits). dt_watch.loop_private holds slot + 1.
 */
#include "loop/engine.h"

static void table_grow(struct watch_table *table)
{
    unsigned size = table->size ? table->size * 2 : 32;
    struct watch_slot *slots = xcalloc(size, sizeof(*slots));

    if (table->slots)
        memcpy(slots, table->slots, table->size * sizeof(*slots));
    for (unsigned i = size; i-- > table->size;) {
        slots[i].next = table->free;
        table->free = i + 1;
    }
    free(table->slots);
    table->slots = slots;
    table->size = size;
}

/** watch_slot_take() - a slot for @watch; pointers to slots are void afterwards. */
unsigned watch_slot_take(struct watch_table *table, struct dt_watch *watch)
{
    unsigned index;

    if (!table->free)
        table_grow(table);
    index = table->free - 1;
    table->free = table->slots[index].next;
    table->slots[index].next = 0;
    table->slots[index].watch = watch;
    table->used++;
    watch->loop_private = (void *)(uintptr_t)(index + 1);
    return index;
}

/** watch_slot_release() - no key given out before leads here any more. */
void watch_slot_release(struct watch_table *table, unsigned index)
{
    struct watch_slot *slot = &table->slots[index];

    slot->watch = NULL;
    slot->generation++;
    slot->armed = false;
    table->used--;
    if (slot->queued)
        return; /* it goes to the free list when it leaves the other one */
    slot->next = table->free;
    table->free = index + 1;
}

uint64_t watch_key(const struct watch_table *table, unsigned index)
{
    return (uint64_t)table->slots[index].generation << 32 | (uint64_t)index << 2 | KEY_WATCH;
}

/** watch_find() - the slot of @key, unless its watch was removed since. */
bool watch_find(const struct watch_table *table, uint64_t key, unsigned *index)
{
    *index = (uint32_t)key >> 2;
    return *index < table->size && table->slots[*index].watch &&
           table->slots[*index].generation == key >> 32;
}

/** watch_index() - the slot of a watch that is registered here. */
unsigned watch_index(const struct watch_table *table, const struct dt_watch *watch)
{
    uintptr_t index = (uintptr_t)watch->loop_private - 1;

    CHECK(index < table->size && table->slots[index].watch == watch);
    return (unsigned)index;
}
