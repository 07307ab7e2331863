/* SPDX-License-Identifier: MIT */
/*
 * link-remote-messages.c - the worker's end: what the keeper sends, judged, and done to the device.
 *
 * The keeper asks for quiet before it changes what needs it, as a session does; here that is
 * checked, since what changes memory under a running ring must not be left to another process's
 * good sense.
 */
#include "vhost/link-remote.h"

#include "base/kill.h"

#include <fcntl.h>
#include <stdio.h>

static bool any_stopping(const struct vhost_remote *r)
{
    for (unsigned q = 0; q < r->config.queues; q++)
        if (r->queues[q].stopping)
            return true;
    return false;
}

/* Each returns NULL, or what is wrong. */
typedef const char *remote_step(struct vhost_remote *r, struct link_message *m);

static bool memory_quiet(const struct vhost_remote *r)
{
    return r->paused || !vremote_any_ring(r);
}

static const char *on_attach(struct vhost_remote *r, struct link_message *m)
{
    if (r->attached)
        return "a front end is attached already";
    KILL_POINT("attach");
    r->attached = true;
    r->config.attached(r->config.dev, &r->session);
    return NULL;
}

static const char *on_features(struct vhost_remote *r, struct link_message *m)
{
    const uint64_t own = BIT(VHOST_FEATURE_PROTOCOL) | BIT(VHOST_FEATURE_LOG_ALL);
    uint64_t changed = (m->u64 ^ r->features) & ~own;
    struct dt_error err = {""};

    if (m->u64 & ~own & ~r->config.ops->features(r->config.dev))
        return "features that were not offered";
    if (changed && vremote_any_ring(r))
        return "other features while a ring runs";
    if ((m->u64 ^ r->features) & BIT(VHOST_FEATURE_LOG_ALL) && !memory_quiet(r))
        return "logging switched without a pause";
    if ((changed || !r->features_set) &&
        r->config.ops->set_features(r->config.dev, m->u64 & ~own, &err) < 0)
        return "features that the device refuses";
    r->features = m->u64;
    r->features_set = true;
    return NULL;
}

static const char *on_set_config(struct vhost_remote *r, struct link_message *m)
{
    if (m->config.size > VHOST_MAX_CONFIG || m->config.offset > VHOST_MAX_CONFIG ||
        r->config.ops->set_config(r->config.dev, m->config.data, m->config.offset, m->config.size) <
            0)
        return "configuration that the device refuses";
    return NULL;
}

static void tell_memory(struct vhost_remote *r)
{
    if (r->config.ops->memory_changed)
        r->config.ops->memory_changed(r->config.dev);
}

static const char *on_region_add(struct vhost_remote *r, struct link_message *m)
{
    const struct vhost_mem_region *at = &m->region.at;
    struct dt_error err = {""};

    if (!memory_quiet(r))
        return "memory added without a pause";
    if (r->nregions == MEMMAP_MAX_REGIONS ||
        memmap_add(&r->memory, at->gpa, at->uva, at->size, m->fds[0], at->offset, &err) < 0) {
        log_error("%s: guest memory: %s", r->config.name, err.text);
        return "memory that cannot be mapped";
    }
    r->regions[r->nregions].id = m->region.id;
    r->regions[r->nregions].fd = TAKE_FD(m->fds[0]);
    r->regions[r->nregions++].at = *at;
    tell_memory(r);
    return NULL;
}

static const char *on_region_remove(struct vhost_remote *r, struct link_message *m)
{
    if (!memory_quiet(r))
        return "memory removed without a pause";
    for (unsigned i = 0; i < r->nregions; i++) {
        const struct vhost_mem_region *at = &r->regions[i].at;

        if (r->regions[i].id != m->u64)
            continue;
        CHECK(memmap_remove(&r->memory, at->gpa, at->uva, at->size) == 0);
        close_fd(&r->regions[i].fd);
        r->regions[i] = r->regions[--r->nregions];
        tell_memory(r);
        return NULL;
    }
    return "memory removed that was never added";
}

static const char *map_whole(struct memmap *map, uint64_t size, uint64_t offset, int fd)
{
    struct dt_error err = {""};

    memmap_clear(map);
    if (memmap_add(map, 0, 0, size, fd, offset, &err) == 0)
        return NULL;
    log_error("link: %s", err.text);
    return "a log that cannot be mapped";
}

