/* SPDX-License-Identifier: MIT */
/*
 * xdp-queue.c - an AF_XDP socket: frames in memory that the kernel shares with this process, and four rings of their addresses
 * (Documentation/networking/af_xdp.rst).
 *
 * Theory of operation: one half of the frames is for what comes: they go round from the fill ring to the receive ring and
 * back. The other half is for what is sent: from the list of free ones to the transmit ring, and back by the completion
 * ring. Each ring has room for all the frames that can ever be in it, so none is full when there is something to put in.
 *
 * The kernel sends when it is told to, and not all at once. What is left in the ring then, and whoever waits for
 * a free frame, has a timer. While the interface is down or gone nothing more is put into the ring: it would go out
 * when the interface is up again, however late that is.
 */
#include "net/packet/internal.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#define RING          1024u /* frames in each direction */
#define HEADROOM      256u  /* XDP_PACKET_HEADROOM: the kernel's, in each frame */
#define SMALL_FRAME   2048u
#define BIG_FRAME     4096u
#define LINK_BYTES    22u /* of a frame beside the MTU: Ethernet, two tags */
#define RETRY_NS      DT_US(100)
#define RETRY_DOWN_NS DT_MS(10)

struct xdp_queue {
    struct xsk_umem *umem;
    struct xsk_socket *socket;
    struct xsk_ring_prod fill, tx;
    struct xsk_ring_cons completed, rx;
    uint8_t *memory;
    uint32_t frame, most;
    uint32_t nput; /* in the transmit ring, not yet shown */
    bool down;
    uint32_t nfree;
    uint64_t free[RING];
    uint32_t nread; /* since there was nothing to read */
    uint64_t missed;
    struct dt_ctx *c;
    struct port_in in;
    struct port_out *out;
    struct dt_timer retry;
};

/* ---- Opening ---- */

static uint32_t frame_bytes(const struct raw *r)
{
    return r->mtu + LINK_BYTES <= SMALL_FRAME - HEADROOM ? SMALL_FRAME : BIG_FRAME;
}

uint32_t xq_most(const struct raw *r)
{
    return frame_bytes(r) - HEADROOM;
}

static int open_socket(struct xdp_queue *xq, const struct raw *r, unsigned queue)
{
    const struct xsk_umem_config frames = {
        .fill_size = RING, .comp_size = RING, .frame_size = xq->frame};
    const struct xsk_socket_config config = {
        .rx_size = RING,
        .tx_size = RING,
        .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
        .bind_flags = (uint16_t)(XDP_USE_NEED_WAKEUP | (r->xdp.native ? 0 : XDP_COPY)),
    };
    int ret = xsk_umem__create(&xq->umem, xq->memory, 2 * RING * (uint64_t)xq->frame, &xq->fill,
                               &xq->completed, &frames);

    return ret
               ?: xsk_socket__create(&xq->socket, r->ifname, queue, xq->umem, &xq->rx, &xq->tx,
                                     &config);
}

static void lay_out(struct xdp_queue *xq)
{
    uint32_t at;

    CHECK(xsk_ring_prod__reserve(&xq->fill, RING, &at) == RING);
    for (uint32_t i = 0; i < RING; i++) {
        *xsk_ring_prod__fill_addr(&xq->fill, at + i) = (uint64_t)i * xq->frame;
        xq->free[i] = (uint64_t)(RING + i) * xq->frame;
    }
    xsk_ring_prod__submit(&xq->fill, RING);
    xq->nfree = RING;
}

