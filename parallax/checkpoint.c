/* SPDX-License-Identifier: MIT */
/*
 * checkpoint.c - making a new root.
 *
 * Theory of operation: in one go, the catalogue's and the free maps' changed blocks get new places,
 * then all dirty nodes are written from the leaves up, each parent learning its children's
 * checksums. From then on they are clean, so whatever changes next moves to new addresses: the
 * state that the root will reach stays as it is while requests go on. A flush, the root, another
 * flush; then the journal before it is not needed, and what the old root alone reached may be used
 * again.
 */
#include "parallax/internal.h"

#define DIRTY_LIMIT 16384u
#define INTERVAL_NS DT_S(5)
#define ROOT_MAGIC  "PXroot\0"

static void resolve(struct pool *pool, struct px_ptr *ptr)
{
    const struct node *node;

    if (!(ptr_flags(*ptr) & PX_PTR_PENDING))
        return;
    node = node_peek(pool, ptr_addr(*ptr));
    CHECK(node && !node->dirty);
    *ptr = ptr_make(ptr_addr(*ptr), ptr_birth(*ptr), 0, node->crc);
}

static int write_node(struct pool *pool, struct node *node)
{
    int ret;

    if (node->level > 0)
        for (unsigned i = 0; i < PX_FANOUT; i++)
            resolve(pool, &node->ptrs[i]);
    else if (node->kind == TREE_PAST)
        for (unsigned i = 0; i < node->past.used; i++)
            resolve(pool, &node->past.entries[i].old);
    node->crc = crc32c(0, node->bytes, PX_BLOCK);
    ret = pool->store->put(pool->store, node->bytes, node->addr, 1);
    node_cleaned(pool, node);
    return ret;
}

static int write_nodes(struct pool *pool, enum tree_kind kind)
{
    int ret = 0;

    for (unsigned level = 0; level <= PX_MAX_LEVELS && ret == 0; level++) {
        struct list *dirty = &pool->nodes.dirty[kind][level];

        while (!list_empty(dirty) && ret == 0)
            ret = write_node(pool, list_entry(dirty->next, struct node, list));
    }
    return ret;
}

/* The records' roots are known by now. */
static int fill_catalog(struct pool *pool)
{
    struct catalog *c = &pool->catalog;
    struct tree t = pool_catalog_tree(pool);

    for (uint32_t i = 0; i < c->slots / PX_RECORDS; i++) {
        struct px_ptr ptr;
        struct node *page;
        int ret;

        if (!c->dirty[i])
            continue;
        for (unsigned r = 0; r < PX_RECORDS; r++)
            resolve(pool, &c->blocks[i][r].root);
        ret = tree_lookup(pool, &t, i, 1, &ptr);
        if (ret < 0)
            return ret;
        page = node_peek(pool, ptr_addr(ptr));
        CHECK(page && page->dirty);
        memcpy(page->bytes, c->blocks[i], PX_BLOCK);
        c->dirty[i] = false;
    }
    return 0;
}

int checkpoint_begin(struct pool *pool)
{
    int ret = journal_seal(pool, &pool->ckpt_journal);

    CHECK(pool->ckpt == CKPT_IDLE);
    ret = ret ?: catalog_checkpoint(pool);
    ret = ret ?: space_checkpoint(pool);
    ret = ret ?: write_nodes(pool, TREE_DISK);
    ret = ret ?: write_nodes(pool, TREE_PAST);
    ret = ret ?: write_nodes(pool, TREE_FORWARD);
    ret = ret ?: fill_catalog(pool);
    ret = ret ?: write_nodes(pool, TREE_CATALOG);
    ret = ret ?: write_nodes(pool, TREE_SPACE);
    if (ret < 0)
        return pool_fail(pool, ret, "a root cannot be made");
    resolve(pool, &pool->root.catalog);
    resolve(pool, &pool->root.spacemap);
    resolve(pool, &pool->forwards.root);
    pool->root.forwards = pool->forwards.root;
    pool->root.forward_levels = pool->forwards.levels;
    pool->root.shared = pool->forwards.shared;
    pool->root.relived = pool->forwards.relived;
    pool->root.blocks = pool->space.blocks;
    pool->root.used = pool->space.used;
    pool->changes = 0;
    pool->ckpt_time = dt_clock_ns();
    pool->ckpt = CKPT_BODY;
    return 0;
}

