/* SPDX-License-Identifier: MIT */
/*
 * link-proxy.c - the keeper's end: workers come and go, the session stays.
 *
 * Theory of operation: the session calls the device's operations as if the device were here
 * (link-proxy-ops.c). What it asked for is noted for each ring, so that a successor can be brought to
 * where the predecessor was: a ring that was started is started with "recover", and stopped if
 * that was asked; a pause that was waited for is asked for again. A worker's answer counts only
 * where a question is open.
 *
 * Whoever gives us a new link vouches that the worker before is dead.
 */
#include "vhost/link-internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>

#define LINK_MESSAGES_PER_TURN 64

/* ---- Telling the owner ------------------------------------------------------------------------ */

void vproxy_tell(struct vhost_proxy *p, bool *what)
{
    *what = true;
    loop_defer(p->loop, &p->tell);
}

static bool take(bool *what)
{
    bool was = *what;

    *what = false;
    return was;
}

static void lose_link(struct vhost_proxy *p)
{
    loop_watch_remove(p->loop, &p->watch);
    close_fd(&p->sock);
    p->ready = p->handed = p->pause_asked = p->translate_asked = p->broken = false;
    p->releasing = p->release_wanted = false;
    p->nknown = 0;
    p->known_log = p->known_inflight = 0;
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++)
        p->queues[q].given = p->queues[q].running = p->queues[q].asked = false;
    /* Nobody uses the memory now; only who asked for a drain waits for a successor to do it. */
    if (p->session && (vhost_backend_ending(p->session) || (p->pausing && !p->drain)))
        vproxy_answer_without(p);
    else
        vproxy_be_patient(p);
}

static void run_tell(struct loop_deferred *deferred)
{
    struct vhost_proxy *p = container_of(deferred, struct vhost_proxy, tell);

    if (take(&p->tell_ready)) {
        p->ops->ready(p->arg);
        vproxy_hand_over(p);
    }
    if (take(&p->tell_recovered))
        p->ops->recovered(p->arg, &p->recovery);
    if (take(&p->tell_released)) {
        struct link_message m = {.type = LINK_DETACH};

        if (p->session)
            vproxy_send(p, &m);
        p->lost_at = dt_clock_ns();
        lose_link(p);
        p->ops->released(p->arg);
    }
    if (take(&p->tell_lost) && p->sock >= 0) {
        if (p->lost_at == 0)
            p->lost_at = dt_clock_ns();
        lose_link(p);
        p->ops->lost(p->arg, p->reason[0] ? p->reason : NULL);
    }
}

void vproxy_fail(struct vhost_proxy *p, const char *fmt, ...)
{
    va_list args;

    if (p->broken || p->sock < 0)
        return;
    p->broken = true;
    p->reason[0] = '\0';
    if (fmt) {
        va_start(args, fmt);
        vsnprintf(p->reason, sizeof(p->reason), fmt, args);
        va_end(args);
    }
    vproxy_tell(p, &p->tell_lost);
}

void vproxy_send(struct vhost_proxy *p, struct link_message *m)
{
    int rc;

    if (!p->handed || p->broken)
        return;
    rc = link_send(p->sock, m, LINK_WAIT_MS);
    if (rc == -EPIPE || rc == -ECONNRESET)
        vproxy_fail(p, NULL);
    else if (rc < 0)
        vproxy_fail(p, "%s cannot be sent to the worker: %s", link_type_name(m->type),
                    strerror(-rc));
}

/* ---- The floor ---------------------------------------------------------------------------------- */

