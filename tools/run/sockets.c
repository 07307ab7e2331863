/* SPDX-License-Identifier: MIT */
/* sockets.c - the socket of a disk, from wherever it comes. */
#include "tools/run/run.h"

static int take_socket(struct disk_socket *s, int fd, struct dt_error *err)
{
    int kind = socket_kind(fd);

    if (kind < 0)
        return dt_fail(err, -EINVAL, "descriptor %d is not a Unix stream socket: %s", fd,
                       strerror(-kind));
    s->fd = fd;
    return 0;
}

int disk_socket_open(struct disk_socket *s, const struct disk_config *c,
                     struct activation *activation, bool only, struct dt_error *err)
{
    int fd;

    if (c->options.connect)
        return 0;
    if (c->inherited >= 0)
        return take_socket(s, c->inherited, err);
    if (!c->options.socket) {
        fd = activation_take(activation, c->name, only);
        if (fd < 0)
            return dt_fail(err, -EINVAL, "it has no socket: say socket, connect or fd");
        return take_socket(s, fd, err);
    }
    fd = listen_at(c->options.socket, c->owner, c->group, c->mode, LISTEN_PATIENCE_MS, err);
    if (fd < 0)
        return fd;
    s->fd = fd;
    s->bound = true;
    s->path = c->options.socket;
    return 0;
}

void disk_socket_remove(struct disk_socket *s)
{
    if (s->bound)
        unlink(s->path);
    s->bound = false;
}
