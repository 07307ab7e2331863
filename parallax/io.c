/* SPDX-License-Identifier: MIT */
/*
 * io.c - requests of disks.
 *
 * Theory of operation: a write puts its data into free blocks. When all of it has landed, the map
 * points to it and a record is added to the journal, at one and the same moment: so the journal's
 * order is the map's, whatever order writes overlap in. The journal is put at the end of the turn,
 * for all disks at once, and then the writes are completed. They are durable with the next flush,
 * as on any disk with a write cache.
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
 * order, until a root gives some back.
 */
#include "parallax/internal.h"

#define SPAN       (DISK_MAX_BLOCKS + 1) /* an offset within a block may add one */
#define READ_TRIES 4u

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
 * @parts:         of a request for zeroes: the partial blocks at both ends, to be written as data.
 */
struct op {
    struct op *next;
    struct disk *disk;
    struct disk_req *req;
    uint64_t index, from, length;
    uint32_t count, runs, pending, tries;
    uint32_t promised, journal_promised;
    int error;
    bool edges, zero_done;
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
};

static void write_begin(struct op *op);
static void read_begin(struct op *op);
static void next_part(struct op *op);

/* ---- Lists and memory ---- */

static void list_push(struct request_list *list, struct op *op)
{
    op->next = NULL;
    if (!list->tail)
        list->tail = &list->head;
    *list->tail = op;
    list->tail = &op->next;
}

static struct op *list_take_all(struct request_list *list)
{
    struct op *head = list->head;

    list->head = NULL;
    list->tail = &list->head;
    return head;
}

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
    op->tries = op->pending = op->promised = op->journal_promised = 0;
    op->error = 0;
    op->bounce = NULL;
    op->part = op->parts_n = 0;
    op->zero_done = false;
    disk->in_flight++;
    pool->in_flight++;
    return op;
}

static void redeem(struct op *op)
{
    struct pool *pool = op->disk->pool;

    pool->space.promised -= op->promised;
    pool->journal_promised -= op->journal_promised;
    op->promised = op->journal_promised = 0;
}

static void op_done(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct disk_req *req = op->req;

    redeem(op);
    req->error = op->error;
    free(op->bounce);
    op->bounce = NULL;
    op->disk->in_flight--;
    pool->in_flight--;
    op->next = pool->free_ops;
    pool->free_ops = op;
    req->done(req);
}

static void op_fail(struct op *op, int error)
{
    op->error = error;
    op_done(op);
}

/* It is in the journal, and is completed when that was put. */
static void op_acked(struct op *op)
{
    struct pool *pool = op->disk->pool;

    list_push(op->req->fua ? &pool->flush_next : &pool->acked, op);
    pool_kick(pool);
}

/* Which blocks @length bytes at @offset touch. */
static void aim(struct op *op, uint64_t offset, uint64_t length)
{
    op->index = offset >> PX_BLOCK_SHIFT;
    op->from = offset & (PX_BLOCK - 1);
    op->length = length;
    op->count = (uint32_t)((op->from + length + PX_BLOCK - 1) >> PX_BLOCK_SHIFT);
    op->edges = op->from || ((op->from + length) & (PX_BLOCK - 1));
}

static void get_bounce(struct op *op)
{
    if (!op->bounce)
        op->bounce = xaligned(PX_BLOCK, (size_t)SPAN * PX_BLOCK);
    op->blocks = op->bounce;
}

/* ---- Reading ---- */

static void blame(struct op *op, uint64_t addr, uint64_t index)
{
    char name[2 * PX_NAME];

    pool_full_name(op->disk->pool, op->disk->slot, name);
    op->disk->counters.checksum_errors++;
    pool_say(op->disk->pool, "damage",
             "%s: block %llu, which is at %llu bytes of %s, differs from its checksum",
             op->disk->pool->store->name, (unsigned long long)addr,
             (unsigned long long)(index << PX_BLOCK_SHIFT), name);
}

