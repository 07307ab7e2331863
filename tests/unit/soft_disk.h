/* SPDX-License-Identifier: MIT */
/* soft_disk.h - a soft disk, or card, served by a thread of this process, for tests that drive it as a VM would. */
#ifndef TESTS_SOFT_DISK_H
#define TESTS_SOFT_DISK_H

#include "blk/blk.h"
#include "blk/driver/driver.h"
#include "blk/vhost-user/front.h"

/**
 * struct soft_disk - all of it.
 * @iommu: offer ACCESS_PLATFORM. @config_space: a card's.
 * @card: it is one, of this class; NULL = a disk.
 * @spin_ns: for how long an idle ring is polled; 0 = 50 us.
 * @turned: no thread serves it: the caller turns its loop, and does not stop it.
 * @on_thread: called on the serving thread before it serves; may be NULL.
 */
struct soft_disk {
    struct loop *loop;
    struct device *dev;
    struct front *front;
    pthread_t thread;
    char socket[64];
    const struct front_class *card;
    struct front_ops ops;
    uint64_t spin_ns;
    void (*on_thread)(void);
    bool iommu, config_space, turned, stopped;
};

/** soft_disk_start() - serve @chain; ends the program with a message when it cannot. */
void soft_disk_start(struct soft_disk *disk, const char *chain);
void soft_disk_stop(struct soft_disk *disk);

#endif
