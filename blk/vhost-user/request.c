/* SPDX-License-Identifier: MIT */
/*
 * request.c - the data path between a virtqueue and the chain.
 *
 * A chain of descriptors is a virtio-blk request (virtio 1.2, 5.2.6): 16 readable bytes of header,
 * the data, and one writable byte of status at the very end, in any framing. The header is
 * copied once and judged; what is not a valid request is answered here, and what the ring makes of
 * an invalid chain breaks the session.
 */
#include "base/kill.h"
#include "blk/vhost-user/internal.h"

/* A supervisor knows which deaths were not the worker's own doing, and they are charged to nobody. Where none
 * tells, every kill is charged, and a request has to be there more often before it is blamed. */
#define POISON_ATTEMPTS        2u
#define POISON_ATTEMPTS_UNTOLD 4u
#define HEADER_SIZE            sizeof(struct virtio_blk_outhdr)

/* ---- From the ring into the chain ------------------------------------------------------------ */

/* The header is consumed: what is left of the readable vectors is the data. */
static unsigned skip_header(struct virtq_chain *chain, struct iovec **iov)
{
    struct iovec *v = chain->iov;
    size_t left = HEADER_SIZE;
    unsigned n = chain->nread;

    while (n > 0 && left >= v->iov_len) {
        left -= v->iov_len;
        v++;
        n--;
    }
    if (left > 0) {
        v->iov_base = (char *)v->iov_base + left;
        v->iov_len -= left;
    }
    *iov = v;
    return n;
}

/* The status byte is the last writable one. */
static bool find_status(struct slot *slot)
{
    struct virtq_chain *chain = &slot->chain;
    struct iovec *last = &chain->iov[chain->nread + chain->nwrite - 1];

    if (chain->write_len == 0 || last->iov_len == 0)
        return false;
    slot->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    slot->trimmed = last->iov_len > 1;
    last->iov_len -= slot->trimmed;
    return true;
}

static int parse_data(struct slot *slot, uint64_t bytes, struct iovec *iov, unsigned niov)
{
    struct request *r = &slot->req;

    if (bytes == 0 || bytes % DT_SECTOR_SIZE || bytes >> DT_SECTOR_SHIFT > UINT32_MAX)
        return VIRTIO_BLK_S_IOERR;
    r->pub.sectors = (uint32_t)(bytes >> DT_SECTOR_SHIFT);
    r->iov = iov;
    r->niov = niov;
    return -1;
}

static int parse_read(struct slot *slot)
{
    struct virtq_chain *c = &slot->chain;

    slot->req.pub.op = DT_OP_READ;
    return parse_data(slot, c->write_len - 1, c->iov + c->nread, c->nwrite - !slot->trimmed);
}

static int parse_write(struct slot *slot)
{
    struct virtq_chain *c = &slot->chain;
    struct iovec *iov;
    unsigned n = skip_header(c, &iov);

    slot->req.pub.op = DT_OP_WRITE;
    if (DISK(slot->queue->front)->fua)
        slot->req.pub.flags |= DT_REQ_FUA;
    return parse_data(slot, c->read_len - HEADER_SIZE, iov, n);
}

