/* SPDX-License-Identifier: MIT */
/*
 * io.c - requests of disks.
 *
 * Theory of operation: a write puts its data into free blocks. When all of it has landed, the map
 * points to it and a record is added to the journal, at one and the same moment: so the journal's
 * order is the map's, whatever order writes overlap in. The journal is put at the end of the turn,
 * for all disks at once, and then the writes are completed. They are durable with the next flush,
 * as on any disk with a write cache. Where that is about to follow, data is put, too, and the flush writes both (io-write.c).
 *
 * A write of part of a block reads the block, and writes it whole. If the map has changed by the
 * time its data has landed, it begins again. Blocks of zeroes become holes.
 *
 * A read goes to where the map points, and each block is compared with the checksum in the map. A
 * block may have been replaced and reused meanwhile: if the map points elsewhere now, the read
 * begins again.
 *
 * Before a write begins, space for its data and for the nodes that it may copy, and room in the
 * journal, are promised to it, so that it cannot fail half way. Where there is none it waits, in
 * order, until a root gives some back. And the maps that it changes are read before it is in the journal (probe.c): so one
 * that is damaged fails what needs it, and nothing else.
 */
#include "parallax/io.h"

/* ---- Memory ---- */

static struct op *op_new(struct disk *disk, struct disk_req *req)
{
    struct pool *pool = disk->pool;
    struct op *op = pool->free_ops;

    if (op)
        pool->free_ops = op->next;
    else
        op = xaligned(CACHE_LINE, ALIGN_UP(sizeof(*op), (size_t)CACHE_LINE));
    op->disk = disk;
    op->req = req;
    op->tries = op->waits = op->pending = op->charge = 0;
    op->promised = op->spare_promised = op->journal_promised = 0;
    op->error = 0;
    op->bounce = NULL;
    op->part = op->parts_n = 0;
    op->zero_done = op->alone = op->stalled = false;
    op->cache = NULL;
    share_begun(op);
    pool->in_flight++;
    return op;
}

void op_redeem(struct op *op)
{
    struct pool *pool = op->disk->pool;

    pool->space.promised -= op->promised;
    pool->space.spare.promised -= op->spare_promised;
    pool->journal_promised -= op->journal_promised;
    op->disk->promised -= op->charge;
    op->promised = op->spare_promised = op->journal_promised = op->charge = 0;
}

void op_done(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct disk_req *req = op->req;

    if (unlikely(op->promised)) { /* it failed: that may be enough for another */
        op_redeem(op);
        pool_kick(pool);
    }
    req->error = op->error;
    free(op->bounce);
    op->bounce = NULL;
    share_ended(op);
    pool->in_flight--;
    op->next = pool->free_ops;
    pool->free_ops = op;
    req->done(req);
    share_next(pool);
}

void op_fail(struct op *op, int error)
{
    op->error = error;
    op_done(op);
}

void op_damaged(struct op *op)
{
    struct disk *disk = op->disk;
    char name[2 * PX_NAME];

    pool_full_name(disk->pool, disk->slot, name);
    pool_say_of(disk->pool, disk_about(disk), "damage",
                "%s: the map of %s at %llu bytes cannot be read: what needs it fails",
                disk->pool->store->name, name, (unsigned long long)op->req->offset);
    op_fail(op, -EIO);
}

/* It is in the journal, and is completed when that was put. */
void op_acked(struct op *op)
{
    struct pool *pool = op->disk->pool;

    op_list_add(op->req->fua ? &pool->flush_next : &pool->acked, op);
    pool_kick(pool);
}

/* Which blocks @length bytes at @offset touch. */
void op_aim(struct op *op, uint64_t offset, uint64_t length)
{
    op->index = offset >> PX_BLOCK_SHIFT;
    op->from = offset & (PX_BLOCK - 1);
    op->length = length;
    op->count = (uint32_t)((op->from + length + PX_BLOCK - 1) >> PX_BLOCK_SHIFT);
    op->edges = op->from || ((op->from + length) & (PX_BLOCK - 1));
}

void op_bounce(struct op *op)
{
    if (!op->bounce)
        op->bounce = xaligned(PX_BLOCK, (size_t)op->count * PX_BLOCK);
    op->blocks = op->bounce;
}

void op_stall(struct op *op, void (*again)(struct op *op))
{
    struct pool *pool = op->disk->pool;

    op->again = again;
    op_list_add(&pool->stalled, op);
    if (op->stalled)
        return; /* it looked once more, in vain: no reason to look again */
    op->stalled = true;
    op->disk->counters.held++;
    share_stalled(op);
    share_next(pool);
    if (!pool->resuming) /* nothing has changed since */
        pool_kick(pool);
}

/* ---- Entry ---- */

static void begin(struct op *op)
{
    struct disk_req *req = op->req;

    switch (req->op) {
    case DISK_READ:
        op_aim(op, req->offset, req->length);
        if (op->edges)
            op_bounce(op);
        else
            op->blocks = req->buf;
        op_read(op);
        break;
    case DISK_WRITE:
        op_aim(op, req->offset, req->length);
        op->source = req->buf;
        op_write(op);
        break;
    case DISK_ZERO:
    case DISK_DISCARD:
        op_next_part(op);
        break;
    case DISK_FLUSH:
        op->disk->flushed = op->disk->unflushed;
        op->disk->unflushed = 0;
        op_list_add(&op->disk->pool->flush_next, op);
        pool_kick(op->disk->pool);
        break;
    }
}

void disk_submit(struct disk *disk, struct disk_req *req)
{
    if (share_admit(disk, req))
        op_begin(disk, req);
}