int xq_new(struct xdp_queue **made, const struct raw *r, unsigned queue, struct dt_error *err)
{
    struct xdp_queue *xq = xcalloc(1, sizeof(*xq));
    int ret = -ENOMEM;

    xq->frame = frame_bytes(r);
    xq->most = xq_most(r);
    xq->memory = mmap(NULL, 2 * RING * (size_t)xq->frame, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (xq->memory == MAP_FAILED)
        xq->memory = NULL;
    else
        ret = open_socket(xq, r, queue);
    if (ret < 0) {
        xq_free(xq);
        return dt_fail(err, ret, "AF_XDP socket on queue %u of '%s': %s", queue, r->ifname,
                       strerror(-ret));
    }
    lay_out(xq);
    *made = xq;
    return 0;
}

void xq_free(struct xdp_queue *xq)
{
    if (!xq)
        return;
    if (xq->socket)
        xsk_socket__delete(xq->socket);
    if (xq->umem)
        xsk_umem__delete(xq->umem);
    if (xq->memory)
        munmap(xq->memory, 2 * RING * (size_t)xq->frame);
    free(xq);
}

int xq_join(struct xdp_queue *xq, int map, struct dt_error *err)
{
    int ret = xsk_socket__update_xskmap(xq->socket, map);

    return ret < 0 ? dt_fail(err, ret, "AF_XDP socket: %s", strerror(-ret)) : 0;
}

bool xq_zero_copy(const struct xdp_queue *xq)
{
    struct xdp_options options = {0};
    socklen_t size = sizeof(options);

    return getsockopt(xsk_socket__fd(xq->socket), SOL_XDP, XDP_OPTIONS, &options, &size) == 0 &&
           options.flags & XDP_OPTIONS_ZEROCOPY;
}

/* ---- To the wire ---- */

bool xq_takes(const struct xdp_queue *xq, const struct dt_packet *p)
{
    return !(p->needs & DT_OFFLOAD_SUPER) && p->length <= xq->most && !xq->down;
}

static void reclaim(struct xdp_queue *xq)
{
    uint32_t at, n = xsk_ring_cons__peek(&xq->completed, RING, &at);

    CHECK(xq->nfree + n <= RING);
    for (uint32_t i = 0; i < n; i++)
        xq->free[xq->nfree++] = *xsk_ring_cons__comp_addr(&xq->completed, at + i);
    xsk_ring_cons__release(&xq->completed, n);
}

bool xq_put(struct xdp_queue *xq, const struct dt_packet *p)
{
    struct xdp_desc *desc;
    uint32_t at;

    if (unlikely(xq->nfree == 0))
        reclaim(xq);
    if (unlikely(xq->nfree == 0))
        return false;
    CHECK(xsk_ring_prod__reserve(&xq->tx, 1, &at) == 1);
    desc = xsk_ring_prod__tx_desc(&xq->tx, at);
    *desc = (struct xdp_desc){.addr = xq->free[--xq->nfree], .len = p->length};
    memcpy(xq->memory + desc->addr, p->data, p->length);
    xq->nput++;
    return true;
}

static void retry_at(struct xdp_queue *xq, uint64_t when)
{
    if (!xq->retry.heap_index)
        dt_timer_set(xq->c, &xq->retry, when);
}

void xq_retry(struct xdp_queue *xq)
{
    retry_at(xq, dt_now(xq->c) + RETRY_NS);
}

/* A system call sends a number of frames, and fails where there are more; so what is left counts, and not what it says. */
static void send_all(struct xdp_queue *xq)
{
    int fd = xsk_socket__fd(xq->socket), ret = 0;

    if (xsk_ring_prod__needs_wakeup(&xq->tx))
        ret = sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
    xq->down = ret == ENETDOWN || ret == ENXIO;
    if (ret)
        retry_at(xq, dt_now(xq->c) + (xq->down ? RETRY_DOWN_NS : RETRY_NS));
}

void xq_flush(struct xdp_queue *xq)
{
    if (xq->nput == 0)
        return;
    xsk_ring_prod__submit(&xq->tx, xq->nput);
    xq->nput = 0;
    send_all(xq);
}

static void run_retry(struct dt_timer *timer)
{
    struct xdp_queue *xq = container_of(timer, struct xdp_queue, retry);

    send_all(xq);
    reclaim(xq);
    if (xq->out->blocked)
        port_out_unblock(xq->out);
}

/* ---- From the wire ---- */

/* Asked once for each ringful that was read without a pause: nothing is missed unless the ring was full. */
static void count_missed(struct xdp_queue *xq)
{
    struct xdp_statistics s = {0};
    socklen_t size = sizeof(s);

    if (getsockopt(xsk_socket__fd(xq->socket), SOL_XDP, XDP_STATISTICS, &s, &size) < 0)
        return;
    dt_count(xq->c, XDP_MISSED, s.rx_dropped + s.rx_ring_full - xq->missed);
    xq->missed = s.rx_dropped + s.rx_ring_full;
}

static void drained(struct xdp_queue *xq)
{
    xq->nread = 0;
    if (xsk_ring_prod__needs_wakeup(&xq->fill)) /* a driver that found no frame */
        recvfrom(xsk_socket__fd(xq->socket), NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static void give_back(struct xdp_queue *xq, uint64_t address)
{
    uint32_t at;

    xsk_ring_cons__release(&xq->rx, 1);
    CHECK(xsk_ring_prod__reserve(&xq->fill, 1, &at) == 1);
    *xsk_ring_prod__fill_addr(&xq->fill, at) = address - address % xq->frame;
    xsk_ring_prod__submit(&xq->fill, 1);
    if (++xq->nread == RING) {
        xq->nread = 0;
        count_missed(xq);
    }
}

static struct dt_packet *xq_read(struct port_in *in)
{
    struct xdp_queue *xq = container_of(in, struct xdp_queue, in);
    struct dt_packet *p;
    struct xdp_desc desc;
    uint32_t at;

    if (xsk_ring_cons__peek(&xq->rx, 1, &at) == 0) {
        drained(xq);
        errno = EAGAIN;
        return NULL;
    }
    desc = *xsk_ring_cons__rx_desc(&xq->rx, at);
    p = dt_packet_new(xq->c, desc.len);
    if (unlikely(!p)) {
        xsk_ring_cons__cancel(&xq->rx, 1);
        errno = ENOBUFS;
        return NULL;
    }
    memcpy(p->data, xq->memory + desc.addr, desc.len);
    give_back(xq, desc.addr);
    dt_count(xq->c, XDP_RECEIVED, 1);
    return p;
}

/* What came while nobody read. */
static void throw_away(struct xdp_queue *xq)
{
    uint32_t at;

    for (unsigned i = 0; i < RING && xsk_ring_cons__peek(&xq->rx, 1, &at); i++)
        give_back(xq, xsk_ring_cons__rx_desc(&xq->rx, at)->addr);
    count_missed(xq);
}

/* ---- Life ---- */

int xq_start(struct xdp_queue *xq, struct dt_ctx *c, struct port_out *out,
             void (*ended)(struct port_in *in, int error))
{
    xq->c = c;
    xq->out = out;
    xq->retry.fire = run_retry;
    xq->in = (struct port_in){.read = xq_read, .ended = ended, .c = c, .memory = RX_MEMORY};
    throw_away(xq);
    return port_in_open(&xq->in, xsk_socket__fd(xq->socket));
}

void xq_stop(struct xdp_queue *xq)
{
    port_in_close(&xq->in);
    dt_timer_cancel(xq->c, &xq->retry);
}

void xq_resume(struct xdp_queue *xq)
{
    port_in_resume(&xq->in);
}
