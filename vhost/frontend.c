/* SPDX-License-Identifier: MIT */
/*
 * frontend.c - the front-end session: questions and answers, with a deadline for each.
 *
 * Theory of operation: with REPLY_ACK every request asks for an answer, so that each call returns
 * when it has been carried out. Without it GET_FEATURES after a request serves as the barrier: the
 * back end handles messages in order, so its answer means that the request before is done
 * (whether it succeeded cannot be known). In a batch the requests go out one behind the other, and their answers are taken
 * together: a round trip is two processes that wait for a processor. A reply that does not fit leaves the stream out of step;
 * then the session has failed and every further call says so.
 */
#include "vhost/internal.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define EVENTS_PER_CALL 64

/* ---- Making and freeing ---- */

int vhost_frontend_new(struct vhost_frontend **out, int sock, int timeout_ms, struct dt_error *err)
{
    struct vhost_frontend *f;
    int rc = vhost_fd_set_nonblock(sock);

    if (rc < 0)
        return dt_fail(err, rc, "cannot use descriptor %d as a vhost-user socket: %s", sock,
                       strerror(-rc));
    f = xcalloc(1, sizeof(*f));
    f->magic = FRONTEND_MAGIC;
    f->timeout_ms = timeout_ms;
    f->queue_rings = 1;
    f->stream = (struct vhost_stream){.sock = sock, .expect = VHOST_EXPECT_REPLIES};
    f->events = (struct vhost_stream){.sock = -1, .expect = VHOST_EXPECT_EVENTS};
    f->slots = ARRAY_SIZE(((struct vhost_message *)0)->table.regions);
    f->regions = xcalloc(MEMMAP_MAX_REGIONS, sizeof(*f->regions));
    *out = f;
    return 0;
}

int vhost_connect(const char *path, struct dt_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    _cleanup_close_ int sock = -1;

    if (strlen(path) >= sizeof(addr.sun_path))
        return dt_fail(err, -ENAMETOOLONG, "socket path '%s' is longer than %zu bytes", path,
                       sizeof(addr.sun_path) - 1);
    strcpy(addr.sun_path, path);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return dt_fail(err, -errno, "cannot connect to '%s': %s", path, strerror(errno));
    return TAKE_FD(sock);
}

int vhost_frontend_connect(struct vhost_frontend **f, const char *path, int timeout_ms,
                           struct dt_error *err)
{
    int sock = vhost_connect(path, err), rc = sock;

    if (sock >= 0)
        rc = vhost_frontend_new(f, sock, timeout_ms, err);
    if (rc < 0 && sock >= 0)
        close(sock);
    return rc;
}

void vhost_frontend_free(struct vhost_frontend *f)
{
    if (!f)
        return;
    CHECK_MAGIC(f, FRONTEND_MAGIC);
    for (unsigned i = 0; i < f->count; i++)
        close_fd(&f->regions[i].fd);
    vhost_stream_reset(&f->stream);
    vhost_stream_reset(&f->events);
    close_fd(&f->stream.sock);
    close_fd(&f->events.sock);
    f->magic = 0;
    free(f->regions);
    free(f);
}

int vhost_frontend_socket(const struct vhost_frontend *f)
{
    return f->stream.sock;
}

int vhost_frontend_backend_fd(const struct vhost_frontend *f)
{
    return f->events.sock;
}

/* ---- Question and answer ---- */

static int frontend_fail(struct vhost_frontend *f, uint32_t request, int rc, struct dt_error *err)
{
    f->failed = true;
    dt_fail_prefix(err, "%s", vhost_request_name(request));
    return rc;
}

static int frontend_send(struct vhost_frontend *f, struct vhost_message *m, struct dt_error *err)
{
    int rc;

    CHECK_MAGIC(f, FRONTEND_MAGIC);
    if (f->failed)
        return dt_fail(err, -EPIPE, "%s: the session failed before",
                       vhost_request_name(m->header.request));
    m->header.flags |= VHOST_VERSION;
    rc = vhost_send(f->stream.sock, m, f->timeout_ms);
    if (rc < 0) {
        dt_fail(err, rc, "cannot send to the back end: %s", strerror(-rc));
        return frontend_fail(f, m->header.request, rc, err);
    }
    return 0;
}

/* Waits until the stream gives a message or the deadline passes. */
static int frontend_receive(struct vhost_frontend *f, struct vhost_message *m, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + DT_MS(MAX(f->timeout_ms, 0));

    for (;;) {
        int rc = vhost_stream_read(&f->stream, err);
        uint64_t now = dt_clock_ns();
        struct pollfd p = {.fd = f->stream.sock, .events = POLLIN};

        if (rc == 1)
            *m = f->stream.message;
        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (now >= deadline)
            return dt_fail(err, -ETIMEDOUT, "no answer within %d ms", f->timeout_ms);
        poll(&p, 1, (int)((deadline - now + DT_MS(1) - 1) / DT_MS(1)));
    }
}

