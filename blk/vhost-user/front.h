/* SPDX-License-Identifier: MIT */
/*
 * front.h - the front `vhost-user`: a virtio-blk device on a Unix socket, served by a device's
 * chain. A VM may come and go and come back; one VM at a time.
 */
#ifndef BLK_VHOST_USER_FRONT_H
#define BLK_VHOST_USER_FRONT_H

#include "core/core.h"
#include "vhost/session.h"

#define FRONT_QUEUES      64u
#define FRONT_SERIAL_SIZE 20u

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
 * @listen_fd: a listening socket (owned from now on), or -1.
 * @session_fd: a connected socket (owned from now on), or -1.
 * @ended: that session is over, on its loop; free the front after this returned. Or NULL.
 * @connect: path of a socket where the VMM listens, retried until it does; or NULL.
 * @keeper:  who has the sockets, or NULL.
 *           Exactly one of these four.
 * @serial:  at most 20 bytes, seen by the guest; NULL = the device's name, cut.
 * @queues:  offered; 0 = FRONT_QUEUES.
 * @packed:  offer packed rings.
 * @few_regions: without CONFIGURE_MEM_SLOTS. A VMM then gives at most 8 regions of memory, and may go on with
 *           a back end that takes fewer than we do: it refuses one that offers fewer slots than it saw before.
 * @iommu:   offer ACCESS_PLATFORM: the VMM's vIOMMU says what of the guest's memory may be used.
 */
struct front_config {
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
};

struct front;
/** front_new() - on a started device's first loop's thread, or before the loops run. */
int front_new(struct front **front, const struct front_config *config, struct dt_error *err);
extern const struct front_ops front_device_ops;
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
