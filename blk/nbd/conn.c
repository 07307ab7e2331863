/* SPDX-License-Identifier: MIT */
/*
 * conn.c - connections at work: readiness, loss, and coming back.
 *
 * A connection is DOWN (a timer tries again), CONNECTING (libnbd negotiates, driven by the watch),
 * or UP. Each keeps the list of what it was asked; when it is lost, all of that goes back to the
 * requests' own lists and is sent again over another. The memory of requests is touched by libnbd
 * until nbd_close() has returned, and not after.
 */
#include "blk/nbd/internal.h"

#include <stdio.h>
#include <sys/epoll.h>

#define CONNECT_NS      DT_S(10)
#define BACKOFF_LEAST   DT_MS(20)
#define BACKOFF_MOST    DT_S(1)
#define BACKOFF_REFUSED DT_MS(100)
#define USELESS_TRIES   3u

static void unwatch(struct conn *conn)
{
    if (conn->watched)
        dt_watch_remove(conn->rc->c, &conn->watch);
    conn->watched = false;
}

/* What libnbd waits for may be another direction after each call. */
static void rewatch(struct conn *conn)
{
    unsigned direction = nbd_aio_get_direction(conn->h);
    uint32_t events = EPOLLIN; /* an end is noticed even while nothing is expected */

    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        events |= EPOLLOUT;
    if (conn->watched && conn->watch.events == events)
        return;
    unwatch(conn);
    conn->watch.events = events;
    conn->watch.fd = nbd_aio_get_fd(conn->h);
    if (conn->watch.fd >= 0 && dt_watch_add(conn->rc->c, &conn->watch) == 0)
        conn->watched = true;
}

static void retry_later(struct conn *conn)
{
    conn->state = CONN_DOWN;
    dt_timer_set(conn->rc->c, &conn->timer, dt_clock_ns() + conn->backoff);
    conn->backoff = MIN(MAX(conn->backoff * 2, BACKOFF_LEAST), BACKOFF_MOST);
}

static void drop(struct conn *conn)
{
    dt_layer_connect_cancel(&conn->op);
    unwatch(conn);
    if (conn->h)
        remote_drop(TAKE_PTR(conn->h));
}

/* ---- Up and down ----------------------------------------------------------------------------- */

static void is_up(struct conn *conn)
{
    struct remote_ctx *rc = conn->rc;
    struct remote *r = rc->c->layer_data;
    struct dt_error err;

    if (remote_same(r, conn->h, &err) < 0) {
        dt_layer_event(r->layer, "server-changed",
                       "%.120s is not the disk it was: %s; requests are held until it is again",
                       r->text, err.text);
        drop(conn);
        conn->backoff = BACKOFF_MOST;
        retry_later(conn);
        return;
    }
    dt_timer_cancel(rc->c, &conn->timer);
    conn->state = CONN_UP;
    conn->useless = 0;
    __atomic_store_n(&r->told, false, __ATOMIC_RELAXED);
    dt_count(rc->c, CONNECTS, 1);
    if (rc->up++ == 0 && rc->down_since) {
        dt_layer_event(r->layer, "reconnected", "%.120s is back after %llu ms", r->text,
                       (unsigned long long)((dt_clock_ns() - rc->down_since) / DT_MS(1)));
        rc->down_since = 0;
    }
    remote_drain(rc);
}

/* Writes that no flush covered may have been in the memory of a server that is gone. */
static void judge_cache(struct remote *r)
{
    uint64_t written = __atomic_load_n(&r->written, __ATOMIC_ACQUIRE);

    if (r->lost_cache != LOST_CACHE_FAIL || !r->info.can_flush ||
        written == __atomic_load_n(&r->flushed, __ATOMIC_ACQUIRE))
        return;
    if (!__atomic_exchange_n(&r->flush_failed, true, __ATOMIC_RELAXED))
        dt_layer_event(
            r->layer, "cache-lost",
            "%.120s was lost with writes that no flush covered: flushes fail from now on "
            "(lost-cache=fail)",
            r->text);
}

/* A server that is away needs no word but the first. One that is there and of no use does: somebody can
 * do something about it. But one that dies breaks the connections that nobody had accepted, too. */
static void tell_useless(struct conn *conn, const char *why)
{
    struct remote *r = conn->rc->c->layer_data;

    if (++conn->useless >= USELESS_TRIES && !__atomic_exchange_n(&r->told, true, __ATOMIC_RELAXED))
        dt_layer_event(r->layer, "server-useless",
                       "%.120s: %s; requests are held and it is tried again", r->text, why);
}

