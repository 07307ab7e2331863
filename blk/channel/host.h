/* SPDX-License-Identifier: MIT */
/* host.h - what the parts of the host share: the chain, its threads, and the conversation. */
#ifndef BLK_CHANNEL_HOST_H
#define BLK_CHANNEL_HOST_H

#include "blk/channel/internal.h"
#include <devtap/channel.h>

/** struct host_slot - a request of the channel, as the front of our chain keeps it. */
struct host_slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov;
    void *data, *below;
    uint32_t id;
    bool last; /* the channel has no more interest in it */
} CACHE_ALIGNED;

/**
 * struct host_lane - the chain on one thread, with the channel of one thread of the worker's. All of it is
 * its thread's once it serves.
 * @ch: the host's own where there is one thread.
 */
struct host_lane {
    struct host *h;
    struct host_packet *packets; /* of a card, in the place of slots and subs */
    struct dt_channel *ch;
    struct loop *loop;
    pthread_t thread;
    struct lane *lane;
    struct dt_ctx *back;
    struct host_slot *slots;
    uint32_t nslots;
    struct dt_req **subs; /* by the channel's id */
    bool woken;           /* the extension would admit more */
    struct loop_poller poller;
    struct loop_deferred flush;
    struct dt_watch kick_watch;
    unsigned index, polls;
    bool served;
};

struct host {
    const char *name;
    const struct dt_block_ext *ext;
    bool net; /* it is for cards */
    struct dt_net_info net_below;
    struct dt_channel *ch;
    struct device *dev;
    struct dt_block_info below;
    struct host_lane *lanes;
    unsigned nlanes, served; /* served: lanes that have their channel */
    struct dt_watch control_watch;
    bool stopping, abandoned;
    int status;
};

/* The chain's two ends (host-chain.c). */
extern struct host the_host; /* one extension in a process */
extern const struct dt_block_ext host_back;
int host_chain_new(struct host *h, json_t *init, struct dt_error *err);
/** host_lane_start() - the next lane has its channel now; the first one starts the chain. */
int host_lane_start(struct host *h, struct dt_error *err);
void host_chain_stop(struct host *h);
/** host_in_flight() - requests of the worker's. */
unsigned host_in_flight(struct host *h);
/** host_release() - let go of what is held: on @thread, or everywhere (-1). */
void host_release(struct host *h, int thread, uint64_t deadline);
void host_counters(struct host *h);
/** host_allow() - tell the worker how many requests the extension would admit. */
void host_allow(struct host *h);

/* The ends of a card's chain (host-net.c). */
#define HOST_BURST 32u
/** struct host_packets - packets that enter the chain, by way. */
struct host_packets {
    struct dt_packet *packets[2][HOST_BURST];
    unsigned n[2];
};
extern const struct dt_net_ext host_net_back;
extern const struct front_ops host_net_ops;
void host_net_begin(struct host_lane *l);
/** host_net_take() - a packet of the worker's, into @b. */
void host_net_take(struct host_lane *l, const struct dt_channel_event *e, struct host_packets *b);
void host_net_submit(struct host_lane *l, struct host_packets *b);

/* Its threads (host-threads.c). */
int host_loops_new(struct host *h, unsigned n, uint64_t spin, struct dt_error *err);
/** host_threads_start() - where there are several; the one there is otherwise runs in host_serve(). */
int host_threads_start(struct host *h, struct dt_error *err);
/** host_serve() - until @stopping. */
void host_serve(struct host *h);
void host_loops_free(struct host *h);

/* What the worker asks (host.c). */
void host_control(struct host *h, const struct dt_channel_event *event);
/** host_lost() - the worker is gone, or broke the protocol (@error). */
void host_lost(struct host *h, int error);

#endif
