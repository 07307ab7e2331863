/* SPDX-License-Identifier: MIT */
/*
 * link-proxy-ops.c - what a session asks of its device, passed on to the worker, or remembered while
 * there is none. Features and configuration space are answered from the floor.
 */
#include "vhost/link-internal.h"

#include <linux/virtio_net.h>

/* ---- The floor ---------------------------------------------------------------------------- */

static uint64_t proxy_features(void *dev)
{
    return ((struct vhost_proxy *)dev)->floor.features;
}

static int proxy_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    return 0; /* the worker learns it before its next ring starts, or when a pause ends */
}

static int proxy_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    struct vhost_proxy *p = dev;

    if (offset > VHOST_MAX_CONFIG || len > VHOST_MAX_CONFIG - offset)
        return -EINVAL;
    memcpy(buf, p->floor.config + offset, len);
    return 0;
}

static int proxy_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_SET_CONFIG};
    const uint8_t *bytes = buf;

    if (offset > VHOST_MAX_CONFIG || len > VHOST_MAX_CONFIG - offset)
        return -EINVAL;
    for (uint32_t i = 0; i < len; i++) {
        uint8_t most = p->floor.writable[offset + i];

        if (most == 0 || most == LINK_CONFIG_LIVE || bytes[i] > most)
            return -EINVAL;
    }
    memcpy(p->floor.config + offset, bytes, len);
    m.config.offset = offset;
    m.config.size = len;
    memcpy(m.config.data, bytes, len);
    if (p->handed)
        memcpy(p->worker_config + offset, bytes, len);
    vproxy_send(p, &m);
    return 0;
}

/* Network devices have their largest packet in the floor's configuration space, which no driver reads. */
static int proxy_set_mtu(void *dev, uint16_t mtu)
{
    const struct vhost_proxy *p = dev;
    struct virtio_net_config config;

    memcpy(&config, p->floor.config, sizeof(config));
    return mtu <= config.mtu ? 0 : -EINVAL;
}

/* Without a worker nobody is told; the guest's next packets tell as much. */
static void proxy_send_rarp(void *dev, const uint8_t mac[6])
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_RARP};

    memcpy(&m.u64, mac, 6);
    if (p->handed)
        vproxy_send(p, &m);
}

/* ---- Rings ---------------------------------------------------------------------------------- */

static int proxy_queue_start(void *dev, unsigned q, struct dt_error *err)
{
    struct vhost_proxy *p = dev;
    struct proxy_queue *queue = &p->queues[q];
    struct vhost_ring ring;
    int rc = vhost_backend_ring(p->session, q, &ring, err);

    if (rc < 0)
        return rc;
    *queue = (struct proxy_queue){.started = true};
    if (p->handed && !p->releasing) {
        queue->given = true;
        vproxy_send_features(p);
        vproxy_send_queue(p, q, LINK_QUEUE_START, ring.recover);
    }
    return 0;
}

/* The answer may come at once: nothing is served, so nothing can be in flight but in the log. */
static void answer_stop(struct vhost_proxy *p, unsigned q)
{
    struct proxy_queue *queue = &p->queues[q];
    uint32_t base = vhost_backend_state(p->session)->queues[q].base;
    struct dt_error err = {""};

    if (!vhost_backend_ending(p->session) && vproxy_left_base(p, q, &base, &err) < 0)
        log_warning("%s: ring %u: its state cannot be told: %s", p->name, q, err.text);
    *queue = (struct proxy_queue){0};
    vhost_backend_queue_left(p->session, q, base);
}

static void proxy_queue_stop(void *dev, unsigned q)
{
    struct vhost_proxy *p = dev;
    struct proxy_queue *queue = &p->queues[q];
    struct link_message m = {.type = LINK_QUEUE_STOP, .u32 = q};

    queue->stopping = true;
    if (queue->given) {
        if (!queue->asked)
            vproxy_send(p, &m);
        queue->asked = true;
    } else if (vhost_backend_ending(p->session)) {
        answer_stop(p, q);
    } else {
        vproxy_be_patient(p);
    }
}

static void proxy_pause(void *dev, bool drain)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_PAUSE, .u32 = drain};

    p->pausing = true;
    p->drain = drain;
    if (p->handed && !p->releasing) {
        p->pause_asked = true;
        vproxy_send(p, &m);
    } else if (!drain || vhost_backend_ending(p->session)) {
        p->pausing = false;
        p->paused = true;
        vhost_backend_paused(p->session);
    } else {
        vproxy_be_patient(p);
    }
}

