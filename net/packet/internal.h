/* SPDX-License-Identifier: MIT */
/* internal.h - the back `packet`: a packet socket for each thread, and in front of it an AF_XDP socket where it is
 * asked for. */
#ifndef NET_PACKET_INTERNAL_H
#define NET_PACKET_INTERNAL_H

#include "net/port/carrier.h"
#include "net/port/port.h"

#define THREADS_MAX 64u

enum xdp_use { XDP_NEVER, XDP_IF_POSSIBLE, XDP_ALWAYS };

enum {
    TX_REFUSED,
    TX_FULL,
    RX_SHORT,
    RX_LONG,
    RX_HEADER,
    RX_MEMORY,
    XDP_SENT,
    XDP_RECEIVED,
    XDP_MISSED
};

/** struct xdp - what makes the kernel give frames to AF_XDP sockets; they end with the process, however it ends. */
struct xdp {
    int map, program, link;
    bool native; /* the driver runs the program, and not the kernel after it */
};

struct xdp_queue;

/** struct raw - @away: there is no such interface, which @why says; @known: there was, for a worker before this one. */
struct raw {
    const char *ifname;
    bool promiscuous;
    unsigned xdp_use; /* enum xdp_use */
    unsigned index;
    uint16_t mtu;
    uint8_t mac[6];
    int fds[THREADS_MAX];
    unsigned nfds;
    bool away, known;
    struct dt_error why;
    struct carrier carrier;
    struct xdp xdp;
    struct xdp_queue *queues[THREADS_MAX]; /* NULL: this thread has the packet socket alone */
};

/* ---- open.c ---- */

int raw_open(struct dt_layer *layer, struct dt_error *err);
void raw_close(struct dt_layer *layer);
int raw_info(struct dt_layer *layer, struct dt_net_info *info, struct dt_error *err);
int64_t raw_save(struct dt_layer *layer, void *buf, size_t size);
int raw_load(struct dt_layer *layer, const void *buf, size_t size, uint32_t version,
             struct dt_error *err);

/* ---- xdp.c ---- */

/** xdp_open() - an AF_XDP socket for each thread that there is a queue for. Nothing is left behind when it fails. */
int xdp_open(struct dt_layer *layer, struct raw *r, struct dt_error *err);
void xdp_close(struct raw *r);

/* ---- xdp-queue.c: an AF_XDP socket ---- */

/** xq_new() - on @queue of the interface, which copies if it has to or if it should. Return: 0 or -errno, and an error. */
int xq_new(struct xdp_queue **xq, const struct raw *r, unsigned queue, struct dt_error *err);
/** xq_free() - NULL is harmless. */
void xq_free(struct xdp_queue *xq);
/** xq_most() - the longest frame that it takes in either direction, with an interface of that MTU. */
uint32_t xq_most(const struct raw *r);
/** xq_join() - have the program whose map this is give it its queue's frames. */
int xq_join(struct xdp_queue *xq, int map, struct dt_error *err);
bool xq_zero_copy(const struct xdp_queue *xq);

/** xq_start() - read, and be where @out writes to: it is unblocked when something can be written again. */
int xq_start(struct xdp_queue *xq, struct dt_ctx *c, struct port_out *out,
             void (*ended)(struct port_in *in, int error));
void xq_stop(struct xdp_queue *xq);
void xq_resume(struct xdp_queue *xq);
/** xq_takes() - can @p go this way now? */
bool xq_takes(const struct xdp_queue *xq, const struct dt_packet *p);
/** xq_put() - copy @p, which it takes; false = there is no room. */
bool xq_put(struct xdp_queue *xq, const struct dt_packet *p);
/** xq_flush() - what was put goes to the wire. */
void xq_flush(struct xdp_queue *xq);
/** xq_retry() - @out is blocked: unblock it in a moment. */
void xq_retry(struct xdp_queue *xq);

#endif
