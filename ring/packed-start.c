/* SPDX-License-Identifier: MIT */
/*
 * packed-start.c - a packed virtqueue begins: afresh, or where a process that died has left it.
 *
 * Theory of operation: the log's chains were judged (inflight.c), and say where the ring stands. What the dead process had taken
 * beyond them is the tail (tail.c), whose descriptors are still in the ring: it is entered in the log, and then all of it is taken again
 * from there.
 */
#include "ring/packed.h"

/* Of the tail, whose chains have one descriptor each: it is still where the driver put it, and judged anew by whoever takes it
 * from the log. */
void packed_enter(struct virtq *vq, uint16_t place, uint16_t id)
{
    const struct vring_packed_desc *ring = vq->desc_area;
    struct ring_desc d = desc_packed(READ_ONCE(ring[place].addr), ring_load(desc_word(vq, place)));

    d.next = id;
    d.flags &= (uint16_t)~VRING_DESC_F_NEXT;
    packed_log_take(vq, id, &d, 1);
}

/* Positions in flight must not look used, or the driver takes them for completions. */
static void packed_unmark(struct virtq *vq, unsigned n)
{
    struct vring_packed_desc *ring = vq->desc_area;
    bool wrap = vq->used_wrap;
    uint16_t at = vq->used;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = READ_ONCE(ring[at].flags);

        if (!!(flags & PACKED_AVAIL) == wrap && !!(flags & PACKED_USED) == wrap)
            WRITE_ONCE(ring[at].flags, flags ^ PACKED_USED);
        RING_STEP();
        ring_advance(&at, &wrap, 1, vq->config.size);
    }
}

static int packed_start_fresh(struct virtq *vq, uint32_t base, struct dt_error *err)
{
    union log_packed_used *used = &packed_log(vq)->used;
    uint16_t size = vq->config.size;

    /* Some front ends set only the lower half: nothing is in flight, so used = available. */
    if (base == 0x8000)
        base |= base << 16;
    vq->last_avail = base & 0x7fff;
    vq->avail_wrap = base >> 15 & 1;
    vq->used = base >> 16 & 0x7fff;
    vq->used_wrap = base >> 31;
    if (vq->last_avail >= size || vq->used >= size)
        return dt_fail(err, -EINVAL, "ring base 0x%x is outside a packed ring of %u", base, size);
    used->used_idx = used->old_used_idx = vq->used;
    used->used_wrap = used->old_used_wrap = vq->used_wrap;
    for (uint16_t i = 0; i < size; i++)
        vq->log_next[i] = (uint16_t)(i + 1 < size ? i + 1 : 0);
    return 0;
}

/* Whose buffer ids are in chains that the log has. */
static void packed_mark_logged(const struct virtq *vq, bool *seen)
{
    const struct log_packed *log = packed_log(vq);

    for (unsigned i = 0; i < vq->replay_count; i++) {
        uint16_t at = vq->replay[i];

        while (vq->log_next[at] != at)
            at = vq->log_next[at];
        seen[READ_ONCE(log->desc[at].id) % vq->config.size] = true;
    }
}

/* The process before had taken @n more than the log has: their descriptors are where the driver put them. */
static int packed_take_over(struct virtq *vq, unsigned n, struct dt_error *err)
{
    _cleanup_free_ bool *seen = xcalloc(vq->config.size, sizeof(*seen));

    packed_mark_logged(vq, seen);
    for (unsigned i = 0; i < n; i++) {
        uint16_t place = vq->last_avail, id = (uint16_t)(ring_load(desc_word(vq, place)) >> 32);

        if (id >= vq->config.size || seen[id])
            return dt_fail(err, -EBADMSG, "descriptor %u: buffer id %u, which was taken, is %s now",
                           place, id,
                           id >= vq->config.size ? "outside the ring" : "in flight twice");
        seen[id] = true;
        packed_enter(vq, place, id);
        vq->replay[vq->replay_count] = vq->entered[id].first;
        vq->log_next[vq->replay[vq->replay_count]] = vq->replay[vq->replay_count];
        vq->replay_count++;
        vq->descs++;
        ring_advance(&vq->last_avail, &vq->avail_wrap, 1, vq->config.size);
    }
    return 0;
}

int packed_start(struct virtq *vq, uint32_t base, bool recover, struct dt_error *err)
{
    struct log_found found = {.order = vq->replay};
    uint16_t size = vq->config.size;
    int r;

    vq->copy = ring_array(size, sizeof(*vq->copy));
    vq->entered = ring_array(size, sizeof(*vq->entered));
    vq->log_next = found.next = ring_array(size, sizeof(*vq->log_next));
    if (!recover)
        return packed_start_fresh(vq, base, err);
    r = log_packed_recover(packed_log(vq), size, vq->desc_area, &found, err);
    if (r < 0)
        return r;
    vq->replay_count = found.count;
    vq->counter = found.counter;
    vq->log_free = found.free_head;
    vq->descs = found.descs;
    vq->used = vq->last_avail = found.used_idx;
    vq->used_wrap = vq->avail_wrap = found.used_wrap;
    ring_advance(&vq->last_avail, &vq->avail_wrap, found.descs, size);
    packed_unmark(vq, found.descs);
    return packed_take_over(vq, found.tail, err);
}
