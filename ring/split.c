/* SPDX-License-Identifier: MIT */
/*
 * split.c - the device side of a split virtqueue (virtio 1.2, 2.7).
 *
 * Theory of operation: the driver writes head indices into the available ring and then its
 * index; we read the index once for all that it shows, copy a burst of heads, ask for their
 * descriptors all at once (each is a cache line that the driver's core owns), and judge one
 * chain after the other. Completions wait in a private array and go out in one burst:
 *
 *     log: link the batch    used ring: entries
 *     log: last_batch_head
 *     used ring: index       <- from here the driver may reuse the heads
 *     log: in flight = 0
 *     log: used_idx
 *
 * That order is what recovery relies on: if the process dies before the index is stored, the
 * whole batch is still in flight; if it dies after, the two used indices tell how many heads of
 * the batch list to clear. Chains of the tail are not in the log, and need neither list nor marks (tail.c).
 *
 * Notifications: with EVENT_IDX each side names the index at which it wants to be told. To poll
 * we just leave ours where it is: the driver passes it once every 65,536 chains.
 */
#include "ring/internal.h"

static inline struct vring_avail *avail_ring(const struct virtq *vq)
{
    return vq->driver_area;
}

static inline struct vring_used *used_ring(const struct virtq *vq)
{
    return vq->device_area;
}

/* The event indices lie behind the rings' last entries. */
static inline uint16_t *used_event(const struct virtq *vq)
{
    return &avail_ring(vq)->ring[vq->config.size];
}

static inline uint16_t *avail_event(const struct virtq *vq)
{
    return (uint16_t *)(void *)&used_ring(vq)->ring[vq->config.size];
}

static inline struct log_split *split_log(const struct virtq *vq)
{
    return vq->config.inflight;
}

/* Enter a head in the log, as number @counter; from the last store on a successor will return it. */
static inline void split_log_take(struct log_split_entry *e, uint64_t counter)
{
    WRITE_ONCE(e->counter, counter);
    RING_STEP();
    WRITE_ONCE(e->word.whole, (union log_split_word){{.inflight = 1}}.whole);
    RING_STEP();
}

void split_enter(struct virtq *vq, uint16_t id)
{
    split_log_take(&split_log(vq)->desc[id], vq->counter++);
}

/* The process before had taken @n more than the log has: their heads are where the driver put them. */
static int split_take_over(struct virtq *vq, unsigned n, struct dt_error *err)
{
    const struct log_split *log = split_log(vq);

    for (unsigned i = 0; i < n; i++, vq->last_avail++) {
        uint16_t place = vq->last_avail & (vq->config.size - 1u);
        uint16_t head = READ_ONCE(avail_ring(vq)->ring[place]);

        if (head >= vq->config.size || READ_ONCE(log->desc[head].word.inflight))
            return dt_fail(err, -EBADMSG, "available entry %u: head %u, which was taken, is %s now",
                           place, head,
                           head >= vq->config.size ? "outside the ring" : "in flight twice");
        split_enter(vq, head);
        vq->replay[vq->replay_count++] = head;
    }
    return 0;
}

int split_start(struct virtq *vq, uint32_t base, bool recover, struct dt_error *err)
{
    struct log_found found = {.order = vq->replay};
    int r;

    vq->used = READ_ONCE(used_ring(vq)->idx);
    if (!recover) {
        split_log(vq)->used_idx = vq->used;
        /*
         * What was used had been available. A base behind the used index is a VMM's guess, made when it lost a back
         * end that went on to finish what it had (QEMU: virtio_queue_restore_last_avail_idx()).
         */
        if ((uint16_t)(vq->used - (uint16_t)base) <= vq->config.size)
            base = vq->used;
        vq->last_avail = vq->avail_shadow = (uint16_t)base;
        return 0;
    }
    r = log_split_recover(split_log(vq), vq->config.size, vq->used, &found, err);
    if (r < 0)
        return r;
    vq->replay_count = found.count;
    vq->counter = found.counter;
    vq->last_avail = (uint16_t)(vq->used + found.count);
    r = split_take_over(vq, found.tail, err);
    vq->avail_shadow = vq->last_avail;
    return r;
}