int checkpoint_root(struct pool *pool)
{
    struct px_root *root = &pool->root;
    uint64_t at;
    int ret;

    memcpy(root->magic, ROOT_MAGIC, sizeof(root->magic));
    root->version = root->features ? PX_ROOT_VERSION : PX_ROOT_PLAIN;
    memcpy(root->uuid, pool->uuid, sizeof(root->uuid));
    root->seq++;
    root->generation = pool->journal.generation;
    root->journal_seq = pool->ckpt_journal;
    root->crc = 0;
    root->crc = crc32c(0, root, sizeof(*root));
    at = PX_ROOT_AT + 2 * (root->seq % PX_ROOT_SLOTS);
    ret = pool->store->put(pool->store, root, at, 1);
    ret = ret ?: pool->store->put(pool->store, root, at + 1, 1);
    if (ret < 0)
        return pool_fail(pool, ret, "its root cannot be written");
    pin_written(pool, root);
    pool->ckpt = CKPT_ROOT;
    return 0;
}

void checkpoint_end(struct pool *pool)
{
    pool->ckpt = CKPT_IDLE;
    pool->journal.start = pool->ckpt_journal;
    pool->journal.flushed = MAX(pool->journal.flushed, pool->ckpt_journal);
    space_durable(pool);
    catalog_durable(pool);
    pin_durable(pool);
    io_resume(pool);
}

static void flushed(struct store_io *sio, int result)
{
    struct pool *pool = container_of(sio, struct pool, ckpt_io);

    if (result < 0) {
        pool_fail(pool, result, "a flush failed");
        pool->ckpt = CKPT_IDLE;
    } else if (pool->ckpt == CKPT_ROOT) {
        checkpoint_end(pool);
    } else if (checkpoint_root(pool) == 0) {
        pool->store->flush(pool->store, &pool->ckpt_io);
    } else {
        pool->ckpt = CKPT_IDLE;
    }
    pool_kick(pool);
}

static bool is_time(const struct pool *pool)
{
    const struct journal *j = &pool->journal;

    if (j->seq - j->start > j->blocks / 2 || pool->nodes.dirty_count > DIRTY_LIMIT ||
        pool->space.pin == PIN_WANTED)
        return true;
    return pool->changes && dt_clock_ns() - pool->ckpt_time > INTERVAL_NS;
}

void checkpoint_maybe(struct pool *pool, bool now)
{
    if (pool->ckpt != CKPT_IDLE || pool->failed || pool->o.read_only)
        return;
    if (!(now && (pool->changes || pool->space.pending)) && !is_time(pool))
        return;
    pool->ckpt_io.done = flushed;
    if (checkpoint_begin(pool) == 0)
        pool->store->flush(pool->store, &pool->ckpt_io);
}

int pool_checkpoint(struct pool *pool, struct dt_error *err)
{
    int ret = pool->failed;

    if (pool->o.read_only)
        return dt_fail(err, -EROFS, "%s was opened read-only", pool->store->name);
    if (ret == 0 && pool->ckpt != CKPT_IDLE)
        return dt_fail(err, -EAGAIN, "%s is busy writing its root: try again", pool->store->name);
    ret = ret ?: checkpoint_begin(pool);
    ret = ret ?: pool->store->sync(pool->store);
    ret = ret ?: checkpoint_root(pool);
    ret = ret ?: pool->store->sync(pool->store);
    if (ret < 0) {
        pool->ckpt = CKPT_IDLE;
        pool_fail(pool, ret, "a root cannot be made durable");
        return dt_fail(err, ret, "%s: its root cannot be written: %s", pool->store->name,
                       strerror(-ret));
    }
    checkpoint_end(pool);
    return 0;
}
