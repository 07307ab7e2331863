/* SPDX-License-Identifier: MIT */
/* publish.c - what was answered in a turn is shown to the drivers at its end, each ring at once. */
#include "base/kill.h"
#include "front/served.h"

void front_list_dirty(struct front_queue *q)
{
    q->dirty = true;
    q->next_dirty = q->lane->dirty;
    q->lane->dirty = q;
    loop_defer(lane_loop(q->lane->lane), &q->lane->publish);
}

void front_call_driver(const struct front_queue *q)
{
    int fd = vhost_session_call_fd(q->front->session, q->index);
    const uint64_t one = 1;

    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        log_debug("queue %u: call: %m", q->index); /* EAGAIN: a call is pending already */
}

/* Once per turn: show every ring's used entries, and call the drivers that want it. */
void front_publish(struct loop_deferred *deferred)
{
    struct front_lane *fl = container_of(deferred, struct front_lane, publish);
    struct front_queue *q;

    while ((q = fl->dirty) != NULL) {
        bool call;

        KILL_POINT("pushed");
        call = virtq_publish(&q->vq);
        KILL_POINT("published");
        if (call)
            front_call_driver(q);
        fl->dirty = q->next_dirty; /* only now: an empty list says that no ring is written to */
        q->dirty = false;
        if (unlikely(q->state != QUEUE_RUNNING))
            front_queue_drained(q);
    }
}
