/* SPDX-License-Identifier: MIT */
/*
 * ring.c - publishing and sleeping.
 *
 * The producer stores head, then looks at event; the consumer stores event, then looks at head.
 * A full barrier stands between the two on either side, so at least one sees the other's
 * store, and no wake-up is lost (virtio 1.2, 2.7.10, has the same arithmetic).
 */
#include "channel/channel.h"

void channel_producer_init(struct channel_producer *p, struct channel_msg *ring,
                           struct channel_ring *shared, uint32_t entries, int kick)
{
    *p = (struct channel_producer){
        .ring = ring, .shared = shared, .mask = entries - 1, .kick = kick};
}

void channel_consumer_init(struct channel_consumer *c, const struct channel_msg *ring,
                           struct channel_ring *shared, uint32_t entries)
{
    *c = (struct channel_consumer){.ring = ring, .shared = shared, .mask = entries - 1};
}

void channel_publish(struct channel_producer *p)
{
    uint32_t old = p->published, event;
    const uint64_t one = 1;

    if (old == p->next)
        return;
    p->published = p->next;
    __atomic_store_n(&p->shared->head, p->next, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    event = __atomic_load_n(&p->shared->event, __ATOMIC_RELAXED);
    /* A full eventfd (a peer can do that to itself) already wakes: the error says nothing new. */
    if (p->next - event - 1 < p->next - old && write(p->kick, &one, sizeof(one)) < 0)
        return;
}

bool channel_arm(struct channel_consumer *c)
{
    __atomic_store_n(&c->shared->event, c->next, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n(&c->shared->head, __ATOMIC_ACQUIRE) == c->next;
}
