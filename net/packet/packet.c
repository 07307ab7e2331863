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
 * With an AF_XDP socket beside it (xdp.c) frames that are for neither this host nor a group come from there, and what is
 * no super-frame goes there. The rest has the packet socket as before: groups, whose frames this host gets too, super-frames, and
 * what is longer than the memory of AF_XDP.
 *
 * A successor of a process that was killed has sockets of its own. What they got before it served is thrown away: most of
 * it reached the guest through its predecessor.
 */
#include "net/packet/internal.h"

#include "base/bytes.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#define HEADER_BYTES \
    offsetof(struct dt_vnet_header, num_buffers) /* the kernel's has no such field */
#define TAG_BYTES 4u

struct raw_ctx {
    struct port_in in;
    struct port_out out;
    struct xdp_queue *xq; /* or NULL */
};

static const char *const xdp_uses[] = {
    [XDP_NEVER] = "off", [XDP_IF_POSSIBLE] = "auto", [XDP_ALWAYS] = "on", NULL};

#define FIELD(field) .offset = offsetof(struct raw, field)
static const struct dt_param params[] = {
    {"ifname", DT_PARAM_STRING, DT_PARAM_REQUIRED, FIELD(ifname), .unit = "name",
     .help = "The interface, which must be there."},
    {"promiscuous", DT_PARAM_BOOL, FIELD(promiscuous), .initial = "on",
     .help = "Have it receive what is not for its own address; the guest's is another one."},
    {"xdp", DT_PARAM_ENUM, FIELD(xdp_use), .initial = "off", .choices = xdp_uses,
     .help = "Frames for others than this host by AF_XDP, past its stack: auto = where that is "
             "possible, on = or not at all."},
    {NULL},
};

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
    [XDP_SENT] = {"xdp-sent", "packets", "Sent by AF_XDP; the others went by a packet socket."},
    [XDP_RECEIVED] = {"xdp-received", "packets", "Received by AF_XDP."},
    [XDP_MISSED] =
        {"xdp-missed", "packets",
         "Dropped by the kernel because they came faster than they were read by AF_XDP."},
    {NULL},
};

/* ---- To the wire ---- */

/* False: it takes nothing now. */
static bool write_one(struct dt_ctx *c, struct dt_packet *p)
{
    struct dt_vnet_header v;
    struct iovec iov[2] = {{&v, HEADER_BYTES}, {p->data, p->length}};
    const struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    const struct raw *r = c->layer_data;

    dt_vnet_write(p, &v);
    if (likely(sendmsg(r->fds[c->thread], &m, MSG_DONTWAIT) >= 0))
        dt_sent(c, &p, 1);
    else if (errno == EAGAIN)
        return false;
    else
        dt_drop_one(c, p, TX_REFUSED);
    return true;
}

static unsigned raw_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (likely(write_one(out->c, packets[i])))
            continue;
        out->blocked = true;
        return i;
    }
    return n;
}

/* AF_XDP sends what it gets, and a checksum costs less than the way through the stack. */
static void complete_checksum(struct dt_packet *p)
{
    const struct dt_headers *h = dt_headers(p);
    uint16_t sum = htons(dt_transport_checksum(p));

    memcpy(p->data + h->l4 + (h->flags & DT_HDR_TCP ? 16 : 6), &sum, sizeof(sum));
    p->needs = 0;
}

/* What was put before a packet that goes the other way leaves before it. */
static unsigned raw_write_xdp(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    struct xdp_queue *xq = container_of(out, struct raw_ctx, out)->xq;
    unsigned done = 0, put = 0;

    for (; done < n && !out->blocked; done++) {
        struct dt_packet *p = packets[done];

        if (likely(xq_takes(xq, p))) {
            if (p->needs)
                complete_checksum(p);
            out->blocked = !xq_put(xq, p);
            if (out->blocked)
                break;
            put++;
            dt_sent(out->c, &p, 1);
            continue;
        }
        xq_flush(xq);
        out->blocked = !write_one(out->c, p);
        if (out->blocked)
            break;
    }
    dt_count(out->c, XDP_SENT, put);
    xq_flush(xq);
    if (unlikely(out->blocked))
        xq_retry(xq);
    return done;
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
    if (rc->xq)
        xq_resume(rc->xq);
}

static void raw_quiesce(struct dt_ctx *c, uint64_t deadline)
{
    struct raw_ctx *rc = c->data;

    port_out_let_go(&rc->out);
}

static void raw_stop(struct dt_ctx *c)
{
    struct raw *r = c->layer_data;
    struct raw_ctx *rc = c->data;

    carrier_stop(&r->carrier, c);
    port_in_close(&rc->in);
    if (rc->xq)
        xq_stop(rc->xq);
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
    struct raw *r = c->layer_data;
    struct raw_ctx *rc = c->data;
    int fd = r->fds[c->thread];

    dt_layer_state_changed(c->layer); /* a successor may find it gone */
    if (r->away && c->thread == 0)
        dt_layer_event(c->layer, "interface-gone", "%s: nothing is sent or received any more",
                       r->why.text);
    rc->xq = r->queues[c->thread];
    rc->in = (struct port_in){
        .read = raw_read, .ended = ended, .c = c, .memory = RX_MEMORY, .interface = true};
    rc->out =
        (struct port_out){.write = rc->xq ? raw_write_xdp : raw_write, .c = c, .full = TX_FULL};
    throw_away(fd);
    if (port_out_open(&rc->out, rc->xq ? -1 : fd) == 0 && port_in_open(&rc->in, fd) == 0 &&
        (!rc->xq || xq_start(rc->xq, c, &rc->out, ended) == 0)) {
        if (c->thread == 0)
            carrier_start(&r->carrier, c);
        return 0;
    }
    port_in_close(&rc->in);
    port_out_close(&rc->out);
    return dt_fail(err, -EIO, "cannot watch %s", r->ifname);
}

extern const struct dt_net_ext net_packet;
const struct dt_net_ext net_packet = {
    DT_NET_EXT_HEADER,
    .name = "packet",
    .summary = "A network interface of the host, raw, with offloads and a queue for each thread",
    .help = "The guest is on the interface's wire, beside this host: what the guest sends goes out "
            "there, "
            "and what comes in reaches the guest as it reaches the host. This host and the guest "
            "do not see each "
            "other, as with macvtap.",
    .flags = DT_BACK | DT_PER_QUEUE | DT_STATE_OF_RUN,
    /* The kernel's virtio header tells of UDP super-frames since 6.2 alone. */
    .takes = DT_OFFLOAD_CSUM | DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6 | DT_OFFLOAD_UFO,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct raw),
    .ctx_size = sizeof(struct raw_ctx),
    .open = raw_open,
    .close = raw_close,
    .start = raw_start,
    .stop = raw_stop,
    .info = raw_info,
    .save = raw_save,
    .load = raw_load,
    .state_version = 1,
    .transmit = raw_transmit,
    .resume = raw_resume,
    .quiesce = raw_quiesce,
};
