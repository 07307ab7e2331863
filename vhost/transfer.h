/* SPDX-License-Identifier: MIT */
/*
 * transfer.h - a whole session, and what its keeper promised the guest, on its way to another
 * keeper.
 *
 * Theory of operation: one pointer-free structure in a memfd, and then every descriptor of the
 * session, each in a packet that says what it is. The sender has stopped reading the front end's
 * socket before, and waits; the receiver checks everything and does not begin to read. Whoever
 * started both then lets one of them go on. Nothing of the session is changed by the transfer
 * itself, so that it may fail at any point, on either side, and be as if it had not begun.
 *
 * The structure is of one version of the program: a receiver that knows another refuses, with both
 * numbers.
 */
#ifndef VHOST_TRANSFER_H
#define VHOST_TRANSFER_H

#include "vhost/backend.h"
#include "vhost/link.h"

#define TRANSFER_MAGIC   0x72545644u /* "DVTr" */
#define TRANSFER_VERSION 1u

/** struct transfer_queue - of a ring, what struct vhost_queue_state does not tell. */
struct transfer_queue {
    uint8_t recover, left;
    uint32_t left_base;
};

/**
 * struct transfer_state - all numbers of a keeper's device. Hostile until transfer_receive() and
 * vhost_backend_adopt() have judged it.
 * @attached: there is a session; else what is about one means nothing.
 * @have_floor: @floor says what the guest was promised, with what its driver wrote.
 * @lost_at: since when nobody serves the rings, in ns of the host's monotonic clock; 0 = no ring
 * waits.
 */
struct transfer_state {
    uint32_t magic, version, size;
    uint8_t attached, have_floor;
    uint64_t lost_at;
    struct link_floor floor;
    struct vhost_state session;
    struct transfer_queue queues[VHOST_MAX_QUEUES];
};

enum transfer_kind {
    TRANSFER_STATE = 1, /* the memfd; always the first */
    TRANSFER_SOCKET,
    TRANSFER_EVENTS, /* the back end's own channel */
    TRANSFER_LOG,
    TRANSFER_INFLIGHT,
    TRANSFER_REGION, /* by index, as the next three */
    TRANSFER_KICK,
    TRANSFER_CALL,
    TRANSFER_ERROR,
    TRANSFER_END, /* no descriptor: this was all */
};

/** struct transfer_packet - @index: of the region or the ring. */
struct transfer_packet {
    uint32_t kind, index;
};

/** struct transfer - what is sent, or came. */
struct transfer {
    struct transfer_state state;
    int socket, events, log, inflight;
    int regions[MEMMAP_MAX_REGIONS];
    int kick[VHOST_MAX_QUEUES], call[VHOST_MAX_QUEUES], error[VHOST_MAX_QUEUES];
};

/** transfer_new() - an empty one; all descriptors -1. */
struct transfer *transfer_new(void);
/** transfer_free() - @close: its descriptors, too. */
void transfer_free(struct transfer *t, bool close_fds);
/** transfer_send() - all of it. Waits while the receiver reads; 0 or -errno with @err. */
int transfer_send(int sock, const struct transfer *t, struct dt_error *err);
/**
 * transfer_receive() - the next packets that are there.
 * @t: from transfer_new(), the same for all calls; owns the descriptors that came.
 * Return: 1 = all is here, 0 = more is to come, -errno with @err for what no sender of ours sends.
 */
int transfer_receive(int sock, struct transfer *t, struct dt_error *err);

/* ---- The session's part (backend-transfer.c) ---- */

/**
 * vhost_backend_freeze() - read nothing more from the front end.
 * Return: 0, or -EBUSY with @err while a message is under way; it goes on then.
 */
int vhost_backend_freeze(struct vhost_backend *s, struct dt_error *err);
void vhost_backend_thaw(struct vhost_backend *s);
/** vhost_backend_export() - of a frozen session; descriptors in @t stay the session's. */
void vhost_backend_export(const struct vhost_backend *s, struct transfer *t);
/**
 * vhost_backend_adopt() - a frozen session like the one that was exported, once all of @t has been
 * found possible. Its descriptors become the session's; on failure they stay @t's.
 * @config: as for vhost_backend_new(), without a socket.
 */
int vhost_backend_adopt(struct vhost_backend **session, const struct vhost_backend_config *config,
                        struct transfer *t, struct dt_error *err);

#endif
