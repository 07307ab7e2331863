/* SPDX-License-Identifier: MIT */
/*
 * link-remote.c - the worker's end: a session whose protocol is spoken by a keeper.
 *
 * Theory of operation: the keeper's messages become the device's operations, in the order in which
 * they come; the device's answers go back as messages. The keeper asks for quiet before it changes
 * what needs it, as a session does; here that is checked. The end of the link ends the session as
 * the end of a connection would: a pause under way is waited for, then every ring is
 * stopped, then the memory goes.
 */
#include "vhost/internal.h"
#include "vhost/link.h"

#include "base/kill.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>

#define REMOTE_MAGIC  0x4c526d74u
#define LINK_WAIT_MS  2000
#define LINK_PER_TURN 64

/** struct remote_queue - a ring; its descriptors are ours. */
struct remote_queue {
    struct vhost_queue_state state;
    int kick, call;
    int old_kick; /* a watch of the device may still be on it */
    bool recover, innocent, started, stopping;
};

struct vhost_remote {
    uint32_t magic;
    struct vhost_session session;
    struct vhost_remote_config config;
    struct dt_watch watch;
    bool attached;
    uint64_t features;
    bool features_set;

    struct memmap memory, log_map, inflight_map;
    struct dirtylog dirty;
    struct vhost_inflight inflight;
    int inflight_fd;
    struct {
        uint64_t id;
        struct vhost_mem_region at;
        int fd;
    } regions[MEMMAP_MAX_REGIONS];
    unsigned nregions;
    struct remote_queue queues[VHOST_MAX_QUEUES];
    bool pausing, paused;
    bool translating; /* the device was told of a translation, and has not yet answered */

    bool ending, faulted;
    struct loop_deferred end;
    char reason[256];
};

static struct vhost_remote *remote_of(const struct vhost_session *s)
{
    return container_of((struct vhost_session *)(uintptr_t)s, struct vhost_remote, session);
}

static bool any_ring(const struct vhost_remote *r)
{
    for (unsigned q = 0; q < r->config.queues; q++)
        if (r->queues[q].started)
            return true;
    return false;
}

static bool any_stopping(const struct vhost_remote *r)
{
    for (unsigned q = 0; q < r->config.queues; q++)
        if (r->queues[q].stopping)
            return true;
    return false;
}

/* ---- The end ---------------------------------------------------------------------------------- */

static void end_link(struct vhost_remote *r, const char *reason)
{
    if (r->ending)
        return;
    r->ending = true;
    snprintf(r->reason, sizeof(r->reason), "%.*s", (int)sizeof(r->reason) - 1, reason);
    loop_watch_remove(r->config.loop, &r->watch);
    loop_defer(r->config.loop, &r->end);
}

static void send(struct vhost_remote *r, struct link_message *m)
{
    int rc;

    if (r->ending)
        return;
    rc = link_send(r->config.sock, m, LINK_WAIT_MS);
    if (rc < 0)
        end_link(r, "the keeper is gone");
}

static void forget_session(struct vhost_remote *r)
{
    memmap_clear(&r->memory);
    memmap_clear(&r->log_map);
    memmap_clear(&r->inflight_map);
    r->dirty = (struct dirtylog){0};
    r->inflight = (struct vhost_inflight){0};
    close_fd(&r->inflight_fd);
    while (r->nregions)
        close_fd(&r->regions[--r->nregions].fd);
    r->features = 0;
    r->features_set = r->attached = r->faulted = false;
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++) {
        close_fd(&r->queues[q].kick);
        close_fd(&r->queues[q].old_kick);
        close_fd(&r->queues[q].call);
    }
}

static void stop_all(struct vhost_remote *r)
{
    for (unsigned q = 0; q < r->config.queues; q++) {
        if (!r->queues[q].started || r->queues[q].stopping)
            continue;
        r->queues[q].stopping = true;
        r->config.ops->queue_stop(r->config.dev, q);
    }
}

static void run_end(struct loop_deferred *deferred)
{
    struct vhost_remote *r = container_of(deferred, struct vhost_remote, end);
    bool was_attached = r->attached;

    if (r->pausing || r->translating)
        return;
    if (r->paused) {
        r->paused = false;
        r->config.ops->resume(r->config.dev);
    }
    stop_all(r);
    if (any_ring(r))
        return;
    forget_session(r);
    close_fd(&r->config.sock);
    if (was_attached)
        r->config.ops->closed(r->config.dev, r->reason);
    r->config.lost(r->config.dev, r->reason);
}

/* ---- The session as its device sees it ----------------------------------------------------------- */

static void *queue_log(const struct vhost_remote *r, unsigned q, bool packed)
{
    size_t size = inflight_queue_size(r->inflight.queue_size, packed);

    if (r->inflight_map.count == 0 || q >= r->inflight.num_queues ||
        r->queues[q].state.size > r->inflight.queue_size)
        return NULL;
    return memmap_host(&r->inflight_map, q * size, size);
}

