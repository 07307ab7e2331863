/* SPDX-License-Identifier: MIT */
/*
 * checkpoint.c - making a new root, while requests go on.
 *
 * Theory of operation: a root reaches the state of one moment, but takes much longer to make. So it is made in slices, one in each
 * turn of the pool, of some hundred microseconds:
 *
 * 1. Prepare: blocks of the catalogue and of the free maps that changed get new places in their trees.
 * 2. Freeze, the moment: the rest of these, and copies of the catalogue's blocks; the journal begins another block; a new
 *    generation of nodes begins (node.c). Its work depends on what changed since 1. and not on how many nodes are dirty.
 * 3. Write: all frozen nodes are handed to the store from the leaves up, each parent learning its children's checksums.
 *    Requests go on; what they change of frozen nodes they copy first, as they copy what a snapshot has, and free
 *    maps that they change are put into their pages before (space.c).
 * 4. When all have landed: a flush, the root, another flush. Then the journal before the moment is not needed.
 * 5. Release: what the old root alone reached may be given out again.
 *
 * A crash before the second flush has ended finds the old root and the journal since, which nothing of this
 * touched; after it, the new one. Recovery knows nothing of slices. The root that ends one is made in this way, too (reopen.c).
 *
 * Where the store has no space for a node, or for the root itself, which spare.c is to prevent, the root waits and tries
 * that again. Nothing is lost meanwhile: the journal has all.
 *
 * The same steps make a root at once where somebody waits for it (pool_checkpoint()).
 */
#include "parallax/internal.h"

#define DIRTY_LIMIT 16384u
#define INTERVAL_NS DT_S(5)
#define ROOT_MAGIC  "PXroot\0"
#define SLICE       64u   /* nodes a turn: about 100 us */
#define LARGE_SLICE 1024u /* where requests wait for the root, or are faster than it */
#define BATCHES     8u
#define BATCH       32u /* blocks */

/** struct batch - consecutive nodes on their way to the store. */
struct batch {
    struct store_io sio;
    struct pool *pool;
    struct batch *next;
    uint8_t *blocks;
    uint64_t addr;
    unsigned count;
};

/* ---- Batches ---- */

static void landed(struct pool *pool);

static void make_batches(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;

    c->memory = xaligned(PX_BLOCK, (size_t)BATCHES * BATCH * PX_BLOCK);
    c->batches = xcalloc(BATCHES, sizeof(*c->batches));
    for (unsigned i = 0; i < BATCHES; i++) {
        c->batches[i].pool = pool;
        c->batches[i].blocks = c->memory + (size_t)i * BATCH * PX_BLOCK;
        c->batches[i].next = c->free;
        c->free = &c->batches[i];
    }
}

void checkpoint_fini(struct pool *pool)
{
    free(pool->ckpt.memory);
    free(pool->ckpt.batches);
}

static void wait_for_space(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;

    spare_shortage(pool);
    c->waits = true;
    c->retry_at = pool->space.spare.retry_at;
}

static void saved(struct store_io *sio, int result)
{
    struct batch *b = container_of(sio, struct batch, sio);
    struct pool *pool = b->pool;
    struct checkpoint *c = &pool->ckpt;

    if (unlikely(store_is_full(result))) {
        b->next = c->again;
        c->again = b;
        wait_for_space(pool);
    } else {
        b->next = c->free;
        c->free = b;
        c->error = c->error ?: result;
    }
    if (--c->under_way == 0 && c->state == CKPT_LAND && !c->again)
        landed(pool);
    pool_kick(pool);
}

static void hand_over(struct pool *pool, struct batch *b)
{
    struct checkpoint *c = &pool->ckpt;

    c->under_way++;
    b->sio.done = saved;
    if (c->blocking)
        saved(&b->sio, pool->store->put(pool->store, b->blocks, b->addr, b->count));
    else
        pool->store->save(pool->store, &b->sio, b->blocks, b->addr, b->count);
}

static void submit(struct pool *pool)
{
    struct batch *b = pool->ckpt.open;

    pool->ckpt.open = NULL;
    if (b)
        hand_over(pool, b);
}

static void try_again(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;
    struct batch *b = c->again, *next;

    c->again = NULL;
    c->waits = false;
    for (; b; b = next) {
        next = b->next;
        hand_over(pool, b);
    }
}

/* There is a free one. */
static void add(struct pool *pool, const struct node *node)
{
    struct checkpoint *c = &pool->ckpt;
    struct batch *b = c->open;

    if (b && (b->count == BATCH || node->addr != b->addr + b->count)) {
        submit(pool);
        b = NULL;
    }
    if (!b) {
        b = c->open = c->free;
        c->free = b->next;
        b->addr = node->addr;
        b->count = 0;
    }
    memcpy(b->blocks + (size_t)b->count++ * PX_BLOCK, node->bytes, PX_BLOCK);
}

/* ---- Steps: 1: there is more to do; 0: something is waited for, or all is done ---- */

