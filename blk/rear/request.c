/* SPDX-License-Identifier: MIT */
/*
 * request.c - a request in the words of virtio-blk (virtio 1.2, 5.2.6), and what comes back of it.
 *
 * Header, range and status byte lie in the slot's line. The status byte is set to a value that no
 * device may answer before the rear gets it, and read once when the id comes back.
 */
#include "blk/rear/internal.h"

#define STATUS_UNSET 0xffu

static inline unsigned slot_index(const struct rear_rings *q, const struct rear_slot *slot)
{
    return (unsigned)(slot - q->slots);
}

void rear_slot_release(struct rear_rings *q, struct rear_slot *slot)
{
    if (slot->bounce)
        copypool_put(&q->bounce, slot->bounce);
    slot->bounce = NULL;
    slot->req = NULL;
    slot->flushing = false;
    slot->next = q->free_slot;
    q->free_slot = (uint16_t)slot_index(q, slot);
}

/* ---- On its way to the rear ------------------------------------------------------------------ */

static uint32_t virtio_type(const struct dt_req *req)
{
    static const uint32_t types[DT_OP_COUNT] = {
        [DT_OP_READ] = VIRTIO_BLK_T_IN,
        [DT_OP_WRITE] = VIRTIO_BLK_T_OUT,
        [DT_OP_FLUSH] = VIRTIO_BLK_T_FLUSH,
        [DT_OP_DISCARD] = VIRTIO_BLK_T_DISCARD,
        [DT_OP_WRITE_ZEROES] = VIRTIO_BLK_T_WRITE_ZEROES,
    };

    return types[req->op];
}

/* Where the rear sees each vector; false unless it sees them all. */
static bool translate(struct rear_ctx *rc, const struct iovec *iov, unsigned n,
                      struct virtq_buffer *bufs)
{
    if (n > REAR_SEGMENTS)
        return false;
    for (unsigned i = 0; i < n; i++) {
        bufs[i].len = (uint32_t)iov[i].iov_len;
        if (!rear_map_gpa(rc->map, iov[i].iov_base, iov[i].iov_len, &rc->hint, &bufs[i].addr))
            return false;
    }
    return true;
}

static bool bounce(struct rear_ctx *rc, struct rear_slot *slot, struct dt_req *req,
                   const struct iovec *iov, unsigned n, struct virtq_buffer *buf)
{
    size_t bytes = dt_req_bytes(req);

    slot->bounce = copypool_get(&rc->rings->bounce, bytes, 0);
    if (!slot->bounce)
        return false;
    if (req->op == DT_OP_WRITE)
        dt_iov_read(iov, n, 0, slot->bounce, bytes);
    *buf = (struct virtq_buffer){rear_gpa(&rc->rings->part, slot->bounce), (uint32_t)bytes};
    dt_count(rc->c, REAR_BOUNCED, 1);
    return true;
}

/* Returns the number of buffers between header and status, or -1 where no memory is free. */
static int data_buffers(struct rear_ctx *rc, struct rear_slot *slot, struct dt_req *req,
                        struct virtq_buffer *bufs)
{
    const struct iovec *iov;
    unsigned n;

    if (!dt_req_has_data(req))
        return 0;
    n = dt_req_map(rc->c, req, &iov);
    if (likely(translate(rc, iov, n, bufs)))
        return (int)n;
    return bounce(rc, slot, req, iov, n, bufs) ? 1 : -1;
}

static unsigned range_buffer(struct rear_rings *q, struct rear_line *line, const struct dt_req *req,
                             struct virtq_buffer *buf)
{
    if (req->op != DT_OP_DISCARD && req->op != DT_OP_WRITE_ZEROES)
        return 0;
    line->range.sector = req->sector;
    line->range.num_sectors = req->sectors;
    line->range.flags = req->flags & DT_REQ_UNMAP ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    *buf = (struct virtq_buffer){rear_gpa(&q->part, &line->range), sizeof(line->range)};
    return 1;
}

/* Few buffers go into the ring itself while it has room; else into the slot's own table. */
static int offer(struct rear_ctx *rc, struct rear_slot *slot, const struct virtq_buffer *bufs,
                 unsigned nread, unsigned nwrite)
{
    struct rear_rings *q = rc->rings;
    unsigned n = nread + nwrite;
    uint8_t *table;
    int id;

    if (!q->tables || (n <= 3 && virtq_driver_room(rear_vq(q)) > q->nslots / 2u)) {
        id = virtq_driver_add(rear_vq(q), bufs, nread, nwrite);
    } else {
        table = q->tables + slot_index(q, slot) * REAR_BUFFERS * sizeof(struct vring_desc);
        id = virtq_driver_add_indirect(rear_vq(q), bufs, nread, nwrite, table,
                                       rear_gpa(&q->part, table));
        dt_count(rc->c, REAR_INDIRECT, id >= 0);
    }
    if (id >= 0)
        q->by_id[id] = (uint16_t)slot_index(q, slot);
    return id;
}