static int remote_ring(struct vhost_session *session, unsigned q, struct vhost_ring *ring,
                       struct dt_error *err)
{
    struct vhost_remote *r = remote_of(session);
    struct remote_queue *queue = &r->queues[q];
    int rc;

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(q < r->config.queues && queue->started);
    *ring = (struct vhost_ring){
        .kick = queue->kick, .call = queue->call, .recover = queue->recover};
    rc = vhost_ring_config(&queue->state, r->features, &r->memory, &ring->config, err);
    if (rc == 0)
        rc = vhost_ring_base(&queue->state, ring->config.packed, &ring->base, err);
    if (rc < 0)
        return rc;
    if ((r->features & BIT(VHOST_FEATURE_LOG_ALL)) && r->dirty.bits) {
        ring->config.dirty = &r->dirty;
        ring->config.log_used = queue->state.log_addr;
        ring->config.log_used_valid = queue->state.log_used;
    }
    ring->config.innocent = queue->innocent;
    ring->config.inflight = queue_log(r, q, ring->config.packed);
    if (!ring->config.inflight)
        return dt_fail(err, -EINVAL, "ring %u does not fit the in-flight region", q);
    return 0;
}

static int remote_kick_fd(const struct vhost_session *session, unsigned q)
{
    return READ_ONCE(remote_of(session)->queues[q].kick);
}

static int remote_call_fd(const struct vhost_session *session, unsigned q)
{
    return READ_ONCE(remote_of(session)->queues[q].call);
}

static void remote_queue_stopped(struct vhost_session *session, unsigned q, uint32_t base)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_QUEUE_STOPPED, .answer = {q, base}};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->queues[q].stopping);
    KILL_POINT("ring-stopped");
    r->queues[q].started = r->queues[q].stopping = false;
    close_fd(&r->queues[q].old_kick);
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        send(r, &m);
}

static void remote_paused(struct vhost_session *session)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_PAUSED};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->pausing);
    r->pausing = false;
    r->paused = true;
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        send(r, &m);
}

static void remote_fail(struct vhost_session *session, const char *reason)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_FAULT};

    if (r->faulted)
        return;
    r->faulted = true; /* the first reason is the one that counts */
    snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, reason);
    send(r, &m);
}

static int remote_notify_config(struct vhost_session *session)
{
    vhost_remote_config_changed(remote_of(session));
    return 0;
}

static void remote_close(struct vhost_session *session)
{
    end_link(remote_of(session), "the worker ends");
}

static void remote_free(struct vhost_session *session)
{
    (void)session; /* the link outlives its sessions */
}

static bool remote_region(const struct vhost_session *session, unsigned i,
                          struct vhost_shared *shared)
{
    const struct vhost_remote *r = remote_of(session);

    if (i >= r->nregions)
        return false;
    shared->at = r->regions[i].at;
    shared->fd = r->regions[i].fd;
    shared->host = memmap_host(&r->memory, shared->at.gpa, shared->at.size);
    return true;
}

static bool remote_inflight(const struct vhost_session *session, struct vhost_inflight *region,
                            int *fd)
{
    const struct vhost_remote *r = remote_of(session);

    *region = r->inflight;
    *fd = r->inflight_fd;
    return *fd >= 0;
}

static void remote_iotlb_done(struct vhost_session *session, int result)
{
    struct vhost_remote *r = remote_of(session);
    struct link_message m = {.type = LINK_IOTLB_DONE, .u32 = result < 0};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(r->translating);
    r->translating = false;
    if (r->ending)
        loop_defer(r->config.loop, &r->end);
    else
        send(r, &m);
}

static int remote_iotlb_miss(struct vhost_session *session, uint64_t iova, unsigned access)
{
    struct link_message m = {.type = LINK_IOTLB_MISS};

    m.iotlb = (struct vhost_iotlb){
        .iova = iova, .access = (uint8_t)access, .type = VHOST_IOTLB_MISS};
    send(remote_of(session), &m);
    return 0;
}

static const struct vhost_session_ops remote_session_ops = {
    .ring = remote_ring,
    .kick_fd = remote_kick_fd,
    .call_fd = remote_call_fd,
    .queue_stopped = remote_queue_stopped,
    .paused = remote_paused,
    .fail = remote_fail,
    .notify_config = remote_notify_config,
    .close = remote_close,
    .free = remote_free,
    .region = remote_region,
    .inflight = remote_inflight,
    .iotlb_done = remote_iotlb_done,
    .iotlb_miss = remote_iotlb_miss,
};

/* ---- Messages ------------------------------------------------------------------------------------- */

