/* SPDX-License-Identifier: MIT */
/*
 * channel.h - the extension channel: how requests reach an extension in another process.
 *
 * Theory of operation: one sealed memfd holds two rings of fixed-size messages (down to
 * the extension, up from it), a word or two about intake, the extension's counters, and memory for
 * copied data; two eventfds wake a side that sleeps; a SOCK_SEQPACKET socket carries control.
 * devtap-channel(5) describes the format.
 *
 * A ring has one producer and one consumer and is never full: each side sends about a
 * request only when the other has answered the message before, so there are at most as many
 * unread messages as requests. Hence no index flows back, and a peer that claims more has broken
 * the protocol. Both sides treat all they read as hostile: each message is copied once, then judged
 * against a private table.
 *
 * Requests of the guest (ids below @slots):     Requests of the extension's own (ids below @subs):
 *     down REQUEST -> up FORWARD -> down RETURNED -> up DONE     up SUB -> down SUB_DONE
 *     down REQUEST -> up FORWARD with LAST (the extension wants no response)
 *     down REQUEST -> up DONE (answered by the extension)
 * A CANCEL may come in between, and may cross the answer. Nothing answers it, so there are few.
 *
 * Packets of a network card go through the same rings (ids as for requests; those of the extension's own as for its own
 * requests). A channel carries one class or the other.
 *     down PACKET -> up VERDICT              up INJECT -> down SUB_DONE
 */
#ifndef CHANNEL_H
#define CHANNEL_H

#include "base/base.h"
#include <sys/uio.h>

#define CHANNEL_MAGIC      0x68435444u /* "DTCh" */
#define CHANNEL_VERSION    2u
#define CHANNEL_PAGE_SHIFT 12u /* data is placed in units of pages */
#define CHANNEL_COUNTERS   64u
#define CHANNEL_SLOTS_MAX  4096u
#define CHANNEL_DATA_MAX   (1ull << 30)
#define CHANNEL_NO_DATA    UINT32_MAX
#define CHANNEL_CANCELS    64u /* unread, at the most; a PONG tells that they were read */

enum channel_kind {
    /* Down, to the extension. */
    CHANNEL_REQUEST = 1, /* id, op, flags, queue, sector, sectors, data */
    CHANNEL_RETURNED,    /* id, error: what it forwarded is finished below */
    CHANNEL_SUB_DONE,    /* id, error: its own request is finished */
    CHANNEL_PING,        /* id: answer with PONG */
    CHANNEL_CANCEL,      /* id: answer it now, if it is held; nothing, if it is not */
    CHANNEL_PACKET,      /* id, way, needs, queue, segment, when, length, captured, data */
    /* Up, from the extension. */
    CHANNEL_FORWARD = 17, /* id, sector, flags: may be CHANNEL_LAST */
    CHANNEL_DONE,         /* id, error */
    CHANNEL_SUB,          /* id, op, flags, sector, sectors */
    CHANNEL_PONG,         /* id */
    CHANNEL_OPEN,         /* intake may go on */
    CHANNEL_VERDICT, /* id, verdict; if it is to go on: way; if it is changed: needs, segment, length */
    CHANNEL_INJECT, /* id, way, needs, queue, segment, length; its bytes are in the window */
};
#define CHANNEL_LAST 0x80u /* in FORWARD's flags: no RETURNED is wanted */

/* The largest frame of a packet: 65,535 bytes of IP, Ethernet, and four tags. */
#define CHANNEL_FRAME_MAX 65600u
#define CHANNEL_FRAME_MIN 14u
enum channel_verdict {
    CHANNEL_DROP,
    CHANNEL_PASS,    /* as it came */
    CHANNEL_CHANGED, /* as it now is in the data area: @length bytes */
};

/**
 * struct channel_msg - one message; little-endian. Half a cache line. Of each union, the first is a request's, the other
 * a packet's.
 * @parts:    buffers at @data, each of @sectors: 0, 1, or 2 for layers that transform.
 * @vectors:  so many, in the first page at @data, are the first buffer; 0 = it lies there itself.
 * @data:     first page within the data area, or CHANNEL_NO_DATA.
 * @way, @needs, @segment, @when: as struct dt_packet.
 * @length:   of the whole packet; @captured: its first bytes, which are at @data, in as many whole pages as they take.
 */
