/* SPDX-License-Identifier: MIT */
/*
 * codec.c - messages on a socket.
 *
 * Theory of operation: the peer is hostile. A message is read in two steps, its header and then
 * exactly the bytes the header announces, so that nothing of the next message is ever taken and
 * descriptors cannot be counted for the wrong one. The size is judged before the payload is
 * read, descriptors when the message is whole. Whatever goes wrong, every descriptor that
 * the kernel installed is in the message's list, and so is closed.
 */
#include "vhost/internal.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HEADER_SIZE sizeof(struct vhost_header)

void vhost_message_close_fds(struct vhost_message *m)
{
    for (unsigned i = 0; i < m->nfds; i++)
        if (m->fds[i] >= 0)
            close(m->fds[i]);
    m->nfds = 0;
}

void vhost_stream_reset(struct vhost_stream *s)
{
    vhost_message_close_fds(&s->message);
    s->have = 0;
}

/* Takes what the control data holds; false when the peer sent more than any message may have. */
static bool stream_collect_fds(struct vhost_message *m, struct msghdr *msg)
{
    bool fits = !(msg->msg_flags & MSG_CTRUNC);

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (m->nfds < VHOST_MAX_FDS) {
                m->fds[m->nfds++] = fd;
            } else {
                close(fd);
                fits = false;
            }
        }
    }
    return fits;
}

/* Where the next bytes go, up to @want of the message: first its header, then its payload. */
static struct iovec stream_room(struct vhost_stream *s, size_t want)
{
    struct vhost_message *m = &s->message;

    if (s->have < HEADER_SIZE)
        return (struct iovec){(char *)&m->header + s->have, MIN(want, HEADER_SIZE) - s->have};
    return (struct iovec){m->raw + (s->have - HEADER_SIZE), want - s->have};
}

