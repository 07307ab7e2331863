/* SPDX-License-Identifier: MIT */
/* peer.c - the connection to the peer, from one to the next: see stream.h. */
#include "net/stream/stream.h"

#include "base/listen.h"
#include "net/port/address.h"
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BACKOFF_LEAST DT_MS(20)
#define BACKOFF_MOST  DT_S(1)
#define LASTED        DT_S(1) /* a connection that was good for something */
#define BIND_TRIES    100u /* a second: a worker that died a moment ago may still have the port */

/* ---- Listening ---- */

/* Of a connection these are its listener's: a confined process may not set them. A peer that vanished without a word
 * is noticed after about half a minute. */
static void tune(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, 10}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
                   {IPPROTO_TCP, TCP_KEEPCNT, 4},   {SOL_SOCKET, SO_REUSEADDR, 1}};

    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static int bind_one(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    tune(fd);
    for (unsigned i = 0; bind(fd, a->ai_addr, a->ai_addrlen) < 0; i++) {
        int error = errno;

        if (error != EADDRINUSE || i == BIND_TRIES) {
            close(fd);
            return -error;
        }
        usleep(10000);
    }
    return fd;
}

static int bind_tcp(const char *text, struct dt_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *list;
    int ret = port_resolve(text, &hints, &list, err);

    if (ret < 0)
        return ret;
    ret = bind_one(list);
    freeaddrinfo(list);
    return ret < 0 ? dt_fail(err, ret, "tcp:%s: cannot listen: %s", text, strerror(-ret)) : ret;
}

/* A socket that whoever started us has bound, and that listens. */
static int inherit(const char *text, struct dt_error *err)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    int fd = *end || end == text || n > INT_MAX ? -1 : fcntl((int)n, F_DUPFD_CLOEXEC, 3);

    if (fd >= 0 && socket_kind(fd) == 1 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return dt_fail(err, -EBADF, "fd:%.20s is no Unix socket that listens", text);
}

int wire_bind(const char *address, struct dt_error *err)
{
    bool path = strncmp(address, "unix:", 5) == 0;
    int fd;

    if (strncmp(address, "fd:", 3) == 0)
        return inherit(address + 3, err);
    fd = path ? listen_at(address + 5, -1, -1, 0600, LISTEN_PATIENCE_MS, err)
              : bind_tcp(strchr(address, ':') + 1, err);

    if (fd >= 0 && listen(fd, 1) < 0) {
        int error = errno;

        close(fd);
        return dt_fail(err, -error, "%s: cannot listen: %s", address, strerror(error));
    }
    return fd;
}

/* ---- Up and down ---- */

static const char *address_of(const struct stream_ctx *sc)
{
    return ((const struct stream *)sc->c->layer_data)->address;
}

static void stop_accepting(struct stream_ctx *sc)
{
    if (sc->accepting)
        dt_watch_remove(sc->c, &sc->accepts);
    sc->accepting = false;
}

static void look_later(struct stream_ctx *sc)
{
    dt_timer_set(sc->c, &sc->again, dt_clock_ns() + sc->backoff);
    sc->backoff = MIN(sc->backoff * 2, BACKOFF_MOST);
}

static void drop_connection(struct stream_ctx *sc)
{
    sc->up = false;
    port_in_close(&sc->in);
    port_out_close(&sc->out);
    if (sc->fd >= 0)
        close(TAKE_FD(sc->fd));
}

static void set_link(struct stream_ctx *sc, enum dt_link link)
{
    struct stream *s = sc->c->layer_data;

    if (s->link == link)
        return;
    s->link = link;
    dt_layer_info_changed(sc->c->layer);
}

static void come_up(struct stream_ctx *sc, int fd)
{
    sc->fd = fd;
    sc->received->at = sc->received->end = sc->rest->at = sc->rest->end = 0;
    if (port_out_open(&sc->out, fd) < 0 || port_in_open(&sc->in, fd) < 0) {
        drop_connection(sc);
        look_later(sc);
        return;
    }
    sc->up = true;
    sc->since = dt_clock_ns();
    sc->complained = false;
    dt_count(sc->c, CONNECTS, 1);
    dt_layer_event(sc->c->layer, "connected", "%s: there is a peer", address_of(sc));
    set_link(sc, DT_LINK_UP);
}

void wire_lost(struct stream_ctx *sc, int error)
{
    drop_connection(sc);
    dt_layer_event(sc->c->layer, "disconnected",
                   "%s: %s; packets are dropped until there is a peer again", address_of(sc),
                   error == EPROTO       ? "the peer sent a length that no frame has"
                   : error == ECONNRESET ? "the peer ended the connection"
                                         : strerror(error));
    set_link(sc, DT_LINK_DOWN);
    if (dt_clock_ns() - sc->since >= LASTED)
        sc->backoff = BACKOFF_LEAST;
    look_later(sc);
}

/* ---- Coming to a peer ---- */

static void run_accept(struct dt_watch *watch, uint32_t events)
{
    struct stream_ctx *sc = container_of(watch, struct stream_ctx, accepts);
    int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = errno;

    if (fd < 0 && (error == EAGAIN || error == EINTR || error == ECONNABORTED))
        return;
    stop_accepting(sc); /* a second peer waits until the first is gone */
    if (fd >= 0)
        come_up(sc, fd);
    else
        look_later(sc); /* no descriptor or no memory now */
}

static void run_connected(struct dt_connect *op, int result)
{
    struct stream_ctx *sc = container_of(op, struct stream_ctx, op);

    if (result >= 0) {
        come_up(sc, result);
        return;
    }
    if (!sc->complained)
        dt_layer_event(sc->c->layer, "unreachable", "%s: %s; it is tried again", address_of(sc),
                       strerror(-result));
    sc->complained = true;
    set_link(sc, DT_LINK_DOWN);
    look_later(sc);
}

static void look_for_peer(struct stream_ctx *sc)
{
    const struct stream *s = sc->c->layer_data;

    if (s->listener < 0) {
        sc->op = (struct dt_connect){.done = run_connected, .address = s->address};
        dt_layer_connect(sc->c, &sc->op);
        return;
    }
    sc->accepting = dt_watch_add(sc->c, &sc->accepts) == 0;
    if (!sc->accepting)
        look_later(sc);
}

static void run_again(struct dt_timer *timer)
{
    look_for_peer(container_of(timer, struct stream_ctx, again));
}

void wire_begin(struct stream_ctx *sc)
{
    const struct stream *s = sc->c->layer_data;

    sc->fd = -1;
    sc->backoff = BACKOFF_LEAST;
    sc->again.fire = run_again;
    sc->accepts = (struct dt_watch){.ready = run_accept, .fd = s->listener, .events = EPOLLIN};
    sc->received = xcalloc(1, sizeof(*sc->received));
    sc->rest = xcalloc(1, sizeof(*sc->rest));
    look_for_peer(sc);
}

void wire_end(struct stream_ctx *sc)
{
    drop_connection(sc);
    stop_accepting(sc);
    dt_layer_connect_cancel(&sc->op);
    dt_timer_cancel(sc->c, &sc->again);
    free(sc->received);
    free(sc->rest);
}
