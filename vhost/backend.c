/* SPDX-License-Identifier: MIT */
/*
 * backend.c - the life of a back-end session.
 *
 * Theory of operation: one function, backend_advance(), moves the session on, from the loop and
 * from nowhere else. It reads a message; the message's check step asks the device for the quiet it
 * needs (rings stopped, or all paused); the session is then *parked*: the socket is not
 * watched and no further message is read until the device has answered. Then the message is
 * applied, the device resumed, rings that have become ready are started, and the reply sent.
 *
 * What the device calls, from inside a callback or later, only notes a fact and defers the advance
 * to the end of the loop's turn. So a callback is never entered from within another, and a
 * session may be broken from anywhere.
 *
 * Ending takes the same road: a pause under way is waited for, then every started ring is
 * stopped, then memory and descriptors go, and closed() comes last, from the loop.
 */
#include "vhost/internal.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>

/* Messages per wake-up of the loop, so that a flood on the socket does not starve the rings. */
#define BACKEND_MESSAGES_PER_TURN 32

static bool backend_parked(const struct vhost_backend *s)
{
    return s->pausing || s->stopping > 0 || s->translating;
}

bool backend_any_started(const struct vhost_backend *s)
{
    for (unsigned q = 0; q < s->config.queues; q++)
        if (s->state->queues[q].started)
            return true;
    return false;
}

/* ---- Asking the device for quiet ------------------------------------------------------------ */

void backend_stop_queue(struct vhost_backend *s, unsigned q)
{
    struct backend_queue *queue = &s->queues[q];

    if (!s->state->queues[q].started || queue->stopping)
        return;
    CHECK(!s->pausing && !s->paused);
    queue->stopping = true;
    s->stopping++;
    s->config.ops->queue_stop(s->config.dev, q);
}

void backend_stop_queues(struct vhost_backend *s)
{
    for (unsigned q = 0; q < s->config.queues; q++)
        backend_stop_queue(s, q);
}

void vhost_backend_queue_stopped(struct vhost_backend *s, unsigned q, uint32_t base)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(q < s->config.queues && s->queues[q].stopping);
    s->queues[q].stopping = false;
    s->queues[q].recover = false; /* nothing is in flight, and @base is exact */
    close_fd(&s->queues[q].old_kick);
    s->state->queues[q].base = base;
    s->state->queues[q].started = 0;
    s->stopping--;
    loop_defer(s->config.loop, &s->advance);
}

void vhost_backend_queue_left(struct vhost_backend *s, unsigned q, uint32_t base)
{
    vhost_backend_queue_stopped(s, q, base);
    s->queues[q].recover = s->queues[q].left = true;
    s->queues[q].left_base = base;
}

void backend_pause(struct vhost_backend *s, bool drain)
{
    if (!backend_any_started(s))
        return;
    CHECK(!s->pausing && !s->paused && s->stopping == 0);
    s->pausing = true;
    s->config.ops->pause(s->config.dev, drain);
}

void vhost_backend_paused(struct vhost_backend *s)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(s->pausing);
    s->pausing = false;
    s->paused = true;
    loop_defer(s->config.loop, &s->advance);
}

/* ---- Ending ---- */

bool vhost_backend_faulted(const struct vhost_backend *s)
{
    return READ_ONCE(s->memory.faulted) || READ_ONCE(s->log_map.faulted) ||
           READ_ONCE(s->inflight_map.faulted);
}

static void backend_end(struct vhost_backend *s)
{
    if (s->phase == BACKEND_OPEN)
        s->phase = BACKEND_CLOSING;
    loop_defer(s->config.loop, &s->advance);
}

void vhost_backend_break(struct vhost_backend *s, const char *fmt, ...)
{
    char what[sizeof(s->reason) - 64];
    va_list args;

    CHECK_MAGIC(s, BACKEND_MAGIC);
    if (s->phase != BACKEND_OPEN)
        return;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    /* Memory that reads as zeroes from one moment to the next looks like anything. */
    snprintf(s->reason, sizeof(s->reason), "%s%s", what,
             vhost_backend_faulted(s) ? " (a file of shared memory was truncated)" : "");
    s->broken = true;
    log_limited(DT_LOG_ERROR, "%s: session broken: %s", s->name, s->reason);
    backend_end(s);
}

