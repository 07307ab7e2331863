/* SPDX-License-Identifier: MIT */
/*
 * nbd.c - the back `nbd`: a disk on an NBD server, by libnbd.
 *
 * Theory of operation: each thread has connections of its own, so nothing is locked; several
 * connections to one disk are only made where the server promises that a flush on one covers
 * what was written by all (multi-conn). Everything is asynchronous: libnbd's state machine is
 * driven by a watch on its socket (conn.c), requests are its commands (request.c).
 *
 * A lost connection costs no request: what was under way is sent again over the next one. Two
 * things can then go wrong that NBD itself has no remedy for, and both are the user's to judge: a
 * server may still execute a write of the lost connection after a later write to the same place
 * (hence fence-delay), and one that crashed may have lost writes that it had acknowledged and no
 * flush had covered (hence lost-cache).
 *
 * The first connections are made in open(), unless the server is away and a process before has left word of what
 * the disk is; later ones over sockets that core hands over, since a confined
 * process can make none. TLS is spoken by threads beside the device's (tls.c).
 */
#include "blk/nbd/internal.h"

#include <netdb.h>
#include <stdio.h>
#include <time.h>

static const char *const lost_caches[] = {
    [LOST_CACHE_TRUST] = "trust", [LOST_CACHE_FAIL] = "fail", NULL};

#define FIELD(field) .offset = offsetof(struct remote, field)
static const struct dt_param params[] = {
    {"uri", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(text),
     .help = "nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; nbds for TLS."},
    {"connections", DT_PARAM_UINT, FIELD(connections), .initial = "4", .min = 1, .max = 16,
     .help = "For each thread; one alone where the server cannot share a disk (multi-conn)."},
    {"read-only", DT_PARAM_BOOL, FIELD(read_only), .initial = "off",
     .help = "Never write; the guest sees a read-only disk."},
    {"timeout", DT_PARAM_DURATION, DT_PARAM_LIVE, FIELD(timeout), .initial = "0s",
     .help = "How long a server may be away or silent before requests fail; 0 = they wait for it."},
    {"connect-timeout", DT_PARAM_DURATION, FIELD(connect_timeout), .initial = "0s",
     .max = DT_S(3600), .help = "How long the start waits for a server that is not there."},
    {"fence-delay", DT_PARAM_DURATION, DT_PARAM_LIVE, FIELD(fence_delay), .initial = "500ms",
     .max = DT_S(30),
     .help = "By then the server has executed, or never will, what a lost connection had sent."},
    {"lost-cache", DT_PARAM_ENUM, DT_PARAM_LIVE, FIELD(lost_cache), .initial = "trust",
     .choices = lost_caches,
     .help =
         "After a loss with writes that no flush covered: trust that the server has them still, "
         "or fail flushes from then on."},
    {NULL},
};

static const struct dt_counter counters[] = {
    [COPIED] = {"copied", "requests", "Requests with data in several pieces, copied into one."},
    [HELD] = {"held", "requests", "Requests that found no connection and waited."},
    [RESENT] = {"resent", "requests", "Requests sent again because their connection was lost."},
    [CONNECTS] = {"connects", "connections", "Connections that came up."},
    {NULL},
};

/* ---- Life ------------------------------------------------------------------------------------ */

static void hang_up_all(struct remote *r)
{
    for (unsigned i = 0; r->handles && i < r->connections * dt_layer_threads(r->layer); i++)
        remote_hang_up(TAKE_PTR(r->handles[i]));
}

static void remote_close(struct dt_layer *layer)
{
    struct remote *r = dt_layer_data(layer);

    hang_up_all(r);
    free(r->handles);
    if (r->addresses)
        freeaddrinfo(r->addresses);
    tls_keys_free(r->keys);
    remote_uri_free(&r->uri);
}

/* The first one tells what the disk is, and whether there may be others. */
static int connect_all(struct remote *r, unsigned threads, struct dt_error *err)
{
    uint64_t deadline = dt_clock_ns() + r->connect_timeout;
    int ret = remote_connect(r, &r->handles[0], deadline, err);
    ret = ret ?: remote_learn(r, r->handles[0], err);
    if (ret < 0)
        return ret;
    if (!r->multi && threads > 1)
        return dt_fail(err, -EINVAL,
                       "%.120s: the server cannot share a disk between connections "
                       "(no multi-conn): give the device one thread, not %u",
                       r->text, threads);
    if (!r->multi)
        r->connections = 1;
    for (unsigned i = 1; ret == 0 && i < r->connections * threads; i++)
        ret = remote_connect(r, &r->handles[i], deadline, err);
    return ret;
}

/* One that is away is no failure yet: the process before may have known what the disk is (identity.c). */
static void find_server(struct remote *r)
{
    r->handles = xcalloc(r->connections * dt_layer_threads(r->layer), sizeof(*r->handles));
    r->failure =
        remote_resolve(r, &r->away) ?: connect_all(r, dt_layer_threads(r->layer), &r->away);
    r->known = r->failure == 0;
    if (r->known)
        dt_layer_state_changed(r->layer);
    else
        hang_up_all(r);
}

