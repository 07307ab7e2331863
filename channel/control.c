/* SPDX-License-Identifier: MIT */
/* control.c - frames on the control socket: a header, a text, at most a few descriptors. */
#include "channel/channel.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/socket.h>

#define FRAME_MAGIC 0x6c435444u /* "DTCl" */

struct frame_header {
    uint32_t magic, type, seq, length;
};

union fd_buffer {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
};

int control_send(int sock, uint32_t type, uint32_t seq, const char *text, const int *fds,
                 unsigned nfds)
{
    size_t length = text ? strlen(text) : 0;
    struct frame_header h = {FRAME_MAGIC, type, seq, (uint32_t)length};
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)text, length}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    union fd_buffer buffer = {0};

    CHECK(nfds <= CONTROL_FDS_MAX);
    if (length > CONTROL_PAYLOAD_MAX)
        return -EMSGSIZE;
    if (nfds) {
        struct cmsghdr *c;

        msg.msg_control = buffer.bytes;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
    }
    while (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static void take_fds(struct control_frame *f, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (unsigned i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (f->nfds < CONTROL_FDS_MAX)
                f->fds[f->nfds++] = fd;
            else
                close(fd);
        }
    }
}

int control_recv(int sock, struct control_frame *f)
{
    struct frame_header h;
    struct iovec iov[2] = {{&h, sizeof(h)}, {f->payload, CONTROL_PAYLOAD_MAX}};
    union fd_buffer buffer;
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = 2,
                         .msg_control = buffer.bytes,
                         .msg_controllen = sizeof(buffer.bytes)};
    ssize_t n;

    f->nfds = 0;
    do {
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -EPIPE;
    take_fds(f, &msg);
    if (n == 0)
        return -EPIPE;
    if ((size_t)n < sizeof(h) || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ||
        h.magic != FRAME_MAGIC || h.length != (size_t)n - sizeof(h)) {
        control_close_fds(f);
        return -EPROTO;
    }
    f->type = h.type;
    f->seq = h.seq;
    f->length = h.length;
    f->payload[h.length] = '\0';
    return 1;
}

void control_close_fds(struct control_frame *f)
{
    for (unsigned i = 0; i < f->nfds; i++)
        if (f->fds[i] >= 0)
            close(f->fds[i]);
    f->nfds = 0;
}

const char *control_word(char word[CONTROL_WORD_MAX], const char *text, const char *otherwise)
{
    snprintf(word, CONTROL_WORD_MAX, "%s", text && *text ? text : otherwise);
    for (char *c = word; *c; c++)
        if (!isalnum((unsigned char)*c))
            *c = '-';
    return word;
}
