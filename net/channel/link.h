/* SPDX-License-Identifier: MIT */
/*
 * link.h - packets of a card that another process judges, and their way there and back (channel/channel.h).
 *
 * Theory of operation: a link has a slot for each packet that may be with the other process at once. What is sent is
 * copied into the channel's memory; the packet itself stays here, so whatever the process does, its own bytes,
 * descriptor and buffers are ours. A verdict names the slot; a changed packet is copied back, and then judged as
 * what a guest sends is.
 *
 * A packet may be taken back while the process still has it (a verdict that does not come). Its slot is LATE then,
 * until the process says something of it: there is never a second packet of the same id.
 *
 * The owner decides what happens to packets for which there is no room, no process or no verdict.
 */
#ifndef NET_CHANNEL_LINK_H
#define NET_CHANNEL_LINK_H

#include "channel/channel.h"
#include "core/net.h"

#define PACKETS_NO_SLOT UINT32_MAX

enum packet_slot_state {
    PACKET_FREE,
    PACKET_OUT,  /* the process is to say something of it */
    PACKET_LATE, /* the same, and nobody waits for it any more */
};

struct packet_slot {
    struct list node; /* of those OUT, oldest first */
    struct dt_packet *p;
    uint8_t *data;
    uint64_t sent_at;
    uint32_t captured, next_free;
    uint8_t state, way;
};

/** enum packet_end - why a packet ends here. */
enum packet_end {
    PACKET_DENIED, /* by its verdict */
    PACKET_UNFIT,  /* it was changed into something that contradicts itself */
    PACKET_MEMORY, /* it was to grow, and there was no memory for packets */
};

/**
 * struct packet_link - embed it; zeroed, with @c, @drop and the limits set.
 * @snap:    the process gets so many bytes of each packet at the most.
 * @turns:   it may send a packet back to where it came from.
 * @drop:    end the packet; the link has forgotten it.
 * @changed: packets that were changed, so far.
 */
struct packet_link {
    struct dt_ctx *c;
    void (*drop)(struct packet_link *l, struct dt_packet *p, enum packet_end why);
    uint32_t snap;
    bool turns;
    uint64_t changed;

    /* Private. */
    struct channel_map map;
    int kick_down, kick_up;
    struct channel_producer down;
    struct channel_consumer up;
    struct copypool pool;
    struct packet_slot *slots;
    struct list order;
    uint32_t nslots, free_slot, late;
    uint32_t out[2]; /* by way: slots that are OUT or LATE */
    uint32_t ping, pong;
};

/**
 * packets_create() - the channel for one process: its memfd (owned by the caller) or -errno. The eventfds are
 * @kick_down and @kick_up, the link's own.
 * @subs: packets of its own that it may have under way.
 */
int packets_create(struct packet_link *l, uint32_t slots, uint32_t subs, uint64_t data_bytes,
                   struct dt_error *err);
/** packets_destroy() - nothing is OUT any more: packets_reclaim() came first. */
void packets_destroy(struct packet_link *l);
static inline bool packets_linked(const struct packet_link *l)
{
    return l->map.header;
}

/** packets_send() - false when there is no slot or no memory now; then @p is still the caller's. Not published. */
bool packets_send(struct packet_link *l, struct dt_packet *p, enum dt_direction way, uint64_t now);
static inline void packets_publish(struct packet_link *l)
{
    channel_publish(&l->down);
}
/**
 * packets_take() - act on what the process sent. Return: messages, or -EPROTO with the reason in @why: the process
 * may not be listened to any more.
 */
int packets_take(struct packet_link *l, const char **why);
/** packets_oldest() - when the packet was sent that is OUT for longest; UINT64_MAX = there is none. */
uint64_t packets_oldest(const struct packet_link *l);
/** packets_reclaim() - take the oldest back that is OUT; its slot is LATE. NULL = there is none. */
struct dt_packet *packets_reclaim(struct packet_link *l, enum dt_direction *way);
/** packets_ping() - ask for a sign of life. packets_silent(): it has not answered that yet. */
void packets_ping(struct packet_link *l);
static inline bool packets_silent(const struct packet_link *l)
{
    return l->ping != l->pong;
}

#endif
