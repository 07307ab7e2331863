/* SPDX-License-Identifier: MIT */
/*
 * frontend-negotiate.c - what both ends can do, and the device as a whole.
 */
#include "vhost/internal.h"

#include <inttypes.h>
#include <sys/socket.h>

static int query_u64(struct vhost_frontend *f, enum vhost_request request, uint64_t *value,
                     struct dt_error *err)
{
    struct vhost_message m = {.header.request = request};
    int rc = frontend_query(f, &m, sizeof(m.u64), 0, err);

    if (rc == 0)
        *value = m.u64;
    return rc;
}

static int command_u64(struct vhost_frontend *f, enum vhost_request request, uint64_t value,
                       struct dt_error *err)
{
    struct vhost_message m = {.header = {.request = request, .size = sizeof(m.u64)}, .u64 = value};

    return frontend_command(f, &m, err);
}

static int open_events(struct vhost_frontend *f, struct dt_error *err)
{
    struct vhost_message m = {.header.request = VHOST_SET_BACKEND_REQ_FD};
    int pair[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return dt_fail(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    m.fds[m.nfds++] = pair[1];
    rc = frontend_command(f, &m, err);
    close(pair[1]);
    if (rc < 0)
        close(pair[0]);
    else
        f->events.sock = pair[0];
    return rc;
}

static int negotiate_protocol(struct vhost_frontend *f, uint64_t wanted, struct dt_error *err)
{
    int rc = query_u64(f, VHOST_GET_PROTOCOL_FEATURES, &f->offered_protocol, err);
    uint64_t protocol = wanted & f->offered_protocol, value = 0;

    if (rc == 0)
        rc = command_u64(f, VHOST_SET_PROTOCOL_FEATURES, protocol, err);
    if (rc < 0)
        return rc;
    f->protocol = protocol;
    if (frontend_has(f, VHOST_F_MQ)) {
        rc = query_u64(f, VHOST_GET_QUEUE_NUM, &value, err);
        if (rc < 0)
            return rc;
        if (value < 1)
            return dt_fail(err, -EPROTO, "the back end offers no queues");
        f->queues = (unsigned)MIN(value, VHOST_MAX_QUEUES);
    }
    if (frontend_has(f, VHOST_F_CONFIGURE_MEM_SLOTS)) {
        rc = query_u64(f, VHOST_GET_MAX_MEM_SLOTS, &value, err);
        if (rc < 0)
            return rc;
        f->slots = (unsigned)MIN(value, MEMMAP_MAX_REGIONS);
    }
    return frontend_has(f, VHOST_F_BACKEND_REQ) ? open_events(f, err) : 0;
}

void vhost_frontend_queue_rings(struct vhost_frontend *f, unsigned rings)
{
    CHECK(rings > 0 && !f->offered);
    f->queue_rings = rings;
}

int vhost_frontend_negotiate(struct vhost_frontend *f, uint64_t *features, uint64_t *protocol,
                             uint64_t required, unsigned *queues, struct dt_error *err)
{
    struct vhost_message owner = {.header.request = VHOST_SET_OWNER};
    uint64_t missing;
    int rc = query_u64(f, VHOST_GET_FEATURES, &f->offered, err);

    if (rc < 0)
        return rc;
    missing = required & ~f->offered;
    if (missing)
        return dt_fail(err, -ENOTSUP, "the back end lacks features 0x%" PRIx64 ", which are needed",
                       missing);
    f->queues = 1;
    if (f->offered & BIT(VHOST_FEATURE_PROTOCOL))
        rc = negotiate_protocol(f, *protocol, err);
    if (rc == 0)
        rc = frontend_command(f, &owner, err);
    if (rc < 0)
        return rc;
    f->features = f->offered & (*features | required | BIT(VHOST_FEATURE_PROTOCOL));
    rc = command_u64(f, VHOST_SET_FEATURES, f->features, err);
    if (rc < 0)
        return rc;
    *features = f->features & ~BIT(VHOST_FEATURE_PROTOCOL);
    *protocol = f->protocol;
    *queues = f->queues;
    return 0;
}

int vhost_frontend_set_features(struct vhost_frontend *f, uint64_t features, struct dt_error *err)
{
    uint64_t all = features | (f->features & BIT(VHOST_FEATURE_PROTOCOL));
    int rc;

    if (all & ~f->offered)
        return dt_fail(err, -ENOTSUP, "the back end does not offer features 0x%" PRIx64,
                       all & ~f->offered);
    rc = command_u64(f, VHOST_SET_FEATURES, all, err);
    if (rc == 0)
        f->features = all;
    return rc;
}

int vhost_frontend_offered(const struct vhost_frontend *f, uint64_t *features, uint64_t *protocol)
{
    if (!f->offered)
        return -ENOTCONN;
    *features = f->offered;
    *protocol = f->offered_protocol;
    return 0;
}

static int config_message(const struct vhost_frontend *f, struct vhost_message *m,
                          enum vhost_request request, uint32_t offset, uint32_t len,
                          struct dt_error *err)
{
    if (!frontend_has(f, VHOST_F_CONFIG))
        return dt_fail(err, -ENOTSUP, "the back end has no configuration space");
    if (len < 1 || len > VHOST_MAX_CONFIG)
        return dt_fail(err, -EINVAL, "%u bytes of configuration at once; 1 to %u are possible", len,
                       VHOST_MAX_CONFIG);
    *m = (struct vhost_message){.header = {.request = request, .size = VHOST_CONFIG_HEADER + len}};
    m->config.offset = offset;
    m->config.size = len;
    return 0;
}

int vhost_frontend_get_config(struct vhost_frontend *f, void *buf, uint32_t offset, uint32_t len,
                              struct dt_error *err)
{
    struct vhost_message m;
    int rc = config_message(f, &m, VHOST_GET_CONFIG, offset, len, err);

    if (rc == 0)
        rc = frontend_query(f, &m, VHOST_CONFIG_HEADER + len, 0, err);
    if (rc == 0 && (m.config.offset != offset || m.config.size != len))
        return dt_fail(err, -EPROTO, "GET_CONFIG: asked for %u bytes at %u, and got %u bytes at %u",
                       len, offset, m.config.size, m.config.offset);
    if (rc == 0)
        memcpy(buf, m.config.data, len);
    return rc;
}

int vhost_frontend_set_config(struct vhost_frontend *f, const void *buf, uint32_t offset,
                              uint32_t len, struct dt_error *err)
{
    struct vhost_message m;
    int rc = config_message(f, &m, VHOST_SET_CONFIG, offset, len, err);

    if (rc < 0)
        return rc;
    memcpy(m.config.data, buf, len);
    return frontend_command(f, &m, err);
}

int vhost_frontend_set_status(struct vhost_frontend *f, uint8_t status, struct dt_error *err)
{
    if (!frontend_has(f, VHOST_F_STATUS))
        return dt_fail(err, -ENOTSUP, "the back end has no device status");
    return command_u64(f, VHOST_SET_STATUS, status, err);
}

int vhost_frontend_set_mtu(struct vhost_frontend *f, uint16_t mtu, struct dt_error *err)
{
    if (!frontend_has(f, VHOST_F_MTU))
        return dt_fail(err, -ENOTSUP, "the back end cannot be told of an MTU");
    return command_u64(f, VHOST_NET_SET_MTU, mtu, err);
}

int vhost_frontend_reset(struct vhost_frontend *f, struct dt_error *err)
{
    struct vhost_message m = {.header.request = VHOST_RESET_DEVICE};

    if (!frontend_has(f, VHOST_F_RESET_DEVICE))
        return dt_fail(err, -ENOTSUP, "the back end cannot be reset");
    return frontend_command(f, &m, err);
}
