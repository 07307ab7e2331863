/* SPDX-License-Identifier: MIT */
/* io-zero.c - zeroes and discards: whole blocks become holes, parts of blocks are written. io.c
 * tells how. */
#include "parallax/io.h"

/* False: there is no room for it now. */
static bool zero_middle(struct op *op)
{
    struct pool *pool = op->disk->pool;
    uint64_t from = (op->req->offset + PX_BLOCK - 1) >> PX_BLOCK_SHIFT;
    uint64_t to = (op->req->offset + op->req->length) >> PX_BLOCK_SHIFT;
    struct tree t = catalog_tree(pool, op->disk->slot);
    struct past_note note;
    struct px_zero *z;
    int ret;

    if (from >= to)
        return true;
    op_aim(op, from << PX_BLOCK_SHIFT, PX_BLOCK); /* what it promises: the path at each end */
    if (!op_promise(op, false))
        return false;
    op_redeem(op);
    op->error = probe_zero(pool, op->disk->slot, from, to);
    if (unlikely(op->error))
        return true;
    if (unlikely(op->disk->record->past_keep))
        past_begin(op->disk, &t, &note, sizeof(*z));
    z = journal_add(pool, PX_ZERO, op->disk->slot, sizeof(*z));
    z->index = from;
    z->count = to - from;
    ret = tree_zero(pool, &t, from, to);
    catalog_touch(pool, op->disk->slot);
    if (ret < 0)
        op->error = pool_fail(pool, ret, "a map cannot be changed");
    return true;
}

/* The next partial block of a request for zeroes, then the whole ones, then it is done. */
void op_next_part(struct op *op)
{
    if (op->req->op == DISK_WRITE) {
        op_acked(op);
        return;
    }
    if (op->part < op->parts_n) {
        op_aim(op, op->parts[op->part].offset, op->parts[op->part].length);
        op->part++;
        op->source = NULL;
        op_write(op);
        return;
    }
    if (!op->zero_done && !zero_middle(op)) {
        op_stall(op, op_next_part);
        return;
    }
    op->zero_done = true;
    if (unlikely(op->error && !op->disk->pool->failed))
        op_damaged(op);
    else
        op_acked(op);
}

void op_find_parts(struct op *op)
{
    uint64_t from = op->req->offset, to = from + op->req->length;
    uint64_t first = ALIGN_UP(from, (uint64_t)PX_BLOCK), last = ALIGN_DOWN(to, (uint64_t)PX_BLOCK);

    if (op->req->op == DISK_DISCARD)
        return;
    if (last < first) { /* within one block */
        op->parts[0].offset = from;
        op->parts[0].length = to - from;
        op->parts_n = 1;
        return;
    }
    if (from < first) {
        op->parts[0].offset = from;
        op->parts[0].length = first - from;
        op->parts_n = 1;
    }
    if (last < to) {
        op->parts[op->parts_n].offset = last;
        op->parts[op->parts_n].length = to - last;
        op->parts_n++;
    }
}
