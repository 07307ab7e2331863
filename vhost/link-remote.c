/* SPDX-License-Identifier: MIT */
/*
 * link-remote.c - the worker's end: a session whose protocol is spoken by a keeper.
 *
 * Theory of operation: the keeper's messages become the device's operations, in the order in which
 * they come (link-remote-messages.c); the device's answers go back as messages
 * (link-remote-session.c). The end of the link ends the session as the end of a connection would: a
 * pause under way is waited for, then every ring is stopped, then the memory goes.
 */
#include "vhost/link-remote.h"

#include <stdio.h>
#include <sys/epoll.h>

#define LINK_WAIT_MS  2000
#define LINK_PER_TURN 64
#define CONFIG_PAUSE  DT_MS(100)

void vremote_end(struct vhost_remote *r, const char *reason)
{
    if (r->ending)
        return;
    r->ending = true;
    snprintf(r->reason, sizeof(r->reason), "%.*s", (int)sizeof(r->reason) - 1, reason);
    loop_watch_remove(r->config.loop, &r->watch);
    loop_timer_cancel(r->config.loop, &r->config_pause);
    loop_defer(r->config.loop, &r->end);
}

void vremote_send(struct vhost_remote *r, struct link_message *m)
{
    int rc;

    if (r->ending)
        return;
    rc = link_send(r->config.sock, m, LINK_WAIT_MS);
    if (rc < 0)
        vremote_end(r, "the keeper is gone");
}

void vremote_forget(struct vhost_remote *r)
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
    if (vremote_any_ring(r))
        return;
    vremote_forget(r);
    close_fd(&r->config.sock);
    if (was_attached)
        r->config.ops->closed(r->config.dev, r->reason);
    r->config.lost(r->config.dev, r->reason);
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
            vremote_end(r, rc == -EPROTO ? err.text : "the keeper is gone");
            return;
        }
        wrong = vremote_message(r, &m);
        link_close_fds(&m);
        if (wrong) {
            dt_fail(&err, 0, "the keeper sent %s: %s", link_type_name(m.type), wrong);
            log_error("%s: %s", r->config.name, err.text);
            vremote_end(r, err.text);
        }
    }
}

/*
 * The newest is what counts, and a device's back may change it as often as it likes: ten a second at most, and a keeper that
 * reads none just now gets it later. Nobody waits for that.
 */
static void send_config(struct vhost_remote *r)
{
    struct link_message m = {.type = LINK_CONFIG_CHANGED};
    int rc;

    m.config.size = VHOST_MAX_CONFIG;
    r->config.ops->get_config(r->config.dev, m.config.data, 0, VHOST_MAX_CONFIG);
    rc = link_send(r->config.sock, &m, 0);
    r->config_due = rc == -ETIMEDOUT;
    if (rc < 0 && !r->config_due)
        vremote_end(r, "the keeper is gone");
    else
        loop_timer_set(r->config.loop, &r->config_pause, dt_clock_ns() + CONFIG_PAUSE);
}

static void run_config_pause(struct dt_timer *timer)
{
    struct vhost_remote *r = container_of(timer, struct vhost_remote, config_pause);

    if (r->config_due)
        send_config(r);
}

/* ---- From outside ---------------------------------------------------------------------------- */

int vhost_remote_new(struct vhost_remote **out, const struct vhost_remote_config *config,
                     const struct link_floor *floor, struct dt_error *err)
{
    struct link_message m = {.type = LINK_FLOOR, .floor = *floor};
    struct vhost_remote *r = xcalloc(1, sizeof(*r));
    int rc;

    CHECK(config->queues >= 1 && config->queues <= VHOST_MAX_QUEUES);
    r->magic = REMOTE_MAGIC;
    r->session.ops = &vremote_session_ops;
    r->config = *config;
    memmap_init(&r->memory);
    memmap_init(&r->log_map);
    memmap_init(&r->inflight_map);
    r->inflight_fd = -1;
    memmap_guard_install();
    for (unsigned q = 0; q < VHOST_MAX_QUEUES; q++)
        r->queues[q].kick = r->queues[q].call = r->queues[q].old_kick = -1;
    r->end.run = run_end;
    r->config_pause.fire = run_config_pause;
    r->watch = (struct dt_watch){.ready = run_readable, .fd = config->sock, .events = EPOLLIN};
    m.floor.version = LINK_VERSION;
    m.floor.queues = config->queues;
    rc = loop_watch_add(config->loop, &r->watch);
    if (rc < 0) {
        free(r);
        return dt_fail(err, rc, "cannot watch the link to a keeper: %s", strerror(-rc));
    }
    vremote_send(r, &m);
    *out = r;
    return 0;
}

void vhost_remote_config_changed(struct vhost_remote *r)
{
    CHECK_MAGIC(r, REMOTE_MAGIC);
    if (r->ending)
        return;
    if (r->config_pause.heap_index)
        r->config_due = true;
    else
        send_config(r);
}

void vhost_remote_free(struct vhost_remote *r)
{
    if (!r)
        return;
    CHECK_MAGIC(r, REMOTE_MAGIC);
    CHECK(!r->attached && !vremote_any_ring(r));
    if (!r->ending)
        loop_watch_remove(r->config.loop, &r->watch);
    loop_defer_cancel(r->config.loop, &r->end);
    loop_timer_cancel(r->config.loop, &r->config_pause);
    close_fd(&r->config.sock);
    r->magic = 0;
    free(r);
}
