/* SPDX-License-Identifier: MIT */
/*
 * virtq.c - what split and packed virtqueues have in common on the device side: starting and
 * stopping, and the calls that lead to one or the other.
 *
 * Theory of operation: an id (split: the head) is free, taken, or pushed. virtq_take() makes
 * it taken, virtq_push() notes the completion in a private array, and virtq_publish() writes
 * the whole batch to log and ring and makes its ids free. Until then the driver does not know
 * that they are done, so an id that comes again is a fault whatever its state but free.
 */
#include "ring/internal.h"

#include <inttypes.h>

/* virtio 1.2, 2.7 and 2.8: sizes and alignments. What the rights say is what we do, not what the driver
 * would allow: of a split ring's used index we also read. */
void virtq_areas(const struct virtq_config *c, struct virtq_area areas[VIRTQ_AREAS])
{
    const unsigned both = MEMMAP_READ | MEMMAP_WRITE;
    uint64_t event = c->event_idx ? 2 : 0, size = c->size;

    if (c->packed) {
        areas[0] = (struct virtq_area){"descriptor ring", c->desc, 16 * size, 16, both};
        areas[1] = (struct virtq_area){"driver event area", c->driver, 4, 4, MEMMAP_READ};
        areas[2] = (struct virtq_area){"device event area", c->device, 4, 4, both};
    } else {
        areas[0] = (struct virtq_area){"descriptor table", c->desc, 16 * size, 16, MEMMAP_READ};
        areas[1] =
            (struct virtq_area){"available ring", c->driver, 4 + 2 * size + event, 2, MEMMAP_READ};
        areas[2] = (struct virtq_area){"used ring", c->device, 4 + 8 * size + event, 4, both};
    }
}

static int find_translated(const struct virtq_area *a, const struct memmap *map, void **host,
                           struct dt_error *err)
{
    int r = iotlb_host(map->iotlb, a->addr, a->len, a->access, host);

    if (r == -EACCES)
        return dt_fail(err, r, "%s at 0x%" PRIx64 ": the guest's IOMMU does not allow us to %s it",
                       a->name, a->addr, a->access & MEMMAP_WRITE ? "read and write" : "read");
    if (r == -EFAULT)
        return dt_fail(err, r,
                       "%s: %" PRIu64 " bytes at I/O address 0x%" PRIx64
                       " are not in one piece of the guest's memory (give the VMM a queue-size of "
                       "256 or less)",
                       a->name, a->len, a->addr);
    return r;
}

static int find_area(const struct virtq_area *a, const struct memmap *map, void **host,
                     struct dt_error *err)
{
    if (a->addr % a->align != 0)
        return dt_fail(err, -EINVAL, "%s at 0x%" PRIx64 " is not aligned to %" PRIu64 " bytes",
                       a->name, a->addr, a->align);
    if (map->iotlb) {
        int r = find_translated(a, map, host, err);

        if (r < 0)
            return r;
    } else {
        *host = memmap_host(map, a->addr, a->len);
    }
    if (!*host)
        return dt_fail(err, -EFAULT,
                       "%s: %" PRIu64 " bytes at 0x%" PRIx64 " are not within one memory region",
                       a->name, a->len, a->addr);
    if ((uintptr_t)*host % a->align != 0)
        return dt_fail(err, -EINVAL, "%s at 0x%" PRIx64 ": its region is mapped off alignment",
                       a->name, a->addr);
    return 0;
}

/* All three are looked for, so that all that is missing is asked for at once. */
int virtq_find_areas(struct virtq *vq, struct dt_error *err)
{
    struct virtq_area areas[VIRTQ_AREAS];
    void *host[VIRTQ_AREAS];
    bool waits = false;

    virtq_areas(&vq->config, areas);
    for (unsigned i = 0; i < VIRTQ_AREAS; i++) {
        int r = find_area(&areas[i], vq->config.map, &host[i], err);

        if (r < 0 && r != -EAGAIN)
            return r;
        waits |= r == -EAGAIN;
    }
    if (waits)
        return dt_fail(err, -EAGAIN, "a translation of the ring's memory is not known yet");
    vq->desc_area = host[0];
    vq->driver_area = host[1];
    vq->device_area = host[2];
    if (vq->config.map->iotlb)
        vq->driver_writable =
            iotlb_allows(vq->config.map->iotlb, areas[1].addr, areas[1].len, MEMMAP_WRITE);
    virtq_translate_log(vq);
    return 0;
}

