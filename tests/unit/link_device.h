/* SPDX-License-Identifier: MIT */
/* link_device.h - a device without rings of its own, for both ends of a link: it answers at once. */
#ifndef TESTS_LINK_DEVICE_H
#define TESTS_LINK_DEVICE_H

#include "vhost/link.h"

#include <stdio.h>

#define LINK_DEVICE_QUEUES 4u

/** struct link_device - @session: NULL while no front end is attached. */
struct link_device {
    struct vhost_session *session;
    struct vhost_remote *remote;
    unsigned starts, stops, pauses, resumes, attached, closed, lost;
    bool recover[LINK_DEVICE_QUEUES];
    uint8_t mode; /* the byte that a driver may write */
    unsigned modes;
    char reason[256];
};
#define LINK_DEVICE_MODE 32u

static uint64_t device_features(void *dev)
{
    return 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED;
}

static int device_set_features(void *dev, uint64_t features, struct dt_error *err)
{
    return 0;
}

static int device_get_config(void *dev, void *buf, uint32_t offset, uint32_t len)
{
    memset(buf, 7, len);
    return 0;
}

static int device_set_config(void *dev, const void *buf, uint32_t offset, uint32_t len)
{
    struct link_device *d = dev;

    if (offset != LINK_DEVICE_MODE || len != 1)
        return -EINVAL;
    memcpy(&d->mode, buf, 1);
    d->modes++;
    return 0;
}

static int device_queue_start(void *dev, unsigned q, struct dt_error *err)
{
    struct link_device *d = dev;
    struct vhost_ring ring;
    int ret = vhost_session_ring(d->session, q, &ring, err);

    if (ret == 0)
        d->starts++;
    d->recover[q] = ring.recover;
    return ret;
}

static void device_queue_stop(void *dev, unsigned q)
{
    struct link_device *d = dev;

    d->stops++;
    vhost_session_queue_stopped(d->session, q, 11);
}

static void device_pause(void *dev, bool drain)
{
    struct link_device *d = dev;

    d->pauses++;
    vhost_session_paused(d->session);
}

static void device_resume(void *dev)
{
    ((struct link_device *)dev)->resumes++;
}

static void device_kick_changed(void *dev, unsigned q)
{
}

static void device_closed(void *dev, const char *reason)
{
    struct link_device *d = dev;

    d->closed++;
    d->session = NULL;
}

static const struct vhost_device_ops link_device_ops = {
    .features = device_features,
    .set_features = device_set_features,
    .get_config = device_get_config,
    .set_config = device_set_config,
    .queue_start = device_queue_start,
    .queue_stop = device_queue_stop,
    .pause = device_pause,
    .resume = device_resume,
    .queue_kick_changed = device_kick_changed,
    .closed = device_closed,
};

static void device_attached(void *dev, struct vhost_session *session)
{
    struct link_device *d = dev;

    d->attached++;
    d->session = session;
}

static void device_lost(void *dev, const char *reason)
{
    struct link_device *d = dev;

    d->lost++;
    snprintf(d->reason, sizeof(d->reason), "%s", reason);
}

/** link_device_floor() - what it promises; @mode: the byte that a driver may write. */
static inline struct link_floor link_device_floor(uint8_t mode)
{
    struct link_floor floor = {.version = LINK_VERSION,
                               .queues = LINK_DEVICE_QUEUES,
                               .features = device_features(NULL),
                               .protocol_features = 1ull << VHOST_F_CONFIG | 1ull << VHOST_F_MQ};

    memset(floor.config, 7, sizeof(floor.config));
    memset(floor.writable, LINK_CONFIG_LIVE, 8);
    floor.writable[LINK_DEVICE_MODE] = 1;
    floor.config[LINK_DEVICE_MODE] = mode;
    return floor;
}

/** link_device_new() - serve what comes over @sock, which it takes; @mode as it promises it. */
static inline int link_device_new_mode(struct link_device *d, struct loop *loop, int sock,
                                       uint8_t mode, struct dt_error *err)
{
    const struct vhost_remote_config config = {.loop = loop,
                                               .sock = sock,
                                               .queues = LINK_DEVICE_QUEUES,
                                               .name = "device",
                                               .ops = &link_device_ops,
                                               .dev = d,
                                               .attached = device_attached,
                                               .lost = device_lost};
    const struct link_floor floor = link_device_floor(mode);

    *d = (struct link_device){.mode = mode};
    return vhost_remote_new(&d->remote, &config, &floor, err);
}

static inline int link_device_new(struct link_device *d, struct loop *loop, int sock,
                                  struct dt_error *err)
{
    return link_device_new_mode(d, loop, sock, 1, err);
}

#endif
