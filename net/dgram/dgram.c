/* SPDX-License-Identifier: MIT */
/*
 * dgram.c - the back `dgram`: a frame in each datagram, as QEMU's dgram netdev has them.
 *
 * Theory of operation: over UDP there is one socket, bound here and connected to the peer, so that the kernel
 * passes what comes from the peer's address alone, and an unreachable peer is told of by errors, which mean
 * nothing for later datagrams.
 *
 * Over Unix sockets there are two. Ours is bound to a path and only read. The peer's path is one that a confined
 * process cannot see, and a socket that is connected to it stays so when the peer makes its path anew; so the
 * socket for sending comes from whoever connects for this process (dt_layer_connect()), again and again. A
 * queue of Unix datagrams is short (ten): what is sent waits where that is full.
 */
#include "base/listen.h"
#include "net/port/address.h"
#include "net/port/port.h"

#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

#define BACKOFF_LEAST DT_MS(20)
#define BACKOFF_MOST  DT_S(1)
#define BIND_TRIES    100u /* a second: a worker that died a moment ago may still have the port */
#define QUEUE_BYTES   (1 << 20) /* what may wait to be read, where the system allows it */

/** struct dgram - @fd: what we read. @path: it is a Unix socket; then @address is where the peer reads. */
struct dgram {
    const char *local, *remote;
    uint64_t mtu;
    int fd;
    bool path;
    char address[DT_ADDRESS_MAX];
};

/** struct dgram_ctx - @to: what we write to; -1 = no peer now. */
struct dgram_ctx {
    struct dt_ctx *c;
    struct port_in in;
    struct port_out out;
    int to;
    struct dt_connect op;
    struct dt_timer again;
    uint64_t backoff;
    bool complained;
};

#define FIELD(field) .offset = offsetof(struct dgram, field)
static const struct dt_param params[] = {
    {"local", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(local),
     .help = "udp:HOST:PORT or unix:PATH: where the peer sends to."},
    {"remote", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(remote),
     .help = "The same: where we send to. Over UDP nothing is taken from elsewhere."},
    {"mtu", DT_PARAM_UINT, FIELD(mtu), .initial = "1500", .unit = "bytes", .min = 68, .max = 65485,
     .help = "Largest network packet."},
    {NULL},
};

enum { TX_DOWN, TX_FULL, RX_SHORT, RX_LONG, RX_MEMORY };
static const struct dt_counter counters[] = {
    [TX_DOWN] = {"tx-down", "packets", "Dropped because there was no peer, or no way to it."},
    [TX_FULL] = {"tx-full", "packets", "Dropped because the peer took nothing for a second."},
    [RX_SHORT] = {"rx-short", "packets", "Dropped because they were no whole frame."},
    [RX_LONG] = {"rx-long", "packets", "Dropped because they were longer than any frame."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    {NULL},
};

/* ---- Opening ---- */

static const char *after(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);

    return strncmp(text, prefix, n) == 0 ? text + n : NULL;
}

static int bind_patiently(int fd, const struct addrinfo *a)
{
    for (unsigned i = 0; bind(fd, a->ai_addr, a->ai_addrlen) < 0; i++) {
        if (errno != EADDRINUSE || i == BIND_TRIES)
            return -errno;
        usleep(10000);
    }
    return 0;
}