static const char *on_log(struct vhost_remote *r, struct link_message *m)
{
    const char *wrong = NULL;

    if (!memory_quiet(r))
        return "another dirty log without a pause";
    memmap_clear(&r->log_map);
    r->dirty = (struct dirtylog){0};
    if (m->nfds)
        wrong = map_whole(&r->log_map, m->log.size, m->log.offset, m->fds[0]);
    if (m->nfds && !wrong)
        r->dirty = (struct dirtylog){memmap_host(&r->log_map, 0, m->log.size), m->log.size};
    return wrong;
}

static const char *on_inflight(struct vhost_remote *r, struct link_message *m)
{
    struct dt_error err = {""};

    if (vremote_any_ring(r))
        return "another in-flight region while a ring runs";
    if (vhost_inflight_judge(&m->inflight, r->features & BIT(VIRTIO_F_RING_PACKED), &err) < 0)
        return "an in-flight region that cannot be";
    r->inflight = m->inflight;
    close_fd(&r->inflight_fd);
    r->inflight_fd = TAKE_FD(m->fds[0]);
    return map_whole(&r->inflight_map, m->inflight.mmap_size, m->inflight.mmap_offset,
                     r->inflight_fd);
}

static int take_fd(struct link_message *m, bool wanted)
{
    for (unsigned i = 0; wanted && i < m->nfds; i++)
        if (m->fds[i] >= 0)
            return TAKE_FD(m->fds[i]);
    return -1;
}

static const char *on_queue_start(struct vhost_remote *r, struct link_message *m)
{
    struct remote_queue *queue = &r->queues[m->queue.index];
    struct link_message answer = {.type = LINK_QUEUE_STARTED};
    struct dt_error err = {""};
    int rc;

    if (queue->started || r->pausing || r->paused || !r->features_set)
        return "a ring that runs, or cannot run yet, is started";
    if (m->nfds != m->queue.has_kick + (unsigned)m->queue.has_call)
        return "eventfds that do not match";
    close_fd(&queue->kick);
    close_fd(&queue->call);
    queue->state = m->queue.state;
    queue->kick = take_fd(m, m->queue.has_kick);
    queue->call = take_fd(m, m->queue.has_call);
    queue->recover = m->queue.recover;
    queue->innocent = m->queue.innocent;
    queue->started = true;
    KILL_POINT("ring-start");
    rc = r->config.ops->queue_start(r->config.dev, m->queue.index, &err);
    if (rc < 0) {
        char text[sizeof(err.text) + 64];

        queue->started = false;
        snprintf(text, sizeof(text), "ring %u cannot start: %s", m->queue.index, err.text);
        vremote_fail(&r->session, text);
        return NULL;
    }
    /* The driver may have kicked, or waited for a call, while nobody was here. */
    backend_signal(queue->kick);
    backend_signal(queue->call);
    KILL_POINT("ring-started");
    answer.answer.index = m->queue.index;
    answer.answer.value = (uint32_t)rc;
    vremote_send(r, &answer);
    return NULL;
}

static const char *on_queue_update(struct vhost_remote *r, struct link_message *m)
{
    struct remote_queue *queue = &r->queues[m->queue.index];

    if (!queue->started || !r->paused)
        return "a ring changed without a pause";
    if (m->nfds != m->queue.has_kick || m->queue.state.size != queue->state.size)
        return "a ring changed in what cannot change";
    queue->state.log_used = m->queue.state.log_used;
    queue->state.log_addr = m->queue.state.log_addr;
    close_fd(&queue->old_kick);
    queue->old_kick = TAKE_FD(queue->kick);
    WRITE_ONCE(queue->kick, take_fd(m, m->queue.has_kick));
    r->config.ops->queue_kick_changed(r->config.dev, m->queue.index);
    backend_signal(queue->kick);
    return NULL;
}

/* Other threads use the number at any time: it is replaced under them where there is one. */
static const char *on_queue_call(struct vhost_remote *r, struct link_message *m)
{
    struct remote_queue *queue = &r->queues[m->u32];

    if (queue->call < 0)
        WRITE_ONCE(queue->call, TAKE_FD(m->fds[0]));
    else if (dup3(m->fds[0], queue->call, O_CLOEXEC) < 0)
        return "a call eventfd that cannot be taken";
    if (r->config.ops->queue_call_changed)
        r->config.ops->queue_call_changed(r->config.dev, m->u32);
    backend_signal(queue->call); /* what completed in between was signalled to the old one */
    return NULL;
}

