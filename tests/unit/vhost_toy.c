/* SPDX-License-Identifier: MIT */
#include "vhost_toy.h"

#include <linux/virtio_config.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void toy_call(struct toy_queue *q)
{
    int fd = vhost_backend_call_fd(q->toy->session, q->index);

    if (fd >= 0)
        eventfd_write(fd, 1);
}

static void toy_finish(struct toy_queue *q, struct virtq_chain *chain)
{
    q->toy->completed++;
    q->toy->replayed += chain->attempts > 0;
    virtq_dirty(&q->vq, chain, chain->write_len);
    virtq_push(&q->vq, chain, (uint32_t)MIN(chain->write_len, UINT32_MAX));
}

static void toy_complete_queue(struct toy_queue *q)
{
    if (!q->vq.started)
        return;
    for (unsigned i = 0; i < q->nheld; i++)
        toy_finish(q, q->held[i]);
    q->nheld = 0;
    if (virtq_publish(&q->vq))
        toy_call(q);
}

/* Returns true where there may be more. */
static bool toy_take(struct toy_queue *q)
{
    struct virtq_chain *chains[16];
    int n = virtq_take(&q->vq, chains, ARRAY_SIZE(chains));

    if (n < 0) {
        vhost_backend_break(q->toy->session, "ring %u: %s", q->index, q->vq.fault);
        return false;
    }
    for (int i = 0; i < n; i++)
        q->held[q->nheld++] = chains[i];
    if (!q->toy->hold)
        toy_complete_queue(q);
    return n > 0;
}

static void toy_kicked(struct dt_watch *watch, uint32_t events)
{
    struct toy_queue *q = container_of(watch, struct toy_queue, kick);
    eventfd_t value;

    eventfd_read(watch->fd, &value);
    if (q->toy->paused || q->stop_asked)
        return;
    do {
        while (toy_take(q))
            ;
    } while (!q->vq.broken && !virtq_arm(&q->vq) && toy_take(q));
}

static void toy_watch(struct toy_queue *q, int fd)
{
    if (q->watching)
        loop_watch_remove(q->toy->loop, &q->kick);
    q->watching = fd >= 0;
    if (fd < 0)
        return;
    q->kick = (struct dt_watch){.ready = toy_kicked, .fd = fd, .events = EPOLLIN};
    CHECK(loop_watch_add(q->toy->loop, &q->kick) == 0);
}

/* ---- What the session asks ---- */

static uint64_t toy_features(void *dev)
{
    return ((struct toy *)dev)->features;
}

static int toy_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    struct toy *t = dev;

    t->driver_features = features;
    t->feature_sets++;
    return 0;
}

static int toy_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    struct toy *t = dev;

    if (offset > TOY_CONFIG)
        return -EINVAL;
    memset(buf, 0, len);
    memcpy(buf, t->config + offset, MIN(len, TOY_CONFIG - offset));
    return 0;
}

static int toy_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    struct toy *t = dev;

    if (offset > TOY_CONFIG || len > TOY_CONFIG - offset)
        return -EINVAL;
    memcpy(t->config + offset, buf, len);
    return 0;
}

static int toy_queue_start(void *dev, unsigned index, struct dt_error *err)
{
    struct toy *t = dev;
    struct toy_queue *q = &t->queues[index];
    int rc;

    if (t->refuse_start)
        return dt_fail(err, -EIO, "the toy does not want to");
    rc = vhost_backend_ring(t->session, index, &q->ring, err);
    if (rc < 0)
        return rc;
    if (q->ring.config.size > TOY_MAX_SIZE)
        return dt_fail(err, -EINVAL, "size %u", q->ring.config.size);
    free(q->slots);
    q->slots = xcalloc(q->ring.config.size, sizeof(*q->slots));
    q->ring.config.slots = q->slots;
    q->ring.config.slot_stride = sizeof(*q->slots);
    q->ring.config.iovs = t->iovs;
    rc = virtq_start(&q->vq, &q->ring.config, q->ring.base, q->ring.recover, err);
    if (rc < 0)
        return rc;
    q->starts++;
    toy_watch(q, q->ring.kick);
    return 0;
}

static void toy_stop_now(struct toy_queue *q)
{
    /* What the log owes: no base can express it. */
    while (!q->vq.broken && q->vq.replay_next < q->vq.replay_count && toy_take(q))
        ;
    q->stop_asked = false;
    toy_complete_queue(q);
    toy_watch(q, -1);
    vhost_backend_queue_stopped(q->toy->session, q->index, q->vq.started ? virtq_stop(&q->vq) : 0);
}

static void toy_queue_stop(void *dev, unsigned index)
{
    struct toy_queue *q = &((struct toy *)dev)->queues[index];

    CHECK(!q->stop_asked && !q->toy->paused && !q->toy->pause_asked);
    q->stops++;
    q->stop_asked = true;
    if (!q->toy->slow)
        toy_stop_now(q);
}

