/* SPDX-License-Identifier: MIT */
/*
 * keeper.c - sockets on one side, the link on the other, orders from the supervisor.
 *
 * The VMM's connection is accepted only once a worker has shown its floor: before that there is
 * nothing to answer GET_FEATURES with.
 *
 * A keeper that is to be replaced sends everything to its successor (vhost/transfer.h), and both then leave the
 * VM alone until the supervisor tells one to resume, and ends the other.
 */
#include "control/keeper.h"

#include "base/kill.h"
#include "base/packet.h"
#include "control/sandbox.h"
#include "loop/listener.h"
#include "vhost/transfer.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BACKLOG          8
#define CONNECT_RETRY_NS DT_MS(200)

struct keeper {
    struct loop *loop;
    struct dt_watch orders;
    struct vhost_proxy *proxy;
    struct keeper_message serve; /* what it was told to serve */
    int sock;                    /* listening, or a session not yet begun */
    int next;                    /* a VM that came while the one before is still leaving */
    struct listener listener;
    bool open;    /* VMs may come */
    bool waiting; /* for KEEPER_RESUME */
    int send_to;  /* once the worker is let go; -1 = nobody takes over */
    struct dt_watch taking;
    struct transfer *transfer; /* what came on it so far */
    struct dt_timer connect_timer;
    bool closing;
    int status;
};

static void tell(struct keeper *k, enum keeper_type type, const char *text)
{
    struct keeper_message m = {.type = type};

    snprintf(m.text, sizeof(m.text), "%s", text);
    packet_send(k->orders.fd, &m, sizeof(m), -1);
}

static void end(struct keeper *k, int status)
{
    k->status = status;
    loop_stop(k->loop);
}

/* ---- VMs ------------------------------------------------------------------------------------ */

static void attach(struct keeper *k, int sock)
{
    struct dt_error err;

    if (vhost_proxy_attach(k->proxy, sock, &err) < 0) {
        log_error("%s: %s", k->serve.text, err.text);
        close(sock);
        return;
    }
    tell(k, KEEPER_ATTACHED, "");
}

static void on_connection(struct listener *listener, int sock)
{
    struct keeper *k = container_of(listener, struct keeper, listener);

    if (!vhost_proxy_attached(k->proxy)) {
        attach(k, sock);
    } else if (vhost_proxy_ending(k->proxy) && k->next < 0) {
        k->next = sock;
    } else {
        log_limited(DT_LOG_WARNING, "%s: a second connection was refused: a VM is attached already",
                    k->serve.text);
        close(sock);
    }
}

static int connect_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return sock;
    if (sock >= 0)
        close(sock);
    return -1;
}

static void run_connect(struct dt_timer *timer)
{
    struct keeper *k = container_of(timer, struct keeper, connect_timer);
    int sock = connect_to(k->serve.path);

    if (sock >= 0)
        attach(k, sock);
    if (!vhost_proxy_attached(k->proxy))
        loop_timer_set(k->loop, timer, dt_clock_ns() + CONNECT_RETRY_NS);
}

static void open_to_vms(struct keeper *k)
{
    int ret = 0;

    if (k->open || k->waiting)
        return;
    k->open = true;
    if (k->serve.socket == KEEPER_CONNECTS) {
        if (!vhost_proxy_attached(k->proxy))
            loop_timer_set(k->loop, &k->connect_timer, dt_clock_ns());
        return;
    }
    if (k->serve.socket == KEEPER_HAS_SESSION) {
        if (!vhost_proxy_attached(k->proxy))
            attach(k, TAKE_FD(k->sock));
        return;
    }
    if (listen(k->sock, BACKLOG) < 0)
        ret = -errno;
    ret = ret ?: listener_start(&k->listener, k->loop, k->sock, on_connection);
    if (ret < 0) {
        log_error("%s: cannot listen: %s", k->serve.text, strerror(-ret));
        end(k, 1);
    }
}

static void close_to_vms(struct keeper *k)
{
    k->open = false;
    listener_stop(&k->listener);
    loop_timer_cancel(k->loop, &k->connect_timer);
}

/* ---- Another keeper takes over ------------------------------------------------------------------ */

static void send_all(struct keeper *k)
{
    _cleanup_close_ int sock = TAKE_FD(k->send_to);
    struct dt_error err = {""};

    k->waiting = true;
    close_to_vms(k);
    KILL_POINT("keeper-send");
    if (k->next >= 0)
        dt_fail(&err, -EBUSY, "one VM is leaving and another has come");
    else
        vhost_proxy_send(k->proxy, sock, &err);
    KILL_POINT("keeper-sent");
    tell(k, KEEPER_RELEASED, err.text);
}

/* The worker was let go, or went. */
static void released(struct keeper *k)
{
    if (k->send_to >= 0)
        send_all(k);
    else
        tell(k, KEEPER_RELEASED, "");
}

static void run_taking(struct dt_watch *watch, uint32_t events)
{
    struct keeper *k = container_of(watch, struct keeper, taking);
    struct dt_error err = {""};
    int ret = transfer_receive(watch->fd, k->transfer, &err);

    if (ret == 0)
        return;
    KILL_POINT("keeper-take");
    if (ret > 0)
        ret = vhost_proxy_adopt(k->proxy, k->transfer, &err);
    loop_watch_remove(k->loop, watch);
    close(watch->fd);
    transfer_free(TAKE_PTR(k->transfer), true);
    KILL_POINT("keeper-taken");
    tell(k, KEEPER_TOOK_OVER, ret < 0 ? err.text : "");
}