static int join(const struct addrinfo *local, const struct addrinfo *remote)
{
    _cleanup_close_ int fd =
        socket(remote->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int ret = fd < 0 ? -errno : bind_patiently(fd, local);

    if (ret == 0 && connect(fd, remote->ai_addr, remote->ai_addrlen) < 0)
        ret = -errno;
    return ret < 0 ? ret : TAKE_FD(fd);
}

static int open_udp(struct dgram *d, const char *local, const char *remote, struct dt_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *to, *at;
    int ret = port_resolve(remote, &hints, &to, err);

    if (ret < 0)
        return ret;
    hints.ai_family = to->ai_family;
    hints.ai_flags |= AI_PASSIVE;
    ret = port_resolve(local, &hints, &at, err);
    if (ret == 0) {
        d->fd = ret = join(at, to);
        if (ret < 0)
            dt_fail(err, ret, "udp:%.120s to udp:%.120s: %s", local, remote, strerror(-ret));
        freeaddrinfo(at);
    }
    freeaddrinfo(to);
    return MIN(ret, 0);
}

static int open_unix(struct dt_layer *layer, const char *local, const char *remote,
                     struct dt_error *err)
{
    struct dgram *d = dt_layer_data(layer);
    int ret;

    d->path = true;
    if (snprintf(d->address, sizeof(d->address), "unix-dgram:%s", remote) >=
        (int)sizeof(d->address))
        return dt_fail(err, -EINVAL, "remote=: the path of a socket has 107 characters at most");
    ret = dt_layer_may_connect(layer, d->address, err);
    if (ret < 0)
        return ret;
    d->fd = bind_path(local, SOCK_DGRAM, -1, -1, 0600, LISTEN_PATIENCE_MS, err);
    return MIN(d->fd, 0);
}

static int dgram_open(struct dt_layer *layer, struct dt_error *err)
{
    struct dgram *d = dt_layer_data(layer);
    const char *udp[] = {after(d->local, "udp:"), after(d->remote, "udp:")};
    const char *path[] = {after(d->local, "unix:"), after(d->remote, "unix:")};
    const int bytes = QUEUE_BYTES;
    int ret;

    d->fd = -1;
    if (udp[0] && udp[1])
        ret = open_udp(d, udp[0], udp[1], err);
    else if (path[0] && path[1])
        ret = open_unix(layer, path[0], path[1], err);
    else
        return dt_fail(
            err, -EINVAL,
            "local=%.120s remote=%.120s: write udp:HOST:PORT or unix:PATH, the same kind twice",
            d->local, d->remote);
    if (ret == 0)
        setsockopt(d->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    return ret;
}

static void dgram_close(struct dt_layer *layer)
{
    const struct dgram *d = dt_layer_data(layer);

    if (d->fd >= 0)
        close(d->fd);
}

static int dgram_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct dgram *d = dt_layer_data(layer);

    info->mtu = (uint16_t)d->mtu;
    return 0;
}

/* ---- The peer ---- */

static void look_later(struct dgram_ctx *dc)
{
    dt_timer_set(dc->c, &dc->again, dt_clock_ns() + dc->backoff);
    dc->backoff = MIN(dc->backoff * 2, BACKOFF_MOST);
}

static void come_up(struct dgram_ctx *dc, int to)
{
    dc->to = to;
    if (port_out_open(&dc->out, to) == 0) {
        dc->complained = false;
        return;
    }
    close(TAKE_FD(dc->to));
    look_later(dc);
}

static void go_down(struct dgram_ctx *dc)
{
    const struct dgram *d = dc->c->layer_data;

    port_out_close(&dc->out);
    if (dc->to >= 0 && d->path)
        close(dc->to);
    dc->to = -1;
}

static void run_connected(struct dt_connect *op, int result)
{
    struct dgram_ctx *dc = container_of(op, struct dgram_ctx, op);
    const struct dgram *d = dc->c->layer_data;

    if (result >= 0) {
        come_up(dc, result);
        return;
    }
    if (!dc->complained)
        dt_layer_event(dc->c->layer, "unreachable", "%s: %s; it is tried again", d->remote,
                       strerror(-result));
    dc->complained = true;
    look_later(dc);
}

static void look_for_peer(struct dgram_ctx *dc)
{
    const struct dgram *d = dc->c->layer_data;

    go_down(dc);
    if (!d->path) {
        come_up(dc, d->fd);
        return;
    }
    dc->op = (struct dt_connect){.done = run_connected, .address = d->address};
    dt_layer_connect(dc->c, &dc->op);
}

static void run_again(struct dt_timer *timer)
{
    look_for_peer(container_of(timer, struct dgram_ctx, again));
}

/* ---- Datagrams ---- */

static int send_one(struct dgram_ctx *dc, const struct dt_packet *p)
{
    bool path = ((const struct dgram *)dc->c->layer_data)->path, once = false;

    while (send(dc->to, p->data, p->length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        /* Over UDP that is about an earlier datagram, and this one was not tried. */
        bool earlier = !path && errno == ECONNREFUSED && !once;

        if (errno != EINTR && !earlier)
            return errno;
        once |= earlier;
    }
    return 0;
}

static unsigned dgram_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    struct dgram_ctx *dc = container_of(out, struct dgram_ctx, out);
    const struct dgram *d = dc->c->layer_data;

    for (unsigned i = 0; i < n; i++) {
        int error = send_one(dc, packets[i]);

        if (error == EAGAIN) {
            out->blocked = true;
            return i;
        }
        if (likely(error == 0)) {
            dc->backoff = BACKOFF_LEAST;
            dt_sent(dc->c, &packets[i], 1);
            continue;
        }
        dt_drop_one(dc->c, packets[i], TX_DOWN);
        /* The peer's socket is gone, or another one. Not from in here: @out is in use. */
        if (d->path && error != EMSGSIZE && !dc->again.heap_index)
            look_later(dc);
    }
    return n;
}

static struct dt_packet *dgram_read(struct port_in *in)
{
    struct dgram_ctx *dc = container_of(in, struct dgram_ctx, in);
    struct dt_packet *p = dt_packet_new(dc->c, PORT_LARGEST);
    ssize_t n;

    errno = ENOBUFS;
    if (!p)
        return NULL;
    n = recv(in->watch.fd, p->data, PORT_LARGEST, MSG_TRUNC); /* the length that it had */
    if (n < 0) /* a refusal is of what we sent: see above */
        return port_unread(dc->c, p, errno == ECONNREFUSED ? EINTR : errno);
    if (n < (ssize_t)PORT_LEAST)
        return port_drop(dc->c, p, RX_SHORT);
    if (n > (ssize_t)PORT_LARGEST)
        return port_drop(dc->c, p, RX_LONG);
    return port_fit(dc->c, p, (uint32_t)n);
}

static void ended(struct port_in *in, int error)
{
    const struct dgram *d = in->c->layer_data;

    dt_layer_event(in->c->layer, "socket-failed", "%s: %s: nothing is received any more", d->local,
                   strerror(error));
}

static void dgram_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct dgram_ctx *dc = c->data;

    if (dc->to >= 0)
        port_out_send(&dc->out, packets, n);
    else
        dt_drop(c, packets, n, TX_DOWN);
}

