/* SPDX-License-Identifier: MIT */
/* wire.c - frames into bytes and out of them: see stream.h. */
#include "net/stream/stream.h"

#include "base/bytes.h"
#include <sys/socket.h>

#define WRITE_FRAMES 32u

/* ---- From the peer ---- */

static uint32_t header_of(const struct stream_ctx *sc)
{
    return ((const struct stream *)sc->c->layer_data)->vnet ? STREAM_HEADER : 0;
}

/* Bytes that are there already. Returns 1 and the length of a whole frame, 0 where more bytes are needed, -1 for a
 * length that none has. */
static int whole_frame(const struct stream_bytes *b, uint32_t header, uint32_t *length)
{
    uint32_t have = b->end - b->at;

    if (have < STREAM_LENGTH)
        return 0;
    *length = load_be32(b->bytes + b->at);
    if (*length > PORT_LARGEST + header)
        return -1;
    return have - STREAM_LENGTH >= *length;
}

static bool fill(struct stream_bytes *b, int fd)
{
    ssize_t n;

    if (b->at > 0) {
        memmove(b->bytes, b->bytes + b->at, b->end - b->at);
        b->end -= b->at;
        b->at = 0;
    }
    n = recv(fd, b->bytes + b->end, STREAM_BUFFER - b->end, 0);
    if (n == 0)
        errno = ECONNRESET;
    b->end += (uint32_t)MAX(n, 0);
    return n > 0;
}

/* A frame that is whole, and longer than its @header and an Ethernet header are. */
static struct dt_packet *take_frame(struct dt_ctx *c, struct stream_bytes *b, uint32_t header,
                                    uint32_t length)
{
    const uint8_t *from = b->bytes + b->at + STREAM_LENGTH;
    struct dt_packet *p = dt_packet_new(c, length - header);
    struct dt_vnet_header v = {0};

    errno = ENOBUFS;
    if (!p)
        return NULL;
    memcpy(&v, from, header);
    memcpy(p->data, from + header, length - header);
    b->at += STREAM_LENGTH + length;
    return port_offloads(c, p, &v, RX_HEADER);
}

struct dt_packet *wire_read(struct port_in *in)
{
    struct stream_ctx *sc = container_of(in, struct stream_ctx, in);
    struct stream_bytes *b = sc->received;
    uint32_t header = header_of(sc), length = 0;
    struct dt_packet *p;
    int whole;

    while ((whole = whole_frame(b, header, &length)) == 0)
        if (!fill(b, sc->fd))
            return NULL;
    errno = EPROTO;
    if (whole < 0)
        return NULL;
    in->buffered = true;
    if (length < header + PORT_LEAST) {
        b->at += STREAM_LENGTH + length;
        dt_count(sc->c, RX_SHORT, 1);
        errno = EBADMSG;
        return NULL;
    }
    p = take_frame(sc->c, b, header, length);
    in->buffered = b->at < b->end;
    return p;
}

/* ---- To the peer ---- */

/** struct prefix - what stands before a frame. */
struct prefix {
    uint8_t length[STREAM_LENGTH];
    struct dt_vnet_header header;
};
_Static_assert(offsetof(struct prefix, header) == STREAM_LENGTH, "they are sent as one");

struct vector {
    struct iovec iov[1 + 2 * WRITE_FRAMES];
    struct prefix prefixes[WRITE_FRAMES];
    unsigned n;
};

static void gather(struct vector *v, const struct stream_bytes *rest, uint32_t header,
                   struct dt_packet **packets, unsigned n)
{
    v->n = 0;
    if (rest->at < rest->end)
        v->iov[v->n++] = (struct iovec){(void *)(rest->bytes + rest->at), rest->end - rest->at};
    for (unsigned i = 0; i < MIN(n, WRITE_FRAMES); i++) {
        struct prefix *prefix = &v->prefixes[i];

        store_be32(prefix->length, packets[i]->length + header);
        if (header)
            dt_vnet_write(packets[i], &prefix->header);
        v->iov[v->n++] = (struct iovec){prefix, STREAM_LENGTH + header};
        v->iov[v->n++] = (struct iovec){packets[i]->data, packets[i]->length};
    }
}

static ssize_t send_all(int fd, struct vector *v)
{
    const struct msghdr m = {.msg_iov = v->iov, .msg_iovlen = v->n};
    ssize_t n;

    do {
        n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n;
}

/* The socket took @bytes. Returns how many packets began to go; the last one's end is put into @rest. */
static unsigned account(const struct vector *v, struct stream_bytes *rest, size_t bytes)
{
    size_t of_rest = MIN(bytes, (size_t)(rest->end - rest->at));
    unsigned at = rest->at < rest->end, begun = 0;

    rest->at += (uint32_t)of_rest;
    bytes -= of_rest;
    for (; bytes > 0; at += 2, begun++) {
        size_t frame = v->iov[at].iov_len + v->iov[at + 1].iov_len;

        if (bytes < frame) {
            rest->at = 0;
            rest->end = (uint32_t)dt_iov_read(v->iov + at, 2, bytes, rest->bytes, frame - bytes);
            return begun + 1;
        }
        bytes -= frame;
    }
    return begun;
}

unsigned wire_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    struct stream_ctx *sc = container_of(out, struct stream_ctx, out);
    struct stream_bytes *rest = sc->rest;
    unsigned done = 0;

    while (done < n || rest->at < rest->end) {
        struct vector v;
        ssize_t sent;
        unsigned begun;

        gather(&v, rest, header_of(sc), packets + done, n - done);
        sent = send_all(sc->fd, &v);
        if (sent < 0 && errno == EAGAIN) {
            out->blocked = true;
            break;
        }
        if (sent < 0) { /* reading finds the end of the connection */
            shutdown(sc->fd, SHUT_RDWR);
            dt_drop(sc->c, packets + done, n - done, TX_DOWN);
            rest->at = rest->end = 0;
            return n;
        }
        begun = account(&v, rest, (size_t)sent);
        if (begun)
            dt_sent(sc->c, packets + done, begun);
        done += begun;
    }
    return done;
}