static int send_slot(struct rear_ctx *rc, struct rear_slot *slot, uint32_t type, uint64_t sector,
                     struct virtq_buffer *bufs, unsigned ndata, bool into)
{
    struct rear_rings *q = rc->rings;
    struct rear_line *line = &q->lines[slot_index(q, slot)];

    line->header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
    WRITE_ONCE(line->status, STATUS_UNSET);
    bufs[0] = (struct virtq_buffer){rear_gpa(&q->part, &line->header), sizeof(line->header)};
    bufs[1 + ndata] = (struct virtq_buffer){rear_gpa(&q->part, &line->status), 1};
    return into ? offer(rc, slot, bufs, 1, ndata + 1) : offer(rc, slot, bufs, 1 + ndata, 1);
}

bool rear_send(struct rear_ctx *rc, struct dt_req *req)
{
    struct rear_rings *q = rc->rings;
    struct virtq_buffer bufs[REAR_BUFFERS];
    struct rear_slot *slot;
    uint64_t sector = 0;
    int n;

    if (q->free_slot == REAR_NO_SLOT)
        return false;
    slot = &q->slots[q->free_slot];
    n = data_buffers(rc, slot, req, bufs + 1);
    if (n < 0)
        return false;
    if (dt_req_has_data(req))
        sector = req->sector;
    else
        n = (int)range_buffer(q, &q->lines[q->free_slot], req, bufs + 1);
    if (send_slot(rc, slot, virtio_type(req), sector, bufs, (unsigned)n, req->op == DT_OP_READ) <
        0) {
        if (slot->bounce)
            copypool_put(&q->bounce, slot->bounce);
        slot->bounce = NULL;
        return false;
    }
    q->free_slot = slot->next;
    slot->req = req;
    rc->in_flight++;
    return true;
}

/* ---- On its way back ------------------------------------------------------------------------- */

static bool needs_flush(const struct rear_ctx *rc, const struct rear_slot *slot)
{
    const struct dt_req *req = slot->req;

    return unlikely(req->flags & DT_REQ_FUA) && req->error == 0 && !slot->flushing &&
           rc->rear->info.can_flush && (req->op == DT_OP_WRITE || req->op == DT_OP_WRITE_ZEROES);
}

/* The descriptors of the write that just came back are free, so there is room. */
static void send_flush(struct rear_ctx *rc, struct rear_slot *slot)
{
    struct virtq_buffer bufs[2];
    int id = send_slot(rc, slot, VIRTIO_BLK_T_FLUSH, 0, bufs, 0, false);

    CHECK(id >= 0);
    slot->flushing = true;
}

/* What the rear says of a request, as 0 or -errno; 1 = that is no answer. */
static int judge(const struct rear_ctx *rc, const struct rear_slot *slot, uint8_t status,
                 uint32_t len)
{
    const struct dt_req *req = slot->req;

    if (status == VIRTIO_BLK_S_IOERR)
        return -EIO;
    if (status == VIRTIO_BLK_S_UNSUPP)
        return -EOPNOTSUPP;
    if (status != VIRTIO_BLK_S_OK) {
        rear_fault(&rc->rear->rear, "a %s was answered with status %u", dt_op_name(req->op),
                   status);
        return 1;
    }
    if (req->op == DT_OP_READ && len < dt_req_bytes(req) + 1) {
        rear_fault(&rc->rear->rear,
                   "a read of %llu bytes succeeded with %u bytes written, status included",
                   (unsigned long long)dt_req_bytes(req), len);
        return 1;
    }
    return 0;
}

struct dt_req *rear_received(struct rear_ctx *rc, uint16_t id, uint32_t len)
{
    struct rear_rings *q = rc->rings;
    struct rear_slot *slot = &q->slots[q->by_id[id]];
    struct dt_req *req = slot->req;
    const struct iovec *iov;
    int error = judge(rc, slot, READ_ONCE(q->lines[q->by_id[id]].status), len);
    unsigned n;

    if (unlikely(error > 0)) {
        rc->broken = true; /* the request stays in flight, and is sent again to whom comes next */
        return NULL;
    }
    req->error = error;
    if (needs_flush(rc, slot)) {
        send_flush(rc, slot);
        return NULL;
    }
    if (slot->bounce && req->op == DT_OP_READ && error == 0) {
        n = dt_req_map(rc->c, req, &iov);
        dt_iov_write(iov, n, 0, slot->bounce, dt_req_bytes(req));
    }
    rear_slot_release(q, slot);
    rc->in_flight--;
    return req;
}