static void toy_pause_now(struct toy *t)
{
    if (t->drain)
        toy_complete(t);
    t->pause_asked = false;
    t->paused = true;
    vhost_backend_paused(t->session);
}

static void toy_pause(void *dev, bool drain)
{
    struct toy *t = dev;

    CHECK(!t->paused && !t->pause_asked);
    t->pauses++;
    t->drain = drain;
    t->pause_asked = true;
    if (!t->slow)
        toy_pause_now(t);
}

static void toy_resume(void *dev)
{
    struct toy *t = dev;

    CHECK(t->paused);
    t->paused = false;
    t->resumes++;
    for (unsigned i = 0; i < TOY_QUEUES; i++) {
        struct toy_queue *q = &t->queues[i];
        struct dt_error err;

        if (!q->vq.started)
            continue;
        CHECK(vhost_backend_ring(t->session, i, &q->ring, &err) == 0);
        virtq_set_dirty(&q->vq, q->ring.config.dirty, q->ring.config.log_used,
                        q->ring.config.log_used_valid);
        if (q->ring.kick >= 0)
            eventfd_write(q->ring.kick, 1); /* what came meanwhile was not looked at */
    }
}

static void toy_kick_changed(void *dev, unsigned index)
{
    struct toy_queue *q = &((struct toy *)dev)->queues[index];

    CHECK(q->toy->paused);
    q->kick_changes++;
    if (q->vq.started) /* else it was abandoned, and takes nothing any more */
        toy_watch(q, vhost_backend_kick_fd(q->toy->session, index));
}

static void toy_set_status(void *dev, uint8_t status)
{
    struct toy *t = dev;

    t->status = status;
    t->statuses++;
}

static void toy_closed(void *dev, const char *reason)
{
    struct toy *t = dev;

    t->closes++;
    snprintf(t->reason, sizeof(t->reason), "%s", reason ? reason : "");
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        CHECK(!t->queues[i].vq.started);
    CHECK(!t->paused && vhost_backend_memmap(t->session)->count == 0);
    vhost_backend_free(t->session);
    t->session = NULL;
}

static void toy_send_rarp(void *dev, const uint8_t mac[6])
{
    memcpy(((struct toy *)dev)->mac, mac, 6);
}

static int toy_set_mtu(void *dev, uint16_t mtu)
{
    return mtu < 68 ? -EINVAL : 0;
}

static const struct vhost_device_ops toy_ops = {
    .features = toy_features,
    .set_features = toy_set_features,
    .get_config = toy_get_config,
    .set_config = toy_set_config,
    .queue_start = toy_queue_start,
    .queue_stop = toy_queue_stop,
    .pause = toy_pause,
    .resume = toy_resume,
    .queue_kick_changed = toy_kick_changed,
    .set_status = toy_set_status,
    .closed = toy_closed,
    .send_rarp = toy_send_rarp,
    .set_mtu = toy_set_mtu,
};

/* ---- What a test asks ---- */

struct toy *toy_new(struct loop *loop, int sock, uint64_t protocol)
{
    struct toy *t = xcalloc(1, sizeof(*t));
    struct vhost_backend_config config = {.loop = loop,
                                          .sock = sock,
                                          .queues = TOY_QUEUES,
                                          .protocol_features = protocol,
                                          .name = "toy",
                                          .ops = &toy_ops,
                                          .dev = t};
    struct dt_error err;

    t->loop = loop;
    t->iovs = iovpool_new(4);
    t->features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED |
                  1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC;
    for (unsigned i = 0; i < TOY_CONFIG; i++)
        t->config[i] = (uint8_t)(i + 1);
    for (unsigned i = 0; i < TOY_QUEUES; i++) {
        t->queues[i].toy = t;
        t->queues[i].index = i;
    }
    CHECK(vhost_backend_new(&t->session, &config, &err) == 0);
    return t;
}

void toy_complete(struct toy *t)
{
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        toy_complete_queue(&t->queues[i]);
}

void toy_answer(struct toy *t)
{
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        if (t->queues[i].stop_asked)
            toy_stop_now(&t->queues[i]);
    if (t->pause_asked)
        toy_pause_now(t);
}

void toy_abandon(struct toy *t)
{
    for (unsigned i = 0; i < TOY_QUEUES; i++) {
        toy_watch(&t->queues[i], -1);
        virtq_abandon(&t->queues[i].vq);
        t->queues[i].nheld = 0;
    }
}

void toy_free(struct toy *t)
{
    t->slow = false;
    toy_answer(t);
    if (t->session)
        vhost_backend_close(t->session);
    for (unsigned i = 0; i < 100 && t->session; i++)
        loop_turn(t->loop, false);
    CHECK(!t->session);
    for (unsigned i = 0; i < TOY_QUEUES; i++)
        free(t->queues[i].slots);
    iovpool_free(t->iovs);
    free(t);
}
