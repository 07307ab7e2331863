/* SPDX-License-Identifier: MIT */
/*
 * packet.c - the back `packet`: a network interface of the host, raw; the guest is beside it on its wire.
 *
 * Theory of operation: each thread has a packet socket (packet(7)) on the interface, opened before the process is
 * confined; with several the kernel gives each flow to one of them (PACKET_FANOUT). What is left to do on a packet
 * travels with it in a virtio header (PACKET_VNET_HDR), so what the interface receives as a super-frame stays one. Drivers take
 * an outer VLAN tag out of the frame and tell of it beside it: here it is put back.
 *
 * What this host sends over the interface is not received (PACKET_IGNORE_OUTGOING), for the same reason as with
 * macvtap: it goes to the wire, and the guest is not on the wire but beside the card.
 *
 * A successor of a process that was killed has sockets of its own. What they got before it served is thrown away: most of
 * it reached the guest through its predecessor.
 */
#include "net/port/port.h"

#include "base/bytes.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#ifndef PACKET_IGNORE_OUTGOING /* Linux 4.20 */
#define PACKET_IGNORE_OUTGOING 23
#endif

#define THREADS_MAX 64u
#define QUEUE_BYTES (4 << 20) /* what may wait to be read */
#define HEADER_BYTES \
    offsetof(struct dt_vnet_header, num_buffers) /* the kernel's has no such field */
#define TAG_BYTES 4u

struct raw {
    const char *ifname;
    bool promiscuous;
    unsigned index;
    uint16_t mtu;
    int fds[THREADS_MAX];
    unsigned nfds;
};

struct raw_ctx {
    struct port_in in;
    struct port_out out;
};

#define FIELD(field) .offset = offsetof(struct raw, field)
static const struct dt_param params[] = {
    {"ifname", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(ifname), .unit = "name",
     .help = "The interface, which must be there."},
    {"promiscuous", DT_PARAM_BOOL, FIELD(promiscuous), .initial = "on",
     .help = "Have it receive what is not for its own address; the guest's is another one."},
    {NULL},
};

enum { TX_REFUSED, TX_FULL, RX_SHORT, RX_LONG, RX_HEADER, RX_MEMORY };
static const struct dt_counter counters[] = {
    [TX_REFUSED] =
        {"tx-refused", "packets",
         "Dropped because the interface did not take them: down, gone, full, or too long."},
    [TX_FULL] = {"tx-full", "packets", "Dropped because the interface took nothing for a second."},
    [RX_SHORT] = {"rx-short", "packets", "Dropped because they were no whole frame."},
    [RX_LONG] = {"rx-long", "packets", "Dropped because they were longer than any frame."},
    [RX_HEADER] = {"rx-header", "packets",
                   "Dropped because what the kernel said of them contradicts them."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    {NULL},
};

/* ---- Opening ---- */

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
    if (!r->index)
        ret = find_interface(r, fd, err);
    ret = ret ?: option(fd, PACKET_VNET_HDR, "PACKET_VNET_HDR", err);
    ret = ret ?: option(fd, PACKET_AUXDATA, "PACKET_AUXDATA", err);
    ret = ret ?: option(fd, PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING", err);
    if (ret == 0 && r->promiscuous)
        ret = make_promiscuous(r, fd, err);
    return ret ?: bind_to(r, fd, err);
}

static void raw_close(struct dt_layer *layer)
{
    const struct raw *r = dt_layer_data(layer);

    for (unsigned i = 0; i < r->nfds; i++)
        close(r->fds[i]);
}

static int raw_open(struct dt_layer *layer, struct dt_error *err)
{
    struct raw *r = dt_layer_data(layer);
    unsigned threads = MIN(dt_layer_threads(layer), THREADS_MAX), group = 0;
    int ret = 0;

    if (strlen(r->ifname) >= IFNAMSIZ || !*r->ifname)
        return dt_fail(err, -EINVAL, "ifname '%.40s' has not 1 to %d characters", r->ifname,
                       IFNAMSIZ - 1);
    for (unsigned i = 0; ret == 0 && i < threads; i++) {
        ret = open_queue(r, err);
        if (ret == 0 && threads > 1)
            ret = join_group(r, r->fds[i], &group, err);
    }
    if (ret < 0)
        raw_close(layer);
    return ret;
}

static int raw_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct raw *r = dt_layer_data(layer);

    info->mtu = r->mtu;
    return 0;
}

/* ---- To the wire ---- */

static unsigned raw_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct dt_vnet_header v;
        struct iovec iov[2] = {{&v, HEADER_BYTES}, {packets[i]->data, packets[i]->length}};
        const struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
        const struct raw *r = out->c->layer_data;

        dt_vnet_write(packets[i], &v);
        if (likely(sendmsg(r->fds[out->c->thread], &m, MSG_DONTWAIT) >= 0)) {
            dt_sent(out->c, &packets[i], 1);
        } else if (errno == EAGAIN) {
            out->blocked = true;
            return i;
        } else {
            dt_drop_one(out->c, packets[i], TX_REFUSED);
        }
    }
    return n;
}

/* ---- From the wire ---- */

/** struct tag - an outer VLAN tag that stood in the frame; @tpid 0 = none. */
struct tag {
    uint16_t tpid, tci;
};

