/* SPDX-License-Identifier: MIT */
/* tap_rig.h - a device whose back is a rear, turned by the test's own thread, and requests for it.
 */
#ifndef TESTS_TAP_RIG_H
#define TESTS_TAP_RIG_H

#include "core/core.h"

#define TAP_SLOTS 32u
#define TAP_BYTES 65536u

/** struct tap_slot - a request; @data lies in guest memory for even slots, elsewhere for odd ones. It is in four
 *  pieces in slots 0 and 1, in one in 2 and 3, and so on. */
struct tap_slot {
    struct request req;
    uint8_t frames[DT_FRAME_BUDGET];
    struct iovec iov[4];
    uint8_t *data;
    bool busy;
} CACHE_ALIGNED;

struct tap_rig {
    struct loop *loop;
    struct device *dev;
    struct tap_slot *slots;
    uint8_t *guest;
    int guest_fd;
    char events[512]; /* what the device said until the last turn, one after the other */
    unsigned resized;
};

/** tap_open() - 0, or what device_new() said. */
int tap_open(struct tap_rig *rig, const char *chain, struct dt_error *err);
void tap_close(struct tap_rig *rig);
/** tap_give_memory() - the guest's memory begins at @gpa; 0 = there is none. */
void tap_give_memory(struct tap_rig *rig, uint64_t gpa);
struct tap_slot *tap_submit(struct tap_rig *rig, unsigned slot, enum dt_op op, uint64_t sector,
                            uint32_t sectors, unsigned flags);
/** tap_wait() - turn until @slot is finished; its error, or -ETIME after @ms. */
int tap_wait(struct tap_rig *rig, struct tap_slot *slot, unsigned ms);
/** tap_turn() - for @ms. */
void tap_turn(struct tap_rig *rig, unsigned ms);
/** tap_counter() - a counter of the rear. */
uint64_t tap_counter(struct tap_rig *rig, const char *name);

#endif