/* Receive the answer to @request into @m; as frontend_query(). */
static int frontend_answer(struct vhost_frontend *f, uint32_t request, struct vhost_message *m,
                           uint32_t size, unsigned fds, struct dt_error *err)
{
    int rc = frontend_receive(f, m, err);

    if (rc < 0)
        return frontend_fail(f, request, rc, err);
    if (m->header.request == request && m->header.size == size && m->nfds <= fds)
        return 0;
    vhost_message_close_fds(m);
    /* An empty answer is how GET_CONFIG is refused: the stream is still in step. */
    if (m->header.request == request && m->header.size == 0)
        return dt_fail(err, -EIO, "%s: refused by the back end", vhost_request_name(request));
    dt_fail(err, -EPROTO,
            "the reply is to request %u, of %u bytes instead of %u, with %u descriptors",
            m->header.request, m->header.size, size, m->nfds);
    return frontend_fail(f, request, -EPROTO, err);
}

static int frontend_barrier(struct vhost_frontend *f, struct dt_error *err)
{
    struct vhost_message m = {.header.request = VHOST_GET_FEATURES};
    int rc = frontend_send(f, &m, err);

    return rc < 0 ? rc : frontend_answer(f, VHOST_GET_FEATURES, &m, sizeof(m.u64), 0, err);
}

/* An acknowledgement: zero is yes. */
static int frontend_ack(struct vhost_frontend *f, uint32_t request, struct dt_error *err)
{
    struct vhost_message m;
    int rc = frontend_answer(f, request, &m, sizeof(m.u64), 0, err);

    if (rc == 0 && m.u64 != 0)
        return dt_fail(err, -EIO, "%s: refused by the back end (%" PRIu64 ")",
                       vhost_request_name(request), m.u64);
    return rc;
}

/* All answers that are due, even behind a refusal: the stream stays in step. */
static int frontend_collect(struct vhost_frontend *f, struct dt_error *err)
{
    unsigned n = f->npending;
    int ret = 0;

    f->npending = 0;
    if (n && !frontend_has(f, VHOST_F_REPLY_ACK))
        return frontend_barrier(f, err);
    for (unsigned i = 0; i < n && !f->failed; i++) {
        int rc = frontend_ack(f, f->pending[i], ret ? NULL : err);

        ret = ret ?: rc;
    }
    return ret;
}

int frontend_query(struct vhost_frontend *f, struct vhost_message *m, uint32_t size, unsigned fds,
                   struct dt_error *err)
{
    uint32_t request = m->header.request;
    int rc = frontend_collect(f, err);

    rc = rc ?: frontend_send(f, m, err);
    return rc ?: frontend_answer(f, request, m, size, fds, err);
}

int frontend_command(struct vhost_frontend *f, struct vhost_message *m, struct dt_error *err)
{
    uint32_t request = m->header.request;
    int rc = f->npending == FRONTEND_PENDING ? frontend_collect(f, err) : 0;

    if (frontend_has(f, VHOST_F_REPLY_ACK))
        m->header.flags |= VHOST_NEED_REPLY;
    rc = rc ?: frontend_send(f, m, err);
    if (rc < 0)
        return rc;
    f->pending[f->npending++] = request;
    return f->batch ? 0 : frontend_collect(f, err);
}

void vhost_frontend_batch(struct vhost_frontend *f)
{
    CHECK_MAGIC(f, FRONTEND_MAGIC);
    f->batch = true;
}

int vhost_frontend_flush(struct vhost_frontend *f, int ret, struct dt_error *err)
{
    int rc = frontend_collect(f, ret < 0 ? NULL : err);

    f->batch = false;
    return ret < 0 ? ret : rc;
}

/* ---- The back end's own channel ---- */

int frontend_event(struct vhost_frontend *f, bool *config_changed)
{
    struct vhost_message *m = &f->events.message;
    bool known = m->header.request == VHOST_BACKEND_CONFIG_CHANGE_MSG;

    vhost_message_close_fds(m);
    if (known)
        *config_changed = true;
    if (!(m->header.flags & VHOST_NEED_REPLY) || !frontend_has(f, VHOST_F_REPLY_ACK))
        return 0;
    m->header.flags = VHOST_VERSION | VHOST_REPLY;
    m->header.size = sizeof(m->u64);
    m->u64 = known ? 0 : 1;
    return vhost_send(f->events.sock, m, 0);
}

/* Not all: who never stops sending must not keep the caller from what else it has to do. */
int vhost_frontend_events(struct vhost_frontend *f, bool *config_changed)
{
    struct pollfd p = {.fd = f->stream.sock};
    int rc = 0;

    CHECK_MAGIC(f, FRONTEND_MAGIC);
    *config_changed = false;
    for (unsigned n = 0; n < EVENTS_PER_CALL && f->events.sock >= 0 && rc == 0; n++) {
        rc = vhost_stream_read(&f->events, NULL);
        if (rc <= 0)
            break;
        rc = frontend_event(f, config_changed);
    }
    if (rc < 0)
        close_fd(&f->events.sock);
    if (f->failed || (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR))))
        return -ECONNRESET;
    return rc < 0 ? -ECONNRESET : 0;
}
