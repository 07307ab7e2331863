/* SPDX-License-Identifier: MIT */
/*
 * io-common.c - reads of blocks that several disks have in common go through the pool's data cache.
 *
 * Theory of operation: what a labelled snapshot has, its disk and all clones of it have in common, and that is what
 * was born up to its epoch: so one comparison of each pointer tells. Blocks that were merged are marked
 * by forward_follow_marked(). All else one disk alone reads, and whoever reads it keeps it: that goes past the cache (io-read.c).
 *
 * Of a request's blocks some may be in the cache; some are being read by others, each of which is waited for; and the rest
 * is read, consecutive ones together. Those of the rest that others may wait for are handed on as soon as their own transfer
 * has landed, so two requests that wait for each other's blocks do not wait for ever.
 *
 * A block that differs from its checksum goes to nobody. All who wanted it read it again for themselves, as if there were no cache.
 */
#include "parallax/io.h"

#define LOOK_BACK 4096u /* snapshots: opening a disk takes no time in the order of all it has */

/* ---- What is in common ---- */

static uint64_t labelled_up_to(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);
    uint32_t at = r->kind == PX_SNAPSHOT ? slot + 1 : r->prev;

    for (unsigned looked = 0; at && looked < LOOK_BACK; looked++) {
        const struct px_record *s = catalog_record(pool, at - 1);

        if (s->flags & PX_LABELLED)
            return s->epoch;
        at = s->prev;
    }
    return 0;
}

static uint32_t line_of(const struct pool *pool, uint32_t slot)
{
    const struct px_record *r = catalog_record(pool, slot);

    return r->kind == PX_SNAPSHOT ? r->parent : slot;
}

void common_mounted(struct disk *disk)
{
    const struct pool *pool = disk->pool;

    disk->common = MAX(catalog_record(pool, line_of(pool, disk->slot))->origin_epoch,
                       labelled_up_to(pool, disk->slot));
}

/* It stays so for those that are mounted when the label is taken away: that costs nothing but memory. */
void common_labelled(struct pool *pool, uint32_t snapshot)
{
    uint64_t epoch = catalog_record(pool, snapshot)->epoch;

    list_for_each (it, &pool->disks) {
        struct disk *d = list_entry(it, struct disk, list);

        if (line_of(pool, d->slot) == line_of(pool, snapshot) && d->record->epoch >= epoch)
            d->common = MAX(d->common, epoch);
    }
}

static bool is_common(const struct op *op, struct px_ptr ptr)
{
    return !ptr_hole(ptr) &&
           (ptr_birth(ptr) <= op->disk->common || (ptr_flags(ptr) & PX_PTR_MERGED));
}

static bool any_common(const struct op *op)
{
    for (uint32_t i = 0; i < op->count; i++)
        if (is_common(op, op->ptrs[i]))
            return true;
    return false;
}

/* ---- Reading ---- */

static void set_known(struct op *op, uint32_t i)
{
    op->known[i / 64] |= (uint64_t)1 << (i % 64);
}

static struct run *run_of(const struct part_io *io)
{
    return &io->op->run[io - io->op->ios];
}

/* Somebody else has read a block for this one, or could not. */
static void waited(struct store_io *sio, int result)
{
    const struct part_io *io = container_of(sio, struct part_io, sio);

    if (result == 0)
        set_known(io->op, run_of(io)->first);
    else
        io->op->alone = true;
    op_read_part(io->op, 0);
}

static void hand_on(struct op *op, uint32_t i, bool landed)
{
    const uint8_t *bytes = op->blocks + (size_t)i * PX_BLOCK;
    bool good = landed && crc32c(0, bytes, PX_BLOCK) == ptr_crc(op->ptrs[i]);

    if (good)
        set_known(op, i);
    data_cache_filled(op->cache, op->fills[i], good ? bytes : NULL);
}

static void landed(struct store_io *sio, int result)
{
    const struct part_io *io = container_of(sio, struct part_io, sio);
    const struct run *run = run_of(io);
    struct op *op = io->op;

    for (uint32_t i = run->first; i < run->first + run->count; i++)
        if (op->fills[i])
            hand_on(op, i, result == 0);
    op_read_part(op, result);
}

/* Block @i, as far as that needs no transfer. True: it does. */
static bool look(struct op *op, uint32_t i)
{
    struct part_io *io = &op->ios[op->runs];

    op->fills[i] = 0;
    if (!is_common(op, op->ptrs[i]))
        return !ptr_hole(op->ptrs[i]);
    io->op = op;
    io->sio.done = waited;
    io->sio.iov = (struct iovec){op->blocks + (size_t)i * PX_BLOCK, PX_BLOCK};
    switch (data_cache_get(op->cache, ptr_addr(op->ptrs[i]), ptr_crc(op->ptrs[i]), &io->sio,
                           &op->fills[i])) {
    case CACHE_HIT:
        set_known(op, i);
        return false;
    case CACHE_WAIT:
        op->run[op->runs++] = (struct run){0, i, 1};
        return false;
    default:
        return true;
    }
}

/* Apart from the question whether there is anything to do, which is asked much more often. Between the runs that are
 * read are those without an address, of blocks that are waited for. */
static __attribute__((noinline)) void read_parts(struct op *op)
{
    op->cache = op->disk->pool->data_cache;
    memset(op->known, 0, sizeof(op->known));
    op->runs = 0;
    for (uint32_t i = 0; i < op->count; i++)
        if (look(op, i))
            op_add_read(op, i);
    op_read_runs(op, landed);
}

bool op_read_common(struct op *op)
{
    if (!any_common(op))
        return false;
    read_parts(op);
    return true;
}

/* ---- The cache ---- */

int pool_set_data_cache(struct pool *pool, uint64_t bytes, struct dt_error *err)
{
    struct data_cache *cache = NULL;
    int ret = 0;

    if (bytes && (bytes < DATA_CACHE_LEAST || bytes > DATA_CACHE_MOST))
        return dt_fail(err, -EINVAL, "a data cache has 64K to 1T, or is off (0)");
    if (bytes)
        ret = data_cache_new(&cache, bytes, &pool->cached, &pool->data_caches);
    if (ret < 0)
        return dt_fail(err, ret, "there is no memory for a data cache of %llu bytes",
                       (unsigned long long)bytes);
    data_cache_retire(pool->data_cache);
    pool->data_cache = cache;
    pool->o.data_cache = bytes;
    return 0;
}

void pool_data_cache(const struct pool *pool, struct pool_data_cache *cache)
{
    const struct data_cache *c = pool->data_cache;

    *cache = (struct pool_data_cache){.bytes = pool->o.data_cache, .counters = pool->cached};
    if (!c)
        return;
    cache->most = data_cache_most(c);
    cache->held = data_cache_held(c);
}
