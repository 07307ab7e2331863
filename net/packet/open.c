/* SPDX-License-Identifier: MIT */
/*
 * open.c - the back `packet`: sockets, opened before the process is confined.
 *
 * An interface that is not there ends the first start. A worker that takes the place of another serves other cards, too, and
 * must not leave them alone for the sake of this one: where its predecessor had the interface, it serves without, and
 * sends nothing.
 */
#include "net/packet/internal.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef PACKET_IGNORE_OUTGOING /* Linux 4.20 */
#define PACKET_IGNORE_OUTGOING 23
#endif

#define QUEUE_BYTES (4 << 20) /* what may wait to be read */

static int ask(int fd, unsigned long what, struct ifreq *request, const struct raw *r,
               struct dt_error *err)
{
    *request = (struct ifreq){0};
    memcpy(request->ifr_name, r->ifname, strlen(r->ifname));
    return ioctl(fd, what, request) < 0
               ? dt_fail(err, -errno, "interface '%s': %s", r->ifname, strerror(errno))
               : 0;
}

static int find_interface(struct raw *r, int fd, struct dt_error *err)
{
    struct ifreq request;
    int ret = ask(fd, SIOCGIFHWADDR, &request, r, err);

    if (ret == 0 && request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return dt_fail(err, -EINVAL, "interface '%s' is not an Ethernet", r->ifname);
    memcpy(r->mac, request.ifr_hwaddr.sa_data, sizeof(r->mac));
    ret = ret ?: ask(fd, SIOCGIFMTU, &request, r, err);
    r->mtu = (uint16_t)MIN(request.ifr_mtu, 65535);
    ret = ret ?: ask(fd, SIOCGIFINDEX, &request, r, err);
    r->index = (unsigned)request.ifr_ifindex;
    return ret;
}

static int option(int fd, int name, const char *what, struct dt_error *err)
{
    const int on = 1;

    return setsockopt(fd, SOL_PACKET, name, &on, sizeof(on)) < 0
               ? dt_fail(err, -errno, "%s: %s", what, strerror(errno))
               : 0;
}

static int make_promiscuous(const struct raw *r, int fd, struct dt_error *err)
{
    const struct packet_mreq m = {.mr_ifindex = (int)r->index, .mr_type = PACKET_MR_PROMISC};

    return setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof(m)) < 0
               ? dt_fail(err, -errno, "interface '%s': it cannot be promiscuous: %s", r->ifname,
                         strerror(errno))
               : 0;
}

static int bind_to(const struct raw *r, int fd, struct dt_error *err)
{
    const struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)r->index};
    const int bytes = QUEUE_BYTES;

    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    return bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0
               ? dt_fail(err, -errno, "interface '%s': %s", r->ifname, strerror(errno))
               : 0;
}

/* The first socket makes a group with a number that nobody has, and the others join it. */
static int join_group(const struct raw *r, int fd, unsigned *group, struct dt_error *err)
{
    unsigned value = PACKET_FANOUT_HASH << 16;
    socklen_t size = sizeof(value);

    value |= *group ? *group : (unsigned)PACKET_FANOUT_FLAG_UNIQUEID << 16;
    if (setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value)) < 0 ||
        getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, &size) < 0)
        return dt_fail(err, -errno, "interface '%s': PACKET_FANOUT: %s", r->ifname,
                       strerror(errno));
    *group = value & 0xffff;
    return 0;
}

static int open_queue(struct raw *r, struct dt_error *err)
{
    /* Without a protocol it receives nothing until it is bound. */
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret = 0;

    if (fd < 0)
        return dt_fail(err, -errno, "packet socket: %s%s", strerror(errno),
                       errno == EPERM ? " (run as root, or with CAP_NET_RAW)" : "");
    r->fds[r->nfds++] = fd;
    if (!r->index && !r->away)
        ret = find_interface(r, fd, err);
    if (ret == -ENODEV) {
        r->away = true;
        r->why = *err;
    }
    if (r->away)
        return 0;
    ret = ret ?: option(fd, PACKET_VNET_HDR, "PACKET_VNET_HDR", err);
    ret = ret ?: option(fd, PACKET_AUXDATA, "PACKET_AUXDATA", err);
    ret = ret ?: option(fd, PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING", err);
    if (ret == 0 && r->promiscuous)
        ret = make_promiscuous(r, fd, err);
    return ret ?: bind_to(r, fd, err);
}

void raw_close(struct dt_layer *layer)
{
    struct raw *r = dt_layer_data(layer);

    xdp_close(r);
    carrier_close(&r->carrier);
    for (unsigned i = 0; i < r->nfds; i++)
        close(r->fds[i]);
}

static int open_xdp(struct dt_layer *layer, struct raw *r, struct dt_error *err)
{
    int ret = r->xdp_use == XDP_NEVER || r->away ? 0 : xdp_open(layer, r, err);

    if (ret < 0 && r->xdp_use == XDP_IF_POSSIBLE) {
        dt_layer_event(layer, "no-xdp", "%s: packet sockets alone: %s", r->ifname, err->text);
        ret = 0;
    }
    return ret;
}

int raw_open(struct dt_layer *layer, struct dt_error *err)
{
    struct raw *r = dt_layer_data(layer);
    unsigned threads = MIN(dt_layer_threads(layer), THREADS_MAX), group = 0;
    int ret = 0;

    r->xdp = (struct xdp){.map = -1, .program = -1, .link = -1};
    r->carrier.fd = -1;
    if (strlen(r->ifname) >= IFNAMSIZ || !*r->ifname)
        return dt_fail(err, -EINVAL, "ifname '%.40s' has not 1 to %d characters", r->ifname,
                       IFNAMSIZ - 1);
    for (unsigned i = 0; ret == 0 && i < threads; i++) {
        ret = open_queue(r, err);
        if (ret == 0 && threads > 1 && !r->away)
            ret = join_group(r, r->fds[i], &group, err);
    }
    ret = ret ?: open_xdp(layer, r, err);
    if (ret < 0)
        raw_close(layer);
    else if (!r->away)
        carrier_open(&r->carrier, r->ifname);
    return ret;
}

int raw_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct raw *r = dt_layer_data(layer);

    if (r->away && !r->known) {
        *err = r->why;
        return -ENODEV;
    }
    info->mtu = r->mtu;
    info->link = r->away ? DT_LINK_DOWN : carrier_state(&r->carrier);
    return 0;
}

/* ---- What a successor is to know ---- */

int64_t raw_save(struct dt_layer *layer, void *buf, size_t size)
{
    const struct raw *r = dt_layer_data(layer);

    if (size < sizeof(r->mtu))
        return -ENOSPC;
    memcpy(buf, &r->mtu, sizeof(r->mtu));
    return sizeof(r->mtu);
}

int raw_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err)
{
    struct raw *r = dt_layer_data(layer);
    uint16_t mtu;

    if (size != sizeof(mtu))
        return dt_fail(err, -EINVAL, "what it knew of its interface has %zu bytes", size);
    memcpy(&mtu, buf, sizeof(mtu));
    r->known = mtu >= 68;
    if (r->away)
        r->mtu = mtu;
    return 0;
}