static void proxy_resume(void *dev)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_RESUME};

    p->paused = false;
    if (!p->handed) {
        vproxy_hand_over(p);
        return;
    }
    vproxy_send_features(p);
    for (unsigned q = 0; q < p->nqueues; q++)
        if (p->queues[q].given && !p->queues[q].asked)
            vproxy_send_queue(p, q, LINK_QUEUE_UPDATE, false);
    vproxy_send(p, &m);
    if (p->release_wanted) {
        p->release_wanted = false;
        vhost_proxy_release(p);
    }
}

static void proxy_kick_changed(void *dev, unsigned q)
{
    (void)dev; /* resume() sends every ring's kick */
    (void)q;
}

static void proxy_call_changed(void *dev, unsigned q)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_QUEUE_CALL, .u32 = q};
    int call = vhost_backend_call_fd(p->session, q);

    if (!p->queues[q].given || call < 0)
        return;
    m.fds[m.nfds++] = call;
    vproxy_send(p, &m);
}

static void proxy_memory_changed(void *dev)
{
    vproxy_send_memory(dev);
}

/* ---- Translations ------------------------------------------------------------------------------ */

void vproxy_translated(struct vhost_proxy *p, int result)
{
    p->translating = p->translate_asked = false;
    vhost_backend_iotlb_done(p->session, result);
    if (p->release_wanted) {
        p->release_wanted = false;
        vhost_proxy_release(p);
    }
}

/*
 * A successor knows no translations, and asks for what it needs: an update can be dropped. An invalidation waits
 * for it, because its predecessor's I/O may still land in the guest's memory until the fence has passed.
 */
static void proxy_iotlb(void *dev, const struct vhost_iotlb *change)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_IOTLB, .iotlb = *change};

    p->translating = true;
    if (p->handed && !p->releasing) {
        p->translate_asked = true;
        vproxy_send(p, &m);
    } else if (change->type == VHOST_IOTLB_UPDATE || vhost_backend_ending(p->session)) {
        vproxy_translated(p, 0);
    } else {
        vproxy_be_patient(p);
    }
}

/* ---- The end ---------------------------------------------------------------------------------- */

static void proxy_closed(void *dev, const char *reason)
{
    struct vhost_proxy *p = dev;
    struct link_message m = {.type = LINK_DETACH};

    vproxy_send(p, &m);
    p->handed = p->pausing = p->paused = p->pause_asked = false;
    p->translating = p->translate_asked = false;
    p->nknown = 0;
    p->known_log = p->known_inflight = 0;
    p->lost_at = 0;
    loop_timer_cancel(p->loop, &p->impatience);
    vhost_backend_free(p->session);
    p->session = NULL;
    p->ops->closed(p->arg, reason);
}

const struct vhost_device_ops vproxy_device_ops = {
    .features = proxy_features,
    .set_features = proxy_set_features,
    .get_config = proxy_get_config,
    .set_config = proxy_set_config,
    .queue_start = proxy_queue_start,
    .queue_stop = proxy_queue_stop,
    .pause = proxy_pause,
    .resume = proxy_resume,
    .queue_kick_changed = proxy_kick_changed,
    .queue_call_changed = proxy_call_changed,
    .memory_changed = proxy_memory_changed,
    .iotlb = proxy_iotlb,
    .closed = proxy_closed,
    .send_rarp = proxy_send_rarp,
    .set_mtu = proxy_set_mtu,
};

/* ---- Without a worker ----------------------------------------------------------------------------- */

static bool anything_awaited(const struct vhost_proxy *p)
{
    for (unsigned q = 0; q < p->nqueues; q++)
        if (p->queues[q].stopping)
            return true;
    return p->pausing || p->translating;
}

void vproxy_answer_without(struct vhost_proxy *p)
{
    if (!p->session)
        return;
    for (unsigned q = 0; q < p->nqueues; q++)
        if (p->queues[q].stopping && !p->queues[q].given)
            answer_stop(p, q);
    if (p->pausing && !p->handed) {
        p->pausing = false;
        p->paused = true;
        vhost_backend_paused(p->session);
    }
    if (p->translating && !p->handed)
        vproxy_translated(p, 0);
}

void vproxy_be_patient(struct vhost_proxy *p)
{
    if (p->session && anything_awaited(p) && p->impatience.heap_index == 0)
        loop_timer_set(p->loop, &p->impatience, dt_clock_ns() + p->patience);
}