struct channel_msg {
    uint8_t kind;
    union {
        uint8_t op, way;
    };
    union {
        uint8_t flags, needs;
    };
    union {
        uint8_t parts, verdict;
    };
    uint32_t id;
    union {
        uint64_t sector, when;
    };
    union {
        uint32_t sectors, length;
    };
    union {
        int32_t error;
        uint32_t captured;
    };
    uint32_t data;
    uint16_t queue;
    union {
        uint16_t vectors, segment;
    };
};
_Static_assert(sizeof(struct channel_msg) == 32, "two messages in a cache line");

/** struct channel_vector - a piece of the guest's memory. */
struct channel_vector {
    uint32_t region, length;
    uint64_t offset; /* within the region */
};
#define CHANNEL_VECTORS ((1u << CHANNEL_PAGE_SHIFT) / sizeof(struct channel_vector))
#define CHANNEL_REGIONS 64u

/** struct channel_ring - the words of one ring, each on a cache line of one writer. */
struct channel_ring {
    uint32_t head CACHE_ALIGNED;  /* producer: messages published */
    uint32_t event CACHE_ALIGNED; /* consumer: wake me when head passes this */
};

/**
 * struct channel_header - the first page. Written by the worker before the extension sees it; the
 * worker never reads the shape back.
 * @slots, @subs: requests of the guest, and of the extension's own, that may be outstanding.
 * @entries: messages in each ring, a power of two.
 * @data_*: memory for the guest's data, placed by the worker; @sub_*: a window for each
 * sub-request.
 */
struct channel_header {
    uint32_t magic, version;
    uint32_t slots, subs, entries;
    uint32_t sub_window;
    uint64_t down_offset, up_offset;
    uint64_t data_offset, data_bytes;
    uint64_t sub_offset;
    uint64_t size;

    struct channel_ring down, up;
    /* Intake: an extension that limits it says up to which request it takes them (counted from 1 in
     * each channel); a worker that has reached that asks to be told when there is more. */
    uint32_t limited CACHE_ALIGNED;
    uint32_t limit;
    uint32_t waiting CACHE_ALIGNED;
    uint64_t counters[CHANNEL_COUNTERS] CACHE_ALIGNED;
};

/** struct channel_shape - what a channel must hold. */
struct channel_shape {
    uint32_t slots, subs, sub_window;
    uint64_t data_bytes;
};

/** struct channel_map - a channel in this process's memory; the shape is a private copy. */
struct channel_map {
    struct channel_header *header;
    size_t size;
    uint32_t slots, subs, entries, sub_window;
    struct channel_msg *down, *up;
    uint8_t *data, *sub_data;
    uint64_t data_bytes;
};

/** channel_size() - bytes of a channel of this shape. */
uint64_t channel_size(const struct channel_shape *shape);
/** channel_create() - a new sealed memfd, mapped: its descriptor (owned by the caller) or -errno.
 */
int channel_create(struct channel_map *map, const struct channel_shape *shape,
                   struct dt_error *err);
/** channel_attach() - map what the other side made, after checking all of it. */
int channel_attach(struct channel_map *map, int fd, struct dt_error *err);
void channel_detach(struct channel_map *map);

/** struct channel_producer - one side's private view of the ring that it writes. */
struct channel_producer {
    struct channel_msg *ring;
    struct channel_ring *shared;
    uint32_t mask, next, published;
    int kick;
};
/** struct channel_consumer - that of the ring that it reads. */
struct channel_consumer {
    const struct channel_msg *ring;
    struct channel_ring *shared;
    uint32_t mask, next;
};
void channel_producer_init(struct channel_producer *p, struct channel_msg *ring,
                           struct channel_ring *shared, uint32_t entries, int kick);
void channel_consumer_init(struct channel_consumer *c, const struct channel_msg *ring,
                           struct channel_ring *shared, uint32_t entries);

