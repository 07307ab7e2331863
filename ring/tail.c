/* SPDX-License-Identifier: MIT */
/*
 * tail.c - chains in flight that the in-flight log need not be told of.
 *
 * Theory of operation: the log is for a successor that must know which chains a dead process had taken and not yet returned. Where
 * these are what the ring shows from the used position on, ring and one number, up to where chains were taken, say all of it.
 * That is so while chains are returned in the order in which they were taken; packets mostly are, within the turn, and so cost no
 * entry. Those chains are the tail: what was taken after all that is in the log.
 *
 *     used position                         taken up to (in the log's first word)
 *          | as many as the log has in flight | tail    |
 *
 * Each store moves one of these marks and so leaves a state that means something. To take: move the right one. To
 * return the tail's first chains: the ring's used position moves, and with it the left end of the tail. To enter the tail's first in the log:
 * there is one more in the log, and the tail begins one later. As soon as something else is to be returned all of the
 * tail is entered first, and the log is used as it always was.
 *
 * A packed ring has no used index: there the used descriptors of tail chains are written one after the other, in order, each in one store, and
 * a successor looks from where the log says how far they went. They go to the used position, as all do: what lies there is a chain of the log, whose
 * descriptors the log has, or the tail's own first. It could not look past chains of several descriptors in the ring,
 * since their used descriptor is one; so in packed rings these are entered at once.
 *
 * An attempt is charged as for those in the log: a successor enters the tail and then takes it from there.
 */
#include "ring/internal.h"

void tail_settle(struct virtq *vq)
{
    if (vq->tail)
        tail_taken(vq);
    else
        tail_end(vq);
}

/* Others may index with the head of a batch without looking at how many there are. */
void tail_end(struct virtq *vq)
{
    struct log_split *split = vq->config.inflight;

    if (!vq->config.packed && READ_ONCE(split->last_batch_head) == LOG_NO_BATCH)
        WRITE_ONCE(split->last_batch_head, 0);
    RING_STEP();
    log_end_tail(vq->config.inflight);
}

static uint16_t tail_id(const struct virtq *vq, unsigned i)
{
    return vq->tail[tail_place(vq, i)];
}

/* All to be published are pushed, and so are as many as begin the tail: so they are the same. */
static bool same_chains(const struct virtq *vq)
{
    if (vq->done_count > vq->ntail)
        return false;
    for (unsigned i = 0; i < vq->done_count; i++)
        if (vq->state[tail_id(vq, i)] != VIRTQ_ID_PUSHED)
            return false;
    return true;
}

static __attribute__((noinline)) bool sort_done(struct virtq *vq)
{
    struct virtq_done *done = vq->done;
    uint16_t *rank = vq->tail_rank;

    if (!same_chains(vq))
        return false;
    for (unsigned i = 0; i < vq->done_count; i++)
        rank[tail_id(vq, i)] = (uint16_t)i;
    for (unsigned i = 0; i < vq->done_count; i++) {
        while (rank[done[i].id] != i) {
            struct virtq_done *place = &done[rank[done[i].id]], other = *place;

            *place = done[i];
            done[i] = other;
        }
    }
    return true;
}

bool tail_is_done(struct virtq *vq)
{
    const struct virtq_done *done = vq->done;
    const uint16_t *tail = vq->tail;
    unsigned n = vq->done_count, size = vq->config.size, place;

    if (n > vq->ntail)
        return false;
    place = tail_place(vq, 0);
    for (unsigned i = 0; i < n; i++) {
        if (unlikely(done[i].id != tail[place]))
            return sort_done(vq);
        if (++place == size)
            place = 0;
    }
    return true;
}

void tail_enter(struct virtq *vq)
{
    for (unsigned i = 0, n = vq->ntail; i < n; i++) {
        uint16_t place = (uint16_t)tail_place(vq, i);

        if (vq->config.packed)
            packed_enter(vq, place, vq->tail[place]);
        else
            split_enter(vq, vq->tail[place]);
    }
    vq->ntail = 0;
}
