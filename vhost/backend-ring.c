/* SPDX-License-Identifier: MIT */
/*
 * backend-ring.c - the messages about one ring. Each only notes what it says; see backend-start.c.
 */
#include "vhost/internal.h"

#include <fcntl.h>
#include <sys/eventfd.h>

static struct vhost_queue_state *queue_state(struct vhost_backend *s, const struct vhost_message *m)
{
    return &s->state->queues[m->vring.index];
}

/* ---- Size, addresses, base ---- */

int check_set_vring_num(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    const struct vhost_queue_state *v = queue_state(s, m);

    if (m->vring.num < 1 || m->vring.num > VIRTQ_MAX_SIZE)
        return dt_fail(err, -EINVAL, "SET_VRING_NUM: ring %u of size %u", m->vring.index,
                       m->vring.num);
    if (v->started && m->vring.num != v->size)
        return dt_fail(err, -EBUSY, "SET_VRING_NUM: ring %u runs with size %u", m->vring.index,
                       v->size);
    return 0;
}

int set_vring_num(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    queue_state(s, m)->size = (uint16_t)m->vring.num;
    return 0;
}

/* On a live ring only the log is meant to change (migration); were it more, it starts anew. */
int check_set_vring_addr(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    const struct vhost_queue_state *v = &s->state->queues[m->addr.index];

    if (!v->started)
        return 0;
    if (m->addr.desc != v->desc || m->addr.avail != v->avail || m->addr.used != v->used)
        backend_stop_queue(s, m->addr.index);
    else if (!!(m->addr.flags & VHOST_RING_F_LOG) != v->log_used || m->addr.log != v->log_addr)
        backend_pause(s, true);
    return 0;
}

int set_vring_addr(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct vhost_queue_state *v = &s->state->queues[m->addr.index];

    v->desc = m->addr.desc;
    v->avail = m->addr.avail;
    v->used = m->addr.used;
    v->log_addr = m->addr.log;
    v->log_used = !!(m->addr.flags & VHOST_RING_F_LOG);
    v->have_addr = 1;
    return 0;
}

int check_set_vring_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    if (queue_state(s, m)->started)
        return dt_fail(err, -EBUSY, "SET_VRING_BASE: ring %u runs", m->vring.index);
    return 0;
}

int set_vring_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    queue_state(s, m)->base = m->vring.num;
    return 0;
}

int check_get_vring_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    backend_stop_queue(s, m->vring.index);
    return 0;
}

/* Stopped until the next kick eventfd comes. Its base stays: no index is forgotten. */
int get_vring_base(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct vhost_queue_state *v = queue_state(s, m);

    v->have_kick = 0;
    close_fd(&s->queues[m->vring.index].kick);
    m->vring.num = v->base;
    return 0;
}

/* ---- Enable ---- */

/* To a block device "disabled" cannot mean to discard requests: the ring rests as it is. */
int check_set_vring_enable(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    if (m->vring.num > 1)
        return dt_fail(err, -EINVAL, "SET_VRING_ENABLE: ring %u to %u", m->vring.index,
                       m->vring.num);
    if (m->vring.num == 0)
        backend_stop_queue(s, m->vring.index);
    return 0;
}

int set_vring_enable(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    queue_state(s, m)->enabled = (uint8_t)m->vring.num;
    return 0;
}

/* ---- Eventfds ---- */

static unsigned fd_index(const struct vhost_message *m)
{
    return (unsigned)(m->u64 & VHOST_RING_INDEX_MASK);
}

/* Blocking descriptors would stop us where the peer filled the counter. */
static int check_eventfd(const struct vhost_message *m, struct dt_error *err)
{
    const char *name = vhost_request_name(m->header.request);
    bool none = m->u64 & VHOST_RING_NO_FD;

    if (m->nfds != (none ? 0 : 1))
        return dt_fail(err, -EPROTO, "%s: ring %u: %u descriptors came, but the message says %s",
                       name, fd_index(m), m->nfds, none ? "none" : "one");
    if (none)
        return 0;
    if (!vhost_fd_is_eventfd(m->fds[0]))
        return dt_fail(err, -EINVAL, "%s: ring %u: the descriptor is not an eventfd", name,
                       fd_index(m));
    if (vhost_fd_set_nonblock(m->fds[0]) < 0)
        return dt_fail(err, -errno, "%s: ring %u: %s", name, fd_index(m), strerror(errno));
    return 0;
}

static int take_eventfd(struct vhost_message *m)
{
    return m->nfds ? TAKE_FD(m->fds[0]) : -1;
}

int check_set_vring_kick(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    int rc = check_eventfd(m, err);

    if (rc == 0 && s->state->queues[fd_index(m)].started)
        backend_pause(s, false);
    return rc;
}

int set_vring_kick(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    unsigned q = fd_index(m);
    struct backend_queue *queue = &s->queues[q];
    bool live = s->state->queues[q].started;

    close_fd(&queue->old_kick);
    queue->old_kick = TAKE_FD(queue->kick);
    WRITE_ONCE(queue->kick, take_eventfd(m));
    s->state->queues[q].have_kick = 1;
    if (!live) {
        close_fd(&queue->old_kick);
        return 0;
    }
    s->config.ops->queue_kick_changed(s->config.dev, q);
    backend_signal(queue->kick);
    return 0;
}

int check_set_vring_call(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    return check_eventfd(m, err);
}

/*
 * QEMU changes it whenever the guest masks or unmasks the vector, with requests in flight. Their
 * completions are signalled from other threads: under a live ring the number must never
 * become free, or a signal would go into whatever file takes it next. So the new descriptor
 * takes the old one's number, and "none" is an eventfd that nobody hears.
 */
int set_vring_call(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    unsigned q = fd_index(m);
    struct backend_queue *queue = &s->queues[q];
    bool live = s->state->queues[q].started && queue->call >= 0;
    _cleanup_close_ int fd = m->nfds ? TAKE_FD(m->fds[0])
                             : live  ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
                                     : -1;

    if (!live) {
        close_fd(&queue->call);
        WRITE_ONCE(queue->call, TAKE_FD(fd));
    } else if (fd < 0 || dup3(fd, queue->call, O_CLOEXEC) < 0) {
        return dt_fail(err, -errno, "SET_VRING_CALL: ring %u: %s", q, strerror(errno));
    }
    s->state->queues[q].have_call = 1;
    if (s->state->queues[q].started && s->config.ops->queue_call_changed)
        s->config.ops->queue_call_changed(s->config.dev, q);
    /* What completed before this descriptor came was signalled to nobody. */
    if (s->state->queues[q].started)
        backend_signal(queue->call);
    return 0;
}

int check_set_vring_err(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    return check_eventfd(m, err);
}

int set_vring_err(struct vhost_backend *s, struct vhost_message *m, struct dt_error *err)
{
    struct backend_queue *queue = &s->queues[fd_index(m)];

    close_fd(&queue->err);
    queue->err = take_eventfd(m);
    return 0;
}