/* One range each, as the configuration space promises. */
static int parse_range(struct slot *slot, enum dt_op op, uint64_t feature, uint32_t max)
{
    struct front *front = slot->queue->front;
    struct dt_req *req = &slot->req.pub;
    struct virtio_blk_discard_write_zeroes range;
    struct virtq_chain *c = &slot->chain;

    if (!(front->features & (1ull << feature)))
        return VIRTIO_BLK_S_UNSUPP;
    if (c->read_len != HEADER_SIZE + sizeof(range))
        return VIRTIO_BLK_S_IOERR;
    dt_iov_read(c->iov, c->nread, HEADER_SIZE, &range, sizeof(range));
    if (range.flags & ~(op == DT_OP_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
        return VIRTIO_BLK_S_UNSUPP;
    if (range.num_sectors > max)
        return VIRTIO_BLK_S_IOERR;
    req->op = op;
    req->sector = range.sector;
    req->sectors = range.num_sectors;
    if (range.flags)
        req->flags |= DT_REQ_UNMAP;
    if (op == DT_OP_WRITE_ZEROES && DISK(front)->fua)
        req->flags |= DT_REQ_FUA;
    return range.num_sectors ? -1 : VIRTIO_BLK_S_OK;
}

static int get_id(struct slot *slot)
{
    struct virtq_chain *c = &slot->chain;

    if (c->write_len - 1 < FRONT_SERIAL_SIZE)
        return VIRTIO_BLK_S_IOERR;
    dt_iov_write(c->iov + c->nread, c->nwrite, 0, DISK(slot->queue->front)->serial,
                 FRONT_SERIAL_SIZE);
    return VIRTIO_BLK_S_OK;
}

static bool is_poison(const struct slot *slot)
{
    unsigned most = slot->queue->front->remote ? POISON_ATTEMPTS : POISON_ATTEMPTS_UNTOLD;

    return unlikely(slot->chain.attempts >= most);
}

/* Returns -1 when slot->req holds a request for the chain, else the status it is answered with. */
static int parse(struct slot *slot)
{
    struct front *front = slot->queue->front;
    struct dt_req *req = &slot->req.pub;
    struct virtio_blk_outhdr header;

    if (is_poison(slot))
        return VIRTIO_BLK_S_IOERR;
    if (slot->chain.read_len < HEADER_SIZE)
        return VIRTIO_BLK_S_IOERR;
    if (likely(slot->chain.iov[0].iov_len >= HEADER_SIZE))
        memcpy(&header, slot->chain.iov[0].iov_base, HEADER_SIZE);
    else
        dt_iov_read(slot->chain.iov, slot->chain.nread, 0, &header, HEADER_SIZE);
    req->sector = header.sector;
    req->sectors = 0;
    req->flags = slot->chain.replayed ? DT_REQ_REPLAYED : 0;
    req->queue = (uint16_t)slot->queue->index;
    slot->req.iov = NULL;
    slot->req.niov = 0;

    switch (header.type) {
    case VIRTIO_BLK_T_IN:
        return parse_read(slot);
    case VIRTIO_BLK_T_OUT:
        return parse_write(slot);
    case VIRTIO_BLK_T_FLUSH:
        req->op = DT_OP_FLUSH;
        req->sector = 0;
        return -1;
    case VIRTIO_BLK_T_DISCARD:
        return parse_range(slot, DT_OP_DISCARD, VIRTIO_BLK_F_DISCARD,
                           DISK(front)->config.max_discard_sectors);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return parse_range(slot, DT_OP_WRITE_ZEROES, VIRTIO_BLK_F_WRITE_ZEROES,
                           DISK(front)->config.max_write_zeroes_sectors);
    case VIRTIO_BLK_T_GET_ID:
        return get_id(slot);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* ---- From the chain back to the ring ---- */

static void answer(struct slot *slot, uint8_t status, uint64_t written)
{
    struct front_queue *q = slot->queue;

    WRITE_ONCE(*slot->status, status);
    if (unlikely(q->vq.config.dirty && q->vq.config.dirty->bits)) {
        slot->chain.iov[slot->chain.nread + slot->chain.nwrite - 1].iov_len += slot->trimmed;
        virtq_dirty(&q->vq, &slot->chain, slot->chain.write_len);
    }
    virtq_push(&q->vq, &slot->chain, (uint32_t)(written + 1));
    front_mark_dirty(q);
    if (unlikely(slot->chain.awaited))
        front_iommu_answered(q, &slot->chain);
}

static uint8_t status_of(int error)
{
    if (likely(error == 0))
        return VIRTIO_BLK_S_OK;
    return error == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* Before a ring stops, or guest memory changes: what no layer served need not fail. */
static bool hand_back(struct slot *slot)
{
    struct front_queue *q = slot->queue;

    if (q->state != QUEUE_STOPPING && q->state != QUEUE_UNMAPPED &&
        !(q->state == QUEUE_PAUSED && q->lane->pausing))
        return false;
    if (!virtq_returns(&q->vq))
        return false;
    virtq_return(&q->vq, &slot->chain);
    front_mark_dirty(q);
    if (slot->chain.awaited)
        front_iommu_answered(q, &slot->chain);
    return true;
}

/* Its ring is served, and will be: a pause that does not drain is over in a moment. */
static bool goes_on(const struct front_queue *q)
{
    return q->state == QUEUE_RUNNING || (q->state == QUEUE_PAUSED && !q->lane->pausing);
}

/* The layers rest for the sake of one ring, or of whoever changes the chain, and let go of the requests of all; some do so
 * when nobody waits any more. */
static bool put_aside(struct slot *slot)
{
    struct front_lane *fl = slot->queue->lane;

    if (!goes_on(slot->queue) || !(front_awaited(fl) || lane_asked(fl->lane)))
        return false;
    slot->next = fl->aside;
    fl->aside = slot;
    front_keep_aside(fl);
    return true;
}

void front_complete(struct lane *lane, struct request **reqs, unsigned n)
{
    KILL_POINT("completed");
    for (unsigned i = 0; i < n; i++) {
        struct slot *slot = container_of(reqs[i], struct slot, req);
        struct dt_req *req = &reqs[i]->pub;
        uint64_t written = 0;

        if (req->op == DT_OP_READ && req->error == 0)
            written = dt_req_bytes(req);
        if (unlikely(req->error == -ECANCELED) && (hand_back(slot) || put_aside(slot)))
            continue;
        answer(slot, status_of(req->error), written);
    }
}

void disk_take_aside(struct front_lane *fl)
{
    struct slot **link = &fl->aside, *slot;

    while ((slot = *link) != NULL) {
        if (goes_on(slot->queue)) {
            link = &slot->next;
            continue;
        }
        *link = slot->next;
        if (!hand_back(slot))
            answer(slot, VIRTIO_BLK_S_IOERR, 0);
    }
}

bool disk_submit_aside(struct front_lane *fl)
{
    struct slot *slot;

    while ((slot = fl->aside) != NULL) {
        struct request *req = &slot->req;

        if (lane_admit(fl->lane, 1) == 0)
            return false;
        fl->aside = slot->next;
        lane_submit(fl->lane, &req, 1);
        if (fl->aside == slot) /* let go of again, at once */
            return false;
    }
    return true;
}

/* ---- The queue as a poller ---- */

static void report_poison(const struct slot *slot)
{
    if (is_poison(slot))
        log_error("%s: queue %u: request %u failed: it was in flight at %u crashes",
                  device_name(slot->queue->front->dev), slot->queue->index, slot->chain.id,
                  slot->chain.attempts);
}

/*
 * One of the requests that a crash left may have caused it. So they run one at a time and alone on
 * their lane, and only one that is under way at another crash is charged with it.
 */
static unsigned want_of_suspects(struct front_queue *q, unsigned want)
{
    struct front_lane *fl = q->lane;

    if (q->suspect && !front_queue_owes(q)) {
        q->suspect = false;
        fl->suspects--;
    }
    if (fl->suspects == 0)
        return want;
    return q->suspect && lane_in_flight(fl->lane) == 0 ? MIN(want, 1u) : 0;
}

unsigned front_queue_poll(struct loop_poller *poller)
{
    struct front_queue *q = container_of(poller, struct front_queue, poller);
    struct lane *lane = q->lane->lane;
    struct virtq_chain *chains[FRONT_BURST];
    struct request *reqs[FRONT_BURST];
    unsigned want = lane_admit(lane, FRONT_BURST), nreqs = 0;
    int n;

    q->blocked = want == 0;
    if (unlikely(q->state == QUEUE_STOPPING))
        want = MIN(want, q->vq.replay_count - q->vq.replay_next);
    if (unlikely(q->lane->suspects))
        want = want_of_suspects(q, want);
    if (want == 0)
        return 0;
    n = virtq_take(&q->vq, chains, want);
    if (n > 0)
        KILL_POINT("taken");
    if (unlikely(n < 0 || memmap_faulted(q->vq.config.map))) {
        front_lane_fault(q->lane, "queue %u: %s", q->index,
                         n < 0 ? q->vq.fault : "guest memory was truncated");
        if (n < 0)
            return 0;
    }
    if (unlikely(q->translated) && n == 0 && front_iommu_blocked(q))
        front_mark_dirty(q);
    if (n)
        q->lane->turn = q->index + 1;
    for (int i = 0; i < n; i++) {
        struct slot *slot = container_of(chains[i], struct slot, chain);
        int status;

        slot->queue = q;
        if (unlikely(!find_status(slot))) { /* nowhere to answer: give the buffer back */
            virtq_push(&q->vq, &slot->chain, 0);
            front_mark_dirty(q);
            continue;
        }
        status = parse(slot);
        if (likely(status < 0)) {
            reqs[nreqs++] = &slot->req;
        } else {
            report_poison(slot);
            answer(slot, (uint8_t)status, status ? 0 : slot->chain.write_len - 1);
        }
    }
    if (nreqs)
        lane_submit(lane, reqs, nreqs);
    if (nreqs)
        KILL_POINT("forwarded");
    return (unsigned)n;
}

/* The spin time is over. A blocked queue sleeps without asking for kicks: wake() will come. */
bool front_queue_arm(struct loop_poller *poller)
{
    struct front_queue *q = container_of(poller, struct front_queue, poller);

    if (unlikely(q->lane->suspects))
        return false; /* its turn comes without a kick */
    return q->blocked || virtq_arm(&q->vq);
}

/* Those that core has: it clears the holder of what it gives back. */
void front_each(struct lane *lane, void (*look)(struct lane *lane, struct request *req))
{
    struct front_lane *fl = lane_front(lane);
    struct front *front = fl->front;

    for (unsigned i = 0; i < front->nqueues; i++) {
        struct front_queue *q = &front->queues[i];
        struct slot *slots = q->lane == fl ? q->slots : NULL;
        unsigned size = slots ? q->vq.config.size : 0;

        for (unsigned s = 0; s < size; s++)
            if (slots[s].req.holder)
                look(lane, &slots[s].req);
    }
}
