/* SPDX-License-Identifier: MIT */
/*
 * stuck.c - which requests have been under way for long, and which layer has each: what a person looks
 * at when a guest hangs.
 *
 * On the first thread, while other threads work: what is told of a request may be over a moment later. The slots
 * stay where they are, since they go on this thread.
 */
#include "blk/vhost-user/internal.h"

#define STUCK_NS  DT_S(1)
#define STUCK_MAX 16u

struct stuck {
    const struct front_queue *queue;
    const struct request *request;
    const char *layer;
    uint64_t started;
};

/* The oldest are kept, oldest first. */
static void add(struct stuck *list, unsigned *n, const struct stuck *one)
{
    unsigned at = *n < STUCK_MAX ? (*n)++ : STUCK_MAX;

    while (at > 0 && list[at - 1].started > one->started) {
        if (at < STUCK_MAX)
            list[at] = list[at - 1];
        at--;
    }
    if (at < STUCK_MAX)
        list[at] = *one;
}

static void look(const struct front_queue *q, uint64_t now, struct stuck *list, unsigned *n)
{
    const struct slot *slots = q->slots;
    unsigned size = slots ? q->vq.config.size : 0;

    for (unsigned i = 0; i < size; i++) {
        const struct request *r = &slots[i].req;
        const struct stuck one = {.queue = q,
                                  .request = r,
                                  .layer = request_layer(r),
                                  .started = READ_ONCE(r->pub.started)};

        if (one.layer && now > one.started && now - one.started >= STUCK_NS)
            add(list, n, &one);
    }
}

static json_t *describe(const struct stuck *s, uint64_t now)
{
    const struct dt_req *req = &s->request->pub;

    return json_pack("{ss si ss sI sI sI}", "layer", s->layer, "queue", (int)s->queue->index,
                     "operation", dt_op_name(req->op), "sector", (json_int_t)req->sector, "sectors",
                     (json_int_t)req->sectors, "age_ms",
                     (json_int_t)((now - s->started) / DT_MS(1)));
}

json_t *front_stuck(const struct front *front)
{
    struct stuck list[STUCK_MAX];
    uint64_t now = dt_clock_ns();
    json_t *json = json_array();
    unsigned n = 0;

    for (unsigned i = 0; i < front->nqueues; i++)
        if (front->queues[i].state != QUEUE_IDLE && front->queues[i].state != QUEUE_HANDED)
            look(&front->queues[i], now, list, &n);
    for (unsigned i = 0; i < n; i++)
        json_array_append_new(json, describe(&list[i], now));
    return json;
}