static int freeze(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;
    struct px_root *root = &c->root;
    int ret = journal_seal(pool, &c->journal);

    ret = ret ?: catalog_freeze(pool);
    ret = ret ?: space_freeze(pool);
    if (ret < 0)
        return ret;
    node_freeze(pool);
    *root = pool->root;
    memcpy(root->magic, ROOT_MAGIC, sizeof(root->magic));
    root->version = root->branched   ? PX_ROOT_BRANCH
                    : root->features ? PX_ROOT_SHARES
                                     : PX_ROOT_PLAIN;
    memcpy(root->uuid, pool->uuid, sizeof(root->uuid));
    root->seq++;
    root->generation = pool->journal.generation;
    root->journal_seq = c->journal;
    root->forwards = pool->forwards.root;
    root->forward_levels = pool->forwards.levels;
    root->shared = pool->forwards.shared;
    root->relived = pool->forwards.relived;
    root->blocks = pool->space.blocks;
    root->used = pool->space.used;
    pool->changes = 0;
    c->begun = dt_clock_ns();
    c->kind = TREE_DISK;
    c->cursor = 0;
    c->state = CKPT_WRITE;
    return 1;
}

static int prepare(struct pool *pool, unsigned *budget)
{
    int ret = catalog_prepare(pool, &pool->ckpt.cursor, budget);

    ret = ret ?: space_prepare(pool, budget);
    return ret ?: freeze(pool);
}

/* The order of kinds: histories point into trees of disks, the catalogue to all of these. What the free maps' pages hold was
 * decided by the freeze. */
static int write_nodes(struct pool *pool, unsigned *budget)
{
    struct checkpoint *c = &pool->ckpt;

    for (; c->kind < TREE_KINDS; c->kind++) {
        const struct node *node = NULL;

        if (c->kind == TREE_SPACE && space_capture(pool, budget))
            return 1;
        while (*budget && c->free && (node = node_next_frozen(pool, c->kind)) != NULL) {
            add(pool, node);
            --*budget;
        }
        if (!c->free)
            return 0;
        if (!*budget)
            return 1;
    }
    if (catalog_resolve(pool, &c->cursor, budget))
        return 1;
    submit(pool);
    past_views_resolve(pool);
    node_thaw(pool);
    node_resolve(pool, &pool->root.catalog);
    node_resolve(pool, &pool->root.spacemap);
    node_resolve(pool, &pool->forwards.root);
    c->root.catalog = pool->root.catalog;
    c->root.spacemap = pool->root.spacemap;
    node_resolve(pool, &c->root.forwards);
    c->state = CKPT_LAND;
    if (c->under_way == 0 && !c->again && !c->blocking)
        landed(pool);
    return 0;
}

static int release(struct pool *pool, unsigned *budget)
{
    struct checkpoint *c = &pool->ckpt;

    if (space_durable(pool, budget) || node_sweep(pool, *budget))
        return 1;
    catalog_durable(pool);
    c->state = CKPT_IDLE;
    pin_durable(pool);
    io_resume(pool);
    pool_kick(pool);
    return 0;
}

static int step(struct pool *pool, unsigned *budget)
{
    switch (pool->ckpt.state) {
    case CKPT_PREPARE:
        return prepare(pool, budget);
    case CKPT_WRITE:
        return write_nodes(pool, budget);
    case CKPT_RELEASE:
        return release(pool, budget);
    default:
        return 0;
    }
}

/* ---- Flushes and the root ---- */

static void fail(struct pool *pool, int error, const char *what)
{
    pool_fail(pool, error, what);
    pool->ckpt.state = CKPT_IDLE;
    pool->ckpt.waits = false;
}

int checkpoint_put(struct pool *pool)
{
    struct px_root *root = &pool->ckpt.root;

    root->crc = 0;
    root->crc = crc32c(0, root, sizeof(*root));
    pool->root.seq = root->seq;
    return pool->store->commit(pool->store, root, root->seq);
}

static int put_root(struct pool *pool)
{
    const struct px_root *root = &pool->ckpt.root;
    int ret = checkpoint_put(pool);

    if (store_is_full(ret)) {
        pool->ckpt.state = CKPT_LAND;
        wait_for_space(pool);
        return ret;
    }
    pin_written(pool, root);
    pool->ckpt.state = CKPT_ROOT;
    return ret;
}

static void root_durable(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;

    pool->journal.start = c->journal;
    pool->journal.flushed = MAX(pool->journal.flushed, c->journal);
    pool->times.root = MAX(pool->times.root, dt_clock_ns() - c->begun);
    c->state = CKPT_RELEASE;
    pool->recovery.rootless = false;
}

/* What another flush was for that failed is lost, though it may have been told to that one alone: a node perhaps. */
static void flushed(struct store_io *sio, int result)
{
    struct pool *pool = container_of(sio, struct pool, ckpt.io);

    pool_times_flush(pool, pool->ckpt.flush_begun);
    result = pool->failed ?: result;
    if (result == 0 && pool->ckpt.state == CKPT_ROOT) {
        root_durable(pool);
    } else if (result == 0 && store_is_full(result = put_root(pool))) {
        pool_kick(pool);
        return;
    } else if (result < 0) {
        fail(pool, result, "a root cannot be made durable");
    } else {
        pool->ckpt.flush_begun = dt_clock_ns();
        pool->store->flush(pool->store, &pool->ckpt.io);
    }
    pool_kick(pool);
}

