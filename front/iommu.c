/* SPDX-License-Identifier: MIT */
/*
 * iommu.c - guests with a vIOMMU (ACCESS_PLATFORM): only what a guest mapped is reached, and no more after it
 * was taken back.
 *
 * Theory of operation: each lane has translations of its own (ring/iotlb.c), so that nothing is shared and
 * nothing locked. What the VMM says goes to every lane as a message, and is answered when all have done it.
 *
 * What misses a translation is not taken from the ring: the queue sleeps, its lane notes the addresses, and the
 * session's thread asks the VMM for them on the back end's own channel. An answer wakes the lane's queues, which
 * try again. So a stop never waits for a translation, and a VMM that stands still because it waits for us
 * never has to be asked anything.
 *
 * An invalidation first makes the range unreachable, then waits for those who reached it before: the requests
 * whose memory may overlap it are marked, and each is struck off when it was answered. Intake goes on, unless
 * the ring itself lies in the range: then its queue takes nothing more, drains, lets go of the ring and has
 * it translated anew. What takes too long is urged as before a stop: all queues of the lane drain, and
 * layers are asked to let go of what they hold, which goes back to the ring.
 *
 * Network cards copy what a guest sends, so such a chain is waited for only while part of it was not copied, or its ring
 * goes: and then it is answered at once, though a layer holds the packet still (front_class.let_go). So a
 * guest that takes its memory back every few milliseconds, as Linux does, makes no limiter let go of anything, and nobody looks
 * at the packets that are under way unless one of them is waited for. The buffers
 * that were taken ahead for packets go back to their ring, which closes for a moment.
 *
 *     RUNNING --- range has the ring, or it takes too long ---> UNMAPPED, in flight
 *        ^                                                         | drained: answer the VMM
 *        +--------------- its memory is translated ------------ UNMAPPED
 */
#include "front/served.h"

/* The VMM stands still: what takes longer is urged. */
#define URGE_NS DT_MS(50)
#define ASKS    256u /* from a lane to the session's thread, a power of two */

/**
 * struct front_iommu - of one lane.
 * @change:  what the VMM said; the session's thread writes it while no lane looks.
 * @awaited: marked requests that are not yet answered.
 * @asks, @head, @tail: addresses that miss, from the lane to the session's thread. @posted: which was told.
 */
struct front_iommu {
    struct front_lane *lane;
    struct iotlb *tlb;
    struct loop_message apply, applied, ask;
    int result;
    unsigned awaited;
    struct {
        uint64_t iova;
        unsigned access;
    } asks[ASKS];
    unsigned head, tail;
    bool posted;
};

/* ---- Misses ---------------------------------------------------------------------------------- */

static void ask(struct front_lane *fl)
{
    struct front_iommu *io = fl->iommu;
    unsigned head = io->head;

    while (head - __atomic_load_n(&io->tail, __ATOMIC_ACQUIRE) < ASKS &&
           iotlb_next_miss(io->tlb, &io->asks[head % ASKS].iova, &io->asks[head % ASKS].access))
        head++;
    if (head == io->head)
        return;
    __atomic_store_n(&io->head, head, __ATOMIC_RELEASE);
    if (!__atomic_exchange_n(&io->posted, true, __ATOMIC_ACQ_REL))
        loop_post(fl->front->loop, &io->ask);
}

/* On the session's thread. */
static void run_ask(struct loop_message *message)
{
    struct front_iommu *io = container_of(message, struct front_iommu, ask);
    struct front *front = io->lane->front;
    unsigned head;
    char why[160];
    int r = 0;

    __atomic_store_n(&io->posted, false, __ATOMIC_RELEASE);
    head = __atomic_load_n(&io->head, __ATOMIC_ACQUIRE);
    for (unsigned i = io->tail; i != head && front->session && r == 0; i++) {
        r = vhost_session_iotlb_miss(front->session, io->asks[i % ASKS].iova,
                                     io->asks[i % ASKS].access);
        if (r == 0)
            continue;
        snprintf(why, sizeof(why), "the VMM cannot be asked for the translation of 0x%llx: %s",
                 (unsigned long long)io->asks[i % ASKS].iova,
                 r == -ENOTSUP ? "ACCESS_PLATFORM without a back-end channel (BACKEND_REQ)"
                               : strerror(-r));
        vhost_session_break(front->session, why);
    }
    __atomic_store_n(&io->tail, head, __ATOMIC_RELEASE);
}

/* An earlier process left requests that can be neither run nor told to the VMM in a ring's base. */
static void lose(struct front_queue *q)
{
    front_lane_fault(q->lane,
                     "queue %u: stopped before its memory was translated, with requests of an "
                     "earlier process in its log",
                     q->index);
    q->vq.replay_next = q->vq.replay_count; /* they stay in the log */
}

