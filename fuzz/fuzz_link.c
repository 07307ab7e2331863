/* SPDX-License-Identifier: MIT */
/*
 * fuzz_link.c - a lying keeper and a lying worker. The first byte says which; then come packets: type,
 * how many descriptors, how long the payload is, and the payload. Guest memory is a real file
 * and eventfds are real, so that hand-overs go far.
 */
#include "fuzz/keeper.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One packet of the input; returns how much of it was used. */
static size_t send_one(int sock, const uint8_t *data, size_t size)
{
    struct link_message m = {.type = data[0]};
    size_t bytes = MIN((size_t)data[2] * 4, size - 3);
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * 3)];
    } control = {0};
    struct iovec iov = {&m, LINK_HEADER + bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    unsigned nfds = data[1] % 4;
    const int fds[3] = {data[1] & 4 ? memory : event, event, event};

    bytes = MIN(bytes, sizeof(m) - LINK_HEADER);
    iov.iov_len = LINK_HEADER + bytes;
    m.size = (uint32_t)bytes;
    memcpy((uint8_t *)&m + LINK_HEADER, data + 3, bytes);
    if (nfds) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        control.align = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int) * nfds),
                                         .cmsg_level = SOL_SOCKET,
                                         .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * nfds);
    }
    if (sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return size;
    return 3 + bytes;
}

static void send_all(int sock, const uint8_t *data, size_t size)
{
    while (size > 3) {
        size_t used = send_one(sock, data, size);

        keeper_turn();
        data += used;
        size -= used;
    }
}

static void lie_to_worker(int fds[2], const uint8_t *data, size_t size)
{
    struct link_device device;

    CHECK(link_device_new(&device, loop, fds[0], NULL) == 0);
    send_all(fds[1], data, size);
    close(fds[1]);
    keeper_turn();
    vhost_remote_free(device.remote);
}

static void lie_to_keeper(int fds[2], const uint8_t *data, size_t size)
{
    struct vhost_proxy *proxy = keeper_new();

    CHECK(vhost_proxy_link(proxy, fds[0], false, NULL) == 0);
    send_all(fds[1], data, size);
    close(fds[1]);
    keeper_turn();
    vhost_proxy_free(proxy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];

    keeper_begin();
    if (size < 4 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return 0;
    if (data[0] & 1)
        lie_to_keeper(fds, data + 1, size - 1);
    else
        lie_to_worker(fds, data + 1, size - 1);
    keeper_turn();
    return 0;
}
