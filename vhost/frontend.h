/* SPDX-License-Identifier: MIT */
/* frontend.h - the front-end session: it drives somebody else's back end. */
#ifndef VHOST_FRONTEND_H
#define VHOST_FRONTEND_H

#include "vhost/message.h"

/**
 * struct vhost_frontend - drives a back end: negotiation, memory, rings. Calls block, each
 * with a deadline, so it belongs on a control thread; rings are used by any one thread.
 * The back end is not trusted: replies are checked in size, flags and range.
 */
struct vhost_frontend;

/**
 * vhost_frontend_new() - take over a connected socket.
 * @timeout_ms: for each reply.
 */
int vhost_frontend_new(struct vhost_frontend **f, int sock, int timeout_ms, struct dt_error *err);
/** vhost_connect() - a socket connected to the Unix socket at @path. Return: it, or -errno. */
int vhost_connect(const char *path, struct dt_error *err);
/** vhost_frontend_connect() - the same, to a Unix socket path. */
int vhost_frontend_connect(struct vhost_frontend **f, const char *path, int timeout_ms,
                           struct dt_error *err);
void vhost_frontend_free(struct vhost_frontend *f);
/**
 * vhost_frontend_negotiate() - learn what is offered, set what both want, take ownership.
 * @features: in: wanted virtio features; out: acknowledged.
 * @protocol: in: wanted protocol features; out: acknowledged.
 * @required: virtio features without which this fails.
 * @queues: out: queues offered.
 */
int vhost_frontend_negotiate(struct vhost_frontend *f, uint64_t *features, uint64_t *protocol,
                             uint64_t required, unsigned *queues, struct dt_error *err);
/** vhost_frontend_queue_rings() - before negotiation: how many rings one queue is, as the back end counts
 *  them; 1, unless told: 2 for a network card. */
void vhost_frontend_queue_rings(struct vhost_frontend *f, unsigned rings);
int vhost_frontend_offered(const struct vhost_frontend *f, uint64_t *features, uint64_t *protocol);
/** vhost_frontend_get_config() - @len bytes at @offset. Return: 0; -EIO where the back end refuses them; another -errno. */
int vhost_frontend_get_config(struct vhost_frontend *f, void *buf, uint32_t offset, uint32_t len,
                              struct dt_error *err);
int vhost_frontend_set_config(struct vhost_frontend *f, const void *buf, uint32_t offset,
                              uint32_t len, struct dt_error *err);
/**
 * vhost_frontend_add_memory() - give the back end @size bytes of @fd at @offset as @gpa.
 * Uses ADD_MEM_REG where negotiated, else resends the whole table.
 */
int vhost_frontend_add_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva, uint64_t size,
                              int fd, uint64_t offset, struct dt_error *err);
int vhost_frontend_remove_memory(struct vhost_frontend *f, uint64_t gpa, uint64_t uva,
                                 uint64_t size, struct dt_error *err);
/**
 * vhost_frontend_inflight() - get an in-flight region for @queues of @size from the back end,
 * or give it back one of an earlier connection (@fd >= 0 on entry). The fd stays ours.
 */
int vhost_frontend_inflight(struct vhost_frontend *f, unsigned queues, uint16_t size, int *fd,
                            struct vhost_inflight *region, struct dt_error *err);
/**
 * vhost_frontend_batch() - do not wait for the answers to what is said of rings, features and configuration until
 * vhost_frontend_flush(): one round trip for all instead of one each. What asks for something still waits, for
 * all that was said before, too.
 */
void vhost_frontend_batch(struct vhost_frontend *f);
/** vhost_frontend_flush() - the end of a batch. @ret: what the calls in it returned. Return: @ret, or the first refusal. */
int vhost_frontend_flush(struct vhost_frontend *f, int ret, struct dt_error *err);
/** struct vhost_frontend_ring - addresses are front-end virtual, within added memory. */
struct vhost_frontend_ring {
    uint16_t size;
    uint32_t base;
    uint64_t desc, driver, device;
    int kick, call; /* eventfds, the caller's */
};
int vhost_frontend_ring_start(struct vhost_frontend *f, unsigned q,
                              const struct vhost_frontend_ring *ring, struct dt_error *err);
/** vhost_frontend_ring_stop() - GET_VRING_BASE; see trap 9 of the facts: drain before it. */
int vhost_frontend_ring_stop(struct vhost_frontend *f, unsigned q, uint32_t *base,
                             struct dt_error *err);
/** vhost_frontend_ring_kick() - another kick eventfd for a ring that runs. */
int vhost_frontend_ring_kick(struct vhost_frontend *f, unsigned q, int fd, struct dt_error *err);
/** vhost_frontend_set_features() - other virtio features, of those offered, while no ring runs. */
int vhost_frontend_set_features(struct vhost_frontend *f, uint64_t features, struct dt_error *err);
int vhost_frontend_ring_enable(struct vhost_frontend *f, unsigned q, bool enable,
                               struct dt_error *err);
int vhost_frontend_set_status(struct vhost_frontend *f, uint8_t status, struct dt_error *err);
/** vhost_frontend_set_mtu() - the largest packet of a network card; only with protocol feature MTU. */
int vhost_frontend_set_mtu(struct vhost_frontend *f, uint16_t mtu, struct dt_error *err);
int vhost_frontend_reset(struct vhost_frontend *f, struct dt_error *err);
/** vhost_frontend_events() - read the back end's own requests without waiting, some at a time: the descriptor stays
 *  readable while there are more. Sets @config_changed if it announced a change. Returns -ECONNRESET when it is gone. */
int vhost_frontend_events(struct vhost_frontend *f, bool *config_changed);
/** vhost_frontend_iotlb() - give a translation, or take it away: when it returns, it is no longer used. */
int vhost_frontend_iotlb(struct vhost_frontend *f, const struct vhost_iotlb *change,
                         struct dt_error *err);
/** vhost_frontend_miss() - the next translation that the back end asked for: 1, 0 = none yet, or -errno.
 *  Other requests of the back end that came before it are answered, and dropped. */
int vhost_frontend_miss(struct vhost_frontend *f, struct vhost_iotlb *miss);
/** vhost_frontend_socket(), _backend_fd() - to poll for a hang-up or for events. */
int vhost_frontend_socket(const struct vhost_frontend *f);
int vhost_frontend_backend_fd(const struct vhost_frontend *f);

#endif
