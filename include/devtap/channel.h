/* SPDX-License-Identifier: MIT */
/*
 * devtap/channel.h - write an extension as a program of its own, in any language that can
 * call C (libdevtap-channel; Python: `import devtap`).
 *
 * devtap starts the program with one end of a control socket, named by $DEVTAP_CHANNEL. The
 * program describes itself with dt_channel_open(), and then takes events and answers them:
 *
 *     for (;;) {
 *         n = dt_channel_poll(ch, events, 32);
 *         for each event:
 *             DT_CHANNEL_REQUEST:  dt_channel_forward() or dt_channel_complete(), at once or later
 *             DT_CHANNEL_RESPONSE: dt_channel_complete()
 *             DT_CHANNEL_CONTROL:  dt_channel_answer()
 *         dt_channel_flush(ch);
 *         if (n == 0)
 *             dt_channel_wait(ch, -1);
 *     }
 *
 * When the program dies, devtap starts it again and sends every request once more that had no answer,
 * flagged DT_REQ_REPLAYED. All functions of a channel belong to one thread; dt_channel_take_rings() has what there
 * is for several.
 */
#ifndef DEVTAP_CHANNEL_H
#define DEVTAP_CHANNEL_H

#include <devtap/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dt_channel;

enum dt_channel_event_type {
    DT_CHANNEL_REQUEST = 1, /* on its way down */
    DT_CHANNEL_RESPONSE,    /* what was forwarded is on its way up; @error tells */
    DT_CHANNEL_SUB,         /* a request of the program's own is finished; @error tells */
    DT_CHANNEL_CONTROL,     /* @control, @seq, @text (JSON), @fd */
    DT_CHANNEL_END,         /* devtap is gone, or broke the protocol (@error): end the program */
    DT_CHANNEL_CANCEL, /* complete @id now, with -ECANCELED, if it is held; comes only where the
                               description has "cancels" */
    DT_CHANNEL_PACKET, /* of a network card: dt_channel_verdict(), at once or later */
};

enum dt_channel_control {
    DT_CHANNEL_INIT = 2, /* parameters and the disk below */
    DT_CHANNEL_START,    /* requests will come */
    DT_CHANNEL_SET,      /* {"param", "value"} */
    DT_CHANNEL_DO,       /* {"verb", "args": [...]} */
    DT_CHANNEL_SAVE,     /* answer with dt_channel_answer_state() */
    DT_CHANNEL_INFO,     /* the disk below changed */
    DT_CHANNEL_QUIESCE,  /* {"thread"}: let go of what is held there: no answer */
    DT_CHANNEL_STOP,     /* no request is outstanding: end the program */
    DT_CHANNEL_LOAD,     /* {"version"}; @fd: the saved state. Before DT_CHANNEL_START */
};

/**
 * struct dt_channel_event - what happened.
 * @id:     of the request, until it is completed, or forwarded with @last.
 * @op, @flags, @queue, @sector, @sectors: as struct dt_req (READ 0, WRITE 1, FLUSH 2, DISCARD 3,
 *          WRITE_ZEROES 4).
 * @data:   the request's bytes as the layers above see them, if the description asks for data;
 *          for layers that transform, @below is what the layers below see.
 * @bytes:  of each of the two.
 *
 * Of a packet, @op is its direction (0 transmit, 1 receive), @flags what is left to do on it (enum dt_offload of
 * <devtap/net.h>), @bytes how many of its @length are at @data; @segment and @when are as in struct dt_packet.
 */
struct dt_channel_event {
    uint32_t type;
    uint32_t id;
    uint64_t sector;
    uint32_t sectors;
    int32_t error;
    uint8_t op;
    uint8_t flags;
    uint16_t queue;
    uint32_t bytes;
    void *data;
    void *below;
    uint32_t control;
    uint32_t seq;
    const char *text; /* until the next dt_channel_poll() */
    int fd;           /* owned by the program */
    uint32_t length;
    uint16_t segment;
    uint64_t when;
};

/**
 * dt_channel_open() - say who we are, on the socket that devtap gave us.
 * @fd:          the control socket, or -1 for the one that $DEVTAP_CHANNEL names.
 * @description: JSON; devtap-channel(5) lists its keys.
 */
DT_PUBLIC int dt_channel_open(struct dt_channel **ch, int fd, const char *description,
                              struct dt_error *err);
DT_PUBLIC void dt_channel_free(struct dt_channel *ch);

/** dt_channel_poll() - take up to @max events without waiting. Return: how many. */
DT_PUBLIC unsigned dt_channel_poll(struct dt_channel *ch, struct dt_channel_event *events,
                                   unsigned max);
/** dt_channel_poll_control() - the control socket is readable: take one event from it; 0 or 1. Programs that use
 *  dt_channel_wait() have no need of it. */
DT_PUBLIC unsigned dt_channel_poll_control(struct dt_channel *ch, struct dt_channel_event *event);
/** dt_channel_wait() - sleep until there may be events; @ms < 0 = for ever. A while of spinning first. */
DT_PUBLIC void dt_channel_wait(struct dt_channel *ch, int ms);
/** dt_channel_set_spin() - how long dt_channel_wait() spins before it sleeps; the default is 20 us. */
DT_PUBLIC void dt_channel_set_spin(struct dt_channel *ch, uint64_t ns);
/** dt_channel_flush() - let devtap see all answers given so far. */
DT_PUBLIC void dt_channel_flush(struct dt_channel *ch);

/**
 * dt_channel_forward() - on to the next layer. @last: no response is wanted, and @id is over.
 * @sector: usually the request's own; another one redirects it.
 */