/* Index of the first block that is not what its pointer says, or the count. */
static uint32_t first_wrong(const struct op *op)
{
    uint32_t i = 0;

    for (; i < op->count; i++)
        if (!ptr_hole(op->ptrs[i]) &&
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

static void write_data(struct op *op);

static void read_done(struct op *op)
{
    uint32_t wrong;

    if (op->error) {
        op_done(op);
        return;
    }
    wrong = first_wrong(op);
    if (unlikely(wrong < op->count)) {
        struct tree t = catalog_tree(op->disk->pool, op->disk->slot);
        struct px_ptr now = {0, 0};
        int ret = tree_lookup(op->disk->pool, &t, op->index + wrong, 1, &now);

        op->disk->counters.retried++;
        /* Replaced meanwhile? Then look again. If not, once more all the same: the bus or the cable
         * may have been it. */
        if (ret == 0 && (!ptr_same(now, op->ptrs[wrong]) || ++op->tries < READ_TRIES)) {
            read_begin(op);
            return;
        }
        blame(op, ptr_addr(op->ptrs[wrong]), op->index + wrong);
        op_fail(op, -EIO);
        return;
    }
    fill_holes(op);
    if (op->req->op != DISK_READ) {
        write_data(op);
        return;
    }
    if (op->blocks == op->bounce)
        memcpy(op->req->buf, op->bounce + op->from, op->length);
    op_done(op);
}

static void read_landed(struct store_io *sio, int result)
{
    struct op *op = container_of(sio, struct part_io, sio)->op;

    if (result < 0 && !op->error)
        op->error = result;
    if (--op->pending == 0)
        read_done(op);
}

/* Runs of pointers to consecutive addresses, each one transfer. */
static void find_runs(struct op *op)
{
    op->runs = 0;
    for (uint32_t i = 0; i < op->count; i++) {
        uint64_t addr = ptr_addr(op->ptrs[i]);
        struct run *last = op->runs ? &op->run[op->runs - 1] : NULL;

        if (!addr)
            continue;
        if (last && last->first + last->count == i && last->addr + last->count == addr)
            last->count++;
        else
            op->run[op->runs++] = (struct run){addr, i, 1};
    }
}

static void read_runs(struct op *op)
{
    struct store *store = op->disk->pool->store;

    find_runs(op);
    if (op->runs == 0) {
        read_done(op);
        return;
    }
    op->pending = op->runs;
    for (uint32_t i = 0, n = op->runs; i < n; i++) {
        struct run *run = &op->run[i];

        op->ios[i].op = op;
        op->ios[i].sio.done = read_landed;
        store->read(store, &op->ios[i].sio, op->blocks + (size_t)run->first * PX_BLOCK, run->addr,
                    run->count);
    }
}

static void read_begin(struct op *op)
{
    struct tree t = catalog_tree(op->disk->pool, op->disk->slot);
    int ret = tree_lookup(op->disk->pool, &t, op->index, op->count, op->ptrs);

    if (ret < 0) {
        op_fail(op, -EIO);
        return;
    }
    /* For a write of parts of blocks, only the blocks at the ends. */
    if (op->req->op != DISK_READ)
        for (uint32_t i = 1; i + 1 < op->count; i++)
            op->ptrs[i] = (struct px_ptr){0, 0};
    read_runs(op);
}

/* ---- Promises ---- */

static uint32_t nodes_for(const struct op *op)
{
    const struct px_record *r = catalog_record(op->disk->pool, op->disk->slot);

    return r->levels + op->count / PX_FANOUT + 1u;
}

static uint32_t journal_for(const struct op *op)
{
    /* At worst each block is a run of its own, and so is each hole. */
    return op->count * (uint32_t)(sizeof(struct px_write) + 8);
}

static bool promise(struct op *op, bool data)
{
    struct pool *pool = op->disk->pool;
    uint32_t blocks = nodes_for(op) + (data ? op->count : 0), bytes = journal_for(op);
    uint64_t reserve = data ? pool->space.reserve : 0;

    if (pool->space.free < reserve + pool->space.promised + blocks ||
        !journal_has_room(pool, bytes, JOURNAL_SPARE))
        return false;
    op->promised = blocks;
    op->journal_promised = bytes;
    pool->space.promised += blocks;
    pool->journal_promised += bytes;
    return true;
}

/* ---- Writing ---- */

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

static int record_run(struct op *op, const struct tree *t, const struct run *run)
{
    struct pool *pool = op->disk->pool;
    uint64_t index = op->index + run->first;
    int ret;

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
    return ret ?: tree_set(pool, t, index, run->count, run->addr, &op->crc[run->first]);
}

/* The data has landed: from this moment on it is what the disk has. */
static void enter(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct tree t = catalog_tree(pool, op->disk->slot);
    int ret = pool->failed;

    redeem(op);
    for (uint32_t i = 0; i < op->runs && ret == 0; i++)
        ret = record_run(op, &t, &op->run[i]);
    catalog_touch(pool, op->disk->slot);
    if (ret < 0) {
        pool_fail(pool, ret, "a map cannot be changed");
        op_fail(op, -EIO);
        return;
    }
    next_part(op);
}

static bool edges_changed(struct op *op)
{
    struct pool *pool = op->disk->pool;
    struct tree t = catalog_tree(pool, op->disk->slot);
    uint32_t ends[] = {0, op->count - 1};

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        struct px_ptr now;

        if (tree_lookup(pool, &t, op->index + ends[i], 1, &now) < 0 ||
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
        read_begin(op);
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

static void write_data(struct op *op)
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

static void stall(struct op *op, void (*again)(struct op *op))
{
    op->again = again;
    op->disk->counters.held++;
    list_push(&op->disk->pool->stalled, op);
    pool_kick(op->disk->pool);
}

/* Promised. */
static void write_promised(struct op *op)
{
    struct tree t = catalog_tree(op->disk->pool, op->disk->slot);

    if (op->edges) {
        get_bounce(op);
        read_begin(op);
        return;
    }
    op->blocks = op->source;
    /* A map that cannot be read must fail this request now, not the pool when the data has landed.
     */
    if (tree_lookup(op->disk->pool, &t, op->index, op->count, op->ptrs) < 0) {
        op_fail(op, -EIO);
        return;
    }
    write_data(op);
}

static void write_begin(struct op *op)
{
    if (promise(op, true))
        write_promised(op);
    else
        stall(op, write_begin);
}

/* ---- Zeroes ---- */

static bool zero_middle(struct op *op)
{
    struct pool *pool = op->disk->pool;
    uint64_t from = (op->req->offset + PX_BLOCK - 1) >> PX_BLOCK_SHIFT;
    uint64_t to = (op->req->offset + op->req->length) >> PX_BLOCK_SHIFT;
    struct tree t = catalog_tree(pool, op->disk->slot);
    struct px_zero *z;
    int ret;

    if (from >= to)
        return true;
    aim(op, from << PX_BLOCK_SHIFT, PX_BLOCK); /* what it promises: the path at each end */
    if (!promise(op, false))
        return false;
    redeem(op);
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
static void next_part(struct op *op)
{
    if (op->req->op == DISK_WRITE) {
        op_acked(op);
        return;
    }
    if (op->part < op->parts_n) {
        aim(op, op->parts[op->part].offset, op->parts[op->part].length);
        op->part++;
        op->source = NULL;
        write_begin(op);
        return;
    }
    if (!op->zero_done && !zero_middle(op)) {
        stall(op, next_part);
        return;
    }
    op->zero_done = true;
    op_acked(op);
}

static void find_parts(struct op *op)
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

/* ---- Entry ---- */

static void begin(struct op *op)
{
    struct disk_req *req = op->req;

    switch (req->op) {
    case DISK_READ:
        aim(op, req->offset, req->length);
        if (op->edges)
            get_bounce(op);
        else
            op->blocks = req->buf;
        read_begin(op);
        break;
    case DISK_WRITE:
        aim(op, req->offset, req->length);
        op->source = req->buf;
        write_begin(op);
        break;
    case DISK_ZERO:
    case DISK_DISCARD:
        next_part(op);
        break;
    case DISK_FLUSH:
        list_push(&op->disk->pool->flush_next, op);
        pool_kick(op->disk->pool);
        break;
    }
}

void disk_submit(struct disk *disk, struct disk_req *req)
{
    struct pool *pool = disk->pool;
    uint64_t size = catalog_record(pool, disk->slot)->size;
    struct op *op = op_new(disk, req);
    bool changes = req->op != DISK_READ && req->op != DISK_FLUSH;

    if (req->offset > size || req->length > size - req->offset ||
        (!changes && req->op == DISK_READ && req->length > DISK_MAX_BLOCKS * PX_BLOCK) ||
        (req->op == DISK_WRITE && req->length > DISK_MAX_BLOCKS * PX_BLOCK)) {
        op_fail(op, -EINVAL);
    } else if (changes && disk->read_only) {
        op_fail(op, -EROFS);
    } else if (pool->failed && req->op != DISK_READ) {
        op_fail(op, -EIO);
    } else if (req->length == 0 && req->op != DISK_FLUSH) {
        op_done(op);
    } else {
        if (req->op == DISK_ZERO || req->op == DISK_DISCARD)
            find_parts(op);
        if (req->op == DISK_WRITE && pool->stalled.head)
            stall(op, begin); /* behind those that came first; what gives space back may pass */
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

static void flush_done(struct store_io *sio, int result)
{
    struct pool *pool = container_of(sio, struct pool, flush_io);

    pool->flushing = false;
    if (result < 0)
        pool_fail(pool, result, "a flush failed");
    else
        pool->journal.flushed = MAX(pool->journal.flushed, pool->flush_seq);
    complete_all(list_take_all(&pool->flush_now), pool->failed ? -EIO : 0);
    pool_kick(pool);
}

static void flush_begin(struct pool *pool)
{
    pool->flush_now = (struct request_list){0};
    for (struct op *op = list_take_all(&pool->flush_next), *next; op; op = next) {
        next = op->next;
        list_push(&pool->flush_now, op);
    }
    if (pool->o.read_only) {
        complete_all(list_take_all(&pool->flush_now), 0);
        return;
    }
    if (journal_seal(pool, &pool->flush_seq) < 0 || pool->failed) {
        complete_all(list_take_all(&pool->flush_now), -EIO);
        return;
    }
    pool->flushing = true;
    pool->flush_io.done = flush_done;
    pool->store->flush(pool->store, &pool->flush_io);
}

void io_turn(struct pool *pool)
{
    int ret = journal_put(pool);

    complete_all(list_take_all(&pool->acked), ret < 0 || pool->failed ? -EIO : 0);
    if (!pool->flushing && pool->flush_next.head)
        flush_begin(pool);
}

bool io_stalled(const struct pool *pool)
{
    return pool->stalled.head != NULL;
}

void io_resume(struct pool *pool)
{
    struct op *op = list_take_all(&pool->stalled), *next;

    for (; op; op = next) {
        next = op->next;
        if (pool->failed)
            op_fail(op, -EIO);
        else
            op->again(op);
        if (pool->stalled.head)
            break; /* it waits again, as the first of the line */
    }
    for (op = op ? next : NULL; op; op = next) {
        next = op->next;
        list_push(&pool->stalled, op);
    }
}

void disk_cancel_held(struct disk *disk, int error)
{
    struct pool *pool = disk->pool;
    struct op *op = list_take_all(&pool->stalled), *next;

    for (; op; op = next) {
        next = op->next;
        if (op->disk == disk)
            op_fail(op, error);
        else
            list_push(&pool->stalled, op);
    }
}
