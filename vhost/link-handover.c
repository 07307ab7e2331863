/* SPDX-License-Identifier: MIT */
/*
 * link-handover.c - what a worker is given of a session: everything at its start, and changes later,
 * by the same functions.
 */
#include "vhost/link-internal.h"

#include <fcntl.h>

void vproxy_send_features(struct vhost_proxy *p)
{
    struct link_message m = {.type = LINK_FEATURES};

    m.u64 = vhost_backend_state(p->session)->features;
    vproxy_send(p, &m);
}

/*
 * What the driver wrote into the configuration space, byte by byte: it is little. Where the worker knows it
 * is told by its own floor, since what a driver wrote outlives keepers, too.
 */
static void send_config(struct vhost_proxy *p)
{
    for (unsigned i = 0; i < VHOST_MAX_CONFIG; i++) {
        struct link_message m = {.type = LINK_SET_CONFIG};

        if (p->floor.writable[i] == 0 || p->floor.writable[i] == LINK_CONFIG_LIVE ||
            p->floor.config[i] == p->worker_config[i])
            continue;
        m.config.offset = i;
        m.config.size = 1;
        m.config.data[0] = p->worker_config[i] = p->floor.config[i];
        vproxy_send(p, &m);
    }
}

/* ---- Memory --------------------------------------------------------------------------------- */

static bool still_there(const struct vhost_files *files, unsigned count, uint64_t id)
{
    for (unsigned i = 0; i < count; i++)
        if (files->regions[i].id == id)
            return true;
    return false;
}

static bool is_known(const struct vhost_proxy *p, uint64_t id)
{
    for (unsigned i = 0; i < p->nknown; i++)
        if (p->known[i] == id)
            return true;
    return false;
}

static void send_regions(struct vhost_proxy *p, const struct vhost_files *files)
{
    const struct vhost_state *state = vhost_backend_state(p->session);

    for (unsigned i = 0; i < p->nknown;) {
        struct link_message m = {.type = LINK_REGION_REMOVE, .u64 = p->known[i]};

        if (still_there(files, state->region_count, p->known[i])) {
            i++;
            continue;
        }
        vproxy_send(p, &m);
        p->known[i] = p->known[--p->nknown];
    }
    for (unsigned i = 0; i < state->region_count; i++) {
        struct link_message m = {.type = LINK_REGION_ADD, .nfds = 1};

        if (is_known(p, files->regions[i].id))
            continue;
        m.region.id = files->regions[i].id;
        m.region.at = state->regions[i];
        m.fds[0] = files->regions[i].fd;
        vproxy_send(p, &m);
        p->known[p->nknown++] = files->regions[i].id;
    }
}

static void send_log(struct vhost_proxy *p, const struct vhost_file *log)
{
    const struct vhost_state *state = vhost_backend_state(p->session);
    uint64_t id = log->fd >= 0 ? log->id : 0;
    struct link_message m = {.type = LINK_LOG};

    if (id == p->known_log)
        return;
    p->known_log = id;
    if (id) {
        m.log.size = state->log_size;
        m.log.offset = state->log_offset;
        m.fds[m.nfds++] = log->fd;
    }
    vproxy_send(p, &m);
}

static void send_inflight(struct vhost_proxy *p, const struct vhost_file *inflight)
{
    struct link_message m = {.type = LINK_INFLIGHT, .nfds = 1};

    if (inflight->fd < 0 || inflight->id == p->known_inflight)
        return;
    /* How large it must be depends on the kind of rings, which may be another since a ring last started. */
    if (vhost_backend_state(p->session)->features_set)
        vproxy_send_features(p);
    p->known_inflight = inflight->id;
    m.inflight = vhost_backend_state(p->session)->inflight;
    m.fds[0] = inflight->fd;
    vproxy_send(p, &m);
}

void vproxy_send_memory(struct vhost_proxy *p)
{
    struct vhost_files files;

    if (!p->handed || p->releasing)
        return;
    vhost_backend_files(p->session, &files);
    send_regions(p, &files);
    send_log(p, &files.log);
    send_inflight(p, &files.inflight);
}

