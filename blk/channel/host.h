/* SPDX-License-Identifier: MIT */
/* host.h - what the two halves of the host share: the chain, and the conversation. */
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

struct host {
    const char *name;
    const struct dt_block_ext *ext;
    struct dt_channel *ch;
    struct loop *loop;
    struct device *dev;
    struct lane *lane;
    struct dt_ctx *back;
    struct dt_block_info below;
    struct host_slot *slots;
    uint32_t nslots;
    struct dt_req **subs; /* by the channel's id */
    bool woken;           /* the extension would admit more */
    struct loop_poller poller;
    struct loop_deferred flush;
    struct dt_watch control_watch, kick_watch;
    unsigned polls;
    bool served, stopping, abandoned;
    int status;
};

/* The chain's two ends (host-chain.c). */
extern struct host the_host; /* one extension in a process */
extern const struct dt_block_ext host_back;
int host_chain_new(struct host *h, json_t *init, struct dt_error *err);
int host_chain_start(struct host *h, struct dt_error *err);
void host_chain_stop(struct host *h);
void host_release(struct host *h, uint64_t deadline);
void host_counters(struct host *h);
/** host_allow() - tell the worker how many requests the extension would admit. */
void host_allow(struct host *h);

/* What the worker asks (host.c). */
void host_control(struct host *h, const struct dt_channel_event *event);

#endif
