/* SPDX-License-Identifier: MIT */
/* internal.h - what capture's two sides share: rings of whole blocks, and what they go to. */
#ifndef NET_CAPTURE_INTERNAL_H
#define NET_CAPTURE_INTERNAL_H

#include "base/writer.h"
#include "net/bpf/bpf.h"
#include "net/capture/pcapng.h"

enum { CAPTURED, DROPPED, UNWRITTEN };

/**
 * struct capture_ring - blocks of one thread on their way to the writer: one producer, one consumer.
 * @head, @tail: bytes since the start, always at the end of a block. @sent: what a FIFO has of it; may lie within one.
 */
struct capture_ring {
    uint8_t *bytes;
    uint64_t size;
    struct dt_ctx *c;

    /* The producer's. */
    CACHE_ALIGNED uint64_t head;
    uint64_t tail_seen;
    uint64_t missing; /* packets dropped since the last block */

    /* The writer's. */
    CACHE_ALIGNED uint64_t tail;
    uint64_t sent;
};

struct capture {
    /* Parameters. */
    const char *out, *match;
    uint64_t snaplen, buffer, limit;
    unsigned direction;

    struct bpf bpf;
    uint64_t epoch; /* CLOCK_REALTIME - CLOCK_MONOTONIC, ns */
    struct dt_layer *layer;
    struct writer writer;

    int fd;
    bool fifo;
    uint64_t offset;              /* of a file */
    bool begun;                   /* the file, or the FIFO's reader, has the section's header */
    struct capture_ring *halfway; /* FIFO: the reader has half a block of this one */
    bool failing;                 /* the last write failed, and that was told */
    bool ended;                   /* the limit was reached */
};

/** capture_out_open() - open the file or FIFO, begin a section, start the thread that writes. */
int capture_out_open(struct capture *w, struct dt_error *err);
/** capture_out_close() - write what is left, end the thread, close the file. */
void capture_out_close(struct capture *w);
/** capture_ring_end() - write what is in the ring, as far as nobody has to be waited for; as
 *  writer_remove() wants it. */
void capture_ring_end(struct writer *writer, void *ring);

#endif
