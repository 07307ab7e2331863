/* SPDX-License-Identifier: MIT */
/*
 * backend-dispatch.c - which function serves which request, and what is answered.
 *
 * Source: QEMU docs/interop/vhost-user.rst, "Communication" and "VHOST_USER_PROTOCOL_F_REPLY_ACK".
 */
#include "vhost/internal.h"

#define NEEDS(feature) BIT(VHOST_F_##feature)
#define ANSWERS        .answers = true

static const struct backend_request requests[VHOST_REQUEST_END] = {
    [VHOST_GET_FEATURES] = {NULL, get_features, ANSWERS},
    [VHOST_SET_FEATURES] = {check_set_features, set_features},
    [VHOST_GET_PROTOCOL_FEATURES] = {NULL, get_protocol_features, ANSWERS},
    [VHOST_SET_PROTOCOL_FEATURES] = {NULL, set_protocol_features},
    [VHOST_SET_OWNER] = {NULL, set_owner},
    [VHOST_RESET_OWNER] = {NULL, reset_owner},
    [VHOST_RESET_DEVICE] = {check_reset_device, reset_device, NEEDS(RESET_DEVICE)},
    [VHOST_GET_QUEUE_NUM] = {NULL, get_queue_num, NEEDS(MQ), ANSWERS},
    [VHOST_GET_CONFIG] = {NULL, get_config, NEEDS(CONFIG), ANSWERS},
    [VHOST_SET_CONFIG] = {NULL, set_config, NEEDS(CONFIG)},
    [VHOST_SET_STATUS] = {NULL, set_status, NEEDS(STATUS)},
    [VHOST_GET_STATUS] = {NULL, get_status, NEEDS(STATUS), ANSWERS},
    [VHOST_SEND_RARP] = {NULL, send_rarp, NEEDS(RARP)},
    [VHOST_NET_SET_MTU] = {NULL, set_mtu, NEEDS(MTU)},
    [VHOST_SET_BACKEND_REQ_FD] = {check_set_backend_req_fd, set_backend_req_fd, NEEDS(BACKEND_REQ)},
    [VHOST_IOTLB_MSG] = {check_iotlb, answer_iotlb, ANSWERS},

    [VHOST_SET_MEM_TABLE] = {check_set_mem_table, set_mem_table},
    [VHOST_GET_MAX_MEM_SLOTS] = {NULL, get_max_mem_slots, NEEDS(CONFIGURE_MEM_SLOTS), ANSWERS},
    [VHOST_ADD_MEM_REG] = {check_add_mem_reg, add_mem_reg, NEEDS(CONFIGURE_MEM_SLOTS)},
    [VHOST_REM_MEM_REG] = {check_rem_mem_reg, rem_mem_reg, NEEDS(CONFIGURE_MEM_SLOTS)},
    [VHOST_SET_LOG_BASE] = {check_set_log_base, set_log_base, NEEDS(LOG_SHMFD), ANSWERS},
    [VHOST_SET_LOG_FD] = {NULL, set_log_fd, NEEDS(LOG_SHMFD)},
    [VHOST_GET_INFLIGHT_FD] = {check_get_inflight_fd, get_inflight_fd, NEEDS(INFLIGHT_SHMFD),
                               ANSWERS},
    [VHOST_SET_INFLIGHT_FD] = {check_set_inflight_fd, set_inflight_fd, NEEDS(INFLIGHT_SHMFD)},

    [VHOST_SET_VRING_NUM] = {check_set_vring_num, set_vring_num},
    [VHOST_SET_VRING_ADDR] = {check_set_vring_addr, set_vring_addr},
    [VHOST_SET_VRING_BASE] = {check_set_vring_base, set_vring_base},
    [VHOST_GET_VRING_BASE] = {check_get_vring_base, get_vring_base, ANSWERS},
    [VHOST_SET_VRING_KICK] = {check_set_vring_kick, set_vring_kick},
    [VHOST_SET_VRING_CALL] = {check_set_vring_call, set_vring_call},
    [VHOST_SET_VRING_ERR] = {check_set_vring_err, set_vring_err},
    [VHOST_SET_VRING_ENABLE] = {check_set_vring_enable, set_vring_enable},
};

const struct backend_request *backend_request(const struct vhost_backend *s, uint32_t request)
{
    const struct backend_request *r = request < ARRAY_SIZE(requests) ? &requests[request] : NULL;

    if (!r || !r->apply || (r->feature & ~s->config.protocol_features))
        return NULL;
    return r;
}

