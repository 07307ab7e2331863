/* SPDX-License-Identifier: MIT */
/*
 * driver-split.c - the driver side of a split virtqueue (virtio 1.2, 2.7).
 *
 * Free descriptors and chains are lists over the same private links, so freeing a chain is one
 * splice; the list is last in, first out, which keeps the descriptors in use few and warm.
 */
#include "ring/internal.h"

static inline struct vring_avail *avail_ring(const struct virtq_driver *d)
{
    return (struct vring_avail *)(void *)(d->mem + d->driver_off);
}

static inline struct vring_used *used_ring(const struct virtq_driver *d)
{
    return (struct vring_used *)(void *)(d->mem + d->device_off);
}

static inline struct vring_desc *desc_table(const struct virtq_driver *d)
{
    return (struct vring_desc *)(void *)(d->mem + d->desc_off);
}

int split_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                     unsigned n, uint32_t max_len)
{
    uint16_t head = d->free_head, at = head, last = head;
    struct virtq_entry *e = &d->entries[head];

    for (unsigned i = 0; i < n; i++) {
        uint16_t next = d->entries[at].next;
        uint64_t flags =
            (i >= nread ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
        ring_word *word = (ring_word *)(void *)&desc_table(d)[at];

        word[0] = bufs[i].addr;
        word[1] = bufs[i].len | flags << 32 | (uint64_t)next << 48;
        last = at;
        at = next;
    }
    d->free_head = at;
    d->free_count = (uint16_t)(d->free_count - n);
    e->last = last;
    e->ndesc = (uint16_t)n;
    e->max_len = max_len;
    WRITE_ONCE(avail_ring(d)->ring[d->avail & (d->size - 1u)], head);
    d->avail++;
    return head;
}

/* What is there already, as where an id has a table of its own, is not written: its line stays with the device. */
static inline void set_word(void *at, uint64_t value)
{
    ring_word *word = at;

    if (*word != value)
        *word = value;
}

void split_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n)
{
    uint16_t at = d->free_head, avail = d->avail, mask = (uint16_t)(d->size - 1);
    struct vring_desc *descs = desc_table(d);
    struct vring_avail *ring = avail_ring(d);
    struct virtq_entry *entries = d->entries;

    for (unsigned i = 0; i < n; i++) {
        uint64_t addr = tables[i].addr, bytes = tables[i].n * sizeof(struct vring_desc);
        struct virtq_entry *e = &entries[at];

        set_word(&descs[at].addr, addr);
        set_word(&descs[at].len, bytes | (uint64_t)VRING_DESC_F_INDIRECT << 32);
        e->max_len = tables[i].max_len;
        e->ndesc = 1;
        e->last = at;
        WRITE_ONCE(ring->ring[avail++ & mask], at);
        at = e->next;
    }
    d->free_head = at;
    d->free_count = (uint16_t)(d->free_count - n);
    d->avail = avail;
}

bool split_driver_publish(struct virtq_driver *d)
{
    const struct vring_used *used = used_ring(d);
    uint16_t old = d->avail_published;

    if (old == d->avail)
        return false;
    ring_store_release(&avail_ring(d)->idx, d->avail);
    d->avail_published = d->avail;
    /* Our index must be visible before we look whether the device waits for it. */
    ring_full_fence();
    if (!d->event_idx)
        return !(ring_load(&used->flags) & VRING_USED_F_NO_NOTIFY);
    return vring_need_event(ring_load((const uint16_t *)(const void *)&used->ring[d->size]),
                            d->avail, old);
}

/* How many used entries wait, or -EPROTO when there are more than chains out. */
static int split_driver_finished(struct virtq_driver *d)
{
    uint16_t n = (uint16_t)(d->used_shadow - d->used);

    if (n == 0) {
        d->used_shadow = ring_load_acquire(&used_ring(d)->idx);
        n = (uint16_t)(d->used_shadow - d->used);
        if (unlikely(n > d->size))
            return driver_fault(d, "used index %u is %u ahead of %u in a ring of %u",
                                d->used_shadow, n, d->used, d->size);
    }
    return n;
}

static __attribute__((cold, noinline)) int used_fault(struct virtq_driver *d, unsigned at,
                                                      uint32_t id, uint32_t len)
{
    if (id >= d->size || d->entries[id].ndesc == 0)
        return driver_fault(d, "used entry %u: id %u is not outstanding", at, id);
    return driver_fault(d, "used entry %u: id %u: %u bytes written, but %u were offered", at, id,
                        len, d->entries[id].max_len);
}

int split_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max)
{
    int finished = split_driver_finished(d);
    unsigned n = finished < 0 ? 0 : MIN(max, (unsigned)finished), mask = d->size - 1u, i = 0;
    const struct vring_used_elem *ring = used_ring(d)->ring;
    struct virtq_entry *entries = d->entries;
    uint16_t used = d->used, free_head = d->free_head, free_count = d->free_count;

    for (; i < n; i++, used++) {
        uint32_t id = READ_ONCE(ring[used & mask].id), len = READ_ONCE(ring[used & mask].len);
        struct virtq_entry *e = &entries[id & mask];

        if (unlikely(id > mask || e->ndesc == 0 || len > e->max_len)) {
            finished = used_fault(d, used & mask, id, len);
            break;
        }
        free_count = (uint16_t)(free_count + e->ndesc);
        e->ndesc = 0;
        entries[e->last].next = free_head;
        free_head = (uint16_t)id;
        ids[i] = (uint16_t)id;
        if (lens)
            lens[i] = len;
    }
    d->used = used;
    d->free_head = free_head;
    d->free_count = free_count;
    return finished < 0 && i == 0 ? finished : (int)i;
}

bool split_driver_pending(const struct virtq_driver *d)
{
    return d->used_shadow != d->used || ring_load(&used_ring(d)->idx) != d->used;
}

void split_driver_notify(struct virtq_driver *d, bool want)
{
    if (!d->event_idx)
        ring_store(&avail_ring(d)->flags, want ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
    else if (want)
        ring_store(&avail_ring(d)->ring[d->size], d->armed_at);
}
