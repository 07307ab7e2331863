/* SPDX-License-Identifier: MIT */
/*
 * rx.c - packets from the rear.
 *
 * A packet is copied, and judged then: what the rear writes later into a buffer that it gave back is nobody's
 * business. Its virtio header is read once.
 */
#include "net/rear/internal.h"

#define RETRY_NS DT_MS(1)

/* ---- Buffers ---- */

static void offer_one(struct card_rings *q, uint16_t buffer)
{
    const struct virtq_buffer buf = {
        rear_gpa(&q->part, q->rx_buffers + buffer * (size_t)q->rx_size), q->rx_size};
    int id = virtq_driver_add(&q->part.rings[CARD_RX].vq, &buf, 0, 1);

    CHECK(id >= 0);
    q->rx_buffer[id] = buffer;
}

void card_rear_offer(struct card_rings *q)
{
    for (uint16_t i = 0; i < q->size; i++)
        offer_one(q, i);
}

static const uint8_t *buffer_of(const struct card_ctx *cc, unsigned i)
{
    return cc->rings->rx_buffers + cc->pending[cc->at + i].buffer * (size_t)cc->rings->rx_size;
}

static void give_back(struct card_ctx *cc, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        offer_one(cc->rings, cc->pending[cc->at++].buffer);
    cc->frame.buffers = 0;
    card_rear_show(cc);
}

void card_rear_skip(struct card_ctx *cc)
{
    give_back(cc, cc->n - cc->at);
}

/* Some that the rear filled; false if there are none. */
static bool take_more(struct card_ctx *cc)
{
    struct virtq_driver *vq = &cc->rings->part.rings[CARD_RX].vq;
    uint16_t ids[CARD_PENDING];
    uint32_t lengths[CARD_PENDING];
    int n;

    memmove(cc->pending, cc->pending + cc->at, (cc->n - cc->at) * sizeof(cc->pending[0]));
    cc->n -= cc->at;
    cc->at = 0;
    n = virtq_driver_reap(vq, ids, lengths, CARD_PENDING - cc->n);
    if (unlikely(n < 0)) {
        card_rear_lied(cc);
        rear_fault(&cc->rear->rear, "receive ring: %s", vq->fault);
        return false;
    }
    for (int i = 0; i < n; i++) {
        cc->pending[cc->n].buffer = cc->rings->rx_buffer[ids[i]];
        cc->pending[cc->n++].length = lengths[i];
    }
    return n > 0;
}

/* ---- Packets ---- */

static int lie(struct card_ctx *cc, const char *what, unsigned n)
{
    card_rear_lied(cc);
    rear_fault(&cc->rear->rear, "receive ring: a packet %s %u", what, n);
    return -EPROTO;
}

/* Reads a packet's header, where none is on its way. 1 = all of its buffers are here; 0 = not yet. */
static int begin_frame(struct card_ctx *cc)
{
    struct card_frame *f = &cc->frame;

    while (f->buffers == 0 || cc->n - cc->at < f->buffers) {
        if (f->buffers == 0 && cc->at < cc->n) {
            if (cc->pending[cc->at].length < CARD_HEADER)
                return lie(cc, "whose first buffer has fewer bytes than its header:",
                           cc->pending[cc->at].length);
            memcpy(&f->header, buffer_of(cc, 0), CARD_HEADER);
            f->buffers = cc->rear->mergeable ? f->header.num_buffers : 1;
            if (f->buffers == 0 || f->buffers > CARD_BUFFERS)
                return lie(cc, "in an impossible number of buffers:", f->header.num_buffers);
        } else if (!take_more(cc)) {
            return cc->broken ? -EPROTO : 0;
        }
    }
    return 1;
}

static void copy_out(const struct card_ctx *cc, struct dt_packet *p)
{
    uint32_t done = 0, skip = CARD_HEADER;

    for (unsigned i = 0; i < cc->frame.buffers; i++, skip = 0) {
        uint32_t length = cc->pending[cc->at + i].length - skip;

        memcpy(p->data + done, buffer_of(cc, i) + skip, length);
        done += length;
    }
}

static void run_again(struct dt_timer *timer)
{
    struct card_ctx *cc = container_of(timer, struct card_ctx, again);

    cc->starved = false;
    loop_poller_wake(ctx_loop(cc->c), &cc->poller);
}

static int starve(struct card_ctx *cc)
{
    dt_count(cc->c, RX_MEMORY, 1);
    cc->starved = true;
    cc->again.fire = run_again;
    dt_timer_set(cc->c, &cc->again, dt_now(cc->c) + RETRY_NS);
    return 0;
}

/* 1 = *@out is the next packet, or NULL for one that was dropped; 0 = there is none now. */
static int next_packet(struct card_ctx *cc, struct dt_packet **out)
{
    int ret = begin_frame(cc);
    uint32_t length = 0;
    struct dt_packet *p;

    if (ret <= 0)
        return ret;
    for (unsigned i = 0; i < cc->frame.buffers; i++)
        length += cc->pending[cc->at + i].length;
    length -= CARD_HEADER;
    if (length > PORT_LARGEST)
        return lie(cc, "of too many bytes:", length);
    *out = NULL;
    if (length < PORT_LEAST) {
        dt_count(cc->c, RX_SHORT, 1);
        give_back(cc, cc->frame.buffers);
        return 1;
    }
    p = dt_packet_new(cc->c, length);
    if (!p)
        return starve(cc);
    copy_out(cc, p);
    give_back(cc, cc->frame.buffers);
    if ((cc->frame.header.flags | cc->frame.header.gso_type) &&
        dt_vnet_read(p, &cc->frame.header, cc->rear->gives) < 0)
        dt_drop_one(cc->c, p, RX_HEADER);
    else
        *out = p;
    return 1;
}

unsigned card_rear_receive(struct card_ctx *cc)
{
    unsigned room = cc->starved ? 0 : MIN(dt_room(cc->c), PORT_BURST), n = 0, seen = 0;
    struct dt_packet *packets[PORT_BURST];

    while (n < room && seen < PORT_BURST && !cc->starved && next_packet(cc, &packets[n]) > 0) {
        seen++;
        n += packets[n] != NULL;
    }
    dt_receive(cc->c, packets, n);
    return seen;
}
