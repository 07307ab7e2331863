/* SPDX-License-Identifier: MIT */
/* io-read.c - reads of disks, and of the blocks of which a write means a part. io.c tells how. */
#include "parallax/io.h"

#define READ_TRIES 4u

static void blame(struct op *op, uint64_t addr, uint64_t index)
{
    char name[2 * PX_NAME];

    pool_full_name(op->disk->pool, op->disk->slot, name);
    op->disk->counters.checksum_errors++;
    pool_say_of(op->disk->pool, disk_about(op->disk), "damage",
                "%s: block %llu, which is at %llu bytes of %s, differs from its checksum",
                op->disk->pool->store->name, (unsigned long long)addr,
                (unsigned long long)(index << PX_BLOCK_SHIFT), name);
}

/* Index of the first block that is not what its pointer says, or the count. */
static uint32_t first_wrong(const struct op *op)
{
    uint32_t i = 0;

    for (; i < op->count; i++)
        if (!ptr_hole(op->ptrs[i]) && !op_known(op, i) &&
            crc32c(0, op->blocks + (size_t)i * PX_BLOCK, PX_BLOCK) != ptr_crc(op->ptrs[i]))
            break;
    return i;
}

static void fill_holes(const struct op *op)
{
    for (uint32_t i = 0; i < op->count; i++)
        if (ptr_hole(op->ptrs[i]))
            memset(op->blocks + (size_t)i * PX_BLOCK, 0, PX_BLOCK);
}

static void read_done(struct op *op)
{
    uint32_t wrong;

    if (op->error) {
        op_done(op);
        return;
    }
    if (unlikely(op->cache && op->alone)) { /* who read a block for it could not */
        op_read(op);
        return;
    }
    wrong = first_wrong(op);
    if (unlikely(wrong < op->count)) {
        struct px_ptr now = {0, 0};
        int ret = disk_lookup(op->disk, op->index + wrong, 1, &now);

        op->disk->counters.retried++;
        op->alone = true;
        /* Replaced meanwhile? Then look again. If not, once more all the same: the bus or the cable
         * may have been it. */
        if (ret == 0 && (!ptr_same(now, op->ptrs[wrong]) || ++op->tries < READ_TRIES)) {
            op_read(op);
            return;
        }
        blame(op, ptr_addr(op->ptrs[wrong]), op->index + wrong);
        op_fail(op, -EIO);
        return;
    }
    fill_holes(op);
    if (op->req->op != DISK_READ) {
        op_write_data(op);
        return;
    }
    if (op->blocks == op->bounce)
        memcpy(op->req->buf, op->bounce + op->from, op->length);
    op_done(op);
}

void op_read_part(struct op *op, int result)
{
    if (result < 0 && !op->error)
        op->error = result;
    if (--op->pending == 0)
        read_done(op);
}

void op_read_runs(struct op *op, void (*landed)(struct store_io *sio, int result))
{
    struct pool *pool = op->disk->pool;

    op->pending = op->runs + 1;
    for (uint32_t i = 0, n = op->runs; i < n; i++) {
        const struct run *run = &op->run[i];

        if (!run->addr)
            continue;
        op->ios[i].op = op;
        op->ios[i].sio.done = landed;
        pool->cached.read += run->count;
        pool->store->read(pool->store, &op->ios[i].sio, op->blocks + (size_t)run->first * PX_BLOCK,
                          run->addr, run->count);
    }
    op_read_part(op, 0);
}

static void landed(struct store_io *sio, int result)
{
    op_read_part(container_of(sio, struct part_io, sio)->op, result);
}

static void read_all(struct op *op)
{
    op->runs = 0;
    for (uint32_t i = 0; i < op->count; i++)
        if (!ptr_hole(op->ptrs[i]))
            op_add_read(op, i);
    op_read_runs(op, landed);
}

void op_read(struct op *op)
{
    int ret = op_lookup(op, op_read);

    if (ret > 0)
        return;
    if (ret < 0) {
        op_damaged(op);
        return;
    }
    /* For a write of parts of blocks, only the blocks at the ends. */
    if (op->req->op != DISK_READ)
        for (uint32_t i = 1; i + 1 < op->count; i++)
            op->ptrs[i] = (struct px_ptr){0, 0};
    op->cache = NULL;
    if (likely(!op_maybe_common(op)) || !op_read_common(op))
        read_all(op);
}
