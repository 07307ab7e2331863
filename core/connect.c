/* SPDX-License-Identifier: MIT */
/*
 * connect.c - dt_layer_connect(): ask the connector, and wait for its answer as for any descriptor.
 *
 * An operation has one end of a socket pair, and whoever makes the connection has the other (dial.c).
 * Closing ours is all that a cancel needs.
 */
#include "core/internal.h"

#include "base/packet.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>

/* The one who dials gives up after ten seconds; looking up a name may take longer than that. */
#define CONNECT_NS DT_S(10)

static int announce_nothing(const char *address, struct dt_error *err)
{
    return 0;
}

static const struct connector own = {announce_nothing, dial_address};
static const struct connector *connector = &own;

void connector_set(const struct connector *c)
{
    connector = c ? c : &own;
}

static bool is_announced(const struct dt_layer *layer, const char *address)
{
    for (unsigned i = 0; i < layer->naddresses; i++)
        if (strcmp(layer->addresses[i], address) == 0)
            return true;
    return false;
}

int dt_layer_may_connect(struct dt_layer *layer, const char *address, struct dt_error *err)
{
    int ret = dial_judge(address, err);

    CHECK_MAGIC(layer, LAYER_MAGIC);
    if (ret < 0 || is_announced(layer, address))
        return ret;
    if (layer->naddresses == LAYER_ADDRESSES)
        return dt_fail(err, -ENOSPC, "a layer may connect to %u addresses at most",
                       LAYER_ADDRESSES);
    ret = connector->announce(address, err);
    if (ret == 0)
        layer->addresses[layer->naddresses++] = xstrdup(address);
    return ret;
}

void dt_layer_connect_cancel(struct dt_connect *op)
{
    if (!op->ctx)
        return;
    dt_timer_cancel(op->ctx, &op->timer);
    if (op->watch.fd >= 0) {
        dt_watch_remove(op->ctx, &op->watch);
        close(op->watch.fd);
    }
    op->ctx = NULL;
}

static void end(struct dt_connect *op, int result)
{
    dt_layer_connect_cancel(op);
    op->done(op, result);
}

static void run_timer(struct dt_timer *timer)
{
    struct dt_connect *op = container_of(timer, struct dt_connect, timer);

    end(op, op->failure);
}

static bool is_socket(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* The socket that came with an answer, or -errno; 0 = there is no answer yet. */
static int judge_answer(int from)
{
    struct dial_answer a;
    int fd, ret = packet_receive(from, &a, sizeof(a), &fd);

    if (ret == 0)
        return 0;
    if (ret > 0 && a.result == 0 && is_socket(fd) && fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return ret > 0 && a.result < 0 && a.result > -4096 ? a.result : -EPIPE;
}

static void run_answer(struct dt_watch *watch, uint32_t events)
{
    struct dt_connect *op = container_of(watch, struct dt_connect, watch);
    int ret = judge_answer(watch->fd);

    if (ret != 0)
        end(op, ret);
}

int layer_connect(struct dt_layer *layer, const char *address, int timeout_ms)
{
    struct pollfd p = {.events = POLLIN};
    int fds[2], ret;

    if (!is_announced(layer, address))
        return -EPERM;
    ret = packet_pair(fds);
    if (ret < 0)
        return ret;
    p.fd = fds[0];
    ret = connector->dial(address, fds[1]);
    if (ret == 0)
        ret = poll(&p, 1, timeout_ms) > 0 ? judge_answer(fds[0]) : -ETIMEDOUT;
    close(fds[0]);
    return ret;
}

static int begin(struct dt_ctx *c, struct dt_connect *op)
{
    int fds[2], ret;

    op->watch = (struct dt_watch){.fd = -1, .events = EPOLLIN, .ready = run_answer};
    if (!is_announced(c->layer, op->address))
        return -EPERM;
    ret = packet_pair(fds);
    if (ret < 0)
        return ret;
    op->watch.fd = fds[0];
    ret = connector->dial(op->address, fds[1]);
    return ret < 0 ? ret : dt_watch_add(c, &op->watch);
}

void dt_layer_connect(struct dt_ctx *c, struct dt_connect *op)
{
    int ret;

    CHECK(!op->ctx);
    op->ctx = c;
    op->timer = (struct dt_timer){.fire = run_timer};
    ret = begin(c, op);
    op->failure = ret < 0 ? ret : -ETIMEDOUT;
    dt_timer_set(c, &op->timer, dt_clock_ns() + (ret < 0 ? 0 : CONNECT_NS));
}