bool vhost_backend_ending(const struct vhost_backend *s)
{
    struct pollfd p = {.fd = s->stream.sock, .events = POLLRDHUP};

    CHECK_MAGIC(s, BACKEND_MAGIC);
    return s->phase != BACKEND_OPEN ||
           (poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

void vhost_backend_close(struct vhost_backend *s)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    backend_end(s);
}

void backend_watch(struct vhost_backend *s, bool want)
{
    int rc;

    if (want == s->watching)
        return;
    if (!want) {
        loop_watch_remove(s->config.loop, &s->watch);
        s->watching = false;
        return;
    }
    rc = loop_watch_add(s->config.loop, &s->watch);
    if (rc < 0)
        vhost_backend_break(s, "cannot watch the socket: %s", strerror(-rc));
    else
        s->watching = true;
}

static void backend_run_closed(struct loop_deferred *deferred)
{
    struct vhost_backend *s = container_of(deferred, struct vhost_backend, closed);

    s->phase = BACKEND_CLOSED;
    s->config.ops->closed(s->config.dev, s->broken ? s->reason : NULL);
}

static void backend_forget_memory(struct vhost_backend *s)
{
    memmap_clear(&s->memory);
    memmap_clear(&s->log_map);
    memmap_clear(&s->inflight_map);
    backend_forget_regions(s);
    backend_forget_file(s, &s->log_file);
    backend_forget_file(s, &s->inflight_kept);
    s->dirty = (struct dirtylog){0};
}

static void backend_tear_down(struct vhost_backend *s)
{
    backend_watch(s, false);
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++) {
        struct backend_queue *queue = &s->queues[q];

        if (s->broken)
            backend_signal(queue->err);
        close_fd(&queue->kick);
        close_fd(&queue->old_kick);
        close_fd(&queue->call);
        close_fd(&queue->err);
    }
    vhost_stream_reset(&s->stream);
    backend_forget_memory(s);
    close_fd(&s->events);
    close_fd(&s->stream.sock);
    s->phase = BACKEND_TORN_DOWN;
    loop_defer(s->config.loop, &s->closed);
}

/* Returns true when there is more to do at once. */
static bool backend_end_step(struct vhost_backend *s)
{
    if (s->phase != BACKEND_CLOSING)
        return false;
    if (s->busy) {
        vhost_message_close_fds(&s->message);
        s->busy = false;
    }
    if (s->paused) {
        s->paused = false;
        s->config.ops->resume(s->config.dev);
        return true;
    }
    if (backend_any_started(s)) {
        backend_stop_queues(s);
        return true;
    }
    backend_tear_down(s);
    return false;
}

/* ---- Moving on ---- */

/* Returns true when a message was taken up. */
static bool backend_read_message(struct vhost_backend *s)
{
    struct dt_error err = {""};
    int rc = vhost_stream_read(&s->stream, &err);

    if (rc == 0)
        return false;
    if (rc == -ECONNRESET || rc == -EPIPE) {
        vhost_backend_close(s);
    } else if (rc < 0) {
        vhost_backend_break(s, "%s", err.text);
    } else {
        s->message = s->stream.message; /* and its descriptors */
        s->busy = true;
        backend_begin_message(s);
    }
    return true;
}

static void backend_advance(struct vhost_backend *s)
{
    unsigned budget = BACKEND_MESSAGES_PER_TURN;

    if (s->advancing)
        return;
    s->advancing = true;
    while (!backend_parked(s)) {
        if (s->phase != BACKEND_OPEN) {
            if (!backend_end_step(s))
                break;
        } else if (s->busy) {
            backend_finish_message(s);
        } else if (s->frozen || budget-- == 0 || !backend_read_message(s)) {
            break; /* the watch brings us back, or vhost_backend_thaw() */
        }
    }
    backend_watch(s, s->phase == BACKEND_OPEN && !backend_parked(s) && !s->frozen);
    s->advancing = false;
}

static void backend_run_advance(struct loop_deferred *deferred)
{
    backend_advance(container_of(deferred, struct vhost_backend, advance));
}

static void backend_ready(struct dt_watch *watch, uint32_t events)
{
    backend_advance(container_of(watch, struct vhost_backend, watch));
}

/* ---- Making and freeing ---- */

static int backend_new_state(struct vhost_backend *s, struct dt_error *err)
{
    s->state_fd = memfd_create("devtap-session", MFD_CLOEXEC);
    if (s->state_fd < 0 || ftruncate(s->state_fd, sizeof(*s->state)) < 0)
        return dt_fail(err, -errno, "cannot create a session's state: %s", strerror(errno));
    s->state = mmap(NULL, sizeof(*s->state), PROT_READ | PROT_WRITE, MAP_SHARED, s->state_fd, 0);
    if (s->state == MAP_FAILED) {
        s->state = NULL;
        return dt_fail(err, -errno, "cannot map a session's state: %s", strerror(errno));
    }
    s->state->magic = VHOST_STATE_MAGIC;
    s->state->version = VHOST_STATE_VERSION;
    return 0;
}

static void backend_release(struct vhost_backend *s)
{
    if (s->state)
        munmap(s->state, sizeof(*s->state));
    close_fd(&s->state_fd);
    s->magic = 0;
    free(s->region_files);
    free(s->name);
    free(s);
}

void backend_abandon(struct vhost_backend *s)
{
    loop_defer_cancel(s->config.loop, &s->advance);
    backend_watch(s, false);
    backend_forget_memory(s);
    backend_release(s);
}

/* ---- As the device sees it ------------------------------------------------------------------- */

static struct vhost_backend *backend_of(const struct vhost_session *session)
{
    return container_of((struct vhost_session *)(uintptr_t)session, struct vhost_backend, session);
}

static int session_ring(struct vhost_session *s, unsigned q, struct vhost_ring *ring,
                        struct dt_error *err)
{
    return vhost_backend_ring(backend_of(s), q, ring, err);
}