bool front_iommu_blocked(struct front_queue *q)
{
    if (!q->vq.missing)
        return false;
    q->vq.missing = false;
    if (q->state == QUEUE_STOPPING) {
        lose(q);
        return true;
    }
    q->blocked = true;
    ask(q->lane);
    return false;
}

/* ---- A ring's own memory ------------------------------------------------------------------------ */

static int find_ring(struct front_queue *q, struct dt_error *err)
{
    int r;

    if (q->vq.started)
        return virtq_map(&q->vq, err);
    r = virtq_start(&q->vq, &q->ring.config, q->ring.base, q->ring.recover, err);
    if (r == 0)
        front_queue_begin(q);
    return r;
}

static void try_map(struct front_queue *q)
{
    struct dt_error err = {""};
    int r = find_ring(q, &err);

    q->state = QUEUE_UNMAPPED;
    if (r == 0)
        front_queue_open(q);
    else if (r == -EAGAIN)
        ask(q->lane);
    else
        front_lane_fault(q->lane, "queue %u: %s", q->index, err.text);
}

static bool any_ring_beside(const struct front_queue *queue)
{
    for (unsigned i = 0; i < queue->front->nqueues; i++) {
        const struct front_queue *q = &queue->front->queues[i];

        if (q != queue && q->lane == queue->lane && q->state != QUEUE_IDLE &&
            q->state != QUEUE_STARTING)
            return true;
    }
    return false;
}

/* A VMM stops telling what the guest takes back when it stops the device: what was known then may be stale. */
void front_iommu_start(struct front_queue *q)
{
    struct front_iommu *io = q->lane->iommu;

    iotlb_bind(io->tlb, q->ring.config.map);
    if (!any_ring_beside(q))
        iotlb_invalidate(io->tlb, 0, 0);
    q->ring.config.map = iotlb_view(io->tlb);
    try_map(q);
}

void front_iommu_resume(struct front_queue *q, const struct vhost_ring *ring)
{
    q->ring.config.dirty = ring->config.dirty;
    q->ring.config.log_used = ring->config.log_used;
    q->ring.config.log_used_valid = ring->config.log_used_valid;
    try_map(q);
}

bool front_iommu_stop(struct front_queue *q)
{
    if (q->state != QUEUE_UNMAPPED)
        return false;
    if (q->vq.started && front_queue_owes(q))
        lose(q);
    if (q->vq.started)
        return false;
    if (q->ring.recover)
        lose(q);
    q->state = QUEUE_IDLE;
    q->base = q->ring.base;
    loop_post(q->front->loop, &q->stopped);
    return true;
}

/* ---- What the VMM says, on each lane ---------------------------------------------------------- */

static void wake_queues(struct front_lane *fl)
{
    for (unsigned i = 0; i < fl->front->nqueues; i++) {
        struct front_queue *q = &fl->front->queues[i];

        if (q->lane == fl && q->state == QUEUE_UNMAPPED)
            try_map(q);
    }
    front_wake(fl->lane);
}

static bool drains(const struct front_queue *q, const struct front_lane *fl)
{
    return q->lane == fl && front_iommu_drains(q);
}

/* Is anything still to be answered, so that the range and its rings can go? */
static bool is_used(const struct front_lane *fl)
{
    const struct front *front = fl->front;

    if (fl->iommu->awaited)
        return true;
    for (unsigned i = 0; i < front->nqueues; i++)
        if (drains(&front->queues[i], fl) &&
            (front->queues[i].vq.in_flight || front->queues[i].dirty))
            return true;
    return false;
}

void front_iommu_settle(struct front_lane *fl)
{
    struct front *front = fl->front;

    if (!fl->invalidating || is_used(fl))
        return;
    fl->invalidating = false;
    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];

        if (!drains(q, fl))
            continue;
        front_queue_put_back(q);
        virtq_unmap(&q->vq);
        try_map(q);
    }
    loop_post(front->loop, &fl->iommu->applied);
}

void front_iommu_answered(struct front_queue *q, struct virtq_chain *chain)
{
    struct front_lane *fl = q->lane;

    chain->awaited = false;
    fl->iommu->awaited--;
    front_iommu_settle(fl);
}

/* Each of the class's slots begins with its chain. */
static struct virtq_chain *chain_of(const struct front_queue *q, unsigned id)
{
    return (struct virtq_chain *)((char *)q->slots + id * q->front->class->slot_size);
}

static unsigned mark_users(struct front_queue *q, const struct vhost_iotlb *change)
{
    bool (*uses)(const struct virtq_chain *) = q->front->class->uses;
    unsigned n = 0;

    for (unsigned id = 0; id < q->vq.config.size; id++) {
        struct virtq_chain *chain = chain_of(q, id);

        if (!virtq_uses(&q->vq, (uint16_t)id, change->iova, change->size) || (uses && !uses(chain)))
            continue;
        chain->awaited = true;
        n++;
    }
    q->lane->iommu->awaited += n;
    return n;
}

