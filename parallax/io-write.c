/* SPDX-License-Identifier: MIT */
/* io-write.c - writes: what is promised to them, where their data goes, when the map has it. io.c
 * tells how. */
#include "parallax/io.h"

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
    return pool->space.free >= pool->space.promised + blocks;
}

bool op_promise(struct op *op, bool data)
{
    struct pool *pool = op->disk->pool;
    uint32_t blocks = nodes_for(op) + (data ? op->count : 0), bytes = journal_for(op);
    /* What is given back may be forwarded, and then costs nodes, too. */
    uint64_t reserve = data ? pool->space.reserve : pool->forwards.nodes;

    if (!has_space(pool, reserve + blocks) &&
        !(pin_yield(pool) && has_space(pool, reserve + blocks)))
        return false;
    if (!journal_has_room(pool, bytes, JOURNAL_SPARE))
        return false;
    op->promised = blocks;
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

/* The data has landed: from this moment on it is what the disk has. */
static void enter(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct tree t = catalog_tree(pool, op->disk->slot);
    int ret = pool->failed;

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

static void write_done(struct op *op)
{
    if (op->error || op->disk->pool->failed) {
        abandon(op);
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
    struct op *op = container_of(sio, struct part_io, sio)->op;

    if (result < 0 && !op->error)
        op->error = result;
    if (--op->pending == 0)
        write_done(op);
}

/* Blocks of zeroes are holes; all others get checksums and places. */
static int place(struct op *op)
{
    op->runs = 0;
    for (uint32_t i = 0, n; i < op->count; i += n) {
        bool zero = all_zero(op->blocks + (size_t)i * PX_BLOCK);
        uint64_t addr = 0;

        for (n = 0; i + n < op->count; n++) {
            const uint8_t *block = op->blocks + (size_t)(i + n) * PX_BLOCK;

            if (n && all_zero(block) != zero)
                break;
            if (!zero)
                op->crc[i + n] = crc32c(0, block, PX_BLOCK);
        }
        if (zero) {
            op->disk->counters.zero_blocks += n;
        } else {
            int got = space_alloc(op->disk->pool, n, true, &addr);

            if (got < 0)
                return got;
            n = (uint32_t)got;
        }
        op->run[op->runs++] = (struct run){addr, i, n};
    }
    return 0;
}

void op_write_data(struct op *op)
{
    struct store *store = op->disk->pool->store;
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
    if (ret < 0) {
        op->error = ret;
        write_done(op);
        return;
    }
    op->pending = 1;
    for (uint32_t i = 0, n = op->runs; i < n; i++) {
        struct run *run = &op->run[i];

        if (!run->addr)
            continue;
        op->pending++;
        op->ios[i].op = op;
        op->ios[i].sio.done = write_landed;
        store->write(store, &op->ios[i].sio, op->blocks + (size_t)run->first * PX_BLOCK, run->addr,
                     run->count);
    }
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
        op_fail(op, -EIO);
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
