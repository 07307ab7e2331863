/* SPDX-License-Identifier: MIT */
/*
 * back.c - chains that were taken and will not be served go back to the ring.
 *
 * Theory of operation: a stop must not leave chains in flight, because who serves the ring next may have neither our
 * log nor the front end's: a VM that was paused may be saved and go on elsewhere. So what a layer
 * holds for want of space, say, had to fail. But a chain that nobody served is no different from one that was
 * never taken. We write such heads once more into the available ring, as its last entries that we
 * had taken, and step back before them; then base and used index agree, as they do after a stop with nothing in flight.
 *
 * Requests of an earlier process that come back while others of them still wait go back to those, in the log.
 *
 * It is the driver's ring, and the device should not write there (virtio 1.2, 2.7.6); but a driver does not read
 * it, and has no entries of its own there while the chains are outstanding.
 *
 * A packed ring is the device's to write to. Its outstanding chains have as many positions as lie between the next used
 * and the next available one; what lay there may be overwritten by completions, but the log has the descriptors,
 * those of the tail once they were entered: as they are in the ring at that moment.
 */
#include "ring/internal.h"

void virtq_return(struct virtq *vq, struct virtq_chain *chain)
{
    CHECK(chain->id < vq->config.size && vq->state[chain->id] == VIRTQ_ID_TAKEN);
    vq->state[chain->id] = VIRTQ_ID_RETURNED;
    if (chain->iov != chain->inline_iov) {
        iovpool_put(vq->config.iovs, chain->iov);
        chain->iov = chain->inline_iov;
    }
    vq->returned[vq->returned_count++] = chain->id;
    vq->in_flight--;
}

/* When the log was told of it. */
static uint64_t entered(const struct virtq *vq, uint16_t id)
{
    const struct log_split *split = vq->config.inflight;
    const struct log_packed *packed = vq->config.inflight;

    return vq->config.packed ? READ_ONCE(packed->desc[vq->entered[id].first].counter)
                             : READ_ONCE(split->desc[id].counter);
}

/* In the order of their taking: the log knows it. What others may write there meanwhile is read once. */
static void sort_by_age(struct virtq *vq)
{
    unsigned n = vq->returned_count;
    _cleanup_free_ struct log_age *ages = xcalloc(n, sizeof(*ages));

    for (unsigned i = 0; i < n; i++)
        ages[i] = (struct log_age){entered(vq, vq->returned[i]), vq->returned[i]};
    log_sort_ages(ages, n);
    for (unsigned i = 0; i < n; i++)
        vq->returned[i] = ages[i].entry;
}

/* Nothing that is new is taken before all replays were: so these are some of them, the oldest, and wait in the log with the others. That
 * they were taken is not charged to them. */
static void replays_put_back(struct virtq *vq)
{
    struct log_split *split = vq->config.inflight;
    struct log_packed *packed = vq->config.inflight;

    for (unsigned i = vq->returned_count; i-- > 0;) {
        uint16_t id = vq->returned[i], entry = vq->config.packed ? vq->entered[id].first : id;
        const struct virtq_chain *chain = virtq_slot(vq, id);

        if (!vq->config.innocent && chain->attempts > 0)
            WRITE_ONCE(*(vq->config.packed ? &packed->desc[entry].word.attempts
                                           : &split->desc[entry].word.attempts),
                       (uint8_t)(chain->attempts - 1));
        vq->replay[--vq->replay_next] = entry;
        vq->state[id] = VIRTQ_ID_FREE;
    }
}

unsigned virtq_put_back(struct virtq *vq)
{
    unsigned n = vq->returned_count;

    if (n == 0)
        return 0;
    CHECK(vq->started && vq->in_flight == 0 && vq->done_count == 0);
    tail_enter(vq);
    sort_by_age(vq);
    if (vq->replay_next < vq->replay_count) {
        replays_put_back(vq);
    } else {
        tail_mark(vq, vq->used, vq->used_wrap);
        vq->config.packed ? packed_put_back(vq) : split_put_back(vq);
    }
    vq->returned_count = 0;
    return n;
}