static int remote_open(struct dt_layer *layer, struct dt_error *err)
{
    struct remote *r = dt_layer_data(layer);
    int ret;

    r->layer = layer;
    ret = remote_uri_parse(&r->uri, r->text, err);
    if (ret == 0 && r->uri.tls)
        ret = tls_keys_load(&r->keys, &r->uri, err);
    ret = ret ?: remote_announce(r, err);
    if (ret < 0) {
        remote_close(layer);
        return ret;
    }
    find_server(r);
    return 0;
}

static int remote_info(struct dt_layer *layer, struct dt_block_info *info, struct dt_error *err)
{
    const struct remote *r = dt_layer_data(layer);

    if (!r->known)
        return dt_fail(err, r->failure, "%s", r->away.text);
    *info = r->info;
    return 0;
}

static int remote_start(struct dt_ctx *c, struct dt_error *err)
{
    struct remote *r = c->layer_data;
    struct remote_ctx *rc = c->data;
    int ret = remote_requests_init(rc, err);

    if (ret < 0)
        return ret;
    rc->c = c;
    rc->ask.fire = remote_ask;
    rc->count = (unsigned)r->connections;
    rc->conns = xcalloc(rc->count, sizeof(*rc->conns));
    for (unsigned i = 0; i < rc->count; i++)
        conn_init(&rc->conns[i], rc, TAKE_PTR(r->handles[c->thread * rc->count + i]));
    if (!rc->up)
        rc->down_since = dt_clock_ns();
    return 0;
}

static void remote_stop(struct dt_ctx *c)
{
    struct remote *r = c->layer_data;
    struct remote_ctx *rc = c->data;

    dt_timer_cancel(c, &rc->tick);
    dt_timer_cancel(c, &rc->ask);
    CHECK(!rc->question); /* who asks is who stops */
    for (unsigned i = 0; i < rc->count; i++)
        r->handles[c->thread * rc->count + i] = conn_fini(&rc->conns[i]);
    free(rc->conns);
    remote_requests_fini(rc);
    *rc = (struct remote_ctx){0};
}

/*
 * NBD knows no fence: a server does not say when the requests of a dead process's connections have
 * been executed. They were sent before that process died, so all that can be done is to wait.
 */
static int remote_fence(struct dt_layer *layer, uint64_t deadline, struct dt_error *err)
{
    const struct remote *r = dt_layer_data(layer);
    uint64_t end = dt_clock_ns() + r->fence_delay;
    struct timespec at = {.tv_sec = (time_t)(end / DT_S(1)), .tv_nsec = (long)(end % DT_S(1))};

    if (r->info.read_only)
        return 0;
    if (end > deadline)
        return dt_fail(err, -ETIMEDOUT, "fence-delay is longer than a start may take");
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
    return 0;
}

/* ---- Commands -------------------------------------------------------------------------------- */

static int do_status(struct dt_layer *layer, int argc, const char *const *argv,
                     struct dt_reply *reply, struct dt_error *err)
{
    static const char *const states[] = {"down", "connecting", "up"};
    const struct remote *r = dt_layer_data(layer);

    for (unsigned t = 0; t < dt_layer_threads(layer); t++) {
        const struct dt_ctx *c = dt_layer_ctx(layer, t);
        const struct remote_ctx *rc = c ? c->data : NULL;

        for (unsigned i = 0; rc && i < rc->count; i++) {
            _cleanup_free_ char *key = xasprintf("connection-%u", t * rc->count + i + 1);

            dt_reply(reply, key, "%s, %u under way", states[rc->conns[i].state],
                     __atomic_load_n(&rc->conns[i].in_flight, __ATOMIC_RELAXED));
        }
        if (rc)
            dt_reply_u64(reply, dt_layer_threads(layer) > 1 ? "waiting-of-a-thread" : "waiting",
                         rc->pending.count + rc->fenced.count);
    }
    dt_reply(reply, "multi-conn", "%s", r->multi ? "yes" : "no");
    dt_reply(reply, "fua", "%s", r->fua ? "yes" : "no");
    dt_reply(reply, "maps", "%s", r->maps ? "yes" : "no");
    dt_reply(reply, "tls", "%s", r->uri.tls ? "yes" : "no");
    return 0;
}

static const struct dt_verb verbs[] = {
    {"status", "", "Show the connections, and what the server can do.", do_status},
    {NULL},
};

const struct dt_block_ext blk_nbd = {
    DT_BLOCK_EXT_HEADER,
    .name = "nbd",
    .summary = "A disk on an NBD server",
    .help = "By Unix socket, TCP or TLS, over several connections where the server allows it. When "
            "the server goes away requests wait, and are sent again when it is back.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_STATE_OF_RUN,
    .read_data = DT_DATA_PEEK,
    .write_data = DT_DATA_PEEK,
    .params = params,
    .counters = counters,
    .verbs = verbs,
    .layer_size = sizeof(struct remote),
    .ctx_size = sizeof(struct remote_ctx),
    .frame_size = sizeof(struct remote_io),
    .state_version = 1,
    .open = remote_open,
    .close = remote_close,
    .start = remote_start,
    .stop = remote_stop,
    .info = remote_info,
    .submit = remote_submit,
    .quiesce = remote_quiesce,
    .cancel = remote_cancel,
    .fence = remote_fence,
    .save = remote_save,
    .load = remote_load,
    .status = remote_status,
};