/* Each returns NULL, or what is wrong. */
typedef const char *remote_step(struct vhost_remote *r, struct link_message *m);

static bool memory_quiet(const struct vhost_remote *r)
{
    return r->paused || !any_ring(r);
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
    if (changed && any_ring(r))
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
        r->config.ops->set_config(r->config.dev, m->config.data, m->config.offset,
                                  m->config.size) < 0)
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

    if (any_ring(r))
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
        remote_fail(&r->session, text);
        return NULL;
    }
    /* The driver may have kicked, or waited for a call, while nobody was here. */
    backend_signal(queue->kick);
    backend_signal(queue->call);
    KILL_POINT("ring-started");
    answer.answer.index = m->queue.index;
    answer.answer.value = (uint32_t)rc;
    send(r, &answer);
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
        send(r, &answer);
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
    if (any_ring(r) || r->pausing || r->paused || r->translating)
        return "detached while a ring runs";
    forget_session(r);
    if (was_attached)
        r->config.ops->closed(r->config.dev, NULL);
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
    [LINK_IOTLB] = {on_iotlb},
};

static const char *on_message(struct vhost_remote *r, struct link_message *m)
{
    const struct remote_message *message = &messages[m->type];
    uint32_t index = message->index == 1 ? m->u32 : m->queue.index;

    if (!message->step || (!r->attached && !message->always))
        return "no front end is attached";
    if (message->index && index >= r->config.queues)
        return "a ring that does not exist";
    for (unsigned i = 0; (m->type == LINK_QUEUE_START || m->type == LINK_QUEUE_UPDATE ||
                          m->type == LINK_QUEUE_CALL) && i < m->nfds; i++)
        if (!vhost_fd_is_eventfd(m->fds[i]))
            return "a descriptor that is no eventfd";
    return message->step(r, m);
}

static void run_readable(struct dt_watch *watch, uint32_t events)
{
    struct vhost_remote *r = container_of(watch, struct vhost_remote, watch);
    struct link_message m;
    struct dt_error err;

    for (unsigned n = 0; n < LINK_PER_TURN && !r->ending; n++) {
        int rc = link_receive(r->config.sock, &m, false, &err);
        const char *wrong;

        if (rc == 0)
            return;
        if (rc < 0) {
            end_link(r, rc == -EPROTO ? err.text : "the keeper is gone");
            return;
        }
        wrong = on_message(r, &m);
        link_close_fds(&m);
        if (wrong) {
            dt_fail(&err, 0, "the keeper sent %s: %s", link_type_name(m.type), wrong);
            log_error("%s: %s", r->config.name, err.text);
            end_link(r, err.text);
        }
    }
}

/* ---- From outside --------------------------------------------------------------------------------- */

int vhost_remote_new(struct vhost_remote **out, const struct vhost_remote_config *config,
                     const struct link_floor *floor, struct dt_error *err)
{
    struct link_message m = {.type = LINK_FLOOR, .floor = *floor};
    struct vhost_remote *r = xcalloc(1, sizeof(*r));
    int rc;

    CHECK(config->queues >= 1 && config->queues <= VHOST_MAX_QUEUES);
    r->magic = REMOTE_MAGIC;
    r->session.ops = &remote_session_ops;
    r->config = *config;
    memmap_init(&r->memory);
    memmap_init(&r->log_map);
    memmap_init(&r->inflight_map);
    r->inflight_fd = -1;
    memmap_guard_install();
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++)
        r->queues[q].kick = r->queues[q].call = r->queues[q].old_kick = -1;
    r->end.run = run_end;
    r->watch = (struct dt_watch){.ready = run_readable, .fd = config->sock, .events = EPOLLIN};
    m.floor.version = LINK_VERSION;
    m.floor.queues = config->queues;
    rc = loop_watch_add(config->loop, &r->watch);
    if (rc < 0) {
        free(r);
        return dt_fail(err, rc, "cannot watch the link to a keeper: %s", strerror(-rc));
    }
    send(r, &m);
    *out = r;
    return 0;
}

void vhost_remote_config_changed(struct vhost_remote *r)
{
    struct link_message m = {.type = LINK_CONFIG_CHANGED};

    CHECK_MAGIC(r, REMOTE_MAGIC);
    m.config.size = VHOST_MAX_CONFIG;
    r->config.ops->get_config(r->config.dev, m.config.data, 0, VHOST_MAX_CONFIG);
    send(r, &m);
}

void vhost_remote_free(struct vhost_remote *r)
{
    if (!r)
        return;
    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(!r->attached && !any_ring(r));
    if (!r->ending)
        loop_watch_remove(r->config.loop, &r->watch);
    loop_defer_cancel(r->config.loop, &r->end);
    close_fd(&r->config.sock);
    r->magic = 0;
    free(r);
}
