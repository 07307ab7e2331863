/* SPDX-License-Identifier: MIT */
/* ready.c - a socket with a name of the kernel's choosing, which the program finds in its environment. */
#include "tools/ready.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define VARIABLE "NOTIFY_SOCKET"

int ready_listen(struct ready *r, struct dt_error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(addr);
    _cleanup_free_ char *name = NULL;
    const char *before = getenv(VARIABLE);

    *r = (struct ready){.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (r->fd < 0 || bind(r->fd, (const struct sockaddr *)&addr, sizeof(addr.sun_family)) < 0 ||
        getsockname(r->fd, (struct sockaddr *)&addr, &size) < 0) {
        int ret = dt_fail(err, -errno, "a socket to hear from devtap run: %s", strerror(errno));

        ready_end(r);
        return ret;
    }
    name = xasprintf("@%.*s", (int)(size - offsetof(struct sockaddr_un, sun_path) - 1),
                     addr.sun_path + 1);
    r->before = before ? xstrdup(before) : NULL;
    setenv(VARIABLE, name, true);
    return 0;
}

void ready_started(struct ready *r)
{
    if (r->before)
        setenv(VARIABLE, r->before, true);
    else
        unsetenv(VARIABLE);
    free(r->before);
    r->before = NULL;
}

bool ready_heard(struct ready *r)
{
    char text[256];
    ssize_t n;

    while (!r->heard && (n = recv(r->fd, text, sizeof(text) - 1, 0)) >= 0) {
        text[n] = '\0';
        r->heard = strstr(text, "READY=1") != NULL;
    }
    return r->heard;
}

void ready_end(struct ready *r)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}
