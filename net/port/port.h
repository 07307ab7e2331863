/* SPDX-License-Identifier: MIT */
/*
 * port.h - what backs have in common whose wire is a descriptor: reading while the guest takes packets, and
 * writing while the descriptor does.
 *
 * Theory of operation: both ends of a card may be slower than the other. Towards the guest, reading stops
 * while it has no buffers, so what comes waits where it came from, and is dropped there, as in a card.
 * Towards the wire, packets that the descriptor does not take are held: their descriptors stay outstanding
 * in the guest's ring, which fills, and the guest's own queue bears it. But nobody is waited for longer
 * than PORT_PATIENCE: then what is held is dropped, and all that comes until something can be written again;
 * a guest whose ring stands still for seconds takes its card for broken.
 */
#ifndef NET_PORT_PORT_H
#define NET_PORT_PORT_H

#include "base/base.h"
#include "base/fifo.h"
#include <devtap/net.h>

#define PORT_BURST    64u
#define PORT_LARGEST  65600u /* the largest frame that a packet holds */
#define PORT_LEAST    14u    /* and the least: an Ethernet header */
#define PORT_PATIENCE DT_S(1)

FIFO(packet_fifo, dt_packet)

/* ---- To the guest (in.c) ---- */

/**
 * struct port_in - a descriptor that frames come from. Embed it, zero but for the first fields.
 * @read:   the next frame; or NULL with errno: EAGAIN there is none now, EBADMSG one was dropped and counted,
 *          ENOBUFS there is no memory for packets now; anything else is the end.
 * @ended:  reading has come to its end, with that error. May call port_in_close().
 * @memory: counter of the layer: how often reading stopped for want of memory.
 * @interface: it is that of an interface, which may be deleted while the guest takes nothing: so it is looked after then, ever
 *          more seldom.
 * @buffered: set by @read: it has bytes that the descriptor will not tell of again.
 */
struct port_in {
    struct dt_packet *(*read)(struct port_in *in);
    void (*ended)(struct port_in *in, int error);
    struct dt_ctx *c;
    unsigned memory;
    bool interface, buffered;
    bool open, watching;
    uint64_t reads; /* packets that came */
    unsigned rest;  /* how often port_in_expect() does nothing */
    struct dt_watch watch;
    struct dt_timer again, look;
    uint64_t pause; /* of @look */
};

/** port_in_open() - begin to read @fd, which is non-blocking and stays the caller's. Return: 0 or -errno. */
int port_in_open(struct port_in *in, int fd);
/** port_in_close() - harmless if it is not open. */
void port_in_close(struct port_in *in);
/** port_in_resume() - from the layer's callback of that name. */
void port_in_resume(struct port_in *in);
/** port_in_expect() - something was sent that whoever is behind the descriptor may have answered already, as the host's own
 *  stack does while it takes it: read at the end of this turn, sooner than the descriptor is known to be readable. */
void port_in_expect(struct port_in *in);
/** port_fit() - @p was read into room for the largest frame, and has @length bytes: a packet of a size that suits
 *  it, which may be another one. */
struct dt_packet *port_fit(struct dt_ctx *c, struct dt_packet *p, uint32_t length);

/* How struct port_in's @read ends. Each returns what that is to return. */

/** port_drop() - @p is dropped and counted. */
struct dt_packet *port_drop(struct dt_ctx *c, struct dt_packet *p, unsigned counter);
/** port_unread() - nothing came to fill @p with: @error, as errno has it. */
struct dt_packet *port_unread(struct dt_ctx *c, struct dt_packet *p, int error);
/** port_offloads() - @p, with what @v says is left to do on it; or dropped and counted where that contradicts it. */
struct dt_packet *port_offloads(struct dt_ctx *c, struct dt_packet *p,
                                const struct dt_vnet_header *v, unsigned counter);

/* ---- To the wire (out.c) ---- */

/**
 * struct port_out - a descriptor that frames go to. Embed it, zero but for the first fields.
 * @write: take the first of these packets, and say how many; each is sent or dropped when it returns.
 *         It takes all, unless it sets @blocked: the descriptor takes no more now. May be called with none.
 * @full:  counter of the layer: packets dropped because the descriptor took nothing for too long.
 */
struct port_out {
    unsigned (*write)(struct port_out *out, struct dt_packet **packets, unsigned n);
    struct dt_ctx *c;
    unsigned full;
    bool blocked;
    bool open, watching, gave_up;
    struct packet_fifo waiting;
    struct dt_watch watch; /* a duplicate: @fd may be watched for reading, too */
    struct dt_timer patience;
};

/** port_out_open() - begin to write to @fd, which is non-blocking and stays the caller's; -1: there is none, and the
 *  caller says when something can be written. Return: 0 or -errno. */
int port_out_open(struct port_out *out, int fd);
/** port_out_block(), port_out_unblock() - without a descriptor: nothing can be written now; something can again. */
void port_out_block(struct port_out *out);
void port_out_unblock(struct port_out *out);
/** port_out_close() - drop what waits. Harmless if it is not open. */
void port_out_close(struct port_out *out);
/** port_out_send() - while it is open. */
void port_out_send(struct port_out *out, struct dt_packet **packets, unsigned n);
/** port_out_let_go() - drop what waits: somebody waits for the device to rest. */
void port_out_let_go(struct port_out *out);

#endif