static const char *on_queue_stop(struct vhost_remote *r, struct link_message *m)
{
    struct remote_queue *queue = &r->queues[m->u32];
    struct link_message answer = {.type = LINK_QUEUE_STOPPED, .answer = {m->u32, 0}};

    if (queue->stopping || r->pausing || r->paused)
        return "a ring stopped twice, or within a pause";
    if (!queue->started) { /* its start failed, and that is on its way to the keeper */
        answer.answer.value = queue->state.base;
        vremote_send(r, &answer);
        return NULL;
    }
    KILL_POINT("ring-stop");
    queue->stopping = true;
    r->config.ops->queue_stop(r->config.dev, m->u32);
    return NULL;
}

static const char *on_pause(struct vhost_remote *r, struct link_message *m)
{
    if (r->pausing || r->paused || any_stopping(r))
        return "a pause within a pause or a stop";
    r->pausing = true;
    r->config.ops->pause(r->config.dev, m->u32 != 0);
    return NULL;
}

static const char *on_resume(struct vhost_remote *r, struct link_message *m)
{
    if (!r->paused)
        return "resumed without a pause";
    r->paused = false;
    r->config.ops->resume(r->config.dev);
    return NULL;
}

static const char *on_iotlb(struct vhost_remote *r, struct link_message *m)
{
    if (r->translating || r->pausing || r->paused || any_stopping(r))
        return "a translation within a pause or a stop";
    if (!(r->features & BIT(VIRTIO_F_ACCESS_PLATFORM)) || !r->config.ops->iotlb)
        return "a translation, and there is no vIOMMU";
    r->translating = true;
    r->config.ops->iotlb(r->config.dev, &m->iotlb);
    return NULL;
}

static const char *on_detach(struct vhost_remote *r, struct link_message *m)
{
    bool was_attached = r->attached;

    KILL_POINT("detach");
    if (vremote_any_ring(r) || r->pausing || r->paused || r->translating)
        return "detached while a ring runs";
    vremote_forget(r);
    if (was_attached)
        r->config.ops->closed(r->config.dev, NULL);
    return NULL;
}

static const char *on_rarp(struct vhost_remote *r, struct link_message *m)
{
    uint8_t mac[8];

    if (!r->config.ops->send_rarp)
        return "the device has no network";
    memcpy(mac, &m->u64, sizeof(mac));
    r->config.ops->send_rarp(r->config.dev, mac);
    return NULL;
}

/* @index: 1 = u32 is a ring's index, 2 = queue.index is. */
static const struct remote_message {
    remote_step *step;
    unsigned index;
    bool always; /* without a front end too */
} messages[LINK_TYPE_END] = {
    [LINK_ATTACH] = {on_attach, .always = true},
    [LINK_FEATURES] = {on_features},
    [LINK_SET_CONFIG] = {on_set_config},
    [LINK_REGION_ADD] = {on_region_add},
    [LINK_REGION_REMOVE] = {on_region_remove},
    [LINK_LOG] = {on_log},
    [LINK_INFLIGHT] = {on_inflight},
    [LINK_QUEUE_START] = {on_queue_start, 2},
    [LINK_QUEUE_UPDATE] = {on_queue_update, 2},
    [LINK_QUEUE_CALL] = {on_queue_call, 1},
    [LINK_QUEUE_STOP] = {on_queue_stop, 1},
    [LINK_PAUSE] = {on_pause},
    [LINK_RESUME] = {on_resume},
    [LINK_DETACH] = {on_detach, .always = true},
    [LINK_RARP] = {on_rarp},
    [LINK_IOTLB] = {on_iotlb},
};

const char *vremote_message(struct vhost_remote *r, struct link_message *m)
{
    const struct remote_message *message = &messages[m->type];
    uint32_t index = message->index == 1 ? m->u32 : m->queue.index;

    if (!message->step || (!r->attached && !message->always))
        return "no front end is attached";
    if (message->index && index >= r->config.queues)
        return "a ring that does not exist";
    for (unsigned i = 0; (m->type == LINK_QUEUE_START || m->type == LINK_QUEUE_UPDATE ||
                          m->type == LINK_QUEUE_CALL) &&
                         i < m->nfds;
         i++)
        if (!vhost_fd_is_eventfd(m->fds[i]))
            return "a descriptor that is no eventfd";
    return message->step(r, m);
}
