/* SPDX-License-Identifier: MIT */
/*
 * timer.c - the loop's timers: a binary heap that allocates only when it must grow.
 *
 * A timer that is set by a callback while timers fire waits for the next turn, even when its
 * deadline has passed, so that a callback which always re-arms cannot hold the thread. Its key
 * is not before the present, so it cannot keep the others from their turn either.
 */
#include "loop/engine.h"

static bool entry_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->key != b->key ? a->key < b->key : a->sequence < b->sequence;
}

static void entry_put(struct timer_heap *heap, unsigned i, struct timer_entry entry)
{
    heap->entries[i] = entry;
    entry.timer->heap_index = i;
}

/* Lets @entry find its place from the hole at @i. */
static void sift(struct timer_heap *heap, unsigned i, struct timer_entry entry)
{
    while (i > 1 && entry_before(&entry, &heap->entries[i / 2])) {
        entry_put(heap, i, heap->entries[i / 2]);
        i /= 2;
    }
    for (;;) {
        unsigned child = 2 * i;

        if (child > heap->n)
            break;
        if (child < heap->n && entry_before(&heap->entries[child + 1], &heap->entries[child]))
            child++;
        if (!entry_before(&heap->entries[child], &entry))
            break;
        entry_put(heap, i, heap->entries[child]);
        i = child;
    }
    entry_put(heap, i, entry);
}

static void heap_grow(struct timer_heap *heap)
{
    unsigned size = heap->size ? heap->size * 2 : 64;
    struct timer_entry *entries = xcalloc(size, sizeof(*entries));

    if (heap->entries)
        memcpy(entries, heap->entries, heap->size * sizeof(*entries));
    free(heap->entries);
    heap->entries = entries;
    heap->size = size;
}

/** timers_set() - (re)arm @timer; @now only keeps the order fair and may lie in the past. */
void timers_set(struct timer_heap *heap, struct dt_timer *timer, uint64_t deadline, uint64_t now)
{
    struct timer_entry entry = {MAX(deadline, now), heap->sequence++, timer};
    unsigned i = timer->heap_index;

    if (i == 0) {
        if (heap->n + 1 >= heap->size)
            heap_grow(heap);
        i = ++heap->n;
    }
    CHECK(i <= heap->n);
    timer->deadline = deadline;
    sift(heap, i, entry);
}

/** timers_cancel() - disarm @timer; harmless if it is not armed. */
void timers_cancel(struct timer_heap *heap, struct dt_timer *timer)
{
    unsigned i = timer->heap_index;
    struct timer_entry last;

    if (i == 0)
        return;
    CHECK(i <= heap->n && heap->entries[i].timer == timer);
    timer->heap_index = 0;
    last = heap->entries[heap->n--];
    if (last.timer != timer)
        sift(heap, i, last);
}

/** timers_fire() - run what was due at @now when the call began; returns how many. */
unsigned timers_fire(struct timer_heap *heap, uint64_t now)
{
    uint64_t limit = heap->sequence;
    unsigned fired = 0;

    while (heap->n && heap->entries[1].key <= now && heap->entries[1].sequence < limit) {
        struct dt_timer *timer = heap->entries[1].timer;

        timers_cancel(heap, timer);
        timer->fire(timer);
        fired++;
    }
    return fired;
}
