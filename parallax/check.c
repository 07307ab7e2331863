/* SPDX-License-Identifier: MIT */
/*
 * check.c - reading the whole pool and comparing what is reached with what is marked as in use.
 *
 * Theory of operation: from the root, every tree is gone through. A node that several trees share
 * is gone through once. For each block reached, a fingerprint of where it stands and what is said
 * of it (its index, birth and checksum) is kept: a block that is reached again must have the same
 * one, because what trees share stands at the same index. What is reached twice otherwise has two
 * owners. Blocks that are shared for their contents: check-forward.c. At the end the blocks reached and the free maps must agree. Each block of data is counted for
 * the disk whose line it was born in, and the counts must be what the disks are charged for.
 */
#include "parallax/check.h"

#include <stdarg.h>
#include <stdio.h>

void check_found(struct checking *k, uint64_t *counter, const char *fmt, ...)
{
    char text[256];
    va_list args;

    (*counter)++;
    if (!k->c->say)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    k->c->say(k->c->arg, text);
}

static uint32_t print_of(struct px_ptr ptr, unsigned kind, unsigned level, uint64_t index)
{
    uint64_t words[4] = {ptr.lo, ptr.hi, index, (uint64_t)kind << 8 | level};

    return crc32c(0, words, sizeof(words)) | 1;
}

/* True if it is reached for the first time. */
static bool reach(struct checking *k, struct px_ptr ptr, unsigned kind, unsigned level,
                  uint64_t index)
{
    uint32_t *print = &k->prints[ptr_addr(ptr)], now = print_of(ptr, kind, level, index);

    if (*print == 0) {
        *print = now;
        return true;
    }
    if (*print != now)
        check_found(k, &k->c->doubly, "block %llu has two owners; one is %s",
                    (unsigned long long)ptr_addr(ptr), k->where);
    return false;
}

/* Lines of descent may be damaged; they are acyclic (catalog.c), but for the origins of disks. */
static void count_charge(struct checking *k, struct px_ptr ptr)
{
    const struct px_record *r = catalog_record(k->pool, k->slot);
    uint32_t disk = k->slot;

    for (uint32_t i = 0; i < k->pool->catalog.slots; i++) {
        if (r->kind == PX_SNAPSHOT)
            disk = r->parent;
        r = catalog_record(k->pool, disk);
        if (ptr_birth(ptr) > r->origin_epoch || !r->parent)
            break;
        r = catalog_record(k->pool, r->parent - 1);
    }
    k->charges[disk]++;
}

static void check_past(struct checking *k, const struct px_past *page);

static void check_data(struct checking *k, struct px_ptr ptr, uint64_t index)
{
    int ret;

    k->c->blocks++;
    count_charge(k, ptr);
    if (!k->c->data)
        return;
    ret = k->pool->store->get(k->pool->store, k->buffer, ptr_addr(ptr), 1);
    if (ret < 0)
        check_found(k, &k->c->damaged, "%s: block %llu at %llu bytes cannot be read: %s", k->where,
                    (unsigned long long)ptr_addr(ptr),
                    (unsigned long long)(index << PX_BLOCK_SHIFT), strerror(-ret));
    else if (crc32c(0, k->buffer, PX_BLOCK) != ptr_crc(ptr))
        check_found(k, &k->c->damaged, "%s: block %llu at %llu bytes differs from its checksum",
                    k->where, (unsigned long long)ptr_addr(ptr),
                    (unsigned long long)(index << PX_BLOCK_SHIFT));
}

static void check_block(struct checking *k, struct px_ptr ptr, uint64_t index)
{
    int ret = -1;

    if (k->forwards)
        ret = check_forwarded(k, &ptr, print_of(ptr, TREE_DISK, 0, index));
    if (ret > 0 || (ret < 0 && reach(k, ptr, TREE_DISK, 0, index)))
        check_data(k, ptr, index);
}

/* @bottom: the level of what the tree maps, as far as it is kept in nodes: 0, or 1 for disks. */
static void check_tree(struct checking *k, struct px_ptr ptr, enum tree_kind kind, unsigned level,
                       uint64_t index)
{
    uint64_t span = tree_span(level);
    struct px_ptr ptrs[PX_FANOUT];
    struct node *node;

    if (ptr_hole(ptr) || (index + 1) * span <= k->cursor || ptr_birth(ptr) <= k->after)
        return;
    if (ptr_addr(ptr) < k->pool->space.first || ptr_addr(ptr) >= k->pool->space.blocks) {
        check_found(k, &k->c->damaged, "%s points outside of the pool", k->where);
        return;
    }
    if (level == 0 && kind == TREE_DISK) {
        check_block(k, ptr, index);
        return;
    }
    if (!reach(k, ptr, kind, level, index))
        return;
    k->c->nodes++;
    node_trim(k->pool);
    if (node_get(k->pool, ptr, kind, level, &node) < 0) {
        check_found(k, &k->c->damaged, "%s: the node in block %llu is damaged", k->where,
                    (unsigned long long)ptr_addr(ptr));
        return;
    }
    if (level == 0) {
        if (kind == TREE_PAST)
            check_past(k, &node->past);
        return;
    }
    memcpy(ptrs, node->ptrs, sizeof(ptrs));
    for (unsigned i = 0; i < PX_FANOUT; i++)
        check_tree(k, ptrs[i], kind, level - 1, index * PX_FANOUT + i);
}