/* A zero here is no promise: without REPLY_ACK the flag means nothing. Looked at when the request
 * is done, because SET_PROTOCOL_FEATURES itself may ask for an answer (rust-vmm). */
static bool wants_reply(const struct vhost_backend *s, const struct vhost_message *m)
{
    return (m->header.flags & VHOST_NEED_REPLY) &&
           (s->state->protocol_features & BIT(VHOST_F_REPLY_ACK));
}

static void reply(struct vhost_backend *s, struct vhost_message *m)
{
    int rc;

    m->header.flags = VHOST_VERSION | VHOST_REPLY;
    /* A front end reads its replies: one that lets them fill the socket must not stop our loop. */
    rc = vhost_send(s->stream.sock, m, 0);
    if (rc == -EPIPE || rc == -ECONNRESET)
        vhost_backend_close(s);
    else if (rc == -EAGAIN || rc == -ETIMEDOUT)
        vhost_backend_break(s, "%s: the front end does not read its replies",
                            vhost_request_name(m->header.request));
    else if (rc < 0)
        vhost_backend_break(s, "%s: cannot send the reply: %s",
                            vhost_request_name(m->header.request), strerror(-rc));
}

static void reply_u64(struct vhost_backend *s, struct vhost_message *m, uint64_t value)
{
    vhost_message_close_fds(m);
    m->u64 = value;
    m->header.size = sizeof(m->u64);
    reply(s, m);
}

/* Any nonzero number says no; to SET_DEVICE_STATE_FD this one also says that no descriptor comes.
 */
#define REFUSED 0x101

static void end_message(struct vhost_backend *s)
{
    vhost_message_close_fds(&s->message);
    s->busy = false;
}

static void refuse(struct vhost_backend *s, const struct backend_request *r, const char *why)
{
    struct vhost_message *m = &s->message;

    if (s->phase == BACKEND_OPEN) {
        /* An answer that the front end takes for a value cannot say "refused". */
        if (wants_reply(s, m) && !(r && r->answers)) {
            log_limited(DT_LOG_WARNING, "%s: refused: %s", s->name, why);
            reply_u64(s, m, REFUSED);
        } else {
            vhost_backend_break(s, "%s", why);
        }
    }
    end_message(s);
}

static uint32_t ring_index(const struct vhost_shape *shape, const struct vhost_message *m)
{
    return shape->index == INDEX_U8 ? m->vring.index & VHOST_RING_INDEX_MASK : m->vring.index;
}

void backend_begin_message(struct vhost_backend *s)
{
    struct vhost_message *m = &s->message;
    const struct vhost_shape *shape = vhost_shape(m->header.request);
    const struct backend_request *r = backend_request(s, m->header.request);
    struct dt_error err = {""};
    int rc = 0;

    if (vhost_backend_faulted(s)) {
        vhost_backend_break(s, "a zero page took the place of guest memory");
        end_message(s);
        return;
    }
    if (!r)
        rc = dt_fail(&err, -ENOTSUP, "request %u (%s) is not supported or was not offered",
                     m->header.request, vhost_request_name(m->header.request));
    else if (shape->index != INDEX_NONE && ring_index(shape, m) >= s->config.queues)
        rc = dt_fail(&err, -EINVAL, "%s: ring %u of %u", shape->name, ring_index(shape, m),
                     s->config.queues);
    else if (r->check)
        rc = r->check(s, m, &err);
    if (rc < 0)
        refuse(s, r, err.text);
}

void backend_finish_message(struct vhost_backend *s)
{
    struct vhost_message *m = &s->message;
    const struct backend_request *r = backend_request(s, m->header.request);
    struct dt_error err = {""};
    int rc = r->apply(s, m, &err);

    backend_tell_memory(s);
    if (s->paused) {
        s->paused = false;
        s->config.ops->resume(s->config.dev);
    }
    if (s->phase == BACKEND_OPEN)
        backend_start_ready(s);
    if (rc < 0) {
        refuse(s, r, err.text);
        return;
    }
    if (s->phase == BACKEND_OPEN) {
        if (r->answers)
            reply(s, m);
        else if (wants_reply(s, m))
            reply_u64(s, m, 0);
    }
    end_message(s);
}