static struct tag find_tag(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        struct tpacket_auxdata a;

        if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA ||
            c->cmsg_len < CMSG_LEN(sizeof(a)))
            continue;
        memcpy(&a, CMSG_DATA(c), sizeof(a));
        if (a.tp_status & TP_STATUS_VLAN_VALID)
            return (struct tag){a.tp_status & TP_STATUS_VLAN_TPID_VALID ? a.tp_vlan_tpid
                                                                        : ETH_P_8021Q,
                                a.tp_vlan_tci};
    }
    return (struct tag){0};
}

/* There is room behind the frame. */
static void put_tag(uint8_t *data, uint32_t length, struct tag tag)
{
    memmove(data + 12 + TAG_BYTES, data + 12, length - 12);
    store_be16(data + 12, tag.tpid);
    store_be16(data + 14, tag.tci);
}

/* What is not a frame: @p goes back; errno for the reader. */
static struct dt_packet *failed(struct dt_ctx *c, struct dt_packet *p, int error)
{
    const struct raw *r = c->layer_data;

    if (error == EINVAL) /* a super-frame of a kind that the header cannot tell of */
        return port_drop(c, p, RX_HEADER);
    if (error == ENETDOWN) {
        dt_layer_event(c->layer, "interface-down",
                       "%s is down or gone: nothing comes until it is up", r->ifname);
        error = EINTR;
    }
    return port_unread(c, p, error);
}

static struct dt_packet *judge(struct dt_ctx *c, struct dt_packet *p, struct msghdr *m,
                               struct dt_vnet_header *v, ssize_t n)
{
    uint32_t length = (uint32_t)n - (uint32_t)HEADER_BYTES;
    struct tag tag;

    if (n < (ssize_t)(HEADER_BYTES + PORT_LEAST))
        return port_drop(c, p, RX_SHORT);
    if (m->msg_flags & MSG_TRUNC)
        return port_drop(c, p, RX_LONG);
    tag = find_tag(m);
    if (tag.tpid) {
        put_tag(p->data, length, tag);
        length += TAG_BYTES;
        v->csum_start = (uint16_t)(v->csum_start + TAG_BYTES);
    }
    p = port_fit(c, p, length);
    return port_offloads(c, p, v, RX_HEADER);
}

static struct dt_packet *raw_read(struct port_in *in)
{
    char control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    struct dt_packet *p = dt_packet_new(in->c, PORT_LARGEST);
    struct dt_vnet_header v;
    struct iovec iov[2] = {{&v, HEADER_BYTES}, {p ? p->data : NULL, PORT_LARGEST - TAG_BYTES}};
    struct msghdr m = {
        .msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n;

    errno = ENOBUFS;
    if (!p)
        return NULL;
    n = recvmsg(in->watch.fd, &m, 0);
    return n < 0 ? failed(in->c, p, errno) : judge(in->c, p, &m, &v, n);
}

static void ended(struct port_in *in, int error)
{
    const struct raw *r = in->c->layer_data;

    dt_layer_event(in->c->layer, "interface-gone", "%s: %s: nothing is received any more",
                   r->ifname, strerror(error));
}

/* ---- Life ---- */

static void raw_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    struct raw_ctx *rc = c->data;

    port_out_send(&rc->out, packets, n);
}

static void raw_resume(struct dt_ctx *c)
{
    struct raw_ctx *rc = c->data;

    port_in_resume(&rc->in);
}

static void raw_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct raw_ctx *rc = c->data;

    port_out_let_go(&rc->out);
}

static void raw_stop(struct dt_ctx *c)
{
    struct raw_ctx *rc = c->data;

    port_in_close(&rc->in);
    port_out_close(&rc->out);
}

/* At most as much as there is now: a flood must not keep us. */
static void throw_away(int fd)
{
    char byte;

    for (unsigned i = 0; i < 4096 && recv(fd, &byte, 1, MSG_TRUNC) >= 0; i++)
        ;
}

static int raw_start(struct dt_ctx *c, struct dt_error *err)
{
    const struct raw *r = c->layer_data;
    struct raw_ctx *rc = c->data;
    int fd = r->fds[c->thread];

    rc->in = (struct port_in){.read = raw_read, .ended = ended, .c = c, .memory = RX_MEMORY};
    rc->out = (struct port_out){.write = raw_write, .c = c, .full = TX_FULL};
    throw_away(fd);
    if (port_out_open(&rc->out, fd) < 0 || port_in_open(&rc->in, fd) < 0) {
        port_out_close(&rc->out);
        return dt_fail(err, -EIO, "cannot watch %s", r->ifname);
    }
    return 0;
}

const struct dt_net_ext net_packet = {
    DT_NET_EXT_HEADER,
    .name = "packet",
    .summary = "A network interface of the host, raw, with offloads and a queue for each thread",
    .help = "The guest is on the interface's wire, beside this host: what the guest sends goes out "
            "there, "
            "and what comes in reaches the guest as it reaches the host. This host and the guest "
            "do not see each "
            "other, as with macvtap.",
    .flags = DT_BACK | DT_PER_QUEUE,
    /* The kernel's virtio header tells of UDP super-frames since 6.2 alone. */
    .takes = DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct raw),
    .ctx_size = sizeof(struct raw_ctx),
    .open = raw_open,
    .close = raw_close,
    .start = raw_start,
    .stop = raw_stop,
    .info = raw_info,
    .transmit = raw_transmit,
    .resume = raw_resume,
    .quiesce = raw_quiesce,
};
