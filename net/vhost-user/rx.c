/* SPDX-License-Identifier: MIT */
/*
 * rx.c - packets from the chain into the guest's rings.
 *
 * Theory of operation: the guest's buffers are taken when there is a packet for them, a few ahead, and what
 * is ahead is kept in the ring's stash. Where the guest has no buffers the packet waits; while any waits the backs
 * are told that there is no room and leave theirs where they are, and the ring asks its driver for a kick.
 * Else it never does: a guest that gives buffers back wakes nobody.
 *
 * Of several queues a flow gets the one that it last sent on, which is where the guest looks for it.
 */
#include "net/vhost-user/internal.h"

#include <linux/virtio_net.h>

#define TAKE_AHEAD VIRTQ_BURST

static void drop(struct lane *lane, struct dt_packet *p, enum card_drops why)
{
    card_lane(lane_front(lane))->drops[why]++;
    net_packet_free(lane, packet_of(p));
}

/* ---- Buffers ---- */

static struct card_ring *ring_of(const struct front_queue *q)
{
    return &CARD(q->front)->rings[q->index];
}

/* Takes some more; returns how many, or -errno. */
static int take_buffers(struct front_queue *q)
{
    struct card_ring *r = ring_of(q);
    int n;

    if (r->at > 0) {
        memmove(r->stash, r->stash + r->at, (r->nstash - r->at) * sizeof(r->stash[0]));
        r->nstash -= r->at;
        r->at = 0;
    }
    n = virtq_take(&q->vq, r->stash + r->nstash, MIN(CARD_CHAINS - r->nstash, TAKE_AHEAD));
    if (unlikely(n < 0 || memmap_faulted(q->vq.config.map)))
        front_lane_fault(q->lane, "queue %u: %s", q->index,
                         n < 0 ? q->vq.fault : "guest memory was truncated");
    if (unlikely(q->translated) && n == 0 && front_iommu_blocked(q))
        front_mark_dirty(q);
    if (n > 0)
        r->nstash += (unsigned)n;
    return n;
}

static struct virtq_chain *next_buffer(struct card_ring *r)
{
    return r->stash[r->at++];
}

static bool stash_holds(const struct card_ring *r, uint64_t bytes)
{
    uint64_t room = 0;

    for (unsigned i = r->at; i < r->nstash && room < bytes; i++)
        room += r->stash[i]->write_len;
    return room >= bytes;
}

static inline void give_buffer(struct front_queue *q, struct virtq_chain *chain, uint32_t written)
{
    if (unlikely(q->vq.config.dirty && q->vq.config.dirty->bits))
        virtq_dirty(&q->vq, chain, written);
    virtq_push(&q->vq, chain, written);
    front_mark_dirty(q);
}

/* As if it had never been taken; but a guest's IOMMU may let us only read what says so, and then it comes back empty. */
static void give_unused(struct front_queue *q, struct virtq_chain *chain)
{
    if (likely(virtq_returns(&q->vq)))
        virtq_return(&q->vq, chain);
    else
        virtq_push(&q->vq, chain, 0);
    front_mark_dirty(q);
    if (unlikely(chain->awaited))
        front_iommu_answered(q, chain);
}

void card_rx_release(struct front_queue *q)
{
    struct card_ring *r = ring_of(q);

    while (r->at < r->nstash)
        give_unused(q, next_buffer(r));
    r->at = r->nstash = 0;
}

/* ---- Packets into buffers ---- */

static void copy_out(const struct virtq_chain *chain, uint32_t skip, const uint8_t *data,
                     uint32_t length)
{
    const struct iovec *iov = chain->iov + chain->nread;

    if (likely(chain->nwrite == 1))
        memcpy((char *)iov->iov_base + skip, data, length);
    else
        dt_iov_write(iov, chain->nwrite, skip, data, length);
}

