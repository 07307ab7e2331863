/* SPDX-License-Identifier: MIT */
/*
 * link-remote-session.c - the worker's end: the session as its device sees it. Questions are
 * answered from what the keeper sent; answers of the device become messages.
 */
#include "vhost/link-remote.h"

#include "base/kill.h"

#include <stdio.h>

static void *queue_log(const struct vhost_remote *r, unsigned q, bool packed)
{
    size_t size = inflight_queue_size(r->inflight.queue_size, packed);

    if (r->inflight_map.count == 0 || q >= r->inflight.num_queues ||
        r->queues[q].state.size > r->inflight.queue_size)
        return NULL;
    return memmap_host(&r->inflight_map, q * size, size);
}

static int remote_ring(struct vhost_session *session, unsigned q, struct vhost_ring *ring,
                       struct dt_error *err)
{
    struct vhost_remote *r = remote_of(session);
    struct remote_queue *queue = &r->queues[q];
    int rc;

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(q < r->config.queues && queue->started);
    *ring =
        (struct vhost_ring){.kick = queue->kick, .call = queue->call, .recover = queue->recover};
    rc = vhost_ring_config(&queue->state, r->features, &r->memory, &ring->config, err);
    if (rc == 0)
        rc = vhost_ring_base(&queue->state, ring->config.packed, &ring->base, err);
    if (rc < 0)
        return rc;
    if ((r->features & BIT(VHOST_FEATURE_LOG_ALL)) && r->dirty.bits) {
        ring->config.dirty = &r->dirty;
        ring->config.log_used = queue->state.log_addr;
        ring->config.log_used_valid = queue->state.log_used;
    }
    ring->config.innocent = queue->innocent;
    ring->config.inflight = queue_log(r, q, ring->config.packed);
    if (!ring->config.inflight)
        return dt_fail(err, -EINVAL, "ring %u does not fit the in-flight region", q);
    return 0;
}

static int remote_kick_fd(const struct vhost_session *session, unsigned q)
{
    return READ_ONCE(remote_of(session)->queues[q].kick);
}

static int remote_call_fd(const struct vhost_session *session, unsigned q)
{
    return READ_ONCE(remote_of(session)->queues[q].call);
}

static void remote_queue_stopped(struct vhost_session *session, unsigned q, uint32_t base)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_QUEUE_STOPPED, .answer = {q, base}};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->queues[q].stopping);
    KILL_POINT("ring-stopped");
    r->queues[q].started = r->queues[q].stopping = false;
    close_fd(&r->queues[q].old_kick);
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        vremote_send(r, &m);
}

static void remote_paused(struct vhost_session *session)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_PAUSED};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->pausing);
    r->pausing = false;
    r->paused = true;
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        vremote_send(r, &m);
}

void vremote_fail(struct vhost_session *session, const char *reason)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_FAULT};

    if (r->faulted)
        return;
    r->faulted = true; /* the first reason is the one that counts */
    snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, reason);
    vremote_send(r, &m);
}

static int remote_notify_config(struct vhost_session *session)
{
    vhost_remote_config_changed(remote_of(session));
    return 0;
}

static void remote_close(struct vhost_session *session)
{
    vremote_end(remote_of(session), "the worker ends");
}

static void remote_free(struct vhost_session *session)
{
    (void)session; /* the link outlives its sessions */
}

static bool remote_region(const struct vhost_session *session, unsigned i,
                          struct vhost_shared *shared)
{
    const struct vhost_remote *r = remote_of(session);

    if (i >= r->nregions)
        return false;
    shared->at = r->regions[i].at;
    shared->fd = r->regions[i].fd;
    shared->host = memmap_host(&r->memory, shared->at.gpa, shared->at.size);
    return true;
}

static bool remote_inflight(const struct vhost_session *session, struct vhost_inflight *region,
                            int *fd)
{
    const struct vhost_remote *r = remote_of(session);

    *region = r->inflight;
    *fd = r->inflight_fd;
    return *fd >= 0;
}

static void remote_iotlb_done(struct vhost_session *session, int result)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_IOTLB_DONE, .u32 = result < 0};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->translating);
    r->translating = false;
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        vremote_send(r, &m);
}

static int remote_iotlb_miss(struct vhost_session *session, uint64_t iova, unsigned access)
{
    struct link_message m = {.type = LINK_IOTLB_MISS};

    m.iotlb =
        (struct vhost_iotlb){.iova = iova, .access = (uint8_t)access, .type = VHOST_IOTLB_MISS};
    vremote_send(remote_of(session), &m);
    return 0;
}

const struct vhost_session_ops vremote_session_ops = {
    .ring = remote_ring,
    .kick_fd = remote_kick_fd,
    .call_fd = remote_call_fd,
    .queue_stopped = remote_queue_stopped,
    .paused = remote_paused,
    .fail = vremote_fail,
    .notify_config = remote_notify_config,
    .close = remote_close,
    .free = remote_free,
    .region = remote_region,
    .inflight = remote_inflight,
    .iotlb_done = remote_iotlb_done,
    .iotlb_miss = remote_iotlb_miss,
};
