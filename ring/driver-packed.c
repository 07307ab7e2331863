/* SPDX-License-Identifier: MIT */
/*
 * driver-packed.c - the driver side of a packed virtqueue (virtio 1.2, 2.8).
 *
 * The first descriptor added since the last publish keeps its flags back; the device does not
 * look past it, so all the others are written whole. Buffer ids come from a list of their own:
 * a chain takes one id and any number of ring positions.
 */
#include "ring/internal.h"

static inline struct vring_packed_desc *desc_ring(const struct virtq_driver *d)
{
    return (struct vring_packed_desc *)(void *)(d->mem + d->desc_off);
}

static inline uint64_t *desc_word(const struct virtq_driver *d, unsigned at)
{
    return (uint64_t *)(void *)&desc_ring(d)[at].len;
}

static inline int add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                      unsigned n, uint32_t max_len, unsigned extra_flags)
{
    uint16_t id = d->free_head, at = d->avail;
    struct virtq_entry *e = &d->entries[id];
    bool wrap = d->avail_wrap;

    for (unsigned i = 0; i < n; i++) {
        uint64_t flags = (wrap ? PACKED_AVAIL : PACKED_USED) |
                         (i >= nread ? VRING_DESC_F_WRITE : 0) |
                         (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra_flags;
        uint64_t word = bufs[i].len | (uint64_t)id << 32 | flags << 48;

        WRITE_ONCE(desc_ring(d)[at].addr, bufs[i].addr);
        if (d->first_word == 0) {
            d->first_at = at;
            d->first_word = word;
        } else {
            ring_store(desc_word(d, at), word);
        }
        ring_advance(&at, &wrap, 1, d->size);
    }
    d->avail = at;
    d->avail_wrap = wrap;
    d->free_head = e->next;
    d->free_count = (uint16_t)(d->free_count - n);
    e->ndesc = (uint16_t)n;
    e->max_len = max_len;
    return id;
}

int packed_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                      unsigned n, uint32_t max_len)
{
    return add(d, bufs, nread, n, max_len, 0);
}

void packed_driver_add_tables(struct virtq_driver *d, const struct virtq_table *tables, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const struct virtq_table *t = &tables[i];
        struct virtq_buffer buf = {t->addr, t->n * (uint32_t)sizeof(struct vring_desc)};

        add(d, &buf, 1, 1, t->max_len, VRING_DESC_F_INDIRECT);
    }
}

bool packed_driver_publish(struct virtq_driver *d)
{
    uint16_t old = d->avail_published;

    if (d->first_word == 0)
        return false;
    ring_store_release(desc_word(d, d->first_at), d->first_word);
    d->first_word = 0;
    d->avail_published = d->avail;
    /* Our descriptors must be visible before we look whether the device waits for them. */
    ring_full_fence();
    return packed_event_wanted(ring_load((uint32_t *)(void *)(d->mem + d->device_off)),
                               d->event_idx, true, d->avail, old, d->avail_wrap, d->size);
}

/* Is the next used position written? @word gets its len, id and flags. */
static bool packed_driver_used(const struct virtq_driver *d, uint64_t *word)
{
    unsigned flags;

    *word = ring_load_acquire(desc_word(d, d->used));
    flags = (unsigned)(*word >> 48);
    return !!(flags & PACKED_AVAIL) == d->used_wrap && !!(flags & PACKED_USED) == d->used_wrap;
}

int packed_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max)
{
    uint64_t word;
    unsigned n = 0;

    for (; n < max && packed_driver_used(d, &word); n++) {
        uint16_t id = (uint16_t)(word >> 32);
        /* Without the write flag the length means nothing (virtio 1.2, 2.8.4). */
        uint32_t len = word >> 48 & VRING_DESC_F_WRITE ? (uint32_t)word : 0;
        struct virtq_entry *e = &d->entries[MIN(id, d->size - 1u)];

        if (n == 0)
            packed_prefetch(desc_word(d, d->used));
        if (unlikely(id >= d->size || e->ndesc == 0)) {
            driver_fault(d, "descriptor %u: used id %u is not outstanding", d->used, id);
            return n > 0 ? (int)n : -EPROTO;
        }
        if (unlikely(len > e->max_len)) {
            driver_fault(d, "descriptor %u: used id %u: %u bytes written, but %u were offered",
                         d->used, id, len, e->max_len);
            return n > 0 ? (int)n : -EPROTO;
        }
        ring_advance(&d->used, &d->used_wrap, e->ndesc, d->size);
        d->free_count = (uint16_t)(d->free_count + e->ndesc);
        e->ndesc = 0;
        e->next = d->free_head;
        d->free_head = id;
        ids[n] = id;
        if (lens)
            lens[n] = len;
    }
    return (int)n;
}

bool packed_driver_pending(const struct virtq_driver *d)
{
    uint64_t word;

    return packed_driver_used(d, &word);
}

void packed_driver_notify(struct virtq_driver *d, bool want)
{
    struct vring_packed_desc_event *event = (void *)(d->mem + d->driver_off);
    uint16_t flags = VRING_PACKED_EVENT_FLAG_DISABLE;

    if (want)
        flags = d->event_idx ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE;
    if (want && d->event_idx)
        ring_store(&event->off_wrap, d->armed_at);
    ring_store_release(&event->flags, flags);
}