/* ---- Rings ------------------------------------------------------------------------------------ */

void vproxy_send_queue(struct vhost_proxy *p, unsigned q, enum link_type type, bool recover)
{
    struct link_message m = {.type = type};
    int kick = vhost_backend_kick_fd(p->session, q), call = vhost_backend_call_fd(p->session, q);

    m.queue.index = q;
    m.queue.recover = recover;
    m.queue.innocent = p->innocent;
    m.queue.state = vhost_backend_state(p->session)->queues[q];
    if (kick >= 0) {
        m.queue.has_kick = 1;
        m.fds[m.nfds++] = kick;
    }
    if (call >= 0 && type == LINK_QUEUE_START) {
        m.queue.has_call = 1;
        m.fds[m.nfds++] = call;
    }
    vproxy_send(p, &m);
}

static void hand_over_queue(struct vhost_proxy *p, unsigned q)
{
    struct proxy_queue *queue = &p->queues[q];

    if (!queue->started)
        return;
    queue->given = true;
    p->recovery.rings++;
    vproxy_send_queue(p, q, LINK_QUEUE_START, true);
    if (queue->stopping) {
        struct link_message m = {.type = LINK_QUEUE_STOP, .u32 = q};

        queue->asked = true;
        vproxy_send(p, &m);
    }
}

/*
 * Not within a pause: the session is changing what would be handed over; resume() comes here again.
 * A pause that is still being waited for is passed on behind the rings.
 */
void vproxy_hand_over(struct vhost_proxy *p)
{
    struct link_message attach = {.type = LINK_ATTACH};

    if (!p->ready || !p->session || p->handed || p->paused || p->broken)
        return;
    p->handed = true;
    p->recovery = (struct vhost_recovery){.fence = p->recovery.fence};
    vproxy_send(p, &attach);
    vproxy_send_features(p);
    send_config(p);
    vproxy_send_memory(p);
    for (unsigned q = 0; q < p->nqueues; q++)
        hand_over_queue(p, q);
    if (p->pausing) {
        struct link_message pause = {.type = LINK_PAUSE, .u32 = p->drain};

        p->pause_asked = true;
        vproxy_send(p, &pause);
    }
    if (p->translating) /* the predecessor's use of any memory is over */
        vproxy_translated(p, 0);
    if (p->recovery.rings == 0)
        p->lost_at = 0;
}

/*
 * virtq_start() knows how to read ring and log; on a copy of the log it leaves no trace, so the
 * requests are not charged with another attempt. Behind a vIOMMU no keeper can read a ring.
 */
int vproxy_left_base(struct vhost_proxy *p, unsigned q, uint32_t *base, struct dt_error *err)
{
    struct vhost_session *session = vhost_backend_session(p->session);
    _cleanup_free_ void *log = NULL, *slots = NULL;
    struct virtq vq = {0};
    struct vhost_ring ring;
    size_t bytes;
    int rc = vhost_session_ring(session, q, &ring, err);

    if (rc < 0)
        return rc;
    if (vhost_backend_state(p->session)->features & BIT(VIRTIO_F_ACCESS_PLATFORM))
        return dt_fail(err, -EOPNOTSUPP, "only a worker knows the vIOMMU's translations");
    bytes = inflight_queue_size(ring.config.size, ring.config.packed);
    log = xaligned(CACHE_LINE, bytes);
    slots = xaligned(CACHE_LINE, ring.config.size * sizeof(struct virtq_chain));
    memcpy(log, ring.config.inflight, bytes);
    ring.config.inflight = log;
    ring.config.slots = slots;
    ring.config.slot_stride = sizeof(struct virtq_chain);
    ring.config.dirty = NULL;
    ring.config.iovs = iovpool_new(1);
    rc = virtq_start(&vq, &ring.config, ring.base, true, err);
    if (rc == 0)
        *base = virtq_stop(&vq);
    iovpool_free(ring.config.iovs);
    return rc;
}