/* ---- Taking --------------------------------------------------------------------------- */

/* How many heads wait; reads the driver's index when all that it last showed are taken. */
static unsigned split_available(struct virtq *vq)
{
    uint16_t n = (uint16_t)(vq->avail_shadow - vq->last_avail);

    if (n == 0) {
        uint16_t idx = ring_load_acquire(&avail_ring(vq)->idx);

        n = (uint16_t)(idx - vq->last_avail);
        if (unlikely(n > vq->config.size)) {
            virtq_fault(vq, "available index %u is %u ahead of %u in a ring of %u", idx, n,
                        vq->last_avail, vq->config.size);
            return 0;
        }
        vq->avail_shadow = idx;
    }
    return n;
}

static int split_walk(struct virtq *vq, uint16_t head, uint8_t attempts, struct virtq_chain *chain)
{
    const struct vring_desc *table = vq->desc_area;
    unsigned size = vq->config.size, ndesc = 1, at = head;
    struct walk w;
    int r;

    walk_begin(&w, vq, chain);
    for (;;) {
        struct ring_desc d = desc_read_split(&table[at]);

        if (d.flags & VRING_DESC_F_INDIRECT) {
            r = walk_indirect(&w, &d, at);
            if (r < 0)
                return r;
            break;
        }
        r = walk_add(&w, &d, at);
        if (unlikely(r < 0))
            return r;
        if (!(d.flags & VRING_DESC_F_NEXT))
            break;
        if (unlikely(d.next >= size))
            return walk_fault(&w, at, "next %u is outside the ring of %u", d.next, size);
        if (unlikely(++ndesc > size))
            return walk_fault(&w, at, "next %u makes a loop in the ring of %u", d.next, size);
        at = d.next;
    }
    return walk_end(&w, head, ndesc, attempts);
}

static int split_judge_head(struct virtq *vq, uint16_t at, uint16_t head)
{
    if (head >= vq->config.size)
        return virtq_fault(vq, "available entry %u: head %u is outside the ring of %u", at, head,
                           vq->config.size);
    return virtq_fault(vq, "available entry %u: head %u is in flight already", at, head);
}

/* Any chain, the long way; afterwards another region may be @near. */
static __attribute__((noinline)) bool take_chain(struct virtq *vq, uint16_t head,
                                                 struct nearby *near)
{
    if (split_walk(vq, head, 0, virtq_slot(vq, head)) < 0)
        return false;
    *near = walk_nearby(vq);
    return true;
}

/* The heads that @heads names, until one is at fault. What the burst has in common is in variables, which stores leave alone. */
static inline __attribute__((always_inline)) unsigned take_heads(struct virtq *vq,
                                                                 const uint16_t *heads,
                                                                 struct virtq_chain **out,
                                                                 unsigned n, uint16_t *tail)
{
    const struct vring_desc *table = vq->desc_area;
    struct nearby near = walk_nearby(vq);
    char *slots = vq->config.slots;
    size_t stride = vq->config.slot_stride;
    unsigned size = vq->config.size, i;
    struct log_split_entry *entries = split_log(vq)->desc;
    uint64_t counter = vq->counter;
    uint16_t at = vq->last_avail;
    uint8_t *state = vq->state;

    for (i = 0; i < n; i++, at++) {
        uint16_t head = heads[i];
        struct virtq_chain *chain;
        struct ring_desc d;

        if (unlikely(head >= size || state[head])) {
            split_judge_head(vq, at & (size - 1), head);
            break;
        }
        chain = (struct virtq_chain *)(slots + head * stride);
        d = desc_read_split(&table[head]);
        if (unlikely(d.flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT) ||
                     !walk_single(&near, chain, d, head)) &&
            !take_chain(vq, head, &near))
            break;
        state[head] = VIRTQ_ID_TAKEN;
        if (tail)
            tail[at & (size - 1)] = head;
        else
            split_log_take(&entries[head], counter++);
        out[i] = chain;
    }
    if (!tail)
        vq->counter = counter;
    vq->last_avail = at;
    return i;
}

