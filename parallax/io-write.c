/* SPDX-License-Identifier: MIT */
/* io-write.c - writes: what is promised to them, where their data goes, when the map has it. io.c
 * tells how. */
#include "parallax/io.h"

#define LITTLE 8u /* blocks between two flushes */

/* ---- Promises ---- */

static uint32_t nodes_for(const struct op *op)
{
    const struct px_record *r = op->disk->record;

    return r->levels + op->count / PX_FANOUT + 1u + past_nodes(r, op->count);
}

static uint32_t journal_for(const struct op *op)
{
    /* At worst each block is a run of its own, and so is each hole. */
    return op->count * (uint32_t)(sizeof(struct px_write) + 8 + past_journal(op->disk->record));
}

static bool has_space(const struct pool *pool, uint64_t blocks)
{
    return space_free_now(&pool->space) >= pool->space.promised + blocks;
}

bool op_promise(struct op *op, bool data)
{
    struct pool *pool = op->disk->pool;
    uint32_t nodes = nodes_for(op), blocks = nodes + (data ? op->count : 0);
    uint32_t bytes = journal_for(op), spare;
    /* What is given back may be forwarded, and then costs nodes, too. */
    uint64_t reserve = data ? pool->space.reserve : pool->forwards.nodes;

    if (!has_space(pool, reserve + blocks) &&
        !(pin_yield(pool) && has_space(pool, reserve + blocks)))
        return false;
    if (!journal_has_room(pool, bytes, JOURNAL_SPARE))
        return false;
    op->spare_data = data && pool->space.spare.host_full;
    spare = op->spare_data ? blocks : nodes;
    if (!spare_allows(pool, spare, data))
        return false;
    op->stalled = false;
    op->promised = blocks;
    op->spare_promised = spare;
    pool->space.spare.promised += spare;
    op->journal_promised = bytes;
    pool->space.promised += blocks;
    pool->journal_promised += bytes;
    return true;
}

/* ---- Data ---- */

static bool all_zero(const uint8_t *block)
{
    uint64_t first;

    memcpy(&first, block, sizeof(first));
    return first == 0 && memcmp(block, block + 8, PX_BLOCK - 8) == 0;
}

static void abandon(struct op *op)
{
    for (uint32_t i = 0; i < op->runs; i++)
        if (op->run[i].addr)
            space_abandon(op->disk->pool, op->run[i].addr, op->run[i].count);
    op->runs = 0;
}

static int record_run(struct op *op, struct tree *t, const struct run *run)
{
    struct pool *pool = op->disk->pool;
    uint64_t index = op->index + run->first;
    struct past_note note;
    int ret;

    if (unlikely(op->disk->record->past_keep))
        past_begin(op->disk, t, &note, sizeof(struct px_write) + run->count * 4 + 8);
    if (!run->addr) {
        struct px_zero *z = journal_add(pool, PX_ZERO, op->disk->slot, sizeof(*z));

        z->index = index;
        z->count = run->count;
        return tree_zero(pool, t, index, index + run->count);
    }
    struct px_write *w =
        journal_add(pool, PX_WRITE, op->disk->slot, sizeof(*w) + run->count * sizeof(w->crc[0]));

    w->index = index;
    w->addr = run->addr;
    w->count = run->count;
    memcpy(w->crc, &op->crc[run->first], run->count * sizeof(w->crc[0]));
    ret = space_use(pool, run->addr, run->count);
    ret = ret ?: tree_set(pool, t, index, run->count, run->addr, &op->crc[run->first]);
    if (unlikely(pool->root.share == PX_SHARE_WRITES))
        janitor_written(pool, op->disk->slot, index, run->addr, run->count, &op->crc[run->first]);
    return ret;
}

/* Of the table of shared blocks, can what it says of these addresses be read? */
static bool lives_known(const struct op *op)
{
    uint32_t flags;

    for (uint32_t i = 0; i < op->runs; i++)
        for (uint32_t k = 0; op->run[i].addr && k < op->run[i].count; k++)
            if (forward_life(op->disk->pool, op->run[i].addr + k, &flags) < 0)
                return false;
    return true;
}

/* A node that was looked at when this began may have left the memory, and be damaged now. Those of a history were not looked at. */
static bool can_change(const struct op *op)
{
    struct pool *pool = op->disk->pool;

    if (likely(op->evicted == pool->nodes.evicted && !op->disk->record->past_keep))
        return true;
    return probe_set(pool, op->disk->slot, op->index, op->count) == 0;
}

/* The data has landed: from this moment on it is what the disk has. */
static void enter(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct tree t = catalog_tree(pool, op->disk->slot);
    int ret = pool->failed;

    if (unlikely(!can_change(op))) {
        abandon(op);
        op_damaged(op);
        return;
    }
    if (unlikely(pool->root.features && !lives_known(op))) {
        op->runs = 0; /* nor is anything else written there until the pool is opened again */
        op_fail(op, -EIO);
        return;
    }
    op_redeem(op);
    for (uint32_t i = 0; i < op->runs && ret == 0; i++)
        ret = record_run(op, &t, &op->run[i]);
    catalog_touch(pool, op->disk->slot);
    if (ret < 0) {
        pool_fail(pool, ret, "a map cannot be changed");
        op_fail(op, -EIO);
        return;
    }
    op_next_part(op);
}

static bool edges_changed(struct op *op)
{
    uint32_t ends[] = {0, op->count - 1};

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        struct px_ptr now;

        if (disk_lookup(op->disk, op->index + ends[i], 1, &now) < 0 ||
            !ptr_same(now, op->ptrs[ends[i]]) || ptr_crc(now) != ptr_crc(op->ptrs[ends[i]]))
            return true;
    }
    return false;
}