static inline struct dt_vnet_header make_header(const struct card_front *card, struct dt_packet *p,
                                                unsigned buffers)
{
    struct dt_vnet_header v = {0};

    if (unlikely(p->needs | (p->flags & DT_PACKET_CSUM_VALID))) {
        dt_vnet_write(p, &v);
        if (!card->ecn)
            v.gso_type &= (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    }
    v.num_buffers = (uint16_t)buffers;
    return v;
}

/* All of @p into the next buffer, if that is in one piece and large enough: mostly. */
static inline bool fill_one(struct front_queue *q, const struct card_front *card,
                            struct card_ring *r, struct dt_packet *p)
{
    static const struct dt_vnet_header plain = {.num_buffers = 1};
    const uint32_t header = sizeof(plain), length = p->length;
    struct virtq_chain *chain;
    uint8_t *to;

    if (unlikely(r->at == r->nstash || card->header != header))
        return false;
    chain = r->stash[r->at];
    if (unlikely(chain->nwrite != 1 || chain->write_len < header + (uint64_t)length))
        return false;
    to = chain->iov[chain->nread].iov_base;
    r->at++;
    if (likely(!(p->needs | (p->flags & DT_PACKET_CSUM_VALID)))) {
        memcpy(to, &plain, header);
    } else {
        struct dt_vnet_header v = make_header(card, p, 1);

        memcpy(to, &v, header);
    }
    card_copy(to + header, p->data, length);
    give_buffer(q, chain, header + length);
    return true;
}

/* The stash has room for all of @p. */
static void fill(struct front_queue *q, struct card_ring *r, struct dt_packet *p)
{
    const struct card_front *card = CARD(q->front);
    struct virtq_chain *first = r->stash[r->at];
    uint32_t skip = card->header, done = 0;
    struct dt_vnet_header v;
    unsigned buffers = 0;

    for (uint64_t room = 0; room < card->header + (uint64_t)p->length; buffers++)
        room += r->stash[r->at + buffers]->write_len;
    v = make_header(card, p, buffers);
    copy_out(first, 0, (const uint8_t *)&v, card->header);
    for (; buffers > 0; buffers--) {
        struct virtq_chain *chain = next_buffer(r);
        uint32_t n = (uint32_t)MIN(chain->write_len - skip, (uint64_t)(p->length - done));

        copy_out(chain, skip, p->data + done, n);
        give_buffer(q, chain, skip + n);
        done += n;
        skip = 0;
    }
}

/* 1 = delivered or dropped; 0 = the guest has no buffers now, or they cannot be reached. */
static int deliver(struct front_queue *q, struct dt_packet *p)
{
    struct card_front *card = CARD(q->front);
    struct card_ring *r = ring_of(q);
    struct lane *lane = q->lane->lane;

    if (unlikely(q->state != QUEUE_RUNNING))
        return 0;
    for (;;) {
        if (likely(fill_one(q, card, r, p))) {
            net_packet_free(lane, packet_of(p));
            return 1;
        }
        if (r->at < r->nstash && r->stash[r->at]->write_len < card->header) {
            give_buffer(q, next_buffer(r), 0); /* of no use to anybody */
            continue;
        }
        if (!card->mergeable && r->at < r->nstash &&
            r->stash[r->at]->write_len < card->header + (uint64_t)p->length)
            break;
        if (stash_holds(r, card->header + (uint64_t)p->length)) {
            fill(q, r, p);
            net_packet_free(lane, packet_of(p));
            return 1;
        }
        if (r->nstash - r->at == CARD_CHAINS)
            break;
        if (take_buffers(q) <= 0)
            return 0;
    }
    drop(lane, p, DROP_TOO_BIG);
    return 1;
}

/* ---- Packets that wait ---- */

static void keep_waiting(struct front_queue *q, struct dt_packet *p)
{
    struct card_lane *cl = card_lane(q->lane);

    if (cl->nbacklog == CARD_BACKLOG) {
        drop(q->lane->lane, p, DROP_BACKLOG);
        return;
    }
    p->next = NULL;
    p->queue = (uint16_t)(q->index / 2);
    *cl->backlog_tail = p;
    cl->backlog_tail = &p->next;
    cl->nbacklog++;
    card_set_room(q->lane);
}

/* One that is not open looks for what waits when it opens. */
static void wake_ring(struct front_queue *q)
{
    if (q->state == QUEUE_RUNNING)
        loop_poller_wake(lane_loop(q->lane->lane), &q->poller);
}

bool card_rx_wanted(const struct front_queue *q)
{
    const struct dt_packet *first = card_lane(q->lane)->backlog;

    return first && first->queue == q->index / 2;
}

unsigned card_rx_poll(struct front_queue *q)
{
    struct card_lane *cl = card_lane(q->lane);
    unsigned n = 0;

    if (unlikely(q->state !=
                 QUEUE_RUNNING)) { /* it stops, and owes buffers of an earlier process */
        while (front_queue_owes(q) && take_buffers(q) > 0)
            card_rx_release(q);
        return 0;
    }
    while (card_rx_wanted(q)) {
        struct dt_packet *p = cl->backlog;
        struct dt_packet *next = p->next;

        if (!deliver(q, p))
            return n;
        cl->backlog = next;
        cl->nbacklog--;
        n++;
    }
    if (!cl->backlog) {
        cl->backlog_tail = &cl->backlog;
        card_set_room(q->lane);
        net_resume(q->lane->lane);
    } else { /* the next one waits for another ring */
        wake_ring(&q->front->queues[cl->backlog->queue * 2u]);
    }
    return n;
}

/* ---- From the chain ---- */

static struct front_queue *running(const struct front_lane *fl, unsigned pair)
{
    struct front_queue *q = &fl->front->queues[pair * 2];

    return q->lane == fl && card_serves(q) ? q : NULL;
}

static struct front_queue *choose(struct front_lane *fl, struct card_lane *cl, struct dt_packet *p)
{
    unsigned pairs = fl->front->nqueues / 2, pair = cl->first;
    struct front_queue *q;

    if (cl->pairs > 1) {
        uint32_t flow = dt_packet_flow(p);

        pair = cl->flow_queue[flow % CARD_FLOWS];
        pair = pair ? pair - 1 : flow % pairs;
        for (unsigned i = 0; i < pairs; i++, pair = (pair + 1) % pairs)
            if ((q = running(fl, pair)) != NULL)
                return q;
    }
    return running(fl, pair);
}

void card_receive(struct lane *lane, struct dt_packet **packets, unsigned n)
{
    struct front_lane *fl = lane_front(lane);
    struct card_lane *cl = card_lane(fl);
    struct front_queue *only = cl->pairs == 1 ? running(fl, cl->first) : NULL;
    struct card_ring *r = only ? ring_of(only) : NULL;

    for (unsigned i = 0; i < n; i++) {
        struct front_queue *q = only ?: choose(fl, cl, packets[i]);

        if (only && likely(!cl->backlog && fill_one(only, CARD(fl->front), r, packets[i]))) {
            net_packet_free(lane, packet_of(packets[i]));
            continue;
        }
        if (unlikely(!q)) {
            drop(lane, packets[i], DROP_BACKLOG);
        } else if (unlikely(cl->backlog) || !deliver(q, packets[i])) {
            keep_waiting(q, packets[i]);
            wake_ring(q); /* and then it asks for a kick */
        }
    }
}

void card_set_room(struct front_lane *fl)
{
    const struct card_lane *cl = card_lane(fl);

    net_set_room(fl->lane, cl->pairs, cl->backlog ? 0 : CARD_BACKLOG);
}

/* ---- Life ---- */

void card_lane_init(struct card_lane *cl)
{
    cl->backlog_tail = &cl->backlog;
}

void card_lane_drop_backlog(struct card_lane *cl, struct lane *lane)
{
    struct dt_packet *p;

    while ((p = cl->backlog) != NULL) {
        cl->backlog = p->next;
        cl->drops[DROP_BACKLOG]++;
        net_packet_free(lane, packet_of(p));
    }
    cl->backlog_tail = &cl->backlog;
    cl->nbacklog = 0;
}
