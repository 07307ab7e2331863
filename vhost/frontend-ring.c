/* SPDX-License-Identifier: MIT */
/*
 * frontend-ring.c - rings, as the back end is told of them.
 */
#include "vhost/internal.h"

static int ring_state(struct vhost_frontend *f, enum vhost_request request, unsigned q,
                      uint32_t num, struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = request, .size = sizeof(m.vring)}};

    m.vring.index = q;
    m.vring.num = num;
    return frontend_command(f, &m, err);
}

static int ring_addr(struct vhost_frontend *f, unsigned q, const struct vhost_frontend_ring *ring,
                     struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = VHOST_SET_VRING_ADDR, .size = sizeof(m.addr)}};

    m.addr.index = q;
    m.addr.desc = ring->desc;
    m.addr.avail = ring->driver;
    m.addr.used = ring->device;
    return frontend_command(f, &m, err);
}

static int ring_fd(struct vhost_frontend *f, enum vhost_request request, unsigned q, int fd,
                   struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = request, .size = sizeof(m.u64)}, .u64 = q};

    if (fd < 0)
        m.u64 |= VHOST_RING_NO_FD;
    else
        m.fds[m.nfds++] = fd;
    return frontend_command(f, &m, err);
}

int vhost_frontend_ring_enable(struct vhost_frontend *f, unsigned q, bool enable,
                               struct dt_error *err)
{
    /* Without protocol features a ring is enabled from the start, and nothing can change that. */
    if (!(f->features & BIT(VHOST_FEATURE_PROTOCOL)))
        return enable ? 0 : dt_fail(err, -ENOTSUP, "the back end cannot disable a ring");
    return ring_state(f, VHOST_SET_VRING_ENABLE, q, enable, err);
}

/* The kick comes last but one: it starts the ring in back ends that do not look at "enabled". */
int vhost_frontend_ring_start(struct vhost_frontend *f, unsigned q,
                              const struct vhost_frontend_ring *ring, struct dt_error *err)
{
    unsigned rings = MIN(f->queues * f->queue_rings, VHOST_MAX_QUEUES);
    int rc;

    /* Without MQ the number of rings is the device type's, which nothing here knows. */
    if (q >= (frontend_has(f, VHOST_F_MQ) ? rings : VHOST_MAX_QUEUES))
        return dt_fail(err, -EINVAL, "ring %u, but the back end has %u", q, rings);
    rc = ring_state(f, VHOST_SET_VRING_NUM, q, ring->size, err);
    if (rc == 0)
        rc = ring_state(f, VHOST_SET_VRING_BASE, q, ring->base, err);
    if (rc == 0)
        rc = ring_addr(f, q, ring, err);
    if (rc == 0)
        rc = ring_fd(f, VHOST_SET_VRING_CALL, q, ring->call, err);
    if (rc == 0)
        rc = ring_fd(f, VHOST_SET_VRING_KICK, q, ring->kick, err);
    if (rc == 0)
        rc = vhost_frontend_ring_enable(f, q, true, err);
    return rc;
}

int vhost_frontend_ring_kick(struct vhost_frontend *f, unsigned q, int fd, struct dt_error *err)
{
    return ring_fd(f, VHOST_SET_VRING_KICK, q, fd, err);
}

int vhost_frontend_ring_stop(struct vhost_frontend *f, unsigned q, uint32_t *base,
                             struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = VHOST_GET_VRING_BASE, .size = sizeof(m.vring)}};
    int rc;

    m.vring.index = q;
    rc = frontend_query(f, &m, sizeof(m.vring), 0, err);
    if (rc < 0)
        return rc;
    if (m.vring.index != q)
        return dt_fail(err, -EPROTO, "GET_VRING_BASE: asked for ring %u, got ring %u", q,
                       m.vring.index);
    *base = m.vring.num;
    return 0;
}