/* The ring itself goes, or what is in flight of it waits for something that may never come. */
static bool must_close(const struct front_queue *q, unsigned users,
                       const struct vhost_iotlb *change)
{
    const struct front_class *class = q->front->class;

    return q->state == QUEUE_RUNNING && (virtq_lies_in(&q->vq, change->iova, change->size) ||
                                         (users && class->ahead && class->ahead(q)));
}

/* A class may look at all that is under way: only where somebody waits for some of it. */
static void let_go(struct front_lane *fl)
{
    if (fl->front->class->let_go && is_used(fl))
        fl->front->class->let_go(fl);
    front_take_aside(fl);
}

static void invalidate(struct front_lane *fl, const struct vhost_iotlb *change)
{
    struct front *front = fl->front;

    iotlb_invalidate(fl->iommu->tlb, change->iova, change->size);
    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];

        if (q->lane != fl || !q->translated || !q->vq.started || !virtq_mapped(&q->vq))
            continue;
        if (must_close(q, mark_users(q, change), change))
            front_queue_close(q, QUEUE_UNMAPPED);
    }
    fl->invalidating = true;
    let_go(fl);
    front_iommu_settle(fl);
    if (fl->invalidating)
        loop_timer_set(lane_loop(fl->lane), &fl->ask_again, dt_clock_ns() + URGE_NS);
}

/* What layers let go of fails unless it can go back to a ring that takes nothing. */
void front_iommu_urge(struct front_lane *fl)
{
    for (unsigned i = 0; i < fl->front->nqueues; i++) {
        struct front_queue *q = &fl->front->queues[i];

        if (q->lane == fl && q->state == QUEUE_RUNNING)
            front_queue_close(q, QUEUE_UNMAPPED);
    }
    let_go(fl);
}

static void run_apply(struct loop_message *message)
{
    struct front_iommu *io = container_of(message, struct front_iommu, apply);
    struct front_lane *fl = io->lane;
    const struct vhost_iotlb *change = &fl->front->change;

    io->result = 0;
    if (change->type == VHOST_IOTLB_INVALIDATE) {
        invalidate(fl, change);
        return;
    }
    io->result = iotlb_update(io->tlb, change->iova, change->size, change->uaddr, change->access);
    wake_queues(fl);
    ask(fl);
    loop_post(fl->front->loop, &io->applied);
}

/* ---- On the session's thread ------------------------------------------------------------------- */

void front_iotlb(void *dev, const struct vhost_iotlb *change)
{
    struct front *front = dev;

    front->change = *change;
    front->change_result = 0;
    front->lanes_to_change = front->nlanes;
    for (unsigned t = 0; t < front->nlanes; t++)
        loop_post(lane_loop(front->lanes[t].lane), &front->lanes[t].iommu->apply);
}

static void run_applied(struct loop_message *message)
{
    struct front_iommu *io = container_of(message, struct front_iommu, applied);
    struct front *front = io->lane->front;

    if (io->result < 0)
        front->change_result = io->result;
    if (--front->lanes_to_change == 0)
        vhost_session_iotlb_done(front->session, front->change_result);
}

/* ---- Life ----------------------------------------------------------------------------------------- */

void front_iommu_init(struct front_lane *fl)
{
    struct front_iommu *io = xcalloc(1, sizeof(*io));

    io->lane = fl;
    io->tlb = iotlb_new();
    io->apply.run = run_apply;
    io->applied.run = run_applied;
    io->ask.run = run_ask;
    fl->iommu = io;
}

void front_iommu_forget(struct front *front)
{
    for (unsigned t = 0; t < front->nlanes; t++)
        if (front->lanes[t].iommu)
            iotlb_bind(front->lanes[t].iommu->tlb, NULL);
}

void front_iommu_fini(struct front_lane *fl)
{
    if (!fl->iommu)
        return;
    iotlb_free(fl->iommu->tlb);
    free(fl->iommu);
}

json_t *front_iommu_show(const struct front *front)
{
    struct iotlb_stats sum = {0};
    unsigned entries = 0;

    for (unsigned t = 0; t < front->nlanes; t++) {
        const struct iotlb *tlb = front->lanes[t].iommu->tlb;
        const struct iotlb_stats *s = iotlb_stats(tlb);

        entries += iotlb_count(tlb);
        sum.misses += READ_ONCE(s->misses);
        sum.updates += READ_ONCE(s->updates);
        sum.invalidations += READ_ONCE(s->invalidations);
        sum.evictions += READ_ONCE(s->evictions);
    }
    return json_pack("{sb si sI sI sI sI}", "active", front->session && front_translates(front),
                     "entries", (int)entries, "misses", (json_int_t)sum.misses, "updates",
                     (json_int_t)sum.updates, "invalidations", (json_int_t)sum.invalidations,
                     "evictions", (json_int_t)sum.evictions);
}
