/* SPDX-License-Identifier: MIT */
/* ring.c - a ring that is shared with the rear. */
#include "rear/rear.h"

#include <sys/eventfd.h>

size_t rear_ring_bytes(const struct rear *rear)
{
    return ALIGN_UP(virtq_driver_bytes((uint16_t)rear->queue_size, rear->packed),
                    (size_t)PAGE_SIZE_4K);
}

int rear_ring_init(struct rear_part *part, unsigned ring, const struct rear *rear,
                   uint64_t features, uint8_t *at, struct dt_error *err)
{
    struct rear_ring *r = &part->rings[ring];
    int ret;

    r->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->kick < 0 || r->call < 0)
        return dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    ret = virtq_driver_init(&r->vq, (uint16_t)rear->queue_size, rear->packed,
                            features & REAR_BIT(VIRTIO_RING_F_EVENT_IDX), at, rear_gpa(part, at));
    CHECK(ret == 0);
    return 0;
}

bool rear_ring_kick(struct rear *rear, struct rear_ring *ring)
{
    const uint64_t one = 1;

    if (!virtq_driver_publish(&ring->vq))
        return false;
    if (write(ring->kick, &one, sizeof(one)) < 0)
        log_debug("%s: kick: %m", rear->path); /* EAGAIN: a kick is pending already */
    return true;
}
