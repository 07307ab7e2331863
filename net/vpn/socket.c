/* SPDX-License-Identifier: MIT */
/*
 * socket.c - datagrams in and out: see vpn.h.
 *
 * Theory of operation: a system call costs more than a datagram's encryption. So datagrams of one length to one peer, which
 * is what a super-frame of the guest's becomes, are handed to the kernel as one buffer that it cuts (UDP_SEGMENT), and come
 * from it as one (UDP_GRO), as they do from its own WireGuard. What it will not cut, because a piece does not fit the way
 * out, is sent piece by piece.
 */
#include "net/vpn/vpn.h"

#include <netinet/udp.h>
#include <sys/socket.h>

#define PIECES   64u    /* UDP_MAX_SEGMENTS */
#define TOGETHER 65000u /* and the headers, below 65,536 */

/* Large enough for the one control message that there is, in either direction. */
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

int vpn_send_to(struct vpn *v, const void *message, size_t n, const union vpn_address *to)
{
    while (sendto(v->fd, message, n, MSG_NOSIGNAL | MSG_DONTWAIT, &to->any, vpn_address_size(to)) <
           0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* ---- Out ---- */

static int send_together(struct vpn *v, const struct vpn_burst *b)
{
    struct iovec iov = {b->bytes, b->used};
    union control control = {0};
    struct msghdr m = {.msg_name = &b->peer->address.any,
                       .msg_namelen = vpn_address_size(&b->peer->address),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = CMSG_SPACE(sizeof(uint16_t))};
    const uint16_t size = (uint16_t)b->size;

    control.align = (struct cmsghdr){
        .cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(size))};
    memcpy(CMSG_DATA(&control.align), &size, sizeof(size));
    while (sendmsg(v->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* From the first that is left. Those that cannot be sent are counted, and gone. */
static int send_pieces(struct vpn *v, struct vpn_burst *b)
{
    size_t at = 0;
    int ret = 0;

    while (at < b->used && ret != -EAGAIN) {
        size_t n = MIN(b->size, b->used - at);

        ret = vpn_send_to(v, b->bytes + at, n, &b->peer->address);
        if (ret != -EAGAIN) {
            dt_count(v->c, TX_DOWN, ret < 0);
            at += n;
            b->count--;
        }
    }
    memmove(b->bytes, b->bytes + at, b->used - at);
    b->used -= at;
    return ret == -EAGAIN ? ret : 0;
}

int vpn_burst_flush(struct vpn *v)
{
    struct vpn_burst *b = &v->burst;
    int ret;

    if (b->count == 0)
        return 0;
    ret = b->count > 1 ? send_together(v, b) : -EINVAL;
    if (ret < 0 && ret != -EAGAIN)
        ret = send_pieces(v, b);
    if (ret < 0)
        return ret;
    b->count = 0;
    b->used = 0;
    return 0;
}

uint8_t *vpn_burst_room(struct vpn_peer *p, size_t n)
{
    struct vpn_burst *b = &p->vpn->burst;
    bool another = b->peer != p || b->closed || n > b->size;

    if (b->count && (another || b->count == PIECES || b->used + n > TOGETHER) &&
        vpn_burst_flush(p->vpn) < 0)
        return NULL;
    return b->bytes + b->used;
}

void vpn_burst_add(struct vpn_peer *p, size_t n)
{
    struct vpn_burst *b = &p->vpn->burst;

    if (b->count == 0) {
        b->peer = p;
        b->size = n;
    }
    b->closed = n < b->size;
    b->used += n;
    b->count++;
}

/* ---- In ---- */

static ssize_t receive(struct vpn *v)
{
    struct vpn_input *in = &v->input;
    struct iovec iov = {in->bytes, VPN_BYTES};
    union control control = {0};
    struct msghdr m = {.msg_name = &in->from.any,
                       .msg_namelen = sizeof(in->from),
                       .msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    const struct cmsghdr *c;
    ssize_t n = recvmsg(v->fd, &m, 0);
    int size = 0;

    if (n < 0)
        return -errno;
    c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
        memcpy(&size, CMSG_DATA(c), sizeof(size));
    in->at = 0;
    in->end = (size_t)n;
    in->size = size > 0 ? (size_t)size : (size_t)n;
    return n;
}

ssize_t vpn_read(struct vpn *v, uint8_t **message)
{
    struct vpn_input *in = &v->input;
    size_t n;

    if (in->at >= in->end) {
        ssize_t ret = receive(v);

        if (ret < 0)
            return ret;
    }
    n = MIN(in->size, in->end - in->at);
    *message = in->bytes + in->at;
    in->at += n;
    return (ssize_t)n;
}
