/* SPDX-License-Identifier: MIT */
/*
 * listen.c - a rear that connects to us.
 *
 * Nobody is there when the device starts, and none is waited for: the guest is offered what the parameters promise, and
 * whoever connects has to keep the promise. So a worker whose rear is away starts as any other, and which rear
 * comes is nobody's business. A second one waits until the first is gone.
 */
#include "rear/rear.h"

#include "base/listen.h"

#include <sys/socket.h>

int rear_listen(struct rear *rear, struct dt_error *err)
{
    unsigned mode = 0;
    long group = -1;
    int ret = parse_socket_mode(rear->socket_mode, &mode, err);

    if (ret == 0 && rear->socket_group)
        ret = parse_socket_group(rear->socket_group, &group, err);
    ret = ret ?: listen_at(rear->path, -1, group, mode, LISTEN_PATIENCE_MS, err);
    if (ret < 0)
        return ret;
    rear->listener = ret;
    if (listen(rear->listener, 1) == 0)
        return 0;
    ret = dt_fail(err, -errno, "%s: cannot listen: %s", rear->path, strerror(errno));
    close(TAKE_FD(rear->listener));
    return ret;
}

int rear_accept(struct rear *rear, struct dt_error *err)
{
    int sock = accept4(rear->listener, NULL, NULL, SOCK_CLOEXEC);

    return sock < 0 ? dt_fail(err, -errno, "cannot accept a connection: %s", strerror(errno))
                    : sock;
}