static void take_over(struct keeper *k, int sock)
{
    k->waiting = true;
    k->transfer = transfer_new();
    k->taking = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_taking};
    if (loop_watch_add(k->loop, &k->taking) < 0)
        end(k, 1);
    else
        tell(k, KEEPER_TAKING, "");
}

static void resume(struct keeper *k)
{
    if (!k->waiting)
        return;
    k->waiting = false;
    vhost_proxy_thaw(k->proxy);
    if (vhost_proxy_ready(k->proxy))
        open_to_vms(k);
}

/* ---- What the proxy tells ---------------------------------------------------------------------- */

static void on_ready(void *arg)
{
    open_to_vms(arg);
    tell(arg, KEEPER_READY, "");
}

static void on_lost(void *arg, const char *reason)
{
    struct keeper *k = arg;

    tell(k, KEEPER_LOST, reason ? reason : "");
    if (k->send_to >= 0)
        released(k);
}

static void on_recovered(void *arg, const struct vhost_recovery *recovery)
{
    struct keeper *k = arg;
    struct keeper_message m = {.type = KEEPER_RECOVERED, .recovery = *recovery};

    packet_send(k->orders.fd, &m, sizeof(m), -1);
}

static void on_released(void *arg)
{
    released(arg);
}

static void on_closed(void *arg, const char *reason)
{
    struct keeper *k = arg;

    tell(k, KEEPER_DETACHED, reason ? reason : "");
    if (k->closing || k->serve.socket == KEEPER_HAS_SESSION)
        end(k, 0);
    else if (k->next >= 0)
        attach(k, TAKE_FD(k->next));
    else if (k->serve.socket == KEEPER_CONNECTS)
        loop_timer_set(k->loop, &k->connect_timer, dt_clock_ns() + CONNECT_RETRY_NS);
}

static const struct vhost_proxy_ops proxy_ops = {
    .ready = on_ready,
    .lost = on_lost,
    .recovered = on_recovered,
    .released = on_released,
    .closed = on_closed,
};

/* ---- Orders ---------------------------------------------------------------------------------------- */

static void begin(struct keeper *k, const struct keeper_message *m, int fd)
{
    struct sandbox_config sandbox = {
        .kind = SANDBOX_KEEPER, .uid = (uid_t)m->uid, .connects = m->socket == KEEPER_CONNECTS};
    char missing[SANDBOX_MISSING]; /* the worker lacks the same, and says so */
    struct dt_error err;

    k->serve = *m;
    k->sock = fd;
    k->proxy = vhost_proxy_new(k->loop, m->text, m->patience, &proxy_ops, k);
    if (sandbox_enter(&sandbox, missing, &err) < 0) {
        log_error("%s: %s", m->text, err.text);
        end(k, 1);
    }
}

static void close_down(struct keeper *k)
{
    k->closing = true;
    loop_timer_cancel(k->loop, &k->connect_timer);
    if (vhost_proxy_attached(k->proxy))
        vhost_proxy_close(k->proxy);
    else
        end(k, 0);
}

static void release(struct keeper *k, int send_to)
{
    if (k->send_to >= 0)
        close(k->send_to);
    k->send_to = send_to;
    if (vhost_proxy_linked(k->proxy))
        vhost_proxy_release(k->proxy);
    else
        released(k); /* the worker was quicker */
}

static void follow(struct keeper *k, struct keeper_message *m, int fd)
{
    struct dt_error err;

    m->text[sizeof(m->text) - 1] = m->path[sizeof(m->path) - 1] = '\0';
    if ((m->type == KEEPER_SERVE) != (k->proxy == NULL))
        return;
    if (m->type == KEEPER_SERVE) {
        begin(k, m, TAKE_FD(fd));
    } else if (m->type == KEEPER_LINK && fd >= 0) {
        if (vhost_proxy_link(k->proxy, fd, m->innocent, &err) < 0)
            log_error("%s: %s", k->serve.text, err.text);
        else
            fd = -1;
    } else if (m->type == KEEPER_RELEASE) {
        release(k, TAKE_FD(fd));
    } else if (m->type == KEEPER_TAKE_OVER && fd >= 0 && !k->transfer) {
        take_over(k, TAKE_FD(fd));
    } else if (m->type == KEEPER_RESUME) {
        resume(k);
    } else if (m->type == KEEPER_CLOSE) {
        close_down(k);
    }
    if (fd >= 0)
        close(fd);
}

static void run_orders(struct dt_watch *watch, uint32_t events)
{
    struct keeper *k = container_of(watch, struct keeper, orders);
    struct keeper_message m;
    int fd, ret = packet_receive(watch->fd, &m, sizeof(m), &fd);

    if (ret > 0) {
        follow(k, &m, fd);
    } else if (ret < 0) {
        /* Without a supervisor there will be no successor: end while all is in order. */
        loop_watch_remove(k->loop, watch);
        if (k->proxy && !k->closing)
            close_down(k);
        else
            end(k, 1);
    }
}

int keeper_run(int sock)
{
    const struct loop_config config = {.engine = LOOP_EPOLL};
    struct keeper k = {.sock = -1, .next = -1, .send_to = -1, .connect_timer.fire = run_connect};
    struct dt_error err;

    sandbox_raise_limits(); /* regions and eventfds of a large VM */
    k.orders = (struct dt_watch){.fd = sock, .events = EPOLLIN, .ready = run_orders};
    if (loop_new(&k.loop, &config, &err) < 0 || loop_watch_add(k.loop, &k.orders) < 0)
        return 1;
    loop_run(k.loop);
    /* What is left goes with the process. */
    return k.status;
}
