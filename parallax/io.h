/* SPDX-License-Identifier: MIT */
/* io.h - a request on its way, as io.c, io-read.c, io-write.c and io-zero.c share it. */
#ifndef PARALLAX_IO_H
#define PARALLAX_IO_H

#include "parallax/internal.h"

#define SPAN (DISK_MAX_BLOCKS + 1) /* an offset within a block may add one */

/** struct run - consecutive blocks on the store, or a hole (@addr 0). */
struct run {
    uint64_t addr;
    uint32_t first, count;
};

/**
 * struct op - a request on its way.
 * @index, @count: the blocks that this step of it touches.
 * @from, @length: bytes of them that it means, from the start of the first block.
 * @source:        its data, or NULL for zeroes.
 * @blocks:        memory of whole blocks: the request's own or @bounce.
 * @waits:         for nodes, since it began to look up its blocks.
 * @evicted:       of the pool's nodes, when it had looked up its blocks.
 * @charge:        blocks promised to it of the disk's quota.
 * @parts:         of a request for zeroes: the partial blocks at both ends, to be written as data.
 * @cache:         while it reads: what some of the blocks come from, or go to as @fills; NULL: nothing does. Those that need not
 *                 be compared with their checksums any more are @known.
 * @spare_promised: of what is promised to it, so many are spare blocks; with @spare_data those of its data, too.
 * @alone:         it has to read for itself, as something was wrong.
 * @stalled:       it waits in the pool's list, or looks whether it still has to.
 */
struct op {
    struct op *next;
    struct disk *disk;
    struct disk_req *req;
    uint64_t index, from, length;
    uint32_t count, runs, pending, tries, waits;
    uint32_t promised, spare_promised, journal_promised, charge;
    uint64_t evicted;
    int error;
    bool edges, zero_done, under_way; /* @under_way: it takes a place of SHARE_DEPTH */
    bool alone, stalled, spare_data;
    struct data_cache *cache;
    void (*again)(struct op *op); /* where it goes on when it need not wait any more */
    uint8_t *source, *blocks, *bounce;
    struct {
        uint64_t offset, length;
    } parts[2];
    uint32_t part, parts_n;
    struct px_ptr ptrs[SPAN];
    uint32_t crc[SPAN];
    struct run run[SPAN];
    struct part_io {
        struct store_io sio;
        struct op *op;
    } ios[SPAN];
    uint64_t known[(SPAN + 63) / 64];
    uint32_t fills[SPAN]; /* 0: none */
};

static inline void op_list_add(struct request_list *list, struct op *op)
{
    op->next = NULL;
    if (!list->tail)
        list->tail = &list->head;
    *list->tail = op;
    list->tail = &op->next;
}

static inline struct op *op_list_take_all(struct request_list *list)
{
    struct op *head = list->head;

    list->head = NULL;
    list->tail = &list->head;
    return head;
}

/* io.c */

/** op_aim() - the blocks that @length bytes at @offset touch are what the next step is about. */
void op_aim(struct op *op, uint64_t offset, uint64_t length);
/** op_bounce() - memory of its own for the whole blocks that it is about, and no step of it is about more. */
void op_bounce(struct op *op);
/** op_done() - complete it with what its error says. op_fail(): with @error. */
void op_done(struct op *op);
void op_fail(struct op *op, int error);
/** op_damaged() - a map that it needs cannot be read: say of what, and complete it with an error. */
void op_damaged(struct op *op);
/** op_acked() - it is in the journal, and is completed when that was put. */
void op_acked(struct op *op);
/** op_redeem() - what was promised to it is not needed any more, or is being used now. */
void op_redeem(struct op *op);
/** op_stall() - it waits for space or for room in the journal, and then goes on at @again. */
void op_stall(struct op *op, void (*again)(struct op *op));

/** op_begin() - a request whose turn it is. */
void op_begin(struct disk *disk, struct disk_req *req);

/* fetch.c */

/** op_lookup() - where the blocks that @op is about are. 1: it goes on at @again when more of the map
 * is in memory. */
int op_lookup(struct op *op, void (*again)(struct op *op));

/* share.c */

void share_begun(struct op *op);
void share_ended(struct op *op);
/** share_stalled() - it waits for something that others need not wait for. */
void share_stalled(struct op *op);

/* quota.c */

/** quota_need() - how many blocks more the disk would be charged for after this step of @op. */
uint32_t quota_need(const struct op *op);
/** quota_allows() - may it be charged for @blocks more now? Those that wait come first. */
bool quota_allows(const struct op *op, uint32_t blocks);
/** quota_refuse() - it may not: the request waits or fails. */
void quota_refuse(struct op *op);

/* io-read.c */

/** op_read() - read the blocks it is about; a write goes on with op_write_data(). */
void op_read(struct op *op);
/** op_add_read() - block @i is to be read: with the one before it, if they lie together. */
static inline void op_add_read(struct op *op, uint32_t i)
{
    uint64_t addr = ptr_addr(op->ptrs[i]);
    struct run *last = op->runs ? &op->run[op->runs - 1] : NULL;

    if (last && last->addr && last->first + last->count == i && last->addr + last->count == addr)
        last->count++;
    else
        op->run[op->runs++] = (struct run){addr, i, 1};
}
/** op_read_runs() - a transfer for each run that has an address, each of which, and each of the others, ends with
 * op_read_part(). */
void op_read_runs(struct op *op, void (*landed)(struct store_io *sio, int result));
/** op_read_part() - a run has been read, or not. */
void op_read_part(struct op *op, int result);

/* io-common.c */

/** op_maybe_common() - may others have some of its blocks, too? */
static inline bool op_maybe_common(const struct op *op)
{
    const struct pool *pool = op->disk->pool;

    return pool->data_cache && (op->disk->common || pool->root.features) && !op->alone;
}
/** op_read_common() - read its blocks, those that others have, too, by way of the cache. False: there are none of these. */
bool op_read_common(struct op *op);
/** op_known() - is the block what its checksum says, as was found before? */
static inline bool op_known(const struct op *op, uint32_t i)
{
    return unlikely(op->cache != NULL) && op->known[i / 64] >> (i % 64) & 1;
}

/* io-write.c */

/** op_promise() - set aside what its step needs of nodes and journal, and of @data. False: there
 * is not enough now. */
bool op_promise(struct op *op, bool data);
/** op_write() - write the blocks it is about, once there is room; then op_next_part(). */
void op_write(struct op *op);
/** op_write_data() - the blocks of which it means parts have been read. */
void op_write_data(struct op *op);

/* io-zero.c */

/** op_find_parts() - the parts of blocks at both ends of a request for zeroes. */
void op_find_parts(struct op *op);
/** op_next_part() - what comes next in it, if anything does. */
void op_next_part(struct op *op);

#endif
