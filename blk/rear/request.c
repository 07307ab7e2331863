/* SPDX-License-Identifier: MIT */
/*
 * request.c - a request in the words of virtio-blk (virtio 1.2, 5.2.6), and what comes back of it.
 *
 * Header, range and status byte lie in the slot's line. The status byte is set to a value that no
 * device may answer before the rear gets it, and read once when the id comes back.
 */
#include "blk/rear/internal.h"

#define STATUS_UNSET 0xffu

void rear_slot_release(struct rear_rings *q, struct rear_slot *slot)
{
    if (unlikely(slot->bounce))
        copypool_put(&q->bounce, slot->bounce);
    slot->bounce = NULL;
    slot->req = NULL;
    slot->flushing = false;
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
    n = request_data(req, &iov);
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

static inline void set_line(struct rear_line *line, uint32_t type, uint64_t sector)
{
    line->header.type = type; /* its third field is 0 from the beginning */
    line->header.sector = sector;
    WRITE_ONCE(line->status, STATUS_UNSET);
}

/* Header, @n buffers from bufs[1] on, which the rear may fill if @into, and status. */
static int offer(struct rear_rings *q, unsigned id, struct virtq_buffer *bufs, unsigned n,
                 bool into, uint64_t bytes)
{
    struct rear_line *line = &q->lines[id];
    unsigned nread = into ? 1 : 1 + n;
    struct vring_desc *table;

    bufs[0] = (struct virtq_buffer){rear_gpa(&q->part, &line->header), sizeof(line->header)};
    bufs[1 + n] = (struct virtq_buffer){rear_gpa(&q->part, &line->status), 1};
    if (!q->tables)
        return virtq_driver_add(rear_vq(q), bufs, nread, n + 2 - nread);
    table = q->tables + id * REAR_TABLE;
    for (unsigned i = 0; i < n + 2; i++)
        virtq_table_set(rear_vq(q), table, i, bufs[i], i >= nread, i < n + 1);
    virtq_driver_add_tables(
        rear_vq(q),
        &(struct virtq_table){rear_gpa(&q->part, table), n + 2, into ? (uint32_t)bytes + 1 : 1}, 1);
    return 0;
}

static void take_slot(struct rear_ctx *rc, unsigned id, struct dt_req *req)
{
    rc->rings->slots[id].req = req;
    rc->in_flight++;
}

/* Any request; false: there is no room now. */
static bool send_any(struct rear_ctx *rc, struct dt_req *req)
{
    struct rear_rings *q = rc->rings;
    struct virtq_buffer bufs[REAR_BUFFERS];
    uint16_t id;
    int n;

    if (virtq_driver_ids(rear_vq(q), &id, 1) == 0)
        return false;
    if (dt_req_has_data(req))
        n = data_buffers(rc, &q->slots[id], req, bufs + 1);
    else
        n = (int)range_buffer(q, &q->lines[id], req, bufs + 1);
    if (n < 0)
        return false;
    set_line(&q->lines[id], virtio_type(req), dt_req_has_data(req) ? req->sector : 0);
    if (offer(q, id, bufs, (unsigned)n, req->op == DT_OP_READ, dt_req_bytes(req)) < 0) {
        rear_slot_release(q, &q->slots[id]);
        return false;
    }
    take_slot(rc, id, req);
    return true;
}

/* The usual request: its data are in one piece, which the rear sees. */
static inline bool one_piece(struct rear_ctx *rc, const struct dt_req *req,
                             struct virtq_buffer *buf)
{
    const struct iovec *iov;

    if (!dt_req_has_data(req) || request_data(req, &iov) != 1)
        return false;
    buf->len = (uint32_t)iov->iov_len;
    return rear_map_gpa(rc->map, iov->iov_base, iov->iov_len, &rc->hint, &buf->addr);
}

/* As many of them as there are before one of another kind: of the line's table only the data have to be written. */
static unsigned send_pieces(struct rear_ctx *rc, struct dt_req **reqs, unsigned n)
{
    struct rear_rings *q = rc->rings;
    struct rear_line *lines = q->lines;
    struct rear_slot *slots = q->slots;
    uint64_t at = rear_gpa(&q->part, lines->table);
    struct virtq_table tables[REAR_BURST];
    uint16_t ids[REAR_BURST];
    struct virtq_buffer buf;
    unsigned i;

    n = q->tables ? virtq_driver_ids(rear_vq(q), ids, MIN(n, REAR_BURST)) : 0;
    for (i = 0; i < n && one_piece(rc, reqs[i], &buf); i++) {
        unsigned id = ids[i];
        bool into = reqs[i]->op == DT_OP_READ;

        set_line(&lines[id], into ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, reqs[i]->sector);
        virtq_table_set(rear_vq(q), lines[id].table, 1, buf, into, true);
        tables[i] = (struct virtq_table){at + id * sizeof(*lines), 3, into ? buf.len + 1 : 1};
        slots[id].req = reqs[i];
    }
    virtq_driver_add_tables(rear_vq(q), tables, i);
    rc->in_flight += i;
    return i;
}

unsigned rear_send(struct rear_ctx *rc, struct dt_req **reqs, unsigned n)
{
    unsigned sent = 0;

    while (sent < n) {
        sent += send_pieces(rc, reqs + sent, n - sent);
        if (sent < n && !send_any(rc, reqs[sent++]))
            return sent - 1;
    }
    return sent;
}

/* The descriptors of the write that just came back are free, so there is room. */
static void send_flush(struct rear_ctx *rc, struct dt_req *req)
{
    struct rear_rings *q = rc->rings;
    struct virtq_buffer bufs[2];
    uint16_t id;

    CHECK(virtq_driver_ids(rear_vq(q), &id, 1) == 1);
    set_line(&q->lines[id], VIRTIO_BLK_T_FLUSH, 0);
    CHECK(offer(q, id, bufs, 0, false, 0) >= 0);
    q->slots[id].flushing = true;
    take_slot(rc, id, req);
}

/* ---- On its way back ------------------------------------------------------------------------- */

static bool needs_flush(const struct rear_ctx *rc, const struct rear_slot *slot)
{
    const struct dt_req *req = slot->req;

    return unlikely(req->flags & DT_REQ_FUA) && req->error == 0 && !slot->flushing &&
           rc->rear->info.can_flush && (req->op == DT_OP_WRITE || req->op == DT_OP_WRITE_ZEROES);
}

/* What else than success the rear says of a request, as -errno; 1 = that is no answer. */
static __attribute__((noinline)) int judge(const struct rear_ctx *rc, const struct dt_req *req,
                                           uint8_t status, uint32_t len)
{
    if (status == VIRTIO_BLK_S_IOERR)
        return -EIO;
    if (status == VIRTIO_BLK_S_UNSUPP)
        return -EOPNOTSUPP;
    if (status != VIRTIO_BLK_S_OK)
        rear_fault(&rc->rear->rear, "a %s was answered with status %u", dt_op_name(req->op),
                   status);
    else
        rear_fault(&rc->rear->rear,
                   "a read of %llu bytes succeeded with %u bytes written, status included",
                   (unsigned long long)dt_req_bytes(req), len);
    return 1;
}

static inline bool succeeded(const struct dt_req *req, uint8_t status, uint32_t len)
{
    return status == VIRTIO_BLK_S_OK && (req->op != DT_OP_READ || len > dt_req_bytes(req));
}

/* The request of @id, which has no slot any more; NULL where the rear lied: then it stays in flight, and is sent
 * again to whom comes next. @flush: what it wrote is to be made durable yet. */
static inline struct dt_req *received(struct rear_ctx *rc, struct rear_slot *slot, uint8_t status,
                                      uint32_t len, bool *flush)
{
    struct dt_req *req = slot->req;
    const struct iovec *iov;
    int error = likely(succeeded(req, status, len)) ? 0 : judge(rc, req, status, len);
    unsigned n;

    if (unlikely(error > 0))
        return NULL;
    req->error = error;
    *flush = needs_flush(rc, slot);
    if (unlikely(slot->bounce) && req->op == DT_OP_READ && error == 0) {
        n = request_data(req, &iov);
        dt_iov_write(iov, n, 0, slot->bounce, dt_req_bytes(req));
    }
    rear_slot_release(rc->rings, slot);
    return req;
}

unsigned rear_received(struct rear_ctx *rc, const uint16_t *ids, const uint32_t *lens, unsigned n,
                       struct dt_req **done)
{
    const struct rear_line *lines = rc->rings->lines;
    struct rear_slot *slots = rc->rings->slots;
    struct dt_req *durable[REAR_BURST];
    unsigned ndone = 0, ndurable = 0;

    for (unsigned i = 0; i < n; i++)
        __builtin_prefetch(&lines[ids[i]].status);
    for (unsigned i = 0; i < n; i++) {
        bool flush;
        struct dt_req *req =
            received(rc, &slots[ids[i]], READ_ONCE(lines[ids[i]].status), lens[i], &flush);

        if (unlikely(!req)) {
            rc->broken = true;
            break;
        }
        if (unlikely(flush))
            durable[ndurable++] = req;
        else
            done[ndone++] = req;
    }
    rc->in_flight -= ndone + ndurable;
    /* Only now: a flush may take the id of any that came. After a lie it may not, for those that were not judged
     * have their slots still; then it is all done again by whom comes next. */
    for (unsigned i = 0; i < ndurable; i++)
        if (likely(!rc->broken))
            send_flush(rc, durable[i]);
        else
            rear_list_add(rc, &rc->waiting, durable[i]);
    return ndone;
}