/* There is no space for it after all: it begins again when there may be some. */
static void hold(struct op *op)
{
    op_redeem(op);
    op->error = 0;
    op->tries = 0;
    op_stall(op, op_write);
}

static void write_done(struct op *op)
{
    if (op->error || op->disk->pool->failed) {
        abandon(op);
        if (store_is_full(op->error) && !op->disk->pool->failed)
            hold(op);
        else
            op_fail(op, op->error ?: -EIO);
    } else if (unlikely(op->edges && edges_changed(op))) {
        abandon(op);
        op->tries = 0;
        op_read(op);
    } else {
        enter(op);
    }
}

static void write_landed(struct store_io *sio, int result)
{
    const struct part_io *io = container_of(sio, struct part_io, sio);
    struct op *op = io->op;

    if (unlikely(store_is_full(result))) {
        spare_shortage(op->disk->pool);
        spare_seek_at(op->disk->pool, op->run[io - op->ios].addr);
    }
    if (result < 0 && !op->error)
        op->error = result;
    if (--op->pending == 0)
        write_done(op);
}

static int place_data(struct op *op, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        op->crc[i] = crc32c(0, op->blocks + (size_t)i * PX_BLOCK, PX_BLOCK);
    while (count) {
        uint64_t addr;
        int got = space_alloc(op->disk->pool, count, true, &addr);

        if (got < 0)
            return got;
        op->run[op->runs++] = (struct run){addr, first, (uint32_t)got};
        first += (uint32_t)got;
        count -= (uint32_t)got;
    }
    return 0;
}

/* Blocks of zeroes are holes; all others get checksums and places. */
static int place(struct op *op)
{
    int ret = 0;

    op->runs = 0;
    if (unlikely(op->disk->pool->space.spare.host_full) && !op->spare_data)
        return -ENOSPC; /* since it was promised */
    for (uint32_t i = 0, n; i < op->count && ret == 0; i += n) {
        bool zero = all_zero(op->blocks + (size_t)i * PX_BLOCK);

        n = 1;
        while (i + n < op->count && all_zero(op->blocks + (size_t)(i + n) * PX_BLOCK) == zero)
            n++;
        if (zero) {
            op->disk->counters.zero_blocks += n;
            op->run[op->runs++] = (struct run){0, i, n};
        } else {
            ret = place_data(op, i, n);
        }
    }
    return ret;
}

/*
 * Will a flush follow at once? Then the store need not transfer this before: it does so with the flush, at the same time as
 * the journal's block that tells of it, instead of one after the other. Little that was written between two flushes tells of a
 * database's log or a file system's journal, which go on so. What is put outlives the process as well; after a loss of power
 * the record counts only with its data, as it always does. A store that cannot write it fails the flush, and so the pool, as if
 * it was the journal; one that has no space for it says so at once, and the write is tried as any other, and waits.
 */
static bool flush_follows(const struct op *op)
{
    const struct disk *d = op->disk;

    if (op->req->fua)
        return op->count <= LITTLE;
    return d->unflushed <= LITTLE && d->flushed <= LITTLE;
}

static bool put_run(const struct op *op, const struct run *run)
{
    struct store *store = op->disk->pool->store;

    return store->put(store, op->blocks + (size_t)run->first * PX_BLOCK, run->addr, run->count) ==
           0;
}

static void write_run(struct op *op, uint32_t i)
{
    struct store *store = op->disk->pool->store;
    const struct run *run = &op->run[i];

    op->pending++;
    op->ios[i].op = op;
    op->ios[i].sio.done = write_landed;
    store->write(store, &op->ios[i].sio, op->blocks + (size_t)run->first * PX_BLOCK, run->addr,
                 run->count);
}

void op_write_data(struct op *op)
{
    bool soon;
    int ret;

    if (op->edges) {
        uint8_t *to = op->blocks + op->from;

        op->disk->counters.partial++;
        if (op->source)
            memcpy(to, op->source, op->length);
        else
            memset(to, 0, op->length);
    }
    ret = place(op);
    if (unlikely(ret < 0)) { /* since it was promised, a free map was lost, or the store is full */
        op->error = ret;
        write_done(op);
        return;
    }
    op->disk->unflushed += op->count;
    soon = flush_follows(op);
    op->pending = 1;
    for (uint32_t i = 0, n = op->runs; i < n; i++)
        if (op->run[i].addr && !(soon && put_run(op, &op->run[i])))
            write_run(op, i);
    if (--op->pending == 0)
        write_done(op);
}

/* Promised. */
static void write_promised(struct op *op)
{
    int ret;

    if (op->edges) {
        op_bounce(op);
        op_read(op);
        return;
    }
    op->blocks = op->source;
    /* A map that cannot be read must fail this request now, not the pool when the data has landed.
     */
    ret = op_lookup(op, write_promised);
    if (ret > 0)
        return;
    if (ret < 0)
        op_damaged(op);
    else
        op_write_data(op);
}

void op_write(struct op *op)
{
    uint32_t blocks = unlikely(op->disk->record->quota) ? quota_need(op) : 0;

    if (unlikely(blocks && !quota_allows(op, blocks))) {
        quota_refuse(op);
    } else if (op_promise(op, true)) {
        op->charge = blocks;
        op->disk->promised += blocks;
        write_promised(op);
    } else {
        op_stall(op, op_write);
    }
}
