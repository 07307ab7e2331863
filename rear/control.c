/* SPDX-License-Identifier: MIT */
/*
 * control.c - the control thread: a session with the rear, kept alive.
 *
 * Theory of operation: with a session it sleeps until the rear hangs up or speaks, a device's
 * thread found a lie, or guest memory changed; without one it tries to connect. Device threads are
 * told by orders, each of which is waited for, so that nobody uses what is freed. They never wait
 * for this thread: a rear that answers slowly delays its own requests alone.
 */
#include "rear/rear.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define RETRY_MS     100
#define RETRY_LIE_MS 300 /* what lied once will lie again, and each time costs a session */
#define TELL_MS      100 /* between changes of the device: others on its thread pay, too */

/* ---- Orders to the device's threads --------------------------------------------------------- */

static bool all_done(const struct rear *rear)
{
    for (unsigned t = 0; t < dt_layer_threads(rear->layer); t++)
        if (rear->lanes[t] && rear->lanes[t]->order != REAR_NONE)
            return false;
    return true;
}

/* Returns when every thread has carried it out, or has stopped. */
void rear_order_all(struct rear *rear, enum rear_order order)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&rear->lock);
    for (unsigned t = 0; t < dt_layer_threads(rear->layer); t++) {
        struct rear_lane *lane = rear->lanes[t];

        if (!lane)
            continue;
        lane->order = order;
        lane->order_part = rear->session.parts ? rear_session_part(rear, &rear->session, t) : NULL;
        lane->order_map = rear->session.shared;
        if (write(lane->mail.fd, &one, sizeof(one)) < 0)
            log_debug("%s: mail: %m", rear->path);
    }
    while (!all_done(rear))
        pthread_cond_wait(&rear->acknowledged, &rear->lock);
    pthread_mutex_unlock(&rear->lock);
}

/* ---- Begin and end of a session -------------------------------------------------------------- */

/* The newest guest memory, or what @map is. The one before is the caller's to free. */
static const struct rear_map *newest(struct rear *rear, const struct rear_map *map)
{
    const struct rear_map *next;

    pthread_mutex_lock(&rear->lock);
    next = rear->next_map;
    rear->next_map = NULL;
    pthread_mutex_unlock(&rear->lock);
    return next ? next : map;
}

static void take_memory(struct rear *rear)
{
    const struct rear_map *map = newest(rear, rear->map);

    if (map != rear->map) {
        rear_map_free(rear->map);
        rear->map = map;
    }
}

static void tell_of_change(struct rear *rear)
{
    if (!rear->changed)
        return;
    rear->changed = false;
    rear->told_at = dt_clock_ns();
    dt_layer_info_changed(rear->layer);
}

/* How long a change has to wait that the rear speaks of while it serves: 0 = no longer, -1 = there is none. */
static int until_told(const struct rear *rear)
{
    uint64_t since = dt_clock_ns() - rear->told_at;

    if (!rear->changed)
        return -1;
    return since < DT_MS(TELL_MS) ? (int)((DT_MS(TELL_MS) - since) / DT_MS(1)) + 1 : 0;
}

static int begin(struct rear *rear, struct dt_error *err)
{
    int ret = 0;

    if (!rear->session.frontend)
        ret = rear_session_connect(rear, &rear->session, true, err);
    if (ret < 0)
        return ret;
    take_memory(rear);
    ret = rear_session_begin(rear, &rear->session, rear->map, err);
    if (ret < 0) {
        rear_session_end(rear, &rear->session);
        return ret;
    }
    __atomic_store_n(&rear->lost, false, __ATOMIC_RELAXED);
    rear_order_all(rear, REAR_UP);
    tell_of_change(rear);
    return 0;
}

static void end(struct rear *rear)
{
    /* First the socket: a rear that lives takes nothing more from the rings. */
    if (rear->session.frontend)
        shutdown(vhost_frontend_socket(rear->session.frontend), SHUT_RDWR);
    rear_order_all(rear, REAR_DOWN);
    rear_session_end(rear, &rear->session);
    pthread_mutex_lock(&rear->lock);
    rear->faulted = false; /* a fault that nobody took yet was this session's */
    pthread_mutex_unlock(&rear->lock);
}

void rear_lose(struct rear *rear, const char *reason, bool lied)
{
    struct passthrough *p = rear->passthrough;

    rear->passthrough = NULL;
    rear->lost_at = dt_clock_ns();
    rear->lied = lied;
    __atomic_store_n(&rear->lost, true, __ATOMIC_RELAXED);
    rear->retry_ms = lied ? RETRY_LIE_MS : RETRY_MS;
    rear->complained = false;
    end(rear); /* said when it is so: no thread sends anything there any more */
    rear->changed |= rear->class->shows_loss;
    tell_of_change(rear);
    dt_layer_event(rear->layer, lied ? "rear-broken" : "rear-lost", "%s: %s: %s", rear->path,
                   reason, rear->class->while_lost(rear));
    if (p)
        p->left(p, -ECONNRESET, reason);
}

static void try_again(struct rear *rear)
{
    struct dt_error err;

    if (begin(rear, &err) == 0 && !rear->lost_at) {
        dt_layer_event(rear->layer, "rear-there", "%s: a back end connected, and serves",
                       rear->path);
    } else if (rear->session.frontend) {
        dt_layer_event(rear->layer, "rear-back", "%s serves again after %.1f s", rear->path,
                       (double)(dt_clock_ns() - rear->lost_at) / 1e9);
    } else if (!rear->complained) {
        rear->complained = true; /* once: it is tried ten times a second */
        log_warning("%s: %s: %s", dt_layer_device(rear->layer), rear->path, err.text);
    }
    if (!rear->session.frontend)
        rear->retry_ms = RETRY_MS;
}

