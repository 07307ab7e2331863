/* SPDX-License-Identifier: MIT */
/*
 * backend-transfer.c - a session leaves this process, or comes into it; see transfer.h.
 *
 * A session may go while no message is under way and nothing waits for the device: all that it is
 * lies in struct vhost_state then, and in descriptors. What comes is judged as the messages were
 * that once made it, since a front end may have captured the process that sends it.
 */
#include "vhost/internal.h"
#include "vhost/transfer.h"

#include <inttypes.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- Leaving ---- */

int vhost_backend_freeze(struct vhost_backend *s, struct dt_error *err)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    if (s->phase != BACKEND_OPEN)
        return dt_fail(err, -EBUSY, "the VM is leaving");
    if (s->busy || s->pausing || s->paused || s->stopping || s->stream.have)
        return dt_fail(err, -EBUSY, "the VMM is in the middle of a message");
    s->frozen = true;
    backend_watch(s, false);
    return 0;
}

void vhost_backend_thaw(struct vhost_backend *s)
{
    CHECK_MAGIC(s, BACKEND_MAGIC);
    s->frozen = false;
    loop_defer(s->config.loop, &s->advance);
}

void vhost_backend_export(const struct vhost_backend *s, struct transfer *t)
{
    CHECK(s->frozen && s->config.keep_files);
    t->state.session = *s->state;
    t->socket = s->stream.sock;
    t->events = s->events;
    t->log = s->log_file.fd;
    t->inflight = s->inflight_kept.fd;
    for (unsigned i = 0; i < s->state->region_count; i++)
        t->regions[i] = s->region_files[i].fd;
    for (unsigned q = 0; q < s->config.queues; q++) {
        const struct backend_queue *queue = &s->queues[q];

        t->kick[q] = queue->kick;
        t->call[q] = queue->call;
        t->error[q] = queue->err;
        t->state.queues[q] = (struct transfer_queue){
            .recover = queue->recover, .left = queue->left, .left_base = queue->left_base};
    }
}

/* ---- Coming: descriptors ---- */

static int judge_eventfds(const int *fds, unsigned count, struct dt_error *err)
{
    for (unsigned q = 0; q < count; q++)
        if (fds[q] >= 0 && (!vhost_fd_is_eventfd(fds[q]) || vhost_fd_set_nonblock(fds[q]) < 0))
            return dt_fail(err, -EINVAL, "ring %u: a descriptor is not an eventfd", q);
    return 0;
}

static bool is_stream(int fd)
{
    int type = 0;
    socklen_t len = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
}

static int judge_descriptors(const struct transfer *t, unsigned queues, struct dt_error *err)
{
    int ret = judge_eventfds(t->kick, queues, err);

    ret = ret ?: judge_eventfds(t->call, queues, err);
    ret = ret ?: judge_eventfds(t->error, queues, err);
    if (ret < 0)
        return ret;
    if (!is_stream(t->socket) || (t->events >= 0 && !is_stream(t->events)))
        return dt_fail(err, -EINVAL, "the front end's socket is none");
    return 0;
}

/* ---- Coming: memory ---- */