static int judge_floor(const struct vhost_proxy *p, const struct link_floor *floor,
                       struct dt_error *err)
{
    if (floor->version != LINK_VERSION)
        return dt_fail(err, -EPROTO, "the worker speaks version %u of the link, not %u",
                       floor->version, LINK_VERSION);
    if (floor->queues < 1 || floor->queues > VHOST_MAX_QUEUES)
        return dt_fail(err, -EPROTO, "the worker's device has %u queues", floor->queues);
    if (!p->have_floor)
        return 0;
    if (floor->queues != p->floor.queues || (p->floor.features & ~floor->features) ||
        floor->protocol_features != p->floor.protocol_features)
        return dt_fail(err, -EPROTO,
                       "the successor offers %u queues and features 0x%" PRIx64
                       "; the guest was promised %u and 0x%" PRIx64,
                       floor->queues, floor->features, p->floor.queues, p->floor.features);
    for (unsigned i = 0; i < VHOST_MAX_CONFIG; i++)
        if (floor->writable[i] != p->floor.writable[i] ||
            (p->floor.writable[i] == 0 && floor->config[i] != p->floor.config[i]))
            return dt_fail(err, -EPROTO,
                           "byte %u of the successor's configuration space is not what the "
                           "guest was promised",
                           i);
    return 0;
}

/* Live bytes follow the device, the driver's stay as it set them. Returns true where any changed. */
static bool follow_config(struct vhost_proxy *p, const uint8_t *config)
{
    bool changed = false;

    for (unsigned i = 0; i < VHOST_MAX_CONFIG; i++) {
        if (p->floor.writable[i] != LINK_CONFIG_LIVE || p->floor.config[i] == config[i])
            continue;
        p->floor.config[i] = config[i];
        changed = true;
    }
    return changed;
}

static void on_floor(struct vhost_proxy *p, const struct link_floor *floor)
{
    struct dt_error err = {""};

    if (p->ready || judge_floor(p, floor, &err) < 0) {
        vproxy_fail(p, "%s", p->ready ? "a second FLOOR" : err.text);
        return;
    }
    if (!p->have_floor)
        p->floor = *floor;
    else if (follow_config(p, floor->config) && p->session)
        vhost_backend_notify_config(p->session);
    memcpy(p->worker_config, floor->config, sizeof(p->worker_config));
    p->have_floor = true;
    p->nqueues = p->floor.queues;
    p->recovery.fence = floor->fence_ns;
    p->ready = true;
    vproxy_tell(p, &p->tell_ready);
}

static void on_config(struct vhost_proxy *p, const struct link_message *m)
{
    if (m->config.offset != 0 || m->config.size != VHOST_MAX_CONFIG)
        vproxy_fail(p, "CONFIG_CHANGED of %u bytes at %u", m->config.size, m->config.offset);
    else if (follow_config(p, m->config.data) && p->session)
        vhost_backend_notify_config(p->session);
}

/* ---- Answers -------------------------------------------------------------------------------------- */

static void all_run(struct vhost_proxy *p)
{
    for (unsigned q = 0; q < p->nqueues; q++)
        if (p->queues[q].given && !p->queues[q].running)
            return;
    if (p->lost_at == 0)
        return;
    p->recovery.pause = dt_clock_ns() - p->lost_at;
    p->lost_at = 0;
    vproxy_tell(p, &p->tell_recovered);
}

static void on_started(struct vhost_proxy *p, unsigned q, uint32_t replayed)
{
    struct proxy_queue *queue = &p->queues[q];

    if (queue->running || replayed > VIRTQ_MAX_SIZE) {
        vproxy_fail(p, "QUEUE_STARTED for ring %u, which runs, or with %u requests", q, replayed);
        return;
    }
    queue->running = true;
    p->recovery.replayed += replayed;
    all_run(p);
}

static void end_release(struct vhost_proxy *p)
{
    for (unsigned q = 0; q < p->nqueues; q++)
        if (p->queues[q].given)
            return;
    vproxy_tell(p, &p->tell_released);
}

static void on_stopped(struct vhost_proxy *p, unsigned q, uint32_t base)
{
    struct proxy_queue *queue = &p->queues[q];

    if (!queue->asked) {
        vproxy_fail(p, "QUEUE_STOPPED for ring %u, which was not asked to stop", q);
        return;
    }
    queue->given = queue->running = queue->asked = false;
    if (queue->stopping) {
        *queue = (struct proxy_queue){0};
        vhost_backend_queue_stopped(p->session, q, base);
    }
    if (p->releasing)
        end_release(p);
}

