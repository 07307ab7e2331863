/* SPDX-License-Identifier: MIT */
/* rings.c - one thread's part of the region that a session shares with the rear: its layout. */
#include "blk/rear/internal.h"

#define MIB ((size_t)1 << 20)

static size_t line_part(const struct rear *rear)
{
    return ALIGN_UP(rear->queue_size * sizeof(struct rear_line), (size_t)PAGE_SIZE_4K);
}

static size_t table_part(const struct rear *rear)
{
    return ALIGN_UP(rear->queue_size * REAR_TABLE * sizeof(struct vring_desc),
                    (size_t)PAGE_SIZE_4K);
}

/* Bounce buffers first, since theirs is the coarsest alignment. */
size_t rear_rings_bytes(const struct rear *rear)
{
    return ALIGN_UP(REAR_BOUNCE + rear_ring_bytes(rear) + line_part(rear) + table_part(rear), MIB);
}

/* Of a request with one piece of data all but the header's contents and that piece is known. */
static void init_line(struct rear_rings *q, struct rear_line *line)
{
    const struct virtq_buffer header = {rear_gpa(&q->part, &line->header), sizeof(line->header)};
    const struct virtq_buffer status = {rear_gpa(&q->part, &line->status), 1};

    virtq_table_set(rear_vq(q), line->table, 0, header, false, true);
    virtq_table_set(rear_vq(q), line->table, 2, status, true, false);
}

int rear_rings_init(struct rear *rear, uint64_t features, struct rear_part *part,
                    struct dt_error *err)
{
    struct rear_rings *q = container_of(part, struct rear_rings, part);
    uint8_t *ring = part->base + REAR_BOUNCE;
    int ret = rear_ring_init(part, 0, rear, features, ring, err);

    if (ret < 0)
        return ret;
    q->nslots = (uint16_t)rear->queue_size;
    q->lines = (void *)(ring + rear_ring_bytes(rear));
    if (features & REAR_BIT(VIRTIO_RING_F_INDIRECT_DESC))
        q->tables = (void *)(ring + rear_ring_bytes(rear) + line_part(rear));
    copypool_init_at(&q->bounce, part->base, REAR_BOUNCE);
    q->slots = xcalloc(q->nslots, sizeof(*q->slots));
    for (uint16_t i = 0; i < q->nslots; i++)
        init_line(q, &q->lines[i]);
    return 0;
}

void rear_rings_fini(struct rear_part *part)
{
    struct rear_rings *q = container_of(part, struct rear_rings, part);

    copypool_abandon(&q->bounce);
    free(q->slots);
}