static int adopt_regions(struct vhost_backend *s, const struct transfer *t, struct dt_error *err)
{
    const struct vhost_state *from = &t->state.session;

    if (from->region_count > MEMMAP_MAX_REGIONS)
        return dt_fail(err, -EINVAL, "%u memory regions", from->region_count);
    for (unsigned i = 0; i < from->region_count; i++) {
        const struct vhost_mem_region *r = &from->regions[i];
        int ret;

        if (t->regions[i] < 0)
            return dt_fail(err, -EINVAL, "memory region %u has no descriptor", i);
        if (from->region_uses[i] == 0)
            return dt_fail(err, -EINVAL, "memory region %u is used by nobody", i);
        ret = memmap_add(&s->memory, r->gpa, r->uva, r->size, t->regions[i], r->offset, err);
        ret = ret ?: backend_keep_file(s, &s->region_files[i], t->regions[i], err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int adopt_log(struct vhost_backend *s, const struct transfer *t, struct dt_error *err)
{
    const struct vhost_state *from = &t->state.session;
    int ret;

    if (t->log < 0)
        return 0;
    ret = memmap_add(&s->log_map, 0, 0, from->log_size, t->log, from->log_offset, err);
    ret = ret ?: backend_keep_file(s, &s->log_file, t->log, err);
    if (ret == 0)
        s->dirty = (struct dirtylog){memmap_host(&s->log_map, 0, from->log_size), from->log_size};
    return ret;
}

static int adopt_inflight(struct vhost_backend *s, const struct transfer *t, struct dt_error *err)
{
    const struct vhost_state *from = &t->state.session;
    const struct vhost_inflight *region = &from->inflight;
    struct stat st;
    int ret;

    if (t->inflight < 0)
        return 0;
    ret = vhost_inflight_judge(region, from->features & BIT(VIRTIO_F_RING_PACKED), err);
    if (ret == 0 && fstat(t->inflight, &st) < 0)
        ret = dt_fail(err, -errno, "%s", strerror(errno));
    ret = ret
              ?: memmap_add(&s->inflight_map, 0, 0, region->mmap_size, t->inflight,
                            region->mmap_offset, err);
    ret = ret ?: backend_keep_file(s, &s->inflight_kept, t->inflight, err);
    if (ret < 0) {
        dt_fail_prefix(err, "in-flight region");
        return ret;
    }
    s->inflight_file = (struct backend_file){st.st_dev, st.st_ino};
    return 0;
}

/* ---- Coming: numbers ---- */

static int judge_features(const struct vhost_backend *s, const struct vhost_state *from,
                          struct dt_error *err)
{
    uint64_t beyond = from->features & ~backend_offered_features(s);

    if (from->magic != VHOST_STATE_MAGIC || from->version != VHOST_STATE_VERSION)
        return dt_fail(err, -ENOTSUP, "a session of version %u, not %u", from->version,
                       VHOST_STATE_VERSION);
    if (beyond || from->protocol_features & ~s->config.protocol_features)
        return dt_fail(err, -EINVAL, "features 0x%" PRIx64 " that were not offered",
                       beyond ?: from->protocol_features);
    return 0;
}

/* What a device may rely on when it asks for the ring: vhost_backend_ring(). */
static int judge_ring(struct vhost_backend *s, unsigned q, struct dt_error *err)
{
    const struct vhost_queue_state *v = &s->state->queues[q];
    struct virtq_config config;
    uint32_t base;
    int ret;

    if (v->size > VIRTQ_MAX_SIZE)
        return dt_fail(err, -EINVAL, "ring %u of size %u", q, v->size);
    if (!v->started)
        return 0;
    if (!s->state->features_set || !v->size || !v->have_addr || !v->have_kick || !v->enabled)
        return dt_fail(err, -EINVAL, "ring %u runs without all that a ring needs", q);
    ret = backend_ring_config(s, q, &config, err);
    ret = ret ?: vhost_ring_base(v, config.packed, &base, err);
    if (ret < 0)
        return ret;
    if (v->size > s->state->inflight.queue_size || !backend_inflight_log(s, q, config.packed))
        return dt_fail(err, -EINVAL, "ring %u does not fit the in-flight region", q);
    return 0;
}

static int adopt(struct vhost_backend *s, const struct transfer *t, struct dt_error *err)
{
    const struct vhost_state *from = &t->state.session;
    int ret = judge_features(s, from, err);

    ret = ret ?: judge_descriptors(t, s->config.queues, err);
    ret = ret ?: adopt_regions(s, t, err);
    ret = ret ?: adopt_log(s, t, err);
    ret = ret ?: adopt_inflight(s, t, err);
    if (ret < 0)
        return ret;
    *s->state = *from;
    for (unsigned q = s->config.queues; q < VHOST_MAX_QUEUES; q++)
        s->state->queues[q] = (struct vhost_queue_state){0};
    for (unsigned q = 0; q < s->config.queues && ret == 0; q++)
        ret = judge_ring(s, q, err);
    return ret;
}

static void take_descriptors(struct vhost_backend *s, struct transfer *t)
{
    t->socket = -1; /* vhost_backend_new() had it */
    s->events = TAKE_FD(t->events);
    for (unsigned q = 0; q < s->config.queues; q++) {
        const struct transfer_queue *from = &t->state.queues[q];

        s->queues[q].kick = TAKE_FD(t->kick[q]);
        s->queues[q].call = TAKE_FD(t->call[q]);
        s->queues[q].err = TAKE_FD(t->error[q]);
        s->queues[q].recover = from->recover;
        s->queues[q].left = from->left;
        s->queues[q].left_base = from->left_base;
    }
    s->memory_changed = false; /* a worker is given all of it anyway */
}

int vhost_backend_adopt(struct vhost_backend **session, const struct vhost_backend_config *config,
                        struct transfer *t, struct dt_error *err)
{
    struct vhost_backend_config own = *config;
    struct vhost_backend *s;
    int ret;

    own.sock = t->socket;
    ret = vhost_backend_new(&s, &own, err);
    if (ret < 0)
        return ret;
    s->frozen = true;
    backend_watch(s, false);
    ret = adopt(s, t, err);
    if (ret < 0) {
        backend_abandon(s);
        return ret;
    }
    take_descriptors(s, t);
    *session = s;
    return 0;
}