/* Once for each mount: why its writes fail. */
static void tell_damaged(struct disk *disk)
{
    const struct px_record *r = disk->record;

    if (disk->read_only || disk->damage_told)
        return;
    disk->damage_told = true;
    pool_say_of(disk->pool, disk->slot, "damage",
                "%s: writes to %s fail, for block %llu of its map could not be read when the pool "
                "was opened: "
                "what is whole can be read, cvd rollback and cvd delete end it",
                disk->pool->store->name, r->name, (unsigned long long)r->damaged);
}

void op_begin(struct disk *disk, struct disk_req *req)
{
    struct pool *pool = disk->pool;
    uint64_t size = disk->record->size;
    struct op *op = op_new(disk, req);
    bool changes = req->op != DISK_READ && req->op != DISK_FLUSH;

    if (req->offset > size || req->length > size - req->offset ||
        (!changes && req->op == DISK_READ && req->length > DISK_MAX_BLOCKS * PX_BLOCK) ||
        (req->op == DISK_WRITE && req->length > DISK_MAX_BLOCKS * PX_BLOCK)) {
        op_fail(op, -EINVAL);
    } else if (changes && (disk->read_only || disk->record->damaged)) {
        tell_damaged(disk);
        op_fail(op, -EROFS);
    } else if (pool->failed && req->op != DISK_READ) {
        op_fail(op, -EIO);
    } else if (req->length == 0 && req->op != DISK_FLUSH) {
        op_done(op);
    } else {
        if (req->op == DISK_ZERO || req->op == DISK_DISCARD)
            op_find_parts(op);
        if (req->op == DISK_WRITE && pool->stalled.head)
            op_stall(op, begin); /* behind those that came first; what gives space back may pass */
        else
            begin(op);
    }
}

/* ---- Turns ---- */

static void complete_all(struct op *op, int error)
{
    while (op) {
        struct op *next = op->next;

        if (error)
            op->error = error;
        op_done(op);
        op = next;
    }
}

void pool_times_flush(struct pool *pool, uint64_t begun)
{
    pool->times.flush = MAX(pool->times.flush, dt_clock_ns() - begun);
}

static void flush_over(struct flush *f, int error)
{
    struct pool_waiter *waiter = f->waiters, *next;

    f->waiters = NULL;
    complete_all(op_list_take_all(&f->requests), error);
    for (; waiter; waiter = next) {
        next = waiter->next;
        waiter->done(waiter, error);
    }
}

static void flush_done(struct store_io *sio, int result)
{
    struct flush *f = container_of(sio, struct flush, io);
    struct pool *pool = f->pool;

    f->under_way = false;
    pool_times_flush(pool, f->begun);
    if (result < 0)
        pool_fail(pool, result, "a flush failed");
    else
        pool->journal.flushed = MAX(pool->journal.flushed, f->seq);
    flush_over(f, pool->failed ? -EIO : 0);
    pool_kick(pool);
}

static void flush_begin(struct pool *pool, struct flush *f)
{
    for (struct op *op = op_list_take_all(&pool->flush_next), *next; op; op = next) {
        next = op->next;
        op_list_add(&f->requests, op);
    }
    f->waiters = pool->wait_next;
    pool->wait_next = NULL;
    if (pool->o.read_only) {
        flush_over(f, 0);
        return;
    }
    if (journal_seal(pool, &f->seq) < 0 || pool->failed) {
        flush_over(f, -EIO);
        return;
    }
    f->pool = pool;
    f->under_way = true;
    f->begun = dt_clock_ns();
    for (const struct pool_waiter *w = f->waiters; w; w = w->next)
        pool->times.wait = MAX(pool->times.wait, f->begun - w->since);
    f->io.done = flush_done;
    pool->store->flush(pool->store, &f->io);
}

bool io_flushing(const struct pool *pool)
{
    bool flushing = false;

    for (unsigned i = 0; i < POOL_FLUSHES; i++)
        flushing |= pool->flushes[i].under_way;
    return flushing;
}

/* One flush serves all that asked before it began. Who asks while one is under way need not wait for its end: it may have much
 * to write that they do not need. But no more than a few at once. */
static void flush_turn(struct pool *pool)
{
    for (unsigned i = 0; i < POOL_FLUSHES && (pool->flush_next.head || pool->wait_next); i++)
        if (!pool->flushes[i].under_way)
            flush_begin(pool, &pool->flushes[i]);
}

void io_turn(struct pool *pool)
{
    int ret = journal_put(pool);

    complete_all(op_list_take_all(&pool->acked), ret < 0 || pool->failed ? -EIO : 0);
    flush_turn(pool);
}

void pool_when_durable(struct pool *pool, struct pool_waiter *waiter)
{
    waiter->since = dt_clock_ns();
    waiter->next = pool->wait_next;
    pool->wait_next = waiter;
    pool_kick(pool);
}

bool io_stalled(const struct pool *pool)
{
    return pool->stalled.head != NULL;
}

void io_resume(struct pool *pool)
{
    struct op *op = op_list_take_all(&pool->stalled), *next;

    pool->resuming = true;
    for (; op; op = next) {
        next = op->next;
        if (pool->failed)
            op_fail(op, -EIO);
        else
            op->again(op);
        if (pool->stalled.head)
            break; /* it waits again, as the first of the line */
    }
    pool->resuming = false;
    for (op = op ? next : NULL; op; op = next) {
        next = op->next;
        op_list_add(&pool->stalled, op);
    }
}

void disk_cancel_held(struct disk *disk, int error)
{
    struct pool *pool = disk->pool;
    struct op *op = op_list_take_all(&pool->stalled), *next;

    for (; op; op = next) {
        next = op->next;
        if (op->disk == disk)
            op_fail(op, error);
        else
            op_list_add(&pool->stalled, op);
    }
    for (op = op_list_take_all(&disk->over); op; op = next) {
        next = op->next;
        pool->over--;
        op_fail(op, error);
    }
}