void conn_lost(struct conn *conn, const char *why)
{
    struct remote_ctx *rc = conn->rc;
    struct remote *r = rc->c->layer_data;
    bool was_up = conn->state == CONN_UP;
    char reason[240];

    snprintf(reason, sizeof(reason), "%s", why);
    if (!was_up && conn->h)
        tell_useless(conn, reason);
    drop(conn);
    if (was_up && --rc->up == 0) {
        rc->down_since = dt_clock_ns();
        dt_layer_event(r->layer, "disconnected",
                       "no connection to %.120s (%s): requests are held and it is tried again",
                       r->text, reason);
    }
    if (was_up)
        judge_cache(r);
    retry_later(conn);
    conn->in_flight = 0;
    while (!list_empty(&conn->sent)) {
        struct remote_io *io = list_entry(conn->sent.next, struct remote_io, node);

        list_del(&io->node);
        remote_take_back(io);
    }
    remote_drain(rc); /* another connection may do */
}

void conn_refused(struct conn *conn)
{
    if (conn->state != CONN_UP)
        return;
    conn->backoff = BACKOFF_REFUSED;
    conn_lost(conn, "the server is shutting down");
}

static void negotiate(struct conn *conn, int fd)
{
    struct remote *r = conn->rc->c->layer_data;
    struct dt_error err;
    int ret = remote_dial(r, fd, &conn->h, &err);

    if (ret < 0) {
        tell_useless(conn, err.text);
        retry_later(conn);
        return;
    }
    conn->state = CONN_CONNECTING;
    dt_timer_set(conn->rc->c, &conn->timer, dt_clock_ns() + CONNECT_NS);
    conn_settle(conn);
}

static void connected(struct dt_connect *op, int result)
{
    struct conn *conn = container_of(op, struct conn, op);

    if (result >= 0) {
        negotiate(conn, result);
        return;
    }
    conn->useless = 0;
    retry_later(conn);
}

static void connect_begin(struct conn *conn)
{
    struct remote *r = conn->rc->c->layer_data;

    conn->state = CONN_CONNECTING; /* its time is limited */
    conn->op = (struct dt_connect){.done = connected, .address = r->address};
    dt_layer_connect(conn->rc->c, &conn->op);
}

static void timer_fired(struct dt_timer *timer)
{
    struct conn *conn = container_of(timer, struct conn, timer);

    if (conn->state == CONN_DOWN)
        connect_begin(conn);
    else if (conn->state == CONN_CONNECTING)
        conn_lost(conn, "it does not answer");
}

void conn_settle(struct conn *conn)
{
    if (!conn->h)
        return;
    if (nbd_aio_is_dead(conn->h) || nbd_aio_is_closed(conn->h)) {
        conn_lost(conn, remote_reason(conn->h));
        return;
    }
    rewatch(conn);
    if (conn->state == CONN_CONNECTING && nbd_aio_is_ready(conn->h))
        is_up(conn);
}

/* ---- Readiness ------------------------------------------------------------------------------- */

static void ready(struct dt_watch *watch, uint32_t events)
{
    struct conn *conn = container_of(watch, struct conn, watch);
    struct remote_ctx *rc = conn->rc;
    unsigned direction = nbd_aio_get_direction(conn->h);

    if ((events & EPOLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
        nbd_aio_notify_write(conn->h);
    else if (direction & LIBNBD_AIO_DIRECTION_READ)
        nbd_aio_notify_read(conn->h);
    /* One call handles one reply. To tell it of another that is not there would make it wait for
     * that before it sends anything, so libnbd looks itself; it also sees what TLS has buffered. */
    while (conn->in_flight && nbd_poll(conn->h, 0) > 0)
        ;
    if (rc->done.count) {
        conn->progress = dt_now(rc->c);
        conn->backoff = 0;
    }
    conn_settle(conn);
    remote_hand_up(rc);
}

struct conn *conn_pick(struct remote_ctx *rc)
{
    for (unsigned i = 0; i < rc->count && rc->up; i++) {
        struct conn *conn = &rc->conns[rc->next++ % rc->count];

        if (conn->state == CONN_UP)
            return conn;
    }
    return NULL;
}

void conn_init(struct conn *conn, struct remote_ctx *rc, struct nbd_handle *h)
{
    *conn = (struct conn){.rc = rc, .h = h, .watch.ready = ready, .timer.fire = timer_fired};
    list_init(&conn->sent);
    if (h && nbd_aio_is_ready(h)) {
        conn->state = CONN_UP;
        rc->up++;
        dt_count(rc->c, CONNECTS, 1);
        rewatch(conn);
        return;
    }
    drop(conn);
    retry_later(conn);
}

/* The handle stays as it is, for whoever starts next; NULL if there is none. */
struct nbd_handle *conn_fini(struct conn *conn)
{
    CHECK(list_empty(&conn->sent));
    dt_timer_cancel(conn->rc->c, &conn->timer);
    dt_layer_connect_cancel(&conn->op);
    unwatch(conn);
    return TAKE_PTR(conn->h);
}
