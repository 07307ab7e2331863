/* SPDX-License-Identifier: MIT */
/* rings.c - one thread's part of the region that a session shares with the rear: its layout. */
#include "blk/rear/internal.h"

#include <sys/eventfd.h>

#define TABLE_BYTES (REAR_BUFFERS * sizeof(struct vring_desc))
#define MIB         ((size_t)1 << 20)

static size_t ring_part(const struct rear *rear)
{
    return ALIGN_UP(virtq_driver_bytes((uint16_t)rear->queue_size, rear->packed),
                    (size_t)PAGE_SIZE_4K);
}

static size_t line_part(const struct rear *rear)
{
    return ALIGN_UP(rear->queue_size * sizeof(struct rear_line), (size_t)PAGE_SIZE_4K);
}

static size_t table_part(const struct rear *rear)
{
    return ALIGN_UP(rear->queue_size * TABLE_BYTES, (size_t)PAGE_SIZE_4K);
}

/* Bounce buffers first, since theirs is the coarsest alignment. */
size_t rear_rings_bytes(const struct rear *rear)
{
    return ALIGN_UP(REAR_BOUNCE + ring_part(rear) + line_part(rear) + table_part(rear), MIB);
}

int rear_rings_init(struct rear_rings *q, const struct rear *rear, uint64_t features, uint8_t *base,
                    uint64_t gpa, struct dt_error *err)
{
    uint8_t *ring = base + REAR_BOUNCE;
    int ret;

    *q = (struct rear_rings){.base = base, .gpa = gpa, .nslots = (uint16_t)rear->queue_size};
    q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick < 0 || q->call < 0)
        return dt_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    ret = virtq_driver_init(&q->ring, q->nslots, rear->packed,
                            features & 1ull << VIRTIO_RING_F_EVENT_IDX, ring, gpa + REAR_BOUNCE);
    CHECK(ret == 0);
    q->lines = (void *)(ring + ring_part(rear));
    if (features & 1ull << VIRTIO_RING_F_INDIRECT_DESC)
        q->tables = ring + ring_part(rear) + line_part(rear);
    copypool_init_at(&q->bounce, base, REAR_BOUNCE);
    q->slots = xcalloc(q->nslots, sizeof(*q->slots));
    q->by_id = xcalloc(q->nslots, sizeof(*q->by_id));
    for (uint16_t i = 0; i < q->nslots; i++)
        q->slots[i].next = i + 1 < q->nslots ? (uint16_t)(i + 1) : REAR_NO_SLOT;
    return 0;
}

void rear_rings_fini(struct rear_rings *q)
{
    if (q->kick >= 0)
        close(q->kick);
    if (q->call >= 0)
        close(q->call);
    virtq_driver_fini(&q->ring);
    copypool_abandon(&q->bounce);
    free(q->slots);
    free(q->by_id);
}
