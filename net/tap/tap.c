/* SPDX-License-Identifier: MIT */
/*
 * tap.c - a TAP interface of the kernel: the guest's card is the other end of it.
 *
 * Theory of operation: each thread has a queue of the interface, opened before the process is confined. What is left
 * to do on a packet travels with it, in the header that TUNSETVNETHDRSZ describes: the kernel cuts
 * super-frames and completes checksums, or hands them to a card or a guest that does.
 *
 * Of long packets the kernel copies all but the headers from the guest's memory itself: nobody here judges those bytes.
 *
 * Reading stops while the guest has no buffers, so the interface's own queue bears what comes, and
 * drops there as a card's would. Writing does not wait: what the kernel has no memory for is dropped
 * and counted.
 */
#include "net/port/carrier.h"
#include "net/port/port.h"
#include "net/port/tun.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#define THREADS_MAX 64u

struct tap {
    const char *ifname;
    char name[IFNAMSIZ];
    int fds[THREADS_MAX];
    unsigned nfds;
    uint16_t mtu; /* as it was then: who is confined may not ask */
    struct carrier carrier;
};

struct tap_ctx {
    struct port_in in;
};

static const struct dt_param params[] = {
    {.name = "ifname",
     .type = DT_PARAM_STRING,
     .flags = DT_PARAM_REQUIRED,
     .offset = offsetof(struct tap, ifname),
     .unit = "name",
     .help = "The interface; made if it is not there and the process may make it."},
    {NULL},
};

enum { TX_FULL, RX_SHORT, RX_HEADER, RX_MEMORY };
static const struct dt_counter counters[] = {
    [TX_FULL] = {"tx-full", "packets", "Dropped because the kernel could not take them."},
    [RX_SHORT] = {"rx-short", "packets", "Dropped because they were no whole frame."},
    [RX_HEADER] = {"rx-header", "packets",
                   "Dropped because what the kernel said of them contradicts them."},
    [RX_MEMORY] = {"rx-memory", "times",
                   "Reading stopped because all memory for packets was in use."},
    {NULL},
};

/* ---- Opening ---- */

static void close_all(struct tap *t)
{
    for (unsigned i = 0; i < t->nfds; i++)
        close(t->fds[i]);
    carrier_close(&t->carrier);
}

static int find_mtu(struct tap *t, struct dt_error *err)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};

    memcpy(request.ifr_name, t->name, IFNAMSIZ);
    if (fd < 0 || ioctl(fd, SIOCGIFMTU, &request) < 0)
        return dt_fail(err, -errno, "interface '%s': %s", t->name, strerror(errno));
    t->mtu = (uint16_t)MIN(request.ifr_mtu, 65535);
    return 0;
}

static int tap_open(struct dt_layer *layer, struct dt_error *err)
{
    struct tap *t = dt_layer_data(layer);
    unsigned threads = dt_layer_threads(layer);
    int ret = 0;

    t->carrier.fd = -1;
    ret = port_tun_name(t->name, t->ifname, err);
    for (unsigned i = 0; ret == 0 && i < threads; i++) {
        int fd = port_tun_open(layer, t->name, IFF_TAP, threads > 1, err);

        if (fd >= 0)
            t->fds[t->nfds++] = fd;
        ret = MIN(fd, 0);
    }
    ret = ret ?: find_mtu(t, err);
    if (ret < 0)
        close_all(t);
    else
        carrier_open(&t->carrier, t->name);
    return ret;
}

static void tap_close(struct dt_layer *layer)
{
    close_all(dt_layer_data(layer));
}

static int tap_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err)
{
    const struct tap *t = dt_layer_data(layer);

    info->mtu = t->mtu;
    info->link = carrier_state(&t->carrier);
    return 0;
}

/* ---- To the wire ---- */

static void tap_transmit(struct dt_ctx *c, struct dt_packet **packets, unsigned n)
{
    const struct tap *t = c->layer_data;
    struct tap_ctx *tc = c->data;
    int fd = t->fds[c->thread];

    for (unsigned i = 0; i < n; i++) {
        if (likely(port_tun_write(fd, packets[i], 0, packets[i]->length)))
            dt_sent(c, &packets[i], 1);
        else
            dt_drop_one(c, packets[i], TX_FULL);
    }
    port_in_expect(&tc->in);
}

/* ---- From the wire ---- */

static struct dt_packet *tap_read(struct port_in *in)
{
    struct dt_vnet_header v;
    struct dt_packet *p = port_tun_read(in, 0, PORT_LEAST, RX_SHORT, &v);

    return p ? port_offloads(in->c, p, &v, RX_HEADER) : NULL;
}

static void tap_ended(struct port_in *in, int error)
{
    const struct tap *t = in->c->layer_data;

    dt_layer_event(in->c->layer, "interface-gone", "%s: %s: nothing is received any more", t->name,
                   strerror(error));
}

static void tap_resume(struct dt_ctx *c)
{
    struct tap_ctx *tc = c->data;

    port_in_resume(&tc->in);
}

static int tap_start(struct dt_ctx *c, struct dt_error *err)
{
    struct tap *t = c->layer_data;
    struct tap_ctx *tc = c->data;

    dt_peek(c, true);
    tc->in = (struct port_in){
        .read = tap_read, .ended = tap_ended, .c = c, .memory = RX_MEMORY, .interface = true};
    if (port_in_open(&tc->in, t->fds[c->thread]) < 0)
        return dt_fail(err, -EIO, "cannot watch %s", t->name);
    if (c->thread == 0)
        carrier_start(&t->carrier, c);
    return 0;
}

static void tap_stop(struct dt_ctx *c)
{
    struct tap *t = c->layer_data;
    struct tap_ctx *tc = c->data;

    carrier_stop(&t->carrier, c);
    port_in_close(&tc->in);
}

const struct dt_net_ext net_tap = {
    DT_NET_EXT_HEADER,
    .name = "tap",
    .summary = "A TAP interface of the host's kernel, with offloads and a queue for each thread",
    .help =
        "The interface is the other end of the guest's card: bridge it, route it, or give it an "
        "address. One that is not there is made, where the process may, and goes when the "
        "process ends; one made before with 'ip tuntap add dev NAME mode tap vnet_hdr' stays.",
    .flags = DT_BACK | DT_PER_QUEUE,
    .takes = DT_OFFLOAD_ALL | DT_OFFLOAD_FETCH,
    .params = params,
    .counters = counters,
    .layer_size = sizeof(struct tap),
    .ctx_size = sizeof(struct tap_ctx),
    .open = tap_open,
    .close = tap_close,
    .start = tap_start,
    .stop = tap_stop,
    .info = tap_info,
    .transmit = tap_transmit,
    .resume = tap_resume,
};
