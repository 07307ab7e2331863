/* SPDX-License-Identifier: MIT */
/*
 * ring-config.c - from a ring's state, as the front end set it, to what virtq_start() needs.
 */
#include "vhost/internal.h"

#include <inttypes.h>

/* The lengths are those of virtio 1.2, 2.7 (split) and 2.8 (packed). */
int vhost_ring_config(const struct vhost_queue_state *v, uint64_t features,
                      const struct memmap *map, struct virtq_config *config, struct dt_error *err)
{
    bool packed = features & BIT(VIRTIO_F_RING_PACKED);
    bool event_idx = features & BIT(VIRTIO_RING_F_EVENT_IDX);
    uint64_t event = event_idx ? 2 : 0;
    uint64_t driver = packed ? 4 : 4 + 2ull * v->size + event;
    uint64_t device = packed ? 4 : 4 + 8ull * v->size + event;

    *config = (struct virtq_config){
        .size = v->size,
        .packed = packed,
        .event_idx = event_idx,
        .indirect = features & BIT(VIRTIO_RING_F_INDIRECT_DESC),
        .map = map,
    };
    if (features & BIT(VIRTIO_F_ACCESS_PLATFORM)) {
        config->desc = v->desc;
        config->driver = v->avail;
        config->device = v->used;
        return 0;
    }
    if (!memmap_uva_to_gpa(map, v->desc, 16ull * v->size, &config->desc) ||
        !memmap_uva_to_gpa(map, v->avail, driver, &config->driver) ||
        !memmap_uva_to_gpa(map, v->used, device, &config->device))
        return dt_fail(err, -EFAULT,
                       "no memory region holds all of a ring of %u at 0x%" PRIx64 ", 0x%" PRIx64
                       " and 0x%" PRIx64,
                       v->size, v->desc, v->avail, v->used);
    return 0;
}

/*
 * The base as virtq_start() wants it. Packed: DPDK's virtio-user leaves the upper half, the used
 * index, zero. A ring that we serve was drained when its base was asked for, so both are equal.
 */
int vhost_ring_base(const struct vhost_queue_state *v, bool packed, uint32_t *base,
                    struct dt_error *err)
{
    if (!packed && v->base > UINT16_MAX)
        return dt_fail(err, -EINVAL, "base 0x%x of a split ring", v->base);
    *base = v->base;
    if (packed && *base >> 16 == 0)
        *base |= *base << 16;
    return 0;
}
