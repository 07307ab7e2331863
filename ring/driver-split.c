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

int split_driver_add(struct virtq_driver *d, const struct virtq_buffer *bufs, unsigned nread,
                     unsigned n, uint32_t max_len, unsigned extra_flags)
{
    struct vring_desc *table = (struct vring_desc *)(void *)(d->mem + d->desc_off);
    uint16_t head = d->free_head, at = head, last = head;

    for (unsigned i = 0; i < n; i++, at = d->next[at]) {
        uint64_t flags = (i >= nread ? VRING_DESC_F_WRITE : 0) |
                         (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra_flags;
        ring_word *word = (ring_word *)(void *)&table[at];

        word[0] = bufs[i].addr;
        word[1] = bufs[i].len | flags << 32 | (uint64_t)d->next[at] << 48;
        last = at;
    }
    d->free_head = at;
    d->free_count = (uint16_t)(d->free_count - n);
    d->last[head] = last;
    d->chain_len[head] = (uint16_t)n;
    d->max_len[head] = max_len;
    WRITE_ONCE(avail_ring(d)->ring[d->avail & (d->size - 1u)], head);
    d->avail++;
    return head;
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

int split_driver_reap(struct virtq_driver *d, uint16_t *ids, uint32_t *lens, unsigned max)
{
    int finished = split_driver_finished(d);
    unsigned n = finished < 0 ? 0 : MIN(max, (unsigned)finished);

    for (unsigned i = 0; i < n; i++, d->used++) {
        unsigned at = d->used & (d->size - 1u);
        const struct vring_used_elem *e = &used_ring(d)->ring[at];
        uint32_t id = READ_ONCE(e->id), len = READ_ONCE(e->len);

        if (unlikely(id >= d->size || d->chain_len[id] == 0 || len > d->max_len[id])) {
            if (id >= d->size || d->chain_len[id] == 0)
                driver_fault(d, "used entry %u: id %u is not outstanding", at, id);
            else
                driver_fault(d, "used entry %u: id %u: %u bytes written, but %u were offered", at,
                             id, len, d->max_len[id]);
            return i > 0 ? (int)i : -EPROTO;
        }
        d->free_count = (uint16_t)(d->free_count + d->chain_len[id]);
        d->chain_len[id] = 0;
        d->next[d->last[id]] = d->free_head;
        d->free_head = (uint16_t)id;
        ids[i] = (uint16_t)id;
        if (lens)
            lens[i] = len;
    }
    return finished < 0 ? finished : (int)n;
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