static void on_paused(struct vhost_proxy *p)
{
    if (!p->pause_asked) {
        vproxy_fail(p, "PAUSED, but no pause was asked for");
        return;
    }
    p->pause_asked = p->pausing = false;
    p->paused = true;
    vhost_backend_paused(p->session);
}

/* A worker that was captured may ask for what it likes: the front end bounds what it gives. */
static void on_iotlb(struct vhost_proxy *p, const struct link_message *m)
{
    int rc;

    if (m->type == LINK_IOTLB_DONE && !p->translate_asked) {
        vproxy_fail(p, "IOTLB_DONE, but nothing was asked");
    } else if (m->type == LINK_IOTLB_DONE) {
        vproxy_translated(p, m->u32 ? -EFAULT : 0);
    } else {
        rc = vhost_backend_iotlb_miss(p->session, m->iotlb.iova, m->iotlb.access);
        if (rc < 0)
            vhost_backend_break(p->session,
                                "the front end cannot be asked for the translation of 0x%" PRIx64
                                ": %s",
                                m->iotlb.iova, strerror(-rc));
    }
}

static void on_fault(struct vhost_proxy *p, struct link_message *m)
{
    m->text[sizeof(m->text) - 1] = '\0';
    for (char *c = m->text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    vhost_backend_break(p->session, "%s", m->text);
}

static bool of_ring(uint32_t type)
{
    return type == LINK_QUEUE_STARTED || type == LINK_QUEUE_STOPPED;
}

static void on_message(struct vhost_proxy *p, struct link_message *m)
{
    if (m->type != LINK_FLOOR && !p->ready) {
        vproxy_fail(p, "%s before FLOOR", link_type_name(m->type));
    } else if (m->type == LINK_FLOOR) {
        on_floor(p, &m->floor);
    } else if (m->type == LINK_CONFIG_CHANGED) {
        on_config(p, m);
    } else if (!p->handed) {
        /* Of a session that has ended: it crossed our DETACH. */
    } else if (of_ring(m->type) &&
               (m->answer.index >= p->nqueues || !p->queues[m->answer.index].given)) {
        vproxy_fail(p, "%s for ring %u, which the worker was not given", link_type_name(m->type),
                    m->answer.index);
    } else if (m->type == LINK_QUEUE_STARTED) {
        on_started(p, m->answer.index, m->answer.value);
    } else if (m->type == LINK_QUEUE_STOPPED) {
        on_stopped(p, m->answer.index, m->answer.value);
    } else if (m->type == LINK_PAUSED) {
        on_paused(p);
    } else if (m->type == LINK_IOTLB_DONE || m->type == LINK_IOTLB_MISS) {
        on_iotlb(p, m);
    } else {
        on_fault(p, m);
    }
}

static void run_readable(struct dt_watch *watch, uint32_t events)
{
    struct vhost_proxy *p = container_of(watch, struct vhost_proxy, watch);
    struct dt_error err = {""};
    struct link_message m;

    for (unsigned n = 0; n < LINK_MESSAGES_PER_TURN && !p->broken; n++) {
        int rc = link_receive(p->sock, &m, true, &err);

        if (rc == 0)
            return;
        if (rc > 0)
            on_message(p, &m);
        else
            vproxy_fail(p, rc == -EPROTO ? "%s" : NULL, err.text);
    }
}

/* ---- From outside ------------------------------------------------------------------------------------ */

static void run_impatience(struct dt_timer *timer)
{
    vproxy_answer_without(container_of(timer, struct vhost_proxy, impatience));
}

struct vhost_proxy *vhost_proxy_new(struct loop *loop, const char *name, uint64_t patience,
                                    const struct vhost_proxy_ops *ops, void *arg)
{
    struct vhost_proxy *p = xcalloc(1, sizeof(*p));

    p->magic = PROXY_MAGIC;
    p->loop = loop;
    p->name = xstrdup(name);
    p->patience = patience;
    p->ops = ops;
    p->arg = arg;
    p->sock = -1;
    p->tell.run = run_tell;
    p->impatience.fire = run_impatience;
    return p;
}

void vhost_proxy_free(struct vhost_proxy *p)
{
    if (!p)
        return;
    CHECK_MAGIC(p, PROXY_MAGIC);
    CHECK(!p->session);
    if (p->sock >= 0)
        lose_link(p);
    loop_defer_cancel(p->loop, &p->tell);
    loop_timer_cancel(p->loop, &p->impatience);
    p->magic = 0;
    free(p->name);
    free(p);
}

int vhost_proxy_link(struct vhost_proxy *p, int sock, bool innocent, struct dt_error *err)
{
    int rc;

    CHECK_MAGIC(p, PROXY_MAGIC);
    if (p->sock >= 0) {
        p->lost_at = p->lost_at ? p->lost_at : dt_clock_ns();
        lose_link(p); /* its end of life had not reached us yet */
    }
    p->watch = (struct dt_watch){.ready = run_readable, .fd = sock, .events = EPOLLIN};
    rc = loop_watch_add(p->loop, &p->watch);
    if (rc < 0)
        return dt_fail(err, rc, "cannot watch the link to a worker: %s", strerror(-rc));
    p->sock = sock;
    p->innocent = innocent;
    p->broken = p->tell_lost = false;
    return 0;
}

struct vhost_backend_config vproxy_backend_config(struct vhost_proxy *p)
{
    return (struct vhost_backend_config){
        .loop = p->loop,
        .sock = -1,
        .queues = p->nqueues,
        .protocol_features = p->floor.protocol_features,
        .keep_files = true,
        .name = p->name,
        .ops = &vproxy_device_ops,
        .dev = p,
    };
}

int vhost_proxy_attach(struct vhost_proxy *p, int sock, struct dt_error *err)
{
    struct vhost_backend_config config = vproxy_backend_config(p);
    int rc;

    CHECK_MAGIC(p, PROXY_MAGIC);
    CHECK(p->have_floor && !p->session);
    config.sock = sock;
    rc = vhost_backend_new(&p->session, &config, err);
    if (rc < 0)
        return rc;
    memset(p->queues, 0, sizeof(p->queues));
    p->lost_at = 0;
    vproxy_hand_over(p);
    return 0;
}

void vhost_proxy_close(struct vhost_proxy *p)
{
    CHECK_MAGIC(p, PROXY_MAGIC);
    if (p->session)
        vhost_backend_close(p->session);
}

void vhost_proxy_release(struct vhost_proxy *p)
{
    CHECK_MAGIC(p, PROXY_MAGIC);
    if (!p->ready || p->releasing)
        return;
    if (p->pausing || p->paused || p->translating) { /* a stop has no place within these */
        p->release_wanted = true;
        return;
    }
    p->releasing = true;
    for (unsigned q = 0; q < p->nqueues; q++) {
        struct link_message m = {.type = LINK_QUEUE_STOP, .u32 = q};

        if (!p->queues[q].given || p->queues[q].asked)
            continue;
        p->queues[q].asked = true;
        vproxy_send(p, &m);
    }
    end_release(p);
}

bool vhost_proxy_ready(const struct vhost_proxy *p)
{
    return p->have_floor;
}

bool vhost_proxy_linked(const struct vhost_proxy *p)
{
    return p->sock >= 0;
}

bool vhost_proxy_attached(const struct vhost_proxy *p)
{
    return p->session != NULL;
}

bool vhost_proxy_ending(const struct vhost_proxy *p)
{
    return p->session && vhost_backend_ending(p->session);
}