/* Receives until @want bytes of the message are there: 1, or 0 = not yet, or -errno. */
static int stream_fill(struct vhost_stream *s, size_t want, struct dt_error *err)
{
    union {
        char buf[CMSG_SPACE(VHOST_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;

    while (s->have < want) {
        struct iovec iov = stream_room(s, want);
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.buf,
                             .msg_controllen = sizeof(control.buf)};
        ssize_t n = recvmsg(s->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            return dt_fail(err, -errno, "receiving a vhost-user message: %s", strerror(errno));
        if (!stream_collect_fds(&s->message, &msg))
            return dt_fail(err, -EPROTO, "a vhost-user message came with more than %u descriptors",
                           VHOST_MAX_FDS);
        if (n == 0 && s->have)
            return dt_fail(err, -EPROTO, "the peer hung up within a vhost-user message");
        if (n == 0)
            return dt_fail(err, -ECONNRESET, "the peer hung up");
        s->have += (size_t)n;
    }
    return 1;
}

static int stream_check_header(const struct vhost_stream *s, struct dt_error *err)
{
    const struct vhost_header *h = &s->message.header;
    const struct vhost_shape *shape = vhost_shape(h->request);
    bool reply = s->expect == VHOST_EXPECT_REPLIES;
    /* The back end's own requests are numbered apart; a reply's size depends on the question. */
    bool known = s->expect == VHOST_EXPECT_REQUESTS && shape;

    if ((h->flags & 3) != VHOST_VERSION)
        return dt_fail(err, -EPROTO, "request %u: version %u instead of %u", h->request,
                       h->flags & 3, VHOST_VERSION);
    if (!(h->flags & VHOST_REPLY) == reply)
        return dt_fail(err, -EPROTO, "request %u: flags 0x%x %s a reply", h->request, h->flags,
                       reply ? "do not say that it is" : "say that it is");
    if (known && (h->size < shape->min_size || h->size > shape->max_size))
        return dt_fail(err, -EPROTO, "%s: payload of %u bytes instead of %u to %u", shape->name,
                       h->size, shape->min_size, shape->max_size);
    if (h->size > VHOST_MAX_PAYLOAD)
        return dt_fail(err, -EPROTO, "request %u: payload of %u bytes, beyond %zu", h->request,
                       h->size, VHOST_MAX_PAYLOAD);
    return 0;
}

static int stream_check_fds(const struct vhost_stream *s, struct dt_error *err)
{
    const struct vhost_message *m = &s->message;
    const struct vhost_shape *shape = vhost_shape(m->header.request);

    if (s->expect != VHOST_EXPECT_REQUESTS || !shape)
        return 0;
    if (m->nfds < shape->min_fds || m->nfds > shape->max_fds)
        return dt_fail(err, -EPROTO, "%s: came with %u descriptors instead of %u to %u",
                       shape->name, m->nfds, shape->min_fds, shape->max_fds);
    return 0;
}

static int stream_read(struct vhost_stream *s, struct dt_error *err)
{
    struct vhost_message *m = &s->message;
    int rc;

    if (s->have < HEADER_SIZE) {
        rc = stream_fill(s, HEADER_SIZE, err);
        if (rc <= 0)
            return rc;
        rc = stream_check_header(s, err);
        if (rc < 0)
            return rc;
        memset(m->raw, 0, sizeof(m->raw)); /* what a short payload leaves out is zero */
    }
    rc = stream_fill(s, HEADER_SIZE + m->header.size, err);
    if (rc <= 0)
        return rc;
    rc = stream_check_fds(s, err);
    return rc < 0 ? rc : 1;
}

int vhost_stream_read(struct vhost_stream *s, struct dt_error *err)
{
    int rc;

    if (s->have == 0)
        s->message.nfds = 0; /* those of the message before are the caller's */
    rc = stream_read(s, err);
    if (rc < 0)
        vhost_stream_reset(s);
    else if (rc == 1)
        s->have = 0;
    return rc;
}

/* Sends what it can: bytes sent, or -errno. Descriptors go with the first byte. */
static ssize_t send_some(int sock, const struct vhost_message *m, size_t done)
{
    union {
        char buf[CMSG_SPACE(VHOST_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec all[] = {{(void *)&m->header, HEADER_SIZE}, {(void *)m->raw, m->header.size}};
    struct iovec iov[2];
    int n = dt_iov_slice(all, 2, done, HEADER_SIZE + m->header.size - done, iov, 2);
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)MAX(n, 0)};
    ssize_t sent;

    if (done == 0 && m->nfds > 0) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.buf;
        msg.msg_controllen = CMSG_SPACE(m->nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(m->nfds * sizeof(int));
        memcpy(CMSG_DATA(c), m->fds, m->nfds * sizeof(int));
    }
    sent = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? -errno : sent;
}

int vhost_send(int sock, const struct vhost_message *m, int timeout_ms)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(MAX(timeout_ms, 0));
    size_t done = 0;

    CHECK(m->header.size <= VHOST_MAX_PAYLOAD && m->nfds <= VHOST_MAX_FDS);
    while (done < HEADER_SIZE + m->header.size) {
        ssize_t n = send_some(sock, m, done);

        if (n >= 0) {
            done += (size_t)n;
            continue;
        }
        if (n == -EAGAIN && done == 0 && timeout_ms == 0)
            return -EAGAIN;
        if (n == -EAGAIN) {
            struct pollfd p = {.fd = sock, .events = POLLOUT};
            uint64_t now = dt_clock_ns();

            if (now >= deadline)
                return -ETIMEDOUT;
            poll(&p, 1, (int)((deadline - now + DT_MS(1) - 1) / DT_MS(1)));
        } else if (n != -EINTR) {
            return (int)n;
        }
    }
    return 0;
}

/* Without /proc: only an eventfd takes eight zero bytes among the files of no type, and adding
 * zero changes nothing. */
static bool fd_takes_zero(int fd)
{
    static const uint64_t zero;
    struct stat st;

    return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == 0 && vhost_fd_set_nonblock(fd) == 0 &&
           write(fd, &zero, sizeof(zero)) == sizeof(zero);
}

bool vhost_fd_is_eventfd(int fd)
{
    char path[40], target[32];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return fd_takes_zero(fd);
    target[n] = '\0';
    return strcmp(target, "anon_inode:[eventfd]") == 0;
}

int vhost_fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        return -errno;
    return 0;
}
