/* SPDX-License-Identifier: MIT */
/*
 * cut.c - find a connection by the path of its listener, and the end of it that a process holds.
 *
 * Theory of operation: an accepted Unix socket keeps the name of its listener, and the kernel tells the inode of
 * its peer (sock_diag(7)). The peer that is among the process's descriptors is the one; pidfd_getfd(2)
 * gives us a descriptor of the same socket. No tool of the kernel's ends Unix connections from outside
 * (SOCK_DESTROY is for the Internet's), but whoever has one end can.
 */
#include "tools/attach/cut.h"

#include <dirent.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define ESTABLISHED 1
#define PEERS_MAX   64u

struct peers {
    const char *path;
    uint32_t inodes[PEERS_MAX];
    unsigned count;
};

static void look_at(const struct nlmsghdr *h, struct peers *peers)
{
    const struct unix_diag_msg *m = NLMSG_DATA(h);
    char name[sizeof(((struct sockaddr_un *)0)->sun_path) + 1] = "";
    size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));
    uint32_t peer = 0;

    for (const struct nlattr *a = (const void *)(m + 1);
         left >= sizeof(*a) && a->nla_len >= sizeof(*a) && a->nla_len <= left;) {
        const void *value = (const char *)a + NLA_HDRLEN;
        size_t len = a->nla_len - NLA_HDRLEN, step = MIN(left, (size_t)NLA_ALIGN(a->nla_len));

        if (a->nla_type == UNIX_DIAG_NAME)
            memcpy(name, value, MIN(len, sizeof(name) - 1));
        else if (a->nla_type == UNIX_DIAG_PEER && len == sizeof(peer))
            memcpy(&peer, value, sizeof(peer));
        left -= step;
        a = (const void *)((const char *)a + step);
    }
    if (peer && strcmp(name, peers->path) == 0 && peers->count < PEERS_MAX)
        peers->inodes[peers->count++] = peer;
}

static int ask_kernel(struct peers *peers)
{
    struct {
        struct nlmsghdr h;
        struct unix_diag_req r;
    } ask = {.h = {.nlmsg_len = sizeof(ask),
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
             .r = {.sdiag_family = AF_UNIX,
                   .udiag_states = 1u << ESTABLISHED,
                   .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER}};
    _cleanup_close_ int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _Alignas(struct nlmsghdr) char buf[32768];

    if (sock < 0 || send(sock, &ask, sizeof(ask), 0) != sizeof(ask))
        return -errno;
    for (;;) {
        ssize_t n = recv(sock, buf, sizeof(buf), 0);
        unsigned left = (unsigned)n;

        if (n <= 0)
            return n < 0 ? -errno : -EPROTO;
        for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_DONE)
                return 0;
            if (h->nlmsg_type == NLMSG_ERROR)
                return ((struct nlmsgerr *)NLMSG_DATA(h))->error ?: -EPROTO;
            look_at(h, peers);
        }
    }
}

/* Number of the process's descriptor for one of the peers: -ENOTCONN, -EMLINK. */
static int find_number(pid_t pid, const struct peers *peers, struct dt_error *err)
{
    char dir[32], target[64];
    int found = -ENOTCONN;
    struct dirent *entry;
    DIR *fds;

    snprintf(dir, sizeof(dir), "/proc/%d/fd", pid);
    fds = opendir(dir);
    if (!fds)
        return dt_fail(err, -errno, "%s: %s", dir, strerror(errno));
    while ((entry = readdir(fds)) != NULL) {
        ssize_t n = readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1);
        unsigned inode = 0;

        target[MAX(n, 0)] = '\0';
        if (sscanf(target, "socket:[%u]", &inode) != 1)
            continue;
        for (unsigned i = 0; i < peers->count; i++)
            if (peers->inodes[i] == inode)
                found = found < 0 && found != -EMLINK ? atoi(entry->d_name) : -EMLINK;
    }
    closedir(fds);
    if (found == -ENOTCONN)
        return dt_fail(err, found, "process %d has no connection to %s", pid, peers->path);
    if (found < 0)
        return dt_fail(err, found, "process %d has several connections to %s", pid, peers->path);
    return found;
}

int cut_find(pid_t pid, const char *path, struct dt_error *err)
{
    _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct peers peers = {.path = path};
    int number, fd, ret;

    if (pidfd < 0)
        return dt_fail(err, -errno, "process %d: %s", pid, strerror(errno));
    ret = ask_kernel(&peers);
    if (ret < 0)
        return dt_fail(err, ret, "cannot list the connections of Unix sockets: %s", strerror(-ret));
    number = find_number(pid, &peers, err);
    if (number < 0)
        return number;
    fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
    if (fd < 0)
        return dt_fail(err, -errno, "descriptor %d of process %d: %s (be its user, or root)",
                       number, pid, strerror(errno));
    return fd;
}