/* ---- What may happen ------------------------------------------------------------------------- */

static bool take_fault(struct rear *rear, char *fault, size_t size)
{
    bool faulted;

    pthread_mutex_lock(&rear->lock);
    faulted = rear->faulted;
    rear->faulted = false;
    snprintf(fault, size, "%s", rear->fault);
    pthread_mutex_unlock(&rear->lock);
    return faulted;
}

static void on_memory(struct rear *rear)
{
    const struct rear_map *map = newest(rear, rear->map);
    struct rear_session *s = &rear->session;
    struct dt_error err = {"guest memory appeared where the rings are"};
    int ret = 0;

    if (map == rear->map)
        return;
    if (rear->class->shares_memory)
        ret = rear_session_share(s, map, &err);
    else if (!rear_session_clear_of(s, map))
        ret = -EADDRINUSE;
    if (ret < 0)
        rear_lose(rear, err.text, false);
    else if (rear->class->shares_memory)
        rear_order_all(rear, REAR_REMAP);
    rear_map_free(rear->map);
    rear->map = map;
}

static void on_event(struct rear *rear)
{
    bool changed = false;
    struct dt_error err;

    if (vhost_frontend_events(rear->session.frontend, &changed) < 0) {
        rear_lose(rear, "the connection ended", false);
        return;
    }
    if (!changed)
        return;
    if (rear->class->agreed(rear, &rear->session, true, &err) < 0)
        rear_lose(rear, err.text, true);
}

static void on_wish(struct rear *rear)
{
    struct passthrough *p;
    enum rear_wish wish;

    pthread_mutex_lock(&rear->lock);
    wish = rear->wish;
    p = rear->wish_rings;
    rear->wish = REAR_CONTENT;
    pthread_mutex_unlock(&rear->lock);
    if (wish == REAR_ENTER)
        rear_passthrough_enter(rear, p);
    else if (wish == REAR_LEAVE)
        rear_passthrough_leave(rear);
}

/* false: somebody woke us, and that was all. */
static bool wait_for(struct rear *rear, struct pollfd *p, unsigned n, int timeout_ms)
{
    uint64_t count;

    p[0] = (struct pollfd){.fd = rear->wake, .events = POLLIN};
    poll(p, n, timeout_ms);
    if (p[0].revents && read(rear->wake, &count, sizeof(count)) < 0)
        return false;
    return !__atomic_load_n(&rear->quit, __ATOMIC_ACQUIRE);
}

/* Without a session. Who listens does so after the same pause, and then for as long as it takes. */
static void look_for_one(struct rear *rear)
{
    bool listens = rear->listen && rear->retry_ms < 0;
    struct pollfd p[2] = {[1] = {.fd = rear->listener, .events = POLLIN}};

    if (!wait_for(rear, p, listens ? 2 : 1, rear->retry_ms))
        return;
    on_wish(rear);
    if (listens ? p[1].revents : !p[0].revents && !rear->listen)
        try_again(rear);
    else if (!p[0].revents)
        rear->retry_ms = -1;
}

static void serve(struct rear *rear)
{
    struct vhost_frontend *f = rear->session.frontend;
    char fault[sizeof(rear->fault)];
    struct pollfd p[4] = {[1] = {.fd = vhost_frontend_socket(f), .events = POLLIN},
                          [2] = {.fd = vhost_frontend_backend_fd(f), .events = POLLIN},
                          [3] = {.fd = rear->heard ? rear->aside : -1, .events = POLLIN}};

    if (!wait_for(rear, p, 4, until_told(rear)))
        return;
    if (p[3].revents)
        rear->heard(rear);
    if (take_fault(rear, fault, sizeof(fault)))
        rear_lose(rear, fault, true);
    else if (p[1].revents & POLLIN && !(p[1].revents & (POLLHUP | POLLERR)))
        rear_lose(rear, "it spoke without being asked", true);
    else if (p[1].revents || p[2].revents)
        on_event(rear);
    if (until_told(rear) == 0)
        tell_of_change(rear);
    if (rear->session.frontend)
        on_memory(rear);
    on_wish(rear);
}

static void *control_thread(void *arg)
{
    struct rear *rear = arg;
    struct dt_error err;

    if (!rear->listen && begin(rear, &err) < 0)
        rear_lose(rear, err.text, false);
    while (!__atomic_load_n(&rear->quit, __ATOMIC_ACQUIRE)) {
        if (rear->session.frontend)
            serve(rear);
        else
            look_for_one(rear);
    }
    end(rear);
    return NULL;
}

/* ---- From outside ---------------------------------------------------------------------------- */

void rear_control_wake(struct rear *rear)
{
    const uint64_t one = 1;

    if (write(rear->wake, &one, sizeof(one)) < 0)
        log_debug("%s: wake: %m", rear->path);
}

void rear_fault(struct rear *rear, const char *fmt, ...)
{
    va_list args;

    pthread_mutex_lock(&rear->lock);
    if (!rear->faulted) { /* the first one counts */
        rear->faulted = true;
        va_start(args, fmt);
        vsnprintf(rear->fault, sizeof(rear->fault), fmt, args);
        va_end(args);
    }
    pthread_mutex_unlock(&rear->lock);
    rear_control_wake(rear);
}

int rear_control_start(struct rear *rear)
{
    int ret = -pthread_create(&rear->thread, NULL, control_thread, rear);

    rear->running = ret == 0;
    return ret;
}

void rear_control_stop(struct rear *rear)
{
    if (!rear->running)
        return;
    __atomic_store_n(&rear->quit, true, __ATOMIC_RELEASE);
    rear_control_wake(rear);
    pthread_join(rear->thread, NULL);
    rear->running = false;
}