static void dgram_resume(struct dt_ctx *c)
{
    struct dgram_ctx *dc = c->data;

    port_in_resume(&dc->in);
}

static void dgram_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct dgram_ctx *dc = c->data;

    if (dc->out.open)
        port_out_let_go(&dc->out);
}

/* ---- Life ---- */

static void dgram_stop(struct dt_ctx *c)
{
    struct dgram_ctx *dc = c->data;

    dt_layer_connect_cancel(&dc->op);
    dt_timer_cancel(c, &dc->again);
    go_down(dc);
    port_in_close(&dc->in);
}

static int dgram_start(struct dt_ctx *c, struct dt_error *err)
{
    const struct dgram *d = c->layer_data;
    struct dgram_ctx *dc = c->data;

    *dc = (struct dgram_ctx){.c = c, .to = -1, .backoff = BACKOFF_LEAST, .again.fire = run_again};
    dc->in = (struct port_in){.read = dgram_read, .ended = ended, .c = c, .memory = RX_MEMORY};
    dc->out = (struct port_out){.write = dgram_write, .c = c, .full = TX_FULL};
    if (port_in_open(&dc->in, d->fd) < 0)
        return dt_fail(err, -EIO, "cannot watch %s", d->local);
    look_for_peer(dc);
    return 0;
}

const struct dt_net_ext net_dgram = {
    DT_NET_EXT_HEADER,
    .name = "dgram",
    .summary =
        "A frame in each datagram, over UDP or Unix sockets, as QEMU's dgram netdev has them",
    .help = "The peer may be a QEMU with '-netdev dgram' (or '-netdev socket,udp='), another "
            "devtap, or "
            "whatever sends frames in datagrams. There is no proof of who sends: over UDP, only "
            "the peer's address is asked for.",
    .flags = DT_BACK,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct dgram),
    .ctx_size = sizeof(struct dgram_ctx),
    .open = dgram_open,
    .close = dgram_close,
    .start = dgram_start,
    .stop = dgram_stop,
    .info = dgram_info,
    .transmit = dgram_transmit,
    .resume = dgram_resume,
    .quiesce = dgram_quiesce,
};
