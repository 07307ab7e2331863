/* SPDX-License-Identifier: MIT */
/*
 * queue.h - packets judged by a program that connects: what the layer `queue` is made of.
 *
 * Theory of operation: the layer listens at a path. One program at a time connects, says HELLO, and gets a channel
 * (net/channel/link.h). Every packet of the chosen directions is copied to it, and waits here for its verdict;
 * there is no other state of a packet, so whatever the program does or leaves undone costs bounded memory:
 *
 *     toward the wire     at most `length` packets, with the program or before it; admit() leaves the others in
 *                         the guest's ring
 *     toward the guest    as many with the program, and as many that wait for it; what is beyond is dropped
 *
 * Packets whose program is gone, and those that come while there is none, have the fate that on-death= says. One
 * that is held was perhaps what the program died of; so a packet is given to two programs at the most.
 *
 * A device with this layer runs on one thread: a program has one channel.
 */
#ifndef NET_QUEUE_QUEUE_H
#define NET_QUEUE_QUEUE_H

#include "base/fifo.h"
#include "net/channel/link.h"

enum queue_counter {
    SENT,
    DENIED,
    CHANGED,
    UNFIT,
    NO_MEMORY,
    RX_FULL,
    TIMEOUTS,
    UNJUDGED,
    LOST,
    AT_REST,
    PROGRAMS,
};

enum on_death { ON_DEATH_HOLD, ON_DEATH_ACCEPT, ON_DEATH_DROP };
enum queue_direction { QUEUE_BOTH, QUEUE_TX, QUEUE_RX };

/** struct queue - of the layer. */
struct queue {
    const char *path;
    unsigned direction, on_death;
    uint64_t snap, length, timeout;
    bool super;
    int listener;
};

enum program_state { PROGRAM_NONE, PROGRAM_GREETING, PROGRAM_LIVE };

FIFO(packet_fifo, dt_packet)

struct queue_ctx {
    struct dt_ctx *c;
    struct packet_link link;
    enum program_state state;

    /* The program (program.c). */
    int sock;
    pid_t pid;
    struct dt_watch accepts, frames, kick;
    bool accepting;
    struct dt_timer greeting;
    struct loop_poller poller;
    struct control_frame *frame;
    uint32_t seq;

    /* Packets (queue.c). */
    struct packet_fifo backlog[2];
    uint32_t nbacklog[2];
    struct loop_deferred flush;
    struct dt_timer expiry;
    struct dt_timer grace; /* what the program has at a rest */
    uint64_t changed;      /* of the link's, that are counted */
    bool stopped;          /* admit() said no */
};

static inline struct queue *queue_of(const struct queue_ctx *qc)
{
    return qc->c->layer_data;
}

/* queue.c */
/** queue_begin() - there is a program: it gets what waits. */
void queue_begin(struct queue_ctx *qc);
/** queue_orphans() - it is gone, what it had is to go. Return: how many it had. */
unsigned queue_orphans(struct queue_ctx *qc);
/** queue_heard() - after packets_take(). */
void queue_heard(struct queue_ctx *qc);

/* program.c */
int program_bind(const char *path, struct dt_error *err);
void program_start(struct queue_ctx *qc);
void program_stop(struct queue_ctx *qc);
/** program_lost() - end the connection, for @why. */
void program_lost(struct queue_ctx *qc, const char *why);

#endif