static int session_kick_fd(const struct vhost_session *s, unsigned q)
{
    return vhost_backend_kick_fd(backend_of(s), q);
}

static int session_call_fd(const struct vhost_session *s, unsigned q)
{
    return vhost_backend_call_fd(backend_of(s), q);
}

static void session_queue_stopped(struct vhost_session *s, unsigned q, uint32_t base)
{
    vhost_backend_queue_stopped(backend_of(s), q, base);
}

static void session_paused(struct vhost_session *s)
{
    vhost_backend_paused(backend_of(s));
}

static void session_fail(struct vhost_session *s, const char *reason)
{
    vhost_backend_break(backend_of(s), "%s", reason);
}

static int session_notify_config(struct vhost_session *s)
{
    return vhost_backend_notify_config(backend_of(s));
}

static void session_close(struct vhost_session *s)
{
    vhost_backend_close(backend_of(s));
}

static void session_free(struct vhost_session *s)
{
    vhost_backend_free(backend_of(s));
}

static bool session_region(const struct vhost_session *session, unsigned i,
                           struct vhost_shared *shared)
{
    const struct vhost_backend *s = backend_of(session);

    if (!s->config.keep_files || i >= s->state->region_count)
        return false;
    shared->at = s->state->regions[i];
    shared->fd = s->region_files[i].fd;
    shared->host = memmap_host(&s->memory, shared->at.gpa, shared->at.size);
    return true;
}

static bool session_inflight(const struct vhost_session *session, struct vhost_inflight *region,
                             int *fd)
{
    const struct vhost_backend *s = backend_of(session);

    *region = s->state->inflight;
    *fd = s->inflight_kept.fd;
    return *fd >= 0;
}

static void session_iotlb_done(struct vhost_session *s, int result)
{
    vhost_backend_iotlb_done(backend_of(s), result);
}

static int session_iotlb_miss(struct vhost_session *s, uint64_t iova, unsigned access)
{
    return vhost_backend_iotlb_miss(backend_of(s), iova, access);
}

static const struct vhost_session_ops backend_session_ops = {
    .ring = session_ring,
    .kick_fd = session_kick_fd,
    .call_fd = session_call_fd,
    .queue_stopped = session_queue_stopped,
    .paused = session_paused,
    .fail = session_fail,
    .notify_config = session_notify_config,
    .close = session_close,
    .free = session_free,
    .region = session_region,
    .inflight = session_inflight,
    .iotlb_done = session_iotlb_done,
    .iotlb_miss = session_iotlb_miss,
};

struct vhost_session *vhost_backend_session(struct vhost_backend *s)
{
    return &s->session;
}

int vhost_backend_new(struct vhost_backend **session, const struct vhost_backend_config *config,
                      struct dt_error *err)
{
    struct vhost_backend *s = xcalloc(1, sizeof(*s));
    int rc;

    CHECK(config->queues >= 1 && config->queues <= VHOST_MAX_QUEUES);
    s->magic = BACKEND_MAGIC;
    s->session.ops = &backend_session_ops;
    s->log_file.fd = s->inflight_kept.fd = -1;
    s->region_files = xcalloc(MEMMAP_MAX_REGIONS, sizeof(*s->region_files));
    for (unsigned i = 0; i < MEMMAP_MAX_REGIONS; i++)
        s->region_files[i].fd = -1;
    s->config = *config;
    s->name = xstrdup(config->name ? config->name : "vhost-user");
    s->config.name = s->name;
    s->stream.sock = config->sock;
    s->state_fd = s->events = -1;
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++)
        s->queues[q] = (struct backend_queue){.kick = -1, .call = -1, .err = -1, .old_kick = -1};
    memmap_init(&s->memory);
    memmap_init(&s->log_map);
    memmap_init(&s->inflight_map);
    memmap_guard_install();
    s->advance.run = backend_run_advance;
    s->closed.run = backend_run_closed;
    s->watch = (struct dt_watch){.ready = backend_ready, .fd = config->sock, .events = EPOLLIN};
    rc = backend_new_state(s, err);
    if (rc == 0 && (rc = vhost_fd_set_nonblock(config->sock)) < 0)
        dt_fail(err, rc, "a session's socket: %s", strerror(-rc));
    if (rc == 0) {
        rc = loop_watch_add(config->loop, &s->watch);
        if (rc < 0)
            dt_fail(err, rc, "cannot watch a session's socket: %s", strerror(-rc));
    }
    if (rc < 0) {
        backend_release(s);
        return rc;
    }
    s->watching = true;
    *session = s;
    return 0;
}

void vhost_backend_free(struct vhost_backend *s)
{
    if (!s)
        return;
    CHECK_MAGIC(s, BACKEND_MAGIC);
    CHECK(s->phase == BACKEND_CLOSED);
    loop_defer_cancel(s->config.loop, &s->advance);
    backend_release(s);
}

const struct vhost_state *vhost_backend_state(const struct vhost_backend *s)
{
    return s->state;
}

struct memmap *vhost_backend_memmap(struct vhost_backend *s)
{
    return &s->memory;
}
