/* SPDX-License-Identifier: MIT */
/*
 * listen.c - Unix sockets that appear with the right owner and mode, and replace only those
 * that nobody serves.
 *
 * Is a path served? connect(2) would disturb whoever serves it (one that accepts a single VM would
 * take us for it). A datagram socket tells without: the kernel finds the socket behind the path
 * first (ECONNREFUSED: there is none any more) and compares the types then (EPROTOTYPE: there is).
 */
#include "base/listen.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define LOCK_TRIES 200
#define LOCK_MS    5
/*
 * A killed process may be gone (waited for) while the kernel still tears its io_uring down, which
 * holds the sockets that it watched: what is served now may be free in milliseconds.
 */
#define SERVED_MS 10

/* ---- One path ------------------------------------------------------------------------------ */

/** struct place - a path as its directory and the name in it. */
struct place {
    const char *path;
    int type;
    char *name;
    int dir;
    unsigned patience_ms;
};

/* Through the directory's descriptor, because addresses hold 107 bytes and paths more. */
static int address_of(const struct place *p, struct sockaddr_un *addr)
{
    int n;

    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(p->path) < sizeof(addr->sun_path)) {
        strcpy(addr->sun_path, p->path); /* what `ss` shows is then the real one */
        return 0;
    }
    n = snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s", p->dir, p->name);
    return n < (int)sizeof(addr->sun_path) ? 0 : -ENAMETOOLONG;
}

static void doze(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static bool is_served(const struct sockaddr_un *addr)
{
    _cleanup_close_ int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (sock < 0 || connect(sock, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
        return true;
    return errno != ECONNREFUSED && errno != ENOENT;
}

/* Two programs that start at once must not each take the other's new socket for a stale one. */
static void lock_directory(const struct place *p)
{
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (flock(p->dir, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
            return;
        doze(LOCK_MS);
    }
}

static bool stays_served(const struct sockaddr_un *addr, unsigned patience_ms)
{
    while (is_served(addr)) {
        if (patience_ms < SERVED_MS)
            return true;
        patience_ms -= SERVED_MS;
        doze(SERVED_MS);
    }
    return false;
}

static int clear_way(const struct place *p, const struct sockaddr_un *addr, struct dt_error *err)
{
    struct stat st;

    if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : dt_fail(err, -errno, "%s: %s", p->path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return dt_fail(err, -EEXIST, "%s: there is something that is not a socket", p->path);
    if (stays_served(addr, p->patience_ms))
        return dt_fail(err, -EADDRINUSE, "%s: socket in use by another process", p->path);
    log_info("%s: replacing a socket that nobody serves any more", p->path);
    if (unlinkat(p->dir, p->name, 0) < 0 && errno != ENOENT)
        return dt_fail(err, -errno, "%s: cannot remove a stale socket: %s", p->path,
                       strerror(errno));
    return 0;
}

static int set_rights(const struct place *p, long owner, long group, unsigned mode,
                      struct dt_error *err)
{
    if ((owner >= 0 || group >= 0) &&
        fchownat(p->dir, p->name, (uid_t)owner, (gid_t)group, AT_SYMLINK_NOFOLLOW) < 0)
        return dt_fail(err, -errno, "%s: cannot set its owner: %s", p->path, strerror(errno));
    if (fchmodat(p->dir, p->name, mode, 0) < 0)
        return dt_fail(err, -errno, "%s: cannot set its mode: %s", p->path, strerror(errno));
    return 0;
}

static int bind_at(const struct place *p, long owner, long group, unsigned mode,
                   struct dt_error *err)
{
    _cleanup_close_ int sock = socket(AF_UNIX, p->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un addr;
    mode_t mask;
    int ret = address_of(p, &addr);

    if (sock < 0 || ret < 0)
        return dt_fail(err, ret ?: -errno, "%s: %s", p->path, strerror(ret ? -ret : errno));
    ret = clear_way(p, &addr, err);
    if (ret < 0)
        return ret;
    mask = umask(0777);
    ret = bind(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
    umask(mask);
    if (ret < 0)
        return dt_fail(err, ret, "%s: cannot make the socket: %s", p->path, strerror(-ret));
    ret = set_rights(p, owner, group, mode, err);
    if (ret < 0)
        unlinkat(p->dir, p->name, 0);
    return ret < 0 ? ret : TAKE_FD(sock);
}

int bind_path(const char *path, int type, long owner, long group, unsigned mode,
              unsigned patience_ms, struct dt_error *err)
{
    _cleanup_free_ char *copy = xstrdup(path), *other = xstrdup(path);
    struct place p = {
        .path = path, .type = type, .name = basename(copy), .patience_ms = patience_ms};
    const char *dir = dirname(other);
    int sock;

    p.dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p.dir < 0)
        return dt_fail(err, -errno, "%s: %s: %s", path, dir, strerror(errno));
    lock_directory(&p);
    sock = bind_at(&p, owner, group, mode, err);
    close(p.dir); /* and with it the lock */
    return sock;
}

int listen_at(const char *path, long owner, long group, unsigned mode, unsigned patience_ms,
              struct dt_error *err)
{
    return bind_path(path, SOCK_STREAM, owner, group, mode, patience_ms, err);
}

int socket_kind(int fd)
{
    int listening = 0, type = 0, domain = 0;
    socklen_t n = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
        return -errno;
    if (domain != AF_UNIX || type != SOCK_STREAM)
        return -EPROTOTYPE;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0)
        return -errno;
    return listening;
}