/* Each by itself, for the registers of their loops. */
static __attribute__((noinline)) unsigned take_to_log(struct virtq *vq, const uint16_t *heads,
                                                      struct virtq_chain **out, unsigned n)
{
    return take_heads(vq, heads, out, n, NULL);
}

static __attribute__((noinline)) unsigned take_to_tail(struct virtq *vq, const uint16_t *heads,
                                                       struct virtq_chain **out, unsigned n)
{
    uint16_t *tail = vq->tail;

    if (!tail)
        __builtin_unreachable();
    n = take_heads(vq, heads, out, n, tail);
    vq->ntail = (uint16_t)(vq->ntail + n);
    if (n > 0)
        tail_taken(vq);
    return n;
}

unsigned split_take(struct virtq *vq, struct virtq_chain **out, unsigned max)
{
    const struct vring_avail *avail = avail_ring(vq);
    const struct vring_desc *table = vq->desc_area;
    unsigned n = split_available(vq), mask = vq->config.size - 1u;
    uint16_t heads[VIRTQ_BURST], at = vq->last_avail;

    n = MIN(n, max);
    for (unsigned i = 0; i < n; i++) {
        heads[i] = READ_ONCE(avail->ring[(at + i) & mask]);
        __builtin_prefetch(&table[heads[i] & mask]);
    }
    return vq->tail ? take_to_tail(vq, heads, out, n) : take_to_log(vq, heads, out, n);
}

/* A head of the log; recovery found it in range, once, and in flight. */
int split_retake(struct virtq *vq, uint16_t head, struct virtq_chain **out)
{
    uint8_t *attempts = &split_log(vq)->desc[head].word.attempts;
    int r;

    if (vq->state[head] != VIRTQ_ID_FREE) /* the log is another's to write, too */
        return split_judge_head(vq, head, head);
    r = split_walk(vq, head, READ_ONCE(*attempts), virtq_slot(vq, head));
    if (r < 0)
        return r;
    vq->state[head] = VIRTQ_ID_TAKEN;
    *out = virtq_slot(vq, head);
    virtq_charge(vq, *out, attempts);
    return 0;
}

bool split_pending(struct virtq *vq)
{
    return vq->avail_shadow != vq->last_avail || ring_load(&avail_ring(vq)->idx) != vq->last_avail;
}

/*
 * The last entries taken from the available ring become those that were not served, and our index goes back
 * before them. So many are free for it: whoever was served in between left one, and the driver cannot
 * have come round to them while as many chains are outstanding. Their marks in the log go in reverse: who dies in
 * between leaves the oldest to the log, and the rest to the ring.
 */
void split_put_back(struct virtq *vq)
{
    struct vring_avail *avail = avail_ring(vq);
    struct log_split *log = split_log(vq);
    unsigned n = vq->returned_count, mask = vq->config.size - 1u;
    uint16_t first = (uint16_t)(vq->last_avail - n);
    uint64_t gpa;

    for (unsigned i = 0; i < n; i++) {
        WRITE_ONCE(avail->ring[(first + i) & mask], vq->returned[i]);
        RING_STEP();
    }
    if (vq->config.dirty && memmap_host_to_gpa(vq->config.map, avail->ring, &gpa))
        dirtylog_mark(vq->config.dirty, gpa, 2 * (uint64_t)vq->config.size);
    for (unsigned i = n; i-- > 0;) {
        ring_store_release(&log->desc[vq->returned[i]].word.inflight, 0);
        vq->state[vq->returned[i]] = VIRTQ_ID_FREE;
        vq->last_avail--;
        RING_STEP();
    }
}

/* ---- Publishing ----------------------------------------------------------------------- */

/* The used ring's own pages: entries [@from, @from + @n), then flags and index. */
static void split_dirty_used(struct virtq *vq, uint16_t from, unsigned n)
{
    uint64_t ring = vq->config.log_used + offsetof(struct vring_used, ring);
    unsigned size = vq->config.size, first = from & (size - 1), run = MIN(n, size - first);

    if (!vq->config.dirty || !vq->config.log_used_valid)
        return;
    dirtylog_mark(vq->config.dirty, ring + 8 * (uint64_t)first, 8 * (uint64_t)run);
    dirtylog_mark(vq->config.dirty, ring, 8 * (uint64_t)(n - run));
    dirtylog_mark(vq->config.dirty, vq->config.log_used, offsetof(struct vring_used, ring));
}