/** channel_push() - the next message to fill; seen by nobody before channel_publish(). */
static inline struct channel_msg *channel_push(struct channel_producer *p)
{
    return &p->ring[p->next++ & p->mask];
}
/** channel_publish() - show what was pushed, and wake a consumer that sleeps. */
void channel_publish(struct channel_producer *p);
/** channel_available() - messages to read, or -EPROTO when the peer claims more than there can be.
 */
static inline int channel_available(const struct channel_consumer *c)
{
    uint32_t n = __atomic_load_n(&c->shared->head, __ATOMIC_ACQUIRE) - c->next;

    return likely(n <= c->mask + 1) ? (int)n : -EPROTO;
}
/** channel_take() - a private copy of the next message; only after channel_available(). */
static inline void channel_take(struct channel_consumer *c, struct channel_msg *msg)
{
    *msg = *(const volatile struct channel_msg *)&c->ring[c->next++ & c->mask];
}
/** channel_arm() - ask for a wake-up; false if messages came meanwhile. */
bool channel_arm(struct channel_consumer *c);

/* ---- Control ---- */

#define CONTROL_PAYLOAD_MAX 61440u
#define CONTROL_FDS_MAX     4u

/* Frames; JSON unless noted. Answers carry the sequence number of what they answer. */
enum control_type {
    CONTROL_HELLO = 1, /* up: the description */
    CONTROL_INIT,      /* down: device, layer, parameters, disk below */
    CONTROL_START, /* down: thread; fds: memfd, eventfd down, eventfd up. One for each thread, in order */
    CONTROL_SET,     /* down: parameter, value */
    CONTROL_DO,      /* down: verb, arguments */
    CONTROL_SAVE,    /* down: the answer has a memfd with the state */
    CONTROL_INFO,    /* down: the disk below changed */
    CONTROL_QUIESCE, /* down: let go of what is held; no answer */
    CONTROL_STOP,    /* down: end */
    CONTROL_LOAD,    /* down: version; fd: the saved state */
    CONTROL_ANSWER,  /* up: to any of the above; {"error": text, "code": errno} or what was asked */
    CONTROL_EVENT,   /* up: event, text; no answer */
    CONTROL_MEMORY, /* down: region, regions, size, offset, writable; fd: a piece of the guest's memory */
};

struct control_frame;

/** struct channel_memory - the guest's memory as a process has it that was trusted with it. */
struct channel_memory {
    unsigned regions;
    struct {
        uint8_t *base;
        uint64_t size;
        void *map;
        size_t map_size;
    } region[CHANNEL_REGIONS];
};
/** memory_take() - a MEMORY frame: region 0 is the beginning of a new memory. -EPROTO; -errno of mmap(2). */
int memory_take(struct channel_memory *memory, const struct control_frame *frame);
void memory_forget(struct channel_memory *memory);
/** memory_vectors() - the @n at @list, judged, as @iov; they are @bytes in all. */
bool memory_vectors(const struct channel_memory *memory, const struct channel_vector *list,
                    unsigned n, uint64_t bytes, struct iovec *iov);

/** struct control_frame - one frame in memory. @fds are owned by whoever received them. */
struct control_frame {
    uint32_t type, seq;
    size_t length;
    int fds[CONTROL_FDS_MAX];
    unsigned nfds;
    char payload[CONTROL_PAYLOAD_MAX + 1]; /* NUL-terminated */
};
/** control_send() - one frame; 0 or -errno (-EPIPE: the peer is gone, -EAGAIN: it does not read).
 */
int control_send(int sock, uint32_t type, uint32_t seq, const char *text, const int *fds,
                 unsigned nfds);
/** control_recv() - one frame: 1, 0 when there is none now, -EPIPE at the end, -EPROTO for what is
 * none. */
int control_recv(int sock, struct control_frame *frame);
void control_close_fds(struct control_frame *frame);

#define CONTROL_WORD_MAX 32u
/** control_word() - @text, which the peer chose, as one word in @word; @otherwise where nothing is in it. Return: @word. */
const char *control_word(char word[CONTROL_WORD_MAX], const char *text, const char *otherwise);

#endif
