/* SPDX-License-Identifier: MIT */
/*
 * fetch.c - nodes that requests wait for, so that the pool need not.
 *
 * Theory of operation: a map that is larger than the cache has its leaves read for most requests. A
 * request that finds one missing has the store read it and goes on when it is there; meanwhile others
 * begin, so as many leaves are read at once as there are requests. Who needs the same one waits for
 * the same read.
 *
 * The trees may change meanwhile: the node may have been moved, its block freed and even used again.
 * So what arrives does not enter the cache. It is held out (@arrived) while those who waited look again
 * from the root down; node_get() takes it if the pointer that they find now leads to it and tells its
 * checksum, and else reads for itself and judges what it finds. What nobody takes is forgotten.
 */
#include "parallax/io.h"

#define MOST_WAITS \
    (4 * PX_MAX_LEVELS) /* more are a sign of a cache too small for those that wait */

/** struct fetch - one node on its way. @failed: there is nothing in @block. */
struct fetch {
    struct store_io sio;
    struct pool *pool;
    struct fetch *next; /* in its bucket, or of free ones */
    uint64_t addr;
    struct request_list waiting;
    bool failed;
    uint32_t crc;
    uint8_t *block;
};

static struct fetch **place_of(struct pool *pool, uint64_t addr)
{
    struct fetch **at = &pool->fetches.bucket[addr % FETCH_BUCKETS];

    while (*at && (*at)->addr != addr)
        at = &(*at)->next;
    return at;
}

static struct fetch *fetch_new(struct pool *pool)
{
    struct fetch *f = pool->fetches.free;

    if (f) {
        pool->fetches.free = f->next;
        return f;
    }
    f = xcalloc(1, sizeof(*f));
    f->pool = pool;
    f->block = xaligned(PX_BLOCK, PX_BLOCK);
    return f;
}

static void arrived(struct store_io *sio, int result)
{
    struct fetch *f = container_of(sio, struct fetch, sio);
    struct pool *pool = f->pool;

    *place_of(pool, f->addr) = f->next;
    f->failed = result < 0;
    f->crc = f->failed ? 0 : crc32c(0, f->block, PX_BLOCK);
    pool->fetches.arrived = f;
    for (struct op *op = op_list_take_all(&f->waiting), *next; op; op = next) {
        next = op->next;
        op->again(op);
    }
    pool->fetches.arrived = NULL;
    f->next = pool->fetches.free;
    pool->fetches.free = f;
    node_trim(pool);
}

static void wait_for(struct op *op, uint64_t addr, void (*again)(struct op *op))
{
    struct pool *pool = op->disk->pool;
    struct fetch **at = place_of(pool, addr), *f = *at;

    op->again = again;
    op->disk->counters.map_reads++;
    if (f) {
        op_list_add(&f->waiting, op);
        return;
    }
    f = *at = fetch_new(pool);
    f->next = NULL;
    f->addr = addr;
    f->waiting = (struct request_list){0};
    f->sio.done = arrived;
    op_list_add(&f->waiting, op);
    pool->store->fetch(pool->store, &f->sio, f->block, addr, 1);
}

int op_lookup(struct op *op, void (*again)(struct op *op))
{
    struct disk *disk = op->disk;
    struct pool *pool = disk->pool;
    struct tree t = catalog_tree(pool, disk->slot);
    struct absent absent;
    int ret;

    op->evicted = pool->nodes.evicted;
    if (unlikely(disk->past || !pool->store->fetch || op->waits == MOST_WAITS)) {
        op->waits = 0;
        return disk_lookup(disk, op->index, op->count, op->ptrs);
    }
    ret = tree_look(pool, &t, op->index, op->count, op->ptrs, &absent);
    if (ret > 0) {
        op->waits++;
        wait_for(op, ptr_addr(absent.ptr), again);
        return ret;
    }
    op->waits = 0;
    if (unlikely(pool->root.features))
        ret = ret ?: forward_follow_marked(pool, op->count, op->ptrs);
    return ret;
}

bool fetch_possible(const struct pool *pool, struct px_ptr ptr)
{
    const struct fetch *f = pool->fetches.arrived;

    return !(f && f->addr == ptr_addr(ptr)) && node_on_store(pool, ptr);
}

bool fetch_take(struct pool *pool, struct px_ptr ptr, void *block)
{
    const struct fetch *f = pool->fetches.arrived;

    if (!f || f->failed || f->addr != ptr_addr(ptr) || f->crc != ptr_crc(ptr))
        return false;
    memcpy(block, f->block, PX_BLOCK);
    return true;
}

void fetch_fini(struct pool *pool)
{
    for (struct fetch *f = pool->fetches.free, *next; f; f = next) {
        next = f->next;
        free(f->block);
        free(f);
    }
    pool->fetches.free = NULL;
}
