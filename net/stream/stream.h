/* SPDX-License-Identifier: MIT */
/*
 * stream.h - frames on a stream socket: what the back `stream` is made of.
 *
 * Theory of operation: each frame has its length before it, four bytes, most significant first, as QEMU's
 * socket netdevs have it. There is one peer at a time. Who connects tries again for ever, through whoever
 * connects for this process (dt_layer_connect()); who listens takes the next peer when the present one is
 * gone. Without a peer what the guest sends is dropped, as by a card whose cable is out.
 *
 * A length that no frame has means that the peer speaks something else, or that bytes are missing: there is no
 * way back into step, so the connection ends, and begins anew.
 *
 * One thread. Bytes are read in large pieces into a buffer of the connection, and written with as many frames as
 * there are in one call; what the socket takes of a frame's beginning obliges us to its end, so the rest is
 * kept in a buffer, too, and the packet is done.
 */
#ifndef NET_STREAM_STREAM_H
#define NET_STREAM_STREAM_H

#include "net/port/port.h"

#define STREAM_LENGTH 4u /* the bytes of a length */
#define STREAM_HEADER \
    sizeof(struct dt_vnet_header) /* and of what follows with vnet=on, which it counts too */
#define STREAM_BUFFER (128u << 10)

/** struct stream_bytes - @bytes from @at to @end are waiting. */
struct stream_bytes {
    uint32_t at, end;
    uint8_t bytes[STREAM_BUFFER];
};

enum stream_counter { TX_DOWN, TX_FULL, RX_SHORT, RX_HEADER, RX_MEMORY, CONNECTS };

/** struct stream - of the layer. @listener: -1 = we connect. @link: is there a peer? Who connects does not know
 *  until one came, or could not. */
struct stream {
    const char *address;
    bool listen, vnet;
    uint64_t mtu;
    int listener;
    enum dt_link link;
};

struct stream_ctx {
    struct dt_ctx *c;
    bool up;
    int fd; /* the peer's, while it is up */
    struct port_in in;
    struct port_out out;
    struct stream_bytes *received, *rest;
    struct dt_connect op;
    struct dt_watch accepts;
    bool accepting;
    bool complained; /* why there is no connection was told */
    uint64_t since;  /* when it came up */
    uint64_t backoff;
    struct dt_timer again;
};

/* wire.c: frames and bytes. */
struct dt_packet *wire_read(struct port_in *in);
unsigned wire_write(struct port_out *out, struct dt_packet **packets, unsigned n);

/* peer.c: connections. */
/** wire_bind() - where we listen; from open(). Return: the descriptor or -errno. */
int wire_bind(const char *address, struct dt_error *err);
/** wire_begin() - look for a peer. */
void wire_begin(struct stream_ctx *sc);
/** wire_lost() - the connection ended. */
void wire_lost(struct stream_ctx *sc, int error);
/** wire_end() - let go of all. */
void wire_end(struct stream_ctx *sc);

#endif
