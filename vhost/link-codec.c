/* SPDX-License-Identifier: MIT */
/*
 * link-codec.c - messages between keeper and worker: what each looks like, sending, receiving.
 */
#include "vhost/internal.h"
#include "vhost/link.h"

#include <poll.h>
#include <sys/socket.h>

#define SIZE(member) sizeof(((struct link_message *)0)->member)

static const struct link_shape {
    const char *name;
    uint32_t size;
    uint8_t min_fds, max_fds;
    bool from_worker;
} shapes[LINK_TYPE_END] = {
    [LINK_FLOOR] = {"FLOOR", SIZE(floor), 0, 0, true},
    [LINK_CONFIG_CHANGED] = {"CONFIG_CHANGED", SIZE(config), 0, 0, true},
    [LINK_QUEUE_STARTED] = {"QUEUE_STARTED", SIZE(answer), 0, 0, true},
    [LINK_QUEUE_STOPPED] = {"QUEUE_STOPPED", SIZE(answer), 0, 0, true},
    [LINK_PAUSED] = {"PAUSED", 0, 0, 0, true},
    [LINK_FAULT] = {"FAULT", SIZE(text), 0, 0, true},
    [LINK_ATTACH] = {"ATTACH", 0, 0, 0, false},
    [LINK_FEATURES] = {"FEATURES", SIZE(u64), 0, 0, false},
    [LINK_SET_CONFIG] = {"SET_CONFIG", SIZE(config), 0, 0, false},
    [LINK_REGION_ADD] = {"REGION_ADD", SIZE(region), 1, 1, false},
    [LINK_REGION_REMOVE] = {"REGION_REMOVE", SIZE(u64), 0, 0, false},
    [LINK_LOG] = {"LOG", SIZE(log), 0, 1, false},
    [LINK_INFLIGHT] = {"INFLIGHT", SIZE(inflight), 1, 1, false},
    [LINK_QUEUE_START] = {"QUEUE_START", SIZE(queue), 0, 2, false},
    [LINK_QUEUE_UPDATE] = {"QUEUE_UPDATE", SIZE(queue), 0, 1, false},
    [LINK_QUEUE_CALL] = {"QUEUE_CALL", SIZE(u32), 1, 1, false},
    [LINK_QUEUE_STOP] = {"QUEUE_STOP", SIZE(u32), 0, 0, false},
    [LINK_PAUSE] = {"PAUSE", SIZE(u32), 0, 0, false},
    [LINK_RESUME] = {"RESUME", 0, 0, 0, false},
    [LINK_DETACH] = {"DETACH", 0, 0, 0, false},
    [LINK_RARP] = {"RARP", SIZE(u64), 0, 0, false},
    [LINK_IOTLB] = {"IOTLB", SIZE(iotlb), 0, 0, false},
    [LINK_IOTLB_DONE] = {"IOTLB_DONE", SIZE(u32), 0, 0, true},
    [LINK_IOTLB_MISS] = {"IOTLB_MISS", SIZE(iotlb), 0, 0, true},
};

static const struct link_shape *shape_of(uint32_t type)
{
    return type < LINK_TYPE_END && shapes[type].name ? &shapes[type] : NULL;
}

const char *link_type_name(uint32_t type)
{
    const struct link_shape *shape = shape_of(type);

    return shape ? shape->name : "an unknown message";
}

void link_close_fds(struct link_message *m)
{
    for (unsigned i = 0; i < m->nfds; i++)
        close_fd(&m->fds[i]);
    m->nfds = 0;
}

static int wait_for_room(int sock, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = sock, .events = POLLOUT};
    int rc = poll(&poll_fd, 1, timeout_ms);

    if (rc == 0)
        return -ETIMEDOUT;
    return rc < 0 && errno != EINTR ? -errno : 0;
}

int link_send(int sock, struct link_message *m, int timeout_ms)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * LINK_MAX_FDS)];
    } control = {0};
    const struct link_shape *shape = shape_of(m->type);
    struct iovec iov = {.iov_base = m};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    CHECK(shape && m->nfds >= shape->min_fds && m->nfds <= shape->max_fds);
    m->size = shape->size;
    iov.iov_len = LINK_HEADER + m->size;
    if (m->nfds) {
        struct cmsghdr *cmsg = &control.align;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * m->nfds);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * m->nfds);
        memcpy(CMSG_DATA(cmsg), m->fds, sizeof(int) * m->nfds);
    }
    for (;;) {
        if (sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return 0;
        if (errno == EAGAIN || errno == ENOBUFS) {
            int rc = wait_for_room(sock, timeout_ms);

            if (rc < 0)
                return rc;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
}

int link_judge(const struct link_message *m, size_t bytes, bool from_worker, struct dt_error *err)
{
    const struct link_shape *shape;

    if (bytes < LINK_HEADER)
        return dt_fail(err, -EPROTO, "a packet of %zu bytes", bytes);
    shape = shape_of(m->type);
    if (!shape || shape->from_worker != from_worker)
        return dt_fail(err, -EPROTO, "a message of type %u (%s) from the %s", m->type,
                       link_type_name(m->type), from_worker ? "worker" : "keeper");
    if (m->size != shape->size || bytes != LINK_HEADER + m->size)
        return dt_fail(err, -EPROTO, "%s of %zu bytes that names %u, not %u", shape->name, bytes,
                       m->size, shape->size);
    if (m->nfds < shape->min_fds || m->nfds > shape->max_fds)
        return dt_fail(err, -EPROTO, "%s with %u descriptors", shape->name, m->nfds);
    return 0;
}

static void take_fds(struct msghdr *msg, struct link_message *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        int fds[LINK_MAX_FDS + 1];

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = MIN(n, ARRAY_SIZE(fds));
        memcpy(fds, CMSG_DATA(c), n * sizeof(int));
        for (size_t i = 0; i < n; i++) {
            if (m->nfds < LINK_MAX_FDS)
                m->fds[m->nfds++] = fds[i];
            else
                close(fds[i]);
        }
    }
}

int link_receive(int sock, struct link_message *m, bool from_worker, struct dt_error *err)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * LINK_MAX_FDS)];
    } control;
    struct iovec iov = {.iov_base = m, .iov_len = offsetof(struct link_message, fds)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int rc;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return n == 0 ? -ECONNRESET : -errno;
    m->nfds = 0;
    take_fds(&msg, m);
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        rc = dt_fail(err, -EPROTO, "a packet with too much in it");
    else
        rc = link_judge(m, (size_t)n, from_worker, err);
    if (rc < 0) {
        link_close_fds(m);
        return rc;
    }
    return 1;
}
