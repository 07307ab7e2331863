/* SPDX-License-Identifier: MIT */
/* internal.h - the front of a disk: slots, configuration, modes. */
#ifndef BLK_VHOST_USER_INTERNAL_H
#define BLK_VHOST_USER_INTERNAL_H

#include "blk/vhost-user/front.h"
#include "front/served.h"
#include <linux/virtio_blk.h>

#define FRONT_BURST       VIRTQ_GOOD_BURST
#define FRONT_SERIAL_SIZE 20u

/**
 * struct slot - a request between the ring and the chain; one per descriptor chain the ring can hold.
 * @status:  where the guest expects the status byte.
 * @trimmed: the status byte shares its vector with data: the vector was cut by one.
 */
struct slot {
    struct virtq_chain chain;
    struct front_queue *queue;
    uint8_t *status;
    bool trimmed;
    struct slot *next; /* put aside */
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
} CACHE_ALIGNED;

enum front_mode_state { MODE_INTERPOSE, MODE_ENTERING, MODE_PASSTHROUGH, MODE_LEAVING };

/**
 * struct front_mode - see mode.c. On the front's loop.
 * @wanted: a person wants passthrough.
 * @leave_asked: and something else wants the rings here, as soon as that can be.
 * @why: it is not as wanted.
 * @result, @reason: what the back said last.
 */
struct front_mode {
    bool wanted, leave_asked;
    enum front_mode_state state;
    char why[512];
    struct dt_layer *back;
    const struct passthrough_ops *ops;
    struct passthrough rings;
    struct loop_message entered, left;
    struct dt_timer again, count;
    int result;
    char reason[512];
    uint64_t passed, changes; /* requests that the rear answered; changes of mode */
    /* Of the last change: when it began, how long requests in flight took to end, and what came then. */
    uint64_t began, drain_ns, switch_ns;
};

struct disk_front {
    struct front front;
    char serial[FRONT_SERIAL_SIZE];
    bool writeback;
    bool fua; /* every write must be durable when completed */
    struct virtio_blk_config config;
    struct front_mode mode;
};
#define DISK(f) container_of(f, struct disk_front, front)

/* mode.c: passthrough */
void front_mode_init(struct front *front);
void front_mode_fini(struct front *front);
/** front_mode_leave() - true: the rings are here. Else they will be, and what was deferred is done then.
 *  @urgent: and the VMM waits, so layers that hold requests are not waited for. */
bool front_mode_leave(struct front *front, bool urgent);
/** front_mode_session() - the session changed something: look again whether passthrough can be. */
void front_mode_session(struct front *front);
void front_mode_paused(struct front *front);
void front_mode_call_changed(void *dev, unsigned q);
void front_mode_show(struct front *front, json_t *show);
int front_set_passthrough(struct lane *lane, bool on, struct dt_error *err);

/* stuck.c */
/** front_stuck() - requests that are older than a second, the oldest 16; new reference. */
json_t *front_stuck(const struct front *front);

/* request.c: between ring and chain. */
unsigned front_queue_poll(struct loop_poller *poller);
bool front_queue_arm(struct loop_poller *poller);
void front_complete(struct lane *lane, struct request **reqs, unsigned n);
void front_each(struct lane *lane, void (*look)(struct lane *lane, struct request *req));
/** disk_take_aside() - what was put aside goes back to the rings that no longer run, or fails. */
void disk_take_aside(struct front_lane *fl);
/** disk_submit_aside() - and all of it into the chain. Return: false if the chain admits nothing now. */
bool disk_submit_aside(struct front_lane *fl);

#endif