/* What was replaced belongs to the entry, as far as it was born after the snapshot before it. */
static void check_past(struct checking *k, const struct px_past *page)
{
    struct px_past copy = *page; /* the node may be evicted on the way */

    for (unsigned i = 0; i < copy.used; i++) {
        const struct px_past_entry *e = &copy.entries[i];
        unsigned level = past_level(e);

        k->after = e->since;
        check_tree(k, e->old, TREE_DISK, level, past_index(e) >> (PX_FAN_SHIFT * level));
    }
    k->after = 0;
}

static uint64_t line_begins(const struct pool *pool, const struct px_record *r)
{
    return r->kind == PX_SNAPSHOT ? catalog_record(pool, r->parent)->origin_epoch : r->origin_epoch;
}

enum pass { LIVE, DYING, HALF_GONE, PASSES };

static enum pass pass_of(const struct px_record *r)
{
    return !(r->flags & PX_DYING) ? LIVE : r->cursor ? HALF_GONE : DYING;
}

/* Those that are being deleted come last: of a node that they share with others they may have only
 * a part. */
static void check_disks(struct checking *k, enum pass pass)
{
    char name[2 * PX_NAME];

    k->where = name;
    for (uint32_t slot = 0; slot < k->pool->catalog.slots; slot++) {
        const struct px_record *r = catalog_record(k->pool, slot);

        if (r->kind == PX_FREE || r->kind == PX_LOG || pass_of(r) != pass)
            continue;
        pool_full_name(k->pool, slot, name);
        k->slot = slot;
        /* What lies before the cursor is another's, or nobody's; and so is what its disk's origin had:
         * a disk that is being deleted keeps its origin no longer. */
        k->cursor = pass == LIVE ? 0 : r->cursor;
        k->after = pass == LIVE ? 0 : line_begins(k->pool, r);
        check_tree(k, r->root, TREE_DISK, r->levels, 0);
        k->cursor = k->after = 0;
        if (r->log)
            check_tree(k, catalog_record(k->pool, r->log - 1)->root, TREE_PAST,
                       catalog_record(k->pool, r->log - 1)->levels, 0);
        if (k->c->progress)
            k->c->progress(k->c->arg, slot + 1, k->pool->catalog.slots);
    }
    k->cursor = k->after = 0;
}

static void compare_charges(struct checking *k)
{
    for (uint32_t slot = 0; slot < k->pool->catalog.slots; slot++) {
        const struct px_record *r = catalog_record(k->pool, slot);

        if (r->kind == PX_DISK && r->charged != k->charges[slot])
            check_found(k, &k->c->mischarged, "%s is charged for %llu blocks and has %llu", r->name,
                        (unsigned long long)r->charged, (unsigned long long)k->charges[slot]);
    }
}

static int compare_maps(struct checking *k)
{
    const struct space *s = &k->pool->space;
    uint64_t used = s->first;

    for (uint64_t addr = s->first; addr < s->blocks; addr++) {
        int ret;
        bool marked = space_is_used(k->pool, addr, &ret), reached = k->prints[addr] != 0;

        if (ret < 0)
            return ret;
        used += marked;
        if (marked && !reached)
            check_found(k, &k->c->leaked,
                        "block %llu is marked as in use, and nothing points to it",
                        (unsigned long long)addr);
        if (reached && !marked)
            check_found(k, &k->c->unmarked, "block %llu is in use, and marked as free",
                        (unsigned long long)addr);
    }
    if (used != s->used)
        check_found(k, &k->c->damaged, "%llu blocks are marked as in use, but counted as %llu",
                    (unsigned long long)used, (unsigned long long)s->used);
    return 0;
}

int pool_check(struct pool *pool, struct pool_check *check, struct dt_error *err)
{
    struct checking k = {.pool = pool, .c = check};
    int ret = 0;

    if (!pool->o.read_only) /* so that all is on the store, and no pointer waits for its checksum */
        ret = pool_checkpoint(pool, err);
    if (ret < 0)
        return ret;
    k.prints = calloc(pool->space.blocks, sizeof(*k.prints));
    if (!k.prints)
        return dt_fail(err, -ENOMEM, "a check of %s needs %llu bytes of memory", pool->store->name,
                       (unsigned long long)(pool->space.blocks * sizeof(*k.prints)));
    k.charges = xcalloc(pool->catalog.slots + 1ull, sizeof(*k.charges));
    k.buffer = xaligned(PX_BLOCK, PX_BLOCK);
    k.forwards = check_forwards_new(pool);
    k.where = "the catalogue";
    check_tree(&k, pool->root.catalog, TREE_CATALOG, pool->root.catalog_levels, 0);
    k.where = "the free maps";
    check_tree(&k, pool->root.spacemap, TREE_SPACE, pool->root.spacemap_levels, 0);
    k.where = "the table of shared blocks";
    check_tree(&k, pool->forwards.root, TREE_FORWARD, MAX(pool->forwards.levels, 1), 0);
    for (enum pass pass = LIVE; pass < PASSES; pass++)
        check_disks(&k, pass);
    compare_charges(&k);
    check_forwards(&k);
    ret = compare_maps(&k);
    check_forwards_free(k.forwards);
    free(k.prints);
    free(k.charges);
    free(k.buffer);
    return ret < 0 ? dt_fail(err, ret, "%s: its free maps cannot be read", pool->store->name) : 0;
}
