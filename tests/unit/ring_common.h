/* SPDX-License-Identifier: MIT */
/*
 * ring_common.h - a guest's memory, a driver and a device on one ring, for the ring tests.
 *
 * Guest memory: [0, 1M) holds rings and tables, [1M, 2M) lies next to it in guest addresses
 * but elsewhere in the file and here, [4G, 4G + 1M) stands alone; the rest does not exist.
 */
#ifndef RING_COMMON_H
#define RING_COMMON_H

#include "ring/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <sys/mman.h>
#include <cmocka.h>

#define RIG_PART  0x100000u
#define RIG_FAR   0x100000000ull
#define RIG_TABLE 0xe0000u /* room for indirect tables */

struct rig_slot {
    struct virtq_chain chain;
    uint32_t tag;
};

struct rig {
    struct memmap map;
    int fd;
    struct iovpool *iovs;
    struct rig_slot *slots;
    void *log;
    size_t log_bytes;
    struct virtq vq;
    struct virtq_config config;
    struct virtq_driver driver;
};

static inline void rig_memory(struct rig *rig)
{
    struct dt_error err = {{0}};

    rig->fd = memfd_create("ring-test", MFD_CLOEXEC);
    assert_true(rig->fd >= 0);
    assert_int_equal(ftruncate(rig->fd, 4 * RIG_PART), 0);
    memmap_init(&rig->map);
    assert_int_equal(memmap_add(&rig->map, RIG_FAR, RIG_FAR, RIG_PART, rig->fd, 0, &err), 0);
    assert_int_equal(
        memmap_add(&rig->map, RIG_PART, RIG_PART, RIG_PART, rig->fd, 3 * RIG_PART, &err), 0);
    assert_int_equal(memmap_add(&rig->map, 0, 0, RIG_PART, rig->fd, RIG_PART, &err), 0);
}

/* Everything up to a driver whose ring is empty; the device is not started. */
static inline void rig_prepare(struct rig *rig, uint16_t size, bool packed, bool event_idx,
                               unsigned lists)
{
    *rig = (struct rig){0};
    rig_memory(rig);
    rig->iovs = iovpool_new(lists);
    rig->slots = xaligned(CACHE_LINE, size * sizeof(*rig->slots));
    rig->log_bytes = inflight_queue_size(size, packed);
    rig->log = xaligned(CACHE_LINE, rig->log_bytes);
    assert_int_equal(virtq_driver_init(&rig->driver, size, packed, event_idx,
                                       memmap_host(&rig->map, 0, RIG_TABLE), 0),
                     0);
    rig->config = (struct virtq_config){
        .size = size,
        .packed = packed,
        .event_idx = event_idx,
        .indirect = true,
        .desc = rig->driver.desc_off,
        .driver = rig->driver.driver_off,
        .device = rig->driver.device_off,
        .map = &rig->map,
        .iovs = rig->iovs,
        .slots = rig->slots,
        .slot_stride = sizeof(*rig->slots),
        .inflight = rig->log,
    };
}

static inline uint32_t rig_base(const struct rig *rig)
{
    return rig->config.packed ? 0x80008000u : 0;
}

static inline void rig_start(struct rig *rig)
{
    struct dt_error err = {{0}};

    if (virtq_start(&rig->vq, &rig->config, rig_base(rig), false, &err) < 0)
        fail_msg("%s", err.text);
}

static inline void rig_open(struct rig *rig, uint16_t size, bool packed, bool event_idx)
{
    rig_prepare(rig, size, packed, event_idx, 8);
    rig_start(rig);
}

static inline void rig_close(struct rig *rig)
{
    virtq_abandon(&rig->vq);
    virtq_driver_fini(&rig->driver);
    iovpool_free(rig->iovs);
    memmap_clear(&rig->map);
    close(rig->fd);
    free(rig->slots);
    free(rig->log);
}

static inline void *rig_at(struct rig *rig, uint64_t gpa, uint64_t len)
{
    void *host = memmap_host(&rig->map, gpa, len);

    assert_non_null(host);
    return host;
}

static inline struct vring_desc *rig_split(struct rig *rig)
{
    return rig_at(rig, rig->config.desc, 16);
}

static inline struct vring_packed_desc *rig_packed(struct rig *rig)
{
    return rig_at(rig, rig->config.desc, 16);
}

/* Offer one chain by hand: @first is the head (split), or the ring position (packed). */
static inline void rig_offer_split(struct rig *rig, uint16_t head)
{
    struct vring_avail *avail = rig_at(rig, rig->config.driver, 4);

    avail->ring[avail->idx & (rig->config.size - 1)] = head;
    avail->idx++;
}

static inline int rig_take1(struct rig *rig, struct virtq_chain **chain)
{
    return virtq_take(&rig->vq, chain, 1);
}

#endif