DT_PUBLIC void dt_channel_forward(struct dt_channel *ch, uint32_t id, uint64_t sector, bool last);
/** dt_channel_complete() - answer a request or pass a response on; @error is 0 or -errno. */
DT_PUBLIC void dt_channel_complete(struct dt_channel *ch, uint32_t id, int error);
/** dt_channel_data() - the two buffers of request @id, or NULL. Return: the bytes of each. */
DT_PUBLIC uint32_t dt_channel_data(struct dt_channel *ch, uint32_t id, void **data, void **below);
/**
 * dt_channel_vectors() - where request @id's bytes lie in the guest's memory, until it is over; @data is NULL then, and
 * @below as always. For programs whose description has "vectors", with trust=memory. Return: their number; 0 for
 * a request with a copy, or without data.
 */
DT_PUBLIC unsigned dt_channel_vectors(struct dt_channel *ch, uint32_t id, const struct iovec **iov);
/**
 * dt_channel_sub_new() - a request of the program's own, to the layers below.
 * @data, @size: set to its buffer; may be NULL.
 *
 * Fill the buffer (WRITE), submit it, and find DT_CHANNEL_SUB among the events; then read the buffer (READ) and
 * free it. Return: its id, in a space of its own, or -EAGAIN when all are in use.
 */
DT_PUBLIC int dt_channel_sub_new(struct dt_channel *ch, void **data, uint32_t *size);
/** dt_channel_sub_submit() - 0, or -EMSGSIZE when the data does not fit. */
DT_PUBLIC int dt_channel_sub_submit(struct dt_channel *ch, uint32_t id, uint8_t op, uint8_t flags,
                                    uint64_t sector, uint32_t sectors);
DT_PUBLIC void dt_channel_sub_free(struct dt_channel *ch, uint32_t id);

/* ---- Packets ---- */

enum dt_channel_decision {
    DT_CHANNEL_DROP,
    DT_CHANNEL_PASS,
    DT_CHANNEL_CHANGED, /* pass it as it is in its buffer now */
};
/**
 * struct dt_channel_verdict - what becomes of packet @id.
 * @way: where it goes on, unless it is dropped: 0 to the wire, 1 to the guest. Usually where it was going.
 * @needs, @segment, @length: of a changed packet.
 */
struct dt_channel_verdict {
    uint32_t id;
    uint8_t decision;
    uint8_t way;
    uint8_t needs;
    uint16_t segment;
    uint32_t length;
};
/**
 * dt_channel_packet() - the buffer of packet @id: writable, of @room bytes. Of a packet that is not all there (@bytes
 * below @length) only these bytes can be changed, and their number cannot. NULL: no such packet waits for a verdict.
 */
DT_PUBLIC void *dt_channel_packet(struct dt_channel *ch, uint32_t id, uint32_t *room);
/** dt_channel_verdict() - 0; -ENOENT: no such packet waits; -EMSGSIZE: a length that it cannot have; -EINVAL. */
DT_PUBLIC int dt_channel_verdict(struct dt_channel *ch, const struct dt_channel_verdict *verdict);
/**
 * dt_channel_inject() - a packet of the program's own, in the window of dt_channel_sub_new(); DT_CHANNEL_SUB tells that
 * the window is free again. @verdict's @id is the window's, its @decision nothing. 0, or -EMSGSIZE.
 */
DT_PUBLIC int dt_channel_inject(struct dt_channel *ch, const struct dt_channel_verdict *verdict,
                                uint16_t queue);

/** dt_channel_answer() - to control @seq: JSON, or NULL for plain success. */
DT_PUBLIC int dt_channel_answer(struct dt_channel *ch, uint32_t seq, const char *json);
DT_PUBLIC int dt_channel_answer_error(struct dt_channel *ch, uint32_t seq, int code,
                                      const char *text);
DT_PUBLIC int dt_channel_answer_state(struct dt_channel *ch, uint32_t seq, const void *state,
                                      size_t size);
/**
 * dt_channel_take_rings() - for programs with several threads, whose description has "per_queue": the rings
 * that DT_CHANNEL_START just brought, as a channel without control: for one thread, which polls it, answers on it and frees
 * it. @ch keeps the control, and gets a DT_CHANNEL_START for each of INIT's "threads". Call it before any
 * request was taken from @ch.
 */
DT_PUBLIC struct dt_channel *dt_channel_take_rings(struct dt_channel *ch);
/** dt_channel_event() - something that a person or a manager should know. */
DT_PUBLIC int dt_channel_event(struct dt_channel *ch, const char *event, const char *text);
/** dt_channel_counter() - counter @index of the description now has this value. */
DT_PUBLIC void dt_channel_counter(struct dt_channel *ch, unsigned index, uint64_t value);

/** dt_channel_ended() - devtap is gone, or broke the protocol. */
DT_PUBLIC bool dt_channel_ended(const struct dt_channel *ch);
/** dt_channel_slots() - ids are below this, once DT_CHANNEL_START came. */
DT_PUBLIC uint32_t dt_channel_slots(const struct dt_channel *ch);

/* For programs with a loop of their own: what to watch, and the sleeping protocol. */
DT_PUBLIC int dt_channel_control_fd(const struct dt_channel *ch);
DT_PUBLIC int dt_channel_kick_fd(const struct dt_channel *ch);
/** dt_channel_arm() - wake kick_fd from now on; false if there is something to poll already. */
DT_PUBLIC bool dt_channel_arm(struct dt_channel *ch);
/** dt_channel_allow() - @n more requests are welcome now, and others had better stay with the guest for the
 *  time being; UINT32_MAX = any number, which is so at first. A few more may come all the same. */
DT_PUBLIC void dt_channel_allow(struct dt_channel *ch, uint32_t n);

#ifdef __cplusplus
}
#endif
#endif
