/* SPDX-License-Identifier: MIT */
/*
 * client.h - the extension's side of a channel (libdevtap-channel): what its parts share.
 *
 * client.c has its life and its sleep, client-requests.c and client-packets.c what comes and goes through the rings,
 * client-control.c the conversation beside them. queue.c is what the programs of `queue` see of it.
 */
#ifndef CHANNEL_CLIENT_H
#define CHANNEL_CLIENT_H

#include "channel/channel.h"
#include <devtap/channel.h>

#define CLIENT_MAGIC 0x64436c69u

enum request_state { REQUEST_IDLE, REQUEST_HERE, REQUEST_BELOW, REQUEST_BACK, REQUEST_PACKET };
enum sub_state { SUB_FREE, SUB_MINE, SUB_BELOW };

/* Of a packet: @op is its way, @flags what it needs, @sector when it came, @parts 0. */
struct client_request {
    uint8_t state;
    uint8_t op, flags, parts;
    uint32_t sectors;
    uint64_t sector;
    uint32_t data;
    uint16_t queue, vectors;
    uint32_t length, captured; /* of a packet */
};

struct client_sub {
    uint8_t state, op;
    uint32_t next; /* free list: id + 1 */
};

struct dt_channel {
    uint32_t magic;
    int sock, kick_down;
    struct channel_map map;
    struct channel_producer up;
    struct channel_consumer down;
    struct client_request *requests;
    struct channel_memory *memory; /* whoever has the control socket has it */
    struct iovec *vectors;         /* CHANNEL_VECTORS for each request */
    struct client_sub *subs;
    uint32_t sub_free;
    uint64_t spin_ns;
    unsigned polls;
    uint32_t taken; /* requests, since the start of the channel */
    bool ended, end_told;
    int end_error;
    struct control_frame frame;
};

/** client_end() - the conversation is over, for @error: DT_CHANNEL_END is told, and nothing is read any more. */
static inline void client_end(struct dt_channel *ch, int error)
{
    if (!ch->ended)
        ch->end_error = error;
    ch->ended = true;
}

/** client_attach() - take over the rings that control_frame @ch->frame brings; 0 or -errno. */
int client_attach(struct dt_channel *ch);
/** client_take_packet() - a PACKET, as an event: 1, or -EPROTO. */
int client_take_packet(struct dt_channel *ch, const struct channel_msg *m,
                       struct dt_channel_event *e);

#endif
