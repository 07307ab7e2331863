/* SPDX-License-Identifier: MIT */
/*
 * offloads.h - enum dt_offload in the feature bits of a network card (virtio 1.2, 5.1.3): what the device may be left to
 * do (CSUM, HOST_*), and what the driver may (GUEST_*).
 */
#ifndef NET_VIRTIO_OFFLOADS_H
#define NET_VIRTIO_OFFLOADS_H

#include "base/base.h"
#include <devtap/net.h>

#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_F_HOST_USO /* Linux 6.2 */
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO   56
#endif

static const struct {
    uint8_t offload, device, driver;
} virtio_offloads[] = {
    {DT_OFFLOAD_CSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM},
    {DT_OFFLOAD_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4},
    {DT_OFFLOAD_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6},
    {DT_OFFLOAD_USO4, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4},
    {DT_OFFLOAD_USO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO6},
    {DT_OFFLOAD_UFO4, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO},
    {DT_OFFLOAD_UFO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_GUEST_UFO},
};

/* What a driver of before virtio 1.0 may leave to the device with VIRTIO_NET_F_GSO alone: "any GSO type", which were these (5.1.3.2). */
#define VIRTIO_OFFLOADS_GSO (DT_OFFLOAD_TSO4 | DT_OFFLOAD_TSO6 | DT_OFFLOAD_UFO)

/** virtio_offloads_of() - what the device may be left to do with these features, or, with @driver, the driver. */
static inline uint32_t virtio_offloads_of(uint64_t features, bool driver)
{
    uint32_t offloads = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(virtio_offloads); i++) {
        unsigned bit = driver ? virtio_offloads[i].driver : virtio_offloads[i].device;

        if (features >> bit & 1)
            offloads |= virtio_offloads[i].offload;
    }
    if (!driver && features >> VIRTIO_NET_F_GSO & 1)
        offloads |= VIRTIO_OFFLOADS_GSO;
    return offloads;
}

/** virtio_offload_features() - the features that say so: of the device for @device, and for @driver of the driver. */
static inline uint64_t virtio_offload_features(uint32_t device, uint32_t driver)
{
    uint64_t features = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(virtio_offloads); i++) {
        if (device & virtio_offloads[i].offload)
            features |= 1ull << virtio_offloads[i].device;
        if (driver & virtio_offloads[i].offload)
            features |= 1ull << virtio_offloads[i].driver;
    }
    if ((device & VIRTIO_OFFLOADS_GSO) == VIRTIO_OFFLOADS_GSO)
        features |= 1ull << VIRTIO_NET_F_GSO;
    return features;
}

#endif
