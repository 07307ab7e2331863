/* SPDX-License-Identifier: MIT */
/*
 * tx.c - packets to the rear.
 *
 * There are as many buffers as the ring has descriptors, and each descriptor is one buffer's: what is free of one
 * is free of the other.
 */
#include "net/rear/internal.h"

static void copy_packet(const struct card_rear *cr, struct card_rings *q, struct dt_packet *p,
                        struct virtq_buffer *bufs, uint16_t *ids, unsigned n)
{
    uint32_t done = 0, skip = CARD_HEADER;
    struct dt_vnet_header v;

    dt_vnet_write(p, &v);
    if (!cr->ecn)
        v.gso_type &= (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    for (unsigned i = 0; i < n; i++, skip = 0) {
        uint8_t *to = q->tx_buffers + ids[i] * (size_t)CARD_BUFFER;
        uint32_t length = MIN(p->length - done, CARD_BUFFER - skip);

        if (i == 0)
            memcpy(to, &v, CARD_HEADER);
        memcpy(to + skip, p->data + done, length);
        bufs[i] = (struct virtq_buffer){rear_gpa(&q->part, to), skip + length};
        done += length;
    }
}

/* false: the ring has no room for it now. */
static bool write_one(struct card_ctx *cc, struct dt_packet *p)
{
    struct card_rings *q = cc->rings;
    unsigned n = (unsigned)((CARD_HEADER + p->length + CARD_BUFFER - 1) / CARD_BUFFER);
    struct virtq_buffer bufs[CARD_BUFFERS];
    uint16_t ids[CARD_BUFFERS];
    int id;

    if (q->ntx_free < n)
        return false;
    for (unsigned i = 0; i < n; i++)
        ids[i] = q->tx_free[q->ntx_free - 1 - i];
    copy_packet(cc->rear, q, p, bufs, ids, n);
    id = virtq_driver_add(&q->part.rings[CARD_TX].vq, bufs, n, 0);
    CHECK(id >= 0);
    for (unsigned i = 0; i < n; i++)
        q->tx_next[ids[i]] = i + 1 < n ? ids[i + 1] : UINT16_MAX;
    q->tx_first[id] = ids[0];
    q->ntx_free = (uint16_t)(q->ntx_free - n);
    q->tx_packets++;
    return true;
}

unsigned card_rear_write(struct port_out *out, struct dt_packet **packets, unsigned n)
{
    struct card_ctx *cc = container_of(out, struct card_ctx, out);
    unsigned done = 0;

    if (unlikely(cc->compares) && n > 0)
        card_rear_compare(cc, packets[0]);
    if (cc->rings && cc->rings->ntx_free < cc->rings->size / 2)
        card_rear_reap(cc);
    if (cc->rings && !cc->broken)
        while (done < n && write_one(cc, packets[done]))
            done++;
    out->blocked = done < n || !cc->rings || cc->broken;
    if (done)
        dt_sent(cc->c, packets, done);
    if (cc->rings && (done || out->blocked))
        card_rear_show(cc); /* and when it is blocked, the rear is asked to call */
    return done;
}

static void free_packet(struct card_rings *q, uint16_t id)
{
    for (uint16_t b = q->tx_first[id]; b != UINT16_MAX; b = q->tx_next[b])
        q->tx_free[q->ntx_free++] = b;
    q->tx_packets--;
}

unsigned card_rear_reap(struct card_ctx *cc)
{
    struct virtq_driver *vq = &cc->rings->part.rings[CARD_TX].vq;
    uint16_t ids[PORT_BURST];
    unsigned total = 0;
    int n;

    do {
        n = virtq_driver_reap(vq, ids, NULL, PORT_BURST);
        if (unlikely(n < 0)) {
            card_rear_lied(cc);
            rear_fault(&cc->rear->rear, "transmit ring: %s", vq->fault);
            return total;
        }
        for (int i = 0; i < n; i++)
            free_packet(cc->rings, ids[i]);
        total += (unsigned)n;
    } while (n == (int)PORT_BURST);
    return total;
}