static void virtq_release(struct virtq *vq)
{
    struct virtq_stats stats = vq->stats;

    free(vq->state);
    free(vq->done);
    free(vq->returned);
    free(vq->replay);
    free(vq->spans);
    free(vq->log_next);
    free(vq->entered);
    free(vq->tail);
    free(vq->tail_rank);
    free(vq->copy);
    *vq = (struct virtq){.stats = stats};
}

/* A process that died between a write to the ring and its mark left this to us. */
static void mark_device_area(struct virtq *vq)
{
    const struct virtq_config *c = &vq->config;
    uint64_t gpa;

    if (!c->dirty)
        return;
    if (c->packed && memmap_host_to_gpa(c->map, vq->desc_area, &gpa))
        dirtylog_mark(c->dirty, gpa, 16 * (uint64_t)c->size);
    if (c->log_used_valid)
        dirtylog_mark(c->dirty, c->log_used, c->packed ? 4 : 6 + 8 * (uint64_t)c->size);
}

static int start(struct virtq *vq, uint32_t base, bool recover, struct dt_error *err)
{
    const struct virtq_config *c = &vq->config;
    int r;

    if (!recover)
        log_format(c->inflight, c->size, c->packed);
    r = c->packed ? packed_start(vq, base, recover, err) : split_start(vq, base, recover, err);
    if (r == 0)
        tail_settle(vq);
    /* Only now does the log say something: a successor of a process that died within this
     * function starts afresh too. */
    if (r == 0 && !recover)
        log_commit(c->inflight);
    return r;
}

/* Nor does the session know the base, so the log stays what it is until it says where the ring stands. */
static int start_loose(struct virtq *vq, struct dt_error *err)
{
    uint32_t base;
    int r = packed_find(vq, &base, err);

    if (r < 0)
        return r;
    log_fill(vq->config.inflight, vq->config.size, true);
    r = packed_start(vq, base, false, err);
    if (r < 0)
        return r;
    tail_settle(vq);
    log_commit(vq->config.inflight);
    return 0;
}

int virtq_start(struct virtq *vq, const struct virtq_config *config, uint32_t base, bool recover,
                struct dt_error *err)
{
    uint16_t size = config->size;
    int r;

    CHECK(!vq->started && config->map && config->iovs && config->slots && config->inflight);
    CHECK(config->slot_stride >= sizeof(struct virtq_chain));
    CHECK(config->slot_stride % _Alignof(struct virtq_chain) == 0);
    CHECK((uintptr_t)config->inflight % sizeof(uint64_t) == 0);
    if (size == 0 || size > VIRTQ_MAX_SIZE || (!config->packed && (size & (size - 1)) != 0))
        return dt_fail(err, -EINVAL, "a %s virtqueue cannot have %u descriptors",
                       config->packed ? "packed" : "split", size);
    *vq = (struct virtq){.config = *config, .stats = vq->stats};
    r = virtq_find_areas(vq, err);
    if (r < 0)
        return r;
    vq->state = ring_array(size, sizeof(*vq->state));
    vq->done = ring_array(size, sizeof(*vq->done));
    vq->returned = xcalloc(size, sizeof(*vq->returned));
    vq->replay = xcalloc(size, sizeof(*vq->replay));
    if (config->map->iotlb)
        vq->spans = virtq_spans_new(size);
    if (config->tail) {
        vq->tail = ring_array(size, sizeof(*vq->tail));
        vq->tail_rank = xcalloc(size, sizeof(*vq->tail_rank));
    }
    recover = recover && log_present(config->inflight);
    if (recover && config->packed && log_loose(config->inflight))
        r = start_loose(vq, err);
    else
        r = start(vq, base, recover, err);
    if (r < 0) {
        virtq_release(vq);
        return r;
    }
    vq->started = true;
    if (recover)
        mark_device_area(vq);
    return 0;
}

uint32_t virtq_stop(struct virtq *vq)
{
    uint32_t base = vq->last_avail;

    CHECK(vq->started && vq->in_flight == 0 && vq->done_count == 0 && vq->returned_count == 0);
    if (vq->config.packed)
        base |= (uint32_t)vq->avail_wrap << 15 | (uint32_t)vq->used << 16 |
                (uint32_t)vq->used_wrap << 31;
    tail_end(vq);
    virtq_release(vq);
    return base;
}

