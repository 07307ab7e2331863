/* SPDX-License-Identifier: MIT */
/*
 * backend-device.c - features, configuration space, status: what concerns the device as a whole.
 */
#include "vhost/internal.h"

#include <inttypes.h>
#include <sys/socket.h>

/* Ours, not the device's. */
#define SESSION_FEATURES (BIT(VHOST_FEATURE_PROTOCOL) | BIT(VHOST_FEATURE_LOG_ALL))

static void answer_u64(struct vhost_message *m, uint64_t value)
{
    m->u64 = value;
    m->header.size = sizeof(m->u64);
}

uint64_t backend_offered_features(const struct vhost_backend *s)
{
    uint64_t features = s->config.ops->features(s->config.dev) & ~SESSION_FEATURES;

    features |= BIT(VHOST_FEATURE_PROTOCOL);
    if (s->config.protocol_features & BIT(VHOST_F_LOG_SHMFD))
        features |= BIT(VHOST_FEATURE_LOG_ALL);
    return features;
}

/* ---- Features ---- */

int get_features(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    answer_u64(m, backend_offered_features(s));
    return 0;
}

/* QEMU repeats this message for each queue pair, and for the dirty log while rings are live. */
int check_set_features(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    uint64_t beyond = m->u64 & ~backend_offered_features(s);
    uint64_t changed = m->u64 ^ s->state->features;

    if (beyond)
        return dt_fail(err, -EINVAL, "SET_FEATURES: 0x%" PRIx64 " were not offered", beyond);
    if (changed & ~BIT(VHOST_FEATURE_LOG_ALL))
        backend_stop_queues(s);
    else if (changed)
        backend_pause(s, true); /* what completes from now on is logged, or not */
    return 0;
}

int set_features(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct vhost_state *state = s->state;
    uint64_t changed = (m->u64 ^ state->features) & ~SESSION_FEATURES;
    int rc = 0;

    if (changed || !state->features_set)
        rc = s->config.ops->set_features(s->config.dev, m->u64 & ~SESSION_FEATURES, err);
    if (rc < 0)
        return rc;
    state->features = m->u64;
    state->features_set = 1;
    state->log_enabled = !!(m->u64 & BIT(VHOST_FEATURE_LOG_ALL));
    /* Who does not speak of protocol features cannot enable a ring: it starts out enabled. */
    if (!(m->u64 & BIT(VHOST_FEATURE_PROTOCOL)))
        for (unsigned q = 0; q < s->config.queues; q++)
            state->queues[q].enabled = 1;
    return 0;
}

int get_protocol_features(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    answer_u64(m, s->config.protocol_features);
    return 0;
}

/* QEMU acknowledges every bit it knows the number of, offered or not. */
int set_protocol_features(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    s->state->protocol_features = m->u64 & s->config.protocol_features;
    return 0;
}

/* ---- The device as a whole ---- */

int set_owner(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    s->state->owner = 1;
    return 0;
}

/* Deprecated, and to be ignored: who takes it for a reset breaks old front ends. */
int reset_owner(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    s->state->owner = 0;
    return 0;
}

int get_queue_num(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    /* Network devices count pairs of rings; they alone have a largest packet. */
    bool pairs = s->config.protocol_features & BIT(VHOST_F_MTU);

    answer_u64(m, pairs ? s->config.queues / 2 : s->config.queues);
    return 0;
}

int check_reset_device(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    backend_stop_queues(s);
    return 0;
}

/* Rings return to their first state. Memory and the eventfds for calls and errors stay: no front
 * end sends them again after a reset. */
int reset_device(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    for (unsigned q = 0; q < s->config.queues; q++) {
        uint8_t have_call = s->state->queues[q].have_call;

        s->state->queues[q] = (struct vhost_queue_state){.have_call = have_call};
        close_fd(&s->queues[q].kick);
        s->queues[q].recover = s->queues[q].left = false;
    }
    s->state->features = 0;
    s->state->features_set = s->state->log_enabled = s->state->status = 0;
    if (s->config.ops->set_status)
        s->config.ops->set_status(s->config.dev, 0);
    return 0;
}

/* A status of 0 wipes nothing: QEMU sends it before it stops the rings and asks for their bases. */
int set_status(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    s->state->status = (uint8_t)m->u64;
    if (s->config.ops->set_status)
        s->config.ops->set_status(s->config.dev, s->state->status);
    return 0;
}

int get_status(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    answer_u64(m, s->state->status);
    return 0;
}

/* ---- Configuration space ---- */

int get_config(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    uint32_t offset = m->config.offset, size = m->config.size;

    memset(m->config.data, 0, sizeof(m->config.data));
    m->header.size = VHOST_CONFIG_HEADER + size;
    if (size == 0 || size > VHOST_MAX_CONFIG || offset > UINT32_MAX - size ||
        s->config.ops->get_config(s->config.dev, m->config.data, offset, size) < 0) {
        log_limited(DT_LOG_WARNING, "%s: GET_CONFIG: %u bytes at %u are outside", s->name, size,
                    offset);
        m->header.size = 0; /* says "no" */
    }
    return 0;
}

int set_config(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    uint32_t offset = m->config.offset, size = m->config.size;
    int rc;

    if (size == 0 || size > m->header.size - VHOST_CONFIG_HEADER || offset > UINT32_MAX - size)
        return dt_fail(err, -EINVAL, "SET_CONFIG: %u bytes at %u in a payload of %u", size, offset,
                       m->header.size);
    rc = s->config.ops->set_config(s->config.dev, m->config.data, offset, size);
    if (rc < 0)
        return dt_fail(err, rc, "SET_CONFIG: %u bytes at %u cannot be written", size, offset);
    return 0;
}

/* ---- The back end's own channel ---- */

int check_set_backend_req_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    int type = 0;
    socklen_t len = sizeof(type);

    if (getsockopt(m->fds[0], SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
        return dt_fail(err, -EINVAL, "SET_BACKEND_REQ_FD: not a stream socket");
    return 0;
}

int set_backend_req_fd(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    close_fd(&s->events);
    s->events = TAKE_FD(m->fds[0]);
    return 0;
}

int vhost_backend_notify_config(struct vhost_backend *s)
{
    /* No reply is asked for: whoever waited for one here could wait for a front end that waits
     * for us. */
    const struct vhost_message m = {
        .header = {.request = VHOST_BACKEND_CONFIG_CHANGE_MSG, .flags = VHOST_VERSION}};
    const uint64_t needed = BIT(VHOST_F_BACKEND_REQ) | BIT(VHOST_F_CONFIG);
    int rc;

    CHECK_MAGIC(s, BACKEND_MAGIC);
    if (s->events < 0 || (s->state->protocol_features & needed) != needed)
        return -ENOTSUP;
    rc = vhost_send(s->events, &m, 0);
    /* Full: whoever reads the earlier ones asks for what is there then. */
    if (rc == -EAGAIN)
        return 0;
    if (rc < 0)
        close_fd(&s->events);
    return rc;
}

/* ---- Network devices ---- */

int send_rarp(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    if (!s->config.ops->send_rarp)
        return dt_fail(err, -ENOTSUP, "SEND_RARP: the device has no network");
    s->config.ops->send_rarp(s->config.dev, m->raw); /* the first six bytes */
    return 0;
}

int set_mtu(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    int rc = -EINVAL;

    if (s->config.ops->set_mtu && m->u64 <= UINT16_MAX)
        rc = s->config.ops->set_mtu(s->config.dev, (uint16_t)m->u64);
    return rc < 0 ? dt_fail(err, rc, "NET_SET_MTU: %" PRIu64 " cannot be set", m->u64) : 0;
}
