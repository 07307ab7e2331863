/* SPDX-License-Identifier: MIT */
/* packet.c - see packet.h. */
#include "base/packet.h"

#include <poll.h>
#include <sys/socket.h>

union packet_control {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
};

int packet_pair(int fds[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0 ? -errno
                                                                                          : 0;
}

int packet_send(int sock, const void *data, size_t size, int fd)
{
    union packet_control control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        control.align = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
    }
    for (unsigned tries = 0; sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0; tries++) {
        struct pollfd room = {.fd = sock, .events = POLLOUT};

        if (errno != EINTR && errno != EAGAIN)
            return -errno;
        if (errno == EAGAIN && (tries > 10 || poll(&room, 1, 100) < 0))
            return -ETIMEDOUT;
    }
    return 0;
}

int packet_receive(int sock, void *data, size_t size, int *fd)
{
    union packet_control control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *c;
    ssize_t n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    /* An end that is closed before it has read all leaves this error, once, before its last words. */
    if (n < 0 && errno == ECONNRESET)
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *fd = -1;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    if (n == (ssize_t)size && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return 1;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return n == 0 ? -ECONNRESET : -EPROTO;
}
