/* SPDX-License-Identifier: MIT */
/*
 * front.h - where a VM attaches: a virtio device of some class on a Unix socket, served by a device's
 * chain. A VM may come and go and come back; one VM at a time.
 *
 * What all classes have in common is here: sockets, sessions, keepers, and the life of rings on
 * lanes. What a chain of descriptors means is the class's (blk/vhost-user, net/vhost-user).
 */
#ifndef FRONT_FRONT_H
#define FRONT_FRONT_H

#include "core/core.h"
#include "vhost/session.h"

#define FRONT_QUEUES 64u

/**
 * struct front_keeper - another process has the VM's sockets: vhost/link.h.
 * @fd: the link to it; owned by the front from now on.
 * @fence_ns: how long the device waited for a predecessor's I/O, for the keeper's figures.
 * @lost: the link ended; give the front another with front_link(), or stop it. On its loop.
 */
struct front_keeper {
    int fd;
    uint64_t fence_ns;
    void (*lost)(void *arg, const char *reason);
    void *arg;
};

/**
 * struct front_config - where the VM attaches and what it is promised.
 * @class: what kind of device it sees.
 * @listen_fd: a listening socket (owned from now on), or -1.
 * @session_fd: a connected socket (owned from now on), or -1.
 * @ended: that session is over, on its loop; free the front after this returned. Or NULL.
 * @connect: path of a socket where the VMM listens, retried until it does; or NULL.
 * @keeper:  who has the sockets, or NULL.
 *           Exactly one of these four.
 * @serial:  of a disk: at most 20 bytes, seen by the guest; NULL = the device's name, cut.
 * @queues:  offered; 0 = FRONT_QUEUES.
 * @packed:  offer packed rings.
 * @few_regions: without CONFIGURE_MEM_SLOTS. A VMM then gives at most 8 regions of memory, and may go on with
 *           a back end that takes fewer than we do: it refuses one that offers fewer slots than it saw before.
 * @config_space: of a card: offer the VMM a configuration space with the state of the link. Disks always have one.
 * @iommu:   offer ACCESS_PLATFORM: the VMM's vIOMMU says what of the guest's memory may be used. Only where the
 *           class can (front_class.translates).
 */
struct front_config {
    const struct front_class *class;
    struct device *dev;
    int listen_fd;
    int session_fd;
    void (*ended)(void *arg);
    void *ended_arg;
    const char *connect;
    const struct front_keeper *keeper;
    const char *serial;
    unsigned queues;
    bool packed;
    bool iommu;
    bool few_regions;
    bool config_space;
};

struct front;
struct front_class;
/** front_class_ops() - for device_start(). */
const struct front_ops *front_class_ops(const struct front_class *class);
/** front_new() - on a started device's first loop's thread, or before the loops run. */
int front_new(struct front **front, const struct front_config *config, struct dt_error *err);
/**
 * front_stop() - on the device's first thread: accept nothing more, end the session in good order
 * (drain, stop rings); @done runs on the same thread.
 */
void front_stop(struct front *front, void (*done)(void *arg), void *arg);
void front_free(struct front *front);
/** front_link() - serve another keeper, once the one before is lost. @fd is the front's. */
int front_link(struct front *front, int fd, struct dt_error *err);
bool front_linked(const struct front *front);
/** front_show() - on the first thread: {"attached":bool, "features", "queues":[...]}. New reference. */
json_t *front_show(struct front *front);
#endif