/* All nodes are where the root will have them. */
static void landed(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;

    if (c->blocking)
        return;
    if (c->error || pool->failed) {
        fail(pool, c->error ?: pool->failed, "a root's nodes cannot be written");
        return;
    }
    c->state = CKPT_BODY;
    c->io.done = flushed;
    c->flush_begun = dt_clock_ns();
    pool->store->flush(pool->store, &c->io);
}

/* ---- When ---- */

static uint64_t dirty_limit(const struct pool *pool)
{
    return pool->o.dirty ?: DIRTY_LIMIT;
}

static unsigned slice(const struct pool *pool)
{
    if (pool->o.slice)
        return pool->o.slice;
    return io_stalled(pool) || pool->nodes.dirty_count > DIRTY_LIMIT ? LARGE_SLICE : SLICE;
}

/* What was written over can be used again after a root: until then the pool grows. */
static uint64_t most_pending(const struct pool *pool)
{
    return pool->space.used / 4 + PX_GROUP_BLOCKS / 2;
}

static bool is_time(const struct pool *pool)
{
    const struct journal *j = &pool->journal;

    if (j->seq - j->start > j->blocks / 2 || pool->nodes.dirty_count > dirty_limit(pool) ||
        pool->space.pin == PIN_WANTED || pool->recovery.rootless ||
        pool->space.pending > most_pending(pool) || (spare_tight(pool) && pool->changes))
        return true;
    return pool->changes && dt_clock_ns() - pool->ckpt.begun > INTERVAL_NS;
}

static void begin(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;

    if (!c->batches)
        make_batches(pool);
    c->state = CKPT_PREPARE;
    c->cursor = 0;
    c->error = 0;
}

bool checkpoint_turn(struct pool *pool, bool now)
{
    struct checkpoint *c = &pool->ckpt;
    uint64_t since;
    unsigned budget;
    int ret = 0;

    if (pool->failed || pool->o.read_only)
        return false;
    if (c->state == CKPT_IDLE) {
        if (!(now && (pool->changes || pool->space.pending)) && !is_time(pool))
            return false;
        begin(pool);
    }
    since = dt_clock_ns();
    if (unlikely(c->waits) && since >= c->retry_at) {
        try_again(pool);
        if (c->state == CKPT_LAND && c->under_way == 0 && !c->again)
            landed(pool);
    }
    budget = slice(pool);
    while (budget && (ret = step(pool, &budget)) > 0)
        ;
    if (ret < 0)
        fail(pool, ret, "a root cannot be made");
    pool->times.slice = MAX(pool->times.slice, dt_clock_ns() - since);
    return ret > 0;
}

/* ---- At once ---- */

/* From where it is: nothing of it is under way. */
static int finish(struct pool *pool)
{
    struct checkpoint *c = &pool->ckpt;
    unsigned all = UINT32_MAX;
    int ret = 1;

    c->blocking = true;
    if (c->waits)
        try_again(pool);
    while (ret > 0)
        ret = step(pool, &all);
    if (c->again) {
        ret = ret ?: -ENOSPC;
    } else if (c->state == CKPT_LAND) {
        ret = ret ?: c->error;
        ret = ret ?: pool->store->sync(pool->store);
        ret = ret ?: put_root(pool);
        ret = ret ?: pool->store->sync(pool->store);
        if (ret == 0) {
            root_durable(pool);
            release(pool, &all);
        }
    }
    c->blocking = false;
    if (ret < 0 && !c->waits)
        fail(pool, ret, "a root cannot be made durable");
    return ret;
}

bool checkpoint_under_way(const struct pool *pool)
{
    const struct checkpoint *c = &pool->ckpt;

    return c->under_way || (c->state == CKPT_LAND && !c->waits) || c->state == CKPT_BODY ||
           c->state == CKPT_ROOT;
}

uint64_t checkpoint_waits(const struct pool *pool)
{
    uint64_t now;

    if (likely(!pool->ckpt.waits))
        return 0;
    now = dt_clock_ns();
    return pool->ckpt.retry_at > now ? pool->ckpt.retry_at - now : 1;
}

int pool_checkpoint(struct pool *pool, struct dt_error *err)
{
    int ret = pool->failed;

    if (pool->o.read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    if (ret == 0 && checkpoint_under_way(pool))
        return dt_fail(err, -EAGAIN, "%s is busy writing its root: try again", pool->store->name);
    if (ret == 0 && pool->ckpt.state > CKPT_PREPARE)
        ret = finish(pool);
    if (ret == 0) {
        begin(pool);
        ret = finish(pool);
    }
    if (ret < 0 && pool->ckpt.waits)
        return dt_fail(err, ret,
                       "the file system of %s is full: make space beside it, or delete something "
                       "in the pool",
                       pool->store->name);
    return ret < 0 ? dt_fail(err, ret, "%s: its root cannot be written: %s", pool->store->name,
                             strerror(-ret))
                   : 0;
}
