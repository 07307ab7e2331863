/* SPDX-License-Identifier: MIT */
/* activation.c - sockets from the service manager, and what it is told: sd_listen_fds(3),
 * sd_notify(3). */
#include "tools/run/run.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FIRST_FD 3
#define MAX_FDS  1024

void activation_init(struct activation *a)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    const char *names = getenv("LISTEN_FDNAMES");
    _cleanup_free_ char *list = xstrdup(names ?: "");
    char *rest = list;
    long n;

    *a = (struct activation){0};
    if (!pid || !count || strtol(pid, NULL, 10) != getpid())
        return;
    n = strtol(count, NULL, 10);
    if (n < 1 || n > MAX_FDS)
        return;
    a->count = (unsigned)n;
    a->names = xcalloc(a->count, sizeof(char *));
    a->taken = xcalloc(a->count, sizeof(bool));
    for (unsigned i = 0; i < a->count; i++) {
        a->names[i] = xstrdup(strsep(&rest, ":") ?: "");
        fcntl(FIRST_FD + (int)i, F_SETFD, FD_CLOEXEC);
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

void activation_free(struct activation *a)
{
    for (unsigned i = 0; i < a->count; i++)
        free(a->names[i]);
    free(a->names);
    free(a->taken);
    *a = (struct activation){0};
}

int activation_take(struct activation *a, const char *name, bool only)
{
    for (unsigned i = 0; i < a->count; i++)
        if (!a->taken[i] && (strcmp(a->names[i], name) == 0 || (only && a->count == 1))) {
            a->taken[i] = true;
            return FIRST_FD + (int)i;
        }
    return -1;
}

void notify_manager(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    _cleanup_close_ int sock = -1;

    if (n < 2 || n >= sizeof(addr.sun_path) || (*path != '/' && *path != '@'))
        return;
    memcpy(addr.sun_path, path, n);
    if (*path == '@') /* the abstract name space */
        addr.sun_path[0] = '\0';
    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0 || sendto(sock, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
        log_warning("cannot notify the service manager at %s: %s", path, strerror(errno));
}