/* Does the driver want to know that the index went from @old to vq->used? */
static bool split_wants_call(struct virtq *vq)
{
    uint16_t old = vq->signalled;
    bool valid = vq->signalled_valid;

    /* Our index must be visible before we look whether the driver waits for it. */
    ring_full_fence();
    if (!vq->config.event_idx)
        return !(ring_load(&avail_ring(vq)->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    vq->signalled = vq->used;
    vq->signalled_valid = true;
    return !valid || vring_need_event(ring_load(used_event(vq)), vq->used, old);
}

static inline void split_write_used(struct vring_used_elem *e, const struct virtq_done *done)
{
    WRITE_ONCE(e->id, done->id);
    WRITE_ONCE(e->len, done->len);
}

/* From here the driver has them. */
static void split_show_used(struct virtq *vq, uint16_t batch_head)
{
    WRITE_ONCE(split_log(vq)->last_batch_head, batch_head);
    RING_STEP();
    vq->used = (uint16_t)(vq->used + vq->done_count);
    ring_store_release(&used_ring(vq)->idx, vq->used);
    RING_STEP();
}

/* The tail's first chains: the used index says all. */
static void split_publish_tail(struct virtq *vq)
{
    struct vring_used_elem *ring = used_ring(vq)->ring;
    const struct virtq_done *done = vq->done, *end = done + vq->done_count;
    unsigned at = vq->used, mask = vq->config.size - 1u;
    uint8_t *state = vq->state;

    vq->ntail = (uint16_t)(vq->ntail - vq->done_count);
    for (; done < end; done++, at++) {
        state[done->id] = VIRTQ_ID_FREE;
        split_write_used(&ring[at & mask], done);
    }
    RING_STEP();
    split_show_used(vq, LOG_NO_BATCH);
}

/* Any chains that were taken: in the log first. */
static void split_publish_batch(struct virtq *vq)
{
    struct vring_used_elem *ring = used_ring(vq)->ring;
    struct log_split *log = split_log(vq);
    const struct virtq_done *done = vq->done;
    unsigned n = vq->done_count, from = vq->used, mask = vq->config.size - 1u;
    uint16_t head = log->last_batch_head;
    uint8_t *state = vq->state;

    tail_enter(vq);
    for (unsigned i = 0; i < n; i++) {
        split_write_used(&ring[(from + i) & mask], &done[i]);
        WRITE_ONCE(log->desc[done[i].id].word.next, head);
        head = done[i].id;
    }
    RING_STEP();
    split_show_used(vq, head);
    for (unsigned i = 0; i < n; i++) {
        WRITE_ONCE(log->desc[done[i].id].word.inflight, 0);
        state[done[i].id] = VIRTQ_ID_FREE;
        RING_STEP();
    }
}

bool split_publish(struct virtq *vq)
{
    uint16_t from = vq->used;

    if (vq->tail && tail_is_done(vq))
        split_publish_tail(vq);
    else
        split_publish_batch(vq);
    WRITE_ONCE(split_log(vq)->used_idx, vq->used);
    RING_STEP();
    split_dirty_used(vq, from, vq->done_count);
    return split_wants_call(vq);
}

/* ---- Notifications -------------------------------------------------------------------- */

/* Ask for a kick, or not; virtq_arm() fences and looks again. */
void split_notify(struct virtq *vq, bool want)
{
    uint64_t offset = 0;

    if (vq->config.event_idx) {
        if (!want)
            return;
        ring_store(avail_event(vq), vq->armed_at);
        offset = (uint64_t)((uint8_t *)avail_event(vq) - (uint8_t *)used_ring(vq));
    } else {
        ring_store(&used_ring(vq)->flags, want ? 0 : VRING_USED_F_NO_NOTIFY);
    }
    if (vq->config.dirty && vq->config.log_used_valid)
        dirtylog_mark(vq->config.dirty, vq->config.log_used + offset, 2);
}
