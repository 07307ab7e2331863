/* SPDX-License-Identifier: MIT */
/*
 * translated.c - rings behind a vIOMMU: what a chain uses, and a ring's own memory that comes and goes.
 *
 * Theory of operation: the guest may take memory back at any time, a request's and the ring's. Who is
 * told so has to know which chains use it: each chain notes the lowest and the highest I/O address that
 * it touches, its indirect table included. That is coarse, and says yes rather than no.
 */
#include "ring/internal.h"

struct virtq_spans *virtq_spans_new(uint16_t size)
{
    struct virtq_spans *spans = xcalloc(1, sizeof(*spans) + size * sizeof(spans->of[0]));

    spans->now = SPAN_NONE;
    return spans;
}

void walk_span(struct walk *w, uint64_t addr, uint64_t len)
{
    struct virtq_span *now = &w->vq->spans->now;

    now->first = MIN(now->first, addr);
    now->last = MAX(now->last, addr + (len - 1));
}

void walk_forget(struct walk *w)
{
    w->vq->spans->now = SPAN_NONE;
    w->vq->spans->missing = false;
}

int walk_end_translated(struct walk *w, uint16_t id)
{
    struct virtq_spans *spans = w->vq->spans;

    if (spans->missing) {
        w->vq->missing = true;
        return walk_abort(w, -EAGAIN);
    }
    spans->of[id] = spans->now;
    walk_forget(w);
    return 0;
}

static bool overlaps(uint64_t first, uint64_t last, uint64_t iova, uint64_t size)
{
    return first <= last && first <= span_last(iova, size) && iova <= last;
}

bool virtq_uses(const struct virtq *vq, uint16_t id, uint64_t iova, uint64_t size)
{
    return vq->state[id] == VIRTQ_ID_TAKEN &&
           overlaps(vq->spans->of[id].first, vq->spans->of[id].last, iova, size);
}

bool virtq_lies_in(const struct virtq *vq, uint64_t iova, uint64_t size)
{
    struct virtq_area areas[VIRTQ_AREAS];

    virtq_areas(&vq->config, areas);
    for (unsigned i = 0; i < VIRTQ_AREAS; i++)
        if (overlaps(areas[i].addr, areas[i].addr + (areas[i].len - 1), iova, size))
            return true;
    return false;
}

void virtq_unmap(struct virtq *vq)
{
    CHECK(vq->started && vq->spans && vq->in_flight == 0 && vq->done_count == 0 &&
          vq->returned_count == 0);
    vq->desc_area = vq->driver_area = vq->device_area = NULL;
    vq->notify_known = false;
}

int virtq_map(struct virtq *vq, struct dt_error *err)
{
    CHECK(vq->started && vq->spans);
    return virtq_find_areas(vq, err);
}

/* The front end names the used ring's log address as the guest's driver would: the log counts in others. */
void virtq_translate_log(struct virtq *vq)
{
    if (vq->config.map->iotlb && vq->config.log_used_valid && vq->device_area &&
        !memmap_host_to_gpa(vq->config.map, vq->device_area, &vq->config.log_used))
        vq->config.log_used_valid = false;
}
