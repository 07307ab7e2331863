/* SPDX-License-Identifier: MIT */
/* rings.c - one thread's part of the region that a session shares with the rear: its layout. */
#include "net/rear/internal.h"

#define MIB ((size_t)1 << 20)

/* A packet that may not be spread over buffers needs a large one: Ethernet, and two tags. */
static uint32_t rx_size(const struct card_rear *cr)
{
    return cr->mergeable ? CARD_BUFFER
                         : MAX(CARD_BUFFER, ALIGN_UP(CARD_HEADER + 22 + cr->mtu, 64u));
}

size_t card_rings_bytes(const struct rear *rear)
{
    size_t buffers = rear->queue_size * (CARD_BUFFER + (size_t)rx_size(card_rear(rear)));

    return ALIGN_UP(2 * rear_ring_bytes(rear) + buffers, MIB);
}

int card_rings_init(struct rear *rear, uint64_t features, struct rear_part *part,
                    struct dt_error *err)
{
    struct card_rings *q = container_of(part, struct card_rings, part);
    uint8_t *at = part->base;
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < REAR_MAX_RINGS; i++, at += rear_ring_bytes(rear))
        ret = rear_ring_init(part, i, rear, features, at, err);
    if (ret < 0)
        return ret;
    q->size = q->ntx_free = (uint16_t)rear->queue_size;
    q->rx_size = rx_size(card_rear(rear));
    q->tx_buffers = at;
    q->rx_buffers = at + q->size * (size_t)CARD_BUFFER;
    q->tx_free = xcalloc(4 * (size_t)q->size, sizeof(q->tx_free[0]));
    q->tx_next = q->tx_free + q->size;
    q->tx_first = q->tx_next + q->size;
    q->rx_buffer = q->tx_first + q->size;
    for (uint16_t i = 0; i < q->size; i++)
        q->tx_free[i] = (uint16_t)(q->size - 1 - i);
    card_rear_offer(q);
    return 0;
}

void card_rings_fini(struct rear_part *part)
{
    free(container_of(part, struct card_rings, part)->tx_free);
}