/* Long lists of chains in flight go back to the pool; all else is only forgotten. */
void virtq_abandon(struct virtq *vq)
{
    if (!vq->started)
        return;
    for (unsigned id = 0; id < vq->config.size; id++) {
        struct virtq_chain *chain = virtq_slot(vq, (uint16_t)id);

        if (vq->state[id] == VIRTQ_ID_TAKEN && chain->iov != chain->inline_iov)
            iovpool_put(vq->config.iovs, chain->iov);
    }
    virtq_release(vq);
}

void virtq_set_dirty(struct virtq *vq, const struct dirtylog *dirty, uint64_t log_used,
                     bool log_used_valid)
{
    vq->config.dirty = dirty;
    vq->config.log_used = log_used;
    vq->config.log_used_valid = log_used_valid;
    virtq_translate_log(vq);
}

/* What the log held comes before anything new; each chain is judged as if it were new. */
static unsigned take_replays(struct virtq *vq, struct virtq_chain **out, unsigned max)
{
    unsigned n = 0;

    while (n < max && vq->replay_next < vq->replay_count) {
        uint16_t entry = vq->replay[vq->replay_next];
        int r = vq->config.packed ? packed_retake(vq, entry, &out[n])
                                  : split_retake(vq, entry, &out[n]);

        if (r < 0)
            break;
        out[n]->replayed = true;
        vq->replay_next++;
        n++;
    }
    vq->stats.replayed += n;
    return n;
}

int virtq_take(struct virtq *vq, struct virtq_chain **out, unsigned max)
{
    unsigned n;

    if (unlikely(vq->broken))
        return -EPROTO;
    max = MIN(max, VIRTQ_BURST);
    if (unlikely(vq->replay_next < vq->replay_count))
        n = take_replays(vq, out, max);
    else if (vq->config.packed)
        n = packed_take(vq, out, max);
    else
        n = split_take(vq, out, max);
    vq->in_flight = (uint16_t)(vq->in_flight + n);
    WRITE_ONCE(vq->stats.taken, vq->stats.taken + n);
    return n == 0 && vq->broken ? -EPROTO : (int)n;
}

void virtq_release_list(struct virtq *vq, struct virtq_chain *chain)
{
    iovpool_put(vq->config.iovs, chain->iov);
    chain->iov = chain->inline_iov;
}

bool virtq_publish(struct virtq *vq)
{
    unsigned n = vq->done_count;
    bool call;

    if (n == 0)
        return false;
    call = vq->config.packed ? packed_publish(vq) : split_publish(vq);
    vq->done_count = 0;
    WRITE_ONCE(vq->stats.pushed, vq->stats.pushed + n);
    if (call)
        WRITE_ONCE(vq->stats.calls, vq->stats.calls + 1);
    else
        WRITE_ONCE(vq->stats.calls_suppressed, vq->stats.calls_suppressed + 1);
    return call;
}

bool virtq_pending(struct virtq *vq)
{
    if (vq->broken || vq->replay_next < vq->replay_count)
        return true;
    return vq->config.packed ? packed_pending(vq) : split_pending(vq);
}

static uint16_t arm_position(const struct virtq *vq)
{
    return (uint16_t)(vq->last_avail | (vq->config.packed ? vq->avail_wrap << 15 : 0));
}

void virtq_disarm(struct virtq *vq)
{
    if (vq->notify_known && vq->polling)
        return;
    vq->polling = true;
    vq->config.packed ? packed_notify(vq, false) : split_notify(vq, false);
    vq->notify_known = true;
}

bool virtq_arm(struct virtq *vq)
{
    uint16_t at = arm_position(vq);

    if (!vq->notify_known || vq->polling || (vq->config.event_idx && vq->armed_at != at)) {
        vq->polling = false;
        vq->armed_at = at;
        vq->config.packed ? packed_notify(vq, true) : split_notify(vq, true);
        vq->notify_known = true;
        /* Either the driver sees our wish, or we see what it added. */
        ring_full_fence();
    }
    return !virtq_pending(vq);
}

void virtq_dirty(struct virtq *vq, const struct virtq_chain *chain, uint64_t written)
{
    const struct dirtylog *log = vq->config.dirty;

    if (!log)
        return;
    for (unsigned i = chain->nread; i < (unsigned)chain->nread + chain->nwrite && written > 0;
         i++) {
        uint64_t len = MIN(written, chain->iov[i].iov_len), gpa;

        if (memmap_host_to_gpa(vq->config.map, chain->iov[i].iov_base, &gpa))
            dirtylog_mark(log, gpa, len);
        written -= len;
    }
}
