/* SPDX-License-Identifier: MIT */
/* tun.c - see tun.h. */
#include "net/port/tun.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define BUSY_TRIES 200u /* two seconds */
/* Of the rest of a packet: Linux's drivers have 18, and memory regions may part some. */
#define PIECES 24u

static int set_up(struct dt_layer *layer, int fd, struct dt_error *err)
{
    /* The kernel takes datagrams to be fragmented, and since 4.14 gives none. */
    const unsigned plain = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
    int header = sizeof(struct dt_vnet_header);

    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
        return dt_fail(err, -errno, "TUNSETVNETHDRSZ: %s", strerror(errno));
    if (ioctl(fd, TUNSETOFFLOAD, plain | TUN_F_USO4 | TUN_F_USO6) == 0)
        return 0;
    dt_layer_takes(layer, DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6 | DT_OFFLOAD_UFO |
                              DT_OFFLOAD_FETCH);
    if (ioctl(fd, TUNSETOFFLOAD, plain) < 0)
        return dt_fail(err, -errno, "TUNSETOFFLOAD: %s", strerror(errno));
    return 0;
}

static const char *advice(int error, short kind)
{
    switch (error) {
    case EPERM:
        return kind == IFF_TAP
                   ? " (run as root, or: ip tuntap add dev NAME mode tap vnet_hdr user USER)"
                   : " (run as root: it needs CAP_NET_ADMIN)";
    case EBUSY:
        return " (somebody else has it)";
    case EINVAL:
        return kind == IFF_TAP ? " (is it a TAP interface, and multi_queue only if this device has "
                                 "several threads?)"
                               : " (is there an interface of that name, which is no TUN?)";
    case ENOENT:
        return " (modprobe tun)";
    default:
        return "";
    }
}

/* A worker that died a moment ago may still have it. */
static int attach(int fd, struct ifreq *request)
{
    for (unsigned i = 0; ioctl(fd, TUNSETIFF, request) < 0; i++) {
        if (errno != EBUSY || i == BUSY_TRIES)
            return errno;
        usleep(10000);
    }
    return 0;
}

int port_tun_open(struct dt_layer *layer, char name[IFNAMSIZ], short kind, bool multi_queue,
                  struct dt_error *err)
{
    struct ifreq request = {.ifr_flags = (short)(kind | IFF_NO_PI | IFF_VNET_HDR)};
    _cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int ret;

    if (fd < 0)
        return dt_fail(err, -errno, "/dev/net/tun: %s%s", strerror(errno), advice(errno, kind));
    if (multi_queue)
        request.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(request.ifr_name, name, IFNAMSIZ);
    ret = attach(fd, &request);
    if (ret == EINVAL) { /* an interface that was made with multi_queue has to be opened so */
        request.ifr_flags |= IFF_MULTI_QUEUE;
        ret = attach(fd, &request);
    }
    if (ret)
        return dt_fail(err, -ret, "%s interface '%s': %s%s", kind == IFF_TAP ? "TAP" : "TUN", name,
                       strerror(ret), advice(ret, kind));
    memcpy(name, request.ifr_name, IFNAMSIZ);
    ret = set_up(layer, fd, err);
    return ret < 0 ? ret : TAKE_FD(fd);
}

int port_tun_name(char name[IFNAMSIZ], const char *text, struct dt_error *err)
{
    size_t n = strlen(text);

    if (n == 0 || n >= IFNAMSIZ)
        return dt_fail(err, -EINVAL, "ifname '%.40s' has not 1 to %d characters", text,
                       IFNAMSIZ - 1);
    memset(name, 0, IFNAMSIZ);
    memcpy(name, text, n);
    return 0;
}

bool port_tun_write(int fd, struct dt_packet *p, uint32_t from, uint32_t end)
{
    struct dt_vnet_header v;
    struct iovec iov[2 + PIECES] = {{&v, sizeof(v)}, {p->data + from, end - from}};
    unsigned n = 2, rest;

    if (p->needs & DT_OFFLOAD_FETCH) {
        rest = dt_packet_rest(p, iov + n, PIECES);
        if (rest)
            iov[1].iov_len = DT_PEEK_BYTES - from;
        else
            dt_packet_fetch(p);
        n += rest;
    }
    dt_vnet_write(p, &v);
    v.csum_start = (uint16_t)(v.csum_start - (v.csum_start ? from : 0));
    v.hdr_len = (uint16_t)(v.hdr_len - (v.hdr_len ? from : 0));
    return writev(fd, iov, (int)n) >= 0;
}

struct dt_packet *port_tun_read(struct port_in *in, uint32_t from, uint32_t least,
                                unsigned too_short, struct dt_vnet_header *v)
{
    struct dt_packet *p = dt_packet_new(in->c, PORT_LARGEST);
    struct iovec iov[2] = {{v, sizeof(*v)}, {p ? p->data + from : NULL, PORT_LARGEST - from}};
    ssize_t n;

    errno = ENOBUFS;
    if (!p)
        return NULL;
    n = readv(in->watch.fd, iov, 2);
    if (n < 0)
        return port_unread(in->c, p, errno);
    if (n < (ssize_t)(sizeof(*v) + least))
        return port_drop(in->c, p, too_short);
    return port_fit(in->c, p, (uint32_t)n - (uint32_t)sizeof(*v) + from);
}
