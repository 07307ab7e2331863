/* SPDX-License-Identifier: MIT */
/*
 * backend-start.c - the start rule: when a ring runs.
 *
 * Messages come in every order that a front end's author found natural. So none of them starts a
 * ring. After each, every ring is looked at: it runs if its size, addresses and kick came, the
 * features are known, it is enabled, and guest memory covers it. Each ring counts for
 * itself: firmware sets up one of many (SeaBIOS), and enables all.
 */
#include "vhost/internal.h"

#include <inttypes.h>

void backend_signal(int fd)
{
    static const uint64_t one = 1;

    /* A full counter is a signal too; the descriptor does not block. */
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_debug("cannot signal an eventfd: %s", strerror(errno));
}

int backend_ring_config(struct vhost_backend *s, unsigned q, struct virtq_config *config,
                        struct dt_error *err)
{
    const struct vhost_queue_state *v = &s->state->queues[q];
    int rc = vhost_ring_config(v, s->state->features, &s->memory, config, err);

    if (s->state->log_enabled && s->dirty.bits) {
        config->dirty = &s->dirty;
        config->log_used = v->log_addr;
        config->log_used_valid = v->log_used;
    }
    return rc;
}

int vhost_backend_ring(struct vhost_backend *s, unsigned q, struct vhost_ring *ring,
                       struct dt_error *err)
{
    int rc;

    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(q < s->config.queues && s->state->queues[q].started);
    *ring = (struct vhost_ring){
        .kick = s->queues[q].kick, .call = s->queues[q].call, .recover = s->queues[q].recover};
    rc = backend_ring_config(s, q, &ring->config, err);
    if (rc == 0)
        rc = vhost_ring_base(&s->state->queues[q], ring->config.packed, &ring->base, err);
    if (rc < 0)
        return rc;
    ring->config.inflight = backend_inflight_log(s, q, ring->config.packed);
    CHECK(ring->config.inflight);
    return 0;
}

static bool ring_ready(struct vhost_backend *s, unsigned q, struct virtq_config *config)
{
    const struct vhost_queue_state *v = &s->state->queues[q];
    struct dt_error why;

    if (v->started || !s->state->features_set || !v->size || !v->have_addr || !v->have_kick ||
        !v->enabled)
        return false;
    if (backend_ring_config(s, q, config, &why) < 0) {
        log_debug("%s: ring %u waits: %s", s->name, q, why.text);
        return false;
    }
    return true;
}

static int start_ring(struct vhost_backend *s, unsigned q, bool packed, struct dt_error *err)
{
    struct vhost_queue_state *v = &s->state->queues[q];
    int rc = backend_inflight_open(s, q, packed, err);

    if (rc < 0)
        return rc;
    backend_tell_memory(s);
    v->started = 1;
    rc = s->config.ops->queue_start(s->config.dev, q, err);
    if (rc < 0) {
        v->started = 0;
        return rc;
    }
    /* The driver may have kicked, or waited for a call, while nobody was here. */
    backend_signal(s->queues[q].kick);
    backend_signal(s->queues[q].call);
    return 0;
}

void backend_start_ready(struct vhost_backend *s)
{
    for (unsigned q = 0; q < s->config.queues && s->phase == BACKEND_OPEN; q++) {
        struct virtq_config config;
        struct dt_error err = {""};

        if (ring_ready(s, q, &config) && start_ring(s, q, config.packed, &err) < 0)
            vhost_backend_break(s, "ring %u cannot start: %s", q, err.text);
    }
}

/* Other threads look while the number comes; see set_vring_call(). */
int vhost_backend_call_fd(const struct vhost_backend *s, unsigned q)
{
    return READ_ONCE(s->queues[q].call);
}

int vhost_backend_kick_fd(const struct vhost_backend *s, unsigned q)
{
    return READ_ONCE(s->queues[q].kick);
}
