/* SPDX-License-Identifier: MIT */
/* packed.h - a packed ring's descriptors and in-flight log, for those that write to them. */
#ifndef RING_PACKED_H
#define RING_PACKED_H

#include "ring/internal.h"

static inline struct log_packed *packed_log(const struct virtq *vq)
{
    return vq->config.inflight;
}

/* Length, id and flags of a ring descriptor, as one word. */
static inline uint64_t *desc_word(const struct virtq *vq, unsigned at)
{
    struct vring_packed_desc *ring = vq->desc_area;

    return (uint64_t *)(void *)&ring[at].len;
}

static inline bool word_available(uint64_t word, bool wrap)
{
    return (word >> 48 & (PACKED_AVAIL | PACKED_USED)) == (wrap ? PACKED_AVAIL : PACKED_USED);
}

/* Both halves of the free list's head in one store, and both used positions in another. */
static inline void log_set_lists(struct virtq *vq, uint16_t head, uint16_t old)
{
    WRITE_ONCE(packed_log(vq)->lists.whole, log_packed_lists(vq->config.size, head, old));
    RING_STEP();
}

static inline void log_set_used(struct virtq *vq, uint16_t idx, bool wrap, uint16_t old,
                                bool old_wrap)
{
    union log_packed_used used = {{idx, old, wrap, old_wrap, {0}}};

    WRITE_ONCE(packed_log(vq)->used.whole, used.whole);
    RING_STEP();
}

/* Enter the chain of these descriptors in the log; from its first word on a successor will return it. */
static inline void packed_log_take(struct virtq *vq, uint16_t id, const struct ring_desc *descs,
                                   unsigned n)
{
    struct log_packed *log = packed_log(vq);
    const uint16_t *next = vq->log_next;
    uint16_t first = vq->log_free, last = first, at = first;

    for (unsigned i = 0; i < n; i++) {
        struct log_packed_entry *e = &log->desc[at];

        e->id = descs[i].next;
        e->flags = descs[i].flags;
        e->len = descs[i].len;
        e->addr = descs[i].addr;
        last = at;
        at = next[at];
    }
    log->desc[first].counter = vq->counter++;
    vq->entered[id] = (struct virtq_entered){first, last};
    RING_STEP();
    WRITE_ONCE(log->desc[first].word.whole, log_packed_taken(next[first], last, (uint16_t)n));
    RING_STEP();
    vq->log_free = at;
    log_set_lists(vq, at, at);
}

#endif
